"""Correctors learn from errors on images that the base did not train on."""

import numpy as np
import pytest
import torch

from sfrecsam_hf.modeling.false_corrector import DualFalseCorrector
from sfrecsam_hf.training.calibration import THRESHOLDS, correction_threshold
from sfrecsam_hf.training.correctors import ErrorMaps, threshold_dice, train_correctors

SIDE = 16


def maps(count: int = 48) -> ErrorMaps:
    """Uncertain masks two pixels too wide at the left; the image is bright on the true lesion."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(count, 1, SIDE, SIDE)
    mean = torch.full_like(target, 0.05)
    for index in range(count):
        row, column = torch.randint(3, 6, (2,), generator=generator).tolist()
        target[index, :, row : row + 7, column : column + 7] = 1
        mean[index, :, row : row + 7, column - 2 : column + 7] = 0.7
    gray = target.repeat_interleave(2, -1).repeat_interleave(2, -2) + 0.1 * torch.randn(
        count, 1, 2 * SIDE, 2 * SIDE, generator=generator
    )
    context = torch.cat([torch.nn.functional.pixel_unshuffle(gray, 2), torch.logit(mean) / 10], dim=1)
    entropy = torch.where(mean > 0.5, 0.9, 0.1)
    zeros = torch.zeros_like(mean)
    return ErrorMaps(torch.logit(mean), mean, entropy, zeros, context, target, torch.zeros(count))


def test_they_learn_what_the_base_does_wrong():
    known, unknown = maps(96).select(torch.arange(64)), maps(96).select(torch.arange(64, 96))
    torch.manual_seed(0)
    corrector = DualFalseCorrector(feature_channels=5, hidden_channels=8)
    before = threshold_dice(corrector, unknown)
    train_correctors(corrector, known, epochs=25, learning_rate=5e-3)
    after = threshold_dice(corrector, unknown)
    assert after.shape == (32, len(THRESHOLDS))
    assert np.allclose(before[:, -1], after[:, -1])  # at 1 bit nothing is corrected
    assert after[:, 0].mean() > after[:, -1].mean() + 0.03
    assert correction_threshold(after) < 0.9


def test_without_a_lesion_nothing_is_learned():
    empty = maps(20)
    empty.target.zero_()
    corrector = DualFalseCorrector(feature_channels=5, hidden_channels=8)
    weights = [parameter.clone() for parameter in corrector.parameters()]
    train_correctors(corrector, empty, epochs=2, learning_rate=1e-2)
    assert all(torch.equal(old, new) for old, new in zip(weights, corrector.parameters(), strict=True))


def test_mirrored_maps_are_those_of_the_mirrored_image():
    gray = torch.randn(2, 1, 2 * SIDE, 2 * SIDE)

    def context(image):
        return torch.cat([torch.nn.functional.pixel_unshuffle(image, 2), torch.zeros(2, 1, SIDE, SIDE)], dim=1)

    some = maps(2)
    some.context = context(gray)
    assert torch.equal(some.mirrored().context, context(gray.flip(-1)))
    assert torch.equal(some.mirrored().target, some.target.flip(-1))
    assert torch.equal(some.mirrored().mirrored().context, some.context)


@pytest.mark.parametrize("index", [[0], [2, 1]])
def test_maps_survive_a_file(tmp_path, index):
    some = maps(3)
    some.save(tmp_path / "maps.safetensors")
    loaded = ErrorMaps.load(tmp_path / "maps.safetensors").select(torch.tensor(index))
    assert torch.equal(loaded.context, some.context[index])
    assert torch.equal(loaded.presence, some.presence[index])
