"""Training scales the filters' responses at random; nothing else ever does."""

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.frequency_fusion import FrequencyFilter


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), bins=st.integers(2, 20), noise=st.sampled_from([0.0, 0.5, 3.0])
)
@settings(deadline=None, max_examples=40)
def test_an_evaluated_filter_is_without_noise(height, width, bins, noise):
    features = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(width))
    assert torch.allclose(FrequencyFilter(3, bins, noise).eval()(features), features, atol=1e-5)


@torch.no_grad()
def test_about_half_of_the_channels_change_each_image_in_its_own_way_and_all_keep_their_mean():
    torch.manual_seed(0)
    features = torch.randn(1, 64, 16, 24).expand(8, -1, -1, -1)
    noisy = FrequencyFilter(64, noise=1.0)(features)
    torch.testing.assert_close(noisy.mean((2, 3)), features.mean((2, 3)), rtol=0, atol=1e-5)
    changed = (noisy - features).abs().amax((2, 3)) > 1e-4
    assert 0.4 < changed.float().mean() < 0.6
    everywhere = changed.all(dim=0)
    assert everywhere.sum() == 0 or (noisy[0] - noisy[1]).abs().amax((1, 2))[everywhere].min() > 1e-4
    assert not torch.equal(changed[0], changed[1])


@torch.no_grad()
def test_the_noise_scales_whole_frequencies_and_grows_with_its_strength():
    impulse = torch.zeros(1, 64, 32, 32)
    impulse[..., 0, 0] = 1

    def strength(noise: float) -> float:
        torch.manual_seed(3)
        spectrum = torch.fft.rfft2(FrequencyFilter(64, noise=noise)(impulse))
        assert spectrum.imag.abs().max() < 1e-4, "a scaled response moves nothing"
        assert spectrum.real.min() > 0
        torch.testing.assert_close(spectrum[0, :, 3, 4], spectrum[0, :, 4, 3], rtol=1e-4, atol=1e-4)  # one radius
        return float(spectrum.real.log().std())

    assert strength(0.0) < 1e-5 < 0.05 < strength(0.3) < 0.5 * strength(1.0)


def test_a_model_trains_with_the_noise_of_its_configuration_and_answers_without(pixels):
    def answers(model: SFRecSamModel) -> list[torch.Tensor]:
        return [model.encode(pixels).coarse_masks for _ in range(2)]

    with torch.no_grad():
        model = tiny_model(filter_noise=1.0)
        first, second = answers(model.eval())
        assert torch.equal(first, second)
        for noise, same in ((1.0, False), (0.0, True)):
            quiet = tiny_model(filter_noise=noise)
            for module in quiet.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            first, second = answers(quiet.train())
            assert torch.equal(first, second) is same


@pytest.mark.parametrize("fusion", ["none", "spatial"])
def test_a_model_without_filters_has_no_noise(fusion):
    assert not [module for module in tiny_model(fusion=fusion).modules() if isinstance(module, FrequencyFilter)]
