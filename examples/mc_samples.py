"""How many stochastic passes are worth their time: accuracy, quality of the uncertainty and time over their number.

    python examples/mc_samples.py --data BUSI
    python examples/mc_samples.py --data BUSI --splits splits.csv --samples 0 4 8 --output mc

All passes share one run of the image encoder. With 0 passes a small head predicts the uncertainty. Writes
`mc_samples.json`, `mc_samples.md` and `mc_samples.png`.
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tables import as_table, write

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.evaluate import evaluate
from sfrecsam_hf.inference.checkpoints import load_checkpoint

HEADS = {
    "passes": "passes",
    "dice": "Dice",
    "ece": "calibration error",
    "auroc": "AUROC against error",
    "top5_error_share": "errors in the 5 %",
    "seconds": "s/image",
}


def measured(model: Any, processor: Any, dataset: Any, passes: int) -> dict[str, Any]:
    """One row of the table: final masks of the lesions, automatic prompts, presence threshold off."""
    results, _ = evaluate(model, processor, dataset, ["auto"], quiet=True, mc_samples=passes, presence_threshold=0.0)
    summary = results["columns"]["auto"]
    quality = summary["uncertainty"]
    return {
        "passes": passes,
        "dice": summary["final"]["lesion"]["dice"]["mean"],
        "ece": quality["ece"]["corrected"]["all"],
        "auroc": quality["auroc"],
        "top5_error_share": quality["top5_error_share"],
        "seconds": summary["seconds_per_image"],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Dice, AUROC and time over the number of passes."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    shown = {"dice": "Dice", "auroc": "AUROC of uncertainty against error", "seconds": "seconds an image"}
    for axis, (name, title) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axis.plot([row["passes"] for row in rows], [row[name] for row in rows], marker="o")
        axis.set(title=title, xlabel="stochastic passes")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Evaluates each number of passes and writes table, numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data folder")
    parser.add_argument("--split", default="val", help="its split (%(default)s)")
    parser.add_argument("--splits", help="CSV with image,group,split")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--samples", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16], help="(%(default)s)")
    parser.add_argument("--output", default="mc_samples", help="folder to write to (%(default)s)")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    dataset = load_split(options.data, options.split, options.splits)
    rows = [measured(model, processor, dataset, passes) for passes in options.samples]
    shown = [[f"{row[name]:.3f}" if isinstance(row[name], float) else row[name] for name in HEADS] for row in rows]
    table = as_table(list(HEADS.values()), shown)
    write(options.output, "mc_samples", rows, table)
    draw(rows, Path(options.output, "mc_samples.png"))
    print(table, end="")


if __name__ == "__main__":
    main()
