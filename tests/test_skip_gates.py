"""Skips are weighed position by position, not at first, and a checkpoint from before that answers as it did."""

import torch
from conftest import randomised, tiny_model
from safetensors.torch import load_file, save_file

from sfrecsam_hf import SFRecSamConfig, SFRecSamModel
from sfrecsam_hf.modeling.coarse_mask_head import SkipGate


def gates(model: SFRecSamModel) -> list[SkipGate]:
    return [module for module in model.modules() if isinstance(module, SkipGate)]


def test_a_fresh_gate_returns_the_skipped_features():
    fresh = gates(SFRecSamModel(SFRecSamConfig.tiny()))
    assert len(fresh) == 3
    for gate in fresh:
        channels = gate.mix.in_channels // 2
        coarser, skipped = torch.randn(2, 2, channels, 12, 9, generator=torch.Generator().manual_seed(2))
        assert torch.equal(gate(coarser, skipped), skipped)


@torch.no_grad()
def test_a_trained_gate_weighs_each_position_by_what_is_there():
    coarser, skipped = torch.randn(2, 2, 8, 12, 9, generator=torch.Generator().manual_seed(1))
    gate = randomised(SkipGate(8))
    factor = gate(coarser, skipped) / skipped
    assert ((factor > 0) & (factor < 2)).all()
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-4, atol=1e-4)
    assert factor[:, 0].flatten(1).std(dim=1).min() > 0.01
    other = gate(coarser.flip(0), skipped) / skipped
    assert (other - factor).abs().max() > 0.01


def test_there_is_one_for_each_skip():
    assert [gate.factor.in_channels for gate in gates(tiny_model(mask_stride=2))] == [8, 4]
    assert not gates(tiny_model(fusion="none"))


def test_gates_learn_from_the_first_step(pixels):
    model = SFRecSamModel(tiny_model().config).train()
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, 20:40, 10:50] = 1
    model(pixels, labels=labels).loss.backward()
    for gate in gates(model):
        assert gate.factor.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_checkpoint_from_before_the_gates_answers_as_it_did(tmp_path, pixels):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".gates." not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for gate in gates(model):
        for parameter in gate.factor.parameters():
            parameter.zero_()
    loaded = SFRecSamModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(pixels).pred_masks, model(pixels).pred_masks)
