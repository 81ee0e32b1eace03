"""The even frame around a scan: cut off before the model looks, and put back around its answer."""

from dataclasses import dataclass

import numpy as np
import PIL.Image

EVEN = 4  # of 255: compression blurs a frame a little
SHARE = 0.2  # captions and rulers differ from the frame in less of a row or column, the scan in more
LEAST_SIDE = 8  # pixels: what is smaller is no scan, and its picture is taken whole
ALL_ROUND = 0.75  # of the edge: deep tissue may be even, too, but not on three sides


@dataclass(frozen=True)
class ScanFrame:
    """
    Where in a picture its scan lies: scanners export it on black, programs show it on gray, and papers on white.

    Args:
        box (`tuple[int, int, int, int]`): Left, top, right and bottom of the scan, in pixels of the picture.
        size (`tuple[int, int]`): Width and height of the picture.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def none(cls, width: int, height: int) -> "ScanFrame":
        """Of a picture that is a scan from edge to edge."""
        return cls((0, 0, width, height), (width, height))

    @classmethod
    def around(cls, picture: PIL.Image.Image) -> "ScanFrame":
        """
        A frame is black, or goes all round in one gray; inside it there may be another.

        It ends at the first and the last row and column with a fifth as many other pixels as the fullest one.
        """
        gray = np.asarray(picture.convert("L"))
        left, top, size = 0, 0, None
        while gray.shape != size:
            size = gray.shape
            other = _differs_from_frame(gray)
            (across, right), (down, bottom) = (_extent(np.count_nonzero(other, axis=axis)) for axis in (0, 1))
            gray = gray[down:bottom, across:right]
            left, top = left + across, top + down
        if min(gray.shape) < LEAST_SIDE:
            return cls.none(*picture.size)
        return cls((left, top, left + gray.shape[1], top + gray.shape[0]), picture.size)

    def cut(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """
        The scan alone.

        Its corners may be black, where the probe steers its beams or the picture was turned. Each row of one goes on
        with the first pixel of the scan: to the model, black is a shadow. Corners only, since a cyst at an edge is
        black, too.
        """
        scan = picture.crop(self.box)
        other = _differs_from_frame(np.asarray(scan.convert("L")))
        left, right = (_of_corners(rows.argmax(axis=1)) for rows in (other, other[:, ::-1]))
        rows = np.flatnonzero(left + right)
        if not len(rows):
            return scan
        columns = np.clip(np.arange(scan.width), left[rows, None], scan.width - 1 - right[rows, None])
        pixels = np.array(scan)
        pixels[rows] = pixels[rows[:, None], columns]
        return PIL.Image.fromarray(pixels)

    @property
    def scan_size(self) -> tuple[int, int]:
        """Width and height of the scan."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    def moved(self, coordinates: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """
        Coordinates of the picture in pixels of the resized scan, and on its edge where they lie on the frame.

        Args:
            coordinates (`numpy.ndarray` of shape `(..., 2)` or `(..., 4)`): Points `(x, y)`, boxes `(x1, y1, x2, y2)`.
            size (`tuple[int, int]`): Width and height that the scan is resized to.
        """
        corners = coordinates.shape[-1] // 2
        inside = np.clip(coordinates - np.tile(self.box[:2], corners), 0, np.tile(self.scan_size, corners))
        return inside * np.tile(np.divide(size, self.scan_size), corners)

    def put_back(self, values: np.ndarray) -> np.ndarray:
        """
        A map of the scan at its place in the picture, with zeros on the frame.

        Args:
            values (`numpy.ndarray` of shape `(scan height, scan width)`): Mask, probability or uncertainty.
        """
        if self.scan_size == self.size:
            return values
        left, top, right, bottom = self.box
        width, height = self.size
        return np.pad(values, ((top, height - bottom), (left, width - right)))


def _differs_from_frame(gray: np.ndarray) -> np.ndarray:
    """Where a picture has another gray than its frame would have."""
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    level = int(np.bincount(edge).argmax())
    if 1 - _differs(edge, level).mean() < ALL_ROUND:
        level = 0
    return _differs(gray, level)


def _differs(gray: np.ndarray, level: int) -> np.ndarray:
    """Compares 8 bits as they are: a difference needs eight times the memory of a large picture."""
    return (gray < level - EVEN) | (gray > level + EVEN)


def _extent(counts: np.ndarray) -> tuple[int, int]:
    """The first row or column that holds a fifth of the highest count, and the one after the last."""
    full = np.flatnonzero(counts >= SHARE * counts.max())
    return int(full[0]), int(full[-1]) + 1


def _of_corners(runs: np.ndarray) -> np.ndarray:
    """The lengths of black at one end of every row, but 0 where it reaches neither the first nor the last row."""
    black = runs > 0
    down, up = np.logical_and.accumulate(black), np.logical_and.accumulate(black[::-1])[::-1]
    return np.where(down | up, runs, 0)
