"""Calipers and captions are drawn on lesions and on normal scans, and only they are changed."""

import numpy as np

from sfrecsam_hf.training.marks import BRIGHTNESS, marked

TISSUE = np.full((150, 190), 60, dtype=np.uint8)
LESION = np.zeros(TISSUE.shape, dtype=bool)
LESION[60:100, 70:130] = True


def drawn(mask: np.ndarray, chance: float = 0.5, count: int = 200) -> list[np.ndarray]:
    return [marked(TISSUE, mask, chance, np.random.default_rng(seed)) != TISSUE for seed in range(count)]


def test_without_a_chance_nothing_is_drawn():
    assert not any(change.any() for change in drawn(LESION, chance=0.0, count=20))


def test_normal_scans_get_more_calipers_than_lesions():
    on_lesions, on_normals = (sum(change.any() for change in drawn(mask)) for mask in (LESION, LESION & False))
    assert 100 <= on_lesions < on_normals < 200


def test_marks_are_bright_and_small():
    for seed in range(50):
        image = marked(TISSUE, LESION, 1.0, np.random.default_rng(seed))
        change = image[image != TISSUE]
        assert change.min() >= BRIGHTNESS[0]
        assert change.size < 0.03 * TISSUE.size


def test_most_calipers_stand_at_the_border_of_the_lesion():
    counted = np.sum(drawn(LESION, chance=1.0), axis=0)
    border = counted[54:106, 62:138].mean()
    assert border > 2 * counted[20:130, :40].mean()


def test_the_same_generator_draws_the_same_and_the_input_is_left_alone():
    first, second = (marked(TISSUE, LESION, 1.0, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert (TISSUE == 60).all()


def test_a_sliver_of_an_image_is_no_obstacle():
    for shape in ((1, 1), (3, 200), (200, 2)):
        image = marked(np.zeros(shape, np.uint8), np.ones(shape, bool), 1.0, np.random.default_rng(0))
        assert image.shape == shape
