"""The coarse-mask head behind the automatic prompts, and what joins the high-resolution features to SAM's mask."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frequency_fusion import ConvBlock, groups_of
from .layers import ReluConv2d, ZeroConv2d, stacked


class SkipGate(nn.Module):
    r"""
    Attention gate on a skip connection (Oktay et al., Attention U-Net, 2018); starts as the identity.

    Every position of the skipped features is weighed by what the coarser level has made of that place, so that speckle
    and shadow elsewhere can be kept from the mask.

    Args:
        channels (`int`): Channels of both feature maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 2, 1)
        self.mix = ReluConv2d(2 * channels, hidden, kernel_size=1)
        self.norm = nn.GroupNorm(groups_of(hidden), hidden)
        self.factor = ZeroConv2d(hidden, 1, 1)

    def forward(self, coarser: Tensor, skipped: Tensor) -> Tensor:
        """
        Args:
            coarser (`torch.Tensor` of shape `(batch, channels, height, width)`): The coarser level, enlarged.
            skipped (`torch.Tensor` of shape `(batch, channels, height, width)`): Of the pyramid.

        Returns:
            `torch.Tensor` of the same shape: the skipped features, each position times a factor between 0 and 2.
        """
        mixed = F.relu(self.norm(self.mix(stacked(coarser, skipped))))
        return skipped * (1 + torch.tanh(self.factor(mixed)))


class CoarseMaskHead(nn.Module):
    r"""
    Climbs from the token grid to the mask's stride through the fused pyramid: a coarse mask and a presence score.

    Args:
        embedding_channels (`int`): Channels of SAM's image embeddings.
        branch_channels (`Sequence[int]`): Channels of the branch at strides 2, 4, 8, ...
        mask_stride (`int`): Stride of the coarse mask.
        skips (`bool`): Whether the pyramid's features are given; False for `fusion="none"`.
    """

    def __init__(
        self,
        embedding_channels: int,
        branch_channels: tuple[int, ...] | list[int],
        mask_stride: int,
        skips: bool = True,
    ):
        super().__init__()
        widths = list(branch_channels)[mask_stride.bit_length() - 2 :]
        self.skips = skips
        self.enter = ConvBlock(embedding_channels + (widths[-1] if skips else 0), widths[-1])
        self.presence = nn.Sequential(
            nn.LayerNorm(2 * widths[-1]),
            nn.Linear(2 * widths[-1], widths[-1]),
            nn.GELU(),
            nn.Linear(widths[-1], 1),
        )
        self.narrow = nn.ModuleList()
        self.gates = nn.ModuleList()
        self.climb = nn.ModuleList()
        for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.narrow.append(nn.Conv2d(coarse, fine, 1, bias=False))
            if skips:
                self.gates.append(SkipGate(fine))
            self.climb.append(ConvBlock(2 * fine if skips else fine, fine))
        self.classify = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image_embeddings: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image_embeddings (`torch.Tensor` of shape `(batch, embedding_channels, grid, grid)`): From the encoder.
            pyramid (`list[torch.Tensor]`): Fused features at strides 2, 4, 8, ...; empty without skips.

        Returns:
            High-resolution features of shape `(batch, channels, height, width)` at the mask's stride, coarse logits
            of shape `(batch, 1, height, width)` and presence logits of shape `(batch,)`.
        """
        if self.skips:
            image_embeddings = stacked(image_embeddings, pyramid[-1])
        features = self.enter(image_embeddings)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        presence = self.presence(pooled).squeeze(-1)
        for step, (narrow, climb) in enumerate(zip(self.narrow, self.climb, strict=True)):
            features = F.interpolate(narrow(features), scale_factor=2, mode="bilinear", align_corners=False)
            if self.skips:
                features = stacked(features, self.gates[step](features, pyramid[-2 - step]))
            features = climb(features)
        return features, self.classify(features), presence


class HighResolutionJoin(nn.Module):
    r"""
    Sharpens SAM's mask with the high-resolution features and the coarse logits; starts as the identity.

    SAM answers at a quarter of the token distance from tokens alone. The last projection is zero-initialised by the
    model, so an extended SAM still gives its own mask (compare the early-feature fusion of SAM-HQ).

    Args:
        feature_channels (`int`): Channels of the high-resolution features.
    """

    def __init__(self, feature_channels: int):
        super().__init__()
        self.mix = nn.Conv2d(feature_channels + 2, feature_channels, 3, padding=1)
        self.projection = ZeroConv2d(feature_channels + 1, 1, 1)

    def forward(self, masks: Tensor, features: Tensor, rough: Tensor) -> Tensor:
        """
        Args:
            masks (`torch.Tensor` of shape `(batch, 1, h, w)`): SAM's mask logits.
            features (`torch.Tensor` of shape `(batch, channels, height, width)`): High-resolution features.
            rough (`torch.Tensor` of shape `(batch, 1, height, width)`): Logits of the coarse mask, or of the mask
                that the caller gives.

        Returns:
            `torch.Tensor` of shape `(batch, 1, height, width)`: Mask logits at the features' resolution.
        """
        if masks.shape[-2:] != features.shape[-2:]:
            masks = F.interpolate(masks, size=features.shape[-2:], mode="bilinear", align_corners=False)
        mixed = F.gelu(self.mix(stacked(features, rough, masks)))
        # The projection of both without a copy of both.
        weight, bias = self.projection.weight, self.projection.bias
        return masks + F.conv2d(mixed, weight[:, :-1], bias) + weight[:, -1:] * rough
