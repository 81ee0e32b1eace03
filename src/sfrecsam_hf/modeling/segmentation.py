"""What the model's output means for one image: masks, maps, presence and measurements at the original size."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from .image_processing_sfrecsam import SFRecSamImageProcessorPil
from .mirrored_view import both_views
from .modeling_sfrecsam import SFRecSamModel, SFRecSamOutput


@dataclass
class Segmentation:
    r"""
    The answer for one image, at its original size.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, final.
        initial_mask (`numpy.ndarray` of shape `(height, width)`): Boolean, before correction.
        probability (`numpy.ndarray` of shape `(height, width)`): Mean lesion probability of the samples, in [0, 1].
        final_probability (`numpy.ndarray` of shape `(height, width)`): Of the corrected mask, in [0, 1].
        uncertainty (`numpy.ndarray` of shape `(height, width)`): Predictive entropy in bits, in [0, 1].
        presence (`float`): Probability in [0, 1] that there is a lesion.
        score (`float`): The model's own estimate of the mask's IoU, in [0, 1].
    """

    mask: np.ndarray
    initial_mask: np.ndarray
    probability: np.ndarray
    final_probability: np.ndarray
    uncertainty: np.ndarray
    presence: float
    score: float

    def measurements(self) -> dict[str, float | int | list[int] | None]:
        """Area, box `[x1, y1, x2, y2]` and [`diameters`] in pixels, presence, and the mean uncertainty inside."""
        rows, columns = np.nonzero(self.mask)
        if not len(rows):
            return {
                "presence": self.presence,
                "area": 0,
                "box": None,
                "longest_diameter": 0.0,
                "perpendicular_diameter": 0.0,
                "mean_uncertainty": float(self.uncertainty.mean()),
            }
        longest, perpendicular = diameters(self.mask)
        return {
            "presence": self.presence,
            "area": len(rows),
            "box": [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1],
            "longest_diameter": longest,
            "perpendicular_diameter": perpendicular,
            "mean_uncertainty": float(self.uncertainty[self.mask].mean()),
        }


def diameters(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """
    Largest distance between two pixels of the mask, and the mask's extent at right angles to it; from outer edge to
    outer edge.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, not empty.
        spacing (`tuple[float, float]`): Height and width of a pixel; the results have their unit.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    corners = [np.stack([rows + edge, columns], axis=1) * spacing for edge in (0, 1) for columns in (left, right)]
    points = _hull(np.concatenate(corners))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    first, second = np.unravel_index(distances.argmax(), distances.shape)
    longest = distances[first, second]
    down, right = (points[second] - points[first]) / longest
    across = points @ np.array([-right, down])
    return float(longest), float(np.ptp(across))


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull (monotone chain), so that all pairs can be compared however large the mask is."""
    ordered = sorted(set(map(tuple, points.tolist())))
    corners: list[tuple[float, float]] = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for point in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        corners += chain[:-1]
    return np.array(corners)


def _turn(origin: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


def segmentations(
    outputs: SFRecSamOutput,
    original_sizes: Iterable[tuple[int, int]],
    image_processor: SFRecSamImageProcessorPil,
) -> list[Segmentation]:
    """
    Brings a batch's output to the size of each image; the first mask of the first prompt.

    On a frame that the image processor cut off there is no lesion, for certain.

    Args:
        outputs ([`SFRecSamOutput`]): Of the model, with the processor's `scan_boxes`.
        original_sizes (`Iterable[tuple[int, int]]`): Height and width of each image.
        image_processor ([`SFRecSamImageProcessor`]): The one that prepared the batch.
    """
    logits, values = (
        torch.stack([outputs[name][:, 0, 0].float() for name in names], dim=1)
        for names in (("pred_masks", "initial_masks"), ("mean_probability", "predictive_entropy"))
    )
    presence = outputs["presence_logits"].float().sigmoid()
    boxes = outputs.get("scan_boxes")
    results = []
    for index, size in enumerate(original_sizes):
        place = tuple(int(side) for side in size), None if boxes is None else boxes[index].tolist()
        final, initial = image_processor.restore(logits[index], *place, outside=-torch.inf)
        probability, uncertainty = image_processor.restore(values[index], *place)
        results.append(
            Segmentation(
                mask=(final > 0).cpu().numpy(),
                initial_mask=(initial > 0).cpu().numpy(),
                probability=probability.cpu().numpy(),
                final_probability=final.sigmoid().cpu().numpy(),
                uncertainty=uncertainty.cpu().numpy(),
                presence=float(presence[index]),
                score=float(outputs["iou_scores"][index, 0, 0]),
            )
        )
    return results


def segment(
    model: SFRecSamModel, processor: Any, images: Iterable[Any], batch_size: int = 4, **options: Any
) -> Iterator[Segmentation]:
    """
    Segments any number of images, a batch at a time, in constant memory.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        images (`Iterable`): Anything that the processor reads, or pairs of that and a dictionary with its
            `input_points`, `input_labels` or `input_boxes`.
        batch_size (`int`): Images per batch; it does not change the masks.
        options: Passed to [`SFRecSamModel.forward`], such as `mc_samples`; `mirror=True` averages the answer with that
            to the mirror image, see [`both_views`].
    """
    remaining = iter(images)
    # The next batch is read and prepared while the model works on this one.
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = worker.submit(_next_batch, processor, remaining, batch_size)
        while (prepared := upcoming.result()) is not None:
            upcoming = worker.submit(_next_batch, processor, remaining, batch_size)
            yield from _answer(model, processor, prepared, **options)


def segment_batch(
    model: SFRecSamModel, processor: Any, pairs: list[tuple[Any, dict[str, Any]]], **options: Any
) -> list[Segmentation]:
    """
    Segments images in one forward pass.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        pairs (`list[tuple]`): Each image with its prompts, as for [`segment`].
        options: As for [`segment`].
    """
    return _answer(model, processor, _prepare(processor, pairs), **options)


def _next_batch(processor: Any, images: Iterator[Any], batch_size: int) -> BatchFeature | None:
    batch = list(islice(images, batch_size))
    if not batch:
        return None
    return _prepare(processor, [entry if isinstance(entry, tuple) else (entry, {}) for entry in batch])


def _prepare(processor: Any, pairs: list[tuple[Any, dict[str, Any]]]) -> BatchFeature:
    kinds = {name for _, prompts in pairs for name in prompts}
    prompts = {name: [given.get(name) for _, given in pairs] for name in kinds}
    return processor([image for image, _ in pairs], **prompts)


@torch.inference_mode()
def _answer(
    model: SFRecSamModel, processor: Any, inputs: BatchFeature, mirror: bool = False, **options: Any
) -> list[Segmentation]:
    inputs = {
        name: value.to(model.device, model.dtype if name == "pixel_values" else None) for name, value in inputs.items()
    }
    outputs = both_views(model, inputs, **options) if mirror else model(**inputs, **options)
    return segmentations(outputs, inputs["original_sizes"].tolist(), processor.image_processor)
