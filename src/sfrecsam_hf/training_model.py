"""The model that a training run starts from."""

from dataclasses import fields

from huggingface_hub.errors import StrictDataclassError

from .checkpoints import load_checkpoint
from .configuration_sfrecsam import SFRecSamConfig
from .modeling_sfrecsam import SFRecSamModel
from .training_config import TrainingConfig


def build_model(config: TrainingConfig) -> SFRecSamModel:
    """
    A named size with random weights, a SAM extended, or a checkpoint of our own.

    Args:
        config ([`TrainingConfig`]): Its `sam`, `model` and `overrides` are read.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The overrides are unknown, out of range, or given for a checkpoint.
    """
    if unknown := set(config.overrides) - {known.name for known in fields(SFRecSamConfig)}:
        raise ValueError(f"overrides has unknown fields {sorted(unknown)}; see SFRecSamConfig.")
    if config.sam is not None:
        return SFRecSamModel.from_sam(config.sam, **config.overrides)
    sizes = {"tiny": SFRecSamConfig.tiny, "base": SFRecSamConfig.base}
    if config.model in sizes:
        try:
            return SFRecSamModel(sizes[config.model](**config.overrides))
        except StrictDataclassError as error:
            raise ValueError(f"overrides cannot be used: {' '.join(str(error).split())}.") from error
    if config.overrides:
        raise ValueError(f"overrides cannot change the checkpoint {config.model}; leave them out.")
    return load_checkpoint(config.model, "cpu")[0]
