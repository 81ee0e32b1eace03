"""Near-duplicates: the same frame saved again, brightened, resized or cropped."""

import numpy as np
import PIL.Image
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..modeling.image_reading import read_rgb

SIDE = 32
MARGIN = 2
SIMILARITY = 0.92
POSSIBLE = 0.85  # from here on texture decides
TEXTURE_SIDE = 48
TEXTURE_SIMILARITY = 0.45
ZOOMS = (1.0, 0.95, 0.9, 0.85, 0.8)


def near_duplicate_groups(images: list[PIL.Image.Image], similarity: float = SIMILARITY) -> list[int]:
    """
    Groups images that show the same frame, also re-encoded, brightened or cropped.

    Two images are the same if their 32x32 gray versions correlate above `similarity` at some shift of up to two
    pixels. Pairs between 0.85 and that are the same if their texture correlates, too, once one is laid over the other
    at the best shift and zoom. Whatever is linked by a chain of pairs is one group.

    Of 212 pairs in 621 BUSI images, judged by eye, this finds 89 % at a precision of 0.98. Without texture it finds
    84 % at 0.99.

    Args:
        images (`list[PIL.Image.Image]`): Any sizes and modes.
        similarity (`float`): Correlation above which two images are the same frame whatever their texture.

    Returns:
        `list[int]`: A group number per image.
    """
    if not images:
        return []
    gray = [read_rgb(image).convert("L") for image in images]
    alike = correlations(gray)
    first, second = np.nonzero(np.triu(alike > min(POSSIBLE, similarity), 1))
    certain = alike[first, second] > similarity
    texture = _Texture(gray)
    same = [sure or texture.match(int(a), int(b)) for sure, a, b in zip(certain, first, second, strict=True)]
    links = coo_array((np.ones(sum(same)), (first[same], second[same])), shape=alike.shape)
    return connected_components(links, directed=False)[1].tolist()


def correlations(gray: list[PIL.Image.Image]) -> np.ndarray:
    """The correlation of every pair of gray images at 32x32 pixels and their best shift, `(images, images)`."""
    small = np.stack([np.asarray(image.resize((SIDE, SIDE), PIL.Image.Resampling.BOX), np.float32) for image in gray])
    inner = _normalised(small[:, MARGIN:-MARGIN, MARGIN:-MARGIN])
    best = np.full((len(gray), len(gray)), -1.0, dtype=np.float32)
    width = SIDE - 2 * MARGIN
    for dy in range(2 * MARGIN + 1):
        for dx in range(2 * MARGIN + 1):
            shifted = _normalised(small[:, dy : dy + width, dx : dx + width])
            np.maximum(best, inner @ shifted.T, out=best)
    return np.maximum(best, best.T)


def _normalised(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


class _Texture:
    """Compares what is left of two images without their large shapes, which all scans of a scanner share."""

    def __init__(self, gray: list[PIL.Image.Image]):
        self.gray = gray
        self.spectra: dict[tuple[int, float], np.ndarray] = {}
        rim = np.sqrt(np.hanning(TEXTURE_SIDE + 2)[1:-1])
        self.rim = np.outer(rim, rim)

    def match(self, first: int, second: int) -> bool:
        for zoom in ZOOMS:
            for whole, part in {(first, second), (second, first)}:
                product = self._spectrum(whole, 1.0) * np.conj(self._spectrum(part, zoom))
                if np.fft.irfft2(product, s=self.rim.shape).max() > TEXTURE_SIMILARITY:
                    return True
        return False

    def _spectrum(self, index: int, zoom: float) -> np.ndarray:
        """Of the middle part of an image, its local mean removed and its local contrast evened out."""
        if (index, zoom) not in self.spectra:
            image = self.gray[index]
            width, height = image.size
            left, top = width * (1 - zoom) / 2, height * (1 - zoom) / 2
            box = (left, top, width - left, height - top)
            size = (TEXTURE_SIDE, TEXTURE_SIDE)
            pixels = np.asarray(image.resize(size, PIL.Image.Resampling.BOX, box=box), np.float32)
            fine = pixels - ndimage.gaussian_filter(pixels, 2)
            fine /= np.sqrt(ndimage.gaussian_filter(fine**2, 4)) + 4
            fine *= self.rim
            fine -= fine.mean()
            self.spectra[index, zoom] = np.fft.rfft2(fine / (np.linalg.norm(fine) + 1e-6))
        return self.spectra[index, zoom]
