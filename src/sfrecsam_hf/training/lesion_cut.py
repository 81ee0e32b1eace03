"""The shape of a lesion cut out of a training image, and where else in an image it fits."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

TRIES = 12
LARGEST = 0.6  # of either side of the image: a larger lesion leaves no room
DEPTH = 0.15  # of the height: tissue looks like its depth


@dataclass
class Scan:
    r"""
    A gray scan at training size.

    Args:
        image (`numpy.ndarray` of shape `(height, width)`): Bytes, without padding.
        mask (`numpy.ndarray` of shape `(height, width)`): True on all lesions.
        pointed (`numpy.ndarray` of shape `(height, width)`): True on the lesion that a prompt would point at.
    """

    image: np.ndarray
    mask: np.ndarray
    pointed: np.ndarray


@dataclass
class Cut:
    """A lesion's neighbourhood: how much of each pixel is moved, and which are lesion."""

    alpha: np.ndarray
    lesion: np.ndarray
    row: int
    column: int

    @property
    def edge(self) -> np.ndarray:
        """True on the tissue around the lesion, whose brightness a patch is fitted to."""
        return (self.alpha > 0) & ~self.lesion


def cut_of(mask: np.ndarray) -> Cut:
    """The smallest window that holds the lesions with a soft edge of a fifth of their radius."""
    soft = max(2, round(0.2 * np.sqrt(mask.sum() / np.pi)))
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(rows[0] - 2 * soft, 0), max(columns[0] - 2 * soft, 0)
    lesion = mask[top : rows[-1] + 1 + 2 * soft, left : columns[-1] + 1 + 2 * soft]
    away = ndimage.distance_transform_edt(~lesion)
    return Cut(np.clip(2 - away / soft, 0, 1).astype(np.float32), lesion, int(top), int(left))


def free_place(mask: np.ndarray, cut: Cut, rng: np.random.Generator) -> tuple[int, int] | None:
    """Top left corner of a place near the cut's depth where its patch touches no lesion, if one is soon found."""
    height, width = cut.alpha.shape
    room = mask.shape[0] - height, mask.shape[1] - width
    if min(room) < 0 or height > LARGEST * mask.shape[0] or width > LARGEST * mask.shape[1]:
        return None
    drift = round(DEPTH * mask.shape[0])
    for _ in range(TRIES):
        row = int(np.clip(cut.row + rng.integers(-drift, drift + 1), 0, room[0]))
        place = row, int(rng.integers(room[1] + 1))
        if not (window(mask, place, cut) & (cut.alpha > 0)).any():
            return place
    return None


def window(picture: np.ndarray, place: tuple[int, int], cut: Cut) -> np.ndarray:
    """The part of a picture that the cut covers if its top left corner lies there; a view."""
    height, width = cut.alpha.shape
    return picture[place[0] : place[0] + height, place[1] : place[1] + width]
