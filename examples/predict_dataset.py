"""Segments a column of a `datasets` data set in batches, and adds the masks to it as another column.

    python examples/predict_dataset.py
    python examples/predict_dataset.py --data space/samples --output segmented.parquet --batch-size 2

Any data set with a column of images will do, such as one of `datasets.load_dataset`.
"""

import argparse

import numpy as np
from datasets import Dataset, Features, Image, concatenate_datasets
from transformers import pipeline

from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.bundled import bundled_checkpoint, bundled_space


def main() -> None:
    """Writes the data set with a column `predicted` and prints the Dice of each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=bundled_space() / "samples", help="folder with images and masks")
    parser.add_argument("--model", default=bundled_checkpoint(), help="checkpoint; the bundled one if left out")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", default="segmented.parquet", help="file to write (%(default)s)")
    options = parser.parse_args()

    dataset = load_folder(options.data)
    segmenter = pipeline("lesion-segmentation", model=str(options.model))
    predicted = []
    # The pipeline reads, segments and hands over a batch at a time, however large the data set is.
    for row, found in zip(dataset, segmenter(dataset["image"], batch_size=options.batch_size), strict=True):
        dice = overlap(np.asarray(found["mask"]) > 0, np.asarray(row["mask"]) > 0)["dice"]
        print(f"{row['name']:20} Dice {dice:.3f}")
        predicted.append(found["mask"])
    column = Dataset.from_dict({"predicted": predicted}, features=Features({"predicted": Image()}))
    dataset = concatenate_datasets([dataset, column], axis=1)
    dataset.to_parquet(options.output)
    print(f"{options.output}: {len(dataset)} images, columns {', '.join(dataset.column_names)}")


if __name__ == "__main__":
    main()
