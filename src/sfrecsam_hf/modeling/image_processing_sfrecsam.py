"""Image processor of SF-RecSAM: SAM's, for any image, at 256 px, and back to the exact original size."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BatchFeature
from transformers.models.sam.image_processing_pil_sam import (
    SamImageProcessorKwargs,
    SamImageProcessorPil,
    _rle_to_mask,
)
from transformers.processing_utils import Unpack
from transformers.utils import is_torchvision_available

from .configuration_sfrecsam import IMAGE_PROCESSOR_AUTO_MAP
from .image_reading import read_mask, read_rgb
from .image_sources import ImageLike, is_image
from .model_outputs import EMPTY_LOGIT
from .scan_frame import ScanFrame
from .tidying import burnt_in_text, smoothed, tidied

if is_torchvision_available():
    from transformers.models.sam.image_processing_sam import SamImageProcessor as DefaultImageProcessor
else:
    DefaultImageProcessor = SamImageProcessorPil


Size = tuple[int, int]

if TYPE_CHECKING:  # what both backends have; each brings its own base
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil as Backend
else:
    Backend = object


class SFRecSamImageProcessorKwargs(SamImageProcessorKwargs, total=False):  # type: ignore[call-arg]
    r"""
    do_crop_border (`bool`, *optional*, defaults to `self.do_crop_border`):
        Whether to cut off the even frame around a scan, see [`ScanFrame`].
    """

    do_crop_border: bool


class _AnyImage(Backend):
    """What both backends share: reading, cutting the frame, the resized size, and the way back."""

    valid_kwargs = SFRecSamImageProcessorKwargs
    do_crop_border = True
    size = {"longest_edge": 256}
    pad_size = {"height": 256, "width": 256}
    mask_size = {"longest_edge": 256}
    mask_pad_size = {"height": 256, "width": 256}

    def __init__(self, image_size: int | None = None, **kwargs: Unpack[SFRecSamImageProcessorKwargs]):
        if image_size is not None:
            square = {"height": image_size, "width": image_size}
            longest = {"longest_edge": image_size}
            kwargs = {
                "size": longest,
                "mask_size": longest,
                "pad_size": square,
                "mask_pad_size": square,
                **kwargs,
            }
        super().__init__(**kwargs)

    def preprocess(
        self,
        images: ImageLike | list[ImageLike],
        segmentation_maps: ImageLike | list[ImageLike] | None = None,
        **kwargs: Unpack[SFRecSamImageProcessorKwargs],
    ) -> BatchFeature:
        """
        Cuts off the frame, resizes with the aspect ratio kept, normalises, and pads at the right and the bottom.

        Colour is dropped: tissue has none, and a Doppler overlay or a coloured caption should not look like tissue.

        Args:
            images: One image or a list: paths, URLs, PIL images, arrays or tensors of any mode; or one 4-D array.
            segmentation_maps: The masks, one per image, of the same size: boolean, {0, 1} or [0, 255].

        Returns:
            `BatchFeature` with

            - **pixel_values** of shape `(batch, 3, size, size)`,
            - **original_sizes** of shape `(batch, 2)`: height and width of each image,
            - **scan_boxes** of shape `(batch, 4)`: `(x1, y1, x2, y2)` of the scan in its image; all of it if there is
              no frame or `do_crop_border` is off,
            - **text** of shape `(batch, 2, size, size)`: from [`burnt_in_text`], of the scan in the model's input,
            - **reshaped_input_sizes** of shape `(batch, 2)`: height and width of the scan in the model's input,
            - **labels** of shape `(batch, size, size)` in {0, 1}, if there are masks.

        Raises:
            FileNotFoundError, ValueError: An image cannot be used, or a mask does not fit its image.
        """
        images = as_list(images)
        if not images:
            raise ValueError("images is empty; pass at least one image.")
        pictures = [read_rgb(image, name=f"image {index}") for index, image in enumerate(images)]
        pictures = [picture.convert("L").convert("RGB") for picture in pictures]
        frames = [self._frame_around(picture, kwargs.get("do_crop_border")) for picture in pictures]
        scans = [frame.cut(picture) for frame, picture in zip(frames, pictures, strict=True)]
        added: dict[str, Any] = {
            "original_sizes": [(picture.height, picture.width) for picture in pictures],
            "scan_boxes": [frame.box for frame in frames],
        }
        if segmentation_maps is not None:
            masks = _masks_of(pictures, segmentation_maps)
            added["labels"] = [self._label(mask, frame, **kwargs) for mask, frame in zip(masks, frames, strict=True)]
        encoding = super().preprocess(scans, **kwargs)
        added["text"] = [
            _text_of(picture.crop(frame.box), (int(height), int(width)), pixels.shape[-2:])
            for picture, frame, (height, width), pixels in zip(
                pictures, frames, encoding["reshaped_input_sizes"], encoding["pixel_values"], strict=True
            )
        ]
        encoding.update(BatchFeature(added, tensor_type=kwargs.get("return_tensors")))
        return encoding

    def _frame_around(self, picture: PIL.Image.Image, crop: bool | None) -> ScanFrame:
        if self.do_crop_border if crop is None else crop:
            return ScanFrame.around(picture)
        return ScanFrame.none(picture.width, picture.height)

    def _label(
        self,
        mask: np.ndarray,
        frame: ScanFrame,
        mask_size: dict[str, int] | None = None,
        mask_pad_size: dict[str, int] | None = None,
        do_resize: bool | None = None,
        do_pad: bool | None = None,
        **_: Any,
    ) -> np.ndarray:
        """
        The mask of the scan at training size. Pillow on both backends: torchvision's nearest neighbour is half an
        input pixel away from where its bilinear resize puts the image.
        """
        left, top, right, bottom = frame.box
        mask = mask[top:bottom, left:right].astype(np.uint8)
        if self.do_resize if do_resize is None else do_resize:
            height, width = self._get_preprocess_shape(mask.shape, (mask_size or self.mask_size)["longest_edge"])
            mask = np.asarray(PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.NEAREST))
        if self.do_pad if do_pad is None else do_pad:
            padded = mask_pad_size or self.mask_pad_size
            mask = np.pad(mask, ((0, padded["height"] - len(mask)), (0, padded["width"] - mask.shape[1])))
        return mask.astype(np.int64)

    def _get_preprocess_shape(self, old_shape: tuple[int, int], longest_edge: int) -> tuple[int, int]:
        """SAM's resized size, but never less than a pixel for a sliver of an image."""
        height, width = super()._get_preprocess_shape(old_shape, longest_edge)
        return max(height, 1), max(width, 1)

    def restore(
        self, maps: torch.Tensor, original_size: Size, scan_box: Sequence[int] | None = None, outside: float = 0.0
    ) -> torch.Tensor:
        """
        Brings the model's maps of one image back to its original size: padding off, bilinear, at their place.

        Args:
            maps (`torch.Tensor` of shape `(..., height, width)`): Logits, probabilities or uncertainties.
            original_size (`tuple[int, int]`): Height and width of the image.
            scan_box (`Sequence[int]`, *optional*): `(x1, y1, x2, y2)` from the image processor; needed where it cuts
                the frame off.
            outside (`float`): Value on that frame.

        Returns:
            `torch.Tensor` of shape `(..., original height, original width)`, float32.

        Raises:
            ValueError: The scan's box is needed and was not given.
        """
        (frame,) = self._frames([original_size], None if scan_box is None else [scan_box])
        reshaped = self._get_preprocess_shape(frame.scan_size[::-1], self.size["longest_edge"])
        flat = maps.float().reshape(1, -1, *maps.shape[-2:])
        (restored,) = self._of_scans([flat], [frame], [reshaped], binarize=False)
        return _at_its_place(restored, frame, outside).reshape(*maps.shape[:-2], *original_size)

    def lesion_masks(
        self,
        logits: torch.Tensor,
        original_size: Size,
        scan_box: Sequence[int] | None = None,
        text: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        """
        Lesion probabilities [`smoothed`] at the image's resolution, and their masks [`tidied`].

        Args:
            logits (`torch.Tensor` of shape `(masks, height, width)`): Of one image.
            original_size, scan_box: As for `restore`.
            text (`torch.Tensor` of shape `(2, size, size)`, *optional*): From the image processor: burnt-in text is no
                lesion.

        Returns:
            `torch.Tensor` of shape `(masks, original height, original width)`, in [0, 1], and a boolean
            `numpy.ndarray` of shape `(original height, original width)` for each.
        """
        (frame,) = self._frames([original_size], None if scan_box is None else [scan_box])
        reshaped = self._get_preprocess_shape(frame.scan_size[::-1], self.size["longest_edge"])
        inside = _without_padding(logits.float().sigmoid().cpu(), reshaped, self.pad_size["height"])
        probability = self.restore(torch.from_numpy(smoothed(inside.numpy())), original_size, frame.box)
        left, top, right, bottom = frame.box
        letters = None if text is None else text[:, : reshaped[0], : reshaped[1]].cpu().numpy()
        masks = (probability[:, top:bottom, left:right] > 0.5).numpy()
        return probability, [frame.put_back(tidied(mask, letters)) for mask in masks]

    def post_process_masks(
        self,
        masks: list[torch.Tensor] | torch.Tensor,
        original_sizes: list[Size] | torch.Tensor,
        reshaped_input_sizes: list[Size] | torch.Tensor,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: dict[str, int] | None = None,
        scan_boxes: list[Sequence[int]] | torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """
        As SAM's, but what the model says about padding does not blur into the image's edge, and a frame that was cut
        off is put back.

        Args:
            masks (`list[torch.Tensor]`, each of shape `(prompts, masks, height, width)`): Logits of each image.
            original_sizes, reshaped_input_sizes, scan_boxes: From the image processor; `scan_boxes` may be left out
                where `do_crop_border` is off.
            mask_threshold (`float`): Logit above which a pixel is foreground.
            binarize (`bool`): Whether to return booleans in place of logits.
            pad_size (`dict[str, int]`, *optional*): Padded input size, if not the image processor's own.

        Returns:
            A `torch.Tensor` of shape `(prompts, masks, original height, original width)` for each image; False, or a
            logit of -20, on its frame.

        Raises:
            ValueError: `scan_boxes` are needed and were not given.
        """
        if not math.isfinite(mask_threshold):
            raise ValueError(f"mask_threshold={mask_threshold} must be a finite number.")
        frames = self._frames(original_sizes, scan_boxes)
        scans = self._of_scans(masks, frames, reshaped_input_sizes, mask_threshold, binarize, pad_size)
        outside = 0 if binarize else EMPTY_LOGIT
        return [_at_its_place(scan, frame, outside) for scan, frame in zip(scans, frames, strict=True)]

    def _frames(self, sizes: Any, boxes: Any) -> list[ScanFrame]:
        """The frames that were cut off images of these heights and widths."""
        sizes = [(int(width), int(height)) for height, width in sizes]
        if boxes is None:
            if self.do_crop_border:
                raise ValueError(
                    "This image processor cuts off the frame around a scan and needs scan_boxes to put it back: give "
                    "the model all that the processor returned, or give scan_boxes here, or set do_crop_border=False."
                )
            return [ScanFrame.none(*size) for size in sizes]
        boxes = [tuple(int(side) for side in box) for box in boxes]
        return [ScanFrame(box, size) for box, size in zip(boxes, sizes, strict=True)]

    def _of_scans(
        self,
        masks: Any,
        frames: list[ScanFrame],
        reshaped_input_sizes: Any,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: dict[str, int] | None = None,
    ) -> list[torch.Tensor]:
        """Masks at the size of each scan."""
        side = (pad_size or self.pad_size)["height"]
        masks = [
            _without_padding(torch.as_tensor(mask), (int(height), int(width)), side)
            for mask, (height, width) in zip(masks, reshaped_input_sizes, strict=True)
        ]
        sizes = [frame.scan_size[::-1] for frame in frames]
        return super().post_process_masks(masks, sizes, reshaped_input_sizes, mask_threshold, binarize, pad_size)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: list[Size] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """
        The final mask of each image, as the pipelines and [`segment`] give it: 0 background, 1 lesion.

        Args:
            outputs ([`SFRecSamOutput`]): Of a batch with one prompt per image, given all that the processor returned.
            target_sizes (`list[tuple[int, int]]`, *optional*):
                Original height and width of each image; the padded mask itself without it.
            return_segmentation_scores (`bool`): Also the probability of each label at each pixel.

        Returns:
            List of `torch.LongTensor` of shape `(height, width)`, or of objects with `segmentation` and
            `segmentation_scores` (`torch.Tensor` of shape `(2, height, width)`: background, lesion; in [0, 1]).

        Raises:
            ValueError: `target_sizes` does not name one size per image, or `scan_boxes` are needed and missing.
        """
        logits = outputs["pred_masks"][:, 0, 0].float()
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(f"{len(target_sizes)} target_sizes were given for {len(logits)} images.")
        boxes, text = outputs.get("scan_boxes"), outputs.get("text")
        results = []
        for index in range(len(logits)):
            if target_sizes is None:
                probability = logits[index].sigmoid()
                mask = logits[index] > 0
            else:
                height, width = (int(side) for side in target_sizes[index])
                box = None if boxes is None else boxes[index]
                letters = None if text is None else text[index]
                found, (kept,) = self.lesion_masks(logits[index][None], (height, width), box, letters)
                probability, mask = (one[0].to(logits.device) for one in (found, torch.from_numpy(kept[None])))
            result = mask.long()
            if return_segmentation_scores:
                # A speck that was left out, or a hole that was filled, is scored as what it became.
                lesion = torch.where(mask, probability.clamp(min=0.5 + 1e-6), probability.clamp(max=0.5))
                result = SemanticSegmentationPostProcessorOutput(
                    data={"segmentation": result, "segmentation_scores": torch.stack([1 - lesion, lesion])}
                )
            results.append(result)
        return results

    def post_process_for_mask_generation(
        self, all_masks: list[dict], all_scores: torch.Tensor, all_boxes: torch.Tensor, crops_nms_thresh: float
    ) -> tuple[list[np.ndarray], torch.Tensor, list[dict], torch.Tensor]:
        """
        SAM's non-maximum suppression for the mask-generation pipeline, without torchvision.

        Args:
            all_masks (`list[dict]`): Run-length encoded masks.
            all_scores (`torch.Tensor` of shape `(masks,)`): Estimated IoU; the best mask suppresses the others.
            all_boxes (`torch.Tensor` of shape `(masks, 4)`): `(x1, y1, x2, y2)` around each mask.
            crops_nms_thresh (`float`): Box IoU above which the worse mask is dropped.

        Returns:
            What is kept, best first: boolean masks of shape `(height, width)`, scores, encoded masks and boxes.
        """
        kept = non_maximum_suppression(all_boxes.float(), all_scores, crops_nms_thresh)
        encoded = [all_masks[index] for index in kept]
        return [_rle_to_mask(mask) for mask in encoded], all_scores[kept], encoded, all_boxes[kept]

    def to_dict(self) -> dict[str, Any]:
        """Adds which class loads on which backend, with and without torchvision."""
        return {
            **super().to_dict(),
            "image_processor_type": "SFRecSamImageProcessor",
            "auto_map": dict(IMAGE_PROCESSOR_AUTO_MAP),
        }


def _masks_of(pictures: list[PIL.Image.Image], segmentation_maps: Any) -> list[np.ndarray]:
    """A boolean mask of each picture, of its size."""
    segmentation_maps = as_list(segmentation_maps, dimensions=2)
    if len(segmentation_maps) != len(pictures):
        raise ValueError(f"{len(segmentation_maps)} masks were given for {len(pictures)} images.")
    masks = [read_mask(mask, name=f"mask {index}") for index, mask in enumerate(segmentation_maps)]
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        if mask.shape != (picture.height, picture.width):
            raise ValueError(
                f"mask {index} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is "
                f"{picture.width}x{picture.height}; export both at the same size."
            )
    return masks


def _text_of(scan: PIL.Image.Image, reshaped: Size, padded: Size) -> np.ndarray:
    """Burnt-in text of a scan, padded as its pixels are."""
    height, width = reshaped
    text = np.zeros((2, *padded), np.uint8)
    text[:, :height, :width] = burnt_in_text(scan, (width, height))
    return text


def _at_its_place(maps: torch.Tensor, frame: ScanFrame, outside: float) -> torch.Tensor:
    """Maps of the scan with a value around them, of shape `(..., picture height, picture width)`."""
    (left, top, right, bottom), (width, height) = frame.box, frame.size
    return F.pad(maps, (left, width - right, top, height - bottom), value=outside)


def _without_padding(maps: torch.Tensor, reshaped: tuple[int, int], side: int) -> torch.Tensor:
    """Repeats the last row and column inside the image, so that padding does not bleed into what is resized."""
    stride = side / maps.shape[-1]
    height, width = (max(1, math.ceil((extent - stride // 2) / stride)) for extent in reshaped)
    rows = torch.arange(maps.shape[-2], device=maps.device).clamp(max=height - 1)
    columns = torch.arange(maps.shape[-1], device=maps.device).clamp(max=width - 1)
    return maps[..., rows, :][..., columns]


def non_maximum_suppression(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """
    Indices of the boxes that no better one overlaps by more than `threshold`, best first.

    Args:
        boxes (`torch.Tensor` of shape `(boxes, 4)`): `(x1, y1, x2, y2)`.
        scores (`torch.Tensor` of shape `(boxes,)`): Higher is better.
        threshold (`float`): Intersection over union.
    """
    order = scores.argsort(descending=True, stable=True)
    corner, opposite = boxes[order].split(2, dim=1)
    area = (opposite - corner).prod(dim=1)
    shared = torch.minimum(opposite[:, None], opposite) - torch.maximum(corner[:, None], corner)
    shared = shared.clamp(min=0).prod(dim=2)
    overlapping = shared / (area[:, None] + area - shared) > threshold
    kept = torch.ones_like(order, dtype=torch.bool)
    for index in range(len(order)):
        if kept[index]:
            kept[index + 1 :] &= ~overlapping[index, index + 1 :]
    return order[kept]


def as_list(images: Any, dimensions: int = 3) -> list[Any]:
    """One image, a stack of images along a first axis, or a sequence of images, as a list."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return list(images) if images.ndim > dimensions else [images]
    return [images] if is_image(images) else list(images)


class SFRecSamImageProcessorPil(_AnyImage, SamImageProcessorPil):
    """The image processor on Pillow alone."""


class SFRecSamImageProcessor(_AnyImage, DefaultImageProcessor):
    """The image processor; on torchvision where it is installed."""


SFRecSamImageProcessorPil.register_for_auto_class()
SFRecSamImageProcessor.register_for_auto_class()

__all__ = ["SFRecSamImageProcessor", "SFRecSamImageProcessorPil"]
