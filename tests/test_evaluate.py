"""`sfrecsam evaluate`: figures that another library confirms, prompts that are never mixed, and switches that act."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from sfrecsam_hf.cli import main
from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.evaluation.evaluate import evaluate, table
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.segmentation import segment

SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"
OPTIONS = {"mc_samples": 2, "presence_threshold": 0.0, "suspicion_threshold": 0.5}


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def samples():
    return load_folder(SAMPLES)


@pytest.fixture(scope="module")
def results(loaded, samples):
    return evaluate(*loaded, samples, quiet=True, **OPTIONS)[0]


def test_figures_of_each_image(loaded, samples, results):
    rows = [row for row in results["per_image"] if row["column"] == "auto"]
    for sample, found, row in zip(samples, segment(*loaded, samples["image"], **OPTIONS), rows, strict=True):
        true = np.asarray(sample["mask"]) > 0
        for name, mask in (("initial", found.initial_mask), ("final", found.mask)):
            for metric, reference in (
                ("dice", f1_score),
                ("iou", jaccard_score),
                ("precision", precision_score),
                ("recall", recall_score),
            ):
                expected = reference(true.ravel(), mask.ravel(), zero_division=0)
                assert row[name][metric] == pytest.approx(expected), metric
            if mask.any():
                pair = [torch.from_numpy(x)[None, None].float() for x in (mask, true)]
                expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
                assert row[name]["hd95"] == pytest.approx(float(expected))


def test_means_and_intervals(results):
    for column, summary in results["columns"].items():
        rows = [row for row in results["per_image"] if row["column"] == column]
        for mask in ("initial", "final"):
            dice = summary[mask]["lesion"]["dice"]
            assert dice["mean"] == pytest.approx(np.mean([row[mask]["dice"] for row in rows]))
            assert dice["low"] <= dice["mean"] <= dice["high"]
            sizes = [summary[mask][name]["images"] for name in ("small", "medium", "large")]
            assert sum(sizes) == len(rows)


def test_the_oracle_point_is_in_its_own_column_only(loaded, samples, results):
    auto, _ = evaluate(*loaded, samples, columns=["auto"], quiet=True, **OPTIONS)
    assert set(auto["columns"]) == {"auto"}
    again = [row for row in results["per_image"] if row["column"] == "auto"]
    assert auto["per_image"] == again
    oracle = [row for row in results["per_image"] if row["column"] == "oracle-point"]
    assert [row["final"] for row in oracle] != [row["final"] for row in again]


def test_without_correctors_nothing_is_corrected(loaded, samples):
    results, _ = evaluate(*loaded, samples, columns=["auto"], quiet=True, **OPTIONS | {"correctors": ()})
    for row in results["per_image"]:
        assert row["initial"] == row["final"]


def test_normals_are_told_apart(loaded, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    for name in ("bus_0160-l", "bus_0180-l"):
        image = PIL.Image.open(SAMPLES / f"{name}.png")
        image.save(source / f"{name}.png")
        mask = PIL.Image.open(SAMPLES / f"{name}_mask.png")
        if name == "bus_0180-l":
            mask = PIL.Image.new("L", image.size)
        mask.save(source / f"{name}_mask.png")
    everything_absent = OPTIONS | {"presence_threshold": 1.0}
    results, _ = evaluate(*loaded, load_folder(source), columns=["auto"], quiet=True, **everything_absent)
    summary = results["columns"]["auto"]
    assert summary["normal"] == {"images": 1, "false_positive_rate": 0.0, "mean_area_fraction": 0.0}
    assert summary["final"]["lesion"]["images"] == 1
    assert summary["final"]["lesion"]["dice"]["mean"] == 0
    assert summary["presence"]["sensitivity"] == 0


def test_unknown_column(loaded, samples):
    with pytest.raises(ValueError, match="oracle-point"):
        evaluate(*loaded, samples, columns=["oracle"])


def test_the_command_writes_a_report(tiny_checkpoint, tmp_path, capsys):
    arguments = ["evaluate", "--data", SAMPLES, "--output", tmp_path, "--model", tiny_checkpoint, "--samples", "1"]
    assert main([str(argument) for argument in arguments]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == 6
    assert table(results) in capsys.readouterr().out
    assert (tmp_path / "results.md").read_text().strip() == table(results)
    for picture in ("worst.png", "reliability.png"):
        assert PIL.Image.open(tmp_path / picture).size[0] > 200


def test_the_command_refuses_an_empty_folder(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    arguments = ["evaluate", "--data", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_checkpoint]
    assert main([str(argument) for argument in arguments]) == 2
    assert str(tmp_path / "in") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
