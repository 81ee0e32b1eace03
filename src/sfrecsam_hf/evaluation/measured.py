"""What was measured on images, before any mean is taken: rows and counts that can be saved and added up."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pixel_quality import PixelCounts

COLUMNS = ("auto", "oracle-point")
MASKS = ("initial", "final")
METRICS = ("dice", "iou", "precision", "recall", "hd95", "assd")


@dataclass
class Measured:
    r"""
    What was measured on images. Measurements add up, such as those of the folds of a cross-validation.

    Args:
        rows (`list[dict]`): One for each image and prompt column; see [`~sfrecsam_hf.evaluation.evaluate.measure`].
        pixels (`dict[str, PixelCounts]`): Of the lesion images, for each prompt column.
        seconds (`dict[str, float]`): That each prompt column took.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    pixels: dict[str, PixelCounts] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: "Measured") -> "Measured":
        pixels, seconds = dict(self.pixels), dict(self.seconds)
        for column, counts in other.pixels.items():
            pixels[column] = pixels.get(column, PixelCounts.none()) + counts
            seconds[column] = seconds.get(column, 0.0) + other.seconds[column]
        return Measured(self.rows + other.rows, pixels, seconds)

    def save(self, path: str | Path) -> None:
        """Writes a JSON file from which [`Measured.load`] goes on."""
        pixels = {column: counts.to_dict() for column, counts in self.pixels.items()}
        fresh = Path(f"{path}.new")
        fresh.write_text(json.dumps({"rows": self.rows, "pixels": pixels, "seconds": self.seconds}))
        fresh.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Measured":
        """Reads what [`Measured.save`] wrote."""
        stored = json.loads(Path(path).read_text())
        pixels = {column: PixelCounts.from_dict(counts) for column, counts in stored["pixels"].items()}
        return cls(stored["rows"], pixels, stored["seconds"])
