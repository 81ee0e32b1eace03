"""Masks made presentable: smooth outlines, no specks, no holes, nothing on burnt-in text. NumPy and Pillow alone."""

import numpy as np
import PIL.Image

BLUR = 0.75  # in pixels of the model's mask
SMALLEST = 0.0015  # of the image; the smallest lesion of BUSI has 0.0021, of BUS-BRA 0.0060, of BUS-UCLM 0.0016
STROKE_CONTRAST = 96  # of 255: letters differ that much from what surrounds them, speckle hardly ever does
STROKE_SHARE, TEXT_SHARE = 0.06, 0.8  # of a piece: letters, and what lies on or beside them. No lesion of 745 has both


def tidied(mask: np.ndarray, text: np.ndarray | None = None) -> np.ndarray:
    """
    The mask with its holes filled, without specks and without pieces that lie on burnt-in text.

    A speck is smaller than `SMALLEST` of the image. The largest piece is never a speck, so a mask is emptied only
    where all of it lies on text.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean.
        text (`numpy.ndarray` of shape `(2, rows, columns)`, *optional*): From [`burnt_in_text`], of the same image at
            any size.

    Returns:
        `numpy.ndarray` of shape `(height, width)`: Boolean.
    """
    if not mask.any():
        return mask
    filled = mask | _holes(mask)
    pieces, count = components(filled)
    areas = np.bincount(pieces[filled], minlength=count + 1)
    kept = areas >= SMALLEST * mask.size
    kept[areas.argmax()] = True
    kept[0] = False
    if text is not None:
        letters, near = (
            np.bincount(pieces[filled], weights=_at_size(shares, mask.shape)[filled] / 255, minlength=count + 1)
            for shares in text
        )
        kept &= ~((letters >= STROKE_SHARE * areas) & (near >= TEXT_SHARE * areas))
    return kept[pieces]


def smoothed(probability: np.ndarray) -> np.ndarray:
    """
    Probabilities blurred by less than a pixel of the model's own mask. An outline cut from them after they are
    enlarged is smooth at the image's resolution; one cut from the mask has steps as large as the mask's pixels.

    Args:
        probability (`numpy.ndarray` of shape `(..., height, width)`): In [0, 1], at the resolution of the mask.
    """
    side = float(np.exp(-1 / (2 * BLUR**2)))
    for axis in (-2, -1):
        lines = np.moveaxis(probability, axis, 0)
        lines = np.concatenate([lines[:1], lines, lines[-1:]])
        lines = (lines[1:-1] + side * (lines[:-2] + lines[2:])) / (1 + 2 * side)
        probability = np.moveaxis(lines, 0, axis)
    return probability


def burnt_in_text(picture: PIL.Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
    """
    Where letters are burnt into an image: bright strokes thinner than letters are, and all pixels as near to one as
    letters stand to each other.

    Args:
        picture (`PIL.Image.Image`): The scan, of any mode.
        size (`tuple[int, int]`, *optional*): Width and height of the result; those of the image without it.

    Returns:
        `numpy.ndarray` of shape `(2, height, width)`: Of each pixel the share that strokes cover, and the share that
        is near to one; in [0, 255].
    """
    gray = np.array(picture.convert("L"), dtype=np.int16)
    reach = max(2, round(max(picture.size) / 160))
    opened = _highest(-_highest(-gray, reach), reach)
    strokes = gray - opened > STROKE_CONTRAST
    near = _highest(strokes.astype(np.int16), 2 * reach) > 0
    return np.stack([_at_size(where * np.uint8(255), (size or picture.size)[::-1]) for where in (strokes, near)])


def components(mask: np.ndarray, corners: bool = True) -> tuple[np.ndarray, int]:
    """
    Numbers the connected pieces of a mask, by joining the runs of its rows.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean.
        corners (`bool`): Whether pixels that touch at a corner are connected.

    Returns:
        `numpy.ndarray` of shape `(height, width)`: Numbers of the pieces, 0 outside; and how many there are.
    """
    width = mask.shape[1] + 2
    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = (np.flatnonzero(np.pad(changes == step, ((0, 0), (0, 1)))) for step in (1, -1))
    reach = int(corners)
    first = np.searchsorted(ends, starts + width - reach, side="right")  # of the runs in the next row that it touches
    beyond = np.searchsorted(starts, ends + width + reach, side="left")
    touched = np.maximum(beyond - first, 0)
    above = np.repeat(np.arange(len(starts)), touched)
    below = np.arange(len(above)) - np.repeat(np.cumsum(touched) - touched, touched) + np.repeat(first, touched)
    root = np.arange(len(starts))
    while True:
        lowest, joined = np.minimum(root[above], root[below]), root.copy()
        np.minimum.at(joined, root[above], lowest)
        np.minimum.at(joined, root[below], lowest)
        joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    roots, numbers = np.unique(root, return_inverse=True)
    pieces = np.zeros(mask.shape, dtype=np.int32)
    pieces[mask] = np.repeat(numbers + 1, ends - starts)
    return pieces, len(roots)


def _holes(mask: np.ndarray) -> np.ndarray:
    """The background that no path through the sides of its pixels joins with the image's edge."""
    pieces, count = components(~mask, corners=False)
    edge = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    closed = np.ones(count + 1, dtype=bool)
    closed[edge] = closed[0] = False
    return closed[pieces]


def _at_size(shares: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A map of shares at another `(height, width)`, by area."""
    return np.asarray(PIL.Image.fromarray(shares).resize(shape[::-1], PIL.Image.Resampling.BOX))


def _highest(values: np.ndarray, reach: int) -> np.ndarray:
    """The highest value in the square within `reach` pixels: along one axis, then the other, in doubling steps."""
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        values = np.pad(values, ((reach, reach), (0, 0)), constant_values=np.iinfo(values.dtype).min)
        width, wanted = 1, 2 * reach + 1
        while width < wanted:
            step = min(width, wanted - width)
            values = np.maximum(values[:-step], values[step:])
            width += step
        values = np.moveaxis(values, 0, axis)
    return values


__all__ = ["burnt_in_text", "components", "smoothed", "tidied"]
