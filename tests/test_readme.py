"""The README: short, its numbers are those of the bundled results, and its code and commands run as printed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from conftest import SAMPLES

from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.bundled import bundled_checkpoint
from sfrecsam_hf.publishing.readme_table import readme_table, write_readme_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SHORT = {  # what makes a command of the README cheap: the model and the settings change, the command does not
    "train": ["--epochs", "1", "--correction-epochs", "1", "--batch-size", "2", "--overlays", "0"],
    "evaluate": ["--samples", "1", "--device", "cpu"],
    "predict": ["--device", "cpu"],
    "data": [],
    "push": [],
}


def commands(language: str = "bash") -> list[list[str]]:
    """Those of the code blocks, without their comments."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def checkout(tmp_path, monkeypatch, tiny_checkpoint):
    """The top of a checkout with the tiny model as its bundled checkpoint, and `images/` in it."""
    (tmp_path / "space").symlink_to(ROOT / "space")
    (tmp_path / "hub_card").symlink_to(tiny_checkpoint)
    (tmp_path / "images").mkdir()
    for path in SAMPLES.glob("*.png"):
        shutil.copy(path, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sfrecsam_hf.inference.checkpoints.bundled_checkpoint", lambda: tiny_checkpoint)
    return tmp_path


def test_it_is_short():
    assert len(README.split()) <= 1000


def test_numbers_are_those_of_the_bundled_results(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README)
    write_readme_table(copy, bundled_checkpoint())
    assert copy.read_text() == README, "run `sfrecsam card hub_card --readme README.md`"


def test_each_data_set_has_a_row_beside_its_baseline(tmp_path):
    def results(name, dice):
        lesion = {"images": 7, "dice": {"mean": dice, "low": dice - 0.1, "high": dice + 0.1}}
        columns = {
            "auto": {"final": {"lesion": lesion}, "found": {"final": {"iou_50": {"share": 0.9}}}},
            "oracle-point": {"final": {"lesion": lesion}},
        }
        return json.dumps({"data": name, "columns": columns})

    (tmp_path / "other").mkdir()
    (tmp_path / "results.json").write_text(results("BUSI", 0.8))
    (tmp_path / "other" / "results.json").write_text(results("OTHER", 0.7))
    (tmp_path / "other" / "baseline.json").write_text('{"name": "U-Net", "dice": 0.6, "low": 0.5, "high": 0.7}')
    assert readme_table(tmp_path).splitlines()[2:] == [
        "| BUSI | 7 | **0.800 (0.700 to 0.900)** | – | 90 % | 0.800 |",
        "| OTHER | 7 | **0.700 (0.600 to 0.800)** | 0.600 (0.500 to 0.700) U-Net | 90 % | 0.700 |",
    ]


def test_a_text_without_a_place_for_results_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="<!-- results -->"):
        write_readme_table(tmp_path / "README.md", bundled_checkpoint())


def test_the_python_blocks_run_on_the_bundled_checkpoint(tmp_path):
    for name in ("hub_card", "space"):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    mask = PIL.Image.open(tmp_path / "mask.png")
    assert mask.size == PIL.Image.open(SAMPLES / "bus_0180-l.png").size
    assert mask.getextrema() == (0, 255)


def test_the_commands_run_one_after_the_other(checkout, hub):
    ran = set()
    for command in commands():
        if command[0] == "sfrecsam" and command[1] != "demo":  # which serves until it is stopped
            assert main([*command[1:], *SHORT[command[1]]]) == 0, command
            ran.add(command[1])
    assert ran == SHORT.keys()
    assert Path("outlined/predictions.csv").is_file()
    assert "model.safetensors" in hub.files("org/mine")
    assert hub.repositories["models", "org/mine"].private


def test_every_file_and_target_that_is_named_exists():
    for name in re.findall(r"\]\(([\w./-]+)\)|`((?:hub_card|space|examples)/[\w./-]+\w)`", README):
        assert (ROOT / (name[0] or name[1])).exists(), name
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([\w-]+)", README):
        assert re.search(rf"^{target}:", targets, flags=re.MULTILINE), target


def test_what_is_evaluated_was_not_trained_on(checkout):
    train, evaluate = (next(line for line in commands() if line[1:2] == [job]) for job in ("train", "evaluate"))
    assert main([*train[1:], *SHORT["train"]]) == 0
    assert main([*evaluate[1:], *SHORT["evaluate"]]) == 0
    results = json.loads(Path("runs/mine/evaluation/results.json").read_text())
    assert results["images"] < 6
