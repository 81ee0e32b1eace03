"""Settings come from YAML, flags go on top, and what cannot be used is refused in one sentence."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from sfrecsam_hf import TrainingConfig
from sfrecsam_hf.cli import main

DATA = {"train": ["scans"], "validation": ["scans"]}


def written(folder: Path, **settings) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**DATA, **settings}))
    return path


def test_what_is_written_is_read_again(tmp_path):
    config = TrainingConfig(**DATA, epochs=3, shares=[0.5], overrides={"fusion": "spatial"}, tracker=None)
    config.to_yaml(tmp_path / "run.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "run.yaml") == config


def test_flags_go_on_top_of_the_file(tmp_path):
    config = TrainingConfig.from_yaml(written(tmp_path, epochs=3, seed=5), epochs=7)
    assert (config.epochs, config.seed) == (7, 5)


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: [scans]\nvalidation: [scans]\nlearning_rate: 1e-3\nshares: [1]\n")
    config = TrainingConfig.from_yaml(path)
    assert config.learning_rate == 0.001
    assert config.shares == [1.0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epoch": 3}, "unknown settings"),
        ({"epochs": -1}, "epochs=-1 must be 0 or more"),
        ({"epochs": "ten"}, "epochs='ten' must be of type int"),
        ({"epochs": 2.5}, "epochs=2.5 must be of type int"),
        ({"epochs": True}, "epochs=True must be of type int"),
        ({"freeze_base": "yes"}, "freeze_base='yes' must be of type bool"),
        ({"train": "scans"}, "train='scans' must be of type list"),
        ({"train": []}, "train and validation"),
        ({"shares": [1, 1]}, "shares has 2 entries for 1"),
        ({"shares": [-1]}, "shares=.* must be 0 or more"),
        ({"shares": ["all"]}, "shares=.* must be of type list or nothing"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"accumulation": 0}, "accumulation=0 must be 1 or more"),
        ({"learning_rate": 0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": "fast"}, "learning_rate='fast' must be of type float"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be finite"),
        ({"learning_rate": float("inf")}, "learning_rate=inf must be finite"),
        ({"clip": float("inf")}, "clip=inf must be finite"),
        ({"clip": "nan"}, "clip=nan must be finite"),
        ({"weight_decay": float("inf")}, "weight_decay=inf must be finite"),
        ({"augmentation": float("nan")}, "augmentation=nan must be finite"),
        ({"shares": [float("nan")]}, "shares=.nan. must be finite"),
        ({"clip": 0}, "clip=0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be 0 or more"),
        ({"augmentation": -1}, "augmentation=-1.0 must be 0 or more"),
        ({"warmup": 1}, "warmup=1.0 must be at least 0 and below 1"),
        ({"ema_decay": 1.5}, "ema_decay=1.5 must be at least 0 and below 1"),
        ({"click_share": 0.7, "box_share": 0.5}, "must not exceed 1 together"),
        ({"mc_samples": -1}, "mc_samples=-1 must be 0 or more"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"mixed_precision": "int8"}, "mixed_precision='int8' must be no, bf16 or fp16"),
    ],
)
def test_unusable_settings_are_named(tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        TrainingConfig.from_yaml(written(tmp_path, **settings))


@pytest.mark.parametrize("text", [b"- a list\n", b"train: [unclosed\n", b"output: caf\xe9\n", b"3"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    (tmp_path / "run.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=r"run\.yaml"):
        TrainingConfig.from_yaml(tmp_path / "run.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        TrainingConfig.from_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "train and validation"),
        (["--train", "nowhere", "--validation", "nowhere"], "nowhere"),
        (["--train", "BUSI", "--validation", "BUSI", "--epochs", "-2"], "epochs=-2"),
        (["--train", "BUSI", "--validation", "BUSI", "--model", "no/such/folder"], "no/such/folder"),
        (["--train", "BUSI", "--validation", "BUSI", "--overrides", "{fuson: none}"], "fuson"),
        (["--train", "BUSI", "--validation", "BUSI", "--overrides", "{fusion: both}"], "fusion"),
        (["--train", "BUSI", "--validation", "BUSI", "--overrides", "{mc_samples: many}"], "mc_samples"),
        (["--train", "BUSI", "--validation", "BUSI", "--batch-size", "500"], "batch_size"),
        (["--train", "BUSI", "--validation", "BUSI", "--splits", "no.csv"], "no.csv"),
        (["--train", "BUSI", "--validation", "BUSI", "--resume"], "nothing to resume"),
        (["--train", "BUSI", "--validation", "BUSI", "--tracker", "aim"], "tracker=aim is not installed"),
        (["--train", "BUSI", "--validation", "BUSI", "--tracker", "notebook"], "notebook"),
    ],
)
def test_the_command_refuses_in_one_sentence_and_leaves_nothing(busi_folder, tmp_path, capsys, flags, told):
    output = tmp_path / "run"
    flags = [str(busi_folder) if flag == "BUSI" else flag for flag in flags]
    assert main(["train", "--tracker", "tensorboard", *flags, "--output", str(output)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sfrecsam: ")]
    assert len(error) == 1
    assert told in error[0]
    assert not output.exists()


def test_help_explains_every_setting_in_whole_sentences(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for setting in fields(TrainingConfig):
        told = setting.metadata["help"]
        assert f"--{setting.name.replace('_', '-')}" in shown
        assert told in shown
        assert told[-1] == "."


@pytest.mark.parametrize("flag", ["--learning-rate", "--clip"])
def test_flags_out_of_range_are_refused(capsys, flag):
    assert main(["train", "--train", "scans", "--validation", "scans", flag, "inf"]) == 2
    assert capsys.readouterr().err == f"sfrecsam: {flag[2:].replace('-', '_')}=inf must be finite.\n"
