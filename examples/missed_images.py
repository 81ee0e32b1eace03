"""Puts the training images whose lesion a checkpoint misses into a folder of their own, to be shown more often.

    python examples/missed_images.py --data BUSI --splits splits.csv --output missed
    python examples/missed_images.py --data BUSI --splits splits.csv --model runs/mine/best --below 0.7 --output missed

A model learns the common lesion first, and a kind of which there are few can stay unlearned to the end: in BUSI the
lymph nodes of the armpit, as bright as what surrounds them. `sfrecsam train --train BUSI missed --shares 1 10` shows
each of them ten times as often. Images keep their names, so that the same CSV says that they are for training; those
of other splits are not looked at. Automatic prompts, one pass, no corrector, no mask refused.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sfrecsam_hf import segment
from sfrecsam_hf.checkpoints import load_checkpoint
from sfrecsam_hf.metrics import overlap
from sfrecsam_hf.splits import load_split


def places(name: str, folder: Path) -> tuple[Path, Path]:
    """Where an image and its mask go, so that their layout is found and the name stays."""
    if "/" in name:  # class/file.png, as in BUSI
        image = folder / name
        return image, image.with_name(f"{image.stem}_mask.png")
    return folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"


def main() -> None:
    """Writes the images and their masks, and prints how many there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data folder")
    parser.add_argument("--splits", help="CSV with image,group,split")
    parser.add_argument("--model", help="checkpoint; the bundled one if left out")
    parser.add_argument("--below", type=float, default=0.5, help="Dice under which a lesion is missed (%(default)s)")
    parser.add_argument("--output", required=True, help="folder to write")
    options = parser.parse_args()

    model, processor = load_checkpoint(options.model)
    dataset = load_split(options.data, "train", options.splits).select_columns(["image", "mask", "name"])
    pictures = (row["image"] for row in dataset)
    found = segment(model, processor, pictures, mc_samples=0, presence_threshold=0.0, correctors=())
    missed = 0
    for row, segmentation in zip(dataset, tqdm(found, total=len(dataset)), strict=True):
        true = np.asarray(row["mask"]) > 0
        if not true.any() or overlap(segmentation.mask, true)["dice"] >= options.below:
            continue
        missed += 1
        for picture, path in zip((row["image"], row["mask"]), places(row["name"], Path(options.output)), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    print(f"{missed} of {len(dataset)} training images are in {options.output}.")


if __name__ == "__main__":
    main()
