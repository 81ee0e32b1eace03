"""What flows between the stages of SF-RecSAM: image embeddings, prompted rows, corrections, and the output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .false_corrector import CorrectorOutput
from .prompts import ABSENT, Prompts
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
        vision_hidden_states, vision_attentions (`tuple[torch.Tensor, ...]`, *optional*): As for `SamModel`.
    """

    image_embeddings: Tensor | None = None
    high_resolution_features: Tensor | None = None
    coarse_masks: Tensor | None = None
    presence_logits: Tensor | None = None
    valid_region: Tensor | None = None
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
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None


def withheld(output: SFRecSamOutput, presence_threshold: float) -> SFRecSamOutput:
    """
    Empties the masks of self-prompted images in which the presence score sees no lesion.

    Probability and uncertainty stay those of a lesion that may be there all the same: the mask's probability times
    that of presence, and the entropy of this product. A lesion withheld by a hair is not shown as certain tissue.

    Args:
        output ([`SFRecSamOutput`]): With nothing withheld.
        presence_threshold (`float`): Presence probability below which a mask is emptied.

    Returns:
        [`SFRecSamOutput`] in which the masks concerned are empty and nothing in them is suspicious.
    """
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
    """One row per mask to decode: its image's embeddings, and its prompts in groups of one kind."""

    encoded: SFRecSamImageEmbeddings
    groups: list[PromptedGroup]
    automatic: Tensor
    prompts_per_image: int

    def with_features(self, features: Tensor) -> "PromptedRows":
        """The same rows with other high-resolution features."""
        encoded = SFRecSamImageEmbeddings(**{**self.encoded, "high_resolution_features": features})
        return PromptedRows(encoded, self.groups, self.automatic, self.prompts_per_image)

    def parts(self) -> list[tuple[SFRecSamImageEmbeddings, PromptedGroup]]:
        """Each group with its embeddings, without a copy where all rows are one group."""
        if len(self.groups) == 1:
            return [(self.encoded, self.groups[0])]
        return [(self.encoded.repeat(group.index), group) for group in self.groups]

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


@dataclass
class Correction:
    """The corrector's answer and the uncertainty it was based on; maps are `(rows * masks, 1, height, width)`."""

    logits: Tensor
    corrected: CorrectorOutput
    mean_probability: Tensor
    predictive_entropy: Tensor
    mutual_information: Tensor
    entropy_logits: Tensor

    def maps(self, rows: PromptedRows) -> dict[str, Tensor | None]:
        """The maps of [`SFRecSamOutput`], `(batch, prompts, masks, height, width)`."""
        corrected = self.corrected
        flat = {
            "mean_probability": self.mean_probability,
            "predictive_entropy": self.predictive_entropy,
            "mutual_information": self.mutual_information,
            "suspicious_region": corrected.suspicious_region,
        }
        for name in ("false_positive", "false_negative"):
            logits = getattr(corrected, f"{name}_logits")
            flat[f"{name}_probability"] = None if logits is None else logits.sigmoid()
        return {
            name: None if value is None else rows.per_image(value.view(self.logits.shape))
            for name, value in flat.items()
        }


def repeated(maps: Tensor, times: int) -> Tensor:
    """Every row of `maps` so many times in a row, without a copy where that is once."""
    return maps if times == 1 else maps.repeat_interleave(times, dim=0)


def valid_region(
    pixel_values: Tensor, reshaped_input_sizes: Tensor | None, pixel_mask: Tensor | None = None
) -> Tensor:
    """True on the image and False on its padding, of shape `(batch, 1, height, width)`."""
    batch, _, height, width = pixel_values.shape
    if pixel_mask is not None:
        return pixel_mask[:, None] > 0
    if reshaped_input_sizes is None:
        return torch.ones(batch, 1, height, width, dtype=torch.bool, device=pixel_values.device)
    sizes = torch.as_tensor(reshaped_input_sizes, device=pixel_values.device).view(-1, 2)
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
