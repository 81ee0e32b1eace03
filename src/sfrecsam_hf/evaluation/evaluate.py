"""A checkpoint measured at the original size (METHOD 7): two prompt columns that are never mixed."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segment
from .measured import COLUMNS, MASKS, Measured
from .metrics import segmentation_metrics
from .oracle_prompts import oracle_point
from .pixel_quality import PixelCounts
from .summary import summarised


def evaluate(
    model: SFRecSamModel,
    processor: Any,
    dataset: Dataset,
    columns: Iterable[str] = COLUMNS,
    batch_size: int = 4,
    quiet: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """
    Every metric of METHOD 7 for each prompt column: [`measure`], then [`summarised`].

    Returns:
        The results as they are written to `results.json`, and a row for each image and prompt column.
    """
    measured = measure(model, processor, dataset, columns, batch_size, quiet, **options)
    return summarised(measured), measured.rows


def measure(
    model: SFRecSamModel,
    processor: Any,
    dataset: Dataset,
    columns: Iterable[str] = COLUMNS,
    batch_size: int = 4,
    quiet: bool = False,
    **options: Any,
) -> Measured:
    """
    Segments every image and compares the masks with the true ones.

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
        [`Measured`]. A row holds `name`, `label`, `group`, `column`, `lesion` (whether there is one); `lesion_area`,
        `initial_area` and `final_area` as shares of the image; `presence`; every metric of the initial and of the
        final mask, such as `final_dice`; and of a lesion image `uncertainty_auroc` and `uncertainty_top5`, None where
        the initial mask has no error.

    Raises:
        ValueError: A column is unknown, or named twice.
    """
    measured = Measured()
    for column in checked_columns(columns):
        measured += _measured_column(model, processor, dataset, column, batch_size, quiet, options)
    return measured


def checked_columns(columns: Iterable[str]) -> list[str]:
    """The prompt columns as a list; raises `ValueError` if one is unknown or named twice, or if there is none."""
    columns = list(columns)
    if not columns or set(columns) - set(COLUMNS) or len(set(columns)) < len(columns):
        raise ValueError(f"Prompt columns {columns}: name each of {' and '.join(COLUMNS)} once, or only one of them.")
    return columns


def _measured_column(
    model: SFRecSamModel,
    processor: Any,
    dataset: Dataset,
    column: str,
    batch_size: int,
    quiet: bool,
    options: dict[str, Any],
) -> Measured:
    start = time.perf_counter()
    names = dataset.features["label"].names
    found = segment(model, processor, _prompted(dataset, column), batch_size, **options)
    rows, counted = [], PixelCounts.none()
    pairs = zip(dataset, found, strict=True)
    for image, segmentation in tqdm(pairs, desc=column, total=len(dataset), disable=quiet):
        true = np.asarray(image["mask"]) > 0
        row = {"name": image["name"], "label": names[image["label"]], "group": image["group"], "column": column}
        rows.append(row | _measured_image(segmentation, true))
        if true.any():
            counts = PixelCounts.of(segmentation, true)
            rows[-1] |= {"uncertainty_auroc": counts.auroc, "uncertainty_top5": counts.top5_error_share}
            counted += counts
    return Measured(rows, {column: counted}, {column: time.perf_counter() - start})


def _prompted(dataset: Dataset, column: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    for row in dataset:
        point = oracle_point(np.asarray(row["mask"]) > 0) if column == "oracle-point" else None
        yield row["image"], {} if point is None else {"input_points": [point], "input_labels": [1]}


def _measured_image(segmentation: Segmentation, true: np.ndarray) -> dict[str, Any]:
    masks = dict(zip(MASKS, (segmentation.initial_mask, segmentation.mask), strict=True))
    return {
        "lesion": bool(true.any()),
        "presence": segmentation.presence,
        "lesion_area": float(true.mean()),
        **{f"{name}_area": float(mask.mean()) for name, mask in masks.items()},
        **{
            f"{name}_{metric}": value
            for name, mask in masks.items()
            for metric, value in segmentation_metrics(mask, true).items()
        },
    }
