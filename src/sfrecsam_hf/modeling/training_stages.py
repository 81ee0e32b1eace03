"""The two stages of training (paper section 3.4): which weights train, and what they learn from."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .false_corrector import CorrectorOutput
from .losses import base_losses, checked_labels, correction_losses, multimask_loss
from .model_outputs import EMPTY_LOGIT, PromptedRows, SFRecSamCorrection, SFRecSamDecoderOutput, one_per_row

NEW_MODULES = (
    "adapter",
    "cross_attention",
    "branch",
    "coarse_mask_head",
    "prompt_fusion",
    "high_resolution_join",
    "corrector",
    "uncertainty_head",
)
CORRECTION_MODULES = ("corrector", "uncertainty_head")


class StagedTraining:
    """Gives a model its training stages; `training_stage` is None until one is chosen, and then both losses train."""

    training_stage: int | None = None

    def freeze_base(self: PreTrainedModel) -> int:
        """Freezes every original SAM weight, leaving what SF-RecSAM adds, and returns how many numbers train."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in name for part in NEW_MODULES))
        return self.num_parameters(only_trainable=True)

    def train_stage(self: PreTrainedModel, stage: int, freeze_base: bool = False) -> int:
        """
        Chooses what trains: 1, everything up to the initial mask; 2, the corrector and the uncertainty head alone.

        Args:
            stage (`int`): 1 or 2 (paper section 3.4).
            freeze_base (`bool`): In stage 1, keep the original SAM weights as they are.

        Returns:
            `int`: How many numbers train.

        Raises:
            ValueError: There is no such stage.
        """
        if stage not in (1, 2):
            raise ValueError(f"stage={stage} must be 1 or 2.")
        self.training_stage = stage
        for name, parameter in self.named_parameters():
            module = name.split(".")[0]
            correction = module in CORRECTION_MODULES
            frozen = freeze_base and not any(part in name for part in NEW_MODULES)
            parameter.requires_grad_(correction if stage == 2 else not (correction or frozen))
        return self.num_parameters(only_trainable=True)

    def loss_terms(
        self: Any,
        labels: Tensor,
        prompt_labels: Tensor | None,
        prompted: PromptedRows,
        decoded: SFRecSamDecoderOutput,
        correction: SFRecSamCorrection | None,
    ) -> dict[str, Tensor]:
        """
        What the chosen stage learns from, each term unweighted; both stages' while none is chosen.

        Args:
            labels, prompt_labels: As for [`SFRecSamModel.forward`].
            prompted ([`PromptedRows`]): From `prompt`.
            decoded ([`SFRecSamDecoderOutput`]): From `decode`.
            correction ([`SFRecSamCorrection`], *optional*): From `correct`.

        Raises:
            ValueError: The labels have another shape, or values outside [0, 1].
        """
        batch, prompts, alternatives = decoded.iou_scores.shape
        images, target = checked_labels(labels, batch, prompts, prompt_labels)
        valid = prompted.image_embeddings.valid_region
        terms: dict[str, Tensor] = {}
        if self.training_stage != 2:
            terms |= base_losses(
                images,
                target,
                decoded.coarse_masks,
                decoded.presence_logits,
                decoded.initial_masks.flatten(0, 1),
                decoded.iou_scores.flatten(0, 1),
                valid,
            )
            terms["multimask"] = self._multimask_loss(prompted, target)
        if correction is not None:
            terms |= correction_losses(
                target.repeat_interleave(alternatives, dim=0),
                one_per_row(decoded.initial_masks.detach()),
                CorrectorOutput(
                    logits=one_per_row(correction.pred_masks),
                    suspicious_region=one_per_row(correction.suspicious_region),
                    false_positive_logits=one_per_row(correction.false_positive_logits),
                    false_negative_logits=one_per_row(correction.false_negative_logits),
                ),
                one_per_row(correction.entropy_logits),
                one_per_row(correction.predictive_entropy),
                valid,
            )
        return terms

    def _multimask_loss(self: Any, prompted: PromptedRows, target: Tensor) -> Tensor:
        """Of the rows that the caller prompts: what is meant is in doubt there alone. A mean over all rows."""
        loss = target.new_zeros(())
        for part, group in prompted.parts():
            if not group.automatic:
                masks, iou_scores = self._decode_group(part, group, True, None)
                masks = torch.where(part.valid_region, masks[0], EMPTY_LOGIT)
                loss = loss + multimask_loss(masks, iou_scores, target[group.index], part.valid_region) * (
                    len(group.index) / len(target)
                )
        return loss
