"""The demo's data set: synthetic stroke cases made in code, in the ISLES-2022 layout.

Each head is a bent ellipsoid of white and grey matter, fluid and ventricles without a skull. Lesions are
bright in DWI with a drop in ADC, as acute strokes are. What looks alike but is none: T2 shine-through and
susceptibility at the base (both bright in DWI without the drop) and old cavities.
"""

# mypy: allow-untyped-calls

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shape = tuple[int, int, int]

GENERATOR_VERSION = 1  # raise it when the same arguments give other voxels
FIELD_OF_VIEW_MM = np.array([160.0, 180.0, 130.0])
CHANNELS = ("dwi", "adc", "flair")
BACKGROUND, WHITE, GREY, FLUID = range(4)
INTENSITY = {  # of the four; ADC in 1e-3 mm2/s
    "dwi": (0.0, 250.0, 300.0, 60.0),
    "adc": (0.0, 0.75, 0.88, 3.0),
    "flair": (0.0, 1000.0, 1250.0, 220.0),
}
NOISE = {"dwi": 14.0, "adc": 0.07, "flair": 55.0}
ADC_UNIT = 0.001  # of the stored whole numbers


def write_dataset(
    folder: Path, cases: int, seed: int = 0, shape: Shape = (64, 72, 52), channels: Sequence[str] = CHANNELS
) -> None:
    """Write `cases` synthetic cases; the same arguments write the same voxels. One in eight has no lesion.

    The folder appears with all its content or not at all. Where another process has written it meanwhile,
    that one stays.

    Args:
        folder: new folder of the data set.
        cases: how many.
        seed: of the random numbers.
        shape: (I, J, K) voxels of DWI, ADC and mask over 160 x 180 x 130 mm; the default has 2.5 mm voxels.
        channels: of dwi, adc and flair; FLAIR lies on a grid of its own with slices twice as thick.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / folder.name
        for number in range(1, cases + 1):
            case = f"sub-synthetic{number:04d}"
            for name, image in make_case(seed, number, shape, channels).items():
                session = draft / ("derivatives" if name == "msk" else "rawdata") / case / "ses-0001"
                session.mkdir(parents=True, exist_ok=True)
                nib.save(image, session / f"{case}_ses-0001_{name}.nii.gz")
        (draft / "README.txt").write_text(
            f"Synthetic data, no patient: {cases} cases made by mlproject.data.synthetic (version "
            f"{GENERATOR_VERSION}), seed {seed}.\n"
        )
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def make_case(seed: int, number: int, shape: Shape, channels: Sequence[str] = CHANNELS) -> dict[str, nib.Nifti1Image]:
    """Make one case: an image a channel (0 outside the head) and the lesion mask "msk" (0 or 1).

    A case depends on its arguments alone; those with number 5, 13, 21 ... have no lesion.
    """
    generator = np.random.default_rng([seed, number])
    tissue, low_edge = _draw_head(generator, shape)
    lesion = np.zeros(shape, dtype=bool)
    if number % 8 != 5:
        lesion = _draw_lesions(generator, tissue)
    change = _draw_changes(generator, tissue, low_edge, lesion)

    images = {}
    for name in CHANNELS:  # all are drawn, so that leaving one out does not change the others
        clean = np.array(INTENSITY[name], dtype=np.float32)[tissue]
        clean = ndimage.gaussian_filter(clean, 0.5) * change[name]  # partial volume
        head = tissue != BACKGROUND
        if name == "flair":
            other = (round(shape[0] * 1.25), round(shape[1] * 1.25), shape[2] // 2)
            clean, head = _resize(clean, other, 1), _resize(head.astype(np.float32), other, 1) > 0.5
        scan = _scan(generator, clean, head, name)
        if name in channels:
            images[name] = _to_image(scan, ADC_UNIT if name == "adc" else 1.0)
    images["msk"] = _to_image(lesion, 1.0)
    return images


def _draw_head(generator: np.random.Generator, shape: Shape) -> tuple[NDArray[np.uint8], Mask]:
    """Draw the tissue of each voxel, and the rim at the base of the head where air distorts DWI."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    half = generator.uniform((0.76, 0.80, 0.76), (0.88, 0.90, 0.88))
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)
    radius = radius + 0.04 * _smooth_field(generator, shape, 5)
    folds = radius + 0.08 * _smooth_field(generator, shape, 13)
    size = generator.uniform(0.7, 1.3)
    side = np.abs(x)
    ventricles = ((side - 0.13) / 0.09) ** 2 + ((y - 0.02) / 0.38) ** 2 + ((z - 0.12) / 0.18) ** 2 < size
    nuclei = ((side - 0.36) / 0.10) ** 2 + ((y - 0.05) / 0.24) ** 2 + (z / 0.18) ** 2 < 1

    tissue = np.full(shape, WHITE, dtype=np.uint8)
    tissue[(folds > 0.80) | nuclei] = GREY
    tissue[(folds > 0.99) | (radius > 0.95) | ventricles] = FLUID
    tissue[radius > 1] = BACKGROUND
    return tissue, (radius > 0.85) & (radius < 0.97) & (z < -0.3 * half[2])


def _draw_lesions(generator: np.random.Generator, tissue: NDArray[np.uint8]) -> Mask:
    """Draw one to three ragged lesions, 0.3 to 30 ml together (log-uniform), in white and grey matter."""
    shape = tissue.shape
    voxel_ml = float(np.prod(FIELD_OF_VIEW_MM / shape)) / 1000
    matter = (tissue == WHITE) | (tissue == GREY)
    total_ml = np.exp(generator.uniform(np.log(0.3), np.log(30.0)))
    count = generator.integers(1, 4) if total_ml > 1.5 else 1
    lesion = np.zeros(shape, dtype=bool)
    for share in generator.dirichlet(np.full(count, 3.0)):
        distance = _distance_mm(generator, matter, stretch=generator.uniform(0.6, 1.5, 3))
        distance *= np.exp(0.3 * _smooth_field(generator, shape, 15))
        wanted = max(3, round(share * total_ml / voxel_ml))
        lesion |= matter & (distance <= np.partition(distance[matter], wanted - 1)[wanted - 1])
    return lesion


def _draw_changes(
    generator: np.random.Generator, tissue: NDArray[np.uint8], low_edge: Mask, lesion: Mask
) -> dict[str, Array]:
    """Draw the factor by which lesions and what looks alike change each channel, (I, J, K)."""
    texture = (1 + 0.25 * _smooth_field(generator, tissue.shape, 19)).clip(0.4)
    soft = ndimage.gaussian_filter(lesion.astype(np.float32), 0.5)
    gain = (generator.uniform(0.35, 1.0), -generator.uniform(0.2, 0.45), generator.uniform(0.0, 0.45))
    change = {name: 1 + gain[channel] * soft * texture for channel, name in enumerate(CHANNELS)}

    white = tissue == WHITE
    shine = [(white, (generator.uniform(0.3, 0.9), 0.25, 0.45)) for _ in range(generator.integers(1, 4))]
    susceptibility = [(low_edge, (generator.uniform(0.4, 1.0), 0.0, 0.0)) for _ in range(generator.integers(1, 4))]
    cavities = [(white, (-0.6, 2.0, -0.4))] * int(generator.random() < 0.25)
    for where, relative in shine + susceptibility + cavities:
        sigma_mm = generator.uniform(3.0, 6.0)
        blob = np.exp(-((_distance_mm(generator, where, np.ones(3)) / sigma_mm) ** 2) / 2)
        blob = (blob * texture).clip(0, 1) * (1 - soft)  # a lesion stays what its mask says
        for channel, name in enumerate(CHANNELS):
            change[name] *= 1 + relative[channel] * blob
    return change


def _scan(generator: np.random.Generator, clean: Array, head: Mask, name: str) -> NDArray[np.float64]:
    """Add receive bias and gain (not in the quotient ADC), and Rician noise, inside the head."""
    if name != "adc":
        bias = np.exp(0.12 * _smooth_field(generator, clean.shape, 4))
        clean = clean * bias * generator.uniform(0.6, 1.6)
    sigma = NOISE[name] * generator.uniform(0.7, 1.5)
    real, imaginary = generator.normal(0, sigma, (2, *clean.shape))
    smallest = ADC_UNIT if name == "adc" else 1.0  # 0 is the background's
    return np.where(head, np.hypot(clean + real, imaginary).clip(smallest), 0)


def _distance_mm(generator: np.random.Generator, where: Mask, stretch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each voxel's distance in mm from a random voxel of `where`, each axis divided by its stretch."""
    spacing = FIELD_OF_VIEW_MM / where.shape / stretch
    candidates = np.flatnonzero(where)
    centre = np.unravel_index(candidates[generator.integers(candidates.size)], where.shape)
    i, j, k = np.ogrid[tuple(slice(n) for n in where.shape)]
    squares = [((index - at) * step) ** 2 for index, at, step in zip((i, j, k), centre, spacing, strict=True)]
    return np.asarray(np.sqrt(squares[0] + squares[1] + squares[2]))


def _smooth_field(generator: np.random.Generator, shape: Sequence[int], knots: int) -> Array:
    """Draw a smooth field with about mean 0 and standard deviation 1 from `knots` values along each axis."""
    field = generator.standard_normal((knots, knots, knots), dtype=np.float32)
    field = _resize(field, shape, 3).clip(-2, 2)
    return np.asarray(field / field.std())


def _resize(values: Array, shape: Sequence[int], order: int) -> Array:
    """Interpolate to another grid over the same field of view: splines, so one axis after the other."""
    for old, new in zip(values.shape, shape, strict=True):
        weights = ndimage.zoom(
            np.eye(old, dtype=np.float32), (new / old, 1), order=order, mode="nearest", grid_mode=True
        )
        # The new axis goes last, so after three turns all stand in order. Unlike a matrix product, einsum
        # gives the same bits with any number of threads.
        values = np.einsum("abc,na->bcn", values, weights)
    return values


def _to_image(values: NDArray[Any], unit: float) -> nib.Nifti1Image:
    """Store multiples of `unit` as whole numbers; axes left, anterior, superior, as in ISLES 2022."""
    spacing = FIELD_OF_VIEW_MM / values.shape
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(values.shape) - 1) / 2
    dtype = np.uint8 if values.dtype == bool else np.int16
    image = nib.Nifti1Image(np.rint(values / unit).astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"synthetic"
    if unit != 1:
        image.header.set_slope_inter(unit, 0)
    return image
