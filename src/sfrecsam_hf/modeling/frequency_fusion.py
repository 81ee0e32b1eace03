"""Spatial-frequency feature fusion: the paper's first idea (section 3.1), usable without SAM.

A light convolutional branch sees what a ViT misses: speckle texture and faint borders. At each stride its features
go through a learnable filter in the Fourier domain, and attention over channels and positions mixes the two.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ReluConv2d, ZeroLinear, stacked


class FrequencyFilter(nn.Module):
    r"""
    Learnable filter over radial frequency, one response per channel, whatever the size of the feature map.

    The response is one plus a learned curve over the radius in the Fourier plane, stored at `bins` radii between
    zero and the corner frequency and interpolated linearly. At initialisation the curve is zero and the filter
    returns its input. The transform runs in float32: half-precision FFTs fail for most sizes. To the transform a map
    is a circle; it is mirrored at its edges first, so that the skin line at the top does not reach the bottom row.

    Args:
        channels (`int`): Channels of the feature map.
        bins (`int`): Radii at which the curve is stored.
    """

    def __init__(self, channels: int, bins: int = 16):
        super().__init__()
        self.curve = nn.Parameter(torch.zeros(channels, bins))

    def response(self, height: int, width: int) -> Tensor:
        """The filter on the half plane of `rfft2`, of shape `(channels, height, width // 2 + 1)`; 1 is neutral."""
        # |fftfreq| and rfftfreq, in operators that ONNX has
        vertical = torch.arange(height, device=self.curve.device)
        vertical = torch.minimum(vertical, height - vertical)[:, None] / height
        horizontal = torch.arange(width // 2 + 1, device=self.curve.device)[None] / width
        radius = (vertical**2 + horizontal**2).sqrt() * 2**0.5
        position = radius * (self.curve.shape[1] - 1)
        below = position.floor().long().clamp(max=self.curve.shape[1] - 2)
        curve, weight = self.curve.float(), position - below
        return 1 + torch.lerp(curve[:, below], curve[:, below + 1], weight)

    def forward(self, features: Tensor) -> Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, channels, height, width)`): Any real feature map.

        Returns:
            `torch.Tensor` of the same shape and dtype.
        """
        height, width = features.shape[-2:]
        circle = features.float()
        for side in (-1, -2):
            circle = torch.cat([circle, circle.flip(side)], dim=side)
        size = (2 * height, 2 * width)
        spectrum = torch.fft.rfft2(circle, norm="ortho") * self.response(*size)
        filtered = torch.fft.irfft2(spectrum, s=size, norm="ortho")
        return filtered[..., :height, :width].to(features.dtype)


class AttentionFusion(nn.Module):
    r"""
    Mixes spatial and frequency features with learned channel and position weights (paper section 3.1).

    Each weight is a gate between 0 (keep the spatial feature) and 1 (take the frequency feature).

    Args:
        channels (`int`): Channels of both feature maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(channels // 4, 8)
        self.channel_gate = nn.Sequential(nn.Linear(2 * channels, squeezed), nn.GELU(), nn.Linear(squeezed, channels))
        self.position_gate = nn.Conv2d(4, 1, kernel_size=7, padding=3)

    def forward(self, spatial: Tensor, frequency: Tensor) -> Tensor:
        """
        Args:
            spatial (`torch.Tensor` of shape `(batch, channels, height, width)`): Convolutional features.
            frequency (`torch.Tensor` of shape `(batch, channels, height, width)`): The same after the filter.

        Returns:
            `torch.Tensor` of the same shape: a mixture of the two at every channel and position.
        """
        pooled = torch.cat([spatial.mean((2, 3)), frequency.mean((2, 3))], dim=1)
        channel = self.channel_gate(pooled)[:, :, None, None]
        described = [op(x) for x in (spatial, frequency) for op in (_channel_mean, _channel_max)]
        position = self.position_gate(stacked(*described))
        return spatial + torch.sigmoid(channel + position) * (frequency - spatial)


def _channel_mean(features: Tensor) -> Tensor:
    return features.mean(dim=1, keepdim=True)


def _channel_max(features: Tensor) -> Tensor:
    return features.amax(dim=1, keepdim=True)


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


class SpatialFrequencyBranch(nn.Module):
    r"""
    Convolutional pyramid on the image with frequency fusion at every stride from 4 down to the token grid.

    Stride 2 is left to the convolutions: filtering it too doubled the cost of all filters together.

    Args:
        channels (`Sequence[int]`): Channels at strides 2, 4, 8, ...
        filter_bins (`int`): Radii of each [`FrequencyFilter`].
        use_frequency (`bool`): Leave the filter and its fusion out for the spatial-only ablation.
    """

    def __init__(self, channels: tuple[int, ...], filter_bins: int = 16, use_frequency: bool = True):
        super().__init__()
        self.stem = nn.Sequential(
            ReluConv2d(2, channels[0], kernel_size=4, stride=2, padding=1),
            nn.GroupNorm(groups_of(channels[0]), channels[0]),
            nn.ReLU(),
            ConvBlock(channels[0], channels[0]),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(ConvBlock(previous, current, stride=2), ConvBlock(current, current))
            for previous, current in pairwise(channels)
        )
        filtered = channels[1:] if use_frequency else []
        self.filters = nn.ModuleList(FrequencyFilter(width, filter_bins) for width in filtered)
        self.fusions = nn.ModuleList(AttentionFusion(width) for width in filtered)

    def forward(self, pixel_values: Tensor, valid: Tensor) -> list[Tensor]:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, image_channels, height, width)`): Normalised image.
            valid (`torch.Tensor` of shape `(batch, 1, height, width)`): 1 on the image, 0 on padding.

        Returns:
            `list[torch.Tensor]`: Fused features at strides 2, 4, 8, ...
        """
        gray = pixel_values.mean(dim=1, keepdim=True)
        features = self.stem(stacked(gray * valid, valid))
        pyramid = [features]
        for level, stage in enumerate(self.stages):
            features = stage(features)
            if self.filters:
                features = self.fusions[level](features, self.filters[level](features))
            pyramid.append(features)
        return pyramid


class CrossBranchAttention(nn.Module):
    r"""
    ViT tokens (queries) read the fused spatial-frequency features (keys and values); starts as the identity.

    The output projection is zero-initialised by the model, so that a SAM extended with it is still that SAM. Keys and
    values carry no more than the fused channels, so twice that width is enough: for ViT-B, 4 of its 12 heads.

    Args:
        hidden_size (`int`): Width of the ViT.
        fused_channels (`int`): Channels of the fused features.
        num_heads (`int`): Attention heads of the ViT; ours have the same width, and are at most as many.
    """

    def __init__(self, hidden_size: int, fused_channels: int, num_heads: int):
        super().__init__()
        self.head_dim = hidden_size // num_heads
        width = self.head_dim * max(min(num_heads, 2 * fused_channels // self.head_dim), 1)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.fused_norm = nn.LayerNorm(fused_channels)
        self.query = nn.Linear(hidden_size, width)
        self.key_value = nn.Linear(fused_channels, 2 * width)
        self.projection = ZeroLinear(width, hidden_size)

    def forward(self, hidden_states: Tensor, fused: Tensor) -> Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, height, width, hidden_size)`): ViT tokens.
            fused (`torch.Tensor` of shape `(batch, fused_channels, height, width)`): Fused features.

        Returns:
            `torch.Tensor` of shape `(batch, height, width, hidden_size)`: What is to be added to the tokens.
        """
        batch, height, width, _ = hidden_states.shape
        heads = (batch, height * width, -1, self.head_dim)
        query = self.query(self.layer_norm(hidden_states)).view(heads).transpose(1, 2)
        fused = self.fused_norm(fused.flatten(2).transpose(1, 2))
        key, value = (x.reshape(heads).transpose(1, 2) for x in self.key_value(fused).chunk(2, dim=-1))
        read = F.scaled_dot_product_attention(query, key, value)
        return self.projection(read.transpose(1, 2).reshape(batch, height, width, -1))
