"""A clip segmented steadily: one encoder pass a frame, one lesion followed, masks that do not flicker (METHOD 9).

Frames are encoded and prompted by themselves in batches. Then, in their order: where the mask leaps away from the
lesion of the frame before, or the user pointed at one, the frame is decoded from the box of that lesion, which costs
no encoder pass. Last, what the decoder says is averaged over neighbouring frames, each moved to where the tissue is
now, and presence switches late. All of it happens at the resolution of the model's masks, so that a frame is brought
to its size once. Frames before the one that the user pointed at are encoded twice: once backward, to find the lesion
on each of them.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from .image_reading import read_rgb
from .model_outputs import SFRecSamImageEmbeddings, SFRecSamOutput, emptied_below, share
from .scan_frame import ScanFrame
from .segmentation import Segmentation, segmentations
from .tidying import components

WINDOW = (1, 2, 2, 2, 2, 2, 2, 2, 1)  # weights of a frame and its neighbours, 0.4 s of a clip: speckle fades sooner
SAME = 0.2  # IoU with the frame before, above which it is the same lesion
MARGIN = 0.15  # of the box's side: a lesion moves and grows from frame to frame
LINGER = 0.15  # presence may fall this much below the threshold before a lesion that was there is gone
FARTHEST = 0.15  # of the picture's side: what seems to move farther is another picture
COARSE = 0.12  # waves a pixel of the mask: what is finer is speckle, which does not move with the tissue
EPSILON = 1e-6


@dataclass
class Seen:
    r"""
    One frame after the decoder, at the resolution of the model's masks.

    Args:
        picture (`PIL.Image.Image`): The frame.
        place ([`ScanFrame`]): Where its scan lies.
        gray (`torch.Tensor` of shape `(height, width)`): The frame as small as the masks, 0 on padding.
        output ([`SFRecSamOutput`]): Of a batch of one.
    """

    picture: PIL.Image.Image
    place: ScanFrame
    gray: Tensor
    output: SFRecSamOutput

    @property
    def mask(self) -> np.ndarray:
        """What is lesion, at the resolution of the model's masks."""
        return (self.output.pred_masks[0, 0, 0] > 0).cpu().numpy()


def segment_clip(
    model: PreTrainedModel,
    processor: Any,
    frames: Iterable[Any],
    prompts: dict[int, dict[str, Any]] | None = None,
    batch_size: int = 8,
    smooth: bool = True,
    tidy: bool = True,
    **options: Any,
) -> Iterator[tuple[PIL.Image.Image, Segmentation]]:
    """
    Every frame, read once, and the answer to it, in order; memory does not grow with the length of the clip.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        frames (`Iterable`): Anything that the processor reads; with prompts a sequence, such as a list or what
            [`~sfrecsam_hf.data.clips.open_clip`] returns.
        prompts (`dict[int, dict]`, *optional*): `input_points`, `input_labels` or `input_boxes` by the index of a
            frame; the lesion pointed at is followed from there, forward and backward.
        batch_size (`int`): Frames per batch.
        smooth (`bool`): Average over neighbouring frames and let presence switch late.
        tidy (`bool`): As for [`segment`].
        options: Passed to [`SFRecSamModel.forward`], such as `mc_samples`.

    Raises:
        ValueError: A prompt is on a frame that the clip does not have, or a frame, prompt or option cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    if options.pop("mirror", False):
        raise ValueError("mirror=True is for still images; segment a clip without it.")
    if prompts and not isinstance(frames, Sequence):
        raise ValueError("prompts need a sequence of frames, to go back from them; pass a list or open_clip(path).")
    if prompts and (unknown := [index for index in prompts if not 0 <= index < len(frames)]):  # type: ignore[arg-type]
        raise ValueError(f"prompts name frame {unknown[0]}, but the clip has the frames 0 to {len(frames) - 1}.")  # type: ignore[arg-type]
    threshold = share("presence_threshold", options.pop("presence_threshold", None), model.config.presence_threshold)
    tracker = _Tracker(model, processor, prompts or {}, threshold, options | {"presence_threshold": 0.0})
    return _answers(tracker, frames, batch_size, smooth, tidy)


def _answers(
    tracker: "_Tracker", frames: Iterable[Any], batch_size: int, smooth: bool, tidy: bool
) -> Iterator[tuple[PIL.Image.Image, Segmentation]]:
    seen = tracker.follow(frames, batch_size)
    there = False
    for one in steady(seen) if smooth else seen:
        lower = LINGER if smooth and there else 0.0
        output = emptied_below(one.output, tracker.threshold - lower)
        there = float(output.presence_logits.sigmoid()) >= tracker.threshold - lower
        size = (one.picture.height, one.picture.width)
        (answer,) = segmentations(output, [size], tracker.processor.image_processor, tidy)
        yield one.picture, answer


def steady(seen: Iterable[Seen], window: tuple[int, ...] = WINDOW) -> Iterator[Seen]:
    """
    Averages what neighbouring frames say, each moved to where the tissue is in this one, so that masks do not flicker.

    At the ends of the clip, and across a change of picture size, fewer frames are averaged.

    Args:
        seen (`Iterable[Seen]`): The frames in order.
        window (`tuple[int, ...]`): An odd number of weights; the middle one is the frame's own.
    """
    half = len(window) // 2
    near: deque[tuple[Seen, np.ndarray] | None] = deque([None] * half, maxlen=len(window))
    before, travelled = None, np.zeros(2)
    for one in itertools.chain(seen, [None] * half):
        if one is not None:
            if before is not None and before.place == one.place:
                travelled = travelled + motion(before.gray, one.gray)
            before = one
        near.append(None if one is None else (one, travelled))
        if len(near) == len(window) and (middle := near[half]) is not None:
            yield _averaged(*middle, [(*other, weight) for other, weight in zip(near, window, strict=True) if other])


def _averaged(middle: Seen, here: np.ndarray, near: list[tuple[Seen, np.ndarray, int]]) -> Seen:
    """The middle frame with means over its neighbours, whose tissue has travelled so far since the clip began."""
    near = [(one, there, weight) for one, there, weight in near if one.place == middle.place]
    total = sum(weight for *_, weight in near)
    maps: Any = sum(_moved(_maps(one), *(here - there).tolist()) * weight for one, there, weight in near) / total
    presence: Any = sum(one.output.presence_logits.float().sigmoid() * weight for one, _, weight in near) / total
    final, initial, mean, entropy, information = maps[None, None, None].unbind(3)
    changed = {
        "pred_masks": final.logit(EPSILON),
        "initial_masks": initial.logit(EPSILON),
        "mean_probability": mean,
        "predictive_entropy": entropy,
        "mutual_information": information,
        "presence_logits": presence.logit(EPSILON),
    }
    return Seen(middle.picture, middle.place, middle.gray, SFRecSamOutput(**{**middle.output, **changed}))


def _maps(one: Seen) -> Tensor:
    output = one.output
    probabilities = [output[name].float().sigmoid() for name in ("pred_masks", "initial_masks")]
    entropies = [output[name].float() for name in ("mean_probability", "predictive_entropy", "mutual_information")]
    return torch.cat([value[0, 0, :1] for value in (*probabilities, *entropies)])


def motion(before: Tensor, after: Tensor) -> tuple[float, float]:
    """
    How far the tissue moved between two frames, down and right, in parts of a pixel of what is given.

    By phase correlation of what is coarser than speckle. No motion where it does not bring the frames closer to each
    other: then one is another picture, or nothing moved.

    Args:
        before, after (`torch.Tensor` of shape `(height, width)`): The frames in gray, 0 on padding.
    """
    if not bool((before != 0).any()):
        return 0.0, 0.0
    rows, columns = (int(torch.nonzero((before != 0).any(dim)).max()) + 1 for dim in (1, 0))
    fade = torch.outer(*(torch.hann_window(side, periodic=False, device=before.device) for side in (rows, columns)))
    scans = (gray[:rows, :columns] for gray in (before, after))
    first, second = (torch.fft.rfft2((scan - scan.mean()) * fade) for scan in scans)
    down, right = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)
    coarse = torch.exp(-(down**2 + right**2) / (2 * COARSE**2)).to(before.device)
    cross = second * first.conj()
    peaks = torch.fft.irfft2(coarse * cross / cross.abs().clamp(min=EPSILON), s=(rows, columns))
    row, column = divmod(int(peaks.argmax()), columns)
    by = _summit(peaks[:, column].tolist(), row), _summit(peaks[row].tolist(), column)
    if abs(by[0]) > FARTHEST * rows or abs(by[1]) > FARTHEST * columns:
        return 0.0, 0.0
    closer = (_moved(before[None], *by)[0] - after).abs().mean() < (before - after).abs().mean()
    return by if closer else (0.0, 0.0)


def _summit(line: list[float], peak: int) -> float:
    """Where the parabola through a circular line's highest value and its neighbours is highest; from its middle on."""
    before, highest, after = line[peak - 1], line[peak], line[(peak + 1) % len(line)]
    curve = before - 2 * highest + after
    at = peak + (0.5 * (before - after) / curve if curve else 0.0)
    return (at + len(line) / 2) % len(line) - len(line) / 2


def _moved(maps: Tensor, down: float, right: float) -> Tensor:
    """Maps of shape `(maps, height, width)`, moved; what comes in repeats the edge."""
    if down == right == 0:
        return maps
    height, width = maps.shape[-2:]
    shift = torch.tensor([[1, 0, -2 * right / width], [0, 1, -2 * down / height]], device=maps.device)
    grid = F.affine_grid(shift[None], [1, 1, height, width], align_corners=False)
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False)[0]


@dataclass
class _Tracker:
    model: Any
    processor: Any
    prompts: dict[int, dict[str, Any]]
    threshold: float
    options: dict[str, Any]

    def follow(self, frames: Iterable[Any], batch_size: int) -> Iterator[Seen]:
        """The frames after the decoder, prompted by the user, by the lesion of the frame before, or by themselves."""
        boxes = self._boxes_before(frames, batch_size)
        last: Seen | None = None
        place = None
        pictures = enumerate(read_rgb(frame, name=f"frame {index}") for index, frame in enumerate(frames, 1))
        while batch := list(itertools.islice(pictures, batch_size)):
            encoded = _Encoded(self.model, self.processor, [picture for _, picture in batch], place)
            place = encoded.places[-1]
            given = [
                self.prompts.get(index) or ({"input_boxes": [boxes[index]]} if index in boxes else {})
                for index, _ in batch
            ]
            found = encoded.decoded(range(len(batch)), given, self.options)
            for index, one in enumerate(found):
                if not given[index] and last is not None and self._leaps(last, one):
                    (one,) = encoded.decoded([index], [{"input_boxes": [_loose_box(last)]}], self.options)
                one.output.prompt_is_automatic = torch.full_like(one.output.prompt_is_automatic, not self.prompts)
                shown = bool(self.prompts) or float(one.output.presence_logits.sigmoid()) >= self.threshold
                last = one if shown and one.mask.any() else None
                yield one

    def _leaps(self, last: Seen, one: Seen) -> bool:
        """Whether a frame is decoded again, because the user pointed at a lesion or its own answer shows another."""
        if last.place != one.place:
            return False
        both, either = (np.count_nonzero(join(last.mask, one.mask)) for join in (np.logical_and, np.logical_or))
        return bool(self.prompts) or bool(both <= SAME * either)

    def _boxes_before(self, frames: Any, batch_size: int) -> dict[int, list[float]]:
        """The lesion's box on each frame before the first one that the user pointed at, followed backward."""
        boxes: dict[int, list[float]] = {}
        if not self.prompts or not (start := min(self.prompts)):
            return boxes
        prompt = self.prompts[start]
        for stop in range(start + 1, 0, -batch_size):
            first = max(stop - batch_size, 0)
            pictures = [read_rgb(frame, name=f"frame {first + 1}") for frame in frames[first:stop]]
            encoded = _Encoded(self.model, self.processor, pictures, None)
            for index in reversed(range(first, stop)):
                (one,) = encoded.decoded([index - first], [prompt], self.options)
                if not one.mask.any():
                    return boxes
                prompt = {"input_boxes": [_loose_box(one)]}
                if index < start:
                    boxes[index] = prompt["input_boxes"][0]
        return boxes


class _Encoded:
    """A batch of frames after their encoder pass; any of them can be prompted again, for the decoder's cost alone."""

    @torch.inference_mode()
    def __init__(self, model: Any, processor: Any, pictures: list[PIL.Image.Image], before: ScanFrame | None):
        self.model, self.processor, self.pictures = model, processor, pictures
        self.places: list[ScanFrame] = []
        for picture in pictures:
            before = _place(picture, before, processor.image_processor.do_crop_border)
            self.places.append(before)
        scans = [
            place.cut(picture.convert("L").convert("RGB"))
            for place, picture in zip(self.places, pictures, strict=True)
        ]
        inputs = processor.image_processor(scans, do_crop_border=False, return_tensors="pt")
        self.embeddings: SFRecSamImageEmbeddings = model.get_image_embeddings(
            inputs["pixel_values"].to(model.device, model.dtype), inputs["reshaped_input_sizes"].to(model.device)
        )
        self.text = inputs["text"]
        self.grays = self.embeddings.pixels.float().mean(dim=1)

    @torch.inference_mode()
    def decoded(self, indices: Iterable[int], prompts: list[dict[str, Any]], options: dict[str, Any]) -> list[Seen]:
        """The frames of these indices, each with its prompts or none."""
        chosen = list(indices)
        kinds = {name for given in prompts for name in given}
        sizes = [(self.pictures[index].height, self.pictures[index].width) for index in chosen]
        boxes = torch.tensor([self.places[index].box for index in chosen])
        mapped = self.processor.map_prompts(
            sizes, boxes, **{name: [given.get(name) for given in prompts] for name in kinds}
        )
        mapped = {name: torch.as_tensor(value, device=self.model.device) for name, value in mapped.items()}
        embeddings = self.embeddings.repeat(torch.tensor(chosen, device=self.model.device))
        given = {"scan_boxes": boxes, "text": self.text[chosen], **mapped}
        outputs = self.model(image_embeddings=embeddings, **given, **options)
        return [
            Seen(self.pictures[index], self.places[index], self.grays[index], _row(outputs, row))
            for row, index in enumerate(chosen)
        ]


def _row(outputs: SFRecSamOutput, row: int) -> SFRecSamOutput:
    """One image of a batch, without what is as large as the batch's features."""
    kept = {name: value[row : row + 1] for name, value in outputs.items() if isinstance(value, Tensor)}
    return SFRecSamOutput(**kept)


def _place(picture: PIL.Image.Image, before: ScanFrame | None, crops: bool) -> ScanFrame:
    """Where the scan lies: a clip's frame stands still, so that what one picture shows of the scan counts for all."""
    if not crops:
        return ScanFrame.none(*picture.size)
    place = ScanFrame.around(picture)
    if before is None or before.size != place.size:
        return place
    (left, top, right, bottom), (x1, y1, x2, y2) = before.box, place.box
    return ScanFrame((min(left, x1), min(top, y1), max(right, x2), max(bottom, y2)), place.size)


def _loose_box(one: Seen) -> list[float]:
    """Around the largest piece of a mask, with a margin, inside the picture and in its pixels."""
    pieces, _ = components(one.mask)
    rows, columns = np.nonzero(pieces == np.bincount(pieces[one.mask]).argmax())
    ends = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)
    margin = MARGIN * np.tile(ends[2:] - ends[:2], 2) * [-1, -1, 1, 1]
    width, height = one.place.scan_size
    pixel = max(width, height) / max(one.mask.shape)
    box = (ends + margin) * pixel + np.tile(one.place.box[:2], 2)
    return np.clip(box, 0, np.tile(one.place.size, 2)).tolist()


__all__ = ["segment_clip", "steady"]
