"""Noise of the stochastic passes: drawn once, shared by all images, and drawn inside compiled graphs too."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SampleNoise:
    r"""
    Noise of `1 + samples` passes, the first without any. All images share it, so that no batch changes a mask.

    Args:
        embedding (`torch.Tensor` of shape `(1 + samples, 1, channels, 1, 1)`): Scale of each embedding channel.
        features (`torch.Tensor` of shape `(1 + samples, 1, channels, 1, 1)`): Scale of each high-resolution channel.
        prompts (`torch.Tensor` of shape `(1 + samples, 4)`): Displacement of the sides of a box, as a share of them.
    """

    embedding: Tensor
    features: Tensor
    prompts: Tensor

    @classmethod
    def draw(
        cls,
        samples: int,
        embedding_channels: int,
        feature_channels: int,
        dropout: float,
        jitter: float,
        generator: torch.Generator | None = None,
    ) -> "SampleNoise":
        """
        Draws channel dropout and prompt jitter.

        Args:
            samples (`int`): Noisy passes.
            embedding_channels, feature_channels (`int`): Channels of embeddings and high-resolution features.
            dropout (`float`): Share of channels that a pass is without.
            jitter (`float`): Standard deviation of the displacements.
            generator (`torch.Generator`, *optional*): Seed 0 if not given.
        """
        settings = (samples, embedding_channels, feature_channels, float(dropout), float(jitter))
        return cls(*_seeded(*settings) if generator is None else _drawn(*settings, generator))

    def to(self, device: torch.device, dtype: torch.dtype) -> "SampleNoise":
        """The noise where the model computes; prompts stay in float32."""
        return SampleNoise(self.embedding.to(device, dtype), self.features.to(device, dtype), self.prompts.to(device))


def _drawn(
    samples: int,
    embedding_channels: int,
    feature_channels: int,
    dropout: float,
    jitter: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    device = generator.device

    def channel_dropout(channels: int) -> Tensor:
        kept = (torch.rand(samples, channels, generator=generator, device=device) >= dropout).float()
        # A few passes drop a channel more or less often than they should, and so for every image alike: divided by
        # what was kept of it, its mean over the passes is 1; and that of all channels, though one be dropped in all.
        scale = kept / kept.mean(dim=0).clamp(min=0.5 / max(samples, 1))
        scale = scale / scale.mean().clamp(min=0.5 / max(kept.numel(), 1))
        return torch.cat([torch.ones(1, channels, device=device), scale])[:, None, :, None, None]

    moves = torch.randn(samples, 4, generator=generator, device=device) * jitter
    return (
        channel_dropout(embedding_channels),
        channel_dropout(feature_channels),
        torch.cat([torch.zeros(1, 4, device=device), moves]),
    )


# A graph cannot seed a generator. As an operator of its own the drawing is one opaque step of it.
@torch.library.custom_op("sfrecsam::seeded_noise", mutates_args=())
def _seeded(
    samples: int, embedding_channels: int, feature_channels: int, dropout: float, jitter: float
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return _drawn(samples, embedding_channels, feature_channels, dropout, jitter, generator)


@_seeded.register_fake
def _(
    samples: int, embedding_channels: int, feature_channels: int, dropout: float, jitter: float
) -> tuple[Tensor, Tensor, Tensor]:
    channels = (embedding_channels, feature_channels)
    return (*(torch.empty(1 + samples, 1, count, 1, 1) for count in channels), torch.empty(1 + samples, 4))
