"""Dual false corrector: the paper's second idea (section 3.3), usable behind any segmenter.

Errors gather where a model is uncertain. The false-positive corrector judges suspicious foreground, the
false-negative corrector suspicious background; nothing else is ever touched.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .layers import ZeroConv2d, stacked
from .uncertainty import binary_entropy, uncertainty_from_samples

INITIAL_BIAS = -6.0


@dataclass
class CorrectorOutput(ModelOutput):
    r"""
    What [`DualFalseCorrector`] decided. Every tensor has the shape of the initial logits.

    Args:
        logits: Final logits.
        suspicious_region: Boolean; the only pixels where `logits` may differ from the initial ones.
        false_positive_logits: Of the probability that a foreground pixel should become background.
        false_negative_logits: Of the probability that a background pixel should become foreground.
    """

    logits: Tensor | None = None
    suspicious_region: Tensor | None = None
    false_positive_logits: Tensor | None = None
    false_negative_logits: Tensor | None = None


def fuse_corrections(
    initial: Tensor, suspicious: Tensor, false_positive: Tensor | None, false_negative: Tensor | None
) -> Tensor:
    """
    Fuses both corrections with the initial result, in logits, so that the final mask can be trained through it.

    Suspicious foreground becomes at most as likely as the false-positive corrector leaves it, suspicious background
    at least as likely as the false-negative corrector makes it. By construction the first never adds foreground, the
    second never removes it, and pixels outside the suspicious region keep their logit bit for bit.

    Args:
        initial (`torch.Tensor` of any shape): Initial logits; foreground is above 0.
        suspicious (`torch.Tensor` of the same shape): Boolean.
        false_positive (`torch.Tensor` of the same shape, *optional*): Logits of "should become background".
        false_negative (`torch.Tensor` of the same shape, *optional*): Logits of "should become foreground".

    Returns:
        `torch.Tensor` of the same shape: final logits.
    """
    foreground = initial > 0
    final = initial
    if false_positive is not None:
        removed = torch.minimum(initial, -false_positive.to(initial.dtype))
        final = torch.where(suspicious & foreground, removed, final)
    if false_negative is not None:
        added = torch.maximum(initial, false_negative.to(initial.dtype))
        final = torch.where(suspicious & ~foreground, added, final)
    return final


class FalseCorrector(nn.Module):
    r"""
    One half of the dual corrector: a small U-shaped network, because whether a border pixel is wrong depends on the
    shape around it, and whether a whole mask is wrong on what else the image shows.

    Args:
        in_channels (`int`): Channels of the evidence.
        hidden_channels (`int`): Width at the evidence's resolution; twice that at half of it, and so on.
    """

    def __init__(self, in_channels: int, hidden_channels: int = 32):
        super().__init__()
        widths = [hidden_channels, 2 * hidden_channels, 4 * hidden_channels]
        self.enter = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.context = nn.Conv2d(widths[-1], widths[-1], 3, padding=2, dilation=2)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.leave = ZeroConv2d(hidden_channels, 1, 1)

    def forward(self, evidence: Tensor) -> Tensor:
        """
        Args:
            evidence (`torch.Tensor` of shape `(batch, in_channels, height, width)`): Features and probability maps.

        Returns:
            `torch.Tensor` of shape `(batch, 1, height, width)`: Logits of "this pixel's label is false".
        """
        levels = [F.gelu(self.enter(evidence))]
        for down in self.down:
            levels.append(F.gelu(down(levels[-1])))
        risen = levels[-1] + F.gelu(self.context(levels[-1]))
        for up, fine in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            risen = F.interpolate(up(risen), size=fine.shape[-2:], mode="bilinear", align_corners=False)
            risen = F.gelu(fine + risen)
        return self.leave(risen) + INITIAL_BIAS


class DualFalseCorrector(nn.Module):
    r"""
    Corrects a segmenter's mask inside its suspicious region, in both directions.

    Works behind any network: give it that network's probabilities and, if there are any, its features.

    Args:
        feature_channels (`int`): Channels of the features it reads; 0 for none.
        hidden_channels (`int`): Width of each half.
        correctors (`Sequence[str]`): Any subset of `{"fp", "fn"}`.
    """

    def __init__(
        self,
        feature_channels: int,
        hidden_channels: int = 32,
        correctors: tuple[str, ...] | list[str] = ("fp", "fn"),
    ):
        super().__init__()
        self.feature_channels = feature_channels
        evidence = feature_channels + 4
        self.false_positive = FalseCorrector(evidence, hidden_channels) if "fp" in correctors else None
        self.false_negative = FalseCorrector(evidence, hidden_channels) if "fn" in correctors else None

    def forward(
        self,
        mean_probability: Tensor | None = None,
        uncertainty: Tensor | None = None,
        features: Tensor | None = None,
        probability_samples: Tensor | None = None,
        mutual_information: Tensor | None = None,
        initial_logits: Tensor | None = None,
        suspicion_threshold: float = 0.5,
        correctors: tuple[str, ...] | list[str] = ("fp", "fn"),
    ) -> CorrectorOutput:
        """
        Args:
            mean_probability (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*):
                Foreground probability in [0, 1]. Required unless `probability_samples` is given.
            uncertainty (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*):
                Uncertainty in [0, 1]; the entropy of `mean_probability` in bits if not given.
            features (`torch.Tensor` of shape `(batch, feature_channels, height, width)`, *optional*):
                The segmenter's features, resized to the mask if their size differs.
            probability_samples (`torch.Tensor` of shape `(samples, batch, 1, height, width)`, *optional*):
                Stochastic passes, in place of a mean and an uncertainty.
            mutual_information (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*):
                Epistemic part in bits; 0 where unknown.
            initial_logits (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*):
                The mask to correct; the logits of `mean_probability` if not given.
            suspicion_threshold (`float`): Uncertainty above which a pixel is suspicious.
            correctors (`Sequence[str]`): Which halves to apply now: the ablation switch.

        Raises:
            ValueError: Neither probabilities nor samples are given, or the features do not fit.
        """
        if probability_samples is not None:
            mean_probability, uncertainty, mutual_information = uncertainty_from_samples(probability_samples)
        if mean_probability is None:
            raise ValueError("Give the corrector `mean_probability` or `probability_samples`.")
        if uncertainty is None:
            uncertainty = binary_entropy(mean_probability)
        if mutual_information is None:
            mutual_information = torch.zeros_like(uncertainty)
        if initial_logits is None:
            initial_logits = torch.logit(mean_probability.float(), eps=1e-6)
        suspicious = uncertainty > suspicion_threshold

        evidence = [mean_probability, uncertainty, mutual_information, initial_logits.clamp(-10, 10) / 10]
        if self.feature_channels:
            if features is None or features.shape[1] != self.feature_channels:
                found = "none" if features is None else f"{features.shape[1]} channels"
                raise ValueError(f"`features` must have {self.feature_channels} channels, but got {found}.")
            evidence.append(_resized(features, mean_probability.shape[-2:]))
        weight_dtype = next(self.parameters(), mean_probability).dtype
        evidence = stacked(*(part.to(weight_dtype) for part in evidence))
        positive = self.false_positive(evidence) if self.false_positive is not None else None
        negative = self.false_negative(evidence) if self.false_negative is not None else None
        final = fuse_corrections(
            initial_logits,
            suspicious,
            positive if "fp" in correctors else None,
            negative if "fn" in correctors else None,
        )
        return CorrectorOutput(
            logits=final,
            suspicious_region=suspicious,
            false_positive_logits=positive,
            false_negative_logits=negative,
        )


def _resized(features: Tensor, size: torch.Size) -> Tensor:
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
