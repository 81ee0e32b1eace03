"""Intervals: shares after Wilson, means with groups resampled, since images of one patient resemble each other."""

import numpy as np
import pytest

from sfrecsam_hf.evaluation.intervals import means, share


def test_groups_are_resampled_and_not_images():
    """Ten patients with ten equal images each say no more than ten images."""
    values = np.random.default_rng(0).random(10)
    alone = means(values[:, None], ["dice"], np.arange(10))["dice"]
    grouped = means(np.repeat(values, 10)[:, None], ["dice"], np.repeat(np.arange(10), 10))["dice"]
    assert grouped == pytest.approx(alone)
    as_images = means(np.repeat(values, 10)[:, None], ["dice"], np.arange(100))["dice"]
    assert alone["high"] - alone["low"] > 2.5 * (as_images["high"] - as_images["low"])


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    found = means(values[:, None], ["dice"], np.arange(400))["dice"]
    error = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-3)


def test_each_group_counts_once_in_the_group_mean():
    found = means(np.array([[0.9, 1], [0.9, 1], [0.9, 1], [0.1, 2]]), ["dice", "hd95"], ["a", "a", "a", "b"])
    assert found["dice"]["mean"] == pytest.approx(0.7)
    assert found["dice"]["group_mean"] == pytest.approx(0.5)
    assert found["hd95"]["group_mean"] == pytest.approx(1.5)


def wilson(count: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    part, z = count / images, 1.959964
    spread = z * (part * (1 - part) / images + z**2 / (4 * images**2)) ** 0.5
    return tuple((part + z**2 / (2 * images) + side * spread) / (1 + z**2 / images) for side in (-1, 1))


@pytest.mark.parametrize(("count", "images"), [(2, 14), (0, 5), (5, 5)])
def test_shares_after_wilson(count, images):
    found = share([True] * count + [False] * (images - count))
    assert (found["count"], found["images"], found["share"]) == (count, images, count / images)
    assert (found["low"], found["high"]) == pytest.approx(wilson(count, images), abs=1e-5)


def test_of_no_image_there_is_no_share():
    assert share([]) is None
