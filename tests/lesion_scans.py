"""Scans with a dark lesion on bright tissue, for the tests of how training images are changed."""

import numpy as np
from PIL import Image

from sfrecsam_hf.training.lesion_cut import Scan


def dark_lesion(height: int, width: int, seed: int, lesion: bool = True) -> Scan:
    rng = np.random.default_rng(seed)
    image = rng.integers(120, 160, (height, width)).astype(np.uint8)
    mask = np.zeros((height, width), bool)
    if lesion:
        top, left = rng.integers(height // 4, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 6, left : left + width // 6] = True
        image[mask] //= 4
    return Scan(image, mask, mask)


def rows_of_dark_lesions(count: int) -> list[dict[str, Image.Image]]:
    """As a data set gives them to training."""
    scans = [dark_lesion(60, 80, seed) for seed in range(count)]
    return [{"image": Image.fromarray(scan.image), "mask": Image.fromarray(scan.mask)} for scan in scans]
