"""Prompts taken from the ground truth: for training, and for the `oracle` columns of an evaluation. Nowhere else."""

import numpy as np
from scipy import ndimage


def oracle_point(mask: np.ndarray) -> tuple[float, float] | None:
    """
    The click that the published SAM variants are given: the innermost pixel of the largest true lesion.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean ground truth.

    Returns:
        `(x, y)` in pixels of the mask, or None for an empty mask.
    """
    if not mask.any():
        return None
    parts, count = ndimage.label(mask)
    largest = 1 + int(np.argmax(ndimage.sum_labels(mask, parts, range(1, count + 1))))
    depth = ndimage.distance_transform_edt(np.pad(parts == largest, 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return float(column), float(row)


def random_click(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """A uniformly drawn pixel `(x, y)` of a non-empty mask, as a user who does not aim would click."""
    rows, columns = np.nonzero(mask)
    chosen = rng.integers(len(rows))
    return float(columns[chosen]), float(rows[chosen])


def loose_box(mask: np.ndarray, rng: np.random.Generator, slack: float = 0.15) -> tuple[float, float, float, float]:
    """The box `(x1, y1, x2, y2)` of a non-empty mask, each side moved by up to `slack` of the box's extent."""
    rows, columns = np.nonzero(mask)
    x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    moves = rng.uniform(-slack / 3, slack, size=4)
    height, width = mask.shape
    return (
        float(np.clip(x1 - moves[0] * (x2 - x1), 0, width - 1)),
        float(np.clip(y1 - moves[1] * (y2 - y1), 0, height - 1)),
        float(np.clip(x2 + moves[2] * (x2 - x1), 0, width - 1)),
        float(np.clip(y2 + moves[3] * (y2 - y1), 0, height - 1)),
    )
