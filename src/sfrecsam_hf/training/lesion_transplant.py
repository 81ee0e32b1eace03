"""Training images that no scanner took: a second lesion beside the first, and decoys.

Two thousand scans hardly ever show two lesions, so that a model finds the lesion without looking where a click points.
A scan with a second one teaches that a click asks for one of them. Decoys, tissue without a lesion moved in the same
way, keep seams from betraying what was put in.

Only images with a prompt are changed: as part of what the model must find by itself they cost recall (validation Dice
0.749 -> 0.715).
"""

import numpy as np

from .lesion_cut import Cut, Scan, cut_of, free_place, window


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
    cut = cut_of(donor.mask)
    place = free_place(host.mask, cut, rng)
    if place is None:
        return host
    if rng.random() < 0.6:
        image = _blended(host.image, place, donor.image, (cut.row, cut.column), cut)
        added = np.zeros_like(host.mask)
        window(added, place, cut)[:] = cut.lesion
        pointed = host.mask if host.mask.any() and rng.random() < 0.5 else added
        return Scan(image, host.mask | added, pointed)
    source = free_place(donor.mask, cut, rng)
    if source is None:
        return host
    return Scan(_blended(host.image, place, donor.image, source, cut), host.mask, host.pointed)


def _blended(
    host: np.ndarray, place: tuple[int, int], donor: np.ndarray, source: tuple[int, int], cut: Cut
) -> np.ndarray:
    """The host with the donor's patch, scaled to the brightness that the host has along the patch's edge."""
    image = host.copy()
    target, patch = window(image, place, cut), window(donor, source, cut).astype(np.float32)
    gain = np.clip((target[cut.edge].mean() + 8) / (patch[cut.edge].mean() + 8), 0.5, 2)
    target[:] = np.clip(target + cut.alpha * (gain * patch - target), 0, 255).round()
    return image
