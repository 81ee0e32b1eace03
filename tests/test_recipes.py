"""`make checkpoint` and `make retrain` train from raw folders to results, and go on where they were interrupted."""

import argparse
import subprocess
from pathlib import Path

import pytest

from sfrecsam_hf.training.config import TrainingConfig

MAKEFILE = Path(__file__).parents[1] / "Makefile"
# Stands in for the command: notes how it was called, leaves a state, and is killed when it comes to this folder.
COMMAND = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
for argument; do output=$argument; test "$before" != --output || break; before=$argument; done
mkdir -p "$output"
test "$1" != train || touch "$output/latest"
test "$output" != "$KILLED"
"""


@pytest.fixture
def recipe(tmp_path):
    """Runs a target of the Makefile with a stand-in for the command, and returns its status and what it called."""
    for name in ("pyproject.toml", "constraints.txt", "bin/sfrecsam", "bin/python", "installed"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(COMMAND)
        path.chmod(0o755)

    def run(target: str, killed: str = "") -> tuple[int, list[str]]:
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            ["make", "-f", MAKEFILE, target, f"VENV={tmp_path}", "BUSI=busi", "BUSBRA=bus-bra", "SPLITS=splits.csv"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "KILLED": killed},
            capture_output=True,
            check=False,
        )
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


@pytest.mark.parametrize(("target", "last"), [("checkpoint", "tiny"), ("retrain", "retrain")])
def test_each_part_begins_with_what_an_earlier_one_made_and_the_last_is_measured(recipe, target, last):
    status, calls = recipe(target)
    assert status == 0
    made = set()
    for words in map(str.split, calls):
        output = words[words.index("--output") + 1]
        needed = {word.removesuffix("/best") for word in words if word.startswith("runs/")} - {output}
        assert needed <= made, words
        made.add(output)
    assert [call.split()[:2] for call in calls[-2:]] == [["sfrecsam", "evaluate"]] * 2
    assert all(f"--model runs/{last}/best" in call for call in calls[-2:])


@pytest.mark.parametrize("target", ["checkpoint", "retrain"])
def test_every_part_has_settings_for_its_folders(recipe, target):
    parser = argparse.ArgumentParser()
    parser.add_argument("settings")
    for name in ("train", "validation"):
        parser.add_argument(f"--{name}", nargs="+")
    for call in recipe(target)[1]:
        if call.startswith("sfrecsam train "):
            given, _ = parser.parse_known_args(call.split()[2:])
            TrainingConfig.from_yaml(MAKEFILE.parent / given.settings, train=given.train, validation=given.validation)


@pytest.mark.parametrize(("target", "part"), [("checkpoint", "runs/tiny-7"), ("retrain", "runs/retrain-3")])
def test_an_interrupted_recipe_goes_on(recipe, target, part):
    def trained(calls: list[str]) -> list[str]:
        return [call for call in calls if call.startswith("sfrecsam train")]

    status, first = recipe(target, killed=part)
    assert status != 0
    status, second = recipe(target)
    assert status == 0
    assert trained(second)[0] == trained(first)[-1] + " --resume"
    assert not any("--resume" in call for call in trained(first) + trained(second)[1:])
    assert not trained(recipe(target)[1])
