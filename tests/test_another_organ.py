"""Another organ: the same commands, and what the masks outline is named by the data's settings, not by the code."""

import json

import numpy as np
import PIL.Image
import pytest
from transformers import pipeline

from sfrecsam_hf import SFRecSamConfig
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.inference.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Bright rings with filled masks, two images of each examination, as in HC18."""
    root = tmp_path_factory.mktemp("HC18")
    for name in ("images", "masks"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:70, :90]
    table = ["name,class,exam"]
    for index in range(20):
        y, x = rng.uniform(30, 40), rng.uniform(38, 52)
        inside = ((rows - y) / 20) ** 2 + ((columns - x) / 26) ** 2
        texture = np.kron(rng.normal(90, 50, (9, 12)), np.ones((8, 8)))[:70, :90]
        gray = np.where(np.abs(inside - 1) < 0.2, 220, texture) * rng.gamma(8, 1 / 8, inside.shape)
        name = f"{index:03d}_HC"
        PIL.Image.fromarray(gray.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        PIL.Image.fromarray(((inside < 1) * 255).astype(np.uint8)).save(root / "masks" / f"{name}.png")
        table.append(f"{name},fetal_head,{index // 2:03d}")
    (root / "index.csv").write_text("\n".join(table))
    return root


@pytest.fixture(scope="module")
def run(heads, tiny_checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("organ") / "run"
    named = ["--target", "fetal head", "--modality", "obstetric ultrasound"]
    start = ["--model", str(tiny_checkpoint), "--epochs", "1", "--correction-epochs", "0", "--batch-size", "4"]
    data = ["--train", str(heads), "--validation", str(heads)]
    assert main(["train", *data, *start, *named, "--output", str(output)]) == 0
    return output


def test_examinations_stay_on_one_side(heads):
    sides = [set(load_split(heads, split)["group"]) for split in ("train", "val")]
    assert all(sides)
    assert not set.intersection(*sides)


def test_the_pipeline_names_what_it_outlines(run, heads):
    model, _ = load_checkpoint(run / "best", "cpu")
    assert (model.config.target, model.config.id2label) == ("fetal head", {0: "background", 1: "fetal head"})
    segmenter = pipeline("lesion-segmentation", model=str(run / "best"), presence_threshold=0.0)
    assert segmenter(str(heads / "images" / "000_HC.png"))["label"] == "fetal head"


def test_the_card_tells_it(run, heads):
    options = ["--data", str(heads), "--split", "val", "--model", str(run / "best"), "--device", "cpu"]
    assert main(["evaluate", *options, "--samples", "1", "--output", str(run / "best")]) == 0
    assert main(["card", str(run / "best")]) == 0
    card = (run / "best" / "README.md").read_text()
    assert "# SF-RecSAM: fetal head segmentation in obstetric ultrasound" in card
    assert "breast" not in card.split("## Training data")[0].split("## Results")[0].lower()
    assert json.loads((run / "best" / "config.json").read_text())["modality"] == "obstetric ultrasound"


@pytest.mark.parametrize("target", ["", "background"])
def test_a_target_needs_a_name_of_its_own(target):
    with pytest.raises(ValueError, match="target="):
        SFRecSamConfig.tiny(target=target)
