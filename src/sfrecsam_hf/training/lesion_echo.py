"""Training images with another echo: lesions as bright as the tissue around them, and tissue as dark as a lesion.

Most lesions are darker than what surrounds them, and a model that has seen two thousand takes the darkest blob for the
lesion: it misses those of the echo of fat. Border and texture stay when the brightness is changed, so that these have
to be learned. Tissue that is darkened in the same way, and is no lesion, keeps the change from betraying it. After a
thousand steps from the same checkpoint the validation Dice of BUSI was 0.75 with it and 0.71 without.
"""

import numpy as np
from scipy import ndimage

from .lesion_cut import Cut, Scan, cut_of, free_place, window

LESION_ECHO = (0.7, 1.3)  # brightness of a lesion over that of its surroundings
DECOY_ECHO = (0.4, 0.9)
RIM = (0.1, 0.5)  # of the largest distance from the border: where the change is complete
GAINS = (0.3, 3.0)


def with_other_echo(host: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    """
    The host with its lesions at another brightness, and half of the time a decoy in the shape of the donor's.

    Args:
        host ([`Scan`]): The image to change; it is not written to.
        donor ([`Scan`]): Whose lesion lends a decoy its shape.
        rng (`numpy.random.Generator`): Decides how bright they become, and where the decoy is.

    Returns:
        [`Scan`] of the host's size, with the host's masks.
    """
    image = host.image.astype(np.float32)
    if host.mask.any():
        cut = cut_of(host.mask)
        _shade(image, (cut.row, cut.column), cut, LESION_ECHO, rng)
    if donor.mask.any() and rng.random() < 0.5:
        cut = cut_of(donor.mask)
        place = free_place(host.mask, cut, rng)
        if place is not None:
            _shade(image, place, cut, DECOY_ECHO, rng)
    return Scan(image.clip(0, 255).round().astype(np.uint8), host.mask, host.pointed)


def _shade(
    image: np.ndarray, place: tuple[int, int], cut: Cut, echoes: tuple[float, float], rng: np.random.Generator
) -> None:
    """
    Scales the cut's lesion, rising from its border inwards, to one of `echoes` times the mean brightness at its edge.

    At the border itself nothing changes, or its bright side would light up as a rim that no scan shows.
    """
    echo, rim = np.exp(rng.uniform(*np.log(echoes))), rng.uniform(*RIM)
    patch, edge = window(image, place, cut), cut.edge
    if not edge.any():
        return
    gain = np.clip(echo * (patch[edge].mean() + 8) / (patch[cut.lesion].mean() + 8), *GAINS)
    inwards = ndimage.distance_transform_edt(cut.lesion)
    patch *= gain ** np.clip(inwards / (rim * inwards.max()), 0, 1)
