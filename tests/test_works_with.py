"""Works with what users have: `Trainer`, LoRA of `peft`, `device_map="auto"`, `torch.compile` and `dtype`."""

import dataclasses
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_SIZE, STEADY_SEED, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from sfrecsam_hf import SFRecSamConfig, SFRecSamModel, SFRecSamOutput, SFRecSamProcessor

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "trainer.py"
LORA = LoraConfig(target_modules=r"vision_encoder\..*\.qkv|mask_decoder\..*\.(q_proj|v_proj)", r=2)


@pytest.fixture
def run(busi_folder, tiny_checkpoint, tmp_path, monkeypatch):
    """Runs the example on a small folder with a small model, and returns the checkpoint that it leaves."""

    def example(*more: str) -> Path:
        told = ["--data", str(busi_folder), "--output", str(tmp_path / "run"), "--model", str(tiny_checkpoint)]
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *told, "--epochs", "1", *more])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return tmp_path / "run" / "best"

    return example


def changed(checkpoint: Path, before: Path) -> set[str]:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (checkpoint, before))
    assert ours.keys() == theirs.keys()
    return {name for name, value in ours.items() if not torch.equal(value, theirs[name])}


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_trainer_trains_the_base_and_leaves_a_checkpoint(run, tiny_checkpoint, capsys):
    best = run()
    assert "eval_loss" in (shown := capsys.readouterr().out)
    assert "eval_dice" in shown
    names = changed(best, tiny_checkpoint)
    assert {"vision_encoder.patch_embed.projection.weight", "coarse_mask_head.classify.weight"} <= names
    assert not [name for name in names if name.startswith(("corrector", "uncertainty_head"))]
    SFRecSamProcessor.from_pretrained(best)
    assert SFRecSamModel.from_pretrained(best).config.vision_config.image_size == IMAGE_SIZE


def test_trainer_trains_lora_adapters_alone(run, tiny_checkpoint):
    names = changed(run("--lora"), tiny_checkpoint)
    assert names
    assert all("qkv" in name or "q_proj" in name or "v_proj" in name for name in names)


def test_trainer_is_given_the_masks_alone():
    kept = {field.name for field in dataclasses.fields(SFRecSamOutput)} - {"loss", "pred_masks"}
    assert set(SFRecSamConfig().keys_to_ignore_at_inference) == kept


@torch.no_grad()
def test_lora_wraps_the_model_and_comes_back(pixels, tiny_checkpoint, tmp_path):
    plain = SFRecSamModel.from_pretrained(tiny_checkpoint)
    wrapped = get_peft_model(SFRecSamModel.from_pretrained(tiny_checkpoint), LORA).eval()
    before = plain(pixels).pred_masks
    torch.testing.assert_close(wrapped(pixels).pred_masks, before, atol=1e-5, rtol=0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    adapted = wrapped(pixels).pred_masks
    assert not torch.allclose(adapted, before, atol=1e-2)

    wrapped.save_pretrained(tmp_path / "adapters")
    again = PeftModel.from_pretrained(SFRecSamModel.from_pretrained(tiny_checkpoint), tmp_path / "adapters").eval()
    kept = again.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in wrapped.state_dict().items())
    torch.testing.assert_close(again(pixels).pred_masks, adapted, atol=1e-5, rtol=1e-5)  # kernels may round otherwise
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = SFRecSamModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(pixels).pred_masks, adapted, atol=1e-4, rtol=1e-4)


def test_lora_learns(pixels, tiny_checkpoint):
    model = SFRecSamModel.from_pretrained(tiny_checkpoint)
    model.train_stage(1)
    wrapped = get_peft_model(model, LORA).train()
    labels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
    labels[:, 20:40, 20:40] = 1
    wrapped(pixel_values=pixels, labels=labels).loss.backward()
    with_gradient = {name for name, parameter in wrapped.named_parameters() if parameter.grad is not None}
    assert with_gradient
    assert all("lora_" in name for name in with_gradient)


def test_the_documented_lines_run(monkeypatch):
    monkeypatch.chdir(EXAMPLE.parents[1])
    ran: dict = {}
    exec(re.search(r"```python\n(.*?)```", (EXAMPLE.parent / "README.md").read_text(), flags=re.DOTALL)[1], ran)
    assert ran["model"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_device_map_and_the_number_format_are_free(pixels, tmp_path, dtype):
    tiny_model(STEADY_SEED).save_pretrained(tmp_path)
    expected = SFRecSamModel.from_pretrained(tmp_path)(pixels).pred_masks
    model = SFRecSamModel.from_pretrained(tmp_path, device_map="auto", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    found = model(pixels.to(model.device, dtype)).pred_masks
    assert (found.float() > 0).eq(expected > 0).float().mean() > (0.97 if dtype == torch.bfloat16 else 0.9999)


@torch.no_grad()
def test_layers_that_do_not_fit_are_read_from_disk_when_they_are_due(pixels, tiny_checkpoint, tmp_path):
    expected = SFRecSamModel.from_pretrained(tiny_checkpoint)(pixels).pred_masks
    places = {name: "cpu" for name, _ in tiny_model().named_children()} | {"vision_encoder": "disk"}
    model = SFRecSamModel.from_pretrained(tiny_checkpoint, device_map=places, offload_folder=tmp_path)
    torch.testing.assert_close(model(pixels).pred_masks, expected, atol=1e-5, rtol=1e-5)


def test_a_compiled_model_trains():
    model = tiny_model()
    model.train_stage(1)
    labels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
    labels[:, 20:40, 20:40] = 1
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    expected = model.eval()(pixels, labels=labels).loss
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(pixels, labels=labels).loss, expected, atol=1e-5, rtol=1e-5)
    compiled(pixels, labels=labels).loss.backward()
    assert model.vision_encoder.patch_embed.projection.weight.grad.any()
