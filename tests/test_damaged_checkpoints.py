"""A damaged checkpoint is refused in a sentence that names the file and the fault; a wrong name answers at once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_PARTS, tiny_model, tiny_sam
from huggingface_hub import get_session
from safetensors.torch import load_file, save_file

from sfrecsam_hf import SFRecSamConfig, SFRecSamImageProcessor, SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.checkpoints import load_checkpoint


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def rewritten(checkpoint: Path, change) -> None:
    """The weight file with what `change` makes of its weights."""
    file = checkpoint / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


WEIGHTS = {
    "48 missing": (lambda weights: dict(list(weights.items())[48:]), "lacks 48 of"),
    "one missing": (lambda weights: dict(list(weights.items())[1:]), r"lacks 1 of \d+ weights \(\w+"),
    "of another model": (lambda weights: {f"other.{name}": value for name, value in weights.items()}, "lacks .* of"),
    "one too many": (lambda weights: weights | {"other.weight": torch.ones(3)}, r"1 weights of another model \(other"),
    "of another shape": (
        lambda weights: weights | {"mask_decoder.iou_token.weight": torch.ones(2, 3)},
        r"another shape \(mask_decoder.iou_token.weight: \(2, 3\) for",
    ),
    "one NaN": (
        lambda weights: weights | {"mask_decoder.iou_token.weight": torch.full((1, 32), float("nan"))},
        r"1 weights with NaN or infinity \(mask_decoder.iou_token.weight",
    ),
    "integers": (lambda weights: {name: (9 * value).int() for name, value in weights.items()}, "that are no floats"),
    "of version 0.1": (lambda weights: weights | {"branch.stem.9.weight": torch.ones(3)}, "saved by sfrecsam-hf 0.1"),
}


@pytest.mark.parametrize(("change", "told"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_not_all_and_only_the_models_are_refused(checkpoint, change, told, caplog):
    rewritten(checkpoint, change)
    for load in (SFRecSamModel.from_pretrained, load_checkpoint):
        with pytest.raises(ValueError, match=told) as raised:
            load(checkpoint)
        assert str(checkpoint) in str(raised.value)
    assert not caplog.records, "and nothing but the sentence"


@pytest.mark.parametrize("fault", ["48 missing", "of another shape", "one NaN", "integers"])
def test_a_damaged_sam_is_not_extended(tmp_path, fault):
    change, told = WEIGHTS[fault]
    tiny_sam().save_pretrained(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(ValueError, match=told) as raised:
        SFRecSamModel.from_sam(str(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_a_damaged_shard_is_refused_too(checkpoint):
    tiny_model().save_pretrained(checkpoint, max_shard_size="300KB")
    (checkpoint / "model.safetensors").unlink()
    shard = sorted(checkpoint.glob("model-0*.safetensors"))[0]
    save_file({name: value.int() for name, value in load_file(shard).items()}, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="that are no floats"):
        SFRecSamModel.from_pretrained(checkpoint)


def test_who_asks_for_the_loading_info_judges_for_himself(checkpoint):
    rewritten(checkpoint, lambda weights: dict(list(weights.items())[48:]))
    _, info = SFRecSamModel.from_pretrained(checkpoint, output_loading_info=True)
    assert len(info["missing_keys"]) == 48


CONFIGS = [
    "null",
    "[]",
    "3",
    '"text"',
    '{"vision_config": 3}',
    '{"vision_config": null, "mc_samples": "many"}',
    "{",
    "",
]


@pytest.mark.parametrize("text", CONFIGS)
def test_a_damaged_configuration_is_refused(checkpoint, text, capsys):
    (checkpoint / "config.json").write_text(text)
    with pytest.raises((ValueError, OSError), match="config") as raised:
        SFRecSamConfig.from_pretrained(checkpoint)
    assert str(checkpoint) in str(raised.value)
    assert main(["export", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sfrecsam: ")
    assert str(checkpoint) in error


def test_the_configuration_of_another_size_is_refused(checkpoint):
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["vision_config"]["hidden_size"] = 2 * TINY_PARTS["vision_config"]["hidden_size"]
    (checkpoint / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"weights of another shape .*for \("):
        load_checkpoint(checkpoint)


def test_a_processor_of_another_size_is_refused(checkpoint):
    SFRecSamProcessor(SFRecSamImageProcessor(image_size=128)).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="prepares images of 128 pixels, but its model takes 64") as raised:
        load_checkpoint(checkpoint)
    assert str(checkpoint) in str(raised.value)


@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b"\xff", b""])
def test_a_damaged_processor_is_refused(checkpoint, content):
    (checkpoint / "processor_config.json").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load_checkpoint(checkpoint)
    assert str(checkpoint) in str(raised.value)


def test_the_folder_of_a_run_points_to_its_best_model(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "run" / "best")
    with pytest.raises(FileNotFoundError, match=r"has no config.json; did you mean .*run/best\?"):
        load_checkpoint(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="is a file"):
        load_checkpoint(tmp_path / "run" / "best" / "model.safetensors")


@pytest.fixture
def asked(hub, monkeypatch) -> list[str]:
    """The address of each request that is sent."""
    sent, send = [], get_session().send

    def counted(request, **options):
        sent.append(str(request.url))
        return send(request, **options)

    monkeypatch.setattr(get_session(), "send", counted)
    return sent


@pytest.mark.parametrize("reachable", [True, False])
def test_a_wrong_name_is_asked_for_once(hub, asked, reachable):
    if not reachable:
        hub.stop()
    try:
        with pytest.raises(FileNotFoundError, match="org/wrong is neither a folder"):
            load_checkpoint("org/wrong")
    finally:
        if not reachable:
            hub.start()
    assert len([address for address in asked if "org/wrong" in address]) == 1
