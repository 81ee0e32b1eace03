"""Lesions apart: the connected pieces of a mask, each measured on its own."""

from dataclasses import dataclass

import numpy as np

from .tidying import components


@dataclass(frozen=True)
class Axes:
    r"""
    The two lines that a reader would draw: the longest one, and the longest at right angles to it.

    Args:
        longest (`float`): Length from outer edge to outer edge, in the unit of the spacing.
        perpendicular (`float`): The same across.
        longest_line (`numpy.ndarray` of shape `(2, 2)`): Its two ends `(x, y)`, in pixels of the image.
        perpendicular_line (`numpy.ndarray` of shape `(2, 2)`): The same across.
    """

    longest: float
    perpendicular: float
    longest_line: np.ndarray
    perpendicular_line: np.ndarray


@dataclass(frozen=True)
class Lesion:
    r"""
    One connected piece of a mask.

    Args:
        box (`tuple[int, int, int, int]`): Left, top, right and bottom, in pixels of the image.
        inside (`numpy.ndarray` of shape `(bottom - top, right - left)`): Boolean, the mask inside the box.
        probability (`float`): Mean lesion probability of its pixels, in [0, 1].
        uncertainty (`float`): Mean predictive entropy of its pixels in bits, in [0, 1].
    """

    box: tuple[int, int, int, int]
    inside: np.ndarray
    probability: float
    uncertainty: float

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.inside.sum())

    def placed(self, shape: tuple[int, int]) -> np.ndarray:
        """Its mask in an image of this `(height, width)`."""
        left, top, right, bottom = self.box
        mask = np.zeros(shape, dtype=bool)
        mask[top:bottom, left:right] = self.inside
        return mask

    def axes(self, spacing: tuple[float, float] = (1.0, 1.0)) -> Axes:
        """Its [`axes`], at their place in the image."""
        return axes(self.inside, spacing, self.box[:2])

    def measurements(self, spacing: tuple[float, float] | None = None) -> dict[str, float | int | list[int]]:
        """
        Area, box `[x1, y1, x2, y2]` and [`axes`] in pixels, mean probability and uncertainty, and lengths in
        millimetres where they are known.

        Args:
            spacing (`tuple[float, float]`, *optional*): Height and width of a pixel in millimetres.
        """
        drawn = self.axes()
        measured: dict[str, float | int | list[int]] = {
            "area": self.area,
            "box": list(self.box),
            "longest_diameter": drawn.longest,
            "perpendicular_diameter": drawn.perpendicular,
            "probability": self.probability,
            "mean_uncertainty": self.uncertainty,
        }
        if spacing is not None:
            drawn = self.axes(spacing)
            measured |= {
                "area_mm2": self.area * spacing[0] * spacing[1],
                "longest_diameter_mm": drawn.longest,
                "perpendicular_diameter_mm": drawn.perpendicular,
            }
        return measured


def find_lesions(mask: np.ndarray, probability: np.ndarray, uncertainty: np.ndarray) -> list[Lesion]:
    """
    The connected pieces of a mask, the largest first. Pixels that touch at a corner are connected.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean.
        probability (`numpy.ndarray` of shape `(height, width)`): Lesion probability, in [0, 1].
        uncertainty (`numpy.ndarray` of shape `(height, width)`): Predictive entropy in bits, in [0, 1].
    """
    pieces, _ = components(mask)
    rows, columns = np.nonzero(mask)
    order = np.argsort(pieces[mask], kind="stable")
    numbers, starts = np.unique(pieces[mask][order], return_index=True)
    lows, highs = (
        [extreme.reduceat(ends[order], starts) for ends in (columns, rows)] for extreme in (np.minimum, np.maximum)
    )
    found = []
    for number, left, top, right, bottom in zip(numbers, *lows, *highs, strict=True):
        box = int(left), int(top), int(right) + 1, int(bottom) + 1
        window = slice(box[1], box[3]), slice(box[0], box[2])
        inside = pieces[window] == number
        found.append(
            Lesion(box, inside, *(float(values[window][inside].mean()) for values in (probability, uncertainty)))
        )
    return sorted(found, key=lambda lesion: -lesion.area)


def axes(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0), corner: tuple[int, int] = (0, 0)) -> Axes:
    """
    The longest line between two points of the mask's outer edge, and the longest across its convex hull at right
    angles to it.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, not empty.
        spacing (`tuple[float, float]`): Height and width of a pixel; lengths have their unit.
        corner (`tuple[int, int]`): Where the mask's left and top lie in the image.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    edges = [np.stack([columns, rows + edge], axis=1) for edge in (0, 1) for columns in (left, right)]
    scale = np.array(spacing[::-1])
    points = _hull(np.concatenate(edges) * scale)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    start, end = np.unravel_index(distances.argmax(), distances.shape)
    longest = distances[start, end]
    along = (points[end] - points[start]) / longest
    across = np.array([-along[1], along[0]])
    # The longest line ends at the extremes of its direction, and between them each side of a hull runs one way.
    points = np.roll(points, -start, axis=0)
    half = (end - start) % len(points)
    sides = points[: half + 1], np.concatenate([points[half:], points[:1]])[::-1]
    at = points @ along
    ends = [np.interp(at, side @ along, side @ across) for side in sides]
    widest = np.abs(ends[0] - ends[1]).argmax()
    crossing = np.array([at[widest] * along + end[widest] * across for end in ends])
    lines = (line / scale + np.array(corner) for line in (points[[0, half]], crossing))
    return Axes(float(longest), float(abs(ends[0][widest] - ends[1][widest])), *lines)


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull (monotone chain), so that all pairs can be compared however large the mask is."""
    ordered = sorted(set(map(tuple, points.tolist())))
    corners: list[tuple[float, float]] = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for point in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        corners += chain[:-1]
    return np.array(corners)


def _turn(origin: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


__all__ = ["Axes", "Lesion", "axes", "find_lesions"]
