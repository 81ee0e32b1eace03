"""With `mirror=True` image and mirror image get the same answer, and what their views disagree on is uncertain."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import scan
from PIL import ImageOps
from transformers import pipeline

from sfrecsam_hf import segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.modeling.mirrored_view import both_views
from sfrecsam_hf.modeling.uncertainty import binary_entropy

SIZES = {"landscape": (48, 64), "portrait": (64, 40)}
MAPS = ("mask", "initial_mask", "probability", "final_probability", "uncertainty")


def prompts(width: int, mirror: bool) -> dict[str, dict]:
    left, right = (width - 35, width - 5) if mirror else (5, 35)
    points = [[width - x if mirror else x, y] for x, y in ((20, 30), (35, 10))]
    return {
        "none": {},
        "points": {"input_points": points, "input_labels": [1, 0]},
        "a box": {"input_boxes": [[left, 6, right, 30]]},
    }


@pytest.fixture(scope="module")
def image():
    return scan(48, 64, 3)[0]


@pytest.mark.parametrize("kind", ["none", "points", "a box"])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_answer_to_the_mirror_image_is_the_mirrored_answer(model, processor, size, kind, samples):
    image, width = scan(*size, 3)[0], size[1]
    asked = [(image, prompts(width, False)[kind]), (ImageOps.mirror(image), prompts(width, True)[kind])]
    options = {"mc_samples": samples, "presence_threshold": 0.0}
    one, other = segment(model, processor, asked, mirror=True, **options)
    for name in MAPS:
        np.testing.assert_allclose(getattr(other, name)[:, ::-1], getattr(one, name), atol=2e-3, err_msg=name)
    assert other.presence == pytest.approx(one.presence, abs=1e-4)
    plain, turned = segment(model, processor, asked, **options)
    assert np.abs(turned.probability[:, ::-1] - plain.probability).max() > 0.05, "or there is nothing to average"


def test_images_of_all_shapes_mix_in_a_batch(model, processor):
    images = [scan(*size, 3)[0] for size in ((48, 64), (64, 40), (33, 80), (90, 61))]
    together = list(segment(model, processor, images, batch_size=4, mirror=True))
    for image, found in zip(images, together, strict=True):
        (alone,) = segment(model, processor, [image], mirror=True)
        np.testing.assert_allclose(found.probability, alone.probability, atol=1e-4)


def test_it_is_the_mean_of_both_views_and_disagreement_is_uncertain(model, processor, image):
    inputs = processor([image])
    with torch.inference_mode():
        mean = both_views(model, inputs, presence_threshold=0.0)
        views = [model(**processor([view]), presence_threshold=0.0) for view in (image, ImageOps.mirror(image))]
    probabilities = torch.stack([views[0].mean_probability, views[1].mean_probability.flip(-1)])
    torch.testing.assert_close(mean.mean_probability, probabilities.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean.predictive_entropy, binary_entropy(probabilities.mean(0)), rtol=0, atol=2e-3)
    presence = torch.stack([view.presence_logits.sigmoid() for view in views]).mean(0)
    torch.testing.assert_close(mean.presence_logits.sigmoid(), presence, rtol=0, atol=1e-5)
    assert (mean.mutual_information <= mean.predictive_entropy + 1e-6).all()
    apart = (probabilities[0] - probabilities[1]).abs() > 0.2
    own = torch.stack([views[0].mutual_information, views[1].mutual_information.flip(-1)]).mean(0)
    assert (mean.mutual_information[apart] > own[apart]).all()


def test_a_mask_is_refused_by_the_presence_of_both_views(model, processor, image):
    inputs = processor([image])
    with torch.inference_mode():
        presence = float(both_views(model, inputs, presence_threshold=0.0).presence_logits.sigmoid())
        refused = both_views(model, inputs, presence_threshold=presence + 1e-3)
        given = both_views(model, inputs, presence_threshold=presence - 1e-3)
    assert not (refused.pred_masks > 0).any()
    assert (given.pred_masks > 0).any()


def test_pipeline_and_command_line_give_this_answer(tiny_checkpoint, model, processor, tmp_path):
    image = scan(60, 90, 4)[0]
    image.save(tmp_path / "image.png")
    (expected,) = segment(model, processor, [image], mirror=True)
    found = pipeline("lesion-segmentation", model=str(tiny_checkpoint))(image, mirror=True)
    np.testing.assert_allclose(found["probability"], expected.probability, atol=1e-4)
    written = [
        "predict",
        str(tmp_path / "image.png"),
        "--model",
        str(tiny_checkpoint),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*written, "--mirror"]) == 0
    assert (np.asarray(PIL.Image.open(tmp_path / "out" / "image_mask.png")) > 0).tolist() == expected.mask.tolist()
