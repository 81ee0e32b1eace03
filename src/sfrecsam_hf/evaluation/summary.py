"""The figures of METHOD 7 from the measurements of single images: means, shares and their intervals."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from .intervals import means, share
from .measured import MASKS, METRICS, Measured
from .pixel_quality import PixelCounts

CORRECTED = ("dice", "precision", "recall")
SIZES = ("small", "medium", "large")
FOUND_IOU = 0.5
LESION_SENSITIVITY = 0.95
CHANGE = 0.01
WORST = 12


def summarised(measured: Measured) -> dict[str, Any]:
    """
    The figures of every prompt column, as `results.json` holds them.

    Means run over lesion images; normal scans are told apart. A mask that is empty although there is a lesion counts
    0 overlap and the image's diagonal as distance; the group `not empty` leaves such masks out.

    Args:
        measured ([`Measured`]): Of one data set.

    Returns:
        `dict`: `images`, `columns` with the figures of each, and `worst`, the rows of the lesion images with the
        lowest final Dice in the first column.
    """
    columns: dict[str, Any] = {}
    for column, pixels in measured.pixels.items():
        rows = [row for row in measured.rows if row["column"] == column]
        columns[column] = _summary(rows, pixels)
        columns[column]["seconds_per_image"] = measured.seconds[column] / len(rows)
    first = [row for row in measured.rows if row["column"] == next(iter(columns))]
    lesions = [{**row, "size": size} for size, group in by_size(_lesions(first)).items() for row in group]
    worst = sorted(lesions, key=lambda row: row["final_dice"])[:WORST]
    return {"images": len(first), "columns": columns, "worst": worst}


def _summary(rows: list[dict[str, Any]], pixels: PixelCounts) -> dict[str, Any]:
    lesions = _lesions(rows)
    return {
        **{mask: _by_group(lesions, mask) for mask in MASKS},
        "found": {mask: _found(lesions, mask) for mask in MASKS},
        "correction": _correction(lesions),
        "normal": _normal([row for row in rows if not row["lesion"]]),
        "presence": _presence(rows),
        "uncertainty": _uncertainty(lesions, pixels),
    }


def _lesions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["lesion"]]


def _by_group(lesions: list[dict[str, Any]], mask: str) -> dict[str, dict[str, Any]]:
    """Every metric of one mask: over all lesions, each class, each third by size, and where the mask is not empty."""
    parts = {
        "lesion": lesions,
        **{label: [row for row in lesions if row["label"] == label] for label in ("benign", "malignant")},
        **by_size(lesions),
        "not empty": [row for row in lesions if row[f"{mask}_area"] > 0],
    }
    return {
        name: {"images": len(rows), "groups": _groups(rows), **_means(rows, [f"{mask}_{x}" for x in METRICS], METRICS)}
        for name, rows in parts.items()
        if rows
    }


def by_size(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Thirds by the lesion's share of the image."""
    ordered = sorted(rows, key=lambda row: row["lesion_area"])
    thirds = np.array_split(np.arange(len(ordered)), len(SIZES))
    return {name: [ordered[index] for index in third] for name, third in zip(SIZES, thirds, strict=True)}


def _groups(rows: list[dict[str, Any]]) -> int:
    return len({row["group"] for row in rows})


def _means(rows: list[dict[str, Any]], keys: list[str], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return means(np.array([[row[key] for key in keys] for row in rows]), names, [row["group"] for row in rows])


def _found(lesions: list[dict[str, Any]], mask: str) -> dict[str, Any]:
    """Shares of the lesion images in which the mask meets the lesion: at an IoU of 0.5, and in one pixel at least."""
    return {
        "iou_50": share([row[f"{mask}_iou"] >= FOUND_IOU for row in lesions]),
        "any": share([row[f"{mask}_iou"] > 0 for row in lesions]),
    }


def _correction(lesions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What correction gains, paired by image, and how many images it helps and harms by more than 0.01."""
    if not lesions:
        return None
    gains = [
        {"group": row["group"], **{name: row[f"final_{name}"] - row[f"initial_{name}"] for name in CORRECTED}}
        for row in lesions
    ]
    return {
        **_means(gains, list(CORRECTED), CORRECTED),
        "helped": share([row["dice"] > CHANGE for row in gains]),
        "harmed": share([row["dice"] < -CHANGE for row in gains]),
    }


def _normal(normals: list[dict[str, Any]]) -> dict[str, Any]:
    areas = [row["final_area"] for row in normals]
    return {
        "images": len(normals),
        "with_mask": share([area > 0 for area in areas]),
        "mean_area_fraction": float(np.mean(areas)) if areas else None,
    }


def _presence(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Does the presence score tell lesion images from normal scans?"""
    lesions, normals = ([row for row in rows if row["lesion"] is wanted] for wanted in (True, False))
    figures: dict[str, Any] = {
        "lesions_with_mask": share([row["final_area"] > 0 for row in lesions]),
        "auroc": None,
        "normals_above_95": None,
    }
    if lesions and normals:
        scores = sorted(row["presence"] for row in lesions)
        reached = scores[int((1 - LESION_SENSITIVITY) * len(scores))]
        figures["auroc"] = float(roc_auc_score([row["lesion"] for row in rows], [row["presence"] for row in rows]))
        figures["normals_above_95"] = share([row["presence"] >= reached for row in normals])
    return figures


def _uncertainty(lesions: list[dict[str, Any]], pixels: PixelCounts) -> dict[str, Any]:
    """Does uncertainty locate the errors of the initial mask, and do the probabilities mean what they say?"""
    judged = [row for row in lesions if row["uncertainty_auroc"] is not None]
    keys, names = ["uncertainty_auroc", "uncertainty_top5"], ("auroc", "top5_error_share")
    return {
        "auroc": pixels.auroc,
        "top5_error_share": pixels.top5_error_share,
        "per_image": {"images": len(judged), **_means(judged, keys, names)} if judged else None,
        "ece": pixels.calibration_errors(),
        "reliability": pixels.reliability(),
    }
