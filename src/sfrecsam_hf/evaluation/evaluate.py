"""Evaluation at the original size (METHOD 7): two prompt columns that are never mixed, each with both masks."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from ..inference.visualization import contact_sheet, overlay
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segment
from ..modeling.uncertainty import expected_calibration_error, reliability_curve
from .metrics import segmentation_metrics
from .oracle_prompts import oracle_point

METRICS = ("dice", "iou", "precision", "recall", "hd95", "assd")
COLUMNS = ("auto", "oracle-point")
PIXELS_PER_IMAGE = 10_000
BOOTSTRAPS = 2000
MOST_UNCERTAIN = 0.05
WORST = 12


@dataclass
class SampledPixels:
    """Pixels drawn evenly from every lesion image, on which the uncertainty is judged."""

    initial: np.ndarray
    final: np.ndarray
    uncertainty: np.ndarray
    error: np.ndarray
    target: np.ndarray


def evaluate(
    model: SFRecSamModel,
    processor: Any,
    dataset: Dataset,
    columns: Iterable[str] = COLUMNS,
    batch_size: int = 4,
    quiet: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, SampledPixels]]:
    """
    Every metric of METHOD 7 for each prompt column.

    Means run over lesion images and have a bootstrap 95 % interval; normal scans are told apart. A mask that is empty
    although there is a lesion counts 0 overlap and the image's diagonal as distance.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        dataset (`datasets.Dataset`): With the columns of [`~sfrecsam_hf.data.loading.load_busi`].
        columns (`Iterable[str]`): `"auto"` uses nothing from the ground truth; `"oracle-point"` clicks on the
            innermost pixel of the largest true lesion.
        batch_size (`int`): Images per batch; it changes no mask.
        quiet (`bool`): No progress bar.
        options: As for [`segment`]: `mirror`, and the ablation switches `mc_samples`, `correctors`,
            `suspicion_threshold`, `presence_threshold`.

    Returns:
        The results as they are written to `results.json`, and the pixels behind the uncertainty figures per column.

    Raises:
        ValueError: A column is unknown.
    """
    columns = list(columns)
    if unknown := set(columns) - set(COLUMNS):
        raise ValueError(f"columns={sorted(unknown)} are unknown; choose from {COLUMNS}.")
    results: dict[str, Any] = {"images": len(dataset), "columns": {}, "per_image": []}
    pixels = {}
    for column in columns:
        start = time.perf_counter()
        rows, pixels[column] = _evaluate_column(model, processor, dataset, column, batch_size, quiet, options)
        seconds = time.perf_counter() - start
        results["columns"][column] = _summary(rows, pixels[column])
        results["columns"][column]["seconds_per_image"] = seconds / len(dataset)
        results["per_image"] += rows
    return results, pixels


def _evaluate_column(
    model: SFRecSamModel,
    processor: Any,
    dataset: Dataset,
    column: str,
    batch_size: int,
    quiet: bool,
    options: dict[str, Any],
) -> tuple[list[dict[str, Any]], SampledPixels]:
    rng = np.random.default_rng(0)
    rows, drawn = [], []
    names = dataset.features["label"].names
    found = segment(model, processor, _prompted(dataset, column), batch_size, **options)
    pairs = zip(dataset, found, strict=True)
    for row, segmentation in tqdm(pairs, desc=column, total=len(dataset), disable=quiet):
        true = np.asarray(row["mask"]) > 0
        rows.append(
            {
                "name": row["name"],
                "label": names[row["label"]],
                "column": column,
                "lesion": bool(true.any()),
                "lesion_area": float(true.mean()),
                "predicted_area": float(segmentation.mask.mean()),
                "presence": segmentation.presence,
                "initial": segmentation_metrics(segmentation.initial_mask, true),
                "final": segmentation_metrics(segmentation.mask, true),
            }
        )
        if true.any():
            drawn.append(_sampled(segmentation, true, rng))
    parts = zip(*drawn, strict=True)
    return rows, SampledPixels(*(np.concatenate(part) for part in parts) if drawn else [np.zeros(0)] * 5)


def _prompted(dataset: Dataset, column: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    for row in dataset:
        point = oracle_point(np.asarray(row["mask"]) > 0) if column == "oracle-point" else None
        yield row["image"], {} if point is None else {"input_points": [point], "input_labels": [1]}


def _sampled(segmentation: Segmentation, true: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    chosen = rng.choice(true.size, min(PIXELS_PER_IMAGE, true.size), replace=False)
    maps = (segmentation.probability, segmentation.final_probability, segmentation.uncertainty)
    error = segmentation.initial_mask != true
    return (*(values.flat[chosen] for values in maps), error.flat[chosen], true.flat[chosen])


def _summary(rows: list[dict[str, Any]], pixels: SampledPixels) -> dict[str, Any]:
    lesions = [row for row in rows if row["lesion"]]
    normals = [row for row in rows if not row["lesion"]]
    summary: dict[str, Any] = {}
    for mask in ("initial", "final"):
        groups = {"lesion": lesions, **_by_label(lesions), **by_size(lesions)}
        summary[mask] = {name: _means([row[mask] for row in group]) for name, group in groups.items() if group}
    summary["normal"] = {
        "images": len(normals),
        "false_positive_rate": _mean([row["predicted_area"] > 0 for row in normals]),
        "mean_area_fraction": _mean([row["predicted_area"] for row in normals]),
    }
    present = [row["lesion"] for row in rows]
    summary["presence"] = {
        "sensitivity": _mean([row["predicted_area"] > 0 for row in lesions]),
        "auroc": _auroc(present, [row["presence"] for row in rows]),
    }
    summary["uncertainty"] = _uncertainty_quality(pixels)
    return summary


def _by_label(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {label: [row for row in rows if row["label"] == label] for label in ("benign", "malignant")}


def by_size(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Terciles of the lesion's share of the image."""
    ordered = sorted(rows, key=lambda row: row["lesion_area"])
    thirds = np.array_split(np.arange(len(ordered)), 3)
    return {
        name: [ordered[index] for index in third]
        for name, third in zip(("small", "medium", "large"), thirds, strict=True)
    }


def _means(values: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and bootstrap 95 % interval of every metric, resampling images."""
    table = np.array([[row[metric] for metric in METRICS] for row in values])
    drawn = np.random.default_rng(0).integers(len(table), size=(BOOTSTRAPS, len(table)))
    low, high = np.percentile(table[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    summary: dict[str, Any] = {"images": len(table)}
    for index, metric in enumerate(METRICS):
        summary[metric] = {
            "mean": float(table[:, index].mean()),
            "low": float(low[index]),
            "high": float(high[index]),
        }
    return summary


def _uncertainty_quality(pixels: SampledPixels) -> dict[str, float | None]:
    """Does uncertainty locate the errors of the initial mask, and do the probabilities mean what they say?"""
    if not pixels.error.any():
        return {"auroc": None, "top5_error_share": None, "ece_initial": None, "ece_final": None}
    most = np.argsort(-pixels.uncertainty, kind="stable")[: int(len(pixels.error) * MOST_UNCERTAIN)]
    target = torch.from_numpy(pixels.target)
    return {
        "auroc": _auroc(pixels.error, pixels.uncertainty),
        "top5_error_share": float(pixels.error[most].sum() / pixels.error.sum()),
        "ece_initial": expected_calibration_error(torch.from_numpy(pixels.initial), target),
        "ece_final": expected_calibration_error(torch.from_numpy(pixels.final), target),
    }


def _auroc(truth: Any, scores: Any) -> float | None:
    return float(roc_auc_score(truth, scores)) if len(set(np.asarray(truth).tolist())) == 2 else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def table(results: dict[str, Any]) -> str:
    """The results as a table for a terminal or a README: initial and final mask side by side."""
    lines = ["| prompt | group | images | " + " | ".join(f"{metric} initial -> final" for metric in METRICS) + " |"]
    lines.append("|---" * (3 + len(METRICS)) + "|")
    for column, summary in results["columns"].items():
        for group, final in summary["final"].items():
            initial = summary["initial"][group]
            cells = [
                f"{initial[metric]['mean']:.{_digits(metric)}f} -> {final[metric]['mean']:.{_digits(metric)}f}"
                for metric in METRICS
            ]
            lines.append(f"| {column} | {group} | {final['images']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _digits(metric: str) -> int:
    return 1 if metric in ("hd95", "assd") else 3


def write_report(
    output: Path,
    results: dict[str, Any],
    pixels: dict[str, SampledPixels],
    dataset: Dataset,
    redraw: Callable[[list[int]], Iterator[Segmentation]],
) -> None:
    """
    Writes `results.json`, `results.md`, `worst.png` and `reliability.png`.

    Args:
        output (`Path`): Folder; made if need be.
        results (`dict`): From [`evaluate`].
        pixels (`dict[str, SampledPixels]`): From [`evaluate`].
        dataset (`datasets.Dataset`): The one that was evaluated.
        redraw: Segments the images of the given indices again, for the contact sheet.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(table(results) + "\n")
    if worst := worst_images(results):
        chosen = list(worst)
        tiles = [
            overlay(dataset[index]["image"], segmentation.mask, np.asarray(dataset[index]["mask"]) > 0)
            for index, segmentation in zip(chosen, redraw(chosen), strict=True)
        ]
        captions = [f"{row['name']} Dice {row['final']['dice']:.2f}" for row in worst.values()]
        contact_sheet(tiles, captions).save(output / "worst.png")
        _draw_reliability(output / "reliability.png", pixels)
    fresh = output / "results.json.new"
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    fresh.replace(output / "results.json")


def worst_images(results: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Of the first prompt column the lesion images with the lowest final Dice: their place in the data, their row."""
    first = next(iter(results["columns"]))
    rows = enumerate(row for row in results["per_image"] if row["column"] == first)
    lesions = [(index, row) for index, row in rows if row["lesion"]]
    return dict(sorted(lesions, key=lambda pair: pair[1]["final"]["dice"])[:WORST])


def _draw_reliability(path: Path, pixels: dict[str, SampledPixels]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(pixels), 4), layout="constrained")
    for axis, (column, drawn) in zip(figure.subplots(1, len(pixels), squeeze=False)[0], pixels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
        target = torch.from_numpy(drawn.target)
        for name, probability in (("initial", drawn.initial), ("final", drawn.final)):
            count, confidence, frequency = reliability_curve(torch.from_numpy(probability), target)
            filled = count > 0
            axis.plot(confidence[filled], frequency[filled], marker="o", markersize=3, label=name)
        axis.set(title=column, xlabel="predicted lesion probability", ylabel="lesion frequency")
        axis.legend()
    figure.savefig(path, dpi=120)
