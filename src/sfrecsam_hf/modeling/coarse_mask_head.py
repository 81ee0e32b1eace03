"""The coarse-mask head behind the automatic prompts, and what joins the high-resolution features to SAM's mask."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .efficientnet_lite import STRIDES
from .layers import ConvBlock, ZeroConv2d, stacked


class CoarseMaskHead(nn.Module):
    r"""
    Climbs from stride 32 to the mask's stride through the fused pyramid: a coarse mask and a presence score.

    Whether there is a lesion, and where, is a matter of the wide view of stride 32. SAM's image embeddings join at the
    token grid. Without a pyramid the climb begins there.

    Args:
        embedding_channels (`int`): Channels of SAM's image embeddings.
        token_stride (`int`): Stride of the token grid.
        pyramid_channels (`Sequence[int]`): Channels of the pyramid at strides 2, 4, 8, 16 and 32; empty for
            `fusion="none"`.
        decoder_channels (`Sequence[int]`): Channels of this head at the same strides.
        mask_stride (`int`): Stride of the coarse mask.
    """

    def __init__(
        self,
        embedding_channels: int,
        token_stride: int,
        pyramid_channels: tuple[int, ...],
        decoder_channels: tuple[int, ...] | list[int],
        mask_stride: int,
    ):
        super().__init__()
        last, token, first = (stride.bit_length() - 2 for stride in (STRIDES[-1], token_stride, mask_stride))
        top = last if pyramid_channels else token
        width = decoder_channels[top]
        skipped = [pyramid_channels[level] if pyramid_channels else 0 for level in range(top + 1)]
        skipped[token] += embedding_channels
        self.token_level, self.levels = token, range(top - 1, first - 1, -1)
        self.enter = ConvBlock(skipped[top], width)
        self.presence = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(decoder_channels[level + 1], decoder_channels[level], 1, bias=False) for level in self.levels
        )
        self.climb = nn.ModuleList(
            ConvBlock(decoder_channels[level] + skipped[level], decoder_channels[level]) for level in self.levels
        )
        self.classify = nn.Conv2d(decoder_channels[first], 1, 1)

    def forward(self, image_embeddings: Tensor, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image_embeddings (`torch.Tensor` of shape `(batch, embedding_channels, grid, grid)`): From the encoder.
            pyramid (`list[torch.Tensor]`): Fused features at strides 2, 4, 8, 16 and 32; empty without a branch.

        Returns:
            High-resolution features of shape `(batch, channels, height, width)` at the mask's stride, coarse logits
            of shape `(batch, 1, height, width)` and presence logits of shape `(batch,)`.
        """
        skipped: list[list[Tensor]] = [[level] for level in pyramid] or [[] for _ in STRIDES]
        skipped[self.token_level].append(image_embeddings)
        features = self.enter(stacked(*skipped[self.levels.start + 1]))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        presence = self.presence(pooled).squeeze(-1)
        for level, narrow, climb in zip(self.levels, self.narrow, self.climb, strict=True):
            finer = STRIDES[self.token_level] / STRIDES[level]
            size = [math.ceil(side * finer) for side in image_embeddings.shape[-2:]]
            features = F.interpolate(narrow(features), size=size, mode="bilinear", align_corners=False)
            features = climb(stacked(features, *skipped[level]))
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
