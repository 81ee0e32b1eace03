"""However a run is cut up - interrupted, accumulated, spread over processes - it yields the same weights."""

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import WITHOUT_DROPOUT, short_run
from safetensors.torch import load_file

from sfrecsam_hf import TrainingConfig
from sfrecsam_hf.training import trainer as training_module
from sfrecsam_hf.training.trainer import train

# A tenth of what one step moves a weight. Adam magnifies rounding where a gradient is all but zero, and sums of
# another order round otherwise, so that a few weights move further; a batch left out or weighted wrongly moves most.
ROUNDING = 1e-4
FEW = 0.005


# Where prompts lie and which of three masks is best are choices: with many a seed an untrained model is so undecided
# in one of them that rounding makes it, and what follows is another run. With this one no weight is further apart than
# 2e-5: with AVX2, AVX-512 and neither, with one thread and with two.
settings = partial(short_run, correction_epochs=2, learning_rate=1e-3, click_share=0.3, box_share=0.2, seed=3)


def final_weights(output: Path) -> dict[str, torch.Tensor]:
    """The weights where the run ended, and not those of its best epoch."""
    return load_file(output / (output / "latest").read_text() / "model.safetensors")


def assert_same(first: Path, second: Path, tolerance: float) -> None:
    ours, theirs = final_weights(first), final_weights(second)
    assert ours.keys() == theirs.keys()
    apart = torch.cat([((value - theirs[name]).abs() > tolerance).flatten() for name, value in ours.items()])
    assert apart.float().mean() <= (FEW if tolerance else 0)


class DiedError(Exception):
    pass


def interrupted(config: TrainingConfig, monkeypatch, stage: int, after: int) -> None:
    """Runs until `after` batches of `stage` are trained, and then dies without a word."""
    original = training_module.TrainingRun._stage_options
    seen = []

    def dying(run):
        if run.progress.stage == stage:
            seen.append(1)
            if len(seen) > after:
                raise DiedError
        return original(run)

    with monkeypatch.context() as patched:
        patched.setattr(training_module.TrainingRun, "_stage_options", dying)
        with pytest.raises(DiedError):
            train(config)


@pytest.mark.parametrize(
    ("stage", "after", "save_steps"),
    [(1, 4, 0), (1, 3, 2), (2, 5, 0), (2, 3, 2)],
    ids=["stage 1, epoch's end", "stage 1, mid-epoch", "stage 2, epoch's end", "stage 2, mid-epoch"],
)
def test_resumed_equals_uninterrupted(busi_folder, tmp_path, monkeypatch, stage, after, save_steps):
    whole = settings(busi_folder, tmp_path / "whole", save_steps=save_steps)
    train(whole)
    parts = settings(busi_folder, tmp_path / "parts", save_steps=save_steps)
    interrupted(parts, monkeypatch, stage, after)
    train(parts, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts", tolerance=0)
    best = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


@pytest.mark.parametrize("changes", [{"batch_size": 1, "accumulation": 4}, {"batch_size": 2, "accumulation": 2}])
def test_accumulated_batches_equal_one_large_batch(busi_folder, tmp_path, changes):
    common = {"overrides": WITHOUT_DROPOUT, "epochs": 1, "correction_epochs": 1}
    train(settings(busi_folder, tmp_path / "large", batch_size=4, **common))
    train(settings(busi_folder, tmp_path / "small", **changes, **common))
    assert_same(tmp_path / "large", tmp_path / "small", tolerance=ROUNDING)


def test_two_processes_equal_one(busi_folder, tmp_path):
    common = {"overrides": WITHOUT_DROPOUT, "epochs": 1, "correction_epochs": 1}
    train(settings(busi_folder, tmp_path / "one", batch_size=4, **common))
    settings(busi_folder, tmp_path / "two", batch_size=2, **common).to_yaml(tmp_path / "two.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = subprocess.run(
        [*launched, "-m", "sfrecsam_hf.cli", "train", str(tmp_path / "two.yaml")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes" in done.stdout
    assert_same(tmp_path / "one", tmp_path / "two", tolerance=ROUNDING)


def test_another_seed_is_another_run(busi_folder, tmp_path):
    for seed in (0, 1):
        train(settings(busi_folder, tmp_path / str(seed), epochs=1, correction_epochs=0, seed=seed))
    ours, theirs = final_weights(tmp_path / "0"), final_weights(tmp_path / "1")
    assert any(not torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_state_that_was_being_written_is_ignored(busi_folder, tmp_path, monkeypatch):
    config = settings(busi_folder, tmp_path / "run", correction_epochs=0)
    interrupted(config, monkeypatch, 1, after=5)
    (tmp_path / "run" / "state.new").mkdir()
    (tmp_path / "run" / "state.new" / "progress.json").write_text("half")
    train(config, resume=True)
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in history) == 2
    shutil.rmtree(tmp_path / "run")
