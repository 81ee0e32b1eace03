"""Per-pixel uncertainty of a binary segmentation: pure functions first, then the head that learns them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import stacked


def binary_entropy(probability: Tensor) -> Tensor:
    """
    Entropy of a Bernoulli variable in bits.

    Args:
        probability (`torch.Tensor` of any shape): Values in [0, 1].

    Returns:
        `torch.Tensor` of the same shape, float32, in [0, 1]; 1 where the probability is one half.
    """
    p = probability.float()
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


def uncertainty_from_samples(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Splits the uncertainty of stochastic passes into its total and its epistemic part (paper section 3.2).

    Args:
        samples (`torch.Tensor` of shape `(samples, ...)`): Foreground probabilities in [0, 1].

    Returns:
        Three float32 tensors without the first axis: mean probability, predictive entropy in bits (entropy of the
        mean), and mutual information in bits (predictive entropy minus the mean entropy of the samples, at least 0).
    """
    mean = samples.float().mean(dim=0)
    entropy = binary_entropy(mean)
    information = (entropy - binary_entropy(samples).mean(dim=0)).clamp(min=0)
    return mean, entropy, information


class UncertaintyHead(nn.Module):
    r"""
    Predicts the sampled entropy from one deterministic pass: what `mc_samples=0` uses (METHOD section 4).

    Args:
        feature_channels (`int`): Channels of the high-resolution features.
        hidden_channels (`int`): Width of the head.
    """

    def __init__(self, feature_channels: int, hidden_channels: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(feature_channels + 2, hidden_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=2, dilation=2)
        self.conv3 = nn.Conv2d(hidden_channels, 1, 1)

    def forward(self, features: Tensor, probability: Tensor) -> Tensor:
        """
        Args:
            features (`torch.Tensor` of shape `(batch, channels, height, width)`): High-resolution features.
            probability (`torch.Tensor` of shape `(batch, 1, height, width)`): Probability of the single pass.

        Returns:
            `torch.Tensor` of shape `(batch, 1, height, width)`: Logits whose sigmoid is the entropy in bits.
        """
        entropy = binary_entropy(probability).to(features.dtype)
        hidden = stacked(features, probability.to(features.dtype), entropy)
        hidden = F.gelu(self.conv1(hidden))
        return self.conv3(hidden + F.gelu(self.conv2(hidden)))
