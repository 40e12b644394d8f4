"use strict";
// The report's own script: sortable tables, and the viewer of single cases. What a case looks like is decoded when
// it is opened, not before: the page of many cases is quick to open.

const byId = (id) => document.getElementById(id);

// Tables: a click on a column's heading sorts by it, a second click turns the order round. What is undefined stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) =>
    heading.querySelector("button")?.addEventListener("click", () => {
      const first = heading.dataset.first || "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      const body = table.tBodies[0];
      const valueOf = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [left, right] = [valueOf(a), valueOf(b)];
        if (left === "" || right === "") return (left === "") - (right === "");
        const way = order === "ascending" ? 1 : -1;
        const numbers = heading.dataset.kind === "number";
        return way * (numbers ? left - right : left.localeCompare(right, undefined, { numeric: true }));
      };
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      body.append(...[...body.rows].sort(compare));
    }),
  );
}

// The viewer.
const settings = JSON.parse(byId("viewer-settings").textContent);
const dialog = byId("viewer");
let making = null; // the promise of the viewer, from the first case on
let niivue = null; // the viewer, once it is made
let overlay = null; // the volume of the masks, and its bits as they came
let bits = null;
let current = 0;
let asked = 0; // how often a case was asked for: only the last one may be drawn

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function makeViewer() {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL2");
  const packed = new Blob([bytesOf(byId("niivue").textContent)]);
  const script = document.createElement("script");
  script.textContent = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
  const viewer = new window.niivue.Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    multiplanarShowRender: 0,
    multiplanarPadPixels: 4,
    dragAndDropEnabled: false,
    showAllOrientationMarkers: true,
    fontColor: [1, 1, 1, 1],
    crosshairColor: [0.94, 0.89, 0.26, 0.8],
    crosshairWidth: 0.3,
    crosshairGap: 8,
    loadingText: "",
    logLevel: "error",
  });
  await viewer.attachToCanvas(byId("viewer-canvas"));
  viewer.onLocationChange = () => showSlice(viewer);
  viewer.setSliceType(Number(byId("viewer-planes").value));
  // While the dialog is closed, the canvas has no size; opened again, it gets one, and is drawn, a moment later.
  const [draw, canvas] = [viewer.drawScene.bind(viewer), byId("viewer-canvas")];
  viewer.drawScene = () => (canvas.clientWidth && canvas.width ? draw() : undefined);
  return viewer;
}

function showSlice(viewer) {
  if (!viewer.volumes.length) return;
  const depth = viewer.volumes[0].hdr.dims[3];
  const slice = Math.round(viewer.frac2vox(viewer.scene.crosshairPos)[2]);
  byId("viewer-slice").max = depth - 1;
  byId("viewer-slice").value = slice;
  byId("viewer-number").textContent = `${slice + 1} of ${depth}`;
}

// The voxel to begin with: in the axial slice with most of the reference (else of a prediction), the lesion voxel
// nearest to the middle of that slice's lesions.
function middleOfLesion(image) {
  const [, width, height, depth] = image.hdr.dims;
  for (const mask of [1, 2, 4]) {
    let best = [];
    for (let k = 0; k < depth; k++) {
      const found = [];
      for (let j = 0, at = k * width * height; j < height; j++)
        for (let i = 0; i < width; i++, at++) if (bits[at] & mask) found.push([i, j, k]);
      if (found.length > best.length) best = found;
    }
    if (!best.length) continue;
    const middle = [0, 1].map((axis) => best.reduce((sum, voxel) => sum + voxel[axis], 0) / best.length);
    const distance = (voxel) => (voxel[0] - middle[0]) ** 2 + (voxel[1] - middle[1]) ** 2;
    return best.reduce((near, voxel) => (distance(voxel) < distance(near) ? voxel : near));
  }
  return [width, height, depth].map((size) => Math.floor(size / 2));
}

function labels() {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  const regions = settings.legends.at(-1); // a region's colour is the same in all of them
  for (let value = 1; value < 8; value++) {
    const region = regions.find((entry) => entry.bits === value);
    const colour = region ? region.colour : "#000000";
    table.R.push(parseInt(colour.slice(1, 3), 16));
    table.G.push(parseInt(colour.slice(3, 5), 16));
    table.B.push(parseInt(colour.slice(5, 7), 16));
    table.A.push(region ? 255 : 0);
    table.I.push(value);
    table.labels.push("");
  }
  return table;
}

const boxes = settings.masks.map((name, n) => {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: 1 << n });
  box.addEventListener("change", showMasks);
  label.append(box, ` ${name}`);
  byId("viewer-masks").append(label);
  return box;
});

function showLegend(regions) {
  byId("viewer-legend").replaceChildren(
    ...regions.map(({ name, colour }) => {
      const entry = document.createElement("li");
      const patch = document.createElement("span");
      patch.style.background = colour;
      entry.append(patch, name);
      return entry;
    }),
  );
}

function showMasks() {
  if (!overlay) return;
  const shown = boxes.reduce((sum, box) => sum + (box.checked ? Number(box.value) : 0), 0);
  showLegend(settings.legends[shown]);
  for (let at = 0; at < bits.length; at++) overlay.img[at] = bits[at] & shown;
  niivue.updateGLVolume();
}

// Either the viewer and its tools, or the still picture.
function showViewer(runs) {
  byId("viewer-stage").hidden = byId("viewer-tools").hidden = !runs;
  byId("viewer-static").hidden = runs;
}

async function show(number) {
  const turn = ++asked;
  delete dialog.dataset.shows; // hides the case before, which is not that of the new title
  current = (number + settings.cases.length) % settings.cases.length;
  const entry = settings.cases[current];
  const data = JSON.parse(byId(`case-${current}`).textContent);
  byId("viewer-title").textContent = entry.name;
  byId("viewer-note").textContent = entry.note;
  byId("viewer-picture").src = `data:image/webp;base64,${data.planes}`;
  byId("viewer-picture").alt = `${entry.name}: the three slices with most lesion, outlines of ${settings.masks.join(", ")}`;
  if (!dialog.open) dialog.showModal();
  try {
    making ??= makeViewer();
    niivue = await making;
    const { NVImage } = window.niivue;
    const grey = await NVImage.loadFromBase64({ base64: data.grey, name: "image.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 });
    const masks = await NVImage.loadFromBase64({ base64: data.masks, name: "masks.nii.gz", opacity: Number(byId("viewer-opacity").value) });
    if (turn !== asked) return;
    showViewer(true);
    for (const old of [...niivue.volumes].reverse()) niivue.removeVolume(old);
    overlay = masks;
    bits = masks.img.slice();
    masks.setColormapLabel(labels());
    niivue.addVolume(grey);
    niivue.addVolume(masks);
    niivue.scene.crosshairPos = niivue.vox2frac(middleOfLesion(masks));
    showMasks();
    showSlice(niivue);
    dialog.dataset.shows = entry.name;
  } catch (error) {
    if (turn !== asked) return;
    overlay = null;
    showViewer(false);
    showLegend(settings.masks.flatMap((_, n) => settings.legends[1 << n])); // the picture's outlines
    byId("viewer-problem").textContent =
      `The interactive viewer cannot show this case (${error.message}); these are the slices with most lesion.`;
  }
}

for (const button of document.querySelectorAll("button[data-case]"))
  button.addEventListener("click", () => show(Number(button.dataset.case)));
byId("viewer-close").addEventListener("click", () => dialog.close());
byId("viewer-previous").addEventListener("click", () => show(current - 1));
byId("viewer-next").addEventListener("click", () => show(current + 1));
byId("viewer-planes").addEventListener("change", (event) => niivue?.setSliceType(Number(event.target.value)));
byId("viewer-opacity").addEventListener("input", (event) => overlay && niivue.setOpacity(1, Number(event.target.value)));
byId("viewer-slice").addEventListener("input", (event) => {
  if (!overlay) return;
  const voxel = niivue.frac2vox(niivue.scene.crosshairPos);
  niivue.scene.crosshairPos = niivue.vox2frac([voxel[0], voxel[1], Number(event.target.value)]);
  niivue.drawScene();
  showSlice(niivue);
});
let before = boxes.map(() => true);
// Of the document: what had the focus in the dialog may be hidden by now, and then the dialog hears no key.
document.addEventListener("keydown", (event) => {
  if (!dialog.open) return;
  if (event.key === "PageUp" || event.key === "PageDown") {
    event.preventDefault();
    show(current + (event.key === "PageUp" ? -1 : 1));
  } else if (event.key.toLowerCase() === "o" && !event.ctrlKey && !event.metaKey) {
    const visible = boxes.some((box) => box.checked);
    if (visible) before = boxes.map((box) => box.checked);
    boxes.forEach((box, n) => (box.checked = visible ? false : before[n]));
    showMasks();
  }
});
