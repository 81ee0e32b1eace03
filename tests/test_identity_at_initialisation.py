"""A new path is at first not there: the filter returns its input, and an extended SAM answers as that SAM."""

import pytest
import torch
from conftest import IMAGE_SIZE, tiny_sam
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import SFRecSamModel
from sfrecsam_hf.modeling.frequency_fusion import AttentionFusion, FrequencyFilter

POINTS = torch.tensor([[[[20.0, 30.0], [50.0, 10.0]]], [[[40.0, 41.5], [8.0, 60.0]]]])
LABELS = torch.tensor([[[1, 0]], [[1, 1]]])
BOXES = torch.tensor([[[5.0, 10.0, 40.0, 50.0]], [[20.0, 3.0, 64.0, 33.0]]])
MASKS = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 4
PROMPTS = {
    "points": {"input_points": POINTS, "input_labels": LABELS},
    "boxes": {"input_boxes": BOXES},
    "points and boxes": {"input_points": POINTS, "input_labels": LABELS, "input_boxes": BOXES},
    "points and mask": {"input_points": POINTS, "input_labels": LABELS, "input_masks": MASKS},
    "several prompts": {"input_boxes": torch.cat([BOXES, BOXES.flip(0)], dim=1)},
}


@given(
    height=st.integers(1, 67),
    width=st.integers(1, 67),
    channels=st.integers(1, 5),
    bins=st.integers(2, 33),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
@settings(deadline=None, max_examples=60)
def test_the_filter_returns_its_input_at_any_size(height, width, channels, bins, scale):
    features = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(height)) * scale
    returned = FrequencyFilter(channels, bins)(features)
    assert returned.shape == features.shape
    assert (returned - features).abs().max() <= 1e-5 * max(scale, 1)


@given(height=st.integers(2, 40), width=st.integers(2, 40))
@settings(deadline=None, max_examples=30)
def test_the_fusion_returns_its_input_while_the_filter_is_neutral(height, width):
    torch.manual_seed(0)
    features = torch.randn(2, 8, height, width)
    assert torch.allclose(AttentionFusion(8)(features, FrequencyFilter(8)(features)), features, atol=1e-5)


def test_a_trained_filter_is_selective_per_channel_and_frequency():
    fresh = FrequencyFilter(2, bins=3)
    fresh.curve.data = torch.tensor([[0.0, -1.0, -1.0], [-1.0, 0.0, 0.0]])
    signs = (-1.0) ** torch.arange(64)
    constant, checkers = torch.ones(64, 64), signs[:, None] * signs
    low, high = fresh(torch.stack([constant, constant])[None])[0], fresh(torch.stack([checkers, checkers])[None])[0]
    assert torch.allclose(low, torch.stack([constant, torch.zeros(64, 64)]), atol=1e-5)
    inside = (..., slice(16, 48), slice(16, 48))  # at the edge a mirrored pattern of single pixels is another pattern
    assert torch.allclose(high[inside], torch.stack([torch.zeros(64, 64), checkers])[inside], atol=0.02)


@pytest.fixture(scope="module", params=[4, 3], ids=["window divides the grid", "window is padded"])
def pair(request, tmp_path_factory):
    sam = tiny_sam(window_size=request.param)
    folder = tmp_path_factory.mktemp("sam")
    sam.save_pretrained(folder)
    return sam, SFRecSamModel.from_sam(str(folder))


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_image_embeddings_equal_sams(pair, image):
    sam, extended = pair
    embeddings = extended.get_image_embeddings(image).image_embeddings
    assert torch.allclose(embeddings, sam.get_image_embeddings(image), atol=1e-4)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@torch.no_grad()
def test_masks_and_scores_equal_sams(pair, image, prompts, multimask):
    sam, extended = pair
    expected = sam(image, **prompts, multimask_output=multimask)
    got = extended(image, **prompts, multimask_output=multimask)
    assert expected.pred_masks.std() > 0.1
    for masks in (got.pred_masks, got.initial_masks):
        assert torch.allclose(masks, expected.pred_masks, atol=1e-4)
    assert torch.allclose(got.iou_scores, expected.iou_scores, atol=1e-4)


@torch.no_grad()
def test_a_plain_sam_checkpoint_keeps_its_answer_with_every_fusion(tmp_path, image):
    sam = tiny_sam()
    sam.save_pretrained(tmp_path)
    expected = sam(image, input_boxes=BOXES, multimask_output=False).pred_masks
    for fusion in ("none", "spatial", "spatial-frequency"):
        extended = SFRecSamModel.from_sam(str(tmp_path), fusion=fusion)
        assert torch.allclose(extended(image, input_boxes=BOXES).pred_masks, expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("patch_size", "stride"), [(8, 8), (16, 16), (16, 8)])
def test_the_distance_of_tokens_does_not_matter(tmp_path, image, patch_size, stride):
    sam = tiny_sam(patch_size=patch_size, window_size=2)
    sam.save_pretrained(tmp_path)
    extended = SFRecSamModel.from_sam(str(tmp_path), patch_stride=stride)
    muted = SFRecSamModel.from_sam(str(tmp_path), patch_stride=stride, fusion="none")
    masks = extended(image, input_boxes=BOXES).initial_masks
    assert torch.allclose(masks, muted(image, input_boxes=BOXES).initial_masks, atol=1e-4)
    if stride == patch_size:
        expected = sam(image, input_boxes=BOXES, multimask_output=False).pred_masks
        assert torch.allclose(masks, expected, atol=1e-4)
