"""Draws the picture at the top of the README: each sample, its outline, its uncertainty and what was corrected.

python examples/sample_sheet.py --output hub_card/samples.png
"""

import argparse
from pathlib import Path

import numpy as np

from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import contact_sheet, corrections, heatmap, overlay
from sfrecsam_hf.modeling.segmentation import segment

SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"


def main() -> None:
    """Writes one row of three tiles per sample: mask (yellow) with truth (blue), uncertainty, corrections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(SAMPLES), help="folder with images and masks")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--output", required=True, help="PNG file to write")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    dataset = load_folder(options.data)
    tiles, captions = [], []
    for row, found in zip(dataset, segment(model, processor, dataset["image"]), strict=True):
        image, true = row["image"], np.asarray(row["mask"]) > 0
        tiles += [
            overlay(image, found.mask, true),
            heatmap(image, found.uncertainty),
            corrections(image, found.initial_mask, found.mask),
        ]
        captions += [f"{row['name']}: mask, truth", "uncertainty", "corrections"]
    contact_sheet(tiles, captions, columns=6).save(options.output)


if __name__ == "__main__":
    main()
