"""What the mirror image buys: the answer averaged over both views, against that to the image alone.

    python examples/mirrored_view.py --data BUSI BUS-BRA
    python examples/mirrored_view.py --data BUSI --splits splits.csv --model runs/mine/best --output mirrored

Test-time augmentation takes twice the time and is an option, `--mirror`; no other figure of this repository uses it.
Lesions at their original size, with the thresholds of the checkpoint. Writes `mirrored_view.json` and
`mirrored_view.md`; the difference is in Dice, paired by image, with its bootstrap 95 % interval.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from unet_baseline import difference, signed

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.evaluate import COLUMNS, evaluate
from sfrecsam_hf.inference.checkpoints import load_checkpoint

HEADS = ("data", "prompt", "lesions", "Dice", "with the mirror image", "difference")
Rows = list[dict[str, Any]]
QUALITIES = {"auroc": "AUROC against error", "ece_final": "calibration error"}


def compared(model: Any, processor: Any, dataset: Any) -> Rows:
    """One row for each prompt column: both figures of everything, the image alone first."""
    plain, both = (evaluate(model, processor, dataset, quiet=True, mirror=mirror)[0] for mirror in (False, True))
    rows = []
    for column in COLUMNS:
        dice = [lesion_dice(results, column) for results in (plain, both)]
        summaries = [results["columns"][column] for results in (plain, both)]
        rows.append(
            {
                "prompt": column,
                "lesions": len(dice[0]),
                "dice": [float(values.mean()) for values in dice],
                **difference(dice[1], dice[0]),
                **{name: [summary["uncertainty"][name] for summary in summaries] for name in QUALITIES},
                "normals_given_a_mask": [summary["normal"]["false_positive_rate"] for summary in summaries],
                "seconds_per_image": [summary["seconds_per_image"] for summary in summaries],
            }
        )
    return rows


def lesion_dice(results: dict[str, Any], column: str) -> np.ndarray:
    """Of every lesion of an evaluation."""
    rows = (row for row in results["per_image"] if row["column"] == column and row["lesion"])
    return np.array([row["final"]["dice"] for row in rows])


def markdown(rows: Rows) -> str:
    """The rows as a table; pairs read `alone -> with the mirror image`."""
    heads = (*HEADS, *QUALITIES.values(), "normal scans given a mask", "s/image")
    lines = []
    for row in rows:
        pairs = [row[name] for name in (*QUALITIES, "normals_given_a_mask", "seconds_per_image")]
        shown = ["" if None in pair else f"{pair[0]:.3f} -> {pair[1]:.3f}" for pair in pairs]
        dice = [f"{value:.3f}" for value in row["dice"]]
        lines.append((row["data"], row["prompt"], row["lesions"], *dice, signed(row), *shown))
    return as_table(heads, lines)


def as_table(heads: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """In Markdown, with every cell as `str` shows it."""
    first, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (heads, *lines))
    return "\n".join([first, "|---" * len(heads) + "|", *rest]) + "\n"


def tabulate(about: str, name: str, measure: Callable[[Any, Any, Any], Rows], table: Callable[[Rows], str]) -> None:
    """Compares on each data folder of the command line; writes `NAME.json` and the table `NAME.md`, and prints it."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="data folders")
    parser.add_argument("--split", default="val", help="their split (%(default)s)")
    parser.add_argument("--splits", help="CSV with image,group,split")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", default=name, help="folder to write to (%(default)s)")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    rows = []
    for source in options.data:
        dataset = load_split(source, options.split, options.splits)
        rows += [{"data": Path(source).name, **row} for row in measure(model, processor, dataset)]
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (output / f"{name}.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    tabulate(__doc__, "mirrored_view", compared, markdown)
