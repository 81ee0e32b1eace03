"""What flows between the stages of SF-RecSAM: image embeddings, prompted rows, corrections, and the output."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .prompts import ABSENT, Prompts, required
from .uncertainty import binary_entropy

EMPTY_LOGIT = -20.0


@dataclass
class SFRecSamImageEmbeddings(ModelOutput):
    r"""
    All that one encoder pass yields; give it to `forward(image_embeddings=...)` to answer new prompts.

    Args:
        image_embeddings (`torch.Tensor` of shape `(batch, channels, grid, grid)`): SAM's image embeddings.
        high_resolution_features (`torch.Tensor` of shape `(batch, features, height, width)`): At the mask's stride.
        coarse_masks (`torch.Tensor` of shape `(batch, 1, height, width)`): Coarse logits; -20 on padding.
        presence_logits (`torch.Tensor` of shape `(batch,)`): Logits of "there is a lesion".
        valid_region (`torch.Tensor` of shape `(batch, 1, height, width)`): True on the image, False on padding.
        pixels (`torch.Tensor` of shape `(batch, mask_stride ** 2, height, width)`): The gray image at full resolution,
            the pixels below one of the mask as channels; 0 on padding.
        vision_hidden_states, vision_attentions (`tuple[torch.Tensor, ...]`, *optional*): As for `SamModel`.
    """

    image_embeddings: Tensor | None = None
    high_resolution_features: Tensor | None = None
    coarse_masks: Tensor | None = None
    presence_logits: Tensor | None = None
    valid_region: Tensor | None = None
    pixels: Tensor | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None

    def repeat(self, owner: Tensor) -> "SFRecSamImageEmbeddings":
        """The embeddings of the images that `owner` of shape `(rows,)` names, one per row."""
        tensors = {name: value[owner] for name, value in self.items() if isinstance(value, Tensor)}
        return SFRecSamImageEmbeddings(**tensors)

    def repeat_interleave(self, rows: int) -> "SFRecSamImageEmbeddings":
        """`rows` rows for each image, one after the other."""
        if rows == 1:
            return self
        presence = self.presence_logits
        return self.repeat(torch.arange(presence.shape[0], device=presence.device).repeat_interleave(rows))


@dataclass
class SFRecSamDecoderOutput(ModelOutput):
    r"""
    What [`SFRecSamModel.decode`] returns. Masks are logits at `config.mask_stride`, -20 on padding.

    Args:
        iou_scores (`torch.Tensor` of shape `(batch, prompts, masks)`): SAM's estimate of each mask's IoU.
        initial_masks (`torch.Tensor` of shape `(batch, prompts, masks, height, width)`): Of the pass without noise.
        sample_masks (`torch.Tensor` of shape `(samples, batch, prompts, masks, height, width)`, *optional*):
            Of the passes with noise.
        high_resolution_features (`torch.Tensor` of shape `(batch, features, height, width)`): Of each image, as
            encoded.
        pixels: As in [`SFRecSamImageEmbeddings`].
        coarse_masks, presence_logits, prompt_points, prompt_labels, prompt_boxes, prompt_is_automatic,
        vision_hidden_states, vision_attentions: As in [`SFRecSamOutput`].
    """

    iou_scores: Tensor | None = None
    initial_masks: Tensor | None = None
    sample_masks: Tensor | None = None
    high_resolution_features: Tensor | None = None
    pixels: Tensor | None = None
    coarse_masks: Tensor | None = None
    presence_logits: Tensor | None = None
    prompt_points: Tensor | None = None
    prompt_labels: Tensor | None = None
    prompt_boxes: Tensor | None = None
    prompt_is_automatic: Tensor | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None


@dataclass
class SFRecSamCorrection(ModelOutput):
    r"""
    What [`SFRecSamModel.correct`] returns. Every tensor has the shape `(batch, prompts, masks, height, width)`.

    Args:
        pred_masks, mean_probability, predictive_entropy, mutual_information, suspicious_region: As in
            [`SFRecSamOutput`].
        false_positive_logits (*optional*): Of "this foreground should become background".
        false_negative_logits (*optional*): Of "this background should become foreground".
        entropy_logits: Of the learned uncertainty head; their sigmoid is the entropy in bits.
    """

    pred_masks: Tensor | None = None
    mean_probability: Tensor | None = None
    predictive_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    suspicious_region: Tensor | None = None
    false_positive_logits: Tensor | None = None
    false_negative_logits: Tensor | None = None
    entropy_logits: Tensor | None = None


@dataclass
class SFRecSamOutput(ModelOutput):
    r"""
    Output of [`SFRecSamModel`]. Masks are logits at `config.mask_stride`, foreground above 0; `(batch, prompts, masks,
    height, width)` unless stated otherwise.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): With `labels`: weighted sum of the terms being trained.
        loss_terms (`dict[str, torch.Tensor]`, *optional*): Each term, unweighted.
        iou_scores (`torch.Tensor` of shape `(batch, prompts, masks)`): SAM's estimate of each mask's IoU.
        pred_masks: Final logits, after correction.
        initial_masks: Logits before correction.
        coarse_masks (`torch.Tensor` of shape `(batch, 1, height, width)`): Logits of the coarse-mask head.
        mean_probability: Mean over the samples, in [0, 1]; of the single pass with `mc_samples=0`. Where the presence
            score empties a mask, times the probability of presence.
        predictive_entropy: In bits, in [0, 1]; from the learned head with `mc_samples=0`.
        mutual_information: Epistemic part of it, in bits; 0 with `mc_samples=0`.
        suspicious_region: Boolean; where correction was allowed.
        false_positive_probability: That foreground should become background, in [0, 1].
        false_negative_probability: That background should become foreground, in [0, 1].
        presence_logits (`torch.Tensor` of shape `(batch,)`): Logits of "there is a lesion".
        prompt_points (`torch.Tensor` of shape `(batch, prompts, points, 2)`): Points that were used, in input
            pixels; -10 where there was none.
        prompt_labels (`torch.Tensor` of shape `(batch, prompts, points)`): Their labels; -10 where there was none.
        prompt_boxes (`torch.Tensor` of shape `(batch, prompts, 4)`): Boxes that were used; -10 where there was none.
        prompt_is_automatic (`torch.Tensor` of shape `(batch, prompts)`): True where the model prompted itself.
        scan_boxes (`torch.Tensor` of shape `(batch, 4)`, *optional*): As given, for post-processing.
        text (`torch.Tensor` of shape `(batch, 2, image_size, image_size)`, *optional*): As given, for post-processing.
        vision_hidden_states, vision_attentions (`tuple[torch.Tensor, ...]`, *optional*): As for `SamModel`.
    """

    loss: Tensor | None = None
    loss_terms: dict[str, Tensor] | None = None
    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    initial_masks: Tensor | None = None
    coarse_masks: Tensor | None = None
    mean_probability: Tensor | None = None
    predictive_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    suspicious_region: Tensor | None = None
    false_positive_probability: Tensor | None = None
    false_negative_probability: Tensor | None = None
    presence_logits: Tensor | None = None
    prompt_points: Tensor | None = None
    prompt_labels: Tensor | None = None
    prompt_boxes: Tensor | None = None
    prompt_is_automatic: Tensor | None = None
    scan_boxes: Tensor | None = None
    text: Tensor | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None

    @classmethod
    def from_stages(
        cls, decoded: SFRecSamDecoderOutput, correction: SFRecSamCorrection | None = None, **further: Any
    ) -> "SFRecSamOutput":
        """
        Joins what `decode` and `correct` returned; without a correction the initial masks are final.

        Args:
            decoded ([`SFRecSamDecoderOutput`]): From `decode`.
            correction ([`SFRecSamCorrection`], *optional*): From `correct`, of the same batch.
            further: Other fields, such as `loss` or `scan_boxes`.
        """
        stages = {**further, **decoded, "pred_masks": decoded.initial_masks}
        if correction is not None:
            stages |= correction
            for name in ("false_positive", "false_negative"):
                logits = stages.get(f"{name}_logits")
                stages[f"{name}_probability"] = None if logits is None else logits.sigmoid()
        return cls(**{name: value for name, value in stages.items() if name in cls.__dataclass_fields__})


def emptied_below(output: SFRecSamOutput, presence_threshold: float) -> SFRecSamOutput:
    """What [`SFRecSamModel.apply_presence_threshold`] does, at one threshold."""
    presence = output.presence_logits.sigmoid()
    absent = output.prompt_is_automatic & (presence < presence_threshold)[:, None]
    absent = absent[..., None, None, None]
    mean = torch.where(absent, presence.view(-1, 1, 1, 1, 1) * output.mean_probability, output.mean_probability)
    entropy = torch.where(absent, binary_entropy(mean), output.predictive_entropy)
    changed = {
        "pred_masks": torch.where(absent, EMPTY_LOGIT, output.pred_masks),
        "initial_masks": torch.where(absent, EMPTY_LOGIT, output.initial_masks),
        "mean_probability": mean,
        "predictive_entropy": entropy,
        "mutual_information": torch.minimum(output.mutual_information, entropy),
        "suspicious_region": output.suspicious_region & ~absent,
    }
    return SFRecSamOutput(**{**output, **changed})


@dataclass
class PromptedGroup:
    """Rows with prompts of one kind, by their index, and whether the model made these prompts itself."""

    index: Tensor
    prompts: Prompts
    automatic: bool


@dataclass
class PromptedRows:
    r"""
    What [`SFRecSamModel.prompt`] returns: one row per mask to decode.

    Args:
        image_embeddings ([`SFRecSamImageEmbeddings`]): Of each image, as they were encoded.
        rows ([`SFRecSamImageEmbeddings`]): Of each row, with the caller's prompts in the high-resolution features.
        groups (`list[PromptedGroup]`): The prompts, in groups of one kind.
        automatic (`torch.Tensor` of shape `(rows,)`): True where the model prompts itself.
        prompts_per_image (`int`): Rows of each image, one after the other.
    """

    image_embeddings: SFRecSamImageEmbeddings
    rows: SFRecSamImageEmbeddings
    groups: list[PromptedGroup]
    automatic: Tensor
    prompts_per_image: int

    def with_features(self, features: Tensor) -> "PromptedRows":
        """The same rows with other high-resolution features."""
        return replace(self, rows=SFRecSamImageEmbeddings(**{**self.rows, "high_resolution_features": features}))

    def parts(self) -> list[tuple[SFRecSamImageEmbeddings, PromptedGroup]]:
        """Each group with its embeddings, without a copy where all rows are one group."""
        if len(self.groups) == 1:
            return [(self.rows, self.groups[0])]
        return [(self.rows.repeat(group.index), group) for group in self.groups]

    def in_order(self, values: Sequence[Tensor], dim: int = 0) -> Tensor:
        """What each group gave, as one tensor with all rows in their order along `dim`."""
        if len(self.groups) == 1:
            return values[0]
        order = torch.cat([group.index for group in self.groups]).argsort()
        return torch.cat(list(values), dim=dim).index_select(dim, order)

    def per_image(self, value: Tensor) -> Tensor:
        """Rows back to `(batch, prompts, ...)`."""
        return value.unflatten(0, (value.shape[0] // self.prompts_per_image, self.prompts_per_image))

    def used_prompts(self) -> dict[str, Tensor]:
        """The prompts as `forward` takes them, with -10 where a row has none of a kind."""
        rows, device = self.automatic.shape[0], self.automatic.device
        labelled = [group.prompts.labels for group in self.groups if group.prompts.labels is not None]
        most = max([0, *(given.shape[1] for given in labelled)])
        points = torch.full((rows, most, 2), float(ABSENT), device=device)
        labels = torch.full((rows, most), ABSENT, dtype=torch.int, device=device)
        boxes = torch.full((rows, 4), float(ABSENT), device=device)
        for group in self.groups:
            index, prompts = group.index, group.prompts
            if prompts.points is not None:
                count = prompts.labels.shape[1]
                points[index, :count] = prompts.points
                labels[index, :count] = prompts.labels.int()
            if prompts.boxes is not None:
                boxes[index] = prompts.boxes
        return {
            "prompt_points": self.per_image(points),
            "prompt_labels": self.per_image(labels),
            "prompt_boxes": self.per_image(boxes),
        }


def one_per_row(maps: Tensor | None) -> Tensor | None:
    """`(batch, prompts, masks, height, width)` as `(batch * prompts * masks, 1, height, width)`."""
    return None if maps is None else maps.flatten(0, 2)[:, None]


def share(name: str, given: float | None, configured: float) -> float:
    """The given value of a threshold, or the configured one; a ValueError if it does not lie in [0, 1]."""
    value = configured if given is None else given
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must lie between 0 and 1.")
    return value


def repeated(maps: Tensor, times: int) -> Tensor:
    """Every row of `maps` so many times in a row, without a copy where that is once."""
    return maps if times == 1 else maps.repeat_interleave(times, dim=0)


def valid_region(
    pixel_values: Tensor, reshaped_input_sizes: Tensor | None, pixel_mask: Tensor | None = None
) -> Tensor:
    """True on the image and False on its padding, of shape `(batch, 1, height, width)`."""
    batch, _, height, width = pixel_values.shape
    required(pixel_values, pixel_values.isfinite(), "pixel_values hold NaN or infinite values.")
    if pixel_mask is not None:
        return pixel_mask[:, None] > 0
    if reshaped_input_sizes is None:
        return torch.ones(batch, 1, height, width, dtype=torch.bool, device=pixel_values.device)
    sizes = torch.as_tensor(reshaped_input_sizes, device=pixel_values.device).view(-1, 2)
    inside = (sizes >= 1) & (sizes <= torch.tensor([height, width], device=sizes.device))
    sizes = required(sizes, inside, f"reshaped_input_sizes must be 1 to {height} rows and 1 to {width} columns.")
    rows = torch.arange(height, device=pixel_values.device) < sizes[:, :1]
    columns = torch.arange(width, device=pixel_values.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def sizes_inside_padding(pixel_values: Tensor) -> Tensor:
    """
    Height and width of each image up to its last row and column that are not all zero, of shape `(batch, 2)`.

    No pixel of a normalised image is zero in every channel, so that padding alone is cut off.
    """
    content = (pixel_values != 0).any(dim=1)
    occupied = (content.any(dim=2), content.any(dim=1))
    return torch.stack([lines.shape[1] - lines.flip(1).int().argmax(dim=1) for lines in occupied], dim=1)


def checked_embeddings(image_embeddings: SFRecSamImageEmbeddings) -> SFRecSamImageEmbeddings:
    """Rebuilds the embeddings by name: pipelines hand them on as a plain `ModelOutput`."""
    if isinstance(image_embeddings, Tensor) or "coarse_masks" not in image_embeddings:
        raise ValueError(
            "image_embeddings must be what SFRecSamModel.get_image_embeddings returns: the embeddings alone lack the "
            "high-resolution features."
        )
    return SFRecSamImageEmbeddings(**dict(image_embeddings.items()))
