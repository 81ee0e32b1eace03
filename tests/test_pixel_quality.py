"""What uncertainty and probability are worth: counts over all pixels, equal to other libraries, that add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sfrecsam_hf.evaluation.pixel_quality import PixelCounts, binned, calibration_error
from sfrecsam_hf.modeling.segmentation import Segmentation

SIZE = (60, 80)


def answer(seed: int, size: tuple[int, int] = SIZE) -> tuple[Segmentation, np.ndarray]:
    """Probabilities that are often right, and an uncertainty that is mostly low and higher at the errors."""
    rng = np.random.default_rng(seed)
    true = rng.random(size) < 0.3
    mean, initial, corrected = (np.clip(0.4 * true + rng.random(size) * 0.8 - 0.1, 0, 1) for _ in range(3))
    wrong = (initial > 0.5) != true
    uncertainty = np.clip(rng.random(size) ** 6 + 0.2 * wrong, 0, 1)
    return Segmentation(corrected > 0.5, initial > 0.5, mean, initial, corrected, uncertainty, 0.9, 0.5), true


def counted(*answers: tuple[Segmentation, np.ndarray]) -> PixelCounts:
    return sum((PixelCounts.of(*one) for one in answers), PixelCounts.none())


def test_auroc_and_error_share_are_those_of_all_pixels():
    found, true = answer(0)
    error = (found.initial_mask != true).ravel()
    counts = counted((found, true))
    assert counts.auroc == pytest.approx(roc_auc_score(error, found.uncertainty.ravel()), abs=2e-3)
    most = np.argsort(-found.uncertainty.ravel())[: error.size // 20]
    assert counts.top5_error_share == pytest.approx(error[most].sum() / error.sum(), abs=5e-3)


def test_an_image_weighs_one_whatever_its_size():
    small, large = answer(1), answer(2, (240, 320))
    repeated = [
        np.concatenate([np.tile(part, 16), other]) for part, other in zip(flat(*small), flat(*large), strict=True)
    ]
    assert counted(small, large).auroc == pytest.approx(roc_auc_score(*repeated), abs=2e-3)


def flat(found: Segmentation, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (found.initial_mask != true).ravel(), found.uncertainty.ravel()


def test_three_probabilities_are_judged_over_all_and_over_undecided_pixels():
    found, true = answer(3)
    errors = counted((found, true)).calibration_errors()
    assert errors.keys() == {"mean", "initial", "corrected"}
    for name, probability in (
        ("mean", found.probability),
        ("initial", found.initial_probability),
        ("corrected", found.final_probability),
    ):
        undecided = (probability > 0.05) & (probability < 0.95)
        assert errors[name]["all"] == pytest.approx(by_definition(probability, true))
        assert errors[name]["undecided"] == pytest.approx(by_definition(probability[undecided], true[undecided]))


def by_definition(probability: np.ndarray, true: np.ndarray) -> float:
    edges = np.linspace(0, 1, 16)[1:-1]
    bins = np.digitize(probability.ravel(), edges)
    gaps = [
        np.mean(bins == index) * abs(probability.ravel()[bins == index].mean() - true.ravel()[bins == index].mean())
        for index in set(bins.tolist())
    ]
    return sum(gaps)


def test_counts_survive_a_file():
    counts = counted(answer(4))
    again = PixelCounts.from_dict(counts.to_dict())
    assert again.auroc == counts.auroc
    assert again.calibration_errors() == counts.calibration_errors()
    assert again.reliability() == counts.reliability()


def test_without_an_error_there_is_nothing_to_locate():
    found, _ = answer(5)
    counts = counted((found, found.initial_mask))
    assert counts.auroc is None
    assert counts.top5_error_share is None


def test_calibration_error_by_hand():
    """Bins of one half: 3 pixels at 0.2 of which 1 is true, and 1 pixel at 0.9 that is not."""
    bins = binned(np.array([0.2, 0.2, 0.2, 0.9]), np.array([True, False, False, False]), bins=2)
    assert bins.tolist() == [[3, pytest.approx(0.6), 1], [1, pytest.approx(0.9), 0]]
    assert calibration_error(bins) == pytest.approx(3 / 4 * (1 / 3 - 0.2) + 1 / 4 * 0.9)


@given(st.integers(0, 2**31), st.integers(2, 30))
@settings(deadline=None, max_examples=30)
def test_calibration_error_lies_between_0_and_1(seed, bins):
    rng = np.random.default_rng(seed)
    probability, target = rng.random(50), rng.random(50) > 0.5
    assert 0 <= calibration_error(binned(probability, target, bins)) <= 1
    assert calibration_error(binned(target.astype(float), target, bins)) == 0
    assert calibration_error(binned(1.0 - target, target, bins)) == 1
