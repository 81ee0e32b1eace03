"""Training images by which a model learns what makes a scan normal: the same scan with its lesion and without.

Normal scans are few and come from other women, so that a presence score learns how they were taken. Here the lesion
alone decides: a scan is cropped beside its lesion, or its lesion is covered with tissue; and as often it is cropped
around the lesion, or tissue beside it is covered, so that neither coarser pixels nor seams betray what is missing.
"""

import numpy as np
from PIL import Image

from .lesion_cut import TRIES, Scan, blended, cut_of, free_place

CROP = (0.4, 0.85)  # of either side
MOST = 0.9  # of the lesion, in a crop that keeps it


def with_or_without(host: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    """
    The host, cropped or with a part covered, half of the time so that no lesion is left.

    Where nothing fits, the host comes back as it is.

    Args:
        host ([`Scan`]): The image to change; it is not written to.
        donor ([`Scan`]): Whose tissue covers a part, and the shape of that part if the host shows no lesion.
        rng (`numpy.random.Generator`): Decides what is done.

    Returns:
        [`Scan`] of the host's size.
    """
    without = bool(rng.random() < 0.5)
    return _cropped(host, without, rng) if rng.random() < 0.5 else _covered(host, donor, without, rng)


def _cropped(host: Scan, without: bool, rng: np.random.Generator) -> Scan:
    """A part of the scan of the same proportions, brought to its size, with no lesion or nearly all of it."""
    size = np.array(host.mask.shape)
    height, width = np.maximum(1, (rng.uniform(*CROP) * size).astype(int))
    for _ in range(2 * TRIES):
        row, column = rng.integers(size - (height, width) + 1)
        part = np.s_[row : row + height, column : column + width]
        left = host.mask[part].sum()
        if (left == 0) if without else (left >= MOST * host.mask.sum()):
            return Scan(*(_enlarged(whole[part], size) for whole in (host.image, host.mask, host.pointed)))
    return host


def _enlarged(part: np.ndarray, size: np.ndarray) -> np.ndarray:
    how = Image.Resampling.NEAREST if part.dtype == bool else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(part).resize((int(size[1]), int(size[0])), how))


def _covered(host: Scan, donor: Scan, without: bool, rng: np.random.Generator) -> Scan:
    """Tissue of the donor on the host's lesion, or in the lesion's shape beside it."""
    shaped = host if host.mask.any() else donor
    if not shaped.mask.any():
        return host
    cut = cut_of(shaped.mask)
    on_lesion = without and host.mask.any()
    place = (cut.row, cut.column) if on_lesion else free_place(host.mask, cut, rng)
    source = free_place(donor.mask, cut, rng)
    if place is None or source is None:
        return host
    image = blended(host.image, place, donor.image, source, cut)
    nothing = np.zeros_like(host.mask)
    return Scan(image, nothing, nothing) if on_lesion else Scan(image, host.mask, host.pointed)
