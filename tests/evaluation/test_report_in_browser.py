"""The report as a person opens it: in Chromium, from disk, without a network, with nothing said on the console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from evaluation.gathered import EVIL, gather
from mlproject.evaluation.comparison import compare
from mlproject.evaluation.comparison_report import write_comparison
from mlproject.evaluation.metrics import summarise_groups
from mlproject.evaluation.report import write_report
from mlproject.prediction.postprocessing import Postprocessing

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="neither Chromium nor Chrome is installed")
VARIANTS = ("network", "crf")
DESK, PHONE = (1200, 900), (390, 844)  # pixels
# How many pixels of the viewer have a mask's colour: neither grey nor the crosshair's yellow. Read in the task that
# draws them: later they are gone.
COLOURED = """() => {
  niivue.drawScene();
  const { width, height } = niivue.canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d");
  copy.drawImage(niivue.canvas, 0, 0);
  const values = copy.getImageData(0, 0, width, height).data;
  let count = 0;
  for (let at = 0; at < values.length; at += 4) count += Math.abs(values[at] - values[at + 1]) > 20;
  return count;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gathered = gather(VARIANTS, shown=("crf",))
    folder = tmp_path_factory.mktemp("report")
    variants = dict.fromkeys(VARIANTS, Postprocessing())
    return write_report(
        folder,
        gathered,
        summarise_groups(gathered.tables),
        {},
        variants,
        [],
        "Title",
        {},
        chosen="crf",
        origin="the default",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    software = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=software)
        yield running
        running.close()


@contextmanager
def opened(browser: Browser, file: Path, size: tuple[int, int]) -> Iterator[Page]:
    """A page, opened; what it says on the console or asks of a network is an error at the end."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
    page, said, wanted = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: wanted.append(one.url) if one.url.startswith(("http", "ws")) else None)
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not said and not wanted


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    with opened(browser, report, request.param) as page:
        yield page


def test_the_page_is_no_wider_than_the_screen(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_click_on_a_heading_sorts_the_cases(page: Page) -> None:
    dice = page.locator("table.sortable thead button", has_text="Dice").first
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map(row => Number(row.cells[4].dataset.value))"
    before = page.evaluate(column)
    dice.click()
    once = page.evaluate(column)
    dice.click()
    assert sorted(before) == sorted(once) and page.evaluate(column) == once[::-1]
    assert once in (sorted(before), sorted(before, reverse=True))


def test_a_case_opens_in_the_viewer(page: Page) -> None:
    page.locator("button[data-case='0']").first.click()
    dialog = page.locator("#viewer[data-shows='free']")
    expect(dialog).to_be_visible()
    canvas = dialog.locator("#viewer-canvas")
    assert page.evaluate(COLOURED) > 0
    dialog.get_by_label("crf").uncheck()
    assert page.evaluate(COLOURED) == 0  # its only lesion is the false alarm
    dialog.get_by_label("crf").check()
    assert page.evaluate(COLOURED) > 0
    whole = canvas.screenshot()
    slices = dialog.locator("#viewer-slice")
    number, last = dialog.locator("#viewer-number").text_content(), slices.get_attribute("max")
    slices.fill("0")
    assert number != dialog.locator("#viewer-number").text_content() == f"1 of {int(last or 0) + 1}"
    assert canvas.screenshot() != whole


def test_from_case_to_case_by_button_and_key(page: Page) -> None:
    page.locator("button[data-case='0']").first.click()
    expect(page.locator("#viewer")).to_have_attribute("data-shows", "free")
    page.locator("#viewer-next").click()
    expect(page.locator("#viewer")).to_have_attribute("data-shows", EVIL)
    page.keyboard.press("PageDown")
    expect(page.locator("#viewer")).to_have_attribute("data-shows", "good")
    page.locator("#viewer-close").click()
    expect(page.locator("#viewer")).to_be_hidden()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_two_models_in_the_viewer(size: tuple[int, int], browser: Browser, tmp_path: Path) -> None:
    gathered = gather(("A", "B"), shown=("A", "B"))
    facts = {"model A": "one", "model B": "other"}
    file = write_comparison(
        tmp_path, gathered, summarise_groups(gathered.tables), compare(gathered.tables), [], "Title", facts
    )
    with opened(browser, file, size) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.locator("button[data-case]").first.click()
        dialog = page.locator("#viewer[data-shows]")
        expect(dialog).to_be_visible()
        for model in ("A", "B"):
            dialog.get_by_label(model, exact=True).uncheck()
        dialog.get_by_label("reference").uncheck()
        assert page.evaluate(COLOURED) == 0
        dialog.get_by_label("B", exact=True).check()
        assert page.evaluate(COLOURED) > 0
