"""Thresholds come from validation lesions: presence keeps 98 % of them, suspicion separates errors best."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image

from sfrecsam_hf import calibration
from sfrecsam_hf.calibration import calibrate
from sfrecsam_hf.segmentation import Segmentation

SIDE = 20


def answers(uncertain_errors: float, certain: float, scores: list[float]) -> tuple[list[Segmentation], Dataset]:
    """One answer per score whose left half is wrong with one uncertainty, and whose right half is right."""
    true = np.ones((SIDE, SIDE), dtype=bool)
    found = true.copy()
    found[:, : SIDE // 2] = False
    uncertainty = np.where(found, certain, uncertain_errors)
    segmentations = [Segmentation(found, found, uncertainty, uncertainty, uncertainty, s, 0.5) for s in scores]
    masks = [true.astype(np.uint8) * 255 for _ in scores]
    return segmentations, Dataset.from_dict({"image": masks, "mask": masks}, Features({n: Image() for n in COLUMNS}))


COLUMNS = ("image", "mask")


@pytest.fixture
def calibrated(monkeypatch):
    def run(segmentations, dataset):
        monkeypatch.setattr(calibration, "segment", lambda *args, **options: iter(segmentations))
        return calibrate(None, None, dataset)

    return run


def test_suspicion_lies_between_right_and_wrong(calibrated):
    found = calibrated(*answers(0.7, 0.2, [0.9] * 3))
    assert 0.2 < found["suspicion_threshold"] <= 0.7


def test_presence_keeps_98_percent_of_the_lesions(calibrated):
    scores = np.linspace(0.01, 1, 100).tolist()
    threshold = calibrated(*answers(0.7, 0.2, scores))["presence_threshold"]
    assert 98 <= sum(score >= threshold for score in scores) <= 99


def test_thresholds_of_a_real_model_can_be_stored(model, processor, busi_folder):
    from sfrecsam_hf import load_busi

    dataset = load_busi(busi_folder).select([0, 1, 12, 18])
    found = calibrate(model, processor, dataset)
    assert found.keys() == {"suspicion_threshold", "presence_threshold"}
    assert all(0 <= value <= 1 for value in found.values())
    assert found == calibrate(model, processor, dataset), "the same images give the same thresholds"
