"""A model comes back from disk bit for bit, and nothing that a file lacks is left uninitialised."""

import json

import pytest
import torch
from conftest import TINY_PARTS, randomised, tiny_config, tiny_model, tiny_sam
from safetensors.torch import load_file, save_file

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, SFRecSamModel
from sfrecsam_hf.inference.checkpoints import load_checkpoint

SHAPES = {
    "default": {},
    "no fusion": {"fusion": "none"},
    "one corrector": {"correctors": ("fp",)},
    "no adapters": {"vision_config": {**TINY_PARTS["vision_config"], "adapter_dim": 0}},
    "overlapping patches": {"vision_config": {**TINY_PARTS["vision_config"], "patch_kernel_size": 16}},
}


def settings_of(model):
    """The configuration as its file holds it, less what transformers notes about the loading."""
    settings = json.loads(model.config.to_json_string())
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        for noted in ("architectures", "dtype"):
            part.pop(noted, None)
    return settings


@pytest.mark.parametrize("overrides", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_saved_and_loaded_equal(overrides, pixels, tmp_path):
    model = tiny_model(**overrides)
    model.save_pretrained(tmp_path)
    again = SFRecSamModel.from_pretrained(tmp_path)
    assert not again.training
    state, reloaded = model.state_dict(), again.state_dict()
    assert state.keys() == reloaded.keys()
    for name, value in state.items():
        assert torch.equal(value, reloaded[name]), name
    assert settings_of(again) == settings_of(model)
    assert torch.equal(model(pixels).pred_masks, again(pixels).pred_masks)


def test_nothing_is_missing_unexpected_or_reported(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    _, info = SFRecSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_fresh_model_is_the_same_when_it_is_saved_and_loaded(tmp_path, pixels):
    model = SFRecSamModel(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    again = SFRecSamModel.from_pretrained(tmp_path)
    assert torch.equal(model(pixels).pred_masks, again(pixels).pred_masks)


@pytest.fixture
def nan_where_uninitialised():
    """Deterministic mode fills fresh memory with NaN, so that a weight nobody initialised shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("nan_where_uninitialised")
@pytest.mark.parametrize("fusion", ["none", "spatial", "spatial-frequency"])
def test_weights_that_a_file_lacks_are_initialised(tmp_path, fusion):
    """A file that holds SAM's weights alone: all that is added must start as in a fresh model."""
    model = tiny_model(fusion=fusion)
    model.save_pretrained(tmp_path)
    original = set(tiny_sam().state_dict())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if name in original},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    loaded, _ = SFRecSamModel.from_pretrained(tmp_path, output_loading_info=True)
    fresh = SFRecSamModel(tiny_config(fusion=fusion)).state_dict()
    for name, value in loaded.state_dict().items():
        assert value.isfinite().all(), name
        if name in original:
            assert torch.equal(value, model.state_dict()[name]), name
        elif value.numel() > 1000:
            assert value.std() == pytest.approx(float(fresh[name].std()), rel=0.5), name
        elif not fresh[name].any():
            assert not value.any(), name


@pytest.mark.usefixtures("nan_where_uninitialised")
@torch.no_grad()
def test_a_checkpoint_from_before_prompts_saw_the_pixels_answers_as_it_did(pixels, tmp_path):
    model = tiny_model()
    model.prompt_fusion.look.weight.zero_()
    model.prompt_fusion.look.bias.zero_()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "prompt_fusion.look" not in name},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    click = {"input_points": torch.full((2, 1, 1, 2), 30.0)}
    again = SFRecSamModel.from_pretrained(tmp_path)
    assert torch.equal(model(pixels, **click).pred_masks, again(pixels, **click).pred_masks)


def test_a_model_built_from_its_configuration_is_finite():
    for name, value in SFRecSamModel(tiny_config()).state_dict().items():
        assert value.isfinite().all(), name


def test_trained_weights_are_not_overwritten_on_reload(tmp_path):
    model = randomised(SFRecSamModel(tiny_config()), seed=9)
    model.save_pretrained(tmp_path / "a")
    SFRecSamModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_processor_comes_back(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    again = SFRecSamImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.image_processor.to_dict()


def test_a_damaged_file_is_named(tmp_path, processor):
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"no weights at all"):
        file.write_bytes(damaged)
        for load in (SFRecSamModel.from_pretrained, load_checkpoint):
            with pytest.raises(ValueError, match=r"model.*safetensors") as raised:
                load(tmp_path)
            assert str(tmp_path) in str(raised.value)


def test_another_architecture_is_refused(tmp_path):
    tiny_sam().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'sam' checkpoint.*from_sam"):
        SFRecSamModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'sam' checkpoint.*from_sam"):
        SFRecSamConfig.from_pretrained(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
