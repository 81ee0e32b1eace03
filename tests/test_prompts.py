"""Prompts: the model makes its own without ground truth, the caller's replace them, and a batch may mix both."""

import pytest
import torch
from conftest import IMAGE_SIZE, scan, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.modeling.prompts import Prompts, automatic_prompts, jittered, prompt_maps


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def blob(rows, columns, size=32):
    logits = torch.full((1, 1, size, size), -6.0)
    logits[..., rows, columns] = 6.0
    return logits


def test_the_automatic_prompts_frame_the_coarse_mask():
    prompts = automatic_prompts(blob(slice(8, 20), slice(4, 14)), image_size=64, margin=0.1, mask_size=32)
    expected = torch.tensor([[8.0 - 2, 16 - 2.4, 28 + 2, 40 + 2.4]])
    assert torch.allclose(prompts.boxes, expected, atol=2 * 2.5)
    x, y = prompts.points[0, 0]
    assert 8 <= x <= 28
    assert 16 <= y <= 40
    assert prompts.labels.tolist() == [[1]]
    assert torch.equal(prompts.masks, blob(slice(8, 20), slice(4, 14)))


@given(seed=st.integers(0, 2**31), height=st.integers(5, 40), offset=st.sampled_from([-30.0, 0.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_automatic_prompts_always_lie_inside(seed, height, offset):
    coarse = torch.randn(3, 1, height, height, generator=torch.Generator().manual_seed(seed)) * 5 + offset
    prompts = automatic_prompts(coarse, image_size=64, margin=0.3, mask_size=32)
    assert (prompts.boxes >= 0).all()
    assert (prompts.boxes <= 64).all()
    assert (prompts.boxes[:, 2:] > prompts.boxes[:, :2]).all()
    assert (prompts.points >= 0).all()
    assert (prompts.points <= 64).all()


@torch.no_grad()
def test_automatic_prompts_use_no_ground_truth(model, pixels):
    plain = model(pixels)
    for labels in (torch.zeros(2, 64, 64), torch.ones(2, 64, 64)):
        told = model(pixels, labels=labels)
        for name in ("prompt_boxes", "prompt_points", "pred_masks", "predictive_entropy"):
            assert torch.equal(told[name], plain[name]), name
    assert plain.prompt_is_automatic.all()
    coarse = automatic_prompts(plain.coarse_masks, IMAGE_SIZE, model.config.box_margin, 32)
    assert torch.equal(plain.prompt_boxes[:, 0], coarse.boxes)
    assert torch.equal(plain.prompt_points[:, 0], coarse.points)


@torch.no_grad()
def test_prompts_reach_the_high_resolution_features(pixels):
    model = tiny_model()
    clicks = [torch.tensor([[[place]]] * 2) for place in ([12.0, 12.0], [50.0, 50.0])]
    encoded = model.get_image_embeddings(pixels)
    prompts = [Prompts(points=click[:, 0], labels=torch.ones(2, 1)) for click in clicks]
    features = encoded.high_resolution_features
    evidence = features, encoded.pixels, encoded.image_embeddings
    first, second = (model.prompt_fusion(*evidence, one, IMAGE_SIZE) for one in prompts)
    assert (first - second).abs().mean() > 0.01
    model.prompt_fusion.leave.weight.zero_()
    model.prompt_fusion.leave.bias.zero_()
    assert torch.equal(model.prompt_fusion(*evidence, prompts[0], IMAGE_SIZE), features)


@torch.no_grad()
def test_prompts_ask_of_the_pixels_what_the_features_have_missed(pixels):
    model = tiny_model()
    encoded = model.get_image_embeddings(pixels)
    click = Prompts(points=torch.full((2, 1, 2), 30.0), labels=torch.ones(2, 1))
    features, embeddings = encoded.high_resolution_features, encoded.image_embeddings
    seen, dark = (
        model.prompt_fusion(features, image, embeddings, click, IMAGE_SIZE)
        for image in (encoded.pixels, torch.zeros_like(encoded.pixels))
    )
    assert (seen - dark).abs().mean() > 0.001


@pytest.mark.parametrize(
    "given_prompt",
    [
        {"input_points": torch.full((2, 1, 1, 2), 20.0)},
        {"input_points": torch.full((2, 1, 2, 2), 20.0), "input_labels": torch.tensor([[[1, 0]]] * 2)},
        {"input_boxes": torch.tensor([[[10.0, 10, 30, 40]]] * 2)},
        {"input_masks": torch.randn(2, 1, 32, 32)},
    ],
    ids=["point", "two points", "box", "mask"],
)
@torch.no_grad()
def test_what_the_caller_gives_replaces_the_automatic_prompt(model, pixels, given_prompt):
    output = model(pixels, **given_prompt)
    assert not output.prompt_is_automatic.any()
    assert torch.equal(output.prompt_boxes, given_prompt.get("input_boxes", torch.full((2, 1, 4), -10.0)))
    points = given_prompt.get("input_points", torch.zeros(2, 1, 0, 2))
    assert torch.equal(output.prompt_points, points)
    assert not torch.equal(output.initial_masks, model(pixels).initial_masks)
    assert torch.equal(output.coarse_masks, model(pixels).coarse_masks)


@torch.no_grad()
def test_a_mixed_batch_through_the_processor(model, processor):
    images = [scan(40 + 8 * index, 70, index)[0] for index in range(4)]
    prompts = {
        "input_points": [None, [[30, 20]], [[[10, 10], [20, 12], [5, 30]], [[40, 44]]], None],
        "input_labels": [None, None, [[1, 0, 1], [1]], None],
        "input_boxes": [None, None, None, [5, 5, 60, 40]],
    }
    inputs = processor(images, **prompts)
    assert inputs["input_points"].shape == (4, 2, 3, 2)
    output = model(**inputs)
    assert output.pred_masks.shape[:3] == (4, 2, 1)
    assert output.prompt_is_automatic.tolist() == [[True, True], [False, True], [False, False], [False, True]]
    for index, image in enumerate(images):
        own = {name: [values[index]] for name, values in prompts.items() if values[index] is not None}
        alone = model(**processor([image], **own))
        count = alone.pred_masks.shape[1]
        assert torch.allclose(output.pred_masks[index, :count], alone.pred_masks[0], atol=1e-4)


@torch.no_grad()
def test_the_prompts_that_were_used_make_sam_answer_the_same_again(pixels):
    model = tiny_model()
    model.high_resolution_join.projection.weight.zero_()  # what remains is SAM's own mask
    output = model(pixels, presence_threshold=0.0)
    mask = output.coarse_masks
    again = model(
        pixels,
        input_points=output.prompt_points,
        input_labels=output.prompt_labels,
        input_boxes=output.prompt_boxes,
        input_masks=mask,
    )
    assert torch.allclose(again.initial_masks, output.initial_masks, atol=1e-5)
    assert torch.equal(again.prompt_boxes, output.prompt_boxes)


def test_jitter_stays_inside_and_keeps_boxes_upright():
    prompts = automatic_prompts(blob(slice(0, 32), slice(0, 3)), 64, 0.1, 32)
    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    moved = jittered(prompts, noise, 64)
    assert moved.boxes.shape == (50, 4)
    for corner in (moved.boxes, moved.points):
        assert (corner >= 0).all()
        assert (corner <= 64).all()
    assert (moved.boxes[:, 2:] >= moved.boxes[:, :2]).all()
    still = jittered(prompts, torch.zeros(1, 4), 64)
    assert torch.equal(still.boxes, prompts.boxes)
    assert torch.equal(still.points, prompts.points)


BAD = {
    "points of the wrong rank": ({"input_points": torch.ones(2, 1, 2)}, r"input_points must have shape"),
    "points of three numbers": ({"input_points": torch.ones(2, 1, 1, 3)}, r"input_points must have shape"),
    "points outside": ({"input_points": torch.full((2, 1, 1, 2), 65.0)}, r"input_points lie outside the 64 pixels"),
    "negative points": ({"input_points": torch.full((2, 1, 1, 2), -1.0)}, r"input_points lie outside"),
    "NaN points": ({"input_points": torch.full((2, 1, 1, 2), float("nan"))}, r"input_points lie outside"),
    "labels alone": ({"input_labels": torch.ones(2, 1, 1)}, r"input_labels need input_points"),
    "labels of another shape": (
        {"input_points": torch.ones(2, 1, 2, 2), "input_labels": torch.ones(2, 1, 1)},
        r"input_labels must have the shape \(2, 1, 2\)",
    ),
    "labels of another value": (
        {"input_points": torch.ones(2, 1, 1, 2), "input_labels": torch.full((2, 1, 1), 7)},
        r"input_labels must be 1 \(lesion\), 0",
    ),
    "boxes of the wrong rank": ({"input_boxes": torch.ones(2, 4)}, r"input_boxes must have shape"),
    "boxes with x1 above x2": (
        {"input_boxes": torch.tensor([[[30.0, 9, 10, 20]]] * 2)},
        r"input_boxes lie .* x1 > x2",
    ),
    "boxes outside": ({"input_boxes": torch.tensor([[[1.0, 9, 10, 200]]] * 2)}, r"input_boxes lie outside"),
    "another batch": ({"input_points": torch.ones(3, 1, 1, 2)}, r"given for 3 images, but the batch has 2"),
    "other numbers of prompts": (
        {"input_points": torch.ones(2, 2, 1, 2), "input_boxes": torch.ones(2, 3, 4)},
        r"as many boxes as point prompts",
    ),
    "a mask of another size": ({"input_masks": torch.ones(2, 1, 64, 64)}, r"input_masks must have shape .*32, 32"),
}


@pytest.mark.parametrize(("prompts", "message"), BAD.values(), ids=BAD)
@torch.no_grad()
def test_bad_prompts_are_refused_in_one_sentence(model, pixels, prompts, message):
    with pytest.raises(ValueError, match=message):
        model(pixels, **prompts)


def test_prompt_maps_tell_clicks_on_the_lesion_from_clicks_beside_it_and_show_the_inside_of_a_box():
    points = torch.tensor([[[16.0, 32.0], [48.0, 32.0]], [[16.0, 32.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 0], [1, -10]])
    lesion, beside, *rest = prompt_maps(Prompts(points=points, labels=labels), size=32, image_size=64).unbind(1)
    assert lesion.shape == (2, 32, 32)
    assert lesion[0, 16, 8] > 0.9 > 0.1 > lesion[0, 16, 24]
    assert beside[0, 16, 24] > 0.9 > 0.1 > beside[0, 16, 8]
    assert torch.equal(lesion[0], lesion[1])
    assert not beside[1].any()
    assert not torch.stack(rest).any()
    box = prompt_maps(Prompts(boxes=torch.tensor([[8.0, 16.0, 40.0, 48.0]])), size=32, image_size=64)[0, 2]
    rows, columns = torch.nonzero(box > 0, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 4, 19)
    assert box[0, 31] < -0.9
    assert not prompt_maps(Prompts(masks=torch.zeros(1, 1, 32, 32)), size=32, image_size=64).any()


@torch.no_grad()
def test_a_click_moves_the_mask_where_it_points(pixels):
    model = tiny_model()
    clicks = [torch.tensor([[[place]]] * 2) for place in ([12.0, 12.0], [50.0, 50.0])]
    first, second = (model(pixels, input_points=click).initial_masks for click in clicks)
    moved = (first - second).abs()[:, 0, 0]
    assert moved[:, :12, :12].mean() > 0.05
    assert moved[:, -12:, -12:].mean() > 0.05
