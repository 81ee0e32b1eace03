"""A frame around a scan changes nothing: it is cut off before the model looks, and put back afterwards."""

import numpy as np
import PIL.Image
import pytest
from conftest import scan
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageDraw, ImageOps
from transformers import pipeline

from sfrecsam_hf import segment
from sfrecsam_hf.modeling.scan_frame import ScanFrame

BORDERS = (30, 20, 50, 10)  # left, top, right, bottom
OPTIONS = {"mc_samples": 2, "presence_threshold": 0.0}
MAPS = ("mask", "initial_mask", "probability", "final_probability", "uncertainty")


def framed(image: PIL.Image.Image) -> PIL.Image.Image:
    return ImageOps.expand(image, BORDERS, 0)


@pytest.fixture(scope="module")
def image():
    return scan(48, 64, 3)[0]


PROMPTS = {
    "none": ({}, {}),
    "points": (
        {"input_points": [[20, 30], [35, 10]], "input_labels": [1, 0]},
        {"input_points": [[50, 50], [65, 30]], "input_labels": [1, 0]},
    ),
    "a point on the frame": ({"input_points": [[64, 30]]}, {"input_points": [[100, 50]]}),
    "a box reaching over the frame": ({"input_boxes": [[0, 6, 30, 48]]}, {"input_boxes": [[3, 26, 60, 70]]}),
}


@pytest.mark.parametrize(("bare", "moved"), PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("mirror", [False, True])
def test_the_scan_is_answered_as_it_is_without_a_frame(model, processor, image, bare, moved, mirror):
    asked = [(image, bare), (framed(image), moved)]
    alone, within = segment(model, processor, asked, mirror=mirror, **OPTIONS)
    left, top, right, bottom = BORDERS
    for name in MAPS:
        wanted = np.pad(getattr(alone, name), ((top, bottom), (left, right)))
        np.testing.assert_array_equal(getattr(within, name), wanted, err_msg=name)
    assert (alone.final_probability > 0.5).any()
    assert within.presence == alone.presence


def test_the_pipeline_cuts_it_too(model, processor, image):
    segmenter = pipeline("lesion-segmentation", model=model, image_processor=processor.image_processor)
    alone, within = segmenter([image, framed(image)], **OPTIONS)
    x1, y1, x2, y2 = alone["box"]
    assert within["box"] == [x1 + 30, y1 + 20, x2 + 30, y2 + 20]
    assert within["mask"].size == framed(image).size


def test_captions_and_a_ruler_belong_to_the_frame(image):
    picture = ImageOps.expand(scan(240, 320, 4)[0], (80, 60, 120, 40), 0)
    draw = ImageDraw.Draw(picture)
    draw.text((90, 10), "L12-5  MI 0.8  TIS 0.1", fill=255)
    draw.text((330, 320), "RT BREAST 2:00", fill=255)
    for depth in range(60, 300, 20):
        draw.line([(420, depth), (428, depth)], fill=255)
    assert ScanFrame.around(picture).box == (80, 60, 400, 300)


SCAN = PIL.Image.fromarray(np.array(scan(90, 120, 6)[0]).clip(12, 250))


@given(borders=st.tuples(*[st.integers(0, 90)] * 4), black=st.integers(0, 4))
@settings(deadline=None)
def test_black_ends_where_the_scan_begins(borders, black):
    frame = ScanFrame.around(ImageOps.expand(SCAN, borders, black))
    assert frame.box == (borders[0], borders[1], borders[0] + 120, borders[1] + 90)
    assert np.array_equal(frame.put_back(np.asarray(SCAN)), np.asarray(ImageOps.expand(SCAN, borders, 0)))


@given(outer=st.integers(5, 40), gray=st.integers(0, 255), inner=st.integers(0, 40))
@settings(deadline=None)
def test_any_gray_that_goes_all_round_is_a_frame_and_may_hold_a_black_one(outer, gray, inner):
    picture = ImageOps.expand(ImageOps.expand(SCAN, inner, 0), outer, gray)
    start = outer + inner
    assert ScanFrame.around(picture).box == (start, start, start + 120, start + 90)


def test_a_frame_may_leave_one_side_open():
    picture = ImageOps.expand(SCAN, (40, 40, 40, 0), 52)
    assert ScanFrame.around(picture).box == (40, 40, 160, 130)


def test_even_tissue_below_is_scan():
    pixels = np.array(SCAN)
    pixels[60:] = 40
    assert ScanFrame.around(PIL.Image.fromarray(pixels)) == ScanFrame.none(120, 90)


@pytest.mark.parametrize("gray", [0, 3, 90])
def test_an_even_picture_has_no_frame(gray):
    assert ScanFrame.around(PIL.Image.new("RGB", (40, 30), (gray,) * 3)) == ScanFrame.none(40, 30)


def test_a_shadow_at_the_bottom_is_scan(image):
    pixels = np.array(image)
    pixels[40:, :50] = 0
    assert ScanFrame.around(PIL.Image.fromarray(pixels)) == ScanFrame.none(64, 48)


def test_rows_go_on_into_black_corners(model, processor):
    pixels = np.array(scan(60, 80, 5)[0]).clip(20)
    steered, wanted = pixels.copy(), pixels.copy()
    for row in range(30):
        left, right = 30 - row, 80 - (30 - row) // 2
        steered[row, :left] = steered[row, right:] = 0
        wanted[row, :left], wanted[row, right:] = pixels[row, left], pixels[row, right - 1]
    picture = PIL.Image.fromarray(steered)
    frame = ScanFrame.around(picture)
    assert frame == ScanFrame.none(80, 60)
    np.testing.assert_array_equal(np.asarray(frame.cut(picture)), wanted)
    seen, meant = segment(model, processor, [picture, PIL.Image.fromarray(wanted)], **OPTIONS)
    np.testing.assert_array_equal(seen.probability, meant.probability)
    turned = ImageOps.flip(picture)
    np.testing.assert_array_equal(np.asarray(frame.cut(turned)), wanted[::-1])


def test_a_cyst_at_the_edge_is_no_corner():
    pixels = np.array(scan(60, 80, 5)[0]).clip(20)
    pixels[20:40, :25] = pixels[15:30, 60:] = 0
    picture = PIL.Image.fromarray(pixels)
    np.testing.assert_array_equal(np.asarray(ScanFrame.around(picture).cut(picture)), pixels)


def test_a_prompt_outside_is_told_the_size_of_the_picture(model, processor, image):
    with pytest.raises(ValueError, match="outside their image of 144x78 pixels"):
        list(segment(model, processor, [(framed(image), {"input_points": [[145, 20]]})]))
