"""`pipeline("mask-generation")` works as for SAM, and needs no torchvision."""

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, TINY_PARTS, scan, tiny_model, tiny_sam
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import pipeline

from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil, non_maximum_suppression
from sfrecsam_hf.modeling.model_outputs import sizes_inside_padding
from sfrecsam_hf.modeling.pipeline_sfrecsam import SFRecSamMaskGenerationPipeline

EVERY_MASK = {"points_per_crop": 4, "pred_iou_thresh": -9, "stability_score_thresh": 0, "crops_nms_thresh": 1}
PROCESSOR = SFRecSamImageProcessorPil(image_size=IMAGE_SIZE)
WHOLE = SFRecSamImageProcessorPil(image_size=IMAGE_SIZE, do_crop_border=False)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A SAM and the SF-RecSAM that extends it, untrained."""
    folder = tmp_path_factory.mktemp("sam")
    tiny_sam().save_pretrained(folder)
    additions = {
        name: TINY_PARTS[name] for name in ("branch_width", "decoder_channels", "corrector_channels", "mc_samples")
    }
    models = tiny_sam(), SFRecSamModel.from_sam(str(folder), **additions)
    return [pipeline("mask-generation", model=model, image_processor=WHOLE) for model in models[:1]] + [
        SFRecSamMaskGenerationPipeline(model=models[1], image_processor=PROCESSOR)
    ]


@pytest.fixture
def generate():
    return SFRecSamMaskGenerationPipeline(model=tiny_model(), image_processor=PROCESSOR)


@pytest.mark.parametrize(
    "options",
    [
        EVERY_MASK,
        {**EVERY_MASK, "pred_iou_thresh": 0.5},
        {**EVERY_MASK, "stability_score_thresh": 0.8, "stability_score_offset": 0.1},
        {**EVERY_MASK, "crops_nms_thresh": 0.9},
        {**EVERY_MASK, "crops_n_layers": 1, "points_per_batch": 7},
        {**EVERY_MASK, "output_rle_mask": True, "output_bboxes_mask": True},
        {"points_per_crop": 8},
    ],
)
def test_an_untrained_model_gives_the_masks_of_its_sam(sam, options):
    image, _ = scan(IMAGE_SIZE, IMAGE_SIZE, seed=3)
    theirs, ours = (generate(image, **options) for generate in sam)
    assert ours.keys() == theirs.keys()
    assert len(ours["masks"]) == len(theirs["masks"])
    for mine, its in zip(ours["masks"], theirs["masks"], strict=True):
        np.testing.assert_array_equal(mine, its)
    torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-5, rtol=0)
    if options.get("output_rle_mask"):
        assert ours["rle_mask"] == theirs["rle_mask"]
        assert torch.equal(ours["bounding_boxes"], theirs["bounding_boxes"])


@pytest.mark.parametrize("size", [(64, 64), (60, 90), (90, 37)])
@torch.no_grad()
def test_each_mask_is_what_the_model_answers_to_that_click(generate, size):
    image, _ = scan(*size, seed=4)
    found = generate(image, **EVERY_MASK)
    model, processor = generate.model, SFRecSamProcessor(PROCESSOR)
    height, width = size
    clicks = [[[(x + 0.5) * width / 4, (y + 0.5) * height / 4]] for y in range(4) for x in range(4)]
    inputs = processor([image], input_points=[clicks])
    outputs = model(**inputs, multimask_output=True, mc_samples=0)
    scores = outputs.iou_scores[0].flatten()
    order = scores.argsort(descending=True, stable=True)
    masks = (PROCESSOR.restore(outputs.pred_masks[0], size, inputs["scan_boxes"][0]) > 0).flatten(0, 1)[order]
    torch.testing.assert_close(found["scores"], scores[order], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(np.stack(found["masks"]), masks.numpy())
    assert 0 < masks.float().mean() < 1


def test_several_images_and_batches(generate):
    images = [scan(*size, seed=5)[0] for size in ((60, 90), (64, 64), (40, 41))]
    expected = [generate(image, **EVERY_MASK) for image in images]
    for options in ({}, {"batch_size": 2}, {"points_per_batch": 5}):
        found = generate(images, **EVERY_MASK, **options)
        for mine, its in zip(found, expected, strict=True):
            # Larger batches round otherwise, which may take single pixels over the threshold.
            assert np.mean(np.not_equal(mine["masks"], its["masks"])) < 1e-4
            torch.testing.assert_close(mine["scores"], its["scores"], atol=1e-5, rtol=0)


def test_a_deep_image_is_not_cut_off(generate):
    image, _ = scan(60, 90, seed=3)
    deep = np.asarray(image).astype(np.uint16) * 200
    found, expected = generate(deep, **EVERY_MASK), generate(np.asarray(image) / 255, **EVERY_MASK)
    agreement = [(mine == its).mean() for mine, its in zip(found["masks"], expected["masks"], strict=True)]
    assert np.mean(agreement) > 0.9


@pytest.mark.parametrize("size", [(64, 64), (60, 90), (90, 37), (2, 200), (300, 7)])
def test_padding_is_told_from_the_pixels_alone(size):
    images = [scan(max(size[0], 8), max(size[1], 8), seed=6)[0].crop((0, 0, size[1], size[0])), np.zeros(size)]
    inputs = PROCESSOR(images, return_tensors="pt")
    assert torch.equal(sizes_inside_padding(inputs["pixel_values"]), inputs["reshaped_input_sizes"])


@settings(max_examples=60, deadline=None)
@given(corners=arrays(int, st.tuples(st.integers(0, 12), st.just(4)), elements=st.integers(0, 9)), data=st.data())
def test_suppression_keeps_what_no_better_box_overlaps(corners, data):
    boxes = np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:]) + 1], 1
    )
    scores = data.draw(arrays(np.float32, len(boxes), elements=st.integers(0, 5)))
    threshold = data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(overlap(boxes[index], boxes[better]) <= threshold for better in kept):
            kept.append(index)
    found = non_maximum_suppression(torch.tensor(boxes).float(), torch.tensor(scores), threshold)
    assert found.tolist() == kept


def overlap(first, second) -> float:
    """Of two boxes, by counting pixels."""
    cells = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (first, second)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])
