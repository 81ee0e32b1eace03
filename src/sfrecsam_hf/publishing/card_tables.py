"""The parts of the model card that are measured: tables and sentences from one `results.json`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.measured import METRICS
from ..evaluation.summary import CHANGE

SHOWN = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "hd95": "HD95 in pixels",
    "assd": "ASSD in pixels",
}
PIXELS = ("hd95", "assd")
OF_GROUPS = ("dice", "hd95")
GROUPS = ("benign", "malignant", "small", "medium", "large")
FOUND = {"iou_50": "lesions found, IoU at least 0.5", "any": "lesions touched by the mask"}
DATA_SETS = {"busi": "BUSI", "busbra": "BUS-BRA", "busuclm": "BUS-UCLM"}
ALL = " all"  # behind the name of a data set: no image is left out
NEEDED = {"columns", "data", "images", "left_out", "machine", "protocol", "split", "thresholds", "worst"}
PROTOCOLS = {
    "out-of-fold": "Each image was predicted by a model that had not seen it or its group, in {folds} folds. The "
    "published checkpoint was trained with the same settings on all of these images.",
    "held-out": "The checkpoint did not train on these images.",
    "chosen-on": "{chosen_on} of these images chose the checkpoint, so the figures are too high.",
    "trained-on": "The checkpoint trained on some of these images, so the figures are too high.",
    "unknown": "It is not recorded which images the checkpoint trained on.",
}
THRESHOLDS = {
    "cross-fitted": "Each threshold was chosen on images of other groups.",
    "fixed": "",
    "unconfirmed": "These images also chose the thresholds, so what correction gains is unconfirmed.",
}


def public_name(name: str) -> str:
    """The name that the field knows a data set by, if the folder's name contains it; "all" behind it stays."""
    plain = name.lower().replace("-", "").replace("_", "")
    known = next((known for part, known in DATA_SETS.items() if part in plain), None)
    return name if known is None else known + ALL * name.endswith(ALL)


def identifier(name: str) -> str:
    """A data set's name as card metadata write it."""
    return public_name(name.removesuffix(ALL)).lower().replace(" ", "-")


@dataclass
class Evaluation:
    r"""
    One `results.json`, and where it lies below the card.

    Args:
        results (`dict`): As [`~sfrecsam_hf.evaluation.report.write_report`] writes them.
        folder (`Path`): Of the results and their figures.
        prefix (`str`): Path from the card to that folder: empty, or ending in a slash.
    """

    results: dict[str, Any]
    folder: Path
    prefix: str

    @classmethod
    def all_below(cls, folder: Path) -> Iterator["Evaluation"]:
        """
        The evaluation in a model repository, and those in folders directly below.

        Raises:
            FileNotFoundError: The folder itself has no results.
            ValueError: A `results.json` is something else.
        """
        if not (folder / "results.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no results.json; "
                f"run `sfrecsam evaluate --model CHECKPOINT --data DIR --output {folder}`."
            )
        for path in [folder / "results.json", *sorted(folder.glob("*/results.json"))]:
            prefix = "" if path.parent == folder else f"{path.parent.name}/"
            yield cls(_read_results(path), path.parent, prefix)

    @property
    def data(self) -> str:
        return public_name(self.results["data"])

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        return self.results["columns"]

    @property
    def lesions(self) -> int:
        """Images with a lesion."""
        return self._lesion("images")

    @property
    def groups(self) -> int:
        """Groups that they belong to: patients, or duplicates of one frame."""
        return self._lesion("groups")

    def _lesion(self, number: str) -> int:
        return next(iter(self.columns.values()))["final"].get("lesion", {}).get(number, 0)

    @property
    def measured_on(self) -> str:
        """Sentences on where the images came from: how they relate to the checkpoint, and which were left out."""
        results = {"chosen_on": "Some"} | self.results
        sentences = [PROTOCOLS[results["protocol"]].format(**results), THRESHOLDS[results["thresholds"]]]
        if reasons := [f"{number} {reason}" for reason, number in results["left_out"].items() if number]:
            sentences.append(f"Left out: {', '.join(reasons)}.")
        return " ".join(filter(None, sentences))

    def figure(self, name: str) -> str | None:
        """Path from the card to a figure, if it was drawn."""
        return f"{self.prefix}{name}" if (self.folder / name).is_file() else None

    def metric_table(self, column: str) -> str:
        """Every metric over the lesion images, of the initial and the corrected mask, with intervals."""
        summary = self.columns[column]
        lines = ["| | initial mask | corrected mask |", "|---|---|---|"]

        def add(name: str, cells: Iterator[str]) -> None:
            lines.append(f"| {name} | {' | '.join(cells)} |")

        masks = [summary[mask] for mask in ("initial", "final")]
        for metric in METRICS:
            add(SHOWN[metric], (with_interval(metric, mask["lesion"][metric]) for mask in masks))
        add("Dice, each group counted once", (shown("dice", mask["lesion"]["dice"]["group_mean"]) for mask in masks))
        for metric in PIXELS:
            without = [mask.get("not empty", mask["lesion"])[metric] for mask in masks]
            add(f"{SHOWN[metric]}, without empty masks", (with_interval(metric, one) for one in without))
        for kind, name in FOUND.items():
            add(name, (percent_of(summary["found"][mask][kind]) for mask in ("initial", "final")))
        return "\n".join(lines)

    def group_table(self, column: str) -> str:
        """Dice and HD95 of each class and each tercile of lesion size, initial -> corrected."""
        heads = " | ".join(f"{SHOWN[metric]}, initial → corrected" for metric in OF_GROUPS)
        lines = [f"| group | images | {heads} |", "|---" * (2 + len(OF_GROUPS)) + "|"]
        initial, final = (self.columns[column][mask] for mask in ("initial", "final"))
        for group in (name for name in GROUPS if name in final):
            cells = [
                f"{shown(metric, initial[group][metric]['mean'])} → {shown(metric, final[group][metric]['mean'])}"
                for metric in OF_GROUPS
            ]
            lines.append(f"| {group} | {final[group]['images']} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def correction(self, column: str) -> str:
        """What correction gains, and how many images it helps and harms, in one sentence."""
        found = self.columns[column]["correction"]
        gains = ", ".join(
            f"{name} by {found[name.lower()]['mean']:+.3f} "
            f"({found[name.lower()]['low']:+.3f} to {found[name.lower()]['high']:+.3f})"
            for name in ("Dice", "precision", "recall")
        )
        return (
            f"Correction changes {gains}. It raises the Dice by more than {CHANGE} on {percent_of(found['helped'])} "
            f"of the images, and lowers it by more than {CHANGE} on {percent_of(found['harmed'])}."
        )

    def failures(self) -> str:
        """How many images failed in which way in the first prompt column."""
        summary = next(iter(self.columns.values()))
        counts = []
        if self.lesions:
            kept, met = summary["presence"]["lesions_with_mask"], summary["found"]["final"]["any"]
            correction = summary["correction"]
            counts += [
                f"lesions with an empty mask: {kept['images'] - kept['count']} of {kept['images']}",
                f"lesions whose mask lies elsewhere: {kept['count'] - met['count']}",
                f"images whose Dice correction changes by more than {CHANGE}: {correction['helped']['count']} up, "
                f"{correction['harmed']['count']} down",
            ]
        if with_mask := summary["normal"]["with_mask"]:
            counts.append(f"normal scans with a mask: {with_mask['count']} of {with_mask['images']}")
        return "; ".join(counts)

    def worst_table(self) -> str:
        """One line for each of the worst images, as in `worst.png`: what went wrong, said from what was measured."""
        lines = ["| image | lesion, its share | presence | Dice | what went wrong |", "|---|---|---|---|---|"]
        for row in self.results["worst"]:
            label = "" if row["label"] == "unknown" else f"{row['label']}, "
            lesion = f"{label}{row['size']}, {percent(row['lesion_area'], 1)}"
            dice = f"{decimals(row['initial_dice'], 2)} → {decimals(row['final_dice'], 2)}"
            lines.append(
                f"| `{row['name']}` | {lesion} | {decimals(row['presence'], 2)} | {dice} | {what_went_wrong(row)} |"
            )
        return "\n".join(lines)


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError:
        results = {}
    if not set(results) >= NEEDED:
        raise ValueError(f"{path} was not written by this version's `sfrecsam evaluate`; write it anew.")
    return results


def what_went_wrong(row: dict[str, Any]) -> str:
    """
    One image's failure in words: missed, elsewhere, too large or too small.

    Args:
        row (`dict`): A row of an evaluation.
    """
    precision, recall = row["final_precision"], row["final_recall"]
    outside, missed = percent(1 - precision), percent(1 - recall)
    if row["final_area"] == 0:
        return "missed: the mask is empty"
    if row["final_dice"] == 0:
        return "elsewhere: mask and lesion share no pixel"
    if max(precision, recall) < 0.5:
        return f"mostly elsewhere: {outside} of the mask lies outside the lesion, {missed} of the lesion is missed"
    if precision < recall:
        return f"too large: {outside} of the mask lies outside the lesion"
    return f"too small: {missed} of the lesion is missed"


def with_interval(metric: str, summary: dict[str, float]) -> str:
    """A mean with its 95 % interval, `0.794 (0.726 to 0.852)`."""
    mean, low, high = (shown(metric, summary[name]) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def percent_of(share: dict[str, Any] | None) -> str:
    """A share of images with its 95 % interval, `14 % (4 to 40 %)`; a dash for what could not be measured."""
    if share is None:
        return percent(None)
    return f"{percent(share['share'])} ({100 * share['low']:.0f} to {100 * share['high']:.0f} %)"


def number_of(share: dict[str, Any]) -> str:
    """The same after its count, `2 of 14, 14 % (4 to 40 %)`."""
    return f"{share['count']} of {share['images']}, {percent_of(share)}"


def shown(metric: str, value: float) -> str:
    """A metric's value: pixels with one decimal, shares with three."""
    return decimals(value, 1 if metric in PIXELS else 3)


def count(number: int) -> str:
    """A number of parameters: `4.3 M`, `133 M`, or all digits below a million."""
    if number < 1e6:
        return f"{number:,}"
    return f"{number / 1e6:.1f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as percentage; a dash for what could not be measured."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; a dash for what could not be measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Hours with one decimal, or minutes below an hour, or seconds below a minute."""
    for unit, size, digits in (("hours", 3600, 1), ("minutes", 60, 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} seconds"
