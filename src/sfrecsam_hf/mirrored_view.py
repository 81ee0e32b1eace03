"""Test-time augmentation: the answer averaged over an image and its mirror image, prompts mirrored along."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .modeling_sfrecsam import SFRecSamModel
from .outputs_sfrecsam import EMPTY_LOGIT, SFRecSamOutput, valid_region, withheld
from .prompts import ABSENT
from .uncertainty import binary_entropy

LOGITS = ("pred_masks", "initial_masks", "coarse_masks", "presence_logits")
VALUES = (
    "mean_probability",
    "predictive_entropy",
    "mutual_information",
    "false_positive_probability",
    "false_negative_probability",
    "iou_scores",
)


def both_views(
    model: SFRecSamModel, inputs: Mapping[str, Tensor], presence_threshold: float | None = None, **options: Any
) -> SFRecSamOutput:
    """
    Answers an image and its mirror image, and averages what the two say: probabilities, scores and presence.

    Each view is corrected where it is itself uncertain. Where the views disagree, that is uncertainty, too: what their
    mean probability has in entropy beyond their own is added to predictive entropy and mutual information. Used
    prompts are those of the image as it was given.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        inputs (`Mapping[str, torch.Tensor]`): From the processor: `pixel_values`, sizes, prompts.
        presence_threshold (`float`, *optional*): Overrides the configuration; presence is that of both views.
        options: Passed to [`SFRecSamModel.forward`].
    """
    plain = model(**inputs, **options, presence_threshold=0.0)
    other = model(**mirrored(inputs), **options, presence_threshold=0.0)
    views = {name: (plain[name], turned_back(other[name])) for name in (*LOGITS, *VALUES) if plain[name] is not None}
    mean = {name: sum(pair) / 2 for name, pair in views.items() if name in VALUES}
    for name in LOGITS:
        probability = sum(logits.float().sigmoid() for logits in views[name]) / 2
        mean[name] = probability.logit().clamp(EMPTY_LOGIT, -EMPTY_LOGIT).to(plain[name].dtype)
    own = sum(binary_entropy(probability) for probability in views["mean_probability"]) / 2
    disagreement = (binary_entropy(mean["mean_probability"]) - own).clamp(min=0)
    for name in ("predictive_entropy", "mutual_information"):
        mean[name] = (mean[name] + disagreement).clamp(max=1)
    mean["suspicious_region"] = plain.suspicious_region | turned_back(other.suspicious_region)
    threshold = model.config.presence_threshold if presence_threshold is None else presence_threshold
    return withheld(SFRecSamOutput(**{**plain, **mean}), threshold)


def mirrored(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    The inputs of the mirror image. Its padding lies on the other side, of which `pixel_mask` tells.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): As for [`SFRecSamModel.forward`], with `pixel_values`.
    """
    pixels = inputs["pixel_values"]
    side = pixels.shape[-1]
    valid = valid_region(pixels, inputs.get("reshaped_input_sizes"), inputs.get("pixel_mask"))
    turned = {**inputs, "pixel_values": pixels.flip(-1), "pixel_mask": valid[:, 0].flip(-1)}
    turned.pop("reshaped_input_sizes", None)
    if "input_masks" in inputs:
        turned["input_masks"] = inputs["input_masks"].flip(-1)
    if "input_points" in inputs:
        x, y = inputs["input_points"].unbind(-1)
        turned["input_points"] = torch.stack([_across(x, side), y], dim=-1)
    if "input_boxes" in inputs:
        left, top, right, bottom = inputs["input_boxes"].unbind(-1)
        turned["input_boxes"] = torch.stack([_across(right, side), top, _across(left, side), bottom], dim=-1)
    return turned


def _across(x: Tensor, side: int) -> Tensor:
    return torch.where(x == ABSENT, x, side - x)


def turned_back(value: Tensor) -> Tensor:
    """
    What the mirror image gave, in the frame of the image; scores have no width and stay as they are.

    Args:
        value (`torch.Tensor` of shape `(batch, ...)`): A map if it has four axes or more.
    """
    return value.flip(-1) if value.ndim > 3 else value
