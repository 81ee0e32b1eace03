"""The tables of a prediction run: what their columns mean, how they are kept, and what an earlier run has done."""

import csv
import json
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..modeling.segmentation import Segmentation
from .writing import replacing

IMAGES, LESIONS, COMBINED, MEANINGS = "predictions.csv", "lesions.csv", "predictions.json", "columns.txt"
PART = "{}.part{}.csv"
Row = dict[str, Any]

SIZES: dict[str, tuple[type, str]] = {
    "x1": (int, "left edge of the lesion in pixels; in predictions.csv of the largest lesion, as below"),
    "y1": (int, "its top edge"),
    "x2": (int, "its right edge"),
    "y2": (int, "its bottom edge"),
    "longest_diameter": (float, "longest line from outer edge to outer edge of the lesion, in pixels"),
    "perpendicular_diameter": (float, "longest line at right angles to it, in pixels"),
}
MILLIMETRES: dict[str, tuple[type, str]] = {
    "area_mm2": (float, "area in square millimetres; empty where the size of a pixel is not known"),
    "longest_diameter_mm": (float, "longest diameter in millimetres"),
    "perpendicular_diameter_mm": (float, "diameter at right angles to it in millimetres"),
}
IMAGE_COLUMNS: dict[str, tuple[type, str]] = {
    "image": (str, "name of the image, with which the names of its pictures begin"),
    "width": (int, "width of the image in pixels"),
    "height": (int, "height of the image in pixels"),
    "presence": (float, "probability from 0 to 1 that the image shows a lesion"),
    "lesions": (int, "number of lesions; lesions.csv has a row for each"),
    "area": (int, "area of all lesions in pixels"),
    **SIZES,
    "mean_uncertainty": (float, "mean entropy from 0 to 1 bit inside the lesions, or of the image if there is none"),
    **MILLIMETRES,
    "source": (str, "the file that was segmented"),
    "content": (str, "SHA-256 of that file"),
    "settings": (str, "prompts and options, as JSON"),
    "checkpoint": (str, "hash of the weights and the configuration"),
}
LESION_COLUMNS: dict[str, tuple[type, str]] = {
    "image": (str, "name of the image"),
    "lesion": (int, "number of the lesion in its image: 1 is the largest"),
    "probability": (float, "mean probability from 0 to 1 that its pixels are lesion"),
    "mean_uncertainty": (float, "mean entropy of its pixels from 0 to 1 bit"),
    "area": (int, "its area in pixels"),
    **SIZES,
    **MILLIMETRES,
}
# What the shorter tables show of a picture: of a clip's frames, and of the demo's images.
MEASURED = (
    "presence",
    "lesions",
    "area",
    "longest_diameter",
    "perpendicular_diameter",
    "mean_uncertainty",
    *MILLIMETRES,
)
FRAMES = "_frames.csv"  # of a clip, after its name
FRAME_COLUMNS: dict[str, tuple[type, str]] = {
    "frame": (int, "number of the frame, from 1"),
    "seconds": (float, "when it is shown"),
    **{name: IMAGE_COLUMNS[name] for name in MEASURED},
    "measure_here": (int, "1 on the frame with the longest diameter, 0 on the others"),
}
TABLES = {IMAGES: IMAGE_COLUMNS, LESIONS: LESION_COLUMNS}
REMEMBERED = ("source", "content", "settings", "checkpoint")


@dataclass
class Tables:
    """
    Rows by the name of the image.

    Args:
        images (`dict[str, Row]`): One row for each image.
        lesions (`dict[str, list[Row]]`): The rows of its lesions, the largest first.
    """

    images: dict[str, Row] = field(default_factory=dict)
    lesions: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def read(cls, output: Path) -> "Tables":
        """What earlier runs have done, finished or not, without the beginning of a row that a killed process left."""
        found = cls()
        for path in (output / IMAGES, *_parts(output, IMAGES)):
            found.images |= {row["image"]: row for row in _rows(path, IMAGE_COLUMNS)}
        numbered: dict[str, dict[int, Row]] = {}
        for path in (output / LESIONS, *_parts(output, LESIONS)):
            for row in _rows(path, LESION_COLUMNS):
                numbered.setdefault(row["image"], {})[row["lesion"]] = row
        for name, row in found.images.items():
            own = numbered.get(name, {})
            found.lesions[name] = [own[number] for number in range(1, (row["lesions"] or 0) + 1) if number in own]
        return found

    def sorted(self, names: Iterable[str]) -> "Tables":
        """The rows of these images first, and then the others."""
        order = [name for name in dict.fromkeys([*names, *self.images]) if name in self.images]
        return Tables(*({name: rows[name] for name in order} for rows in (self.images, self.lesions)))

    def without(self, names: Iterable[str]) -> "Tables":
        """All rows but those of these images."""
        left_out = set(names)
        return Tables(
            *(
                {name: row for name, row in rows.items() if name not in left_out}
                for rows in (self.images, self.lesions)
            )
        )

    def write(self, output: Path) -> None:
        """Writes the tables and the meanings of their columns, each whole or not at all; parts are in them then."""
        lesions = [row for rows in self.lesions.values() for row in rows]
        combined = [row | {"lesions": self.lesions[name]} for name, row in self.images.items()]
        with ExitStack() as whole:
            texts = {name: whole.enter_context(replacing(output / name)) for name in (COMBINED, MEANINGS)}
            texts[COMBINED].write_text(json.dumps({"images": combined}, indent=1) + "\n", encoding="utf-8")
            texts[MEANINGS].write_text(meanings(), encoding="utf-8")
            for name, rows in ((LESIONS, lesions), (IMAGES, self.images.values())):
                with whole.enter_context(replacing(output / name)).open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, TABLES[name])
                    writer.writeheader()
                    writer.writerows(rows)
        for name in TABLES:
            for part in _parts(output, name):
                part.unlink()


class Part:
    """Rows as they come, of one process, so that an interrupted run loses none. A row is written after its lesions."""

    def __init__(self, output: Path, process: int):
        self.files = {}
        self.writers = {}
        for name in (LESIONS, IMAGES):
            path = output / PART.format(name.removesuffix(".csv"), process)
            self.files[name] = path.open("w", newline="", encoding="utf-8")
            self.writers[name] = csv.DictWriter(self.files[name], TABLES[name])
            self.writers[name].writeheader()

    def add(self, row: Row, lesions: list[Row]) -> None:
        for name, rows in ((LESIONS, lesions), (IMAGES, [row])):
            self.writers[name].writerows(rows)
            self.files[name].flush()

    def close(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # a full disk: the row that did not fit is not in the table
                file.close()


def rows_of(
    name: str, segmentation: Segmentation, spacings: list[tuple[float, float] | None]
) -> tuple[Row, list[Row]]:
    """
    The row of an image and those of its lesions.

    Args:
        name (`str`): Of the image.
        segmentation ([`Segmentation`]): The answer.
        spacings (`list`): Height and width of a pixel in millimetres at each lesion, or None.
    """
    height, width = segmentation.mask.shape
    measured = segmentation.measurements()
    lesions = [
        {"image": name, "lesion": number, **_rounded(lesion.measurements(spacing))}
        for number, (lesion, spacing) in enumerate(zip(segmentation.lesions, spacings, strict=True), 1)
    ]
    row = {"image": name, "width": width, "height": height, **_rounded(measured)}
    if lesions and all("area_mm2" in lesion for lesion in lesions):
        row |= {column: lesions[0][column] for column in MILLIMETRES}
        row["area_mm2"] = round(sum(lesion["area_mm2"] for lesion in lesions), 2)
    return row, lesions


def meanings() -> str:
    """What each column says, as plain text."""
    lines = []
    for name, columns in (TABLES | {f"NAME{FRAMES} of a clip": FRAME_COLUMNS}).items():
        lines += [f"{name}", *(f"  {column:26} {meaning}" for column, (_, meaning) in columns.items()), ""]
    return "\n".join(lines)


def _rounded(measured: dict[str, Any]) -> Row:
    """A box as four numbers; lengths and areas to a hundredth, shares to a ten thousandth."""
    box = measured.pop("box") or [None] * 4
    row = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    for column, value in measured.items():
        digits = 4 if column in ("presence", "probability", "mean_uncertainty") else 2
        row[column] = round(value, digits) if isinstance(value, float) else value
    return row


def _parts(output: Path, name: str) -> list[Path]:
    return sorted(output.glob(PART.format(name.removesuffix(".csv"), "*")))


def _rows(path: Path, columns: dict[str, tuple[type, str]]) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        complete = [line for line in file if line.endswith("\n")]
    try:
        return [
            {column: kind(row[column]) if row[column] else None for column, (kind, _) in columns.items()}
            for row in csv.DictReader(complete)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a table that this version has written; move it or choose another --output."
        ) from error
