"""Another echo changes how bright lesion and tissue are, and neither where the lesion is nor what the caller holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_scans import dark_lesion, rows_of_dark_lesions

from sfrecsam_hf.training.dataset import TrainingImages
from sfrecsam_hf.training.lesion_cut import Scan
from sfrecsam_hf.training.lesion_echo import with_other_echo


def outcomes(host: Scan, donor: Scan) -> list[Scan]:
    return [with_other_echo(host, donor, np.random.default_rng(seed)) for seed in range(60)]


def test_a_dark_lesion_becomes_darker_as_bright_or_brighter_than_its_surroundings():
    host = dark_lesion(80, 96, 0)
    host.image[host.mask] *= 2
    surroundings = host.image[~host.mask].mean()
    cores = [np.median(changed.image[host.mask]) / surroundings for changed in outcomes(host, host)]
    assert min(cores) < 0.8
    assert max(cores) > 1.05
    assert all(np.array_equal(changed.mask, host.mask) for changed in outcomes(host, host))


def test_tissue_is_darkened_away_from_the_lesion_and_stays_tissue():
    host, donor = dark_lesion(80, 96, 0), dark_lesion(80, 96, 1)
    normal = dark_lesion(80, 96, 2, lesion=False)
    for scan in (host, normal):
        darkened = [(scan.image.astype(int) - changed.image)[~scan.mask].max() for changed in outcomes(scan, donor)]
        assert max(darkened) > 40
        assert min(darkened) == 0
        assert all(np.array_equal(changed.mask, scan.mask) for changed in outcomes(scan, donor))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(12, 90)] * 4),
    seed=st.integers(0, 2**31),
    lesions=st.tuples(st.sampled_from(["none", "one", "all"]), st.sampled_from(["none", "one", "all"])),
)
def test_any_sizes_and_lesions_keep_the_host_and_its_arrays(sizes, seed, lesions):
    host, donor = (
        dark_lesion(*size, seed + index, lesion == "one")
        for index, (size, lesion) in enumerate(zip((sizes[:2], sizes[2:]), lesions, strict=True))
    )
    for scan, lesion in zip((host, donor), lesions, strict=True):
        scan.mask[:] |= lesion == "all"
    before = host.image.copy(), host.mask.copy(), donor.image.copy()
    changed = with_other_echo(host, donor, np.random.default_rng(seed))
    assert changed.image.shape == host.image.shape
    assert changed.image.dtype == np.uint8
    if host.mask.all():
        assert np.array_equal(changed.image, host.image), "nothing surrounds the lesion"
    for now, then in zip((host.image, host.mask, donor.image), before, strict=True):
        assert np.array_equal(now, then)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_training_changes_its_share_of_the_images_and_no_label(processor, share):
    rows = rows_of_dark_lesions(6)
    settings = {"augmentation": 0, "quiet": True}
    images = TrainingImages([rows], processor.image_processor, echo_share=share, **settings)
    plain = TrainingImages([rows], processor.image_processor, **settings)
    changed = 0
    for epoch in range(10):
        keys = [(epoch, index) for index in range(6)]
        shown, untouched = images.__getitems__(keys), plain.__getitems__(keys)
        assert (shown["labels"] == untouched["labels"]).all()
        changed += int((shown["pixel_values"] != untouched["pixel_values"]).flatten(1).any(dim=1).sum())
    assert abs(changed - 60 * share) < 15
