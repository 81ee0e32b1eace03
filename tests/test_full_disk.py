"""On a disk that is really full, `predict` and `train` end in one sentence, keep what they had, and go on later."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import SAMPLES, short_run

from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.cli import main
from sfrecsam_hf.training.checkpointing import saved_state
from sfrecsam_hf.training.trainer import TrainingRun

BLOCK = 4096


@pytest.fixture
def disk(tmp_path):
    """A disk of 32 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("A disk that can be filled needs the right to mount one, which root has on Linux.")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, left: int) -> Path:
    """Fills the disk but for so many blocks; space comes back when the file is removed."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        for _ in range(shutil.disk_usage(disk).free // BLOCK - left):
            file.write(bytes(BLOCK))
    return filler


def test_predict(disk, tiny_checkpoint, tmp_path, capsys):
    scans, output = tmp_path / "scans", disk / "out"
    scans.mkdir()
    command = ["predict", str(scans), "--output", str(output), "--model", str(tiny_checkpoint), "--samples", "0"]
    shutil.copy(SAMPLES / "bus_0160-l.png", scans / "a.png")
    assert main(command) == 0
    table = (output / "predictions.csv").read_bytes()
    shutil.copy(SAMPLES / "bus_0180-l.png", scans / "b.png")
    filler = fill(disk, left=12)
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no space left on device; free some space; the same command with --resume goes on" in said
    assert (output / "predictions.csv").read_bytes() == table
    assert not [path for path in output.rglob("*") if path.suffix == ".new" or path.name.startswith("b_")]
    filler.unlink()
    assert main([*command, "--resume"]) == 0
    with (output / "predictions.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a", "b"]


def test_train(disk, busi_folder, tmp_path, monkeypatch, capsys):
    config = short_run(busi_folder, disk / "run", epochs=1, correction_epochs=0)
    config.to_yaml(tmp_path / "run.yaml")
    validate = TrainingRun._validate

    def on_a_full_disk(run, model):
        fill(disk, left=12)
        validate(run, model)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_validate", on_a_full_disk)
        assert main(["train", str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "could not be written" in said
    assert "make room, then go on with --resume" in said
    saved_state(disk / "run")
    assert not [path for path in disk.rglob("*") if path.suffix == ".new"]
    (disk / "filler").unlink()
    assert main(["train", str(tmp_path / "run.yaml"), "--resume"]) == 0
    SFRecSamModel.from_pretrained(disk / "run" / "best")
