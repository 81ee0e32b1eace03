"""Training keeps the mean of every kernel, so that the convolutional branch learns sooner."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..modeling.layers import ReluConv2d


def keep_kernel_means(optimizer: Optimizer, model: nn.Module) -> None:
    """
    From now on, each step of the optimizer leaves every kernel of a [`ReluConv2d`] that trains with the mean it had.

    What comes out of a ReLU is never negative, so a kernel whose mean is not zero lifts a whole channel. BatchNorm
    takes that away, GroupNorm does not. Weight standardisation (Qiao et al., 2019) keeps the mean at zero as well, but
    with a layer that a checkpoint trained without it could not use.

    Args:
        optimizer (`torch.optim.Optimizer`): Of the model's weights.
        model (`torch.nn.Module`): Whose kernels keep their mean; the mean itself may be any.
    """
    branch = [module for module in model.modules() if isinstance(module, ReluConv2d)]
    layers = [layer for layer in branch if layer.weight.requires_grad]
    means: list[torch.Tensor] = []

    def remember(*_: Any) -> None:
        means[:] = [layer.kernel_means() for layer in layers]

    @torch.no_grad()
    def restore(*_: Any) -> None:
        for layer, mean in zip(layers, means, strict=True):
            layer.weight += mean - layer.kernel_means()

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(restore)
