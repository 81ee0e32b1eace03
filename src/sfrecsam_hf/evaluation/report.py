"""An evaluation as files: `results.json`, a table, a row for each image, and pictures."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..inference.inputs import WRITER, signed
from ..inference.visualization import outline_sheet
from ..modeling.segmentation import Segmentation
from .measured import METRICS

DIGITS = 6
PIXELS = ("hd95", "assd")


def write_report(output: str | Path, results: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """
    Writes `results.json`, `results.md`, `per_image.csv` and `reliability.png`.

    Args:
        output (`Path`): Folder; made if need be.
        results (`dict`): From [`~sfrecsam_hf.evaluation.summary.summarised`], and what they were measured on.
        rows (`list[dict]`): One for each image and prompt column, as [`~sfrecsam_hf.evaluation.measured.Measured`]
            holds them.
    """
    output = writable_folder(output)
    with _one_sentence(output):
        _replace(output / "results.json", json.dumps(_rounded(results), indent=1) + "\n")
        _replace(output / "results.md", table(results) + "\n")
        write_rows(output / "per_image.csv", rows)
        if results["worst"]:
            draw_reliability(output / "reliability.png", results)


def writable_folder(output: str | Path) -> Path:
    """Makes the folder if need be; raises `ValueError` if nothing can be written there."""
    output = Path(output)
    with _one_sentence(output):
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".writable"
        probe.touch()
        probe.unlink()
    return output


@contextmanager
def _one_sentence(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{output} cannot be written to ({error.strerror}); choose another output folder.") from error


def table(results: dict[str, Any]) -> str:
    """The results as a table for a terminal or a README: initial and final mask side by side."""
    lines = ["| prompt | group | images | " + " | ".join(f"{metric} initial -> final" for metric in METRICS) + " |"]
    lines.append("|---" * (3 + len(METRICS)) + "|")
    for column, summary in results["columns"].items():
        for group, final in summary["final"].items():
            initial = summary["initial"].get(group)
            cells = [_cell(metric, initial, final) for metric in METRICS]
            lines.append(f"| {column} | {group} | {final['images']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(metric: str, initial: dict[str, Any] | None, final: dict[str, Any]) -> str:
    digits = 1 if metric in PIXELS else 3
    values = ("–" if means is None else f"{means[metric]['mean']:.{digits}f}" for means in (initial, final))
    return " -> ".join(values)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes `per_image.csv`: a line for each image and prompt column; what was not measured is left empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({name: _written(value) for name, value in row.items()} for row in rows)
    fresh.replace(path)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads `per_image.csv`: names and labels as text, everything else as numbers, `lesion` as a boolean."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        for name, text in row.items():
            if name not in ("name", "label", "group", "column"):
                row[name] = float(text) if text else None
        row["lesion"] = bool(row["lesion"])
    return rows


def _written(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def _replace(path: Path, text: str) -> None:
    """Writes a file under its name only when it is complete."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def draw_worst(
    path: Path,
    results: dict[str, Any],
    dataset: Dataset,
    redraw: Callable[[Dataset], Iterator[Segmentation]],
) -> None:
    """
    Draws the lesion images with the lowest final Dice of the first prompt column, `worst.png`.

    Of a mask that the presence threshold emptied, it shows the outline before, and the caption says so.

    Args:
        path (`Path`): File to write.
        results (`dict`): From [`~sfrecsam_hf.evaluation.summary.summarised`].
        dataset (`datasets.Dataset`): The one that was evaluated.
        redraw: Segments some of its images again, and empties no mask.
    """
    places = {name: index for index, name in enumerate(dataset["name"])}
    images = dataset.select([places[row["name"]] for row in results["worst"]])
    masks = [segmentation.mask for segmentation in redraw(images)]
    truths = [np.asarray(mask) > 0 for mask in images["mask"]]
    captions = [
        f"{row['name']} Dice {row['final_dice']:.2f}{'' if row['final_area'] else ' (emptied)'}"
        for row in results["worst"]
    ]
    with _one_sentence(path.parent):
        outline_sheet(list(images["image"]), masks, truths, captions).save(path, pnginfo=signed())


def draw_reliability(path: Path, results: dict[str, Any]) -> None:
    """Draws how often a predicted probability is right, for each prompt column."""
    from matplotlib.figure import Figure

    columns = results["columns"]
    figure = Figure(figsize=(4 * len(columns), 4), layout="constrained")
    for axis, (column, summary) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
    ):
        axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
        for name, points in summary["uncertainty"]["reliability"].items():
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.set(title=column, xlabel="predicted lesion probability", ylabel="lesion frequency")
        axis.legend()
    figure.savefig(path, dpi=120, metadata={"Software": WRITER})
