"""Promise: a process may be killed at any file operation, and a run's best model is still one whole checkpoint."""

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import IMAGE_SIZE

from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.data.training_record import TrainingRecord
from sfrecsam_hf.inference import writing
from sfrecsam_hf.training.checkpointing import Checkpoints

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


class KilledError(BaseException):
    """Nothing catches it, and after it nothing is done."""


class Killing:
    """Counts the changes of files below a folder, and ends all that follow the one of a given number."""

    def __init__(self):
        self.folder, self.left = None, 0
        sys.addaudithook(self.watch)  # stays for good, so it is told when to look

    def watch(self, event: str, arguments: tuple) -> None:
        if self.folder is None or not (event in CHANGES or (event == "open" and arguments[2] & 3)):
            return
        if str(self.folder) in str(arguments[0]):
            self.left -= 1
            if self.left < 0:
                raise KilledError


KILLING = Killing()


def other_size(folder: Path, changes: int = sys.maxsize) -> int:
    """Gives the best model another size, in a process that is killed after some changes; returns how many it made."""
    checkpoints = Checkpoints(folder, SimpleNamespace(is_main_process=True), TrainingRecord())
    KILLING.folder, KILLING.left = folder, changes
    with suppress(KilledError):
        checkpoints.save_at(2 * IMAGE_SIZE)
    KILLING.folder = None
    return changes - KILLING.left


def sizes(best: Path) -> set[int]:
    """Sides of the input, as the model and its processor say."""
    config = SFRecSamModel.from_pretrained(best).config.vision_config
    return {config.image_size, SFRecSamProcessor.from_pretrained(best).image_processor.pad_size["height"]}


@pytest.fixture
def run(tmp_path, model, processor):
    checkpoints = Checkpoints(tmp_path, SimpleNamespace(is_main_process=True), TrainingRecord())
    checkpoints.save_best(model, processor)
    (tmp_path / "best" / "training_summary.json").write_text("{}")
    return tmp_path


def test_a_kill_at_any_file_operation_leaves_one_whole_checkpoint(run, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(run, whole)
    changes = other_size(whole)
    assert sizes(whole / "best") == {2 * IMAGE_SIZE}
    seen = []
    for killed_after in range(0, changes, -(-changes // 12)):
        other_size(run, killed_after)
        (size,) = sizes(run / "best")
        seen.append(size)
        assert (run / "best" / "training_summary.json").is_file()
    assert seen == sorted(seen)


def test_systems_that_cannot_exchange_folders_rename_them(run, monkeypatch):
    monkeypatch.setattr(writing.ctypes, "CDLL", lambda *_, **__: object())
    other_size(run)
    assert sizes(run / "best") == {2 * IMAGE_SIZE}
    assert [path.name for path in run.iterdir()] == ["best"]
