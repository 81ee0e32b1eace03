"""What the model's output means for one image: masks, maps, presence and measurements at the original size."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedModel

from .closer_look import Click, look_closer
from .image_processing_sfrecsam import SFRecSamImageProcessorPil
from .image_reading import read_rgb
from .lesions import Lesion, axes, find_lesions
from .mirrored_view import both_views
from .model_outputs import SFRecSamOutput
from .prompts import ABSENT


@dataclass
class Segmentation:
    r"""
    The answer for one image, at its original size.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, final.
        initial_mask (`numpy.ndarray` of shape `(height, width)`): Boolean, before correction.
        probability (`numpy.ndarray` of shape `(height, width)`): Mean lesion probability of the samples, in [0, 1].
        initial_probability (`numpy.ndarray` of shape `(height, width)`): Of the initial mask, in [0, 1].
        final_probability (`numpy.ndarray` of shape `(height, width)`): Of the corrected mask, in [0, 1].
        uncertainty (`numpy.ndarray` of shape `(height, width)`): Predictive entropy in bits, in [0, 1].
        presence (`float`): Probability in [0, 1] that there is a lesion.
        score (`float`): The model's own estimate of the mask's IoU, in [0, 1].
    """

    mask: np.ndarray
    initial_mask: np.ndarray
    probability: np.ndarray
    initial_probability: np.ndarray
    final_probability: np.ndarray
    uncertainty: np.ndarray
    presence: float
    score: float

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The connected pieces of the mask, the largest first."""
        return find_lesions(self.mask, self.probability, self.uncertainty)

    def measurements(self) -> dict[str, float | int | list[int] | None]:
        """
        Presence, number of lesions and area of all, box `[x1, y1, x2, y2]` and [`diameters`] of the largest, in
        pixels, and the mean uncertainty inside the mask, or of the image where it is empty.
        """
        largest = self.lesions[0].measurements() if self.lesions else {}
        return {
            "presence": self.presence,
            "lesions": len(self.lesions),
            "area": sum(lesion.area for lesion in self.lesions),
            "box": largest.get("box"),
            "longest_diameter": largest.get("longest_diameter", 0.0),
            "perpendicular_diameter": largest.get("perpendicular_diameter", 0.0),
            "mean_uncertainty": float((self.uncertainty[self.mask] if self.lesions else self.uncertainty).mean()),
        }


Answer = Segmentation | list[Segmentation]


def diameters(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """
    Lengths of the [`axes`] of one lesion.

    Args:
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, not empty.
        spacing (`tuple[float, float]`): Height and width of a pixel; the results have their unit.
    """
    drawn = axes(mask, spacing)
    return drawn.longest, drawn.perpendicular


def segmentations(
    outputs: SFRecSamOutput,
    original_sizes: Iterable[tuple[int, int]],
    image_processor: SFRecSamImageProcessorPil,
    tidy: bool = True,
    prompt: int = 0,
) -> list[Segmentation]:
    """
    Brings a batch's output to the size of each image; the first mask of one prompt.

    On a frame that the image processor cut off there is no lesion, for certain.

    Args:
        outputs ([`SFRecSamOutput`]): Of the model, given all that the processor returned.
        original_sizes (`Iterable[tuple[int, int]]`): Height and width of each image.
        image_processor ([`SFRecSamImageProcessor`]): The one that prepared the batch.
        tidy (`bool`): Whether outlines are [`smoothed`] and masks [`tidied`], or what the model says, pixel by pixel.
        prompt (`int`): Which of an image's prompts.

    Returns:
        A [`Segmentation`] for each image.
    """
    logits, values = (
        torch.stack([outputs[name][:, prompt, 0].float() for name in names], dim=1)
        for names in (("pred_masks", "initial_masks"), ("mean_probability", "predictive_entropy"))
    )
    presence = outputs["presence_logits"].float().sigmoid()
    boxes, text = outputs.get("scan_boxes"), outputs.get("text")
    results = []
    for index, (height, width) in enumerate(original_sizes):
        place = (int(height), int(width)), None if boxes is None else boxes[index].tolist()
        if tidy:
            letters = None if text is None else text[index]
            (final, initial), masks = image_processor.lesion_masks(logits[index], *place, letters)
        else:
            final, initial = image_processor.restore(logits[index], *place, outside=-torch.inf).sigmoid()
            masks = [(map_ > 0.5).cpu().numpy() for map_ in (final, initial)]
        probability, uncertainty = image_processor.restore(values[index], *place)
        results.append(
            Segmentation(
                mask=masks[0],
                initial_mask=masks[1],
                probability=probability.cpu().numpy(),
                initial_probability=initial.cpu().numpy(),
                final_probability=final.cpu().numpy(),
                uncertainty=uncertainty.cpu().numpy(),
                presence=float(presence[index]),
                score=float(outputs["iou_scores"][index, prompt, 0]),
            )
        )
    return results


def segment(
    model: PreTrainedModel, processor: Any, images: Iterable[Any], batch_size: int = 4, **options: Any
) -> Iterator[Answer]:
    """
    Segments any number of images, a batch at a time, in constant memory.

    The answer to a click on a lesion holds the click: where the first leaves it out, see [`look_closer`].

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        images (`Iterable`): Anything that the processor reads, or pairs of that and a dictionary with its
            `input_points`, `input_labels` or `input_boxes`.
        batch_size (`int`): Images per batch; it does not change the masks.
        options: Passed to [`SFRecSamModel.forward`], such as `mc_samples`; `mirror=True` averages the answer with that
            to the mirror image, see [`both_views`]; `tidy=False` gives the masks as the model says them, neither
            [`smoothed`] nor [`tidied`].

    Returns:
        Iterator of a [`Segmentation`] for each image; for an image with several prompts, of a list with one for each.

    Raises:
        FileNotFoundError, ValueError: An image, prompt or option cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    return _batches(model, processor, iter(images), batch_size, **options)


def _batches(
    model: PreTrainedModel, processor: Any, remaining: Iterator[Any], batch_size: int, **options: Any
) -> Iterator[Answer]:
    # The next batch is read and prepared while the model works on this one.
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = worker.submit(_next_batch, processor, remaining, batch_size)
        while (prepared := upcoming.result()) is not None:
            upcoming = worker.submit(_next_batch, processor, remaining, batch_size)
            yield from _answer(model, processor, *prepared, **options)


def segment_batch(
    model: PreTrainedModel, processor: Any, pairs: list[tuple[Any, dict[str, Any]]], **options: Any
) -> list[Answer]:
    """
    Segments images in one forward pass.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        pairs (`list[tuple]`): Each image with its prompts, as for [`segment`].
        options: As for [`segment`].

    Returns:
        As from [`segment`].
    """
    return _answer(model, processor, *_prepare(processor, pairs), **options)


def _next_batch(processor: Any, images: Iterator[Any], batch_size: int) -> tuple[list[Any], BatchFeature] | None:
    batch = list(islice(images, batch_size))
    if not batch:
        return None
    return _prepare(processor, [entry if isinstance(entry, tuple) else (entry, {}) for entry in batch])


def _prepare(processor: Any, pairs: list[tuple[Any, dict[str, Any]]]) -> tuple[list[Any], BatchFeature]:
    """The images, which are read already where there are clicks on one, and the model's inputs."""
    kinds = {name for _, prompts in pairs for name in prompts}
    prompts = {name: [given.get(name) for _, given in pairs] for name in kinds}
    images = [image for image, _ in pairs]
    if "input_points" in kinds:  # and a part of it may be asked for again
        images = [read_rgb(image, name=f"image {index}") for index, image in enumerate(images)]
    return images, processor(images, **prompts)


@torch.inference_mode()
def _answer(
    model: PreTrainedModel,
    processor: Any,
    images: list[Any],
    inputs: BatchFeature,
    mirror: bool = False,
    tidy: bool = True,
    closer: bool = True,
    **options: Any,
) -> list[Answer]:
    inputs = {
        name: value.to(model.device, model.dtype if name == "pixel_values" else None) for name, value in inputs.items()
    }
    outputs = both_views(model, inputs, **options) if mirror else model(**inputs, **options)
    sizes = inputs["original_sizes"].tolist()
    by_prompt = [
        segmentations(outputs, sizes, processor.image_processor, tidy, prompt)
        for prompt in range(outputs["pred_masks"].shape[1])
    ]
    if closer and "input_points" in inputs:

        def answer(part: PIL.Image.Image, clicks: list[Click]) -> Segmentation:
            given = {"input_points": [click[:2] for click in clicks], "input_labels": [click[2] for click in clicks]}
            again = {**options, "mirror": mirror, "tidy": tidy, "closer": False}
            return _answer(model, processor, *_prepare(processor, [(part, given)]), **again)[0]

        by_prompt = [
            [
                look_closer(one, picture, clicks_of(inputs, image, prompt), answer)
                for image, (one, picture) in enumerate(zip(found, images, strict=True))
            ]
            for prompt, found in enumerate(by_prompt)
        ]
    counts = _prompts_of_each(inputs, len(sizes))
    by_image = [list(found[:count]) for found, count in zip(zip(*by_prompt, strict=True), counts, strict=True)]
    return [found[0] if len(found) == 1 else found for found in by_image]


def clicks_of(inputs: dict[str, Tensor], image: int, prompt: int) -> list[Click]:
    """
    The clicks of one prompt, back in pixels of the image.

    Args:
        inputs (`dict[str, torch.Tensor]`): From the processor.
        image, prompt (`int`): Which.
    """
    x1, y1, x2, y2 = inputs["scan_boxes"][image].tolist()
    height, width = inputs["reshaped_input_sizes"][image].tolist()
    scale = torch.tensor([(x2 - x1) / width, (y2 - y1) / height])
    places = inputs["input_points"][image, prompt].float().cpu() * scale + torch.tensor([x1, y1])
    labels = inputs["input_labels"][image, prompt].tolist()
    return [(x, y, label) for (x, y), label in zip(places.tolist(), labels, strict=True) if label in (0, 1)]


def _prompts_of_each(inputs: dict[str, Tensor], images: int) -> list[int]:
    """How many masks each image asks for: its rows that hold a prompt, or one that it prompts itself."""
    rows = [
        (inputs[name] != ABSENT).flatten(2).any(dim=-1) for name in ("input_labels", "input_boxes") if name in inputs
    ]
    if not rows:
        return [1] * images
    return torch.stack(rows).any(dim=0).sum(dim=1).clamp(min=1).tolist()
