"""Which weights of SF-RecSAM train: the additions to a frozen SAM, and the two stages of the paper (section 3.4)."""

from transformers import PreTrainedModel

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
