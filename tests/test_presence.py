"""The presence score empties the mask of an image without a lesion, and never that of an image the caller prompts."""

import pytest
import torch
from conftest import tiny_model

from sfrecsam_hf.modeling.uncertainty import binary_entropy


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@torch.no_grad()
@pytest.mark.parametrize("samples", [0, 3])
def test_below_the_threshold_the_masks_are_empty_and_the_doubt_is_told(model, pixels, samples):
    shown = model(pixels, presence_threshold=0.0, mc_samples=samples)
    output = model(pixels, presence_threshold=1.0, mc_samples=samples)
    for name in ("pred_masks", "initial_masks"):
        assert (shown[name] > 0).any(), name
        assert (output[name] < 0).all(), name
    assert not output.suspicious_region.any()
    expected = output.presence_logits.sigmoid().view(-1, 1, 1, 1, 1) * shown.mean_probability
    torch.testing.assert_close(output.mean_probability, expected)
    torch.testing.assert_close(output.predictive_entropy, binary_entropy(expected))
    assert (output.mutual_information <= output.predictive_entropy).all()


@torch.no_grad()
def test_the_loss_does_not_hear_the_threshold(model, pixels):
    labels = torch.ones(len(pixels), 64, 64)
    losses = [model(pixels, labels=labels, presence_threshold=threshold).loss for threshold in (0.0, 1.0)]
    assert torch.equal(*losses)


@torch.no_grad()
def test_above_the_threshold_nothing_changes(model, pixels):
    never, default = model(pixels, presence_threshold=0.0), model(pixels)
    assert (default.presence_logits > 0).all()
    assert torch.equal(never.pred_masks, default.pred_masks)
    assert (never.pred_masks > 0).any()


@torch.no_grad()
def test_each_image_is_judged_by_its_own_score(model, pixels):
    scores = model(pixels).presence_logits.sigmoid()
    between = float(scores.mean())
    output = model(pixels, presence_threshold=between)
    for mask, score in zip(output.initial_masks, scores, strict=True):
        assert bool((mask > 0).any()) == bool(score >= between)


@torch.no_grad()
def test_a_prompted_image_is_answered_whatever_the_score(model, pixels):
    points, labels = torch.full((2, 1, 1, 2), 30.0), torch.tensor([[[1]], [[-10]]])
    output = model(pixels, input_points=points, input_labels=labels, presence_threshold=1.0)
    assert (output.initial_masks[0] > 0).any()
    assert not (output.initial_masks[1] > 0).any()


@torch.no_grad()
def test_the_score_learns_from_empty_labels(model, pixels):
    empty, full = torch.zeros(2, 64, 64), torch.ones(2, 64, 64)
    logits = model(pixels).presence_logits
    for labels, sign in ((empty, 1), (full, -1)):
        expected = torch.nn.functional.softplus(sign * logits).mean()
        assert torch.allclose(model(pixels, labels=labels).loss_terms["presence"], expected, atol=1e-5)


@torch.no_grad()
def test_half_of_the_score_is_the_surest_spot_of_the_coarse_mask_inside_the_image(pixels):
    def surest_spot(output):
        ranked = output.coarse_masks.flatten(1).sort(descending=True).values
        return ranked[:, : round(0.005 * ranked.shape[1])].mean(dim=1)

    model = tiny_model()
    for parameter in model.coarse_mask_head.presence[-1].parameters():
        parameter.zero_()
    whole = model(pixels)
    assert torch.allclose(2 * whole.presence_logits, surest_spot(whole))
    surest = whole.coarse_masks[0, 0].amax(dim=0).argmax() * pixels.shape[-1] // whole.coarse_masks.shape[-1]
    inside = torch.ones_like(pixels[:, 0])
    inside[0, :, surest - 4 : surest + 4] = 0
    padded = model(pixels, pixel_mask=inside)
    assert torch.allclose(2 * padded.presence_logits, surest_spot(padded))
    assert padded.presence_logits[0] != whole.presence_logits[0]
