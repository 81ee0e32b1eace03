"""A gradient reaches every weight that trains, and none that is frozen, in every stage."""

import pytest
import torch
from conftest import IMAGE_SIZE, randomised, tiny_config, tiny_model, tiny_sam

from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.modeling.frequency_fusion import FrequencyFilter
from sfrecsam_hf.modeling.layers import ZeroConv2d, ZeroLinear

# Of SAM's three masks only the best is trained for each prompt, so that over a few images one may never win.
LOSERS = "output_hypernetworks_mlps"
CORRECTION = ("corrector.", "uncertainty_head.")


@pytest.fixture
def labels():
    labels = torch.zeros(6, IMAGE_SIZE, IMAGE_SIZE)
    labels[1:, 10:40, 20:50] = 1
    return labels


def loss_of(model, labels, seed=0):
    """Six images with every kind of prompt, so that no part of the prompt encoder is left out."""
    pixels = torch.randn(6, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))
    points, point_labels = torch.full((6, 1, 2, 2), -10.0), torch.full((6, 1, 2), -10)
    boxes = torch.full((6, 1, 4), -10.0)
    points[2:4], point_labels[2:4] = torch.tensor([[30.0, 20], [5, 5]]), torch.tensor([1, 0])
    boxes[4:] = torch.tensor([20.0, 10, 50, 40])
    return model(
        pixels,
        input_points=points,
        input_labels=point_labels,
        input_boxes=boxes,
        labels=labels,
        suspicion_threshold=0.1,
    ).loss


def trained(model, labels):
    """Names of the weights that got a gradient other than zero over a few batches, and of masks that lost."""
    model.train()
    reached = set()
    for seed in range(4):
        model.zero_grad()
        loss_of(model, labels, seed).backward()
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None, name
            elif parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
                if parameter.grad.any() or LOSERS in name:
                    reached.add(name)
    return reached


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_correction(name):
    return name.startswith(CORRECTION)


@pytest.mark.parametrize("fusion", ["none", "spatial", "spatial-frequency"])
def test_stage_1_trains_everything_but_the_correction(labels, fusion):
    model = tiny_model(fusion=fusion)
    count = model.train_stage(1)
    chosen = trainable(model)
    assert chosen == {name for name, _ in model.named_parameters() if not is_correction(name)}
    assert count == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert chosen - trained(model, labels) == set()


def test_stage_2_trains_the_correction_alone(labels):
    model = tiny_model()
    model.train_stage(2)
    chosen = trainable(model)
    assert chosen == {name for name, _ in model.named_parameters() if is_correction(name)}
    assert chosen - trained(model, labels) == set()


@pytest.mark.parametrize("correctors", [("fp",), ("fn",), ()])
def test_stage_2_with_a_subset_of_the_correctors(labels, correctors):
    model = tiny_model(correctors=correctors)
    model.train_stage(2)
    assert trainable(model) == trained(model, labels)


def test_with_a_frozen_base_only_what_was_added_trains(labels):
    model = tiny_model()
    original = set(tiny_sam().state_dict())
    count = model.freeze_base()
    chosen = trainable(model)
    assert chosen == {name for name, _ in model.named_parameters()} - original
    assert 0 < count == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert chosen - trained(model, labels) == set()


def test_stage_1_with_a_frozen_base(labels):
    model = tiny_model()
    original = set(tiny_sam().state_dict())
    model.train_stage(1, freeze_base=True)
    chosen = trainable(model)
    assert chosen == {name for name, _ in model.named_parameters() if not is_correction(name)} - original
    assert chosen - trained(model, labels) == set()


def test_every_weight_moves_away_from_its_start(labels):
    """Zero-initialised projections hold back what stands before them for one step, and not for ever."""
    model = tiny_model().train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (ZeroLinear, ZeroConv2d)):
                module.weight.zero_()
            elif isinstance(module, FrequencyFilter):
                module.curve.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, labels, step).backward()
        optimizer.step()
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert {name for name in still if LOSERS not in name} == set()


def test_no_gradient_flows_back_from_the_correction_into_the_base(labels):
    model = randomised(SFRecSamModel(tiny_config())).train()
    output = model(torch.randn(6, 3, IMAGE_SIZE, IMAGE_SIZE), labels=labels)
    sum(output.loss_terms[name] for name in ("uncertainty", "final", "false_positive", "false_negative")).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        name for name, _ in model.named_parameters() if is_correction(name)
    }


def test_an_unknown_stage_is_refused(model):
    with pytest.raises(ValueError, match="stage=3"):
        model.train_stage(3)
