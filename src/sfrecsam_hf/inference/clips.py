"""A clip segmented steadily: one encoder pass a frame, one lesion followed, masks that do not flicker (METHOD 9).

Frames are encoded and prompted by themselves in batches. Then, in their order: where the mask leaps away from the
lesion of the frame before, or the user pointed at one, the frame is decoded again from the box of that lesion, which
costs no encoder pass. Last, probabilities are averaged over a few neighbouring frames and presence switches late.
Frames before the one that the user pointed at are encoded twice: once backward, to find the lesion on each of them.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from scipy import ndimage

from ..data.clips import Clip
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segmentations

WINDOW = (1, 2, 3, 2, 1)  # weights of a frame's neighbours; speckle moves, borders hardly do
SAME = 0.2  # IoU with the frame before, above which it is the same lesion
MARGIN = 0.15  # of the box's side: a lesion moves and grows from frame to frame
LINGER = 0.15  # presence may fall this much below the threshold before a lesion that was there is gone


def segment_clip(
    model: SFRecSamModel,
    processor: Any,
    clip: Clip,
    prompts: dict[int, dict[str, Any]] | None = None,
    batch_size: int = 8,
    smooth: bool = True,
    **options: Any,
) -> Iterator[Segmentation]:
    """
    The answer to every frame, in order; memory does not grow with the length of the clip.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        clip ([`Clip`]): From [`~sfrecsam_hf.data.clips.open_clip`].
        prompts (`dict[int, dict]`, *optional*): `input_points`, `input_labels` or `input_boxes` by the index of a
            frame; the lesion pointed at is followed from there, forward and backward.
        batch_size (`int`): Frames per batch.
        smooth (`bool`): Average over neighbouring frames and let presence switch late.
        options: As for [`segment`].

    Raises:
        ValueError: A prompt is on a frame that the clip does not have.
    """
    prompts = dict(prompts or {})
    if unknown := [index for index in prompts if not 0 <= index < clip.frames]:
        raise ValueError(f"prompts name frame {unknown[0]}, but {clip.path} has the frames 0 to {clip.frames - 1}.")
    threshold = options.pop("presence_threshold", None)
    threshold = model.config.presence_threshold if threshold is None else threshold
    options["presence_threshold"] = 0.0  # decided below, over several frames
    boxes = _boxes_before(model, processor, clip, prompts, options)
    found = _followed(model, processor, clip, prompts, boxes, batch_size, options)
    found = steady(found) if smooth else found
    if prompts:  # the user says that it is there
        yield from found
    else:
        yield from _present(found, threshold, LINGER if smooth else 0.0)


def steady(found: Iterable[Segmentation], window: tuple[int, ...] = WINDOW) -> Iterator[Segmentation]:
    """
    Averages probabilities, uncertainty and presence over neighbouring frames, so that masks do not flicker.

    At the ends of the clip, and across a change of picture size, fewer frames are averaged.

    Args:
        found (`Iterable[Segmentation]`): Of the frames in order.
        window (`tuple[int, ...]`): An odd number of weights; the middle one is the frame's own.
    """
    half = len(window) // 2
    kept: deque[Segmentation | None] = deque([None] * half, maxlen=len(window))
    for one in itertools.chain(found, [None] * half):
        kept.append(one)
        if len(kept) == len(window) and kept[half] is not None:
            yield _averaged(kept[half], list(zip(kept, window, strict=True)))


def _averaged(middle: Segmentation, weighted: list[tuple[Segmentation | None, int]]) -> Segmentation:
    near = [(one, weight) for one, weight in weighted if one is not None and one.mask.shape == middle.mask.shape]
    total = sum(weight for _, weight in near)

    def mean(name: str) -> Any:
        return sum(getattr(one, name) * weight for one, weight in near) / total

    final = mean("final_probability")
    return replace(
        middle,
        mask=final > 0.5,
        probability=mean("probability"),
        final_probability=final,
        uncertainty=mean("uncertainty"),
        presence=float(mean("presence")),
    )


def _present(found: Iterable[Segmentation], threshold: float, linger: float) -> Iterator[Segmentation]:
    """Empties the masks of frames without a lesion; one that was there stays until presence has clearly fallen."""
    there = False
    for one in found:
        there = one.presence >= (threshold - linger if there else threshold)
        yield one if there else replace(one, mask=np.zeros_like(one.mask))


class _Encoded:
    """A batch of frames after their encoder pass; any of them can be prompted again, for the decoder's cost alone."""

    @torch.inference_mode()
    def __init__(self, model: SFRecSamModel, processor: Any, frames: list[PIL.Image.Image]):
        self.model, self.processor = model, processor
        inputs = processor.image_processor(frames, return_tensors="pt")
        self.sizes, self.boxes, self.text = (inputs[name] for name in ("original_sizes", "scan_boxes", "text"))
        self.embeddings = model.get_image_embeddings(
            inputs["pixel_values"].to(model.device, model.dtype), inputs["reshaped_input_sizes"].to(model.device)
        )

    @torch.inference_mode()
    def answer(self, indices: list[int], prompts: list[dict[str, Any]], options: dict[str, Any]) -> list[Segmentation]:
        """The frames of these indices, each with its prompts or none."""
        chosen = torch.tensor(indices)
        kinds = {name for given in prompts for name in given}
        sizes, boxes = self.sizes[chosen], self.boxes[chosen]
        mapped = self.processor.map_prompts(
            sizes, boxes, **{name: [given.get(name) for given in prompts] for name in kinds}
        )
        mapped = {name: torch.as_tensor(value, device=self.model.device) for name, value in mapped.items()}
        embeddings = self.embeddings.repeat(chosen.to(self.model.device))
        given = {"scan_boxes": boxes, "text": self.text[chosen], **mapped}
        outputs = self.model(image_embeddings=embeddings, **given, **options)
        return segmentations(outputs, sizes.tolist(), self.processor.image_processor)


def _followed(
    model: SFRecSamModel,
    processor: Any,
    clip: Clip,
    prompts: dict[int, dict[str, Any]],
    boxes: dict[int, list[float]],
    batch_size: int,
    options: dict[str, Any],
) -> Iterator[Segmentation]:
    last: Segmentation | None = None
    frames = iter(clip)
    first = 0
    while batch := list(itertools.islice(frames, batch_size)):
        encoded = _Encoded(model, processor, batch)
        given = [
            prompts.get(index) or ({"input_boxes": [boxes[index]]} if index in boxes else {})
            for index in range(first, first + len(batch))
        ]
        for index, first_answer in enumerate(encoded.answer(list(range(len(batch))), given, options)):
            answer = first_answer
            if not given[index] and last is not None and (box := _to_follow(last, answer, bool(prompts))) is not None:
                (answer,) = encoded.answer([index], [{"input_boxes": [box]}], options)
            last = answer if answer.mask.any() else None
            yield answer
        first += len(batch)


def _boxes_before(
    model: SFRecSamModel, processor: Any, clip: Clip, prompts: dict[int, dict[str, Any]], options: dict[str, Any]
) -> dict[int, list[float]]:
    """The lesion's box on each frame before the first one that the user pointed at, followed backward."""
    boxes: dict[int, list[float]] = {}
    if not prompts or not (start := min(prompts)):
        return boxes
    prompt = prompts[start]
    for index, frame in zip(range(start, -1, -1), clip.backwards(start), strict=True):
        (answer,) = _Encoded(model, processor, [frame]).answer([0], [prompt], options)
        if not answer.mask.any():
            break
        prompt = {"input_boxes": [_loose_box(answer.mask)]}
        if index < start:
            boxes[index] = prompt["input_boxes"][0]
    return boxes


def _to_follow(last: Segmentation, answer: Segmentation, pointed: bool) -> list[float] | None:
    """The box to decode a frame from, or None where its own answer already shows the lesion of the frame before."""
    if last.mask.shape != answer.mask.shape:
        return None
    both = np.count_nonzero(last.mask & answer.mask)
    either = np.count_nonzero(last.mask | answer.mask)
    return None if both > SAME * either and not pointed else _loose_box(last.mask)


def _loose_box(mask: np.ndarray) -> list[float]:
    """Around the largest piece of a mask, with a margin, inside the picture."""
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    rows, columns = ndimage.find_objects(pieces)[int(sizes.argmax())]
    down, across = MARGIN * (rows.stop - rows.start), MARGIN * (columns.stop - columns.start)
    height, width = mask.shape
    return [
        max(columns.start - across, 0.0),
        max(rows.start - down, 0.0),
        min(columns.stop + across, float(width)),
        min(rows.stop + down, float(height)),
    ]


def flicker(masks: Iterable[np.ndarray]) -> dict[str, float]:
    """
    How steady a clip's masks are.

    Args:
        masks (`Iterable[numpy.ndarray]` of shape `(height, width)`): Boolean, of the frames in order.

    Returns:
        `neighbour_dice`, the mean Dice between neighbouring frames that both have a mask, and `switches`, the share of
        neighbouring frames between which the lesion comes or goes.
    """
    dice, switches, pairs = [], 0, 0
    for before, after in itertools.pairwise(masks):
        pairs += 1
        areas = np.count_nonzero(before), np.count_nonzero(after)
        if all(areas):
            dice.append(2 * np.count_nonzero(before & after) / sum(areas))
        switches += bool(areas[0]) != bool(areas[1])
    return {"neighbour_dice": float(np.mean(dice)) if dice else 1.0, "switches": switches / max(pairs, 1)}


__all__ = ["flicker", "segment_clip", "steady"]
