"""The outline of a boolean mask as closed polygons, whose insides hold the centres of exactly the mask's pixels."""

from collections import defaultdict

import numpy as np

RIGHT, DOWN, LEFT, UP = (1, 0), (0, 1), (-1, 0), (0, -1)
LEFT_FIRST = {RIGHT: (UP, RIGHT, DOWN), DOWN: (RIGHT, DOWN, LEFT), LEFT: (DOWN, LEFT, UP), UP: (LEFT, UP, RIGHT)}

Point = tuple[int, int]


def outlines(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[np.ndarray]:
    """
    The rings around a mask and its holes, through the middles of the pixels' outer sides.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean. Pixels that touch at a corner are connected.
        corner (`tuple[int, int]`): Where the mask's left and top lie in the image.

    Returns:
        `list[numpy.ndarray]`, each of shape `(points, 2)`: `(x, y)` in pixels from the image's upper left corner;
        clockwise as one sees it around a mask, counterclockwise around a hole; the largest ring first and holes last.
    """
    steps = _sides(mask)
    rings = []
    while steps:
        at = next(iter(steps))
        way = next(iter(steps[at]))
        taken: dict[tuple[Point, Point], None] = {}
        while (at, way) not in taken:
            taken[at, way] = None
            at = at[0] + way[0], at[1] + way[1]
            # At a corner where two pixels touch, turning left keeps them in one ring.
            way = next(turn for turn in LEFT_FIRST[way] if turn in steps[at])
        for place, used in taken:
            steps[place].discard(used)
            if not steps[place]:
                del steps[place]
        ring = [(x + right / 2, y + down / 2) for (x, y), (right, down) in taken]
        rings.append(_without_middles(np.array(ring)) + corner)
    return sorted(rings, key=signed_area, reverse=True)


def signed_area(ring: np.ndarray) -> float:
    """Of a ring of shape `(points, 2)`; negative around a hole."""
    following = np.roll(ring, -1, axis=0)
    return float(ring[:, 0] @ following[:, 1] - ring[:, 1] @ following[:, 0]) / 2


def _sides(mask: np.ndarray) -> dict[Point, set[Point]]:
    """From each corner of a pixel the directions of the mask's outer sides, with the mask to their right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[Point, set[Point]] = defaultdict(set)
    for way, beside, offset in (
        (RIGHT, padded[:-2, 1:-1], (0, 0)),
        (DOWN, padded[1:-1, 2:], (1, 0)),
        (LEFT, padded[2:, 1:-1], (1, 1)),
        (UP, padded[1:-1, :-2], (0, 1)),
    ):
        for row, column in np.argwhere(inside & ~beside).tolist():
            steps[column + offset[0], row + offset[1]].add(way)
    return steps


def _without_middles(ring: np.ndarray) -> np.ndarray:
    """The ring without points on a straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
