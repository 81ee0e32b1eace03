"""A run leaves a checkpoint that loads, a history, pictures, and settings that repeat it; it may end at any moment."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from conftest import SAMPLES, short_run
from safetensors.torch import load_file

from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor, TrainingConfig
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.training import trainer as training_module
from sfrecsam_hf.training import validation
from sfrecsam_hf.training.trainer import TrainingRun, train


def history(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(busi_folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "whole"
    config = short_run(busi_folder, output, tracker="tensorboard", overlays=2)
    assert train(config) == output / "best"
    return output


def test_the_best_checkpoint_loads_and_segments(finished, busi_folder):
    model, processor = (kind.from_pretrained(finished / "best") for kind in (SFRecSamModel, SFRecSamProcessor))
    image = PIL.Image.open(busi_folder / "benign" / "benign (1).png")
    with torch.inference_mode():
        outputs = model(**processor([image]))
    assert outputs.pred_masks.isfinite().all()
    assert model.config.suspicion_threshold != 0.5, "calibrated on validation"


def test_the_history_has_every_loss_term_and_every_time(finished):
    rows = [row for row in history(finished) if "train/loss" in row]
    assert [(row["stage"], row["epoch"]) for row in rows] == [(1, 1), (1, 2), (2, 1)]
    stages = (
        {"coarse", "segmentation", "presence", "iou"},
        {"uncertainty", "final", "false_positive", "false_negative"},
    )
    for row in rows:
        assert {f"train/{term}" for term in stages[row["stage"] - 1]} <= row.keys()
        assert {"time/data", "train/learning_rate"} <= row.keys()
        assert min(row["time/forward"], row["time/backward"], row["time/images_per_second"]) > 0
    validations = [row for row in history(finished) if "validation/final_dice" in row]
    assert len(validations) == 3
    assert all("validation/clicked_dice" in row for row in validations[:2])


def test_pictures_and_tracker_events_are_written(finished):
    names = sorted(path.name for path in (finished / "overlays").iterdir())
    assert names == ["stage1-epoch001.png", "stage1-epoch002.png", "stage2-epoch001.png"]
    assert all(PIL.Image.open(finished / "overlays" / name).width > 256 for name in names)
    assert list(finished.rglob("events.out.tfevents*"))


def test_its_settings_repeat_the_run(finished, tmp_path):
    config = TrainingConfig.from_yaml(finished / "training.yaml", output=str(tmp_path / "again"), tracker=None)
    train(config)
    first, second = (load_file(folder / "best" / "model.safetensors") for folder in (finished, tmp_path / "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_run_is_not_overwritten(finished, capsys):
    before = (finished / "best" / "model.safetensors").stat().st_mtime_ns
    assert main(["train", str(finished / "training.yaml")]) == 2
    assert "pass --resume or choose another --output" in capsys.readouterr().err
    assert (finished / "best" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_ends_early_when_it_no_longer_improves(busi_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "overlap", lambda *masks: dict.fromkeys(("dice", "precision", "recall"), 0.5))
    train(short_run(busi_folder, tmp_path / "run", epochs=9, correction_epochs=0, patience=2))
    assert max(row["epoch"] for row in history(tmp_path / "run")) == 3


def test_a_checkpoint_is_chosen_on_all_folders_together(busi_folder, tmp_path, capsys):
    chosen = {"train": [str(busi_folder)], "validation": [str(busi_folder), str(SAMPLES)], "overlays": 20}
    run = TrainingRun(short_run(busi_folder, tmp_path / "run", **chosen))
    # A folder that is given for one purpose alone and has no split is used as a whole.
    held_out = [set(load_split(busi_folder, "val")["name"]), set(load_split(SAMPLES, None)["name"])]
    assert all(held_out)
    assert set(run.validation.images["name"]) == held_out[0] | held_out[1]
    assert len(run.validation.images) == len(held_out[0]) + len(held_out[1])
    run.train_stage()
    run.close()
    shown = capsys.readouterr().out
    trained = len(run.images)
    assert f"{busi_folder}: of 20 images {trained} train, {len(held_out[0])} validate, 0 are not used" in shown
    assert f"{SAMPLES}: of 6 images 0 train, 6 validate, 0 are not used" in shown
    assert f"an epoch shows {trained // 4 * 4} of {trained} training images" in shown
    told = json.loads((tmp_path / "run" / "best" / "training_summary.json").read_text())["validation"]
    assert [data["images"] for data in told] == [len(names) for names in held_out]


def test_validation_without_a_lesion_is_refused(busi_folder, tmp_path):
    splits = tmp_path / "splits.csv"
    train_rows = [f"benign/benign ({n}).png,G{n},train" for n in range(1, 11)]
    validation_rows = [f"normal/normal ({n}).png,N{n},val" for n in range(1, 5)]
    splits.write_text("\n".join(["image,group,split", *train_rows, *validation_rows]))
    with pytest.raises(ValueError, match="no lesion"):
        train(short_run(busi_folder, tmp_path / "run", splits=str(splits)))
    assert not (tmp_path / "run").exists()


DIES = """
import os, signal, sys
from sfrecsam_hf.training import trainer as training
from sfrecsam_hf.cli import main

original = training.TrainingRun._stage_options
calls = []


def killed(run):
    calls.append(1)
    if len(calls) > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(run)


training.TrainingRun._stage_options = killed
main(["train", sys.argv[1]])
"""


def test_after_kill_9_best_loads_and_the_run_goes_on(busi_folder, tmp_path, capfd):
    output = tmp_path / "run"
    short_run(busi_folder, output, save_steps=1).to_yaml(tmp_path / "run.yaml")
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path / "run.yaml"), "6"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    SFRecSamModel.from_pretrained(output / "best")
    assert main(["train", str(tmp_path / "run.yaml"), "--resume"]) == 0
    assert "best checkpoint" in capfd.readouterr().out
    rows = [(row["stage"], row["epoch"]) for row in history(output) if "train/loss" in row]
    assert rows == [(1, 1), (1, 2), (2, 1)]


def test_an_epoch_that_is_trained_again_is_told_once(busi_folder, tmp_path, monkeypatch):
    class DiedError(Exception):
        pass

    config = short_run(busi_folder, tmp_path / "run", correction_epochs=0)
    save_state = training_module.TrainingRun._save_state

    def dying(run, average):
        if run.progress.epoch == 2:
            raise DiedError
        save_state(run, average)

    with monkeypatch.context() as patched:
        patched.setattr(training_module.TrainingRun, "_save_state", dying)
        with pytest.raises(DiedError):
            train(config)
    train(config, resume=True)
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1, 1, 2, 2]


def test_the_summary_tells_what_the_run_was_and_cost_without_its_paths(finished, busi_folder):
    summary = json.loads((finished / "best" / "training_summary.json").read_text())
    rows = [row for row in history(finished) if "train/loss" in row]
    assert [(stage["stage"], stage["epochs"]) for stage in summary["stages"]] == [(1, 2), (2, 1)]
    assert [stage["steps"] for stage in summary["stages"]] == [rows[1]["step"], rows[2]["step"]]
    assert summary["seconds"] > rows[-1]["time/total"], "what follows the last epoch counts too"
    assert (summary["processes"], summary["settings"]["mixed_precision"]) == (1, "no")
    assert summary["data"][0]["name"] == busi_folder.name
    (data,), (validation,) = summary["data"], summary["validation"]
    assert data["images"] + validation["images"] == 20
    assert data["groups"] + validation["groups"] == 19, "one pair of duplicates"
    assert data["groups_in_validation"] == 0
    assert (summary["start"], summary["before"], summary["image_size"]) == ("tiny", None, 64)
    assert str(finished.parent) not in json.dumps(summary)
    assert str(busi_folder.parent) not in json.dumps(summary)


def test_a_run_that_goes_on_from_another_keeps_its_summary(finished, busi_folder, tmp_path):
    changes = {"model": str(finished / "best"), "overrides": {}, "epochs": 1, "correction_epochs": 0}
    train(short_run(busi_folder, tmp_path / "next", **changes))
    summary = json.loads((tmp_path / "next" / "best" / "training_summary.json").read_text())
    assert summary["before"] == json.loads((finished / "best" / "training_summary.json").read_text())
    assert summary["start"] == "best"
    assert str(finished.parent) not in json.dumps(summary)


def test_an_interrupted_run_has_a_summary_too(busi_folder, tmp_path, monkeypatch):
    validate = TrainingRun._validate

    def interrupted(run, model):
        if run.progress.epoch == 1:
            raise KeyboardInterrupt
        validate(run, model)

    monkeypatch.setattr(TrainingRun, "_validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(short_run(busi_folder, tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "best" / "training_summary.json").read_text())
    assert [(stage["stage"], stage["epochs"]) for stage in summary["stages"]] == [(1, 1)]
    trained = next(row for row in history(tmp_path / "run") if "time/total" in row)["time/total"]
    assert summary["seconds"] > trained, "the validation counts too"
