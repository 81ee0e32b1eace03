"""A scan that lost its lesion shows none and is labelled so, and one that kept it was changed in the same ways."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_scans import dark_lesion, rows_of_dark_lesions

from sfrecsam_hf.lesion_absence import with_or_without
from sfrecsam_hf.lesion_cut import Scan
from sfrecsam_hf.training_data import TrainingImages

LESION = dark_lesion(80, 96, 0)


def outcomes(host: Scan, donor: Scan) -> list[Scan]:
    return [with_or_without(host, donor, np.random.default_rng(seed)) for seed in range(80)]


def changed(host: Scan, donor: Scan) -> list[Scan]:
    return [shown for shown in outcomes(host, donor) if (shown.image != host.image).any()]


def test_the_mask_says_what_is_left_of_the_lesion():
    for shown in outcomes(LESION, dark_lesion(70, 60, 1)):
        dark = shown.image < 80
        assert dark.any() == shown.mask.any()
        assert (dark ^ shown.mask).sum() <= 0.3 * shown.mask.sum()
        assert np.array_equal(shown.mask, shown.pointed)


def test_lesions_are_lost_as_often_as_kept_and_no_change_tells_which():
    shown = changed(LESION, dark_lesion(70, 60, 1))
    moved = [not np.array_equal(one.mask, LESION.mask) and one.mask.any() for one in shown]
    lost = [not one.mask.any() for one in shown]
    covered = [(one.image == LESION.image).mean() > 0.5 for one in shown]
    kinds = {
        "cropped without": sum(gone and not patch for gone, patch in zip(lost, covered, strict=True)),
        "cropped with": sum(moved),
        "covered without": sum(gone and patch for gone, patch in zip(lost, covered, strict=True)),
        "covered beside": sum(np.array_equal(one.mask, LESION.mask) for one in shown),
    }
    assert all(count >= len(shown) / 8 for count in kinds.values()), kinds


def test_a_normal_scan_stays_one():
    normal = dark_lesion(80, 96, 0, lesion=False)
    shown = changed(normal, dark_lesion(70, 60, 1))
    assert len(shown) > 40
    assert not any(one.mask.any() or (one.image < 80).any() for one in shown)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(12, 90)] * 4),
    seed=st.integers(0, 2**31),
    lesions=st.tuples(st.booleans(), st.booleans()),
)
def test_any_sizes_keep_the_host_and_its_arrays(sizes, seed, lesions):
    host, donor = dark_lesion(*sizes[:2], seed, lesions[0]), dark_lesion(*sizes[2:], seed + 1, lesions[1])
    before = host.image.copy(), host.mask.copy(), donor.image.copy()
    shown = with_or_without(host, donor, np.random.default_rng(seed))
    assert shown.image.shape == shown.mask.shape == shown.pointed.shape == host.image.shape
    assert (shown.image.dtype, shown.mask.dtype) == (np.uint8, bool)
    for now, then in zip((host.image, host.mask, donor.image), before, strict=True):
        assert np.array_equal(now, then)


def test_training_takes_no_lesion_from_a_row_with_a_prompt(processor):
    rows = rows_of_dark_lesions(6)
    given = {"augmentation": 0, "click_share": 0.5, "quiet": True}
    images = TrainingImages([rows], processor.image_processor, absence_share=0.99, **given)
    plain = TrainingImages([rows], processor.image_processor, **given)
    lost = 0
    for epoch in range(8):
        keys = [(epoch, index) for index in range(6)]
        shown, untouched = images.__getitems__(keys), plain.__getitems__(keys)
        for index, labels in enumerate(shown["input_labels"]):
            if (labels == -10).all():
                lost += not shown["labels"][index].any()
            else:
                assert torch.equal(shown["pixel_values"][index], untouched["pixel_values"][index])
    assert lost > 4
