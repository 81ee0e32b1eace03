"""The parts of the model card that are measured: tables, sentences and metadata from one `results.json`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.evaluate import METRICS, MOST_UNCERTAIN, by_size, worst_images
from .card_numbers import decimals, percent, shown

SHOWN = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "hd95": "HD95 in pixels",
    "assd": "ASSD in pixels",
}
OF_GROUPS = ("dice", "hd95")
DATA_SETS = {"busi": "BUSI", "busbra": "BUS-BRA"}
CHANGED = 0.005


def public_name(name: str) -> str:
    """The name that the field knows a data set by, if the folder's name contains it."""
    plain = name.lower().replace("-", "").replace("_", "")
    return next((known for part, known in DATA_SETS.items() if part in plain), name)


def identifier(name: str) -> str:
    """A data set's name as card metadata write it."""
    return public_name(name).lower().replace(" ", "-")


@dataclass
class Evaluation:
    r"""
    One `results.json`, and where it lies below the card.

    Args:
        results (`dict`): From [`~sfrecsam_hf.evaluation.evaluate.evaluate`].
        folder (`Path`): Of the results and their figures.
        prefix (`str`): Path from the card to that folder: empty, or ending in a slash.
    """

    results: dict[str, Any]
    folder: Path
    prefix: str

    @property
    def data(self) -> str:
        return public_name(self.results["data"])

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        return self.results["columns"]

    def figure(self, name: str) -> str | None:
        """Path from the card to a figure, if it was drawn."""
        return f"{self.prefix}{name}" if (self.folder / name).is_file() else None

    def metric_table(self, column: str) -> str:
        """Mean and interval of every metric over the lesion images, of the initial and the corrected mask."""
        lines = ["| | initial mask | corrected mask |", "|---|---|---|"]
        for metric in METRICS:
            cells = [
                _with_interval(metric, self.columns[column][mask]["lesion"][metric]) for mask in ("initial", "final")
            ]
            lines.append(f"| {SHOWN[metric]} | {cells[0]} | {cells[1]} |")
        return "\n".join(lines)

    def group_table(self, column: str) -> str:
        """Dice and HD95 of each class and each tercile of lesion size, initial -> corrected."""
        heads = " | ".join(f"{SHOWN[metric]}, initial → corrected" for metric in OF_GROUPS)
        lines = [f"| group | images | {heads} |", "|---" * (2 + len(OF_GROUPS)) + "|"]
        initial, final = (self.columns[column][mask] for mask in ("initial", "final"))
        for group in list(final)[1:]:
            cells = [
                f"{shown(metric, initial[group][metric]['mean'])} → {shown(metric, final[group][metric]['mean'])}"
                for metric in OF_GROUPS
            ]
            lines.append(f"| {group} | {final[group]['images']} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    @cached_property
    def first(self) -> list[dict[str, Any]]:
        """The rows of the first prompt column's images."""
        first = next(iter(self.columns))
        return [row for row in self.results["per_image"] if row["column"] == first]

    @property
    def lesions(self) -> list[dict[str, Any]]:
        """Those with a lesion."""
        return [row for row in self.first if row["lesion"]]

    @property
    def failures(self) -> dict[str, int]:
        """How many images failed in which way, and what correction did to them."""
        gains = [row["final"]["dice"] - row["initial"]["dice"] for row in self.lesions]
        return {
            "lesions": len(self.lesions),
            "normals": len(self.first) - len(self.lesions),
            "false_alarms": sum(row["predicted_area"] > 0 for row in self.first if not row["lesion"]),
            "missed": sum(row["predicted_area"] == 0 for row in self.lesions),
            "elsewhere": sum(row["predicted_area"] > 0 and row["final"]["dice"] == 0 for row in self.lesions),
            "better": sum(gain > CHANGED for gain in gains),
            "worse": sum(gain < -CHANGED for gain in gains),
        }

    def worst_table(self) -> str:
        """One line for each of the worst images, as in `worst.png`: what went wrong, said from what was measured."""
        lines = ["| image | lesion, its share | presence | Dice | what went wrong |", "|---|---|---|---|---|"]
        sizes = {row["name"]: size for size, rows in by_size(self.lesions).items() for row in rows}
        for row in worst_images(self.results).values():
            label = "" if row["label"] == "unknown" else f"{row['label']}, "
            lesion = f"{label}{sizes[row['name']]}, {percent(row['lesion_area'], 1)}"
            dice = f"{decimals(row['initial']['dice'], 2)} → {decimals(row['final']['dice'], 2)}"
            lines.append(
                f"| {row['name']} | {lesion} | {decimals(row['presence'], 2)} | {dice} | {what_went_wrong(row)} |"
            )
        return "\n".join(lines)

    def eval_results(self) -> list[EvalResult]:
        """Every number of the tables as card metadata, the prompt column named in the data set's name and config."""
        results = []
        for column, summary in self.columns.items():
            for name, metric, value in _measured(column, summary):
                results.append(
                    EvalResult(
                        task_type="image-segmentation",
                        task_name="Lesion segmentation",
                        dataset_type=identifier(self.data),
                        dataset_name=f"{self.data}, prompts: {column}",
                        dataset_config=column,
                        dataset_split=self.results["split"],
                        metric_type=metric,
                        metric_name=name,
                        metric_value=round(value, 4),
                    )
                )
        return results


def what_went_wrong(row: dict[str, Any]) -> str:
    """
    One image's failure in words: missed, elsewhere, overdrawn or underdrawn.

    Args:
        row (`dict`): An entry of `per_image` in `results.json`.
    """
    final = row["final"]
    outside, missed = percent(1 - final["precision"]), percent(1 - final["recall"])
    if row["predicted_area"] == 0:
        return "missed: the presence score left the mask empty"
    if final["dice"] == 0:
        return "elsewhere: mask and lesion share no pixel"
    if max(final["precision"], final["recall"]) < 0.5:
        return f"mostly elsewhere: {outside} of the mask lies outside the lesion, {missed} of the lesion is missed"
    if final["precision"] < final["recall"]:
        return f"overdrawn: {outside} of the mask lies outside the lesion"
    return f"underdrawn: {missed} of the lesion is missed"


def _with_interval(metric: str, summary: dict[str, float]) -> str:
    mean, low, high = (shown(metric, summary[name]) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _measured(column: str, summary: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Name, metric and value of everything that the card's tables and sentences show of one prompt column."""
    found = []
    for mask, word in (("initial", "initial mask"), ("final", "corrected mask")):
        for group, means in summary[mask].items():
            for metric in METRICS if group == "lesion" else OF_GROUPS:
                where = word if group == "lesion" else f"{word}, {group} only"
                found.append((f"{SHOWN[metric]} of the {where}", metric, means[metric]["mean"]))
    normal, presence, uncertainty = (summary[part] for part in ("normal", "presence", "uncertainty"))
    if column == "auto":
        found += [
            ("Share of normal scans given a mask", "false_positive_rate", normal["false_positive_rate"]),
            ("Mean share of a normal scan that the mask takes", "false_positive_area", normal["mean_area_fraction"]),
            ("Share of lesion images given a mask", "sensitivity", presence["sensitivity"]),
            ("AUROC of presence", "auroc", presence["auroc"]),
        ]
    share = percent(MOST_UNCERTAIN)
    found += [
        ("AUROC of uncertainty against error", "auroc", uncertainty["auroc"]),
        (f"Share of errors in the {share} most uncertain pixels", "top5_error_share", uncertainty["top5_error_share"]),
        ("Calibration error of the initial mask", "ece", uncertainty["ece_initial"]),
        ("Calibration error of the corrected mask", "ece", uncertainty["ece_final"]),
    ]
    return [(name, metric, value) for name, metric, value in found if value is not None]
