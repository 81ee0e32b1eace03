"""How the caller's prompts reach the high-resolution features, behind a single encoder pass.

SAM's decoder hears a click on the token grid alone, where a small lesion is one token. The high-resolution features
decide the mask of a small model, so the click must reach them too.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ConvBlock, ZeroConv2d, stacked
from .prompts import Prompts, prompt_maps

LEAST_LENGTH = 0.1


class PromptFusion(nn.Module):
    r"""
    Fuses prompts into the high-resolution features; starts as the identity.

    A U-shaped network from the mask's stride down to the token grid, where the image embeddings join, and back: what a
    click asks for may lie at the other end of the lesion, and what it denies at the other end of the image. It sees
    the pixels too: the features hold what the automatic mask needed, and a click asks for what that has missed. The
    last projection, and that of the pixels, are zero-initialised by the model.

    Args:
        feature_channels (`int`): Channels of the high-resolution features; each level below has as many more.
        pixel_channels (`int`): Pixels of the image behind each of the features.
        embedding_channels (`int`): Channels of SAM's image embeddings.
        levels (`int`): Halvings from the mask's stride to the token grid.
    """

    def __init__(self, feature_channels: int, pixel_channels: int, embedding_channels: int, levels: int):
        super().__init__()
        widths = [feature_channels * (level + 1) for level in range(levels + 1)]
        self.enter = ConvBlock(feature_channels + 4, widths[0])
        self.look = ZeroConv2d(pixel_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ConvBlock(fine, coarse, stride=2) for fine, coarse in pairwise(widths))
        self.embed = nn.Conv2d(embedding_channels, widths[-1], 1)
        self.bottom = ConvBlock(widths[-1], widths[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.climb = nn.ModuleList(ConvBlock(fine, fine) for fine in widths[:-1])
        self.leave = ZeroConv2d(widths[0], feature_channels, 1)

    def forward(
        self, features: Tensor, pixels: Tensor, image_embeddings: Tensor, prompts: Prompts, image_size: int
    ) -> Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(rows, feature_channels, height, width)`): High-resolution features.
            pixels (`torch.Tensor` of shape `(rows, pixel_channels, height, width)`): The image, unshuffled.
            image_embeddings (`torch.Tensor` of shape `(rows, embedding_channels, grid, grid)`): From the encoder.
            prompts (`Prompts`): The rows' prompts.
            image_size (`int`): Side of the model's input in pixels.

        Returns:
            `torch.Tensor` of the features' shape.
        """
        maps = prompt_maps(prompts, features.shape[-1], image_size).to(features.dtype)
        levels = [self.enter(stacked(features, maps, likeness(features, maps[:, :1]))) + self.look(pixels)]
        for down in self.down:
            levels.append(down(levels[-1]))
        risen = self.bottom(levels.pop() + self.embed(image_embeddings))
        for narrow, climb in zip(reversed(self.narrow), reversed(self.climb), strict=True):
            risen = F.interpolate(narrow(risen), scale_factor=2, mode="bilinear", align_corners=False)
            risen = climb(levels.pop() + risen)
        return features + self.leave(risen)


def likeness(features: Tensor, clicked: Tensor) -> Tensor:
    """
    Cosine of each pixel's features with their mean around the clicks.

    Args:
        features (`torch.Tensor` of shape `(rows, channels, height, width)`): Any features.
        clicked (`torch.Tensor` of shape `(rows, 1, height, width)`): Weights of the mean, 0 or more.

    Returns:
        `torch.Tensor` of shape `(rows, 1, height, width)`, in [-1, 1].
    """
    mean = (features * clicked).sum((2, 3), keepdim=True) / clicked.sum((2, 3), keepdim=True).clamp(min=1)
    # Of features that are almost nothing the direction is rounding, so their length counts as no less than this.
    lengths = [part.norm(dim=1, keepdim=True).clamp(min=LEAST_LENGTH) for part in (features, mean)]
    return (features * mean).sum(1, keepdim=True) / (lengths[0] * lengths[1])
