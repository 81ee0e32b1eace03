"""The house: a room imports only from rooms below it, nothing imports in circles, `modeling/` travels to the Hub."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import tiny_model

import sfrecsam_hf
from sfrecsam_hf import SFRecSamImageProcessor, SFRecSamProcessor

PACKAGE = Path(sfrecsam_hf.__file__).parent
ROOMS = [
    "modeling",
    "data",
    "inference",
    "evaluation",
    "training",
    "publishing",
    "",
]  # "": cli.py, commands.py and registration.py
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
TRAVELS = {path.name for path in (PACKAGE / "modeling").glob("*.py")} - {"__init__.py"}
MAY_IMPORT = {"torch", "numpy", "PIL", "transformers", "huggingface_hub", "safetensors"}


def room(module: str) -> str:
    return module.rpartition("/")[0]


def imported(module: str) -> set[str]:
    """The package's modules that one imports, at any depth in its code, in a function or for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = [*module.split("/")[: -node.level], *(node.module or "").split(".")]
            base = "/".join(part for part in parts if part)
            inside = {f"{base}/{alias.name}".lstrip("/") for alias in node.names} & MODULES.keys()
            found |= inside or {base if base in MODULES else f"{base}/__init__".lstrip("/")}
    return found - {"__init__"}


IMPORTS = {module: imported(module) for module in MODULES if module != "__init__"}


def test_the_walk_sees_imports():
    assert "modeling/pipeline_sfrecsam" in IMPORTS["modeling/modeling_sfrecsam"], "for type checkers"
    assert "training/trainer" in IMPORTS["commands"], "in a function"
    assert "modeling/segmentation" in IMPORTS["inference/predict"], "from another room"


def test_rooms_are_those_of_the_plan():
    assert {room(module) for module in MODULES} == {*ROOMS}


@pytest.mark.parametrize("module", IMPORTS)
def test_a_room_imports_only_from_rooms_below_it(module):
    allowed = ROOMS[: ROOMS.index(room(module)) + 1]
    above = {other for other in IMPORTS[module] if room(other) not in allowed}
    assert not above, f"{module} imports from above"


def test_nothing_imports_in_circles():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", sorted(TRAVELS))
def test_what_travels_imports_siblings_and_what_every_hub_user_has(name):
    tree = ast.parse((PACKAGE / "modeling" / name).read_text())
    may_be_missing = {inside for node in ast.walk(tree) if isinstance(node, ast.Try) for inside in ast.walk(node)}
    for node in set(ast.walk(tree)) - may_be_missing:
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module, "`from . import x` does not travel"
            assert "." not in node.module
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            outside = {module.split(".")[0] for module in names} - MAY_IMPORT
            assert outside <= sys.stdlib_module_names, outside


def test_exactly_the_files_of_modeling_are_pushed(hub, tmp_path):
    processor = SFRecSamProcessor(SFRecSamImageProcessor(image_size=64))
    for something, folder in ((tiny_model(), tmp_path / "model"), (processor, tmp_path / "processor")):
        something.save_pretrained(folder)
    assert {path.name for path in (tmp_path / "model").glob("*.py")} == TRAVELS
    assert {path.name for path in (tmp_path / "processor").glob("*.py")} <= TRAVELS
    tiny_model().push_to_hub("org/rooms")
    processor.push_to_hub("org/rooms")
    assert {name for name in hub.files("org/rooms") if name.endswith(".py")} == TRAVELS
