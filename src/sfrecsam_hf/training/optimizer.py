"""How a step changes the weights: AdamW, and the moving average that is validated and saved."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


def decayed_adamw(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, branch_learning_rate: float | None = None
) -> torch.optim.AdamW:
    """
    AdamW over what trains, with weight decay on matrices and kernels only.

    Args:
        model (`torch.nn.Module`): To be trained.
        learning_rate (`float`): Its peak.
        weight_decay (`float`): On matrices and kernels.
        branch_learning_rate (`float`, *optional*): Another peak for the pretrained convolutions of the branch.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            pretrained = branch_learning_rate is not None and ".pretrained." in f".{name}"
            groups.setdefault((pretrained, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": branch_learning_rate if pretrained else learning_rate,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (pretrained, decayed), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=learning_rate, betas=(0.9, 0.99), fused=True)


def averaged(model: torch.nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of a model's weights and buffers; none with a decay of 0."""
    if not decay:
        return None
    average = AveragedModel(model, multi_avg_fn=moving_average(decay), use_buffers=True)
    return average.requires_grad_(False)


def moving_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """
    Exponential average whose memory grows from ten steps to that of `decay`.

    With a constant decay of 0.998 the average still held half of its first weights after five epochs.
    """

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, float((1 + count) / (10 + count))))

    return update
