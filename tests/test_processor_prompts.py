"""The processor maps prompts from the image's pixels to the model's, pads mixed batches, and refuses bad ones."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, scan
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import SFRecSamImageProcessor, SFRecSamProcessor

IMAGES = [scan(40, 80, 1)[0], scan(90, 60, 2)[0], scan(64, 64, 3)[0]]
PROCESSOR = SFRecSamProcessor(SFRecSamImageProcessor(image_size=IMAGE_SIZE))


@given(height=st.integers(2, 400), width=st.integers(2, 400), x=st.floats(0, 1), y=st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_points_keep_their_relative_place(height, width, x, y):
    image = np.zeros((height, width), np.uint8)
    inputs = PROCESSOR(image, input_points=[[[x * width, y * height]]], input_boxes=[[0, 0, width, height]])
    rows, columns = inputs["reshaped_input_sizes"][0].tolist()
    point = inputs["input_points"][0, 0, 0]
    assert point.tolist() == pytest.approx([x * columns, y * rows], abs=1e-3)
    assert inputs["input_boxes"][0, 0].tolist() == pytest.approx([0, 0, columns, rows], abs=1e-3)
    assert inputs["input_labels"].tolist() == [[[1]]]


def test_nothing_given_nothing_added():
    inputs = PROCESSOR(IMAGES)
    assert set(inputs) == {"pixel_values", "original_sizes", "scan_boxes", "reshaped_input_sizes", "text"}
    assert isinstance(inputs["pixel_values"], torch.Tensor)


def test_mixed_batches_are_padded_with_absent_prompts():
    inputs = PROCESSOR(
        IMAGES,
        input_points=[None, [[10, 20], [30, 40]], [[[1, 2]], [[3, 4]]]],
        input_labels=[None, [1, 0], None],
        input_boxes=[[0, 0, 80, 40], None, None],
    )
    points, labels, boxes = (inputs[name] for name in ("input_points", "input_labels", "input_boxes"))
    assert points.shape == (3, 2, 2, 2)
    assert labels.tolist() == [[[-10, -10], [-10, -10]], [[1, 0], [-10, -10]], [[1, -10], [1, -10]]]
    assert (points[labels == -10] == -10).all()
    assert boxes[0, 0].tolist() == [0, 0, 64, 32]
    assert (boxes[0, 1] == -10).all()
    assert (boxes[1:] == -10).all()


def test_nested_flat_and_array_prompts_are_the_same():
    flat = PROCESSOR(IMAGES[0], input_points=[[[10, 20], [30, 30]]], input_labels=[[1, 0]])
    nested = PROCESSOR(IMAGES[0], input_points=[[[[10, 20], [30, 30]]]], input_labels=[[[1, 0]]])
    arrays = PROCESSOR(IMAGES[0], input_points=[np.array([[10, 20], [30, 30]])], input_labels=np.array([[1, 0]]))
    for other in (nested, arrays):
        for name in ("input_points", "input_labels"):
            assert torch.equal(flat[name], other[name])


def test_empty_prompts_are_no_prompts():
    inputs = PROCESSOR(IMAGES[:2], input_points=[[], None], input_boxes=[[], None])
    assert (inputs["input_labels"] == -10).all()
    assert (inputs["input_boxes"] == -10).all()


def test_masks_travel_with_their_image():
    image, mask = scan(40, 80, 1)
    labels = PROCESSOR(image, segmentation_maps=mask)["labels"][0]
    assert labels[:32].any()
    assert not labels[32:].any()


BAD = {
    "a point outside": ({"input_points": [[[81, 10]]]}, r"input_points .* outside their image of 80x40"),
    "a negative point": ({"input_points": [[[-1, 10]]]}, r"input_points .* outside"),
    "a NaN point": ({"input_points": [[[float("nan"), 10]]]}, r"input_points .* outside"),
    "a box outside": ({"input_boxes": [[0, 0, 10, 41]]}, r"input_boxes .* outside their image of 80x40"),
    "a point of three numbers": ({"input_points": [[[1, 2, 3]]]}, r"input_points needs \[x, y\] points"),
    "a point that is no list": ({"input_points": [[1, 2]]}, r"input_points needs a list of \[x, y\] points"),
    "a box of three numbers": ({"input_boxes": [[1, 2, 3]]}, r"input_boxes needs \[x1, y1, x2, y2\] boxes"),
    "labels alone": ({"input_labels": [[1]]}, r"input_labels need input_points"),
    "too few labels": ({"input_points": [[[1, 2], [3, 4]]], "input_labels": [[1]]}, r"one label for each"),
    "too many points": ({"input_points": [[[1, 2]], [[1, 2]]]}, r"input_points has 2 entries for 1 images"),
    "too many boxes": ({"input_boxes": [None, None]}, r"input_boxes has 2 entries for 1 images"),
    "too many labels": (
        {"input_points": [[[1, 2]]], "input_labels": [[1], [1]]},
        r"input_labels has 2 entries for 1 images",
    ),
}


@pytest.mark.parametrize(("prompts", "message"), BAD.values(), ids=BAD)
def test_bad_prompts_are_refused_in_one_sentence(prompts, message):
    with pytest.raises(ValueError, match=message) as error:
        PROCESSOR(IMAGES[0], **prompts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("box", [[50, 10, 10, 30], [10, 10, 10, 30], [10, 30, 40, 30]])
def test_a_box_without_area_is_refused_in_pixels_of_its_image(box):
    with pytest.raises(ValueError, match=r"no area in their image of 80x40 pixels; give x1 < x2"):
        PROCESSOR(IMAGES[:1], input_boxes=[box])
