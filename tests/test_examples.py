"""The examples: every command in their docstrings runs as it is written there, and does what it says."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLES
from datasets import Dataset
from safetensors.torch import load_file

from sfrecsam_hf import segment
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.visualization import contact_sheet, overlay

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INDEX = (EXAMPLES / "README.md").read_text()
SMALL = ["--epochs", "1", "--correction-epochs", "1", "--image-size", "64"]


def commands(script: str) -> list[list[str]]:
    """Those of the docstring that run the script."""
    text = ast.get_docstring(ast.parse((EXAMPLES / script).read_text()))
    found = [shlex.split(line) for line in text.splitlines() if re.match(r" +(python|accelerate) ", line)]
    assert found
    return found


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """What the commands need of a checkout, beside a folder of one's own; what they write stays here."""
    for name in ("examples", "space"):
        (tmp_path / name).symlink_to(EXAMPLES.parent / name)
    (tmp_path / "my_scans").mkdir()
    for path in SAMPLES.glob("*.png"):
        shutil.copy(path, tmp_path / "my_scans")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(checkout, monkeypatch, capsys):
    def python(command: list[str], *more: str) -> str:
        assert command[0] == "python"
        monkeypatch.setattr(sys, "argv", [*command[1:], *more])
        runpy.run_path(command[1], run_name="__main__")
        return capsys.readouterr().out

    return python


@pytest.fixture(scope="module")
def bundled():
    return load_checkpoint()


def same_picture(path: Path, picture: PIL.Image.Image) -> bool:
    return np.array_equal(np.asarray(PIL.Image.open(path)), np.asarray(picture))


def test_predict_with_prompts(run, checkout, tiny_checkpoint):
    """With a model that every prompt moves, so that one left out would be seen."""
    scan = SAMPLES / "bus_0180-l.png"
    click, box, both = commands("predict_with_prompts.py")
    for command, prompts in (
        (click, {"input_points": [[100.0, 100.0]], "input_labels": [1]}),
        (box, {"input_boxes": [[30.0, 35.0, 180.0, 165.0]]}),
        (both, {"input_points": [[100.0, 100.0], [20.0, 250.0]], "input_labels": [1, 0]}),
    ):
        run(command, "--model", str(tiny_checkpoint))
        alone, prompted = segment(*load_checkpoint(tiny_checkpoint), [scan, (scan, prompts)])
        assert not np.array_equal(alone.mask, prompted.mask)
        tiles = [overlay(PIL.Image.open(scan), found.mask) for found in (alone, prompted)]
        assert same_picture(Path("prompted.png"), contact_sheet(tiles, ["by itself", "prompted"], columns=2))


def test_a_prompt_must_be_given(run, capsys):
    with pytest.raises(SystemExit):
        run(commands("predict_with_prompts.py")[0][:3])
    assert "give --click or --box" in capsys.readouterr().err


def test_fine_tune(run, checkout, tiny_checkpoint):
    printed = run(commands("fine_tune.py")[0], *SMALL, "--model", str(tiny_checkpoint))
    assert re.findall(r"(before|after): Dice [\d.]+ on \d+ held-out lesions", printed) == ["before", "after"]
    weights = load_file("runs/mine/best/model.safetensors")
    known = load_file(tiny_checkpoint / "model.safetensors")
    assert any(not np.array_equal(value, known[name]) for name, value in weights.items())
    load_checkpoint("runs/mine/best")


@pytest.mark.slow
def test_fine_tuning_starts_from_what_the_bundled_checkpoint_knows(run, checkout):
    printed = run(commands("fine_tune.py")[0], *SMALL)
    (before,) = re.findall(r"before: Dice ([\d.]+)", printed)
    assert float(before) > 0.8


@pytest.mark.slow
def test_fine_tune_on_two_processes(checkout, tiny_checkpoint):
    launched = commands("fine_tune.py")[1]
    done = subprocess.run(
        [Path(sys.executable).with_name(launched[0]), *launched[1:], *SMALL, "--model", tiny_checkpoint],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "x 2 processes)" in done.stdout
    assert done.stdout.count("after: Dice") == 1
    load_checkpoint("runs/mine-on-two/best")


def test_correct_another_segmenter(run, checkout):
    plain, settings = commands("correct_another_segmenter.py")
    printed = run(plain)
    for group in ("trained", "held out"):
        before, after = map(
            float, re.search(rf"{group}: mean Dice of \d images ([\d.]+) -> ([\d.]+)", printed).groups()
        )
        assert 0.2 < before < after, "images of this group"
    Path("corrected.png").unlink()
    run(settings, "--steps", "2")
    assert PIL.Image.open("corrected.png").size == (4 * 256, 3 * 272)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(checkout, bundled):
    notebook = nbformat.read(EXAMPLES / "sf_recsam.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), "committed bare"
    resources = {"metadata": {"path": str(checkout)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    rows = Dataset.from_dict({"path": sorted(str(path) for path in SAMPLES.glob("*[lr].png"))})
    truths = [np.asarray(PIL.Image.open(path.replace(".png", "_mask.png"))) > 0 for path in rows["path"]]
    found = segment(*bundled, rows["path"])
    dice = [overlap(answer.mask, truth)["dice"] for answer, truth in zip(found, truths, strict=True)]
    assert f"mean Dice of 6 images: {np.mean(dice):.3f}" in printed


def test_the_index_names_every_example_with_its_first_command():
    linked = set(re.findall(r"\]\(([\w./-]+)\)", INDEX))
    assert all((EXAMPLES / name).exists() for name in linked)
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} <= linked
    assert {f"accelerate/{path.name}" for path in (EXAMPLES / "accelerate").iterdir()} <= linked
    for script, command in re.findall(r"\[([\w.]+)\]\([\w.]+\) \| `(python [^`]+)`", INDEX):
        assert shlex.split(command) == commands(script)[0]


def test_examples_are_few_and_share_one_module():
    scripts = [path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert len(scripts) <= 15
    names = {path.stem for path in scripts}
    for script in EXAMPLES.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert module not in names - {"tables"}, f"{script.name} imports {module}"
