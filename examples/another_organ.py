"""How well does a checkpoint that learned another organ outline and measure it? Fetal heads of HC18.

    sfrecsam train --model hub_card --train HC18 --splits splits.csv --target "fetal head" \\
        --modality "obstetric ultrasound" --output runs/heads
    python examples/another_organ.py --model runs/heads/best --data HC18 --splits splits.csv --split test

`HC18/index.csv` holds the width of each image, the size of its pixels at this width, and the circumference that was
recorded; the images may have been made smaller since. The circumference of a mask is that of the ellipse with its area
and second moments. Writes `another_organ.json` and `another_organ.md`, a line for each checkpoint.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from tables import as_table, write

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.segmentation import segment

HEADS = ("checkpoint", "images", "Dice", "error of the circumference in mm", "in %", "without a mask")


def circumference(mask: np.ndarray) -> float:
    """Of the ellipse with the moments of a mask, in pixels (Ramanujan's second formula)."""
    places = np.stack(np.nonzero(mask))
    if places.shape[1] < 3:
        return 0.0
    a, b = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(places)))
    h = ((a - b) / (a + b)) ** 2
    return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", required=True, help="checkpoint folders or Hub names")
    parser.add_argument("--data", required=True, help="folder of HC18, with index.csv")
    parser.add_argument("--splits", help="table with the columns image, group and split")
    parser.add_argument("--split", help="judge this split only")
    parser.add_argument("--output", default="runs/another_organ", help="folder for the table (%(default)s)")
    options = parser.parse_args()
    rows = load_split(options.data, options.split, options.splits)
    with (Path(options.data) / "index.csv").open(newline="") as file:
        index = {row["name"]: row for row in csv.DictReader(file)}
    recorded = np.array([float(index[name]["head_circumference_mm"]) for name in rows["name"]])
    truths = [np.asarray(mask) > 0 for mask in rows["mask"]]
    told = [(float(index[name]["pixel_size_mm_after_resize"]), float(index[name]["width"])) for name in rows["name"]]
    size = np.array([pixel * width / true.shape[1] for (pixel, width), true in zip(told, truths, strict=True)])
    found_file = Path(options.output) / "another_organ.json"
    found = json.loads(found_file.read_text()) if found_file.is_file() else {}
    found["outlines of HC18"] = judged(truths, truths, size, recorded)
    for name in options.model:
        model, processor = load_checkpoint(name)
        answers = segment(model, processor, rows["image"], presence_threshold=0.0)
        found[name] = judged([answer.mask for answer in answers], truths, size, recorded)
        write(options.output, "another_organ", found, table(found))
    print(table(found))


def judged(masks: list[np.ndarray], truths: list[np.ndarray], size: np.ndarray, recorded: np.ndarray) -> dict:
    """Dice, and how far the circumference is from the recorded one."""
    dice = [overlap(mask, true)["dice"] for mask, true in zip(masks, truths, strict=True)]
    error = np.abs(np.array([circumference(mask) for mask in masks]) * size - recorded)
    return {
        "images": len(masks),
        "dice": float(np.mean(dice)),
        "error_mm": float(error.mean()),
        "error_share": float((error / recorded).mean()),
        "empty": sum(not mask.any() for mask in masks),
    }


def table(found: dict[str, dict]) -> str:
    return as_table(
        HEADS,
        (
            (
                name,
                one["images"],
                f"{one['dice']:.3f}",
                f"{one['error_mm']:.1f}",
                f"{one['error_share']:.1%}",
                one["empty"],
            )
            for name, one in found.items()
        ),
    )


if __name__ == "__main__":
    main()
