"""Does the presence score see the lesion? The same scan, cropped with its lesion and beside it.

    python examples/beside_the_lesion.py --data BUSI BUS-BRA
    python examples/beside_the_lesion.py --data BUSI --splits splits.csv --model runs/mine/best --output beside

Normal scans are few, most data sets have none, and how they were taken may give them away. This needs none: of each
lesion image of the split it cuts the largest corner that shows no lesion, and a part of the same size and proportions
that shows it whole. Both come from the same woman, scanner and hand, so that only a score that sees the lesion tells
them apart. Where no corner of at least two fifths of either side is free, or the lesion does not fit, the image is
left out. Counts what the presence threshold lets through. Writes `beside_the_lesion.json` and `beside_the_lesion.md`.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from mirrored_view import Rows, as_table, tabulate
from sklearn.metrics import roc_auc_score

from sfrecsam_hf import segment

SHARES = np.arange(0.85, 0.39, -0.05)  # of either side
HEADS = ("data", "scans", "given a mask with the lesion", "given a mask beside it", "AUROC")
Part = tuple[slice, slice]


def parts(mask: np.ndarray) -> tuple[Part, Part] | None:
    """The part that shows the lesion, and the one that does not."""
    extent = [(int(line.min()), int(line.max()) + 1) for line in np.nonzero(mask)]
    for share in SHARES:
        size = [round(share * side) for side in mask.shape]
        if any(end - start > room for (start, end), room in zip(extent, size, strict=True)):
            return None
        ends = [(0, whole - side) for whole, side in zip(mask.shape, size, strict=True)]
        for corner in product(*ends):
            free = _part(corner, size)
            if not mask[free].any():
                centred = [
                    min(max((start + end - side) // 2, 0), last)
                    for (start, end), side, (_, last) in zip(extent, size, ends, strict=True)
                ]
                return _part(centred, size), free
    return None


def _part(starts: Sequence[int], size: Sequence[int]) -> Part:
    return tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))


def compared(model: Any, processor: Any, dataset: Any) -> Rows:
    """The one row of a data set."""
    pictures = []
    for row in dataset.select_columns(["image", "mask"]):
        mask = np.asarray(row["mask"]) > 0
        found = parts(mask) if mask.any() else None
        if found is not None:
            scan = np.asarray(row["image"].convert("L"))
            pictures.append([scan[part] for part in found])
    answers = segment(
        model, processor, [part for pair in pictures for part in pair], mc_samples=0, presence_threshold=0.0
    )
    presence = np.array([answer.presence for answer in answers]).reshape(-1, 2)
    held, beside = (presence >= model.config.presence_threshold).sum(axis=0).tolist()
    told = float(roc_auc_score(np.tile([1, 0], len(presence)), presence.ravel())) if pictures else None
    return [{"scans": len(presence), "held_given_a_mask": held, "beside_given_a_mask": beside, "auroc": told}]


def markdown(rows: Rows) -> str:
    """The rows as a table."""
    lines = []
    for row in rows:
        told = "" if row["auroc"] is None else f"{row['auroc']:.3f}"
        lines.append((row["data"], row["scans"], row["held_given_a_mask"], row["beside_given_a_mask"], told))
    return as_table(HEADS, lines)


if __name__ == "__main__":
    tabulate(__doc__, "beside_the_lesion", compared, markdown)
