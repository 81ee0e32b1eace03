"""What each corrector gives behind one base: the initial mask, then each corrector alone, then both.

    python examples/correctors.py --data BUSI BUS-BRA
    python examples/correctors.py --data BUSI --splits splits.csv --model runs/mine/best --output runs/correctors

The correctors of one checkpoint are switched on one by one, so that all rows share base, seed and suspicious pixels.
Differences to the initial mask are paired by image, with bootstrap 95 % intervals. Writes `correctors.json` and
`correctors.md`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ablation import CORRECTORS, METRICS, ours
from unet_baseline import difference, signed

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.inference.checkpoints import load_checkpoint

ROWS = {"initial mask": (), **CORRECTORS}


def measured(model: Any, processor: Any, dataset: Any) -> list[dict[str, Any]]:
    """The rows of one data set: means over its lesions, prompted automatically, and differences to the first row."""
    tables = {}
    for row, correctors in ROWS.items():
        images = ours(model, processor, dataset, correctors)
        tables[row] = {metric: np.array([image[metric] for image in images]) for metric in METRICS}
    before = tables["initial mask"]
    return [
        {
            "row": row,
            "images": len(table["dice"]),
            **{
                metric: {"mean": float(values.mean()), **difference(values, before[metric])}
                for metric, values in table.items()
            },
        }
        for row, table in tables.items()
    ]


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """A table for each data set."""
    text = ["Automatic prompts, validation lesions, original size, no image refused; differences to the initial mask."]
    for data, rows in found.items():
        text += ["", f"{data}, {rows[0]['images']} lesion images:", ""]
        text += [f"| row | {' | '.join(f'{metric} | difference' for metric in METRICS)} |", "|---" * 7 + "|"]
        for row in rows:
            cells = []
            for metric in METRICS:
                cells += [f"{row[metric]['mean']:.3f}", signed(row[metric]) if ROWS[row["row"]] else ""]
            text.append(f"| {row['row']} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Measures, writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="data folders; their validation split counts")
    parser.add_argument("--splits", help="CSV with image,group,split")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", type=Path, default=Path("runs/correctors"), help="folder (%(default)s)")
    options = parser.parse_args()
    model, processor = load_checkpoint(options.model)
    found = {}
    for data in options.data:
        found[Path(data).name] = measured(model, processor, load_split(data, "val", options.splits))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "correctors.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "correctors.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
