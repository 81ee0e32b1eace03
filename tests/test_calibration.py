"""Thresholds come from validation images: presence weighs lesions against normal scans, suspicion tells errors best.

Once there are correctors, suspicion is what lets them help most, and never lets them harm.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE
from datasets import Dataset, Features, Image

from sfrecsam_hf import calibration, load_busi
from sfrecsam_hf.modeling.segmentation import Segmentation
from sfrecsam_hf.training.calibration import calibrate, calibrate_correction

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
    def run(segmentations, *datasets, mirrored=None):
        """With the answers to the images, and to the mirror images if they differ."""
        rest = iter([view for pair in zip(segmentations, mirrored or segmentations, strict=True) for view in pair])
        monkeypatch.setattr(
            calibration, "segment", lambda model, processor, images, **options: (next(rest) for _ in images)
        )
        return calibrate(None, None, *datasets)

    return run


def test_suspicion_lies_between_right_and_wrong(calibrated):
    found = calibrated(*answers(0.7, 0.2, [0.9] * 3))
    assert 0.2 < found["suspicion_threshold"] <= 0.7


def with_normals(segmentations: list[Segmentation], lesions: Dataset, normals: int) -> Dataset:
    """The same images, of which the last show nothing."""
    blank = np.zeros((SIDE, SIDE), np.uint8)
    masks = [*lesions["mask"][: len(segmentations) - normals], *[blank] * normals]
    return Dataset.from_dict({"image": masks, "mask": masks}, lesions.features)


def test_presence_keeps_95_percent_of_the_lesions(calibrated):
    scores = np.linspace(0.01, 1, 100).tolist()
    segmentations, dataset = answers(0.7, 0.2, scores + [0.99] * 90)
    threshold = calibrated(segmentations, with_normals(segmentations, dataset, 90))["presence_threshold"]
    assert threshold < 0.06
    segmentations, dataset = answers(0.7, 0.2, scores + [0.055] * 90)
    threshold = calibrated(segmentations, with_normals(segmentations, dataset, 90))["presence_threshold"]
    assert sum(score >= threshold for score in scores) == 95


def test_a_lesion_loses_its_mask_only_where_normal_scans_gain_more(calibrated):
    """A refused lesion costs its Dice of 2/3: a normal scan is worth one of them, and not two."""
    segmentations, dataset = answers(0.7, 0.2, [0.2, *[0.9] * 40, 0.1, 0.3])
    assert 0.3 < calibrated(segmentations, with_normals(segmentations, dataset, 2))["presence_threshold"] < 0.9
    segmentations, dataset = answers(0.7, 0.2, [0.2, 0.25, *[0.9] * 40, 0.1, 0.3])
    assert 0.1 < calibrated(segmentations, with_normals(segmentations, dataset, 2))["presence_threshold"] < 0.2


def test_a_normal_scan_whose_mask_is_empty_anyway_costs_no_lesion(calibrated):
    segmentations, dataset = answers(0.7, 0.2, [0.2, *[0.9] * 40, 0.1, 0.3])
    segmentations[-1] = replace(segmentations[-1], initial_mask=np.zeros((SIDE, SIDE), dtype=bool))
    assert 0.1 < calibrated(segmentations, with_normals(segmentations, dataset, 2))["presence_threshold"] < 0.2


def test_a_normal_scan_is_no_lesion_when_mirrored_either(calibrated):
    segmentations, dataset = answers(0.7, 0.2, [*[0.9] * 40, 0.1, 0.3])
    mirrored = [*segmentations[:-1], replace(segmentations[-1], presence=0.5)]
    images = with_normals(segmentations, dataset, 2)
    assert 0.5 < calibrated(segmentations, images, mirrored=mirrored)["presence_threshold"] < 0.9


def test_a_mirror_image_is_shown_and_its_answer_judged_by_the_mirrored_mask(monkeypatch):
    """Two lesions on the left are worth more than a normal scan, but half of their views alone would not be."""
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    pictures = [*[left] * 42, np.zeros_like(left)]
    dataset = Dataset.from_dict({"image": pictures, "mask": pictures}, Features({n: Image() for n in COLUMNS}))
    presence = np.repeat([0.2, 0.2, *[0.9] * 40, 0.3], 2)
    asked = []

    def seen(model, processor, images, **options):
        for image, score in zip(images, presence, strict=True):
            asked.append(np.asarray(image))
            found = asked[-1] > 0
            found[0] = not found.any()
            uncertainty = np.full(found.shape, 0.5)
            yield Segmentation(found, found, uncertainty, uncertainty, uncertainty, score, 0.5)

    monkeypatch.setattr(calibration, "segment", seen)
    assert calibrate(None, None, dataset)["presence_threshold"] < 0.2
    assert np.array_equal(asked[1], asked[0][:, ::-1])
    assert not np.array_equal(asked[1], asked[0])


def test_presence_is_left_alone_without_a_normal_scan_to_spare(calibrated):
    assert calibrated(*answers(0.7, 0.2, [0.3, 0.9])).keys() == {"suspicion_threshold"}


def test_data_without_a_normal_scan_have_no_say_in_presence(calibrated):
    (first, lesions), (second, mixed) = answers(0.7, 0.2, [0.9] * 40), answers(0.7, 0.2, [0.3, 0.3, 0.1])
    mixed = with_normals(second, mixed, 1)
    assert 0 < calibrated([*first, *second], lesions, mixed)["presence_threshold"] < 0.3


def test_thresholds_of_a_real_model_can_be_stored(model, processor, busi_folder):
    dataset = load_busi(busi_folder).select([0, 1, 12, 18])
    found = calibrate(model, processor, dataset)
    assert found.keys() == {"suspicion_threshold", "presence_threshold"}
    assert all(0 <= value <= 1 for value in found.values())
    assert found == calibrate(model, processor, dataset), "the same images give the same thresholds"


@pytest.fixture
def lesion() -> torch.Tensor:
    """A quarter of the input."""
    lesion = torch.zeros(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    lesion[16:48, 8:40] = True
    return lesion


@pytest.fixture
def pictured(lesion) -> Dataset:
    """Three images of that lesion."""
    return pictures_of(lesion)


def pictures_of(lesion: torch.Tensor, frame: int = 0) -> Dataset:
    """Three of them, in a black frame of so many pixels."""
    mask = np.asarray(lesion, dtype=np.uint8) * 255
    tissue = np.random.default_rng(0).integers(60, 200, mask.shape, dtype=np.uint8)
    image, mask = (np.pad(pixels, frame) for pixels in (tissue, mask))
    return Dataset.from_dict({"image": [image] * 3, "mask": [mask] * 3}, Features({n: Image() for n in COLUMNS}))


class Answering:
    """A model that finds nothing at first; its correction adds the lesion at 0.6 bits, and the rest at 0.3 or 0.8."""

    device = "cpu"

    def __init__(self, lesion: torch.Tensor, wrong_at: float):
        self.initial = torch.full(lesion.shape, -5.0)
        self.corrected = torch.full(lesion.shape, 5.0)
        self.entropy = torch.where(lesion, 0.6, wrong_at)

    def __call__(self, suspicion_threshold: float, presence_threshold: float, **inputs) -> dict[str, torch.Tensor]:
        assert (suspicion_threshold, presence_threshold) == (0, 0)
        maps = {"initial_masks": self.initial, "pred_masks": self.corrected, "predictive_entropy": self.entropy}
        return {name: value.expand(len(inputs["pixel_values"]), 1, 1, -1, -1) for name, value in maps.items()}


@pytest.mark.parametrize("wrong_at", [0.3, 0.8], ids=["selective", "all in"])
def test_correctors_are_let_in_as_far_as_they_help_and_no_further(processor, lesion, pictured, wrong_at):
    found = calibrate_correction(Answering(lesion, wrong_at), processor, pictured)["suspicion_threshold"]
    assert found == pytest.approx(0.55)


def test_frames_around_the_images_are_cut_off_here_too(processor):
    """A correction that is right about a lesion in the scan's corner, which in the framed picture is elsewhere."""
    corner = torch.zeros(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    corner[: IMAGE_SIZE // 4, : IMAGE_SIZE // 4] = True
    shown = []

    class Seeing(Answering):
        def __call__(self, **inputs) -> dict[str, torch.Tensor]:
            shown.append(inputs["pixel_values"])
            return super().__call__(**inputs)

    right = Seeing(corner, 0.6)
    right.initial, right.corrected = right.corrected, torch.where(corner, 5.0, -5.0)
    for frame in (0, IMAGE_SIZE // 2):
        assert calibrate_correction(right, processor, pictures_of(corner, frame))["suspicion_threshold"] < 0.6
    assert torch.equal(*shown)


def test_what_correctors_cost_a_click_counts_too(processor, lesion, pictured):
    """They turn an empty automatic mask into everything, a Dice of 0.4, and a clicked mask into its opposite."""

    class Clicked(Answering):
        def __call__(self, input_points: torch.Tensor, **inputs) -> dict[str, torch.Tensor]:
            answer = super().__call__(**inputs)
            right = torch.where(lesion, 5.0, -5.0)
            given = (input_points >= 0).flatten(1).any(1).view(-1, 1, 1, 1, 1)
            answer["initial_masks"] = torch.where(given, right, answer["initial_masks"])
            answer["pred_masks"] = torch.where(given, -right, answer["pred_masks"])
            return answer

    helpful = Clicked(lesion, 0.6)
    assert calibrate_correction(helpful, processor, pictured)["suspicion_threshold"] < 0.6
    assert calibrate_correction(helpful, processor, pictured, clicked=True)["suspicion_threshold"] >= 0.6


def test_correctors_that_only_harm_are_kept_out(processor, lesion, pictured):
    harmful = Answering(lesion, 0.7)
    harmful.initial, harmful.corrected = torch.where(lesion, 5.0, -5.0), torch.where(lesion, -5.0, 5.0)
    assert calibrate_correction(harmful, processor, pictured)["suspicion_threshold"] == 1
