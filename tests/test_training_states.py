"""Whatever ends a run - a kill, Ctrl-C, a full disk - it resumes bit-equal; a damaged state is refused."""

import json
import resource
import shutil
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
from conftest import short_run

from sfrecsam_hf.cli import main
from sfrecsam_hf.training import trainer, validation
from sfrecsam_hf.training.checkpointing import saved_state
from sfrecsam_hf.training.trainer import TrainingRun, train

# One state in the middle of the last epoch, and none in stage 2 before its first best model.
settings = partial(
    short_run, epochs=1, correction_epochs=2, click_share=0.0, box_share=0.3, mc_samples=1, save_steps=6
)


def outcome(output: Path) -> dict:
    """What a run leaves but times: its best model, byte for byte, and its history."""
    rows = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    told = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
    names = ("model.safetensors", "config.json", "processor_config.json")
    return {"history": told} | {name: (output / "best" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def killed(busi_folder, tmp_path_factory):
    """A whole run's outcome, and its folder as a kill would leave it before and after each thing is put in place."""
    root = tmp_path_factory.mktemp("killed")
    output, copies, replace = root / "run", {}, Path.replace

    def seen() -> None:
        """Copies the folder, unless it holds the same state and the same best model as a copy before."""
        if not (output / "latest").is_file():
            return
        shown = [output / "latest", output / "best" / "model.safetensors", output / "best" / "config.json"]
        key = tuple(path.read_bytes() if path.is_file() else None for path in shown)
        if key not in copies:
            copies[key] = root / f"killed-{len(copies)}"
            shutil.copytree(output, copies[key])

    def watched(path: Path, target: Path) -> Path:
        seen()
        moved = replace(path, target)
        seen()
        return moved

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", watched)
        train(settings(busi_folder, output))
    return outcome(output), list(copies.values())


@pytest.mark.slow
def test_the_resumed_run_ends_the_same_whatever_the_moment_of_the_kill(busi_folder, killed):
    whole, copies = killed
    assert len(copies) > 8
    for copy in copies:
        train(settings(busi_folder, copy), resume=True)
        resumed = outcome(copy)
        assert all(resumed[name] == whole[name] for name in whole), copy.name


@pytest.fixture
def state(killed, tmp_path) -> Path:
    """The state in a copy of a run's folder that was killed in the middle of its last epoch."""
    copy = shutil.copytree(killed[1][-2], tmp_path / "run")
    return copy / (copy / "latest").read_text()


@pytest.mark.parametrize("name", ["random_states_0.pkl", "optimizer.bin", "model.safetensors", "progress.json"])
def test_a_damaged_state_is_refused(busi_folder, state, name, capsys):
    settings(busi_folder, state.parent).to_yaml(state.parents[1] / "run.yaml")
    whole = (state / name).read_bytes()
    for damaged in (b"", whole[:-10], bytes([whole[0] ^ 1]) + whole[1:], None):
        (state / name).unlink()
        if damaged is not None:
            (state / name).write_bytes(damaged)
        assert main(["train", str(state.parents[1] / "run.yaml"), "--resume"]) == 2
        assert f"{name} is damaged or missing" in capsys.readouterr().err
        (state / name).write_bytes(b"")


def test_a_state_of_another_version_is_refused(busi_folder, state):
    (state / "digests.json").unlink()
    with pytest.raises(ValueError, match="not a whole state of this version"):
        train(settings(busi_folder, state.parent), resume=True)


def test_other_settings_are_refused_on_resume(busi_folder, state):
    with pytest.raises(ValueError, match=r"learning_rate: 0.001 -> 0.01.*resume with the same"):
        train(settings(busi_folder, state.parent, learning_rate=0.01), resume=True)


def test_other_images_are_refused_on_resume(busi_folder, state, tmp_path):
    moved = shutil.copytree(busi_folder, tmp_path / "moved")
    for path in moved.rglob("*(?).png"):
        PIL.Image.open(path).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    with pytest.raises(ValueError, match="images are not those"):
        train(settings(moved, state.parent), resume=True)


def told(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("sfrecsam: ")]


@pytest.mark.parametrize("limit", [1_200_000, 500_000, 200], ids=["optimizer", "weights", "history"])
def test_a_full_disk_costs_nothing_but_the_epoch(busi_folder, tmp_path, monkeypatch, capsys, killed, limit):
    """From the first validation on no file can grow beyond a limit, which the named one is the first to meet."""
    config, output = tmp_path / "run.yaml", tmp_path / "run"
    settings(busi_folder, output).to_yaml(config)
    validate, before = TrainingRun._validate, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(run, model):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        validate(run, model)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(TrainingRun, "_validate", on_a_full_disk)
            assert main(["train", str(config)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (sentence,) = told(capsys)
    assert "could not be written" in sentence
    assert "--resume" in sentence
    saved_state(output)
    assert not [path for path in output.rglob("*") if path.name.endswith(".new")]
    assert main(["train", str(config), "--resume"]) == 0
    assert outcome(output) == killed[0]


def test_ctrl_c_in_the_first_epoch_can_be_resumed(busi_folder, tmp_path, monkeypatch, capsys, killed):
    config, output = tmp_path / "run.yaml", tmp_path / "run"
    settings(busi_folder, output).to_yaml(config)

    def interrupt(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "TrainingImages", interrupt)
        assert main(["train", str(config)]) == 130
    assert told(capsys) == ["sfrecsam: interrupted; nothing was saved yet, so begin it anew."]
    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_stage_options", interrupt)
        assert main(["train", str(config)]) == 130
    assert told(capsys) == ["sfrecsam: interrupted; the same command with --resume goes on."]
    assert main(["train", str(config), "--resume"]) == 0
    assert outcome(output) == killed[0]


def test_a_run_whose_masks_meet_no_lesion_says_so(busi_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validation, "overlap", lambda *masks: dict.fromkeys(("dice", "precision", "recall"), 0.0))
    train(settings(busi_folder, tmp_path / "run", epochs=3, correction_epochs=0))
    shown = capsys.readouterr().out
    assert shown.count("no mask has met a lesion") == 1
    assert "For 3 epochs" in shown


def test_an_output_that_cannot_be_a_folder_is_named(busi_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    settings(busi_folder, tmp_path / "file" / "run").to_yaml(tmp_path / "run.yaml")
    assert main(["train", str(tmp_path / "run.yaml")]) == 2
    assert "file/run cannot be made" in told(capsys)[0]
