"""Promise: attention without a bias tensor is SAM's attention, chosen like any other, with the same weights."""

import pytest
import torch
from conftest import randomised, tiny_config, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.sam.modeling_sam import SamVisionAttention

from sfrecsam_hf import SFRecSamModel, SFRecSamVisionConfig
from sfrecsam_hf.modeling.attention import SFRecSamVisionAttention


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor made inside the context holds."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return made


def attentions(grid: int, window: int, implementation: str, use_rel_pos: bool = True):
    """SAM's own attention and ours, with the same random weights."""
    config = SFRecSamVisionConfig(
        hidden_size=32, num_attention_heads=2, image_size=8 * grid, patch_size=8, use_rel_pos=use_rel_pos
    )
    config._attn_implementation = implementation
    reference = randomised(SamVisionAttention(config, window))
    ours = SFRecSamVisionAttention(config, window).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "unbiased"])
@pytest.mark.parametrize(("grid", "window"), [(12, 4), (12, 5), (5, 0), (20, 0)])
def test_equals_sams_attention(implementation, grid, window):
    reference, ours = attentions(grid, window, implementation)
    side = window or grid
    hidden = torch.randn(3, side, side, 32, generator=torch.Generator().manual_seed(2))
    expected, given = reference(hidden)[0], ours(hidden)[0]
    assert (given - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_gradients_are_sams():
    reference, ours = attentions(20, 0, "unbiased")
    hidden = torch.randn(1, 20, 20, 32, generator=torch.Generator().manual_seed(3))
    for module in (reference, ours):
        module(hidden)[0].square().sum().backward()
    for (name, expected), given in zip(reference.named_parameters(), ours.parameters(), strict=True):
        scale = float(expected.grad.abs().max())
        assert (given.grad - expected.grad).abs().max() < 1e-4 * scale, name


def test_works_without_relative_positions():
    reference, ours = attentions(6, 0, "unbiased", use_rel_pos=False)
    hidden = torch.randn(1, 6, 6, 32)
    torch.testing.assert_close(ours(hidden)[0], reference(hidden)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_has_the_size_of_the_bias(training):
    tokens, heads = 32 * 32, 2
    sizes = {}
    for name in ("sdpa", "unbiased"):
        _, ours = attentions(32, 0, name)
        with torch.set_grad_enabled(training), LargestTensor() as largest:
            ours(torch.randn(1, 32, 32, 32, requires_grad=training))
        sizes[name] = largest.size
    assert sizes["sdpa"] >= heads * tokens**2
    assert sizes["unbiased"] <= heads * tokens**2 / 4


def kept_for_backward(implementation: str) -> int:
    """Numbers that a training step holds between forward and backward."""
    _, ours = attentions(32, 0, implementation)
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        read = ours(torch.randn(1, 32, 32, 32, requires_grad=True))[0]
    assert read.requires_grad
    return sum(kept.values())


def test_training_keeps_nothing_of_the_bias_size_by_default():
    heads, tokens = 2, 32 * 32
    assert kept_for_backward("sdpa") >= heads * tokens**2
    assert kept_for_backward("unbiased") <= heads * tokens**2 / 2


def test_default_is_without_bias_and_any_other_can_be_chosen_at_load_or_later(tmp_path, pixels):
    tiny_model().save_pretrained(tmp_path)
    default = SFRecSamModel.from_pretrained(tmp_path)
    assert default.vision_encoder.config._attn_implementation == "unbiased"
    with torch.no_grad():
        expected = default(pixels).pred_masks
        for implementation in ("eager", "sdpa", "unbiased"):
            loaded = SFRecSamModel.from_pretrained(tmp_path, attn_implementation=implementation)
            assert loaded.vision_encoder.config._attn_implementation == implementation
            torch.testing.assert_close(loaded(pixels).pred_masks, expected, atol=1e-4, rtol=0)
            default.set_attn_implementation(implementation)
            assert default.vision_encoder.config._attn_implementation == implementation
            torch.testing.assert_close(default(pixels).pred_masks, expected, atol=1e-4, rtol=0)


def test_eager_returns_attention_weights(pixels):
    model = SFRecSamModel(tiny_config()).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model.vision_encoder(pixels, None, output_attentions=True).attentions
    assert len(weights) == model.config.vision_config.num_hidden_layers
    torch.testing.assert_close(weights[0].sum(-1), torch.ones_like(weights[0].sum(-1)))


def test_unknown_name_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attn_implementation"):
        SFRecSamModel.from_pretrained(tmp_path, attn_implementation="unbaised")
