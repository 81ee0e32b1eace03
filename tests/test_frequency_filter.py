"""The frequency filter starts as the identity, and what is at one edge of a map stays away from the other."""

import pytest
import torch

from sfrecsam_hf.modeling.frequency_fusion import FrequencyFilter

SIZES = [(64, 64), (33, 64), (16, 17), (7, 5), (1, 9), (2, 2)]


def learned(curve: torch.Tensor) -> FrequencyFilter:
    filter_ = FrequencyFilter(*curve.shape)
    with torch.no_grad():
        filter_.curve.copy_(curve)
    return filter_


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_it_starts_as_the_identity(size):
    features = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FrequencyFilter(3)(features), features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [-2, -1])
@torch.no_grad()
def test_a_skin_line_does_not_reach_the_other_edge(side):
    curves = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)) / 10
    line = torch.zeros(1, 32, 64, 64)
    line.narrow(side, 0, 3).fill_(1)
    added = (learned(curves)(line) - line).abs()
    near, far = (float(added.narrow(side, start, 2).mean()) for start in (4, 62))
    assert near > 0.01
    assert far < 0.02 * near


@torch.no_grad()
def test_an_even_map_is_scaled_by_the_gain_at_zero_frequency():
    gain = torch.tensor([[0.5, *[9.0] * 15]])
    filtered = learned(gain)(torch.full((1, 1, 20, 31), 2.0))
    torch.testing.assert_close(filtered, torch.full_like(filtered, 3.0), atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_direction_is_special():
    filter_ = learned(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)))
    features = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(2))
    for turn in (lambda maps: maps.flip(-1), lambda maps: maps.flip(-2), lambda maps: maps.mT):
        torch.testing.assert_close(filter_(turn(features)), turn(filter_(features)), atol=1e-4, rtol=0)


@torch.no_grad()
def test_half_precision_is_filtered_in_float32():
    features = torch.randn(1, 2, 9, 10, generator=torch.Generator().manual_seed(0))
    filter_ = learned(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))
    for dtype in (torch.float16, torch.bfloat16):
        filtered = filter_(features.to(dtype))
        assert filtered.dtype == dtype
        torch.testing.assert_close(filtered.float(), filter_(features.to(dtype).float()), atol=0.1, rtol=0.02)
