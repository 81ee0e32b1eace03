"""The ablation's switches: each fusion and each subset of the correctors is a model of its own, and a smaller one."""

import pytest
import torch
from conftest import tiny_model

from sfrecsam_hf.modeling.frequency_fusion import AttentionFusion, CrossBranchAttention, FrequencyFilter

FUSIONS = ("none", "spatial", "spatial-frequency")


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_each_fusion_has_its_parts_and_answers(fusion, pixels):
    model = tiny_model(fusion=fusion)
    assert (model.branch is None) == (fusion == "none")
    assert count(model, CrossBranchAttention) == (fusion != "none") * len(
        model.config.vision_config.global_attn_indexes
    )
    filters = (fusion == "spatial-frequency") * 3  # at strides 4, 8 and 16
    assert count(model, FrequencyFilter) == count(model, AttentionFusion) == filters
    output = model(pixels)
    assert output.pred_masks.shape == (2, 1, 1, 32, 32)
    assert output.pred_masks.std() > 0


def test_more_fusion_is_more_weights():
    sizes = [tiny_model(fusion=fusion).num_parameters() for fusion in FUSIONS]
    assert sizes == sorted(set(sizes))


@torch.no_grad()
def test_the_branch_reaches_the_tokens_and_the_mask(pixels):
    """Muting the branch changes embeddings, coarse mask and mask: nothing is computed for nothing."""
    model = tiny_model()
    before = model(pixels), model.get_image_embeddings(pixels)
    for stage_filter in model.branch.filters:
        stage_filter.curve.fill_(-1.0)
    after = model(pixels), model.get_image_embeddings(pixels)
    assert not torch.allclose(before[1].image_embeddings, after[1].image_embeddings)
    assert not torch.allclose(before[0].coarse_masks, after[0].coarse_masks)
    assert not torch.allclose(before[0].initial_masks, after[0].initial_masks)


@pytest.mark.parametrize("correctors", [(), ("fp",), ("fn",), ("fp", "fn"), ("fn", "fp")])
@torch.no_grad()
def test_each_subset_of_the_correctors(correctors, pixels):
    model = tiny_model(correctors=correctors)
    output = model(pixels)
    halves = {"fp": output.false_positive_probability, "fn": output.false_negative_probability}
    for name, probability in halves.items():
        assert (probability is not None) == (name in correctors)
        if probability is not None:
            assert ((probability >= 0) & (probability <= 1)).all()
    if not correctors:
        assert torch.equal(output.pred_masks, output.initial_masks)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_trains(fusion, pixels):
    model = tiny_model(fusion=fusion).train()
    loss = model(pixels, labels=torch.ones(2, 64, 64)).loss
    loss.backward()
    assert loss.isfinite()
