"""Moved tissue stays what it was: the mask follows a lesion and ignores a decoy."""

import numpy as np
import pytest
import torch
from conftest import scan
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_scans import dark_lesion, rows_of_dark_lesions

from sfrecsam_hf.training.dataset import TrainingImages
from sfrecsam_hf.training.lesion_cut import Scan
from sfrecsam_hf.training.lesion_transplant import transplanted


def outcomes(host: Scan, donor: Scan) -> list[Scan]:
    return [transplanted(host, donor, np.random.default_rng(seed)) for seed in range(60)]


def test_lesions_are_added_and_pixels_under_the_mask_are_lesion():
    counts = set()
    for seed in range(4):
        host = dark_lesion(80, 96, seed)
        for changed in outcomes(host, dark_lesion(70, 60, seed + 10)):
            counts.add(int(np.sign(int(changed.mask.sum()) - int(host.mask.sum()))))
            assert changed.image[changed.mask].mean() < 60
            assert changed.image[~changed.mask].mean() > 100
            assert (changed.mask | ~changed.pointed).all()
    assert counts == {0, 1}


def test_a_decoy_moves_tissue_and_no_label():
    normal, donor = dark_lesion(80, 96, 0, lesion=False), dark_lesion(80, 96, 1)
    decoys = [changed for changed in outcomes(normal, donor) if not changed.mask.any()]
    assert any((changed.image != normal.image).any() for changed in decoys)


def test_with_two_lesions_a_prompt_points_at_either():
    host, donor = dark_lesion(80, 96, 0), dark_lesion(80, 96, 1)
    two = [changed for changed in outcomes(host, donor) if changed.mask.sum() > host.mask.sum()]
    pointed_at_host = {bool(np.array_equal(changed.pointed, host.mask)) for changed in two}
    assert pointed_at_host == {True, False}
    assert all(changed.pointed.sum() < changed.mask.sum() for changed in two)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(12, 90)] * 4),
    seed=st.integers(0, 2**31),
    lesions=st.tuples(st.booleans(), st.booleans()),
)
def test_any_sizes_keep_the_host_and_its_arrays(sizes, seed, lesions):
    host, donor = dark_lesion(*sizes[:2], seed, lesions[0]), dark_lesion(*sizes[2:], seed + 1, lesions[1])
    before = host.image.copy(), host.mask.copy(), donor.image.copy()
    changed = transplanted(host, donor, np.random.default_rng(seed))
    assert changed.image.shape == changed.mask.shape == changed.pointed.shape == host.image.shape
    assert changed.image.dtype == np.uint8
    for now, then in zip((host.image, host.mask, donor.image), before, strict=True):
        assert np.array_equal(now, then)


def test_training_asks_a_prompted_row_for_the_lesion_pointed_at(processor):
    rows = rows_of_dark_lesions(6)
    settings = {"augmentation": 0, "click_share": 0.5, "quiet": True}
    images = TrainingImages([rows], processor.image_processor, transplant_share=0.99, **settings)
    plain = TrainingImages([rows], processor.image_processor, **settings)
    smaller = 0
    for epoch in range(12):
        keys = [(epoch, index) for index in range(6)]
        shown, untouched = images.__getitems__(keys), plain.__getitems__(keys)
        for index, (union, asked, labels) in enumerate(
            zip(shown["labels"], shown["prompt_labels"][:, 0], shown["input_labels"], strict=True)
        ):
            assert ((asked == 0) | (union == 1)).all()
            if (labels == -10).all():
                assert torch.equal(shown["pixel_values"][index], untouched["pixel_values"][index])
                assert (asked == union).all()
            smaller += int(asked.sum() < union.sum())
    assert smaller > 3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_image_shown_depends_on_seed_and_epoch_alone(processor, share):
    rows = [dict(zip(("image", "mask"), scan(60, 80, seed), strict=True)) for seed in range(4)]
    images = TrainingImages([rows], processor.image_processor, transplant_share=share, quiet=True)
    together = images.__getitems__([(2, 0), (2, 1), (2, 3)])
    alone = images.__getitems__([(2, 3)])
    assert np.allclose(together["pixel_values"][2], alone["pixel_values"][0], atol=1e-5)
