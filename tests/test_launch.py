"""The shipped accelerate files: every one launches training, and however the model is spread it learns the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from conftest import SAMPLES, WITHOUT_DROPOUT, short_run, tiny_model
from safetensors.torch import load_file

from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.cli import main

FILES = Path(__file__).resolve().parents[1] / "examples" / "accelerate"
# Half of what one step moves a weight: FSDP lays weights out differently, and sums round differently.
ROUNDING = 5e-4
# accelerate shards over GPUs only; told that these are some, it takes the same path over gloo.
FSDP_ON_CPU = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
from sfrecsam_hf.cli import main

sys.exit(main(sys.argv[1:]))
"""


def settings(folder: Path, output: Path, **changes) -> Path:
    """Written beside the output; two processes of two images each see what one sees of four."""
    chosen = {"epochs": 1, "ema_decay": 0.0, "overrides": WITHOUT_DROPOUT, **changes}
    short_run(folder, output, **chosen).to_yaml(output.with_suffix(".yaml"))
    return output.with_suffix(".yaml")


def launched(name: str, *command: str | Path) -> subprocess.CompletedProcess:
    """On a machine without a GPU, whatever this one has."""
    return subprocess.run(
        [Path(sys.executable).with_name("accelerate"), "launch", "--config_file", FILES / f"{name}.yaml", *command],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(busi_folder, tmp_path_factory) -> dict[str, torch.Tensor]:
    output = tmp_path_factory.mktemp("runs") / "alone"
    assert main(["train", str(settings(busi_folder, output, batch_size=4))]) == 0
    return load_file(output / "best" / "model.safetensors")


def assert_same(ours: dict[str, torch.Tensor], output: Path) -> None:
    theirs = load_file(output / "best" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=ROUNDING, msg=name)
    SFRecSamModel.from_pretrained(output / "best")


def test_two_launched_processes_equal_one_alone(alone, busi_folder, tmp_path):
    path = settings(busi_folder, tmp_path / "cpu", batch_size=2)
    done = launched("cpu", "-m", "sfrecsam_hf.cli", "train", str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 images (2 x 1 accumulated x 2 processes)" in done.stdout
    assert_same(alone, tmp_path / "cpu")


@pytest.mark.parametrize("name", ["single", "multi_gpu"])
def test_launched_processes_share_the_images(name, tiny_checkpoint, tmp_path, one_thread):
    images = tmp_path / "images"
    images.mkdir()
    for path in SAMPLES.glob("*[lr].png"):
        shutil.copy(path, images)
    (images / "broken.png").write_text("not an image")

    def predict(output: str) -> list[str]:
        inputs = ["predict", str(images), "--output", str(tmp_path / output), "--model", str(tiny_checkpoint)]
        return [*inputs, "--samples", "1", "--batch-size", "1"]

    assert main(predict("alone")) == 2
    done = launched(name, "-m", "sfrecsam_hf.cli", *predict("shared"))
    assert done.returncode != 0
    assert done.stdout.count("6 images segmented") == 1
    assert done.stderr.count("broken.png is not an image that Pillow can read") == 1
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert {path.name for path in alone.iterdir()} == {path.name for path in shared.iterdir()}
    for path in alone.iterdir():
        assert (shared / path.name).read_bytes() == path.read_bytes(), path.name


def test_spread_by_fsdp_equals_alone(alone, busi_folder, tmp_path):
    (tmp_path / "on_cpu.py").write_text(FSDP_ON_CPU)
    path = settings(busi_folder, tmp_path / "fsdp", batch_size=2)
    done = launched("fsdp", str(tmp_path / "on_cpu.py"), "train", str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FSDPSFRecSamModel" in done.stderr, "torch speaks of the classes that it has spread"
    assert_same(alone, tmp_path / "fsdp")


def test_fsdp_cuts_at_the_blocks_of_the_model():
    config = load_config_from_file(str(FILES / "fsdp.yaml")).fsdp_config
    names = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    model = tiny_model()
    assert names == list(SFRecSamModel._no_split_modules)
    assert set(names) <= {type(module).__name__ for module in model.modules()}


def test_an_average_is_refused_where_no_process_has_the_whole_model(busi_folder, tmp_path):
    (tmp_path / "on_cpu.py").write_text(FSDP_ON_CPU)
    path = settings(busi_folder, tmp_path / "fsdp", ema_decay=0.9)
    done = launched("fsdp", "--num_processes", "1", str(tmp_path / "on_cpu.py"), "train", str(path))
    assert done.returncode != 0
    assert "set ema_decay to 0" in done.stderr
    assert not (tmp_path / "fsdp").exists()


def test_every_shipped_file_is_launched_here():
    assert {path.stem for path in FILES.iterdir()} == {"single", "cpu", "multi_gpu", "fsdp"}
    for path in FILES.iterdir():
        load_config_from_file(str(path))
