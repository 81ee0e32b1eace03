"""Overlap by hand, surface distances against an independent computation, and the empty-mask rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from sfrecsam_hf.evaluation.metrics import overlap, segmentation_metrics, surface_distances

EMPTY = np.zeros((30, 40), dtype=bool)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + height, left : left + width] = True
    return mask


def test_overlap_by_hand():
    assert overlap(block(0, 0, 4, 5), block(0, 2, 4, 10)) == {
        "dice": pytest.approx(2 * 12 / 60),
        "iou": pytest.approx(12 / 48),
        "precision": pytest.approx(12 / 20),
        "recall": pytest.approx(12 / 40),
    }


def test_equal_masks_are_perfect():
    found = segmentation_metrics(block(3, 3, 8, 9), block(3, 3, 8, 9))
    assert found == {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "hd95": 0, "assd": 0}


def test_a_shift_is_its_distance():
    found = surface_distances(block(5, 5, 1, 1), block(8, 9, 1, 1))
    assert found == {"hd95": pytest.approx(5), "assd": pytest.approx(5)}


def test_two_empty_masks_are_perfect():
    found = segmentation_metrics(EMPTY, EMPTY)
    assert found == {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "hd95": 0, "assd": 0}


@pytest.mark.parametrize("swapped", [False, True])
def test_one_empty_mask_is_no_overlap_at_the_diagonal(swapped):
    pair = (EMPTY, block(1, 1, 4, 4))
    found = segmentation_metrics(*(pair[::-1] if swapped else pair))
    assert found == {"dice": 0, "iou": 0, "precision": 0, "recall": 0, "hd95": 50, "assd": 50}


def borders(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


MASKS = arrays(bool, (9, 11), elements=st.booleans()).filter(np.any)


@settings(max_examples=40, deadline=None)
@given(predicted=MASKS, true=MASKS)
def test_surface_distances_equal_all_pairs_of_border_pixels(predicted, true):
    pairs = cdist(borders(predicted), borders(true))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    found = surface_distances(predicted, true)
    assert found["assd"] == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-4)
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)
