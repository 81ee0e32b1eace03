"""Images that others object to: told, counted, and not trained on."""

import csv
from pathlib import Path

from datasets import Dataset


def read_objections(path: str | Path) -> dict[str, str]:
    """
    What is objected to, by name of image; images without an objection are left out.

    Args:
        path (`str`): CSV with the columns `image` and `objection`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lacks a column.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; give a CSV with the columns image and objection.")
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"image", "objection"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path} needs the columns image and objection.")
        return {row["image"]: row["objection"] for row in reader if row["objection"]}


def without_objections(dataset: Dataset, path: str | Path | None) -> Dataset:
    """The data set without the images that the CSV objects to; all of it without a CSV."""
    if path is None:
        return dataset
    objected = read_objections(path)
    return dataset.select([index for index, name in enumerate(dataset["name"]) if name not in objected])
