"""Thresholds come from validation images, and no image has a say in a threshold that is cross-fitted for it.

Presence weighs lesions against normal scans. Suspicion separates errors from the rest; once there are correctors, it
is where they help most and harm few images.
"""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from sklearn.metrics import f1_score

from sfrecsam_hf import load_busi
from sfrecsam_hf.modeling.segmentation import Segmentation, segment
from sfrecsam_hf.training import calibration
from sfrecsam_hf.training.calibration import (
    THRESHOLDS,
    calibrate,
    calibrate_correction,
    correction_dice,
    correction_threshold,
)

SIDE = 20


def answers(uncertain_errors: float, certain: float, scores: list[float]) -> tuple[list[Segmentation], Dataset]:
    """One answer per score whose left half is wrong with one uncertainty, and whose right half is right."""
    true = np.ones((SIDE, SIDE), dtype=bool)
    found = true.copy()
    found[:, : SIDE // 2] = False
    uncertainty = np.where(found, certain, uncertain_errors)
    segmentations = [Segmentation(found, found, *[uncertainty] * 4, s, 0.5) for s in scores]
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
            yield Segmentation(found, found, *[uncertainty] * 4, score, 0.5)

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


def corrected(initial: np.ndarray, final: np.ndarray, entropy: np.ndarray) -> Segmentation:
    """The answer of trained correctors to which everything is suspicious."""
    return Segmentation(final, initial, *[entropy] * 4, 0.9, 0.5)


@pytest.fixture
def correcting(monkeypatch):
    """Calibrates correctors that answer the same lesion, automatic and clicked, as given."""

    def run(
        lesion: np.ndarray, automatic: Segmentation, clicked: Segmentation | None = None, images: int = 3
    ) -> float:
        mask = lesion.astype(np.uint8) * 255
        dataset = Dataset.from_dict(
            {"image": [mask] * images, "mask": [mask] * images}, Features({n: Image() for n in COLUMNS})
        )

        def answer(model, processor, asked, batch_size, **options):
            assert options == {"suspicion_threshold": 0.0, "presence_threshold": 0.0}
            for _, prompts in asked:
                yield clicked if prompts else automatic

        monkeypatch.setattr(calibration, "segment", answer)
        return calibrate_correction(None, None, dataset, clicked=clicked is not None)["suspicion_threshold"]

    return run


@pytest.fixture
def lesion() -> np.ndarray:
    """A quarter of the picture."""
    lesion = np.zeros((SIDE, SIDE), dtype=bool)
    lesion[: SIDE // 2, : SIDE // 2] = True
    return lesion


NOTHING, ALL = np.zeros((SIDE, SIDE), dtype=bool), np.ones((SIDE, SIDE), dtype=bool)


@pytest.mark.parametrize("wrong_at", [0.3, 0.8], ids=["selective", "all corrected"])
def test_the_suspicion_threshold_is_the_highest_at_which_correction_helps_most(correcting, lesion, wrong_at):
    answer = corrected(NOTHING, ALL, np.where(lesion, 0.6, wrong_at))
    assert correcting(lesion, answer) == pytest.approx(0.55)


def test_what_correctors_cost_a_click_counts_too(correcting, lesion):
    """They turn an empty automatic mask into everything, a Dice of 0.4, and a clicked mask into its opposite."""
    entropy = np.full((SIDE, SIDE), 0.6)
    automatic, clicked = corrected(NOTHING, ALL, entropy), corrected(lesion, ~lesion, entropy)
    assert correcting(lesion, automatic) < 0.6
    assert correcting(lesion, automatic, clicked) >= 0.6


def test_correctors_that_only_harm_are_kept_out(correcting, lesion):
    assert correcting(lesion, corrected(lesion, ~lesion, np.full((SIDE, SIDE), 0.7))) == 1


def test_the_table_of_a_real_model_begins_corrected_and_ends_initial(model, processor, busi_folder):
    dataset = load_busi(busi_folder).select([0, 1, 12, 18])
    table = correction_dice(model, processor, dataset)
    assert table.shape == (3, len(THRESHOLDS)), "one image is normal"
    asked = {"suspicion_threshold": 0.0, "presence_threshold": 0.0}
    found_masks = segment(model, processor, dataset["image"][:3], **asked)
    for row, found, mask in zip(table, found_masks, dataset["mask"][:3], strict=True):
        true = np.asarray(mask) > 0
        assert row[0] == pytest.approx(f1_score(true.ravel(), found.mask.ravel(), zero_division=0))
        assert row[-1] == pytest.approx(f1_score(true.ravel(), found.initial_mask.ravel(), zero_division=0))


def dice_at(initial: float, gain: list[float]) -> np.ndarray:
    """Images that correction moves by these amounts at every threshold up to 0.5 bits."""
    table = np.full((len(gain), len(THRESHOLDS)), initial)
    table[:, :11] += np.array(gain)[:, None]
    return table


def test_few_images_may_be_harmed_however_much_the_others_gain():
    assert correction_threshold(dice_at(0.7, [0.1] * 18 + [-0.02] * 2)) == pytest.approx(0.5)
    assert correction_threshold(dice_at(0.7, [0.1] * 17 + [-0.02] * 3)) == 1
    assert correction_threshold(dice_at(0.7, [0.1] * 17 + [-0.02] * 3), harmed_share=0.15) == pytest.approx(0.5)
    assert correction_threshold(dice_at(0.7, [0.1] * 17 + [-0.009] * 3)) == pytest.approx(0.5)
