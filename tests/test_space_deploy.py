"""The Space as its README deploys it: uploaded to a Hub, and started from what lies there, with what it asks for."""

import compileall
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import gradio
import numpy as np
import PIL.Image
import pytest
from gradio_client import Client, handle_file
from huggingface_hub import HfApi, SpaceCard, snapshot_download
from packaging.requirements import Requirement
from stranger import bare_environment

from sfrecsam_hf import segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.bundled import bundled_space
from sfrecsam_hf.inference.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "space"
SAMPLE = SPACE / "samples" / "bus_0180-l.png"
MODEL = "org/model-of-the-space"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def requirements(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def with_dependencies(wanted: list[str]) -> set[str]:
    """Names of the installed distributions that `pip install` of these would bring."""
    found, open_ends = set(), [(Requirement(line), "") for line in wanted]
    while open_ends:
        requirement, extra = open_ends.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            brought = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        for chosen in requirement.extras or {""}:
            key = f"{brought.name.lower()}[{chosen}]"
            if key not in found:
                found.add(key)
                open_ends += [(Requirement(line), chosen) for line in brought.requires or []]
    return {key.split("[")[0] for key in found}


@pytest.fixture(scope="module")
def staged(hub, tiny_checkpoint, tmp_path_factory):
    """The Space's repository after the README's commands, and a checkpoint on the same Hub."""
    folder = tmp_path_factory.mktemp("deployed")
    environment = {**os.environ, **hub.environment(folder / "home")}
    api = HfApi(hub.endpoint, hub.token)
    api.create_repo(MODEL, exist_ok=True)
    api.upload_folder(repo_id=MODEL, folder_path=tiny_checkpoint)
    for used in ("space", "src"):  # as a checkout looks that was worked in
        shutil.copytree(ROOT / used, folder / "checkout" / used)
    assert compileall.compile_dir(folder / "checkout", quiet=1)
    commands = re.findall(r"^hf upload .*$", (SPACE / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        program = Path(sys.executable).with_name(program)
        subprocess.run([program, *arguments], cwd=folder / "checkout", env=environment, check=True)
    name = shlex.split(commands[0])[2]
    snapshot_download(name, repo_type="space", local_dir=folder / "space", endpoint=hub.endpoint, token=hub.token)
    return folder / "space"


@pytest.fixture(scope="module")
def libraries(staged, tmp_path_factory):
    """A folder with the installed packages that the Space's `requirements.txt` and its SDK bring, and no others."""
    folder = tmp_path_factory.mktemp("libraries")
    sdk = SpaceCard.load(staged / "README.md").data
    for name in with_dependencies([f"{sdk.sdk}=={sdk.sdk_version}", *requirements(staged / "requirements.txt")]):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files if not file.parts[0].startswith((".", "__"))}:
            link = folder / top
            if not link.exists():
                link.symlink_to(found.locate_file(top))
    return folder


@pytest.fixture
def start(staged, libraries, hub, tmp_path):
    """Starts `app.py` where nothing but the Space's own files and libraries can be imported."""
    running = []

    def started(**variables):
        more = {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1", **variables}
        process = subprocess.Popen(
            [sys.executable, "-S", "app.py"],
            cwd=staged,
            env=bare_environment(hub, tmp_path / "home", libraries, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def address(process) -> str:
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"http://\S+:\d+", line):
            return found[0]
    raise AssertionError("".join(said))


def test_the_repository_holds_the_space_the_package_and_nothing_else(staged):
    assert {
        "README.md",
        "app.py",
        "page.css",
        "viewer.html",
        "viewer.js",
        "requirements.txt",
        "samples",
        "sfrecsam_hf",
    } <= {path.name for path in staged.iterdir()}
    files = [path for path in staged.rglob("*") if path.is_file() and ".cache" not in path.parts]
    kinds = {path.suffix for path in files}
    assert kinds <= {".py", ".md", ".txt", ".png", ".css", ".html", ".js", ".typed", ".gitattributes"}
    assert all(path.stat().st_size < 400_000 for path in files)


def test_it_runs_there_with_a_checkpoint_of_the_hub_and_leaves_nothing(start, tiny_checkpoint, tmp_path):
    process = start(SFRECSAM_MODEL=MODEL)
    client = Client(address(process), download_files=str(tmp_path / "downloads"), verbose=False)
    mask, _ = client.predict(handle_file(str(SAMPLE)), api_name="/segment")
    wanted = next(segment(*load_checkpoint(tiny_checkpoint, "cpu"), [str(SAMPLE)]))
    assert np.array_equal(np.asarray(PIL.Image.open(mask)) > 0, wanted.mask)
    assert list(tmp_path.glob("sfrecsam-*"))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait() == 0
    assert not list(tmp_path.glob("sfrecsam-*"))


def test_without_a_checkpoint_it_says_how_to_name_one(start):
    process = start()
    said = process.stdout.read()
    assert process.wait() != 0
    assert "SFRECSAM_MODEL" in said.splitlines()[-1]


def test_the_demo_command_names_what_cannot_be_loaded(capsys):
    assert main(["demo", "--model", "no/such/folder"]) == 2
    assert re.fullmatch(r"sfrecsam: no/such/folder is neither a folder .*\n", capsys.readouterr().err)


def test_the_header_is_one_that_a_space_takes():
    header = SpaceCard.load(SPACE / "README.md").data
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (header.sdk, header.sdk_version) == ("gradio", gradio.__version__)
    assert (SPACE / header.app_file).is_file()
    assert {header.colorFrom, header.colorTo} <= COLOURS
    assert len(header.short_description) <= 60
    assert header.license == project["license"].lower()
    assert project["requires-python"] == f">={header.python_version}"


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {*project["dependencies"], *extras["plot"], *extras["dicom"], *extras["formats"], *extras["video"]}
    assert set(requirements(SPACE / "requirements.txt")) <= known


def test_samples_come_with_their_licence():
    assert bundled_space() == SPACE
    for sample in (SPACE / "samples").glob("*.png"):
        assert sample.stat().st_size < 100_000
    assert "BUS-BRA" in (SPACE / "samples" / "LICENSE.txt").read_text()
