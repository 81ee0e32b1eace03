"""Pictures keep the image's size, and every colour stands where it says something."""

import numpy as np
import PIL.Image
import pytest

from sfrecsam_hf.inference.visualization import (
    ADDED,
    CONTOUR,
    REMOVED,
    TRUTH,
    contact_sheet,
    contour,
    corrections,
    heatmap,
    keyed,
    outline_sheet,
    overlay,
    with_axes,
)
from sfrecsam_hf.modeling.lesions import axes

GRAY = PIL.Image.fromarray(np.full((40, 60), 90, np.uint8))


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def where(picture: PIL.Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(picture) == colour).all(axis=-1)


@pytest.mark.parametrize("thickness", [1, 2])
def test_a_contour_is_the_rim_of_the_mask(thickness):
    expected = block(10, 20, 12, 15)
    expected[10 + thickness : 22 - thickness, 20 + thickness : 35 - thickness] = False
    assert np.array_equal(contour(block(10, 20, 12, 15), thickness), expected)


def test_a_contour_closes_at_the_edge_of_the_image():
    assert contour(np.ones((40, 60), dtype=bool)).sum() == 2 * 60 + 2 * 38


def test_an_overlay_shows_both_contours_and_leaves_the_rest():
    mask, truth = block(5, 5, 10, 10), block(20, 30, 10, 10)
    picture = overlay(GRAY, mask, truth)
    assert picture.size == GRAY.size
    assert np.array_equal(where(picture, CONTOUR), contour(mask, 2))
    assert np.array_equal(where(picture, TRUTH), contour(truth, 2))
    assert np.array_equal(where(picture, (90, 90, 90)), ~(contour(mask, 2) | contour(truth, 2)))


def test_the_models_contour_lies_over_the_true_one():
    mask = block(5, 5, 10, 10)
    assert not where(overlay(GRAY, mask, mask), TRUTH).any()


def test_a_heatmap_is_clear_where_nothing_is_uncertain():
    values = block(5, 5, 10, 10) * 1.0
    picture = np.asarray(heatmap(GRAY, values))
    assert picture.shape == (40, 60, 3)
    assert (picture[values == 0] == 90).all()
    inside = picture[values == 1].astype(int)
    assert (inside[:, 0] > inside[:, 2] + 50).all(), "viridis ends in yellow"


def test_corrections_show_what_was_added_and_what_removed():
    initial, final = block(5, 5, 10, 10), block(5, 8, 10, 10)
    picture = corrections(GRAY, initial, final)
    assert picture.size == GRAY.size
    assert np.array_equal(where(picture, ADDED), final & ~initial)
    assert np.array_equal(where(picture, REMOVED), initial & ~final)


def test_a_colour_key_hides_no_lesion():
    picture = PIL.Image.new("RGB", (300, 200), (90, 90, 90))
    mask = np.zeros((200, 300), dtype=bool)
    mask[150:, :100] = True  # where a key would stand
    drawn = keyed(picture, {"lesion": CONTOUR, "added": ADDED}, mask)
    assert drawn.size == picture.size
    assert not where(drawn, CONTOUR)[mask].any()
    assert where(drawn, CONTOUR).any()
    assert where(drawn, ADDED).any()
    assert keyed(GRAY, {"lesion": CONTOUR, "added": ADDED}) is GRAY, "too small for a key"


def test_axes_are_drawn_from_edge_to_edge():
    drawn = np.asarray(with_axes(GRAY.convert("RGB"), [axes(block(10, 20, 12, 15))])).astype(int)
    changed = np.abs(drawn - 90).sum(axis=-1) > 0
    assert changed[10:23, 20:36].sum() == changed.sum() > 20


def test_a_contact_sheet_holds_every_tile():
    tiles = [PIL.Image.new("RGB", (400, 200), colour) for colour in ("red", "blue", "lime")]
    sheet = contact_sheet(tiles, ["a", "b", "c"], side=64, columns=2)
    assert sheet.size == (128, 160)
    assert sheet.getpixel((30, 30)) == (255, 0, 0)
    assert sheet.getpixel((94, 30)) == (0, 0, 255)
    assert sheet.getpixel((30, 110)) == (0, 255, 0)
    with pytest.raises(ValueError, match="argument"):
        contact_sheet(tiles, ["a"])


def test_outlines_of_a_large_image_stay_two_pixels_wide_beside_a_key():
    mask, truth = np.zeros((2, 1200, 1600), dtype=bool)
    mask[300:900, 400:1200], truth[200:1000, 300:1300] = True, True
    large = PIL.Image.fromarray(np.full(mask.shape, 90, np.uint8))
    sheet = outline_sheet([large], [mask], [truth], ["a"], side=256)
    row = np.asarray(sheet)[16 + 96]
    for colour in (CONTOUR, TRUTH):
        assert (row == colour).all(axis=-1).sum() == 4, "two lines of two pixels"
        assert where(sheet, colour)[-16:].sum() > 50, "in the key"


def test_a_16_bit_image_is_drawn_as_it_is_read():
    deep = PIL.Image.fromarray(np.linspace(0, 40000, 2400).reshape(40, 60).astype(np.uint16))
    drawn = np.asarray(overlay(deep, np.zeros((40, 60), dtype=bool)))
    assert 100 < drawn.mean() < 155
    assert drawn.min() == 0
    assert drawn.max() == 255
