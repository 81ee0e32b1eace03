"""The metric for `evaluate`: equal to MONAI, from the repository and from the Hub, where it stands alone."""

import json
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from conftest import SAMPLES
from huggingface_hub import HfApi
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    get_confusion_matrix,
)
from stranger import run_as_stranger

from sfrecsam_hf.data.loading import load_folder

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "metric" / "lesion_segmentation"
METRICS = ("dice", "iou", "precision", "recall", "hd95", "assd")


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(str(FOLDER))


@pytest.fixture(scope="module")
def masks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True masks of several sizes, and predictions that are moved, torn and blown up."""
    true = [np.asarray(mask) > 0 for mask in load_folder(SAMPLES)["mask"]]
    predicted = [np.roll(mask, (3 * index, -5 * index), axis=(0, 1)) for index, mask in enumerate(true)]
    predicted[2] = predicted[2] & (np.indices(true[2].shape).sum(axis=0) % 7 > 0)
    predicted[3] = predicted[3] | np.roll(predicted[3], 20, axis=1)
    return predicted, true


def by_monai(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    confusion = get_confusion_matrix(*pair)
    return {
        "dice": float(compute_dice(*pair)),
        "iou": float(compute_iou(*pair)),
        "precision": float(compute_confusion_matrix_metric("precision", confusion)),
        "recall": float(compute_confusion_matrix_metric("sensitivity", confusion)),
        "hd95": float(compute_hausdorff_distance(*pair, include_background=True, percentile=95)),
        "assd": float(compute_average_surface_distance(*pair, include_background=True, symmetric=True)),
    }


def test_it_equals_monai(metric, masks):
    found = metric.compute(predictions=masks[0], references=masks[1], per_image=True)
    expected = [by_monai(*pair) for pair in zip(*masks, strict=True)]
    for mine, monai in zip(found["per_image"], expected, strict=True):
        assert mine == pytest.approx(monai, abs=1e-6)
    for name in METRICS:
        assert found[name] == pytest.approx(np.mean([monai[name] for monai in expected]), abs=1e-6)


def test_batches_give_the_same(metric, masks):
    expected = metric.compute(predictions=masks[0], references=masks[1])
    metric.add(prediction=masks[0][0], reference=masks[1][0])
    metric.add_batch(predictions=masks[0][1:], references=masks[1][1:])
    assert metric.compute() == pytest.approx(expected)
    assert set(expected) == set(METRICS)


def test_gray_masks_are_masks(metric, masks):
    gray = [255 * mask.astype(np.uint8) for mask in masks[0]]
    found = metric.compute(predictions=gray, references=masks[1])
    assert found == metric.compute(predictions=masks[0], references=masks[1])


@pytest.mark.parametrize(
    ("predicted", "true", "overlap", "distance"), [(0, 0, 1, 0), (0, 1, 0, 50), (1, 0, 0, 50), (1, 1, 1, 0)]
)
def test_empty_masks(metric, predicted, true, overlap, distance):
    some = np.zeros((30, 40), bool)
    some[4:9, 5:20] = True
    found = metric.compute(predictions=[some & bool(predicted)], references=[some & bool(true)])
    overlaps = dict.fromkeys(("dice", "iou", "precision", "recall"), overlap)
    assert found == {**overlaps, "hd95": distance, "assd": distance}


def test_sizes_that_differ_are_refused(metric):
    with pytest.raises(ValueError, match=r"Image 1: the prediction has shape \(3, 4\) and the reference \(4, 3\)"):
        metric.compute(predictions=[np.ones((2, 2)), np.ones((3, 4))], references=[np.ones((2, 2)), np.ones((4, 3))])


def test_it_loads_from_the_hub_without_this_package(metric, masks, hub, tmp_path):
    api = HfApi()
    api.create_repo("org/lesion_segmentation", repo_type="space", space_sdk="static")
    api.upload_folder(repo_id="org/lesion_segmentation", repo_type="space", folder_path=FOLDER)
    files = hub.files("org/lesion_segmentation", kind="spaces")
    assert files.keys() == {"lesion_segmentation.py", "metrics.py", "README.md", "requirements.txt"}
    np.savez(tmp_path / "masks.npz", *masks[0], *masks[1])
    code = """
import json, evaluate, numpy
masks = list(numpy.load("masks.npz").values())
metric = evaluate.load("org/lesion_segmentation")
print(json.dumps(metric.compute(predictions=masks[:6], references=masks[6:])))
"""
    out = run_as_stranger(hub, tmp_path, code).stdout
    assert json.loads(out.splitlines()[-1]) == metric.compute(predictions=masks[0], references=masks[1])
