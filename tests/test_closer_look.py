"""A click that the first answer leaves out is looked at again, in a part of the scan; any other is not."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfrecsam_hf import Segmentation, segment
from sfrecsam_hf.modeling.closer_look import PART, look_closer, part_around

WIDTH, HEIGHT = 120, 80
PICTURE = PIL.Image.new("RGB", (WIDTH, HEIGHT))
CLICK = (90.0, 40.0, 1)


def answering(mask, score=0.5):
    maps = dict.fromkeys(("probability", "initial_probability", "final_probability", "uncertainty"), mask * score)
    return Segmentation(mask=mask, initial_mask=mask.copy(), **maps, presence=0.8, score=score)


def square(size, x1, y1, x2, y2):
    mask = np.zeros(size[::-1], bool)
    mask[y1:y2, x1:x2] = True
    return mask


FIRST = answering(square((WIDTH, HEIGHT), 10, 10, 40, 40))


def never(part, clicks):
    pytest.fail("it looked again")


def test_a_click_inside_the_answer_needs_no_second_look():
    assert look_closer(FIRST, PICTURE, [(20.0, 20.0, 1), (90.0, 40.0, 0)], never) is FIRST
    assert look_closer(FIRST, PICTURE, [], never) is FIRST


def test_what_the_second_look_finds_at_the_click_is_the_answer():
    def near(part, clicks):
        assert max(part.size) == round(PART * WIDTH)
        (x, y, label), (*_, other) = clicks
        assert (x, y, label) == (part.width / 2, part.height / 2, 1), "the click is in the middle"
        assert other == 0
        x, y = int(x), int(y)
        mask = square(part.size, x - 5, y - 5, x + 5, y + 5) | square(part.size, 0, 0, 3, 3)
        return answering(mask, 0.9)

    found = look_closer(FIRST, PICTURE, [CLICK, (95.0, 45.0, 0), (15.0, 15.0, 0)], near)
    assert np.array_equal(found.mask, square((WIDTH, HEIGHT), 85, 35, 95, 45)), "the piece with the click, no other"
    assert found.score == 0.9
    assert found.uncertainty[40, 90] == pytest.approx(0.9)
    assert found.uncertainty[20, 20] == FIRST.uncertainty[20, 20], "what it did not look at stays"
    assert FIRST.mask[20, 20]
    assert not FIRST.mask[40, 90], "the first answer is left as it is"


def test_a_second_look_that_leaves_the_click_out_too_changes_nothing():
    assert look_closer(FIRST, PICTURE, [CLICK], lambda part, _: answering(square(part.size, 0, 0, 3, 3))) is FIRST


@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_part_lies_in_the_picture_and_holds_the_point(size, share):
    x, y = (extent * part for extent, part in zip(size, share, strict=True))
    x1, y1, x2, y2 = part_around(x, y, size)
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    assert x1 <= min(int(x), size[0] - 1) < x2
    assert y1 <= min(int(y), size[1] - 1) < y2
    assert max(x2 - x1, y2 - y1) <= max(round(PART * max(size)), 1)


@torch.no_grad()
def test_segment_looks_again_at_the_clicks_of_its_caller(model, processor, monkeypatch):
    seen = []

    def looked(found, picture, clicks, answer):
        seen.append((picture.size, clicks))
        return answer(picture.crop((0, 0, 50, 50)), [(10.0, 10.0, 1)])

    monkeypatch.setattr("sfrecsam_hf.modeling.segmentation.look_closer", looked)
    scan = PIL.Image.fromarray(np.random.default_rng(0).integers(1, 255, (80, 120), dtype=np.uint8))
    asked = {"input_points": [[90, 40], [5, 6]], "input_labels": [1, 0]}
    (found,) = segment(model, processor, [(scan, asked)])
    ((size, clicks),) = seen
    assert size == scan.size
    assert np.allclose([click[:2] for click in clicks], asked["input_points"], atol=1e-3)
    assert [click[2] for click in clicks] == [1, 0]
    assert found.mask.shape == (50, 50), "the second answer is the model's own, and is not looked at again"
    seen.clear()
    list(segment(model, processor, [scan]))
    assert not seen
