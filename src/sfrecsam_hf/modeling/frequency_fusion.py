"""Spatial-frequency feature fusion: the paper's first idea (section 3.1), usable without SAM.

A light convolutional branch sees what a ViT misses: speckle texture and faint borders. At strides 4, 8 and 16 its
features go through a learnable filter in the Fourier domain, and attention over channels and positions mixes the two.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet_lite import EfficientNetLite, pyramid_channels
from .layers import ZeroLinear, stacked

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of SAM's image processor
IMAGENET_STANDARD_DEVIATION = (0.229, 0.224, 0.225)


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


class SpatialFrequencyBranch(nn.Module):
    r"""
    A pretrained convolutional pyramid with frequency fusion at strides 4, 8 and 16; what is fused flows on.

    Stride 2 is left to the convolutions: filtering it too doubled the cost of all filters together. At stride 32 the
    map of a 256-pixel image has eight rows, which hold no spectrum to speak of.

    Args:
        width, depth (`float`): Of [`EfficientNetLite`].
        filter_bins (`int`): Radii of each [`FrequencyFilter`].
        use_frequency (`bool`): Leave the filter and its fusion out for the spatial-only ablation.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, filter_bins: int = 16, use_frequency: bool = True):
        super().__init__()
        self.pretrained = EfficientNetLite(width, depth)
        filtered = pyramid_channels(width)[1:4] if use_frequency else ()
        self.filters = nn.ModuleList(FrequencyFilter(channels, filter_bins) for channels in filtered)
        self.fusions = nn.ModuleList(AttentionFusion(channels) for channels in filtered)

    def forward(self, gray: Tensor, valid: Tensor) -> list[Tensor]:
        """
        Args:
            gray (`torch.Tensor` of shape `(batch, 1, height, width)`): Mean over the channels of the normalised image.
            valid (`torch.Tensor` of shape `(batch, 1, height, width)`): 1 on the image, 0 on padding.

        Returns:
            `list[torch.Tensor]`: Fused features at strides 2, 4, 8, 16 and 32.
        """
        images = as_pretrained(gray) * valid
        features = self.pretrained.stem(stacked(images, images, images))
        pyramid = []
        for level, blocks in enumerate(self.pretrained.levels):
            features = blocks(features)
            if 1 <= level <= len(self.filters):
                features = self.fusions[level - 1](features, self.filters[level - 1](features))
            pyramid.append(features)
        return pyramid


def as_pretrained(gray: Tensor) -> Tensor:
    """
    The scale that the pretrained convolutions know: `(x - 127) / 128` for a brightness x of 0 to 255.

    Args:
        gray (`torch.Tensor` of any shape): Mean over the channels of an image that SAM's processor has normalised.
    """
    slope = sum(1 / deviation for deviation in IMAGENET_STANDARD_DEVIATION) / 3
    offset = sum(m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STANDARD_DEVIATION, strict=True)) / 3
    return ((gray + offset) / slope * 255 - 127) / 128


class CrossBranchAttention(nn.Module):
    r"""
    ViT tokens (queries) read the fused spatial-frequency features (keys and values); starts as the identity.

    The output projection is zero-initialised by the model, so that a SAM extended with it is still that SAM. Keys and
    values carry no more than the fused channels, so twice that width is enough: for ViT-B, 3 of its 12 heads. Keys say
    nothing of their place, so every token is also given the value at its own.

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
            fused (`torch.Tensor` of shape `(batch, fused_channels, rows, columns)`): Fused features on any grid.

        Returns:
            `torch.Tensor` of shape `(batch, height, width, hidden_size)`: What is to be added to the tokens.
        """
        batch, height, width, _ = hidden_states.shape
        grid = tuple(fused.shape[-2:])
        query = self.query(self.layer_norm(hidden_states)).flatten(1, 2).unflatten(-1, (-1, self.head_dim))
        fused = self.fused_norm(fused.flatten(2).transpose(1, 2))
        pairs = self.key_value(fused).unflatten(-1, (2, -1, self.head_dim))
        key, value = pairs.permute(2, 0, 3, 1, 4).unbind(0)
        query = query.transpose(1, 2)
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, height, width, -1)
        here = value.transpose(1, 2).flatten(2).mT.unflatten(-1, grid)
        if grid != (height, width):
            here = F.interpolate(here, size=(height, width), mode="bilinear", align_corners=False)
        return self.projection(read + here.permute(0, 2, 3, 1))
