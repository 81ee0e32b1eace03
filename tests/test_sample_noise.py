"""The noise of the stochastic passes is the same for all images, so it must not favour or weaken what they show."""

import pytest
import torch

from sfrecsam_hf.modeling.sample_noise import SampleNoise

CHANNELS = 64


def drawn(samples: int, dropout: float = 0.2, seed: int = 0) -> SampleNoise:
    return SampleNoise.draw(samples, CHANNELS, CHANNELS // 2, dropout, 0.05, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.9])
def test_the_mean_scale_is_one(samples, dropout):
    for seed in range(5):
        noise = drawn(samples, dropout, seed)
        for scale in (noise.embedding, noise.features):
            assert (scale[0] == 1).all(), "the first pass is without noise"
            assert scale[1:].mean() == pytest.approx(1, abs=1e-4)
            assert (scale >= 0).all()


def test_so_is_that_of_each_channel_over_eight_passes():
    means = drawn(8).embedding[1:].mean(dim=0)
    torch.testing.assert_close(means, torch.ones_like(means), atol=1e-4, rtol=0)


def test_a_fifth_of_the_channels_is_dropped():
    dropped = (drawn(200).embedding[1:] == 0).float().mean()
    assert dropped == pytest.approx(0.2, abs=0.02)


def test_no_noise_without_dropout():
    assert (drawn(8, dropout=0.0).embedding == 1).all()
