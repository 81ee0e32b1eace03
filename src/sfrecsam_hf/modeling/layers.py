"""Layers that start at zero, and large feature maps on a CPU.

A new path that ends in zeros changes nothing at first. The type of these layers tells `_init_weights` what to do:
transformers builds a model on the meta device and then initialises layer by layer, so zeros written in a constructor,
or by the module around the layer, would be lost.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero."""


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, as in ControlNet (Zhang et al., ICCV 2023)."""


class ReluConv2d(nn.Conv2d):
    """A convolution without bias that is followed by a ReLU; it starts with He's variance (He et al., ICCV 2015)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)


class ConvBlock(nn.Module):
    r"""
    Residual block of two 3x3 convolutions with GroupNorm, so that a batch never influences an image.

    Args:
        in_channels (`int`): Channels coming in.
        channels (`int`): Channels going out.
        stride (`int`): 1, or 2 to halve the map.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        groups = groups_of(channels)
        self.conv1 = ReluConv2d(in_channels, channels, 3, stride, padding=1)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv2 = ReluConv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), ReluConv2d(in_channels, channels, kernel_size=1))

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(features)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


def groups_of(channels: int) -> int:
    """Groups of a [`~torch.nn.GroupNorm`] over so many channels: eight, or what divides them."""
    return next(groups for groups in (8, 4, 2, 1) if channels % groups == 0)


def stacked(*maps: Tensor) -> Tensor:
    """
    The channels of all maps, one after the other: on a CPU they lie last, wherever those of the maps lie.

    Convolutions, norms and sums keep this layout. `torch.cat` does not: one channel alone has no layout that it sees,
    and it would put those of all maps first again.

    Args:
        maps (`torch.Tensor` of shape `(batch, any, height, width)`): Of one size.

    Returns:
        `torch.Tensor` of shape `(batch, sum of channels, height, width)`.
    """
    if maps[0].device.type != "cpu":
        return torch.cat(maps, dim=1)
    return torch.cat([part.permute(0, 2, 3, 1) for part in maps], dim=-1).permute(0, 3, 1, 2)


def row_by_row(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """
    `function(*maps)`; for inference on a CPU a row at a time.

    What is made of one row stays in cache and finds the memory of the row before. All rows at once ask the system for
    fresh memory, and that costs as much as the work itself.

    Args:
        function (`Callable`): Answers every row by itself.
        maps (`torch.Tensor` of shape `(rows, ...)`): Its arguments.

    Returns:
        `torch.Tensor` of shape `(rows, ...)`.
    """
    at_once = maps[0].device.type != "cpu" or any(part.requires_grad for part in maps)
    if at_once or torch.compiler.is_compiling():
        return function(*maps)
    return torch.cat([function(*(part[row : row + 1] for part in maps)) for row in range(len(maps[0]))])
