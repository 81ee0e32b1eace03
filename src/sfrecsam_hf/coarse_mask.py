"""The coarse-mask head behind the automatic prompts, and what joins the high-resolution features to SAM's mask."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frequency_fusion import ConvBlock
from .maps_on_cpu import stacked
from .zero_init import ZeroConv2d

LEAST_LENGTH = 0.1


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
        self.climb = nn.ModuleList()
        for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.narrow.append(nn.Conv2d(coarse, fine, 1, bias=False))
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
            features = climb(stacked(features, pyramid[-2 - step]) if self.skips else features)
        return features, self.classify(features), presence


class HighResolutionJoin(nn.Module):
    r"""
    Sharpens SAM's mask with the high-resolution features and the coarse logits; starts as the identity.

    SAM answers at a quarter of the token distance from tokens alone. The last projection is zero-initialised by the
    model, so an extended SAM still gives its own mask (compare the early-feature fusion of SAM-HQ).

    The coarse mask knows nothing of a prompt that the caller gives. Such rows read the caller's mask prompt or,
    without one, SAM's own mask in its place: otherwise a click beside the coarse mask would hardly be heeded. For
    the same reason every row reads how near its prompts are, and how much a pixel is like those that they point at.

    Args:
        feature_channels (`int`): Channels of the high-resolution features.
    """

    def __init__(self, feature_channels: int):
        super().__init__()
        self.mix = nn.Conv2d(feature_channels + 4, feature_channels, 3, padding=1)
        self.projection = ZeroConv2d(feature_channels + 1, 1, 1)

    def forward(self, masks: Tensor, features: Tensor, rough: Tensor | None, near: Tensor) -> Tensor:
        """
        Args:
            masks (`torch.Tensor` of shape `(batch, 1, h, w)`): SAM's mask logits.
            features (`torch.Tensor` of shape `(batch, channels, height, width)`): High-resolution features.
            rough (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*): Logits of the coarse mask, or of
                the caller's.
            near (`torch.Tensor` of shape `(batch, 1, height, width)`): How near the prompts are, in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(batch, 1, height, width)`: Mask logits at the features' resolution.
        """
        if masks.shape[-2:] != features.shape[-2:]:
            masks = F.interpolate(masks, size=features.shape[-2:], mode="bilinear", align_corners=False)
        rough = masks if rough is None else rough
        mixed = F.gelu(self.mix(stacked(features, rough, masks, near, _likeness(features, near))))
        # The projection of both without a copy of both.
        weight, bias = self.projection.weight, self.projection.bias
        return masks + F.conv2d(mixed, weight[:, :-1], bias) + weight[:, -1:] * rough


def _likeness(features: Tensor, near: Tensor) -> Tensor:
    """Cosine of each pixel's features with their mean where the prompts point: `(batch, 1, height, width)`."""
    weight = near.clamp(min=0)
    pointed_at = (features * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)
    # Of features that are almost nothing the direction is rounding, so their length counts as no less than this.
    lengths = [part.norm(dim=1, keepdim=True).clamp(min=LEAST_LENGTH) for part in (features, pointed_at)]
    return (features * pointed_at).sum(1, keepdim=True) / (lengths[0] * lengths[1])
