"""Training images that no scanner took: a second lesion beside the first, and decoys.

Two thousand scans hardly ever show two lesions, so that a model finds the lesion without looking where a click points.
A scan with a second one teaches that a click asks for one of them. Decoys, tissue without a lesion moved in the same
way, keep seams from betraying what was put in.

Only images with a prompt are changed: as part of what the model must find by itself they cost recall (validation Dice
0.749 -> 0.715).
"""

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
class _Cut:
    """A lesion's neighbourhood: how much of each pixel is moved, and which are lesion."""

    alpha: np.ndarray
    lesion: np.ndarray
    row: int
    column: int


def transplanted(host: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    """
    The host with the donor's lesion in another place, or with a decoy.

    A lesion-shaped patch with soft edges, as bright as its new surroundings, at about its old depth. Where nothing
    fits, the host comes back as it is.

    Args:
        host ([`Scan`]): The image to change; it is not written to.
        donor ([`Scan`]): Where the patch, or only its shape, comes from.
        rng (`numpy.random.Generator`): Decides what is moved, and where.

    Returns:
        [`Scan`] of the host's size.
    """
    if not donor.mask.any():
        return host
    if rng.random() < 0.5:
        donor = Scan(*(np.ascontiguousarray(part[:, ::-1]) for part in (donor.image, donor.mask, donor.pointed)))
    cut = _cut(donor.mask)
    place = _free_place(host.mask, cut, rng)
    if place is None:
        return host
    if rng.random() < 0.6:
        image = _blended(host.image, place, donor.image, (cut.row, cut.column), cut)
        added = np.zeros_like(host.mask)
        _window(added, place, cut)[:] = cut.lesion
        pointed = host.mask if host.mask.any() and rng.random() < 0.5 else added
        return Scan(image, host.mask | added, pointed)
    source = _free_place(donor.mask, cut, rng)
    if source is None:
        return host
    return Scan(_blended(host.image, place, donor.image, source, cut), host.mask, host.pointed)


def _cut(mask: np.ndarray) -> _Cut:
    """The smallest window that holds the lesions with a soft edge of a fifth of their radius."""
    soft = max(2, round(0.2 * np.sqrt(mask.sum() / np.pi)))
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(rows[0] - 2 * soft, 0), max(columns[0] - 2 * soft, 0)
    lesion = mask[top : rows[-1] + 1 + 2 * soft, left : columns[-1] + 1 + 2 * soft]
    away = ndimage.distance_transform_edt(~lesion)
    return _Cut(np.clip(2 - away / soft, 0, 1).astype(np.float32), lesion, int(top), int(left))


def _free_place(mask: np.ndarray, cut: _Cut, rng: np.random.Generator) -> tuple[int, int] | None:
    """Top left corner of a place near the cut's depth where its patch touches no lesion, if one is soon found."""
    height, width = cut.alpha.shape
    room = mask.shape[0] - height, mask.shape[1] - width
    if min(room) < 0 or height > LARGEST * mask.shape[0] or width > LARGEST * mask.shape[1]:
        return None
    drift = round(DEPTH * mask.shape[0])
    for _ in range(TRIES):
        row = int(np.clip(cut.row + rng.integers(-drift, drift + 1), 0, room[0]))
        place = row, int(rng.integers(room[1] + 1))
        if not (_window(mask, place, cut) & (cut.alpha > 0)).any():
            return place
    return None


def _window(picture: np.ndarray, place: tuple[int, int], cut: _Cut) -> np.ndarray:
    height, width = cut.alpha.shape
    return picture[place[0] : place[0] + height, place[1] : place[1] + width]


def _blended(
    host: np.ndarray, place: tuple[int, int], donor: np.ndarray, source: tuple[int, int], cut: _Cut
) -> np.ndarray:
    """The host with the donor's patch, scaled to the brightness that the host has along the patch's edge."""
    image = host.copy()
    target, patch = _window(image, place, cut), _window(donor, source, cut).astype(np.float32)
    edge = (cut.alpha > 0) & ~cut.lesion
    gain = np.clip((target[edge].mean() + 8) / (patch[edge].mean() + 8), 0.5, 2)
    target[:] = np.clip(target + cut.alpha * (gain * patch - target), 0, 255).round()
    return image
