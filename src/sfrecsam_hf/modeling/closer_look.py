"""A second look at the part of a scan around a click that the first answer leaves out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image

from .tidying import components

PART = 0.35  # of the image's longer side: what the second look sees
MAPS = ("probability", "initial_probability", "final_probability", "uncertainty")  # of a [`Segmentation`]

Click = tuple[float, float, int]


def look_closer(
    found: Any,
    picture: PIL.Image.Image,
    clicks: list[Click],
    answer: Callable[[PIL.Image.Image, list[Click]], Any],
) -> Any:
    """
    What a click asks for, where the first answer is somewhere else: a small lesion is large in a part of the scan.

    On images that the model had not seen, 11 of 145 clicks were left out by the first answer. With the second look the
    mean Dice of all rose by 0.009 (BUSI, 64 lesions) and 0.035 (BUS-UCLM, 81).

    Args:
        found ([`Segmentation`]): The first answer, at the size of the picture.
        picture (`PIL.Image.Image`): The scan.
        clicks (`list[tuple[float, float, int]]`): `x`, `y` in pixels of the picture, and 1 on a lesion, 0 beside it.
        answer (`Callable`): Gives the [`Segmentation`] of a picture with clicks.

    Returns:
        The first answer if it holds every click on a lesion, or if the second does not hold the one it left out; else
        the lesion that the second has at that click, with its maps inside the part it saw.
    """
    left_out = [(x, y) for x, y, label in clicks if label == 1 and not found.mask[pixel_at((x, y), found.mask.shape)]]
    if not left_out:
        return found
    box = part_around(*left_out[0], picture.size)
    x1, y1, x2, y2 = box
    inside = [(x - x1, y - y1, label) for x, y, label in clicks if x1 <= x < x2 and y1 <= y < y2]
    near = answer(picture.crop(box), inside)
    labels, _ = components(near.mask)
    own = labels[pixel_at((left_out[0][0] - x1, left_out[0][1] - y1), labels.shape)]
    if not own:
        return found
    seen = np.s_[y1:y2, x1:x2]
    maps = {}
    for name in MAPS:
        maps[name] = getattr(found, name).copy()
        maps[name][seen] = getattr(near, name)
    masks = {name: np.zeros_like(found.mask) for name in ("mask", "initial_mask")}
    masks["mask"][seen], masks["initial_mask"][seen] = labels == own, near.initial_mask
    return replace(found, **maps, **masks, score=near.score)


def part_around(x: float, y: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """
    The square of [`PART`] of a picture that has a point as near to its middle as the borders allow.

    Args:
        x, y (`float`): The point, in pixels.
        size (`tuple[int, int]`): Width and height of the picture.

    Returns:
        `(x1, y1, x2, y2)` in whole pixels, inside the picture.
    """
    side = max(round(PART * max(size)), 1)
    left, top = (
        int(np.clip(round(place - side / 2), 0, max(extent - side, 0)))
        for place, extent in zip((x, y), size, strict=True)
    )
    return left, top, min(left + side, size[0]), min(top + side, size[1])


def pixel_at(point: tuple[float, float], shape: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of the pixel at `(x, y)`; the right and bottom edge belong to the last one."""
    return min(int(point[1]), shape[0] - 1), min(int(point[0]), shape[1] - 1)
