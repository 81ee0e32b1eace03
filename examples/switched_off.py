"""What the trained model owes to each of its parts: outlines with one of them switched off.

    python examples/switched_off.py --data BUSI BUS-BRA
    python examples/switched_off.py --data BUSI --splits splits.csv --model runs/mine/best --output off

Each part was added as a layer that starts at zero, and does nothing while it is zero; here it is set back to that.
That is not an ablation, which trains without the part (`ablation.py`): others may then do its work. One pass, no
corrector, no mask refused; lesions at their original size. The difference is in Dice, paired by image, with its
bootstrap 95 % interval. Writes `switched_off.json` and `switched_off.md`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from mirrored_view import Rows, as_table, lesion_dice, tabulate
from unet_baseline import difference, signed

from sfrecsam_hf.evaluation.evaluate import COLUMNS, evaluate

PARTS = {
    "frequency filters": "branch.filters.*",
    "attention of the ViT to the branch": "vision_encoder.*.cross_attention.projection.*",
    "adapters of the ViT": "vision_encoder.*.adapter.up.*",
    "gates on the skips": "coarse_mask_head.gates.*.factor.*",
    "fusion of prompts and features": "prompt_fusion.leave.*",
    "high-resolution join": "high_resolution_join.projection.*",
}
HEADS = ("data", "switched off", "prompt", "lesions", "Dice", "difference")


@contextmanager
def switched_off(model: torch.nn.Module, pattern: str) -> Iterator[None]:
    """Sets the parameters of that name to zero for a while."""
    parameters = [parameter for name, parameter in model.named_parameters() if fnmatch(name, pattern)]
    learned = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        yield
        for parameter, values in zip(parameters, learned, strict=True):
            parameter.copy_(values)


def compared(model: Any, processor: Any, dataset: Any) -> Rows:
    """One row for each part and prompt column, after one for the whole model; parts it does not have are left out."""

    def dice() -> dict[str, np.ndarray]:
        options = {"mc_samples": 0, "presence_threshold": 0.0, "correctors": ()}
        results, _ = evaluate(model, processor, dataset, quiet=True, **options)
        return {column: lesion_dice(results, column) for column in COLUMNS}

    whole = dice()
    rows = [_row("nothing", column, values) for column, values in whole.items()]
    for part, pattern in PARTS.items():
        if any(fnmatch(name, pattern) for name, _ in model.named_parameters()):
            with switched_off(model, pattern):
                rows += [_row(part, column, values, whole[column]) for column, values in dice().items()]
    return rows


def _row(part: str, column: str, values: np.ndarray, whole: np.ndarray | None = None) -> dict[str, Any]:
    row = {"switched_off": part, "prompt": column, "lesions": len(values), "dice": float(values.mean())}
    return row if whole is None else {**row, **difference(values, whole)}


def markdown(rows: Rows) -> str:
    """The rows as a table."""
    lines = []
    for row in rows:
        cells = [row[name] for name in ("data", "switched_off", "prompt", "lesions")]
        shown = signed(row) if "difference" in row else ""
        lines.append((*cells, f"{row['dice']:.3f}", shown))
    return as_table(HEADS, lines)


if __name__ == "__main__":
    tabulate(__doc__, "switched_off", compared, markdown)
