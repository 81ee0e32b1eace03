"""`sfrecsam evaluate`: figures that another library confirms, prompts that are never mixed, and switches that act."""

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score, roc_auc_score

from sfrecsam_hf.cli import main
from sfrecsam_hf.data.loading import load_folder
from sfrecsam_hf.evaluation import evaluate as evaluation
from sfrecsam_hf.evaluation.evaluate import evaluate, measure
from sfrecsam_hf.evaluation.measured import METRICS, Measured
from sfrecsam_hf.evaluation.report import read_rows, table
from sfrecsam_hf.evaluation.summary import summarised
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.inputs import find_pictures
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
def evaluated(loaded, samples):
    return evaluate(*loaded, samples, quiet=True, **OPTIONS)


def of_column(rows: list[dict], column: str) -> list[dict]:
    return [row for row in rows if row["column"] == column]


def test_figures_of_each_image(loaded, samples, evaluated):
    rows = of_column(evaluated[1], "auto")
    for sample, found, row in zip(samples, segment(*loaded, samples["image"], **OPTIONS), rows, strict=True):
        true = np.asarray(sample["mask"]) > 0
        assert row["group"] == sample["group"]
        for name, mask in (("initial", found.initial_mask), ("final", found.mask)):
            for metric, reference in (
                ("dice", f1_score),
                ("iou", jaccard_score),
                ("precision", precision_score),
                ("recall", recall_score),
            ):
                expected = reference(true.ravel(), mask.ravel(), zero_division=0)
                assert row[f"{name}_{metric}"] == pytest.approx(expected), metric
            if mask.any():
                pair = [torch.from_numpy(x)[None, None].float() for x in (mask, true)]
                expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
                assert row[f"{name}_hd95"] == pytest.approx(float(expected))
        error = (found.initial_mask != true).ravel()
        assert row["uncertainty_auroc"] == pytest.approx(roc_auc_score(error, found.uncertainty.ravel()), abs=5e-3)


def test_the_oracle_point_is_in_its_own_column_only(loaded, samples, evaluated):
    auto, rows = evaluate(*loaded, samples, columns=["auto"], quiet=True, **OPTIONS)
    assert set(auto["columns"]) == {"auto"}
    again = of_column(evaluated[1], "auto")
    assert rows == again
    oracle = of_column(evaluated[1], "oracle-point")
    assert [row["final_dice"] for row in oracle] != [row["final_dice"] for row in again]


def test_without_correctors_nothing_is_corrected(loaded, samples):
    results, rows = evaluate(*loaded, samples, columns=["auto"], quiet=True, **OPTIONS | {"correctors": ()})
    for row in rows:
        for metric in METRICS:
            assert row[f"initial_{metric}"] == row[f"final_{metric}"]
    correction = results["columns"]["auto"]["correction"]
    assert correction["dice"]["mean"] == correction["harmed"]["count"] == correction["helped"]["count"] == 0


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
    assert summary["normal"]["images"] == 1
    assert summary["normal"]["with_mask"]["count"] == summary["normal"]["mean_area_fraction"] == 0
    assert summary["final"]["lesion"]["images"] == 1
    assert summary["final"]["lesion"]["dice"]["mean"] == 0
    assert summary["presence"]["lesions_with_mask"]["count"] == 0
    assert "not empty" not in summary["final"]


def test_measurements_of_folds_add_up(loaded, samples, evaluated, tmp_path):
    folds = [measure(*loaded, samples.select(part), quiet=True, **OPTIONS) for part in ([0, 2, 4], [1, 3, 5])]
    folds[0].save(tmp_path / "fold.json")
    whole = summarised(Measured.load(tmp_path / "fold.json") + folds[1])
    for column, summary in evaluated[0]["columns"].items():
        mine = whole["columns"][column]
        assert mine["final"]["lesion"]["dice"]["mean"] == pytest.approx(
            summary["final"]["lesion"]["dice"]["mean"], abs=1e-4
        )
        for figure in ("auroc", "top5_error_share"):
            assert mine["uncertainty"][figure] == pytest.approx(summary["uncertainty"][figure], abs=1e-4)
        assert mine["uncertainty"]["ece"]["mean"] == pytest.approx(summary["uncertainty"]["ece"]["mean"], abs=1e-4)


@pytest.mark.parametrize("columns", [["oracle"], ["auto", "auto"], []])
def test_columns_are_checked_before_the_work(columns):
    with pytest.raises(ValueError, match=r"name each of auto and oracle-point once"):
        measure(None, None, None, columns=columns)


def command(*arguments) -> int:
    return main([str(argument) for argument in ("evaluate", *arguments, "--samples", "1")])


def test_the_command_writes_a_report(tiny_checkpoint, tmp_path, capsys):
    assert command("--data", SAMPLES, "--output", tmp_path, "--model", tiny_checkpoint) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == 6
    assert table(results) in capsys.readouterr().out
    assert (tmp_path / "results.md").read_text().strip() == table(results)
    assert (tmp_path / "results.json").stat().st_size < 100_000
    for picture in ("worst.png", "reliability.png"):
        assert PIL.Image.open(tmp_path / picture).size[0] > 200
    with pytest.raises(ValueError, match="2 were written by an earlier run"):
        find_pictures([str(tmp_path)], tmp_path / "predictions")
    rows = read_rows(tmp_path / "per_image.csv")
    assert len(rows) == 12
    final = results["columns"]["auto"]["final"]["lesion"]["dice"]["mean"]
    assert np.mean([row["final_dice"] for row in of_column(rows, "auto")]) == pytest.approx(final, abs=1e-5)
    worst = sorted(of_column(rows, "auto"), key=lambda row: row["final_dice"])
    assert [row["name"] for row in results["worst"]] == [row["name"] for row in worst]


def test_results_of_a_column_outlive_the_failure_of_the_next(tiny_checkpoint, tmp_path, monkeypatch):
    measured = evaluation.measure

    def failing(model, processor, dataset, columns, *rest, **options):
        if columns == ["oracle-point"]:
            raise KeyboardInterrupt
        return measured(model, processor, dataset, columns, *rest, **options)

    monkeypatch.setattr(evaluation, "measure", failing)
    assert command("--data", SAMPLES, "--output", tmp_path, "--model", tiny_checkpoint) == 130
    assert list(json.loads((tmp_path / "results.json").read_text())["columns"]) == ["auto"]


def test_what_cannot_be_evaluated_is_refused_before_the_work(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "measure", None)
    (tmp_path / "in").mkdir()
    assert command("--data", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_checkpoint) == 2
    assert str(tmp_path / "in") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert command("--data", SAMPLES, "--output", tmp_path / "file", "--model", tiny_checkpoint) == 2
    assert re.search(r"sfrecsam: \S+file cannot be written to .*\n$", capsys.readouterr().err)
    assert command("--data", SAMPLES, "--output", tmp_path / "out", "--columns", "auto", "auto") == 2
    assert "once" in capsys.readouterr().err
