"""What is pushed comes back to somebody without this package, from an empty cache, with the same answers."""

import json

import numpy as np
import pytest
import torch
from conftest import scan, tiny_model
from huggingface_hub import HfApi
from safetensors.torch import load_file
from stranger import run_as_stranger

from sfrecsam_hf import segment
from sfrecsam_hf.modeling.configuration_sfrecsam import AUTO_MAP
from sfrecsam_hf.modeling.pipeline_sfrecsam import SFRecSamMaskGenerationPipeline

NAME = "org/sf-recsam-tiny"
CLICK = {"input_points": [[40, 30]], "mc_samples": 3}
GRID = {"points_per_crop": 3, "pred_iou_thresh": -9, "stability_score_thresh": 0, "crops_nms_thresh": 1}
LOAD = f"""
import json, numpy as np, torch, transformers
from transformers import pipeline

GRID = {GRID}
def load(auto, **options):
    return getattr(transformers, auto).from_pretrained("{NAME}", trust_remote_code=True, **options)

pipes = {{
    task: pipeline(task, model="{NAME}", trust_remote_code=True)
    for task in ("image-segmentation", "mask-generation", "lesion-segmentation")
}}
classes = {{auto: type(load(auto)).__name__ for auto in {[*AUTO_MAP, "AutoImageProcessor", "AutoProcessor"]}}}
model, processor = load("AutoModel"), load("AutoProcessor")
inputs = processor(["a.png", "b.png"], input_points=[[[40, 30]], None])
with torch.no_grad():
    logits = model(**inputs).pred_masks.numpy()
segments = pipes["image-segmentation"]("a.png")
found = pipes["lesion-segmentation"](["a.png", "b.png"], batch_size=2, **{CLICK})
masks = pipes["mask-generation"]("a.png", **GRID)
np.savez(
    "answers.npz",
    logits=logits,
    segments=[np.asarray(segment["mask"]) for segment in segments],
    mask=found[1]["mask"],
    initial_mask=found[1]["initial_mask"],
    uncertainty=found[1]["uncertainty"],
    masks=masks["masks"],
    scores=masks["scores"],
)
plain = {{name: found[1][name] for name in ("label", "score", "presence", "box", "measurements")}}
labels = [(segment["label"], segment["score"]) for segment in segments]
json.dump([classes, plain, labels], open("answers.json", "w"))
"""
ELSEWHERE = """
model.save_pretrained("again")
processor.save_pretrained("again")
for name, options in {"old": {"revision": "v1"}, "small": {"subfolder": "small"}}.items():
    load("AutoModel", **options).save_pretrained(name)
    load("AutoProcessor", **options).save_pretrained(name)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    for name, seed in (("a", 3), ("b", 4)):
        scan(60, 90, seed)[0].save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def pushed(hub, processor, tmp_path_factory):
    """A repository with an older version under a tag and another model in a subfolder."""
    tiny_model(mc_samples=0).push_to_hub(NAME)
    processor.push_to_hub(NAME)
    HfApi().create_tag(NAME, tag="v1")
    tiny_model().push_to_hub(NAME)
    small = tmp_path_factory.mktemp("small")
    tiny_model(correctors=("fp",)).save_pretrained(small)
    processor.save_pretrained(small)
    HfApi().upload_folder(repo_id=NAME, folder_path=small, path_in_repo="small", allow_patterns=["*.json", "*.safe*"])


@pytest.fixture(scope="module")
def said(hub, pushed, folder):
    """What a stranger's first use prints to stderr; the answers are files."""
    return run_as_stranger(hub, folder, LOAD + ELSEWHERE, OMP_NUM_THREADS="1").stderr


def answers(folder):
    return np.load(folder / "answers.npz"), *json.loads((folder / "answers.json").read_text())


def test_auto_classes_find_the_remote_code(said, folder):
    _, classes, _, _ = answers(folder)
    expected = {auto: name.split(".")[1] for auto, name in AUTO_MAP.items()}
    assert classes == {
        **expected,
        "AutoImageProcessor": "SFRecSamImageProcessorPil",
        "AutoProcessor": "SFRecSamProcessor",
    }


def test_model_and_processor_answer_as_here(said, folder, processor, one_thread):
    inputs = processor([folder / "a.png", folder / "b.png"], input_points=[[[40, 30]], None])
    with torch.no_grad():
        expected = tiny_model()(**inputs).pred_masks.numpy()
    np.testing.assert_allclose(answers(folder)[0]["logits"], expected, atol=1e-5)


def test_pipelines_answer_as_here(said, folder, processor, one_thread):
    got, _, plain, labels = answers(folder)
    model = tiny_model()
    (expected,) = segment(model, processor, [folder / "a.png"])
    np.testing.assert_array_equal(got["segments"], [expected.mask * np.uint8(255)])
    assert labels == [["lesion", pytest.approx(expected.score, abs=1e-5)]]
    click = {"input_points": CLICK["input_points"]}
    (expected,) = segment(model, processor, [(folder / "b.png", click)], mc_samples=CLICK["mc_samples"])
    np.testing.assert_array_equal(got["mask"], expected.mask * np.uint8(255))
    np.testing.assert_array_equal(got["initial_mask"], expected.initial_mask * np.uint8(255))
    np.testing.assert_allclose(got["uncertainty"], expected.uncertainty, atol=1e-5)
    assert plain["label"] == "lesion"
    assert plain["presence"] == pytest.approx(expected.presence, abs=1e-5)
    measured = expected.measurements()
    assert plain["box"] == plain["measurements"].pop("box") == measured.pop("box")
    assert plain["measurements"] == pytest.approx(measured, abs=1e-4)
    generator = SFRecSamMaskGenerationPipeline(model=model, image_processor=processor.image_processor)
    expected = generator(str(folder / "a.png"), **GRID)
    assert np.mean(got["masks"] != expected["masks"]) < 1e-4, "no more than single pixels, which round otherwise"
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=1e-5)
    assert len(got["masks"]) > 3


@pytest.mark.parametrize("noise", ["not supported", "deprecated", "Could not", "ERROR", "Warning"])
def test_nothing_alarming_is_said(said, noise):
    assert noise not in said


def test_what_a_stranger_saves_is_what_was_pushed(said, folder, hub):
    files = {path: content for path, content in hub.files(NAME).items() if "/" not in path and path != "README.md"}
    assert {path.name for path in (folder / "again").iterdir()} == files.keys()
    for path, content in files.items():
        if not path.endswith(".json"):
            assert (folder / "again" / path).read_bytes() == content, path
    saved = json.loads((folder / "again" / "config.json").read_text())
    assert saved.items() >= {"auto_map": AUTO_MAP, "model_type": "sfrecsam"}.items()
    assert saved["custom_pipelines"] == json.loads(files["config.json"])["custom_pipelines"]


def test_a_revision_and_a_subfolder_hold_other_models(said, folder):
    weights = {name: load_file(folder / name / "model.safetensors") for name in ("again", "old", "small")}
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in weights}
    assert [configs[name]["mc_samples"] for name in weights] == [2, 0, 2]
    assert [configs[name]["correctors"] for name in weights] == [["fp", "fn"], ["fp", "fn"], ["fp"]]
    assert weights["small"].keys() < weights["again"].keys()
    expected = tiny_model(correctors=("fp",)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in weights["small"].items())


def test_the_second_use_needs_no_hub(said, folder, hub):
    first = {name: (folder / name).read_bytes() for name in ("answers.npz", "answers.json")}
    for name in first:
        (folder / name).unlink()
    asked = len(hub.requests)
    run_as_stranger(hub, folder, LOAD, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    assert len(hub.requests) == asked
    got, *_ = answers(folder)
    (folder / "first.npz").write_bytes(first["answers.npz"])
    before = np.load(folder / "first.npz")
    for name in before:
        np.testing.assert_array_equal(got[name], before[name])
    assert (folder / "answers.json").read_bytes() == first["answers.json"]
