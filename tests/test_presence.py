"""The presence score empties the mask of an image without a lesion, and never that of an image the caller prompts."""

import pytest
import torch
from conftest import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@torch.no_grad()
def test_below_the_threshold_everything_is_empty(model, pixels):
    output = model(pixels, presence_threshold=1.0)
    for name in ("pred_masks", "initial_masks"):
        assert (output[name] < 0).all(), name
    for name in ("mean_probability", "predictive_entropy", "mutual_information"):
        assert (output[name] < 1e-6).all(), name
    assert not output.suspicious_region.any()


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
