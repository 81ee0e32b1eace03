"""Reference mode of the uncertainty: dropout inside the encoder, redrawn for each sample, at the full cost of each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .model_outputs import SFRecSamImageEmbeddings


@contextmanager
def dropout_drawn(encoder: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Dropout on in the encoder, drawn from `seed`; afterwards its mode and torch's random state are as before."""
    dropouts = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    modes = [dropout.training for dropout in dropouts]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for dropout in dropouts:
                dropout.train()
            yield
        finally:
            for dropout, mode in zip(dropouts, modes, strict=True):
                dropout.train(mode)


def encoder_samples(
    encode: Callable[..., SFRecSamImageEmbeddings],
    encoder: nn.Module,
    pixel_values: Tensor,
    pixel_mask: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Iterator[SFRecSamImageEmbeddings]:
    """
    Encodes every image `samples` times with dropout, one by one, so that no batch changes a mask.

    Args:
        encode (`Callable`): [`SFRecSamModel.encode`].
        encoder (`torch.nn.Module`): Whose dropout is drawn.
        pixel_values (`torch.Tensor` of shape `(batch, channels, image_size, image_size)`): As for `encode`.
        pixel_mask (`torch.Tensor` of shape `(batch, image_size, image_size)`): As for `encode`.
        samples (`int`): How often.
        generator (`torch.Generator`): Source of the seed of each sample.

    Yields:
        [`SFRecSamImageEmbeddings`] of the batch, one per sample.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    for sample in range(samples):
        passes = []
        for image, mask in zip(pixel_values.split(1), pixel_mask.split(1), strict=True):
            with dropout_drawn(encoder, seed + sample, pixel_values.device):
                passes.append(encode(image, pixel_mask=mask))
        tensors = [name for name, value in passes[0].items() if isinstance(value, Tensor)]
        yield SFRecSamImageEmbeddings(**{name: torch.cat([single[name] for single in passes]) for name in tensors})
