"""The code beside a checkpoint is whole, and each of its imports survives the trip to the Hub."""

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import tiny_model
from transformers.dynamic_module_utils import get_relative_imports

from sfrecsam_hf.modeling import pipeline_sfrecsam
from sfrecsam_hf.modeling.pipeline_sfrecsam import LesionSegmentationPipeline, SFRecSamMaskGenerationPipeline

# transformers flattens the folder, so that a module may import its siblings and what every user of it has installed.
LIBRARIES = {"torch", "numpy", "transformers", "huggingface_hub", "PIL", "safetensors"}


def lost_imports(folder: Path) -> list[str]:
    """What transformers would not find again, as `file: import`."""
    lost = []
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                absolute, relative = [alias.name for alias in node.names], []
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                absolute, relative = [node.module], []
            elif isinstance(node, ast.ImportFrom):
                absolute, relative = [], ["." * node.level + (node.module or "")]
            else:
                continue
            absolute = [name for name in absolute if name.split(".")[0] not in LIBRARIES | sys.stdlib_module_names]
            relative = [name for name in relative if not (folder / f"{name[1:]}.py").is_file() or "." in name[1:]]
            lost += [f"{file.name}: {name}" for name in absolute + relative]
        # It looks for imports with a regular expression, in docstrings too.
        lost += [
            f"{file.name}: .{name}" for name in get_relative_imports(file) if not (folder / f"{name}.py").is_file()
        ]
    return lost


@pytest.fixture(scope="module")
def pushed(hub, processor, tmp_path_factory):
    """The pushed repository as a folder."""
    tiny_model().push_to_hub("org/code")
    processor.push_to_hub("org/code")
    folder = tmp_path_factory.mktemp("pushed")
    for path, content in hub.files("org/code").items():
        (folder / path).write_bytes(content)
    return folder


def test_every_import_survives(pushed):
    assert lost_imports(pushed) == []


@pytest.mark.parametrize(
    ("line", "reported"),
    {
        "from sfrecsam_hf.modeling.prompts import ABSENT": "sfrecsam_hf.modeling.prompts",
        "import scipy": "scipy",
        "def late():\n    from matplotlib import pyplot": "matplotlib",
        "from . import prompts": ".",
        "from .parts.prompts import ABSENT": ".parts.prompts",
        "from ..prompts import ABSENT": "..prompts",
        "from .not_there import ABSENT": ".not_there",
        '"""\nfrom .in_a_docstring import ABSENT\n"""': ".in_a_docstring",
    }.items(),
)
def test_an_import_that_would_not_survive_is_found(pushed, tmp_path, line, reported):
    shutil.copytree(pushed, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "coarse_mask.py").open("a") as file:
        file.write(f"\n{line}\n")
    assert f"coarse_mask.py: {reported}" in lost_imports(tmp_path)


def test_every_class_that_a_file_names_is_there(pushed):
    config = json.loads((pushed / "config.json").read_text())
    processor = json.loads((pushed / "processor_config.json").read_text())
    named = [
        *config["auto_map"].values(),
        *(pipeline["impl"] for pipeline in config["custom_pipelines"].values()),
        *processor["auto_map"].values(),
        *processor["image_processor"]["auto_map"]["AutoImageProcessor"],
    ]
    assert len(named) == 11
    for name in named:
        module, cls = name.split(".")
        defined = {
            node.name for node in ast.parse((pushed / f"{module}.py").read_text()).body if hasattr(node, "name")
        }
        assert cls in defined, name


def test_no_more_code_than_needed(pushed):
    """A stranger reads what he trusts: nothing of training, data and the command line."""
    modules = {path.stem for path in pushed.glob("*.py")}
    room = Path(pipeline_sfrecsam.__file__).parent
    assert modules == {path.stem for path in room.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("pipeline", [LesionSegmentationPipeline, SFRecSamMaskGenerationPipeline])
def test_a_pushed_pipeline_is_the_same_repository(hub, pushed, processor, pipeline):
    name = f"org/{pipeline.__name__}"
    pipeline(model=tiny_model(), image_processor=processor.image_processor).push_to_hub(name)
    files = hub.files(name)
    assert hub.messages(name) == [f"Upload {pipeline.__name__}", "initial commit"]
    expected = {path.name: path.read_bytes() for path in pushed.iterdir()}
    assert files.keys() == expected.keys()
    for path in expected.keys() - {"README.md"}:
        assert files[path] == expected[path], path
