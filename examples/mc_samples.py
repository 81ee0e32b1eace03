"""What stochastic passes buy: accuracy, quality of the uncertainty and time, over their number and their kind.

    python examples/mc_samples.py --data BUSI
    python examples/mc_samples.py --data BUSI --splits splits.csv --samples 0 4 8 --output mc

The passes share one run of the image encoder. The last row repeats the encoder with dropout for each pass, as Monte
Carlo dropout in the whole network would: what the short cut costs is the difference to the row of as many passes.
Writes `mc_samples.json`, `mc_samples.md` and `mc_samples.png`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mirrored_view import as_table

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.evaluate import evaluate
from sfrecsam_hf.inference.checkpoints import load_checkpoint

COLUMNS = ("passes", "encoder", "dice", "ece", "auroc", "top5_error_share", "seconds")
HEADS = ("passes", "image encoder", "Dice", "calibration error", "AUROC against error", "errors in the 5 %", "s/image")


def measured(model: Any, processor: Any, dataset: Any, passes: int, sample_encoder: bool = False) -> dict[str, Any]:
    """One row of the table: the final mask, prompted automatically, on the lesions; nothing is held to be absent."""
    results, _ = evaluate(
        model,
        processor,
        dataset,
        ["auto"],
        quiet=True,
        mc_samples=passes,
        sample_encoder=sample_encoder,
        presence_threshold=0.0,
    )
    summary = results["columns"]["auto"]
    quality = summary["uncertainty"]
    return {
        "passes": passes,
        "encoder": "every pass" if sample_encoder else "once",
        "dice": summary["final"]["lesion"]["dice"]["mean"],
        "ece": quality["ece_final"],
        "auroc": quality["auroc"],
        "top5_error_share": quality["top5_error_share"],
        "seconds": summary["seconds_per_image"],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Dice, AUROC and time over the number of passes; the reference with a repeated encoder as crosses."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    shown = {"dice": "Dice", "auroc": "AUROC of uncertainty against error", "seconds": "seconds an image"}
    for axis, (name, title) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        for kind, marker, line in (("once", "o", "-"), ("every pass", "x", "")):
            points = [(row["passes"], row[name]) for row in rows if row["encoder"] == kind]
            axis.plot(*zip(*points, strict=True), marker=marker, linestyle=line, label=f"encoder {kind}")
        axis.set(title=title, xlabel="stochastic passes")
    axis.legend()
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
    rows.append(measured(model, processor, dataset, model.config.mc_samples, sample_encoder=True))
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "mc_samples.json").write_text(json.dumps(rows, indent=1) + "\n")
    shown = [[f"{row[name]:.3f}" if isinstance(row[name], float) else row[name] for name in COLUMNS] for row in rows]
    table = as_table(HEADS, shown)
    (output / "mc_samples.md").write_text(table)
    draw(rows, output / "mc_samples.png")
    print(table, end="")


if __name__ == "__main__":
    main()
