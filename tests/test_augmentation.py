"""Augmentation moves the mask with the image, and an image's draw depends on its own seed alone."""

import pytest
import torch
from conftest import scan

from sfrecsam_hf.training.augmentation import augment, linear_map
from sfrecsam_hf.training.dataset import EpochBatches, TrainingImages

SIZES = torch.tensor([[64, 48], [50, 64], [64, 64]])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.zeros(3, 1, 64, 64)
    masks[:, :, 20:36, 16:34] = 1
    images = 0.8 * masks + 0.1
    for index, (height, width) in enumerate(SIZES.tolist()):
        images[index, :, height:] = 0
        images[index, :, :, width:] = 0
    return images, masks


def test_strength_zero_is_the_identity():
    images, masks = batch()
    moved, moved_masks, valid = augment(images, masks, SIZES, [1, 2, 3], strength=0)
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(moved_masks, masks)
    for index, (height, width) in enumerate(SIZES.tolist()):
        assert valid[index].sum() == height * width


def test_the_mask_moves_with_the_image():
    images, masks = batch()
    for seed in range(0, 60, 3):
        moved, moved_masks, valid = augment(images, masks, SIZES, [seed, seed + 1, seed + 2])
        for image, mask, inside in zip(moved, moved_masks, valid, strict=True):
            bright, dark = image[mask > 0], image[(mask == 0) & (inside > 0)]
            assert len(bright) == 0 or bright.median() > dark.median()


def test_values_and_shapes():
    moved, masks, valid = augment(*batch(), SIZES, [4, 5, 6], strength=2)
    assert moved.shape == masks.shape == valid.shape == (3, 1, 64, 64)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert (moved[valid == 0] == 0).all()


@pytest.mark.parametrize("strength", [0.05, 0.4, 1.2])
def test_half_of_the_images_are_flipped_whatever_the_strength(strength):
    images, masks = torch.zeros(200, 1, 64, 64), torch.zeros(200, 1, 64, 64)
    masks[..., :32] = 1
    _, moved, _ = augment(images, masks, torch.tensor([[64, 64]] * 200), list(range(200)), strength)
    flipped = moved[..., 32:].sum((1, 2, 3)) > moved[..., :32].sum((1, 2, 3))
    assert 70 <= flipped.sum() <= 130


def test_a_rectangle_stays_a_rectangle():
    """Flip and stretch are along the image's own axes, so that turning it afterwards adds no shear."""
    angle, scale, stretch = torch.tensor([0.2, -0.1]), torch.tensor([1.3, 0.8]), torch.tensor([1.15, 0.9])
    matrix = linear_map(angle, scale, stretch, torch.tensor([-1.0, 1.0]))
    across, down = matrix.unbind(1)
    torch.testing.assert_close((across * down).sum(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(across.norm(dim=1), 1 / (scale * stretch))
    torch.testing.assert_close(down.norm(dim=1), stretch / scale)
    assert matrix.det().sign().tolist() == [-1, 1]


def test_some_scans_have_a_shadow_that_deepens_below_its_top():
    flat, masks, sizes = torch.full((60, 1, 64, 64), 0.5), torch.zeros(60, 1, 64, 64), torch.tensor([[64, 64]] * 60)
    moved, _, valid = augment(flat, masks, sizes, list(range(60)))
    shadows = 0
    for image, inside in zip(moved[:, 0], valid[:, 0] > 0, strict=True):
        upper, lower = (
            [image[rows, column][inside[rows, column]].mean() for column in range(16, 48)]
            for rows in (slice(8, 24), slice(40, 56))
        )
        darkest, middle = (torch.stack(lower).nan_to_num(1).min(), torch.stack(lower).nanmedian())
        shadows += int(darkest < 0.6 * middle and torch.stack(upper).nan_to_num(1).min() > darkest)
    assert 3 <= shadows <= 25


def test_where_a_scan_does_not_reach_is_padding_or_its_edge_goes_on():
    """A scan of 40 x 32 pixels, brighter at its edge than beyond it; gain and shadow do not make it dark."""
    sizes = torch.tensor([[40, 32]] * 60)
    flat, masks = torch.zeros(60, 1, 64, 48), torch.zeros(60, 1, 64, 48)
    flat[..., :40, :32], masks[..., :40, :32] = 0.9, 1
    moved, mask, valid = augment(flat, masks, sizes, list(range(60)))
    place = torch.zeros(64, 48, dtype=torch.bool)
    place[:40, :32] = True
    beyond = [(place & (one[0] == 0)) for one in mask]
    filled = [bool((inside[0][place] > 0).all()) for inside in valid]
    gaps = [bool(gap.sum() > 30) for gap in beyond]
    for image, inside, gap, whole in zip(moved, valid, beyond, filled, strict=True):
        assert ((image[0] > 0.01) == (inside[0] > 0)).float().mean() > 0.97
        assert (inside[0][gap] > 0).all() == whole or gap.sum() <= 30
    assert 5 <= sum(whole and gap for whole, gap in zip(filled, gaps, strict=True)) <= sum(gaps) - 5


def test_an_image_does_not_depend_on_its_neighbours():
    images, masks = batch()
    together = augment(images, masks, SIZES, [7, 8, 9])
    for index in range(3):
        alone = augment(images[[index]], masks[[index]], SIZES[[index]], [[7, 8, 9][index]])
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours[0], theirs[index], atol=1e-6, rtol=0)


def test_seeds_matter():
    images, masks = batch()
    assert not torch.equal(augment(images, masks, SIZES, [1, 2, 3])[0], augment(images, masks, SIZES, [4, 5, 6])[0])


def training_images(processor, **options) -> TrainingImages:
    rows = [dict(zip(("image", "mask"), scan(60, 80, seed, seed < 4), strict=True)) for seed in range(5)]
    return TrainingImages([rows], processor.image_processor, quiet=True, **options)


def test_training_images_are_what_inference_sees_without_augmentation(processor):
    images = training_images(processor, augmentation=0)
    shown = images.__getitems__([(0, 1)])
    image, mask = scan(60, 80, 1)
    expected = processor.image_processor(image, segmentation_maps=mask, return_tensors="pt")
    torch.testing.assert_close(shown["pixel_values"], expected["pixel_values"], atol=0.02, rtol=0)
    assert torch.equal(shown["labels"][0].long(), expected["labels"][0].long())


def test_clicks_and_boxes_fit_the_lesion(processor):
    images = training_images(processor, click_share=0.5, box_share=0.45)
    clicks = boxes = 0
    for epoch in range(10):
        shown = images.__getitems__([(epoch, index) for index in range(5)])
        for mask, points, labels, box in zip(
            shown["labels"], shown["input_points"], shown["input_labels"], shown["input_boxes"], strict=True
        ):
            for (x, y), label in zip(points[0].long().tolist(), labels[0].tolist(), strict=True):
                if label >= 0:
                    assert mask[y, x] == label
                    clicks += 1
            if box[0, 0] >= 0:
                assert mask.any()
                boxes += 1
            if not mask.any():
                assert (labels == -10).all()
    assert clicks > 5
    assert boxes > 5


def test_an_epoch_shows_each_source_by_its_share():
    batches = EpochBatches([40, 30], [1.0, 0.4], batch_size=4, multiple=1, seed=0)
    assert len(batches) == 13
    shown = [index for part in batches for _, index in part]
    assert len(set(shown)) == len(shown) == 52
    assert 38 <= sum(index < 40 for index in shown) <= 40


def test_all_images_pass_by_before_any_comes_again():
    batches = EpochBatches([30], [0.2], batch_size=6, multiple=1, seed=5)
    seen = []
    for epoch in range(5):
        batches.epoch = epoch
        seen += [index for part in batches for _, index in part]
    assert sorted(seen) == list(range(30))


def test_a_later_start_is_the_rest_of_the_same_epoch():
    batches = EpochBatches([20], [1.0], batch_size=2, multiple=2, seed=1)
    batches.epoch = 3
    whole = list(batches)
    batches.start = 4
    assert list(batches) == whole[4:]
