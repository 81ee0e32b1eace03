"""95 % intervals: of means by resampling groups, of shares by Wilson's formula."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

BOOTSTRAPS = 2000


def means(table: np.ndarray, names: Sequence[str], groups: Sequence[Any]) -> dict[str, dict[str, float]]:
    """
    Mean of every column with its bootstrap 95 % interval.

    Images of one group (a patient, a set of duplicates) resemble each other, so groups are resampled, not images.

    Args:
        table (`numpy.ndarray` of shape `(images, columns)`): Values.
        names (`Sequence[str]`): Of the columns.
        groups (`Sequence`): The group of each image.

    Returns:
        `dict`: For each name `mean`, `low`, `high`, and `group_mean`, in which each group counts once.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(member).astype(float)
    sums = np.stack([np.bincount(member, column) for column in table.T], axis=1)
    count = len(sizes)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAPS)
    low, high = np.percentile(drawn @ sums / (drawn @ sizes)[:, None], [2.5, 97.5], axis=0)
    columns = zip(table.mean(axis=0), low, high, (sums / sizes[:, None]).mean(axis=0), strict=True)
    return {
        name: dict(zip(("mean", "low", "high", "group_mean"), map(float, column), strict=True))
        for name, column in zip(names, columns, strict=True)
    }


def share(flags: Sequence[bool]) -> dict[str, Any] | None:
    """
    A share of images with Wilson's 95 % interval.

    Args:
        flags (`Sequence[bool]`): Whether each image counts.

    Returns:
        `dict`: `count`, `images`, `share`, `low` and `high`; None without an image.
    """
    count, images = int(np.sum(flags)), len(flags)
    if not images:
        return None
    interval = binomtest(count, images).proportion_ci(method="wilson")
    return {
        "count": count,
        "images": images,
        "share": count / images,
        "low": float(interval.low),
        "high": float(interval.high),
    }
