"""The same image, settings and seed give the same mask: alone or in any batch, whatever the others ask for."""

import pytest
import torch
from conftest import IMAGE_SIZE, tiny_model

MAPS = ("pred_masks", "initial_masks", "mean_probability", "predictive_entropy", "mutual_information")
SIZES = torch.tensor([[64, 48], [64, 64], [20, 64], [64, 64], [40, 64]])


@pytest.fixture(scope="module")
def model():
    return tiny_model(mc_samples=3)


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def answer(model, images, sizes, seed=None, **options):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return model(images, reshaped_input_sizes=sizes, generator=generator, **options)


def assert_same(output, index, expected, row=0):
    for name in MAPS:
        assert torch.allclose(output[name][index], expected[name][row], atol=1e-4), name
    assert torch.equal(output.pred_masks[index].sign(), expected.pred_masks[row].sign())


@pytest.mark.parametrize("options", [{}, {"mc_samples": 0}], ids=["T=3", "T=0"])
@pytest.mark.parametrize("order", [[0], [0, 1], [4, 0], [3, 2, 0, 1, 4]])
def test_alone_or_in_any_batch(model, images, order, options):
    alone = answer(model, images[:1], SIZES[:1], **options)
    batch = answer(model, images[order], SIZES[order], **options)
    assert_same(batch, order.index(0), alone)


def test_other_images_may_be_prompted_differently(model, images):
    alone = answer(model, images[:1], SIZES[:1])
    points = torch.full((3, 1, 2, 2), -10.0)
    labels = torch.full((3, 1, 2), -10)
    boxes = torch.full((3, 1, 4), -10.0)
    points[1, 0], labels[1, 0] = torch.tensor([[10.0, 12], [30, 30]]), torch.tensor([1, 0])
    boxes[2, 0] = torch.tensor([3.0, 4, 50, 18])
    mixed = answer(model, images[:3], SIZES[:3], input_points=points, input_labels=labels, input_boxes=boxes)
    assert mixed.prompt_is_automatic.flatten().tolist() == [True, False, False]
    assert_same(mixed, 0, alone)
    clicked = answer(model, images[1:2], SIZES[1:2], input_points=points[1:2], input_labels=labels[1:2])
    assert_same(mixed, 1, clicked)
    boxed = answer(model, images[2:3], SIZES[2:3], input_boxes=boxes[2:3])
    assert_same(mixed, 2, boxed)


def test_the_seed_decides(model, images):
    first, again = (answer(model, images, SIZES, seed=5) for _ in range(2))
    other = answer(model, images, SIZES, seed=6)
    for name in MAPS:
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first.predictive_entropy, other.predictive_entropy)
    assert torch.equal(first.initial_masks, other.initial_masks)


def test_the_global_random_state_neither_matters_nor_moves(model, images):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = answer(model, images, SIZES)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = answer(model, images, SIZES)
    for name in MAPS:
        assert torch.equal(first[name], second[name])


def test_more_samples_keep_the_initial_mask(model, images):
    few, many = (answer(model, images, SIZES, mc_samples=count) for count in (0, 6))
    assert torch.allclose(few.initial_masks, many.initial_masks, atol=1e-4)


def test_padding_changes_nothing(model, images):
    """What stands in the padding is not seen by the corrector, the prompts or the mask."""
    output = answer(model, images, SIZES)
    for mask, entropy, (height, width) in zip(output.pred_masks, output.predictive_entropy, SIZES // 2, strict=True):
        assert (mask[..., height:, :] < 0).all()
        assert (mask[..., :, width:] < 0).all()
        assert (entropy[..., height:, :] == 0).all()
        assert (entropy[..., :, width:] == 0).all()
    assert (output.prompt_boxes[..., 2] <= SIZES[:, None, 1] * 1.2 + 1).all()


def test_noise_drawn_beforehand_equals_that_of_the_same_seed(model, images):
    noise = model.draw_noise(3, torch.Generator().manual_seed(5))
    given, drawn = answer(model, images, SIZES, sample_noise=noise), answer(model, images, SIZES, seed=5)
    for name in MAPS:
        assert torch.equal(given[name], drawn[name])
