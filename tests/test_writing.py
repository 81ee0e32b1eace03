"""Promise: a process may be killed at any file operation, and the folder that it replaces is whole, old or new."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sfrecsam_hf.inference import writing
from sfrecsam_hf.inference.writing import replacing

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


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


def write(folder: Path, text: str, changes: int = sys.maxsize) -> bool:
    """Replaces a folder in a process that is killed after some changes; whether it came to its end."""
    KILLING.folder, KILLING.left = folder.parent, changes
    with suppress(KilledError), replacing(folder) as fresh:
        fresh.mkdir()
        for name in ("config.json", "model.safetensors"):
            (fresh / name).write_text(text)
    KILLING.folder = None
    return KILLING.left >= 0


def contents(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def best(tmp_path):
    """A folder as a run leaves it, with a file that is not written each time."""
    write(tmp_path / "best", "old")
    (tmp_path / "best" / "training_summary.json").write_text("{}")
    return tmp_path / "best"


def test_a_kill_at_any_file_operation_leaves_the_old_folder_or_the_new_one(best):
    changes, seen = 0, []
    while not write(best, "new", changes):
        (one,) = contents(best)
        seen.append(one)
        assert (best / "training_summary.json").is_file()
        write(best, "old")
        changes += 1
    assert seen == sorted(seen, reverse=True)
    assert {*seen} == {"old", "new"}, "kills before and after the exchange"


def test_systems_that_cannot_exchange_folders_rename_them(best, monkeypatch):
    monkeypatch.setattr(writing.ctypes, "CDLL", lambda *_, **__: object())
    write(best, "new")
    assert contents(best) == {"new"}
    assert [path.name for path in best.parent.iterdir()] == ["best"]
