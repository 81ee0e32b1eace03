"""Lesions apart: pieces as SciPy finds them, no specks, no holes, nothing on burnt-in text, and smooth outlines."""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from sfrecsam_hf import load_folder
from sfrecsam_hf.modeling.lesions import find_lesions
from sfrecsam_hf.modeling.tidying import burnt_in_text, components, smoothed, tidied

SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"
SCAN = PIL.Image.open(SAMPLES / "bus_0180-l.png").convert("RGB")


def block(left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((SCAN.height, SCAN.width), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


LESION = block(60, 60, 60, 40)


@settings(max_examples=200, deadline=None)
@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)), corners=st.booleans())
def test_pieces_are_those_of_scipy(mask, corners):
    pieces, count = components(mask, corners)
    expected, number = ndimage.label(mask, np.ones((3, 3)) if corners else None)
    assert count == number
    assert len(set(zip(pieces.ravel().tolist(), expected.ravel().tolist(), strict=True))) == len(np.unique(expected))


@settings(max_examples=50, deadline=None)
@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_lesions_cover_the_mask_once(mask):
    found = find_lesions(mask, mask * 0.9, mask * 0.1)
    assert np.array_equal(sum(lesion.placed(mask.shape).astype(int) for lesion in found) + 0 * mask, mask)
    assert [lesion.area for lesion in found] == sorted((lesion.area for lesion in found), reverse=True)


def test_specks_go_and_lesions_stay():
    second, speck = block(150, 200, 20, 15), block(10, 10, 5, 5)
    assert np.array_equal(tidied(LESION | second | speck), LESION | second)


def test_the_largest_piece_is_never_a_speck():
    assert np.array_equal(tidied(block(60, 60, 3, 3)), block(60, 60, 3, 3))


def test_holes_are_filled_and_bays_are_not():
    hole, bay = block(70, 70, 20, 10), block(115, 75, 5, 10)
    assert np.array_equal(tidied(LESION & ~hole & ~bay), LESION & ~bay)


@pytest.mark.parametrize("behind", ["black", "tissue"])
@pytest.mark.parametrize("colour", ["white", "yellow"])
@pytest.mark.parametrize("size", [9, 12, 16])
def test_an_island_on_burnt_in_text_goes(behind, colour, size):
    picture, font = SCAN.copy(), PIL.ImageFont.load_default(size)
    draw = PIL.ImageDraw.Draw(picture)
    left, top, right, bottom = (round(side) for side in draw.textbbox((20, 5), "LT BR 3:00", font=font))
    if behind == "black":
        draw.rectangle([0, 0, right + 20, bottom + 5], fill="black")
    draw.text((20, 5), "LT BR 3:00", fill=colour, font=font)
    island = block(left - 3, top - 3, right - left + 6, bottom - top + 6)
    small = picture.width // 2, picture.height // 2
    for text in (burnt_in_text(picture), burnt_in_text(picture, small)):
        assert np.array_equal(tidied(LESION | island, text), LESION)
        assert not tidied(island, text).any()


def test_the_samples_lesions_stay():
    for row in load_folder(SAMPLES):
        mask = np.asarray(row["mask"].convert("L")) > 0
        assert (tidied(mask, burnt_in_text(row["image"])) >= mask).all(), row["name"]


def test_an_outline_has_no_steps():
    """A disc in the model's mask, enlarged eight times: how far its outline is from a circle."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    coarse = (np.hypot(rows, columns) < 20).astype(np.float32)
    distance = np.hypot(*(np.mgrid[:512, :512] - 255.5))
    spreads = []
    for maps in (coarse, smoothed(coarse)):
        disc = np.asarray(PIL.Image.fromarray(maps).resize((512, 512), PIL.Image.Resampling.BILINEAR)) > 0.5
        spreads.append(distance[disc & ~ndimage.binary_erosion(disc)].std())
    stepped, smooth = spreads
    assert smooth < 1.25 < 1.5 < stepped


def test_smoothing_changes_no_plain_probability():
    level = np.full((2, 8, 8), 0.3, np.float32)
    np.testing.assert_allclose(smoothed(level), level, rtol=1e-6)
