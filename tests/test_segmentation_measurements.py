"""Area, box and diameters are what a ruler on the mask would tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.distance import pdist

from sfrecsam_hf.modeling.segmentation import Segmentation, diameters


def measured(mask: np.ndarray) -> dict:
    ramp = np.linspace(0, 1, mask.size).reshape(mask.shape)
    return Segmentation(mask, mask, ramp, ramp, ramp, ramp, presence=0.75, score=0.5).measurements()


def test_a_rectangle():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:7, 10:14] = True
    found = measured(mask)
    assert found["area"] == 12
    assert found["box"] == [10, 4, 14, 7]
    assert found["longest_diameter"] == pytest.approx(5)
    assert found["perpendicular_diameter"] == pytest.approx(2 * 12 / 5)
    assert found["presence"] == 0.75
    assert found["mean_uncertainty"] == pytest.approx(np.linspace(0, 1, 600).reshape(20, 30)[4:7, 10:14].mean())


def test_an_empty_mask():
    found = measured(np.zeros((5, 5), dtype=bool))
    assert (found["area"], found["box"]) == (0, None)
    assert found["longest_diameter"] == found["perpendicular_diameter"] == 0.0
    assert found["mean_uncertainty"] == pytest.approx(0.5)


@settings(max_examples=100, deadline=None)
@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(np.any),
    spacing=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
)
def test_diameters_are_those_of_all_corners_of_all_pixels(mask, spacing):
    pixels = np.argwhere(mask)
    corners = np.concatenate([pixels + np.array([down, right]) for down in (0, 1) for right in (0, 1)]) * spacing
    longest, perpendicular = diameters(mask, spacing)
    assert longest == pytest.approx(pdist(corners).max())
    pairs = (second - first for first in corners for second in corners)
    directions = [pair / longest for pair in pairs if np.linalg.norm(pair) == pytest.approx(longest)]
    extents = [np.ptp(corners @ np.array([-right, down])) for down, right in directions]
    assert any(perpendicular == pytest.approx(extent) for extent in extents)
    assert perpendicular <= longest + 1e-9
