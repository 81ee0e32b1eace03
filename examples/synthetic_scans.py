"""Draws breast ultrasound scans that nobody took, with outlines: layers, fasciae, shadows, speckle, and lesions.

    python examples/synthetic_scans.py --count 2000 --output synthetic

They cost no annotation, no patient's consent and no duplicates, and they are as many as one likes, normal ones too. A
model that has seen nothing else outlines real lesions in part; see `examples/results/attempts.md`. The folder has
`images/` beside `masks/`, so that `sfrecsam train --train synthetic` reads it. Each scan depends on its number alone.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
from scipy import ndimage
from tqdm import tqdm

LESION = 0.85  # share of the scans that show one
SECOND = 0.07  # of those, that show two
MALIGNANT = 0.4  # rough, blurred and shadowed

Rng = np.random.Generator


def synthetic_scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """
    One scan and the boolean mask of its lesions.

    Args:
        number (`int`): Decides everything, the size too: 110 to 170 by 130 to 190 pixels.
    """
    rng = np.random.default_rng(number)
    shape = int(rng.integers(110, 170)), int(rng.integers(130, 190))
    echo = _tissue(shape, rng)
    mask = np.zeros(shape, bool)
    if rng.random() < LESION:
        for _ in range(1 + (rng.random() < SECOND)):
            echo, lesion = _with_lesion(echo, rng)
            mask |= lesion
    depth = np.linspace(0, 1, shape[0])[:, None]
    echo *= np.exp(-rng.uniform(-0.3, 1.2) * depth)
    return _compressed(echo * _speckle(shape, rng), rng), mask


def _field(rng: Rng, shape: tuple[int, int], down: float, across: float) -> np.ndarray:
    """Smooth noise of unit standard deviation."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (down, across))
    return noise / noise.std()


def _tissue(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Skin, fat, gland and muscle as wavy layers, with bright fasciae, dark lobules of fat, and shadows."""
    height, width = shape
    depth = np.indices(shape)[0] / height
    borders = np.sort(rng.uniform(0.03, 1, 5))
    levels = np.exp(rng.uniform(-1.2, 0.2, 6))
    levels[0] = 1
    echo = levels[np.searchsorted(borders, depth + 0.04 * _field(rng, shape, 25, 25))]
    echo = ndimage.gaussian_filter(echo, rng.uniform(1, 4))
    coarse = rng.uniform(5, 14)
    echo *= np.exp(0.35 * _field(rng, shape, coarse / 1.6, coarse * 1.6) + 0.25 * _field(rng, shape, 1.25, 5))
    place = np.arange(width) / width
    for _ in range(rng.integers(2, 9)):
        line = (
            rng.uniform(0.05, 0.95)
            + 0.02 * _field(rng, (1, width), 0, 30)[0]
            + (place - 0.5) * rng.uniform(-0.25, 0.25)
        )
        start, end = np.sort(rng.uniform(0, 1, 2))
        fascia = np.exp(-(((depth - line) / rng.uniform(0.006, 0.015)) ** 2)) * ((place > start) & (place < end))
        echo += rng.uniform(0.2, 0.9) * fascia
    for _ in range(rng.integers(0, 4)):
        half = rng.uniform(0.04, 0.12) * height
        centre = rng.uniform(0.1, 0.9, 2) * shape
        lobule = _beyond(shape, centre, (half, half * rng.uniform(1.5, 3.5)), 0.08, rng) < 0
        echo *= rng.uniform(0.55, 0.9) ** ndimage.gaussian_filter(lobule.astype(float), 2)
    for _ in range(rng.integers(0, 3)):
        column, top = rng.uniform(0, width), rng.uniform(0, 0.7) * height
        echo *= _below(shape, column, top, rng.uniform(0.03, 0.12) * width, -rng.uniform(0.3, 1.6))
    return echo


def _with_lesion(echo: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """The tissue with a darker blob, its rim, and the shadow or enhancement below it; and the blob's mask."""
    height, width = echo.shape
    half = np.exp(rng.uniform(np.log(0.05), np.log(0.26))) * height
    radii = half, half * rng.uniform(0.8, 2.2)
    centre = np.array([rng.uniform(0.2, 0.75) * height, rng.uniform(0.15, 0.85) * width])
    malignant = rng.random() < MALIGNANT
    beyond = _beyond(echo.shape, centre, radii, 0.22 if malignant else 0.06, rng)
    lesion, around = beyond < 0, (beyond > 0) & (beyond < 0.4)
    soft = ndimage.gaussian_filter(lesion.astype(float), rng.uniform(1, 5) if malignant else rng.uniform(0.6, 2))
    level = echo[around].mean() if around.any() else echo.mean()
    grain = rng.uniform(2, 6)
    texture = np.exp(rng.uniform(0.1, 0.4) * _field(rng, echo.shape, grain, grain))
    darker = np.exp(rng.uniform(np.log(0.08), np.log(0.75)))
    echo = echo * (1 - soft) + soft * level * darker * texture
    if malignant:
        echo *= 1 + rng.uniform(0, 0.5) * np.exp(-((beyond / 0.15) ** 2)) * (beyond > 0)
    amount = rng.uniform(-1.2, 0.1) if malignant else rng.uniform(-0.3, 0.8)
    return echo * _below(echo.shape, centre[1], centre[0] + radii[0], 0.8 * radii[1], amount), lesion


def _beyond(
    shape: tuple[int, int], centre: np.ndarray, radii: tuple[float, float], roughness: float, rng: Rng
) -> np.ndarray:
    """How far outside of a tilted, rough ellipse each pixel lies, in radii; negative inside."""
    tilt = rng.uniform(-0.5, 0.5)
    down, across = (axis - middle for axis, middle in zip(np.indices(shape), centre, strict=True))
    along = (across * np.cos(tilt) + down * np.sin(tilt)) / radii[1]
    upright = (down * np.cos(tilt) - across * np.sin(tilt)) / radii[0]
    angle = np.arctan2(upright, along)
    waves = sum(rng.normal() * roughness / n * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in range(2, 9))
    return np.hypot(along, upright) - 1 - waves


def _below(shape: tuple[int, int], column: float, top: float, width: float, amount: float) -> np.ndarray:
    """The factor of a shadow (`amount` below 0) or of an enhancement, from `top` downwards."""
    rows, columns = np.indices(shape)
    return np.exp(amount * np.exp(-(((columns - column) / width) ** 2)) * np.clip((rows - top) / 8, 0, 1))


def _speckle(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """The envelope of a random complex field: finer along the beam than across."""
    blur = 0.6, rng.uniform(0.8, 1.8)
    real, imaginary = (ndimage.gaussian_filter(rng.normal(size=shape), blur) for _ in range(2))
    envelope = np.hypot(real, imaginary)
    return envelope / envelope.mean()


def _compressed(echo: np.ndarray, rng: Rng) -> np.ndarray:
    """As a scanner shows it: by its logarithm, in 8 bits."""
    shown = np.log1p(rng.uniform(3, 25) * echo.clip(0))
    shown = ndimage.gaussian_filter(shown / np.quantile(shown, 0.995), 0.5)
    return (255 * shown.clip(0, 1)).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--output", default="synthetic", help="folder to write to (%(default)s)")
    options = parser.parse_args()
    folders = [Path(options.output) / name for name in ("images", "masks")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(options.count)):
        for folder, pixels in zip(folders, synthetic_scan(number), strict=True):
            PIL.Image.fromarray(pixels).save(folder / f"{number:05d}.png")
