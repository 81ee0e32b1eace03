"""Area, box and diameters are what a ruler on the mask would tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial import ConvexHull
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
    assert found["perpendicular_diameter"] == pytest.approx(3.75), "across the corner that the diagonal leaves out"
    assert found["lesions"] == 1
    assert found["presence"] == 0.75
    assert found["mean_uncertainty"] == pytest.approx(np.linspace(0, 1, 600).reshape(20, 30)[4:7, 10:14].mean())


def test_an_empty_mask():
    found = measured(np.zeros((5, 5), dtype=bool))
    assert (found["lesions"], found["area"], found["box"]) == (0, 0, None)
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
    assert perpendicular <= longest + 1e-9
    pairs = (corners - corners[:, None]).reshape(-1, 2)
    directions = np.unique(pairs[np.isclose(np.hypot(*pairs.T), longest, rtol=1e-6)] / longest, axis=0)
    lengths = [longest_across(corners, direction) for direction in directions]
    assert any(perpendicular == pytest.approx(length, abs=1e-6) for length in lengths)


def longest_across(corners: np.ndarray, direction: np.ndarray) -> float:
    """Of the lines at right angles to `direction` through every corner, the longest inside the convex hull."""
    hull = ConvexHull(corners)
    across = np.array([-direction[1], direction[0]])
    lengths = []
    for corner in corners[hull.vertices]:
        along, offsets = hull.equations[:, :2] @ across, hull.equations[:, :2] @ corner + hull.equations[:, 2]
        sloped = np.abs(along) > 1e-9
        reached = -offsets[sloped] / along[sloped]
        lengths.append(reached[along[sloped] > 0].min() - reached[along[sloped] < 0].max())
    return max(lengths)


def test_measurements_never_cross_from_one_lesion_to_another():
    mask = np.zeros((40, 90), dtype=bool)
    mask[5:15, 5:25] = mask[30:34, 80:84] = True
    found = measured(mask)
    assert (found["lesions"], found["area"], found["box"]) == (2, 216, [5, 5, 25, 15])
    assert found["longest_diameter"] == pytest.approx(np.hypot(20, 10))


def test_axes_lie_where_they_are_drawn():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 30:50] = True
    (lesion,) = Segmentation(mask, mask, mask * 1.0, mask * 1.0, mask * 1.0, mask * 0.25, presence=1, score=1).lesions
    drawn = lesion.axes()
    ends = {tuple(end) for end in drawn.longest_line.tolist()}
    assert ends in ({(30.0, 10.0), (50.0, 20.0)}, {(30.0, 20.0), (50.0, 10.0)})
    assert np.linalg.norm(np.diff(drawn.perpendicular_line, axis=0)) == pytest.approx(drawn.perpendicular)
    along, across = (np.diff(line, axis=0)[0] for line in (drawn.longest_line, drawn.perpendicular_line))
    assert along @ across == pytest.approx(0, abs=1e-9)
    assert (lesion.probability, lesion.uncertainty) == (1.0, 0.25)
    assert lesion.measurements((0.5, 0.5))["area_mm2"] == 50
