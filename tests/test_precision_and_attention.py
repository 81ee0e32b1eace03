"""float32, bfloat16 and float16, eager and sdpa, with and without gradient checkpointing: the same answer."""

import pytest
import torch
from conftest import IMAGE_SIZE, tiny_model

from sfrecsam_hf import SFRecSamModel

BOXES = torch.tensor([[[10.0, 10, 50, 40]], [[5.0, 20, 60, 60]]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_answers_as_float32(folder, pixels, dtype, samples):
    full, half = SFRecSamModel.from_pretrained(folder), SFRecSamModel.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    for prompts in ({}, {"input_boxes": BOXES}, {"input_masks": torch.zeros(2, 1, 32, 32)}):
        expected = full(pixels, **prompts, mc_samples=samples)
        got = half(pixels.to(dtype), **prompts, mc_samples=samples)
        for name in ("pred_masks", "mean_probability", "predictive_entropy", "presence_logits", "iou_scores"):
            assert got[name].isfinite().all(), name
        assert (got.initial_masks.float() - expected.initial_masks).abs().mean() < 0.1
        assert got.mean_probability.dtype == got.predictive_entropy.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_an_odd_token_grid_in_half_precision(pixels, dtype):
    """Half-precision FFTs fail for sizes that are not powers of two; the filter must not use them."""
    vision = tiny_model().config.vision_config.to_dict() | {"image_size": 56}
    model = tiny_model(vision_config=vision).to(dtype)
    assert model(pixels[..., :56, :56].to(dtype)).pred_masks.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast(pixels, dtype):
    model = tiny_model().train()
    labels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
    labels[:, 10:40, 10:40] = 1
    with torch.autocast("cpu", dtype=dtype):
        loss = model(pixels, labels=labels).loss
    loss.backward()
    assert loss.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_eager_equals_sdpa(folder, pixels):
    eager, sdpa = (SFRecSamModel.from_pretrained(folder, attn_implementation=name) for name in ("eager", "sdpa"))
    assert (eager.config._attn_implementation, sdpa.config._attn_implementation) == ("eager", "sdpa")
    for prompts in ({}, {"input_boxes": BOXES}):
        one, other = eager(pixels, **prompts), sdpa(pixels, **prompts)
        for name in ("pred_masks", "initial_masks", "predictive_entropy", "mutual_information", "iou_scores"):
            assert torch.allclose(one[name], other[name], atol=1e-4), name


@torch.no_grad()
def test_hidden_states_and_attentions_are_returned_on_request(folder, pixels):
    model = SFRecSamModel.from_pretrained(folder, attn_implementation="eager")
    output = model(pixels, output_hidden_states=True, output_attentions=True)
    assert len(output.vision_hidden_states) == model.config.vision_config.num_hidden_layers + 1
    assert len(output.vision_attentions) == model.config.vision_config.num_hidden_layers
    assert model(pixels).vision_hidden_states is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(pixels, reentrant):
    labels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
    labels[:, 10:40, 10:40] = 1
    answers = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        torch.manual_seed(0)
        loss = model(pixels, labels=labels).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        answers.append((loss.detach(), gradients))
    (loss, gradients), (again, checkpointed) = answers
    # Reentrant, the checkpointed part runs without gradients and its masks differ by 1e-6: equal to rounding.
    torch.testing.assert_close(loss, again, rtol=5e-7 if reentrant else 0, atol=0)
    for name, gradient in gradients.items():
        assert (gradient is None) == (checkpointed[name] is None), name
        if gradient is not None:
            assert torch.allclose(gradient, checkpointed[name], atol=1e-5), name
