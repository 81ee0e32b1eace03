"""Entropy and mutual information keep the laws they are defined by."""

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.modeling.uncertainty import (
    binary_entropy,
    uncertainty_from_samples,
)

probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12).map(torch.tensor)


@given(probabilities)
@settings(deadline=None)
def test_entropy_is_symmetric_between_0_and_1_bit(p):
    entropy = binary_entropy(p)
    assert ((entropy >= 0) & (entropy <= 1 + 1e-6)).all()
    assert torch.allclose(entropy, binary_entropy(1 - p), atol=1e-5)


def test_entropy_of_a_coin():
    assert torch.equal(binary_entropy(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 1.0, 0.0]))
    assert binary_entropy(torch.tensor(0.25)) == pytest.approx(0.811278, abs=1e-6)
    assert binary_entropy(torch.tensor(0.5, dtype=torch.float16)).dtype == torch.float32


@given(st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 10.0]))
@settings(deadline=None)
def test_the_epistemic_part_is_part_of_the_whole(count, seed, spread):
    samples = (torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed)) * spread).sigmoid()
    mean, entropy, information = uncertainty_from_samples(samples)
    assert mean.shape == entropy.shape == information.shape == (3, 4)
    assert torch.allclose(mean, samples.mean(0))
    assert torch.allclose(entropy, binary_entropy(mean))
    assert ((information >= 0) & (information <= entropy + 1e-5)).all()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(uncertainty_from_samples(samples[order])[2], information, atol=1e-5)


@given(probabilities, st.integers(1, 5))
@settings(deadline=None)
def test_samples_that_agree_carry_no_epistemic_uncertainty(p, count):
    _, entropy, information = uncertainty_from_samples(p.expand(count, -1))
    assert torch.allclose(entropy, binary_entropy(p), atol=1e-5)
    assert (information < 1e-5).all()


def test_samples_that_contradict_each_other_are_wholly_epistemic():
    _, entropy, information = uncertainty_from_samples(torch.tensor([[0.0], [1.0]]))
    assert entropy.item() == information.item() == 1.0


@torch.no_grad()
def test_the_models_maps_keep_the_same_laws(pixels):
    model = tiny_model()
    for samples in (0, 1, 4):
        output = model(pixels, mc_samples=samples)
        mean, entropy, information = (
            output[name] for name in ("mean_probability", "predictive_entropy", "mutual_information")
        )
        for values in (mean, entropy, information):
            assert ((values >= 0) & (values <= 1 + 1e-6)).all()
        assert (information <= entropy + 1e-5).all()
        if samples:
            assert torch.allclose(entropy, binary_entropy(mean))
        else:
            assert torch.allclose(mean, output.initial_masks.sigmoid())


@torch.no_grad()
def test_the_learned_head_stands_in_for_the_samples(pixels):
    """Without samples the entropy is the head's; with samples the head has no say."""
    model = tiny_model()
    before = [model(pixels, mc_samples=samples).predictive_entropy for samples in (0, 3)]
    model.uncertainty_head.conv3.bias += 2
    after = [model(pixels, mc_samples=samples).predictive_entropy for samples in (0, 3)]
    assert (after[0] > before[0]).all()
    assert torch.equal(after[1], before[1])


@torch.no_grad()
def test_the_threshold_can_be_overridden(pixels):
    model = tiny_model()
    regions = [model(pixels, suspicion_threshold=t).suspicious_region.sum() for t in (0.0, 0.9, 0.98, 1.0)]
    assert regions == sorted(regions, reverse=True)
    assert regions[0] > regions[-1] == 0
    model.config.suspicion_threshold = 0.98
    assert model(pixels).suspicious_region.sum() == regions[2]
