"""What the measuring examples share: paired differences, the spread of timings, and tables in Markdown."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BOOTSTRAPS = 2000


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """
    Mean of `ours - theirs`, paired by image, with its bootstrap 95 % interval.

    Args:
        ours (`numpy.ndarray` of shape `(images,)`): A metric of each image.
        theirs (`numpy.ndarray` of shape `(images,)`): The same metric of another model.
    """
    paired = ours - theirs
    drawn = np.random.default_rng(0).integers(len(paired), size=(BOOTSTRAPS, len(paired)))
    low, high = np.percentile(paired[drawn].mean(axis=1), [2.5, 97.5])
    return {"difference": float(paired.mean()), "low": float(low), "high": float(high)}


def signed(found: dict[str, float]) -> str:
    """A difference and its interval as the tables write it."""
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def spread(values: list[float]) -> dict[str, float]:
    """Median and middle half."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def as_table(heads: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown, with every cell as `str` shows it."""
    first, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (heads, *lines))
    return "\n".join([first, "|---" * len(heads) + "|", *rest]) + "\n"


def write(folder: str | Path, name: str, found: Any, table: str) -> None:
    """Writes `NAME.json` with the numbers and `NAME.md` with the table."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
