"""An image with several prompts is given a mask for each, as by `SamModel`."""

import numpy as np
import pytest
from conftest import scan

from sfrecsam_hf import segment
from sfrecsam_hf.modeling.pipeline_sfrecsam import LesionSegmentationPipeline, SFRecSamImageSegmentationPipeline

IMAGE, OTHER = scan(48, 64, 3)[0], scan(64, 50, 4)[0]
BOXES = [[5, 6, 35, 30], [20, 10, 60, 45]]
POINTS = [[[20, 30]], [[40, 15], [10, 10]]]
OPTIONS = {"presence_threshold": 0.0}
MAPS = ("mask", "initial_mask", "probability", "uncertainty")


def alone(model, processor, image, name, prompt):
    (found,) = segment(model, processor, [(image, {name: [prompt]})], **OPTIONS)
    return found


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(("name", "prompts"), [("input_boxes", BOXES), ("input_points", POINTS)])
def test_each_prompt_has_its_own_answer(model, processor, name, prompts, mirror):
    (found,) = segment(model, processor, [(IMAGE, {name: prompts})], mirror=mirror, **OPTIONS)
    assert len(found) == len(prompts)
    for one, prompt in zip(found, prompts, strict=True):
        (expected,) = segment(model, processor, [(IMAGE, {name: [prompt]})], mirror=mirror, **OPTIONS)
        for kind in MAPS:
            np.testing.assert_allclose(getattr(one, kind), getattr(expected, kind), atol=1e-4)
        assert one.score == pytest.approx(expected.score, abs=1e-4)
    assert (found[0].probability != found[1].probability).any()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_images_with_none_one_and_two_prompts_mix(model, processor, batch_size):
    asked = [IMAGE, (IMAGE, {"input_boxes": BOXES}), (OTHER, {"input_boxes": BOXES[:1]}), OTHER]
    found = list(segment(model, processor, asked, batch_size=batch_size, **OPTIONS))
    assert [type(answer) is list for answer in found] == [False, True, False, False]
    expected = alone(model, processor, IMAGE, "input_boxes", BOXES[1])
    np.testing.assert_allclose(found[1][1].probability, expected.probability, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_pipelines_answer_with_a_list(model, processor, batch_size):
    segmenter = LesionSegmentationPipeline(model=model, image_processor=processor.image_processor)
    one, two, none = segmenter(
        [{"image": IMAGE, "input_boxes": BOXES[:1]}, {"image": IMAGE, "input_boxes": BOXES}, IMAGE],
        batch_size=batch_size,
        **OPTIONS,
    )
    assert isinstance(one, dict)
    assert isinstance(none, dict)
    assert len(two) == 2
    np.testing.assert_allclose(two[0]["probability"], one["probability"], atol=1e-4)
    assert (two[0]["probability"] != two[1]["probability"]).any()
    by_task = SFRecSamImageSegmentationPipeline(model=model, image_processor=processor.image_processor)
    shown = by_task(IMAGE, input_boxes=BOXES, **OPTIONS)
    assert len(shown) == sum(answer["box"] is not None for answer in two)
