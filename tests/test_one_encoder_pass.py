"""The image encoder runs once, however many samples and prompts are asked for."""

from collections import Counter

import pytest
import torch
from conftest import IMAGE_SIZE

PROMPTS = {
    "automatic": {},
    "one point": {"input_points": torch.full((2, 1, 1, 2), 30.0)},
    "three boxes": {"input_boxes": torch.tensor([[[4.0, 4, 30, 30], [10, 9, 60, 50], [20, 20, 24, 24]]] * 2)},
}


@pytest.fixture
def runs(model):
    """How many images went through each part of the encoder, and how often."""
    counted = Counter()
    for name, part in (("encoder", model.vision_encoder), ("branch", model.branch), ("decoder", model.mask_decoder)):
        part.register_forward_hook(lambda *_, name=name: counted.update([name]))
    model.vision_encoder.patch_embed.register_forward_pre_hook(
        lambda _, inputs: counted.update({"images": len(inputs[0])})
    )
    return counted


@pytest.mark.parametrize("samples", range(17))
@torch.no_grad()
def test_once_for_any_number_of_samples(model, runs, pixels, samples):
    output = model(pixels, mc_samples=samples)
    assert runs == {"encoder": 1, "branch": 1, "decoder": 1, "images": 2}
    assert output.pred_masks.isfinite().all()
    assert bool((output.mutual_information > 0).any()) == (samples > 1)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@torch.no_grad()
def test_once_for_any_prompts(model, runs, pixels, prompts):
    model(pixels, **prompts, mc_samples=5)
    assert runs == {"encoder": 1, "branch": 1, "decoder": 1, "images": 2}


@torch.no_grad()
def test_never_for_embeddings_that_are_there(model, runs, pixels):
    encoded = model.get_image_embeddings(pixels)
    for prompts in PROMPTS.values():
        model(image_embeddings=encoded, **prompts)
    assert (runs["encoder"], runs["decoder"]) == (1, 3)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@torch.no_grad()
def test_embeddings_then_prompts_equal_one_call(model, pixels, prompts):
    sizes = torch.tensor([[IMAGE_SIZE, 40], [30, IMAGE_SIZE]])
    at_once = model(pixels, reshaped_input_sizes=sizes, **prompts)
    encoded = model.get_image_embeddings(pixels, sizes)
    afterwards = model(image_embeddings=encoded, **prompts)
    for name in ("pred_masks", "initial_masks", "coarse_masks", "predictive_entropy", "presence_logits", "iou_scores"):
        assert torch.equal(afterwards[name], at_once[name]), name


def test_the_image_or_its_embeddings_are_needed(model, pixels):
    with pytest.raises(ValueError, match="either pixel_values or image_embeddings"):
        model()
    with pytest.raises(ValueError, match="get_image_embeddings"):
        model(image_embeddings=model.get_image_embeddings(pixels).image_embeddings)
    with pytest.raises(ValueError, match="mc_samples=-1"):
        model(pixels, mc_samples=-1)
