"""Pipelines: `lesion-segmentation`, and transformers' own `image-segmentation` and `mask-generation`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import MaskGenerationPipeline, Pipeline
from transformers.models.sam.image_processing_pil_sam import _mask_to_rle

from .clip_tracking import segment_clip
from .image_reading import picture_frames, read_rgb
from .image_sources import ImageLike, is_image
from .processing_sfrecsam import SFRecSamProcessor
from .scan_frame import ScanFrame
from .segmentation import Segmentation, segment_batch

PROMPTS = ("input_points", "input_labels", "input_boxes")
CLIP_BATCH = 8  # frames at a time
OPTIONS = ("mc_samples", "suspicion_threshold", "presence_threshold", "correctors", "mirror", "tidy")


if TYPE_CHECKING:  # what all pipelines have; each brings its own base
    from transformers import Pipeline as AnyPipeline
else:
    AnyPipeline = object


class _SFRecSamPipeline(AnyPipeline):
    """What the pipelines share: an image processor alone is loaded, and what is saved loads by every Auto class."""

    _load_image_processor = True
    _load_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.given_image_processor = self.image_processor

    def __call__(
        self, images: Any, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        """Checks what would else change nothing, or everything, without a word."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more.")
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name}={value} must be a finite number.")
        return super().__call__(images, batch_size=batch_size, num_workers=num_workers, **options)  # type: ignore[misc]

    def check_model_type(self, supported_models: Any) -> None:
        """Says nothing: transformers' list cannot name a model that comes from the Hub."""

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves the model, which brings the code along, and the processor."""
        self.model.save_pretrained(save_directory, **kwargs)
        SFRecSamProcessor(self.given_image_processor).save_pretrained(save_directory)


class LesionSegmentationPipeline(_SFRecSamPipeline, Pipeline):
    """
    Outlines the lesion in breast-ultrasound images and says where it is uncertain. An even frame around the scan
    is cut off before the model looks.

    ```python
    from transformers import pipeline

    segmenter = pipeline("lesion-segmentation", model="org/sf-recsam", trust_remote_code=True)
    segmenter("image.png")["mask"].save("mask.png")
    segmenter("image.png", input_points=[[120, 140]], mc_samples=16)
    for found in segmenter(dataset["image"], batch_size=8):
        print(found["measurements"])
    for found in segmenter("clip.gif", clip=True):
        print(found["box"])
    ```
    """

    def __call__(  # type: ignore[override]
        self,
        images: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        clip: bool = False,
        **options: Any,
    ) -> dict[str, Any] | list[dict[str, Any]] | Iterator[dict[str, Any]]:
        """
        Args:
            images: One image, as for [`SFRecSamImageProcessor.preprocess`]; or a mapping such as a row of a data set,
                with `image` and, where wanted, its own `input_points`, `input_labels` and `input_boxes`; or a list, a
                generator, a column of a data set, or any other iterable of these.
            batch_size (`int`, *optional*): Images at a time, 1 if not given; it does not change the masks.
            num_workers (`int`, *optional*): Processes that read images.
            clip (`bool`): The images are the frames of one clip, in order, and the lesion is followed through them as
                by [`segment_clip`]. A path is that of a GIF, APNG, WebP or TIFF; of a video or a DICOM file give
                `sfrecsam_hf.open_clip(path)`.
            input_points, input_labels, input_boxes (`list`, *optional*):
                Prompts of one image, in its pixels, as for [`SFRecSamProcessor`]; with several images for each one; of
                a clip those of its first frame. On another frame they come with it, in a mapping.
            mc_samples, suspicion_threshold, presence_threshold, correctors:
                As for [`SFRecSamModel.forward`].
            tidy (`bool`, *optional*): False gives the mask as the model says it, with specks, holes and steps.
            mirror (`bool`, *optional*): Average the answer with that to the mirror image; takes twice the time.

        Returns:
            A dictionary for one image, a list of them for a list, and an iterator for anything else; for an image with
            several prompts a list with one dictionary for each:

            - **label** (`str`): `"lesion"`.
            - **score** (`float`): The model's own estimate of the mask's IoU, in [0, 1].
            - **presence** (`float`): Probability in [0, 1] that there is a lesion.
            - **mask** (`PIL.Image.Image` of mode `L`): 255 on the lesion and 0 elsewhere, at the image's size.
            - **initial_mask** (`PIL.Image.Image` of mode `L`): The same before correction.
            - **probability** (`numpy.ndarray` of shape `(height, width)`): Of lesion, mean of the samples, in [0, 1].
            - **uncertainty** (`numpy.ndarray` of shape `(height, width)`): Predictive entropy in bits, in [0, 1].
            - **box** (`list[int]`, *optional*): `[x1, y1, x2, y2]` around the largest lesion, or None.
            - **measurements** (`dict`): As from [`Segmentation.measurements`], in pixels.

        Raises:
            FileNotFoundError, ValueError: An image, prompt or option cannot be used.
        """
        if isinstance(images, list) and not images:
            raise ValueError("images is empty; pass at least one image.")
        if clip:
            found = self._followed(images, CLIP_BATCH if batch_size is None else batch_size, **options)
            return list(found) if isinstance(images, list) else found
        if not is_image(images) and not isinstance(images, Mapping | list | Dataset):
            images = (image for image in images)
        return super().__call__(images, batch_size=batch_size, num_workers=num_workers, **options)

    def _followed(self, frames: Any, batch_size: int, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The answer to each frame of a clip."""
        prompts, options, _ = self._sanitize_parameters(**parameters)
        prompts, options = self._preprocess_params | prompts, self._forward_params | options
        by_frame = {0: prompts} if prompts else {}
        if isinstance(frames, str | Path):
            frames = picture_frames(frames)
        elif is_image(frames) or isinstance(frames, Mapping):
            raise ValueError(f"clip=True needs the frames of a clip, or its path, but got a {type(frames).__name__}.")
        if isinstance(frames, list):
            entries = [self.preprocess(frame) if isinstance(frame, Mapping) else {"image": frame} for frame in frames]
            frames = [entry["image"] for entry in entries]
            by_frame |= {index: entry["prompts"] for index, entry in enumerate(entries) if entry.get("prompts")}
        if by_frame and not isinstance(frames, Sequence):
            frames = list(frames)
        processor = SFRecSamProcessor(self.image_processor)
        found = segment_clip(self.model, processor, frames, by_frame, batch_size, **options)
        return (self.postprocess({"found": [[answer]]}) for _, answer in found)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        if unknown := sorted(parameters.keys() - {*PROMPTS, *OPTIONS}):
            raise ValueError(f"{', '.join(unknown)}: this pipeline takes only {', '.join((*PROMPTS, *OPTIONS))}.")
        prompts, options = (
            {name: parameters[name] for name in names if name in parameters} for names in (PROMPTS, OPTIONS)
        )
        return prompts, options, {}

    def preprocess(self, image: Any, **prompts: Any) -> dict[str, Any]:
        """Reads one image and takes its prompts along."""
        if isinstance(image, Mapping):
            if "image" not in image:
                raise ValueError(f"A mapping needs the key 'image', but has {', '.join(map(str, image))}.")
            prompts |= {name: image[name] for name in PROMPTS if image.get(name) is not None}
            image = image["image"]
        return {"image": read_rgb(image), "prompts": prompts}

    def _forward(self, inputs: dict[str, Any], **options: Any) -> dict[str, list[list[Segmentation]]]:
        images, prompts = inputs["image"], inputs["prompts"]
        pairs = list(zip(images, prompts, strict=True)) if isinstance(images, list) else [(images, prompts)]
        answers = segment_batch(self.model, SFRecSamProcessor(self.image_processor), pairs, **options)
        return {"found": [answer if isinstance(answer, list) else [answer] for answer in answers]}

    def postprocess(self, outputs: dict[str, Any]) -> Any:
        """The answer for one image."""
        found = outputs["found"]
        found = found[0] if isinstance(found[0], list) else found  # a batch of one image is not unpacked
        answers = [self.answer(one) for one in found]
        return answers[0] if len(answers) == 1 else answers

    def answer(self, found: Segmentation) -> dict[str, Any]:
        """What is returned for one prompt of one image."""
        measurements = found.measurements()
        return {
            "label": self.model.config.id2label[1],
            "score": found.score,
            "presence": found.presence,
            "mask": _picture(found.mask),
            "initial_mask": _picture(found.initial_mask),
            "probability": found.probability,
            "uncertainty": found.uncertainty,
            "box": measurements["box"],
            "measurements": measurements,
        }


class SFRecSamImageSegmentationPipeline(LesionSegmentationPipeline):
    """Task `image-segmentation`: for each image a list with `score`, `label` and `mask`, empty without a lesion."""

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The answer for one image, as other models of this task give it."""
        found = super().postprocess(outputs)
        answers = found if isinstance(found, list) else [found]
        shown = [answer for answer in answers if answer["box"] is not None]
        return [{name: answer[name] for name in ("score", "label", "mask")} for answer in shown]


class SFRecSamMaskGenerationPipeline(_SFRecSamPipeline, MaskGenerationPipeline):
    """Task `mask-generation`: as SAM's, clicks on a grid and keeps the masks that are certain and differ."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # The frame is cut off the image, and not off the crops that the grid makes of its scan.
        self.image_processor: Any = copy(self.image_processor)
        self.image_processor.do_crop_border = False

    def preprocess(self, image: ImageLike, **grid: Any) -> Iterator[dict[str, Any]]:
        """Encodes the scan and yields its clicks in batches."""
        picture = read_rgb(image)
        crops = self.given_image_processor.do_crop_border
        frame = ScanFrame.around(picture) if crops else ScanFrame.none(*picture.size)
        for clicks in super().preprocess(frame.cut(picture), **grid):
            yield {**clicks, "frame": frame}

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *params: dict) -> Iterator[dict[str, Any]]:
        """Takes one image at a time whatever the batch size, since the clicks of an image are a batch already."""
        return super().get_iterator(inputs, num_workers, 1, *params)

    def _forward(self, inputs: dict[str, Any], **filters: Any) -> dict[str, Any]:
        # Like SAM, three masks and a single pass for each click.
        frame = inputs.pop("frame")
        return {**super()._forward({**inputs, "multimask_output": True, "mc_samples": 0}, **filters), "frame": frame}

    def postprocess(self, outputs: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """The masks of the scan, at its place in the image."""
        frame, *_ = [output.pop("frame") for output in outputs]
        found = super().postprocess(outputs, **options)
        found["masks"] = [frame.put_back(mask) for mask in found["masks"]]
        if "rle_mask" in found:
            found["rle_mask"] = [_mask_to_rle(torch.from_numpy(mask)[None])[0] for mask in found["masks"]]
        if "bounding_boxes" in found:
            found["bounding_boxes"] = found["bounding_boxes"] + torch.tensor(frame.box[:2] * 2)
        return found


def _picture(mask: np.ndarray) -> PIL.Image.Image:
    return PIL.Image.fromarray(mask.astype(np.uint8) * 255)


__all__ = ["LesionSegmentationPipeline", "SFRecSamImageSegmentationPipeline", "SFRecSamMaskGenerationPipeline"]
