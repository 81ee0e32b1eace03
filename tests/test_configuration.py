"""The configuration: named sizes keep their promises, values out of range are refused, and files bring it back."""

import pytest
import torch
from conftest import TINY_PARTS, tiny_config
from huggingface_hub.errors import StrictDataclassError
from transformers import SamConfig, SamVisionConfig

from sfrecsam_hf import SFRecSamConfig, SFRecSamModel, SFRecSamVisionConfig


def on_meta(config):
    with torch.device("meta"):
        return SFRecSamModel(config)


def test_tiny_has_at_most_8_million_parameters():
    config = SFRecSamConfig.tiny()
    assert config.vision_config.image_size == 256
    assert on_meta(config).num_parameters() <= 8_000_000


def test_base_is_sam_vit_b_at_256_px_with_stride_8():
    config = SFRecSamConfig.base()
    vision = config.vision_config
    assert (vision.image_size, vision.patch_size, vision.patch_kernel_size) == (256, 8, 16)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (768, 12, 12)
    assert config.prompt_encoder_config.image_embedding_size == 32
    assert 32 % vision.window_size == 0
    model = on_meta(config)
    assert model.vision_encoder.pos_embed.shape == (1, 32, 32, 768)
    assert model.vision_encoder.patch_embed.projection.weight.shape[-2:] == (16, 16)


def test_sam_geometry_is_that_of_sam():
    ours, sam = SFRecSamConfig.sam_geometry(), SamConfig()
    for name in ("image_size", "patch_size", "window_size", "hidden_size", "num_hidden_layers", "mlp_dim"):
        assert getattr(ours.vision_config, name) == getattr(sam.vision_config, name), name
    assert list(ours.vision_config.global_attn_indexes) == list(sam.vision_config.global_attn_indexes)
    assert ours.prompt_encoder_config.image_embedding_size == sam.prompt_encoder_config.image_embedding_size
    assert on_meta(ours).vision_encoder.pos_embed.shape == (1, 64, 64, 768)


def test_windows_divide_the_grid():
    vision = SFRecSamConfig.base().vision_config
    assert vision.image_size // vision.patch_size % vision.window_size == 0


@pytest.mark.parametrize("size", ["tiny", "base", "sam_geometry"])
def test_named_sizes_take_overrides_and_survive_a_file(size, tmp_path):
    config = getattr(SFRecSamConfig, size)(correctors=("fp",), mc_samples=3, suspicion_threshold=0.31)
    config.save_pretrained(tmp_path)
    again = SFRecSamConfig.from_pretrained(tmp_path)
    assert (again.mc_samples, again.suspicion_threshold, list(again.correctors)) == (3, 0.31, ["fp"])
    assert again.to_dict() == config.to_dict() | {
        "decoder_channels": list(config.decoder_channels),
        "correctors": ["fp"],
    }
    assert {name: value.shape for name, value in on_meta(again).state_dict().items()} == {
        name: value.shape for name, value in on_meta(config).state_dict().items()
    }


def test_a_plain_sam_vision_config_is_accepted():
    vision = {name: value for name, value in TINY_PARTS["vision_config"].items() if name != "adapter_dim"}
    config = tiny_config(vision_config=SamVisionConfig(**vision))
    assert isinstance(config.vision_config, SFRecSamVisionConfig)
    assert config.vision_config.hidden_size == 32


def test_weights_of_a_sam_configuration_are_not_silenced():
    """SAM stores an initial deviation of 1e-10, which would leave every added layer dead."""
    config = tiny_config(vision_config={**TINY_PARTS["vision_config"], "initializer_range": 1e-10})
    assert config.vision_config.initializer_range == 0.02


def test_the_grid_follows_the_image_size():
    config = tiny_config(vision_config={**TINY_PARTS["vision_config"], "image_size": 96})
    assert config.prompt_encoder_config.image_embedding_size == 12
    assert config.id2label == {0: "background", 1: "lesion"}
    assert config.label2id == {"background": 0, "lesion": 1}


VISION = {
    "image_size": (100, r"image_size=100 must be a multiple of patch_size=8"),
    "patch_size": (0, r"patch_size=0 must be 1 or more"),
    "patch_kernel_size": (11, r"must differ by an even number"),
    "num_attention_heads": (5, r"hidden_size=32 must be a multiple of num_attention_heads=5"),
    "adapter_dim": (-1, r"adapter_dim=-1 must be 0 or more"),
    "encoder_dropout": (1.0, r"encoder_dropout=1.0 .*below 1"),
    "num_pos_feats": (8, r"num_pos_feats=8 must be half of prompt_encoder_config.hidden_size=32"),
    "output_channels": (64, r"output_channels=64 must equal mask_decoder_config.hidden_size=32"),
}
WHOLE = {
    "fusion": ("fourier", r"fusion='fourier' is not one of"),
    "correctors": (("fp", "both"), r"names \{'both'\}; choose from"),
    "branch_width": (0, r"branch_width=0 .*must be above 0"),
    "decoder_channels": ((8, 16), r"decoder_channels=\(8, 16\) must have one number for each of"),
    "mask_stride": (3, r"mask_stride=3 is not one of"),
    "filter_bins": (1, r"filter_bins=1 must be 2 or more"),
    "corrector_channels": (0, r"corrector_channels=0 .*1 or more"),
    "mc_samples": (-1, r"mc_samples=-1 must be 0 or more"),
    "sample_dropout": (1.0, r"sample_dropout=1.0 must be at least 0 and below 1"),
    "prompt_jitter": (-0.1, r"prompt_jitter=-0.1 must be at least 0"),
    "box_margin": (1.5, r"box_margin=1.5 must be at least 0 and below 1"),
    "suspicion_threshold": (1.5, r"suspicion_threshold=1.5 must lie between 0 and 1"),
    "presence_threshold": (-0.5, r"presence_threshold=-0.5 must lie between 0 and 1"),
}


@pytest.mark.parametrize("name", VISION)
def test_encoder_values_out_of_range_are_refused(name):
    value, message = VISION[name]
    with pytest.raises(ValueError, match=message):
        tiny_config(vision_config={**TINY_PARTS["vision_config"], name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_values_out_of_range_are_refused(name):
    value, message = WHOLE[name]
    with pytest.raises(ValueError, match=message):
        tiny_config(**{name: value})


@pytest.mark.parametrize("wrong", [{"mc_samples": "eight"}, {"fusion": 3}, {"sample_dropout": "much"}])
def test_values_of_the_wrong_type_are_refused(wrong):
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        tiny_config(**wrong)
