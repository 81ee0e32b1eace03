"""
Calipers and captions drawn on training images, so that a model does not take them for signs of a lesion.

Calipers are burnt into most scans of a lesion and into hardly any normal one. Drawn at random on both, more often on
normal scans, they no longer tell the two apart.
"""

import numpy as np

# Relative to the box around the lesion, or around a place in tissue where there is none.
REACH = (0.9, 1.15)
BRIGHTNESS = (140, 256)
NORMAL_SCANS = 1.4  # how many times as often normal scans get calipers


def marked(image: np.ndarray, mask: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """
    The image with calipers, a caption, both or neither.

    Args:
        image (`numpy.ndarray` of shape `(height, width)`): Bytes, without padding; it is not written to.
        mask (`numpy.ndarray` of shape `(height, width)`): True on the lesion.
        chance (`float`): Of calipers on a lesion, in [0, 1]; that of a caption is half of it.
        rng (`numpy.random.Generator`): Decides what is drawn and where.

    Returns:
        `numpy.ndarray` of shape `(height, width)`.
    """
    image = image.copy()
    if rng.random() < chance * (1 if mask.any() else NORMAL_SCANS):
        _draw_calipers(image, mask, rng)
    if rng.random() < chance / 2:
        _draw_caption(image, rng)
    return image


def _draw_calipers(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    """One or two pairs of crosses, mostly around the lesion, some joined by a dotted line."""
    height, width = image.shape
    rows, columns = np.nonzero(mask)
    if len(rows) and rng.random() < 0.75:
        centre = np.array([rows.mean(), columns.mean()])
        radii = np.array([max(np.ptp(rows) / 2, 3), max(np.ptp(columns) / 2, 3)])
    else:
        centre = rng.uniform(0.15, 0.85, 2) * (height, width)
        radii = rng.uniform(0.04, 0.3, 2) * (height, width)
    brightness, arm, slanted = int(rng.integers(*BRIGHTNESS)), int(rng.integers(1, 4)), rng.random() < 0.5
    dots, angle = int(rng.integers(2, 5)) * (rng.random() < 0.5), rng.uniform(0, np.pi)
    for pair in range(rng.integers(1, 3)):
        direction = angle + pair * np.pi / 2
        step = rng.uniform(*REACH) * radii * (np.sin(direction), np.cos(direction))
        ends = centre + step, centre - step
        for end in ends:
            _draw_cross(image, end, arm, slanted, brightness)
        if dots:
            count = int(np.abs(2 * step).max() / dots) + 1
            _set(image, np.linspace(*ends, count), brightness)


def _draw_cross(image: np.ndarray, centre: np.ndarray, arm: int, slanted: bool, brightness: int) -> None:
    along = np.arange(-arm, arm + 1)
    still = np.zeros_like(along)
    strokes = ((along, along), (along, -along)) if slanted else ((along, still), (still, along))
    for rows, columns in strokes:
        _set(image, centre + np.stack([rows, columns], axis=1), brightness)


def _set(image: np.ndarray, places: np.ndarray, brightness: int) -> None:
    """Writes the pixels at `places` of shape `(pixels, 2)` that lie inside the image."""
    rows, columns = np.rint(places).astype(int).T
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    image[rows[inside], columns[inside]] = brightness


def _draw_caption(image: np.ndarray, rng: np.random.Generator) -> None:
    """A line of letter-like blocks near the upper or the lower edge."""
    height, width = image.shape
    tall, letters = int(rng.integers(4, 8)), int(rng.integers(2, 9))
    wide = max(3, round(0.7 * tall))
    if height < 8 * tall or width < letters * (wide + 1) + 2:
        return
    top = int(rng.integers(height // 6))
    top = height - tall - top if rng.random() < 0.5 else top
    left, brightness = int(rng.integers(width - letters * (wide + 1))), int(rng.integers(*BRIGHTNESS))
    for letter in range(letters):
        strokes = rng.random((tall, wide)) < 0.45
        strokes[:, 0] |= rng.random() < 0.6
        start = left + letter * (wide + 1)
        image[top : top + tall, start : start + wide][strokes] = brightness
