"""Scans with a dark lesion on bright tissue, for the tests of how training images are changed."""

import numpy as np

from sfrecsam_hf.lesion_cut import Scan


def dark_lesion(height: int, width: int, seed: int, lesion: bool = True) -> Scan:
    rng = np.random.default_rng(seed)
    image = rng.integers(120, 160, (height, width)).astype(np.uint8)
    mask = np.zeros((height, width), bool)
    if lesion:
        top, left = rng.integers(height // 4, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 6, left : left + width // 6] = True
        image[mask] //= 4
    return Scan(image, mask, mask)
