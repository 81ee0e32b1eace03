"""Processor: the image processor plus prompts, mapped to the model's input and padded across a mixed batch."""

from typing import Any

import numpy as np
from transformers import BatchFeature, SamProcessor
from transformers.processing_utils import ProcessingKwargs, Unpack

from .configuration_sfrecsam import PROCESSOR_AUTO_MAP
from .image_processing_sfrecsam import SFRecSamImageProcessorKwargs
from .prompts import ABSENT
from .scan_frame import ScanFrame

LABELS = (1, 0, -1, ABSENT)  # the last two are SAM's words for no point


class SFRecSamProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """What [`SFRecSamProcessor`] passes on to its image processor."""

    images_kwargs: SFRecSamImageProcessorKwargs


class SFRecSamProcessor(SamProcessor):
    """
    Prepares images and prompts. Unlike SAM's, a batch may mix images with many, few and no prompts.

    Args:
        image_processor ([`SFRecSamImageProcessor`]): Prepares the images.
    """

    valid_processor_kwargs = SFRecSamProcessorKwargs

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        input_points: list[Any] | None = None,
        input_labels: list[Any] | None = None,
        input_boxes: list[Any] | None = None,
        **kwargs: Unpack[SFRecSamProcessorKwargs],
    ) -> BatchFeature:
        """
        Args:
            images: As for [`SFRecSamImageProcessor.preprocess`].
            segmentation_maps: As for [`SFRecSamImageProcessor.preprocess`].
            input_points (`list`, *optional*):
                For each image its `[x, y]` points in its own pixels, or a list of such lists (one mask each), or
                None for an image that the model is to prompt itself.
            input_labels (`list`, *optional*): The same nesting: 1 for lesion, 0 for background; all 1 if left out.
            input_boxes (`list`, *optional*): For each image its `[x1, y1, x2, y2]` boxes, one mask each, or None.

        Returns:
            `BatchFeature` that can be passed to the model whole.

        Raises:
            ValueError: A prompt lies outside its image, or the prompts do not fit the images.
        """
        kwargs.setdefault("return_tensors", "pt")
        options = self._merge_kwargs(tokenizer_init_kwargs={}, **kwargs)["images_kwargs"]
        encoding = self.image_processor(images, segmentation_maps=segmentation_maps, **options)
        sizes, boxes = encoding["original_sizes"], encoding["scan_boxes"]
        prompts = self.map_prompts(sizes, boxes, input_points, input_labels, input_boxes)
        encoding.update(BatchFeature(prompts, tensor_type=options.get("return_tensors")))
        return encoding

    def to_dict(self) -> dict[str, Any]:
        """Adds which class loads it, also after it was loaded itself."""
        return {**super().to_dict(), "auto_map": dict(PROCESSOR_AUTO_MAP)}

    def map_prompts(
        self,
        original_sizes: Any,
        scan_boxes: Any,
        input_points: list[Any] | None = None,
        input_labels: list[Any] | None = None,
        input_boxes: list[Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """
        Prompts of images that are prepared already, in pixels of the model's input.

        Args:
            original_sizes, scan_boxes: From the image processor.
            input_points, input_labels, input_boxes: As for `__call__`, in pixels of the images.

        Returns:
            `input_points` (`numpy.ndarray` of shape `(batch, prompts, points, 2)`), `input_labels` (of shape
            `(batch, prompts, points)`) and `input_boxes` (of shape `(batch, prompts, 4)`), where they were given;
            -10 where an image has none.

        Raises:
            ValueError: A prompt lies outside its image, or the prompts do not fit the images.
        """
        frames = self.image_processor._frames(original_sizes, scan_boxes)
        if input_labels is not None and input_points is None:
            raise ValueError("input_labels need input_points; pass both or neither.")
        given = {"input_points": input_points, "input_labels": input_labels, "input_boxes": input_boxes}
        for name, entries in given.items():
            if entries is not None and len(entries) != len(frames):
                raise ValueError(f"{name} has {len(entries)} entries for {len(frames)} images; give one or None each.")
        points = labels = boxes = None
        if input_points is not None:
            if input_labels is None:
                input_labels = [None] * len(frames)
            points, labels = zip(*map(_points_and_labels, input_points, input_labels), strict=True)
            points = [self._mapped(point, frame, "input_points") for point, frame in zip(points, frames, strict=True)]
        if input_boxes is not None:
            boxes = [_boxes(box) for box in input_boxes]
            boxes = [self._mapped(box, frame, "input_boxes") for box, frame in zip(boxes, frames, strict=True)]
        rows = max([len(entry) for entry in [*(points or []), *(boxes or [])]] + [1])
        prompts = {}
        if points is not None:
            most = max([entry.shape[1] for entry in points] + [1])
            prompts["input_points"] = np.stack([_padded(entry, (rows, most, 2)) for entry in points])
            prompts["input_labels"] = np.stack([_padded(entry, (rows, most)) for entry in labels]).astype(np.int32)
        if boxes is not None:
            prompts["input_boxes"] = np.stack([_padded(entry, (rows, 4)) for entry in boxes])
        return prompts

    def _mapped(self, coordinates: np.ndarray, frame: ScanFrame, name: str) -> np.ndarray:
        """Coordinates of the original image in pixels of the model's input; absent ones stay absent."""
        width, height = frame.size
        absent = coordinates == ABSENT
        limits = np.tile([width, height], coordinates.shape[-1] // 2)
        if not (absent | ((coordinates >= 0) & (coordinates <= limits))).all():
            raise ValueError(f"{name} {coordinates.tolist()} lie outside their image of {width}x{height} pixels.")
        if coordinates.shape[-1] == 4 and not (absent[:, 2:] | (coordinates[:, 2:] > coordinates[:, :2])).all():
            raise ValueError(
                f"{name} {coordinates.tolist()} have no area in their image of {width}x{height} pixels; give x1 < x2 "
                "and y1 < y2."
            )
        width, height = frame.scan_size
        height, width = self.image_processor._get_preprocess_shape((height, width), self.target_size)
        return np.where(absent, ABSENT, frame.moved(coordinates, (width, height)))


def _points_and_labels(points: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The points of one image as `(prompts, points, 2)` and their labels, padded with `ABSENT`."""
    if points is None or len(points) == 0:
        return np.zeros((0, 1, 2)), np.zeros((0, 1))
    if np.ndim(points[0]) == 0:
        raise ValueError(f"input_points needs a list of [x, y] points for each image, but got {points}.")
    nested = points if np.ndim(points[0][0]) else [points]
    if any(np.shape(point) != (2,) for prompt in nested for point in prompt):
        raise ValueError(f"input_points needs [x, y] points, but got {points}.")
    if labels is None:
        labels = [[1] * len(prompt) for prompt in nested]
    elif np.ndim(labels[0]) == 0:
        labels = [labels]
    if [len(prompt) for prompt in nested] != [len(prompt) for prompt in labels]:
        raise ValueError("input_labels must have one label for each of input_points.")
    if not np.isin([label for prompt in labels for label in prompt], LABELS).all():
        raise ValueError(f"input_labels must be 1 (lesion) or 0 (background), but are {labels}.")
    most = max(len(prompt) for prompt in nested)
    padded = np.full((len(nested), most, 2), float(ABSENT))
    padded_labels = np.full((len(nested), most), ABSENT)
    for row, (prompt, label) in enumerate(zip(nested, labels, strict=True)):
        padded[row, : len(prompt)] = np.asarray(prompt, float)
        padded_labels[row, : len(label)] = label
    return padded, padded_labels


def _boxes(boxes: Any) -> np.ndarray:
    """The boxes of one image as `(prompts, 4)`; one box may stand alone."""
    if boxes is None or len(boxes) == 0:
        return np.zeros((0, 4))
    nested = boxes if np.ndim(boxes[0]) else [boxes]
    if any(np.shape(box) != (4,) for box in nested):
        raise ValueError(f"input_boxes needs [x1, y1, x2, y2] boxes, but got {boxes}.")
    return np.asarray(nested, float)


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` in the corner of a float32 array of `shape` that is otherwise `ABSENT`."""
    filled = np.full(shape, ABSENT, np.float32)
    filled[tuple(slice(side) for side in values.shape)] = values
    return filled


SFRecSamProcessor.register_for_auto_class()

__all__ = ["SFRecSamProcessor"]
