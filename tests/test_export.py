"""Promise: the exported files answer as the model does, at any batch size, with the Fourier transform inside."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from conftest import SAMPLES

from sfrecsam_hf import segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.export import ANSWER, GRAPHS, TOLERANCE, example_inputs, run_onnx, settled
from sfrecsam_hf.modeling import scan_frame, tidying
from sfrecsam_hf.modeling.frequency_fusion import FrequencyFilter
from sfrecsam_hf.modeling.modeling_sfrecsam import SFRecSamModel


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", str(tiny_checkpoint), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return SFRecSamModel.from_pretrained(tiny_checkpoint).eval()


def test_command_writes_every_graph_in_both_formats(exported):
    assert {path.name for path in exported.iterdir()} == {
        f"{name}.{kind}" for name in GRAPHS for kind in ("onnx", "pt2")
    }


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 4, 17])
def test_automatic_graph_agrees_with_the_model(exported, loaded, batch):
    inputs = example_inputs(loaded, batch, seed=batch)
    outputs = loaded(inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
    given = run_onnx(exported / "automatic.onnx", {name: inputs[name] for name in ("pixel_values", "pixel_mask")})
    answer = dict(zip(ANSWER, given, strict=True))
    sure = settled(answer, loaded.config)
    assert sure[..., :28, :].mean() > 0.95
    assert abs(answer["probability"] - outputs.pred_masks[:, 0].sigmoid().numpy())[sure].max() < TOLERANCE
    assert abs(answer["initial_probability"] - outputs.initial_masks[:, 0].sigmoid().numpy()).max() < TOLERANCE
    assert abs(answer["uncertainty"] - outputs.predictive_entropy[:, 0].numpy()).max() < TOLERANCE
    assert abs(answer["presence"] - outputs.presence_logits.sigmoid().numpy()).max() < TOLERANCE
    assert answer["probability"].std() > 0


@torch.no_grad()
def test_encoder_then_decoder_answer_a_given_box(exported, loaded):
    inputs = example_inputs(loaded, 3, seed=5)
    names = GRAPHS["encoder"].inputs
    embeddings = run_onnx(exported / "encoder.onnx", {name: inputs[name] for name in names})
    handed_on = dict(zip(GRAPHS["encoder"].outputs, map(torch.from_numpy, embeddings), strict=True))
    handed_on["valid_region"] = handed_on["valid_region"].bool()
    given = run_onnx(exported / "decoder.onnx", {**handed_on, "boxes": inputs["boxes"]})
    expected = loaded(
        inputs["pixel_values"], pixel_mask=inputs["pixel_mask"], input_boxes=inputs["boxes"][:, None]
    ).pred_masks[:, 0]
    sure = settled(dict(zip(ANSWER, given, strict=True)), loaded.config)
    assert abs(given[0] - expected.sigmoid().numpy())[sure].max() < TOLERANCE


EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "onnx_without_torch.py"
# None in the place of a module makes its import fail.
WITHOUT_TORCH = """
import runpy
import sys

sys.modules |= dict.fromkeys(("torch", "transformers"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_image_files_are_segmented_without_torch(exported, tiny_checkpoint, tmp_path):
    taken_along = tmp_path / "alone" / "sfrecsam_hf" / "modeling"
    taken_along.mkdir(parents=True)
    for package in (taken_along, taken_along.parent):
        (package / "__init__.py").touch()
    for module in (scan_frame, tidying):
        shutil.copy(module.__file__, taken_along)
    scans = sorted(SAMPLES.glob("*[lr].png"))
    tall = tmp_path / "tall.png"
    PIL.Image.open(scans[0]).crop((40, 0, 160, 250)).save(tall)
    framed = tmp_path / "framed.png"
    PIL.ImageOps.expand(PIL.Image.open(scans[0]).convert("L"), (30, 20, 50, 10), 0).save(framed)
    images = [*scans, tall, framed]
    command = [sys.executable, "-c", WITHOUT_TORCH, EXAMPLE, exported, *images, "--output", tmp_path / "masks"]
    environment = {**os.environ, "PYTHONPATH": str(taken_along.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "8 images, " in done.stdout.splitlines()[-1]
    for image, found in zip(images, segment(*load_checkpoint(tiny_checkpoint), images), strict=True):
        mask = np.asarray(PIL.Image.open(tmp_path / "masks" / f"{image.stem}_mask.png"))
        assert mask.shape == found.mask.shape
        assert (mask != found.mask).mean() < 0.01
        said = f"{image.stem}_mask.png: lesion with probability {found.presence:.2f}, {mask.sum()} pixels"
        assert said in done.stdout


def test_the_fourier_transform_is_in_the_graph(exported):
    model = onnx.load(exported / "automatic.onnx")
    operators = {node.op_type for graph in (model.graph, *model.functions) for node in graph.node}
    assert "DFT" in operators


@torch.no_grad()
def test_response_is_over_the_radius_that_the_transform_has():
    filter_ = FrequencyFilter(2)
    filter_.curve.copy_(torch.randn(2, 16))
    for height, width in ((8, 8), (7, 10), (9, 5)):
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        place = (rows**2 + columns**2).sqrt() * 2**0.5 * 15
        below = place.long().clamp(max=14)
        expected = 1 + torch.lerp(filter_.curve[:, below], filter_.curve[:, below + 1], place - below)
        torch.testing.assert_close(filter_.response(height, width), expected, atol=1e-5, rtol=1e-5)
