"""Losses of both training stages (paper section 3.4).

Binary cross-entropy and soft Dice are written out here, and not taken from MONAI, because this file travels with the
model as remote code, which may import torch and transformers only. A test holds them equal to MONAI's.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .false_corrector import CorrectorOutput

BOUNDARY_UNCERTAINTY = 0.5
LESION_WEIGHT = 1.8
LOSS_WEIGHTS = {"coarse": 1.0, "segmentation": 1.0, "multimask": 0.25, "presence": 0.2, "iou": 0.1}


def checked_labels(
    labels: Tensor, batch: int, prompts: int, prompt_labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    Labels per image and per prompt row.

    Args:
        labels (`torch.Tensor` of shape `(batch, height, width)` or `(batch, prompts, height, width)`): In [0, 1].
        batch (`int`): Images in the batch.
        prompts (`int`): Prompts per image.
        prompt_labels (`torch.Tensor` of shape `(batch, prompts, height, width)`, *optional*): What each prompt asks
            for, where that is not all of `labels`.

    Returns:
        Float tensors of shape `(batch, 1, height, width)` and `(batch * prompts, 1, height, width)`.

    Raises:
        ValueError: The labels have another shape, or values outside [0, 1].
    """
    if not torch.compiler.is_compiling() and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            "labels must lie between 0 and 1, without NaN, but reach from "
            f"{float(labels.min()):g} to {float(labels.max()):g}; divide masks of 255 by 255."
        )
    if prompt_labels is not None:
        images, _ = checked_labels(labels, batch, prompts)
        return images, checked_labels(prompt_labels, batch, prompts)[1]
    if labels.ndim == 3 and labels.shape[0] == batch:
        images = labels[:, None].float()
        return images, images.repeat_interleave(prompts, dim=0)
    if labels.ndim == 4 and labels.shape[:2] == (batch, prompts):
        return labels.amax(dim=1, keepdim=True).float(), labels.flatten(0, 1)[:, None].float()
    raise ValueError(
        f"labels must have shape ({batch}, height, width) or ({batch}, {prompts}, height, width), but got "
        f"{tuple(labels.shape)}."
    )


def weighted_sum(terms: dict[str, Tensor]) -> Tensor:
    """The loss that is minimised; the terms of stage 2 weigh 1."""
    return sum(LOSS_WEIGHTS.get(name, 1.0) * term for name, term in terms.items())


def heard(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """
    The loss, with a gradient of zero where a batch has nothing to say about what trains.

    So it is where the weights of prompts train alone and no image of the batch has one. Other processes would wait in
    vain for the gradients.

    Args:
        loss (`torch.Tensor` of shape `()`): Of a batch.
        parameters (`Iterable[torch.nn.Parameter]`): Of the model.
    """
    if loss.requires_grad or not torch.is_grad_enabled():
        return loss
    return loss + 0 * sum(parameter.sum() for parameter in parameters if parameter.requires_grad)


def resized_logits(logits: Tensor, size: torch.Size) -> Tensor:
    """Logits `(batch, n, height, width)` in float32 at the labels' size, bilinear."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def mean_inside(values: Tensor, valid: Tensor) -> Tensor:
    """
    Mean per image over the pixels that are no padding, so that an image's weight does not depend on its shape.

    Args:
        values (`torch.Tensor` of shape `(batch, 1, height, width)`): Of each pixel.
        valid (`torch.Tensor` of shape `(batch, 1, h, w)`): True on the image, False on padding, at any resolution.

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    inside = F.interpolate(valid.to(values.dtype), size=values.shape[-2:], mode="nearest")
    return (values * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """
    One minus soft Dice per image; 0 for an image without foreground, which is left to the cross-entropy.

    Args:
        logits (`torch.Tensor` of shape `(batch, 1, height, width)`): Foreground logits.
        target (`torch.Tensor` of shape `(batch, 1, height, width)`): Foreground in [0, 1].

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)) * (target.amax((1, 2, 3)) > 0)


def segmentation_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """
    Binary cross-entropy plus Dice per image, at the labels' resolution.

    Args:
        logits (`torch.Tensor` of shape `(batch, 1, h, w)`): Foreground logits at any resolution.
        target (`torch.Tensor` of shape `(batch, 1, height, width)`): Foreground in [0, 1].
        valid (`torch.Tensor` of shape `(batch, 1, h, w)`): True on the image, False on padding, at any resolution.

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    logits = resized_logits(logits, target.shape[-2:])
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return mean_inside(cross_entropy, valid) + dice_loss(logits, target)


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the thresholded logits with the target, of shape `(batch,)`; 1 if both are empty."""
    predicted, true = resized_logits(logits, target.shape[-2:]) > 0, target > 0.5
    union = (predicted | true).sum((1, 2, 3))
    overlap = (predicted & true).sum((1, 2, 3))
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0)


def base_losses(
    images: Tensor,
    target: Tensor,
    coarse: Tensor,
    presence_logits: Tensor,
    initial: Tensor,
    iou_scores: Tensor,
    valid: Tensor,
) -> dict[str, Tensor]:
    """
    Stage 1: segmentation loss on the coarse and the initial mask, presence, and SAM's IoU estimate.

    Args:
        images (`torch.Tensor` of shape `(batch, 1, height, width)`): Ground truth per image.
        target (`torch.Tensor` of shape `(rows, 1, height, width)`): Ground truth per prompt row.
        coarse (`torch.Tensor` of shape `(batch, 1, h, w)`): Coarse logits.
        presence_logits (`torch.Tensor` of shape `(batch,)`): Presence logits.
        initial (`torch.Tensor` of shape `(rows, masks, h, w)`): Initial logits.
        iou_scores (`torch.Tensor` of shape `(rows, masks)`): SAM's IoU estimates.
        valid (`torch.Tensor` of shape `(batch, 1, h, w)`): True on the image, False on padding.
    """
    present = (images.amax((1, 2, 3)) > 0).float()
    repeated = target.repeat_interleave(initial.shape[1], dim=0)
    masks = initial.flatten(0, 1)[:, None]
    inside = valid.repeat_interleave(len(masks) // len(valid), dim=0)
    return {
        "coarse": segmentation_loss(coarse, images, valid).mean(),
        "segmentation": segmentation_loss(masks, repeated, inside).mean(),
        "presence": F.binary_cross_entropy_with_logits(presence_logits.float(), present),
        "iou": F.mse_loss(iou_scores.flatten().float(), hard_iou(masks.detach(), repeated)),
    }


def multimask_loss(masks: Tensor, iou_scores: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """
    SAM's ambiguity-aware loss: only the best of the three masks is trained, and all three IoU estimates.

    At the masks' own resolution: they are a by-product, and upsampling three of them took a fifth of a step.

    Args:
        masks (`torch.Tensor` of shape `(rows, masks, h, w)`): Logits of SAM's alternative masks.
        iou_scores (`torch.Tensor` of shape `(rows, masks)`): Their IoU estimates.
        target (`torch.Tensor` of shape `(rows, 1, height, width)`): Ground truth.
        valid (`torch.Tensor` of shape `(batch, 1, h, w)`): True on the image, False on padding.
    """
    rows, alternatives = iou_scores.shape
    target = F.interpolate(target, size=masks.shape[-2:], mode="area")
    repeated = target.repeat_interleave(alternatives, dim=0)
    flat = masks.flatten(0, 1)[:, None]
    inside = valid.repeat_interleave(len(flat) // len(valid), dim=0)
    best = segmentation_loss(flat, repeated, inside).view(rows, alternatives).amin(dim=1).mean()
    return best + F.mse_loss(iou_scores.flatten().float(), hard_iou(flat.detach(), repeated))


def correction_losses(
    target: Tensor,
    initial: Tensor,
    corrected: CorrectorOutput,
    entropy_logits: Tensor,
    entropy: Tensor,
    valid: Tensor,
) -> dict[str, Tensor]:
    """
    Stage 2: each corrector on its own suspicious pixels, the uncertainty head, and Dice on the final mask.

    The correctors learn from images with a lesion only. In a normal scan all foreground is false, which taught the
    false-positive corrector to wipe small lesions out (validation Dice 0.722 -> 0.700); normals are for the presence
    score. Lesion pixels weigh more: Dice is highest if a pixel is kept from a probability of half the Dice on, about
    0.4 here, and a corrector that only asks which label is likelier takes away more than it gives.

    Args:
        target (`torch.Tensor` of shape `(rows, 1, height, width)`): Ground truth.
        initial (`torch.Tensor` of shape `(rows, 1, h, w)`): Initial logits, without gradient.
        corrected ([`CorrectorOutput`]): What the corrector made of them.
        entropy_logits (`torch.Tensor` of shape `(rows, 1, h, w)`): Output of the uncertainty head.
        entropy (`torch.Tensor` of shape `(rows, 1, h, w)`): Entropy of the stochastic passes in bits.
        valid (`torch.Tensor` of shape `(batch, 1, h, w)`): True on the image, False on padding.
    """
    true = F.interpolate(target, size=initial.shape[-2:], mode="area")
    foreground = initial > 0
    error = foreground != (true > 0.5)
    inside = valid.repeat_interleave(len(initial) // len(valid), dim=0)
    terms = {
        "uncertainty": uncertainty_loss(entropy_logits, entropy, error, true, inside),
        "final": dice_loss(resized_logits(corrected.logits, target.shape[-2:]), target).mean(),
    }
    teaching = corrected.suspicious_region & (target.amax((1, 2, 3), keepdim=True) > 0)
    weight = teaching * (1 + (LESION_WEIGHT - 1) * true)
    halves = {
        "false_positive": (corrected.false_positive_logits, foreground),
        "false_negative": (corrected.false_negative_logits, ~foreground),
    }
    for name, (logits, side) in halves.items():
        if logits is not None:
            terms[name] = correction_loss(logits, error, weight * side)
    return terms


def correction_loss(correction_logits: Tensor, should_change: Tensor, where: Tensor) -> Tensor:
    """
    Binary cross-entropy of one corrector on its own suspicious pixels.

    Args:
        correction_logits (`torch.Tensor` of shape `(rows, 1, h, w)`): Logits of "this label is false".
        should_change (`torch.Tensor` of the same shape): True where the initial label is false.
        where (`torch.Tensor` of the same shape): The corrector's suspicious pixels, or the weight of each.

    Returns:
        `torch.Tensor` of shape `()`: mean over the rows of each row's mean, so that batches can be split at will.
    """
    loss = F.binary_cross_entropy_with_logits(correction_logits.float(), should_change.float(), reduction="none")
    return ((loss * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp(min=1)).mean()


def uncertainty_loss(
    uncertainty_logits: Tensor, entropy: Tensor, error: Tensor, target: Tensor, valid: Tensor
) -> Tensor:
    """
    Uncertainty-guided loss: the head follows the sampled entropy and is high on errors and on the true boundary.

    Args:
        uncertainty_logits (`torch.Tensor` of shape `(rows, 1, h, w)`): Output of the uncertainty head.
        entropy (`torch.Tensor` of the same shape): Entropy of the stochastic passes in bits, the teacher.
        error (`torch.Tensor` of the same shape): True where the initial mask is wrong.
        target (`torch.Tensor` of the same shape): Foreground in [0, 1].
        valid (`torch.Tensor` of the same shape): True on the image, False on padding.
    """
    boundary = F.max_pool2d(target, 3, 1, 1) + F.max_pool2d(-target, 3, 1, 1)
    wanted = torch.maximum(torch.maximum(entropy.float(), error.float()), BOUNDARY_UNCERTAINTY * boundary)
    loss = F.binary_cross_entropy_with_logits(uncertainty_logits.float(), wanted, reduction="none")
    return mean_inside(loss, valid).mean()
