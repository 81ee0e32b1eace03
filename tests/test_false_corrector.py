"""The dual false corrector, given anything: it acts inside the suspicious region only, and each half one way only."""

import pytest
import torch
from conftest import randomised, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import DualFalseCorrector
from sfrecsam_hf.modeling.false_corrector import INITIAL_BIAS
from sfrecsam_hf.modeling.uncertainty import binary_entropy

SUBSETS = [(), ("fp",), ("fn",), ("fp", "fn")]


def eager(corrector):
    """Random weights that change about half of what they may."""
    randomised(corrector)
    for half in (corrector.false_positive, corrector.false_negative):
        if half is not None:
            half.leave.bias.data.fill_(-INITIAL_BIAS)
    return corrector


@st.composite
def segmentations(draw):
    height, width = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 0.5, 3.0, 50.0]))
    shape = (draw(st.integers(1, 3)), 1, height, width)
    return {
        "initial": torch.randn(shape, generator=generator) * spread,
        "mean": torch.rand(shape, generator=generator),
        "uncertainty": torch.rand(shape, generator=generator),
        "features": torch.randn(shape[0], 3, height, width, generator=generator) * spread,
        "samples": torch.rand(draw(st.integers(1, 4)), *shape, generator=generator),
        "threshold": draw(st.floats(0, 1)),
    }


@given(case=segmentations(), channels=st.sampled_from([0, 3]), sampled=st.booleans(), applied=st.sampled_from(SUBSETS))
@settings(deadline=None, max_examples=80)
@torch.no_grad()
def test_no_half_ever_leaves_its_side_or_the_suspicious_region(case, channels, sampled, applied):
    corrector = eager(DualFalseCorrector(channels, hidden_channels=4))
    evidence = (
        {"probability_samples": case["samples"]}
        if sampled
        else {"mean_probability": case["mean"], "uncertainty": case["uncertainty"]}
    )
    if channels:
        evidence["features"] = case["features"]
    initial = case["initial"]
    corrected = corrector(
        **evidence, initial_logits=initial, suspicion_threshold=case["threshold"], correctors=applied
    )
    outside = ~corrected.suspicious_region
    assert torch.equal(corrected.logits[outside].view(torch.int32), initial[outside].view(torch.int32))
    before, after = initial > 0, corrected.logits > 0
    if "fn" not in applied:
        assert not (after & ~before).any()
        assert (corrected.logits <= initial).all()
        assert torch.equal(corrected.logits[~before], initial[~before])
    if "fp" not in applied:
        assert not (before & ~after).any()
        assert (corrected.logits >= initial).all()
        assert torch.equal(corrected.logits[before], initial[before])
    if not applied:
        assert torch.equal(corrected.logits, initial)


@given(case=segmentations())
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_the_suspicious_region_is_where_uncertainty_exceeds_the_threshold(case):
    corrector = eager(DualFalseCorrector(0, hidden_channels=4))
    corrected = corrector(case["mean"], case["uncertainty"], suspicion_threshold=case["threshold"])
    assert torch.equal(corrected.suspicious_region, case["uncertainty"] > case["threshold"])
    own = corrector(case["mean"], suspicion_threshold=case["threshold"])
    assert torch.equal(own.suspicious_region, binary_entropy(case["mean"]) > case["threshold"])
    assert not corrector(case["mean"], suspicion_threshold=1.0).suspicious_region.any()


@torch.no_grad()
def test_both_halves_do_act():
    corrector = eager(DualFalseCorrector(0, hidden_channels=8))
    initial = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    corrected = corrector(initial.sigmoid(), initial_logits=initial, suspicion_threshold=0.0)
    before, after = initial > 0, corrected.logits > 0
    assert (before & ~after).any()
    assert (after & ~before).any()


@torch.no_grad()
def test_samples_equal_their_mean_and_uncertainty():
    corrector = eager(DualFalseCorrector(0, hidden_channels=4))
    samples = torch.rand(5, 2, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    mean = samples.mean(0)
    information = binary_entropy(mean) - binary_entropy(samples).mean(0)
    from_samples = corrector(probability_samples=samples)
    from_maps = corrector(mean, binary_entropy(mean), mutual_information=information)
    assert torch.allclose(from_samples.logits, from_maps.logits, atol=1e-5)


@torch.no_grad()
def test_features_of_another_size_are_resized():
    corrector = eager(DualFalseCorrector(3, hidden_channels=4))
    mean = torch.rand(2, 1, 12, 9)
    assert corrector(mean, features=torch.randn(2, 3, 5, 4)).logits.shape == mean.shape


@torch.no_grad()
def test_a_fresh_corrector_leaves_the_mask_as_it_is():
    initial = torch.randn(2, 1, 16, 16) * 2
    corrected = DualFalseCorrector(0)(initial.sigmoid(), initial_logits=initial, suspicion_threshold=0.0)
    assert torch.equal(corrected.logits > 0, initial > 0)


@pytest.mark.parametrize("built", SUBSETS)
@torch.no_grad()
def test_in_the_model_the_same_holds_for_every_subset(built, pixels):
    model = tiny_model(correctors=built)
    for applied in SUBSETS:
        if set(applied) - set(built):
            with pytest.raises(ValueError, match="correctors"):
                model(pixels, correctors=applied)
            continue
        output = model(pixels, correctors=applied, suspicion_threshold=0.9)
        outside, before, after = ~output.suspicious_region, output.initial_masks > 0, output.pred_masks > 0
        assert torch.equal(output.pred_masks[outside], output.initial_masks[outside])
        assert bool((before & ~after).any()) == ("fp" in applied)
        assert bool((after & ~before).any()) == ("fn" in applied)
        if not applied:
            assert torch.equal(output.pred_masks, output.initial_masks)
    default = model(pixels, suspicion_threshold=0.9).pred_masks
    assert torch.equal(default, model(pixels, suspicion_threshold=0.9, correctors=built).pred_masks)


def test_missing_evidence_is_refused():
    with pytest.raises(ValueError, match="mean_probability"):
        DualFalseCorrector(0)()
    with pytest.raises(ValueError, match="3 channels, but got none"):
        DualFalseCorrector(3)(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="3 channels, but got 2"):
        DualFalseCorrector(3)(torch.rand(1, 1, 8, 8), features=torch.rand(1, 2, 8, 8))
