"""What the model card says of the training: the parts that followed each other, their data and their cost."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .card_tables import duration, identifier, percent, public_name

STAGES = {1: "base", 2: "correctors"}
PARTS = {"prompts": "prompt following", "presence": "presence score"}
SIZES = ("tiny", "base")


@dataclass
class Training:
    r"""
    The trainings that led to a checkpoint.

    Args:
        parts (`list[dict]`): Their `training_summary.json`, the first one first.
    """

    parts: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Training | None":
        """From the `training_summary.json` in a checkpoint's folder; None if there is none."""
        path = folder / "training_summary.json"
        if not path.is_file():
            return None
        parts, summary = [], json.loads(path.read_text())
        while summary is not None:
            parts.insert(0, summary)
            summary = summary["before"]
        return cls(parts)

    @property
    def start(self) -> str | None:
        """The checkpoint that the first part began with; None for random weights."""
        return None if self.parts[0]["start"] in SIZES else self.parts[0]["start"]

    @property
    def validation(self) -> dict[str, dict[str, Any]]:
        """The data on which a part chose its checkpoint, by name."""
        return {public_name(data["name"]): data for part in self.parts for data in part["validation"]}

    @property
    def chosen_on(self) -> str:
        """How many images of what they are."""
        return " and ".join(f"{data['images']} images of {name}" for name, data in self.validation.items())

    @property
    def data(self) -> list[dict[str, Any]]:
        """Every data set once, as the last part that showed it tells it."""
        return list({data["name"]: data for part in self.parts for data in part["data"]}.values())

    @property
    def identifiers(self) -> list[str]:
        """Names of the data sets for the card's metadata."""
        return [identifier(data["name"]) for data in self.data]

    @property
    def siblings(self) -> dict[str, dict[str, Any]]:
        """The data sets of which another split chose the checkpoint, by name."""
        named = {public_name(data["name"]): data for data in self.data}
        return {name: data for name, data in named.items() if name in self.validation}

    def data_table(self) -> str:
        """Images, groups of duplicates, and the share that an epoch showed, in each part if it differs."""
        heads = ("data", "training images", "groups of duplicates or of one patient", "shown in one epoch")
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for data in self.data:
            shown = [other["share"] for part in self.parts for other in part["data"] if other["name"] == data["name"]]
            shares = ", then ".join(percent(share) for share in dict.fromkeys(shown))
            lines.append(f"| {public_name(data['name'])} | {data['images']} | {data['groups']} | {shares} |")
        return "\n".join(lines)

    def stage_table(self) -> str:
        """One line for each stage of each part."""
        heads = ("trained", "input in pixels", "epochs", "steps", "images a step", "learning rate", "precision")
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for part in self.parts:
            settings = part["settings"]
            precision = "float32" if settings["mixed_precision"] == "no" else settings["mixed_precision"]
            images = settings["batch_size"] * settings["accumulation"] * part["processes"]
            for stage in part["stages"]:
                first = stage["stage"] == 1
                rate = settings["learning_rate" if first else "correction_learning_rate"]
                trained = PARTS.get(settings.get("only") if first else None, STAGES[stage["stage"]])
                cells = (trained, part["image_size"], stage["epochs"], stage["steps"], images, rate)
                lines.append("| " + " | ".join(map(str, cells)) + f" | {precision} |")
        return "\n".join(lines)

    @property
    def cost(self) -> str:
        """Time and machine of each part, and of all of them."""
        told = [
            f"{duration(part['seconds'])} on {part['machine']} ({part['cores']} cores, processes: {part['processes']})"
            for part in self.parts
        ]
        if len(told) == 1:
            return f"**{told[0]}**"
        return f"**{duration(sum(part['seconds'] for part in self.parts))}**: {', then '.join(told)}"
