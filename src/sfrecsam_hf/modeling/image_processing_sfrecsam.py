"""Image processor of SF-RecSAM: SAM's, for any image, at 256 px, and back to the exact original size."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BatchFeature
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil, _rle_to_mask
from transformers.utils import is_torchvision_available

from .image_reading import ImageLike, read_mask, read_rgb

if is_torchvision_available():
    from transformers.models.sam.image_processing_sam import SamImageProcessor as DefaultImageProcessor
else:
    DefaultImageProcessor = SamImageProcessorPil


class _AnyImage:
    """What both backends share: reading, the resized size, and the way back."""

    size = {"longest_edge": 256}
    pad_size = {"height": 256, "width": 256}
    mask_size = {"longest_edge": 256}
    mask_pad_size = {"height": 256, "width": 256}

    def __init__(self, image_size: int | None = None, **kwargs: Any):
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
        self, images: ImageLike | list[ImageLike], segmentation_maps: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Resizes with the aspect ratio kept, normalises, and pads at the right and the bottom.

        Colour is dropped: tissue has none, and a Doppler overlay or a coloured caption should not look like tissue.

        Args:
            images: One image or a list: paths, URLs, PIL images, arrays or tensors of any mode; or one 4-D array.
            segmentation_maps: The masks, one per image, of the same size: boolean, {0, 1} or [0, 255].

        Returns:
            `BatchFeature` with `pixel_values` of shape `(batch, 3, size, size)`, `original_sizes` and
            `reshaped_input_sizes` as `(height, width)` pairs, and with masks `labels` of shape
            `(batch, size, size)` in {0, 1}.

        Raises:
            FileNotFoundError, ValueError: An image cannot be used, or a mask does not fit its image.
        """
        images = as_list(images)
        if not images:
            raise ValueError("images is empty; pass at least one image.")
        images = [read_rgb(image, name=f"image {index}") for index, image in enumerate(images)]
        images = [image.convert("L").convert("RGB") for image in images]
        if segmentation_maps is not None:
            segmentation_maps = as_list(segmentation_maps, dimensions=2)
            if len(segmentation_maps) != len(images):
                raise ValueError(f"{len(segmentation_maps)} masks were given for {len(images)} images.")
            masks = [read_mask(mask, name=f"mask {index}") for index, mask in enumerate(segmentation_maps)]
            for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
                if mask.shape != (image.height, image.width):
                    raise ValueError(
                        f"mask {index} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is "
                        f"{image.width}x{image.height}; export both at the same size."
                    )
            segmentation_maps = [mask.astype(np.uint8) for mask in masks]
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _get_preprocess_shape(self, old_shape: tuple[int, int], longest_edge: int) -> tuple[int, int]:
        """SAM's resized size, but never less than a pixel for a sliver of an image."""
        height, width = super()._get_preprocess_shape(old_shape, longest_edge)
        return max(height, 1), max(width, 1)

    def restore(self, maps: torch.Tensor, original_size: tuple[int, int]) -> torch.Tensor:
        """
        Brings the model's maps of one image back to its original size: padding off, bilinear.

        Args:
            maps (`torch.Tensor` of shape `(..., height, width)`): Logits, probabilities or uncertainties.
            original_size (`tuple[int, int]`): Height and width of the image.

        Returns:
            `torch.Tensor` of shape `(..., original height, original width)`, float32.
        """
        lead = maps.shape[:-2]
        reshaped = self._get_preprocess_shape(original_size, self.size["longest_edge"])
        maps = maps.float().reshape(1, -1, *maps.shape[-2:])
        restored = self.post_process_masks([maps], [original_size], [reshaped], binarize=False)[0]
        return restored.reshape(*lead, *original_size)

    def post_process_masks(
        self,
        masks: list[torch.Tensor] | torch.Tensor,
        original_sizes: list[tuple[int, int]] | torch.Tensor,
        reshaped_input_sizes: list[tuple[int, int]] | torch.Tensor,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: dict[str, int] | None = None,
    ) -> list[torch.Tensor]:
        """
        As SAM's, but what the model says about padding does not blur into the image's edge.

        Args:
            masks (`list[torch.Tensor]`, each of shape `(prompts, masks, height, width)`): Logits of each image.
            original_sizes, reshaped_input_sizes (`list[tuple[int, int]]`): From the image processor.
            mask_threshold (`float`): Logit above which a pixel is foreground.
            binarize (`bool`): Whether to return booleans in place of logits.
            pad_size (`dict[str, int]`, *optional*): Padded input size, if not the image processor's own.

        Returns:
            A `torch.Tensor` of shape `(prompts, masks, original height, original width)` for each image.
        """
        side = (pad_size or self.pad_size)["height"]
        masks = [
            _without_padding(torch.as_tensor(mask), tuple(int(extent) for extent in reshaped), side)
            for mask, reshaped in zip(masks, reshaped_input_sizes, strict=True)
        ]
        return super().post_process_masks(
            masks, original_sizes, reshaped_input_sizes, mask_threshold, binarize, pad_size
        )

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """
        The final mask of each image: 0 background, 1 lesion.

        Args:
            outputs ([`SFRecSamOutput`]): Of a batch with one prompt per image.
            target_sizes (`list[tuple[int, int]]`, *optional*):
                Original height and width of each image; the padded mask itself without it.
            return_segmentation_scores (`bool`): Also the lesion probability at each pixel.

        Returns:
            List of `torch.LongTensor` of shape `(height, width)`, or of objects with `segmentation` and
            `segmentation_scores`.

        Raises:
            ValueError: `target_sizes` does not name one size per image.
        """
        logits = outputs["pred_masks"][:, 0, 0]
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(f"{len(target_sizes)} target_sizes were given for {len(logits)} images.")
        results = []
        for index, image in enumerate(logits):
            if target_sizes is not None:
                image = self.restore(image, tuple(int(side) for side in target_sizes[index]))
            mask = (image > 0).long()
            if return_segmentation_scores:
                mask = SemanticSegmentationPostProcessorOutput(
                    data={"segmentation": mask, "segmentation_scores": image.float().sigmoid()}
                )
            results.append(mask)
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
        module = "image_processing_sfrecsam"
        return {
            **super().to_dict(),
            "image_processor_type": "SFRecSamImageProcessor",
            "auto_map": {
                "AutoImageProcessor": [
                    f"{module}.SFRecSamImageProcessorPil",
                    f"{module}.SFRecSamImageProcessor",
                ]
            },
        }


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
    if isinstance(images, (str, Path, PIL.Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return list(images) if images.ndim > dimensions else [images]
    return list(images)


class SFRecSamImageProcessorPil(_AnyImage, SamImageProcessorPil):
    """The image processor on Pillow alone."""


class SFRecSamImageProcessor(_AnyImage, DefaultImageProcessor):
    """The image processor; on torchvision where it is installed."""


SFRecSamImageProcessorPil.register_for_auto_class()
SFRecSamImageProcessor.register_for_auto_class()

__all__ = ["SFRecSamImageProcessor", "SFRecSamImageProcessorPil"]
