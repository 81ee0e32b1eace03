"""The built package: installed alone, with nothing but what it declares for inference, it predicts as here."""

import importlib.metadata
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLES
from hatchling.build import build_editable
from packaging.requirements import Requirement

from sfrecsam_hf import segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCAN = SAMPLES / "bus_0180-l.png"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The `bin` folder of an environment with the wheel and the packages that its inference declares, and no other."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    for name in _with_their_own(_requirements(metadata)):
        package = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():  # namespace packages are shared
                (site / top).symlink_to(package.locate_file(top))
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def _requirements(metadata: str) -> list[str]:
    lines = metadata.split("\n\n")[0].splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]


def _with_their_own(declared: list[str]) -> set[str]:
    """The names of what is declared without an extra, and of everything that those need in turn."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in declared]
    while waiting:
        wanted = waiting.pop()
        if wanted.name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(wanted.name)
        waiting += map(Requirement, importlib.metadata.requires(wanted.name) or ())
    return found


def test_everything_that_git_knows_of_the_package_is_in_it(wheel):
    known = subprocess.run(
        ["git", "ls-files", "src", "hub_card", "space"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = {
        name.removeprefix("src/") if name.startswith("src/") else f"sfrecsam_hf/{name}"
        for name in known
        if not name.startswith(("space/screenshots", "space/panning"))
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("sfrecsam_hf/")}
    assert packed == expected
    assert "sfrecsam_hf/py.typed" in packed


def test_it_predicts_as_here(bare, tmp_path):
    done = subprocess.run(
        [bare / "sfrecsam", "predict", SCAN, "--output", tmp_path / "out", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = segment(*load_checkpoint(device="cpu"), [SCAN])
    (written,) = (tmp_path / "out").rglob("*mask*.png")
    assert np.array_equal(np.asarray(PIL.Image.open(written)) > 0, found.mask)


def test_it_loads_with_from_pretrained_and_lies_outside_the_checkout(bare, tmp_path):
    code = """
import json, sys, sfrecsam_hf, transformers
from sfrecsam_hf.inference.bundled import bundled_checkpoint, bundled_space
model = transformers.AutoModel.from_pretrained(bundled_checkpoint())
processor = transformers.AutoProcessor.from_pretrained(bundled_checkpoint())
extras = sorted({"datasets", "gradio", "matplotlib", "monai", "onnx", "pydicom"} & {*sys.modules})
print(json.dumps([type(model).__name__, sfrecsam_hf.__file__, str(bundled_space()), extras]))
"""
    done = subprocess.run(
        [bare / "python", "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, file, space, extras = json.loads(done.stdout.splitlines()[-1])
    assert (name, extras) == ("SFRecSamModel", [])
    assert all(str(bare.parent) in path for path in (file, space))


def test_a_job_whose_extra_is_missing_names_it(bare, tmp_path):
    done = subprocess.run(
        [bare / "sfrecsam", "evaluate", "--data", SAMPLES, "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "sfrecsam: datasets is missing; run `pip install 'sfrecsam-hf[train]'`."


def test_a_checkout_is_installed_editable(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(path).decode().split() == [str(ROOT / "src")]
