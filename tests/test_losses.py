"""Losses: those of the field agree with MONAI's, each term has its name, and each is zero when all is right."""

import pytest
import torch
from conftest import tiny_model
from monai.losses import DiceLoss
from torch.nn import functional as F

from sfrecsam_hf.modeling.losses import (
    LOSS_WEIGHTS,
    correction_loss,
    dice_loss,
    hard_iou,
    segmentation_loss,
    uncertainty_loss,
)

BASE_TERMS = {"coarse", "segmentation", "presence", "iou", "multimask"}
CORRECTION_TERMS = {"uncertainty", "final", "false_positive", "false_negative"}


@pytest.fixture
def logits():
    return torch.randn(4, 1, 20, 17, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def target():
    return (torch.rand(4, 1, 20, 17, generator=torch.Generator().manual_seed(1)) > 0.6).float()


@pytest.fixture
def labels():
    labels = torch.zeros(2, 64, 64)
    labels[0, 10:40, 20:50] = 1
    return labels


def everywhere(target):
    return torch.ones_like(target, dtype=torch.bool)


def test_dice_equals_monais(logits, target):
    monai = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")
    assert torch.allclose(dice_loss(logits, target), monai(logits, target).flatten(), atol=1e-6)


def test_segmentation_loss_is_cross_entropy_plus_dice(logits, target):
    monai = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = F.binary_cross_entropy_with_logits(logits, target) + monai(logits, target)
    assert torch.allclose(segmentation_loss(logits, target, everywhere(target)).mean(), expected, atol=1e-6)


def test_segmentation_loss_compares_at_the_labels_resolution(logits, target):
    upscaled = F.interpolate(target, size=(40, 34), mode="nearest")
    small = F.interpolate(logits, size=(40, 34), mode="bilinear", align_corners=False)
    assert torch.allclose(
        segmentation_loss(logits, upscaled, everywhere(target)), segmentation_loss(small, upscaled, everywhere(small))
    )


def test_an_empty_target_has_no_dice_but_cross_entropy(logits, target):
    empty = torch.zeros_like(target)
    assert not dice_loss(logits, empty).any()
    assert torch.allclose(
        segmentation_loss(logits, empty, everywhere(empty)).mean(),
        F.binary_cross_entropy_with_logits(logits, empty),
        atol=1e-6,
    )


def test_a_right_answer_costs_nothing(target):
    perfect = (target - 0.5) * 200
    assert (segmentation_loss(perfect, target, everywhere(target)) < 1e-3).all()
    assert torch.equal(hard_iou(perfect, target), torch.ones(4))
    assert not hard_iou(-perfect, target).any()
    assert hard_iou(torch.full((1, 1, 4, 4), -5.0), torch.zeros(1, 1, 4, 4)) == 1


def test_each_corrector_answers_for_its_own_pixels(logits, target):
    where = torch.zeros_like(target, dtype=torch.bool)
    where[:2, :, 3:6, 4:9] = True
    loss = correction_loss(logits, target > 0, where)
    chosen = F.binary_cross_entropy_with_logits(logits[:2, :, 3:6, 4:9], target[:2, :, 3:6, 4:9])
    assert torch.allclose(loss, chosen / 2)  # two of the four rows have suspicious pixels
    changed = torch.where(where, logits, -logits)
    assert torch.equal(correction_loss(changed, target > 0, where), loss)
    assert correction_loss(logits, target > 0, torch.zeros_like(where)) == 0


def test_uncertainty_is_wanted_on_errors_and_boundaries_and_nowhere_else():
    target = torch.zeros(1, 1, 12, 12)
    target[..., 4:8, 4:8] = 1
    nowhere = torch.zeros_like(target, dtype=torch.bool)
    entropy = torch.zeros_like(target)

    def wanted(error):
        logits = torch.zeros_like(target, requires_grad=True)
        uncertainty_loss(logits, entropy, error, target, everywhere(target)).backward()
        return 0.5 - logits.grad * logits.numel()

    calm = wanted(nowhere)
    assert torch.allclose(calm[..., 0, 0], torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(calm[..., 5, 5], torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(calm[..., 4, 5], torch.tensor(0.5), atol=1e-6)
    error = nowhere.clone()
    error[..., 0, 0] = True
    assert torch.allclose(wanted(error)[..., 0, 0], torch.tensor(1.0), atol=1e-6)


def test_the_terms_have_their_names_in_each_stage(labels, pixels):
    model = tiny_model()
    expected = {1: BASE_TERMS, 2: CORRECTION_TERMS}
    assert set(model(pixels, labels=labels).loss_terms) == BASE_TERMS | CORRECTION_TERMS
    for stage, names in expected.items():
        model.train_stage(stage)
        output = model.train()(pixels, labels=labels)
        assert set(output.loss_terms) == names
        total = sum(LOSS_WEIGHTS.get(name, 1.0) * term for name, term in output.loss_terms.items())
        assert torch.allclose(output.loss, total)
        assert all(term.isfinite() and term.ndim == 0 for term in output.loss_terms.values())
    assert model(pixels).loss is None
    assert model(pixels).loss_terms is None


@pytest.mark.parametrize("correctors", [("fp",), ("fn",), ()])
def test_a_missing_corrector_has_no_term(labels, pixels, correctors):
    names = set(tiny_model(correctors=correctors)(pixels, labels=labels).loss_terms)
    assert ("false_positive" in names) == ("fp" in correctors)
    assert ("false_negative" in names) == ("fn" in correctors)


def test_labels_of_any_resolution_and_per_prompt(labels, pixels):
    model = tiny_model()
    fine = model(pixels, labels=labels.repeat_interleave(2, 1).repeat_interleave(2, 2)).loss
    assert torch.allclose(fine, model(pixels, labels=labels).loss, rtol=0.1)
    boxes = torch.tensor([[[10.0, 10, 40, 40], [5, 5, 20, 20]]] * 2)
    shared = model(pixels, input_boxes=boxes, labels=labels).loss
    assert torch.equal(model(pixels, input_boxes=boxes, labels=labels[:, None].expand(-1, 2, -1, -1)).loss, shared)
    assert torch.equal(model(pixels, labels=labels.bool()).loss, model(pixels, labels=labels).loss)


@pytest.mark.parametrize("shape", [(3, 64, 64), (64, 64), (2, 2, 64, 64), (2, 1, 1, 64, 64)])
def test_labels_of_the_wrong_shape_are_refused(pixels, shape):
    with pytest.raises(ValueError, match=r"labels must have shape \(2, height, width\) or \(2, 1, height, width\)"):
        tiny_model()(pixels, labels=torch.zeros(shape))


def test_a_loss_of_a_batch_is_the_mean_of_its_images(labels, pixels):
    """So that accumulating small batches equals one large batch."""
    model = tiny_model()
    whole = model(pixels, labels=labels).loss_terms
    parts = [model(pixels[i : i + 1], labels=labels[i : i + 1]).loss_terms for i in range(2)]
    for name, term in whole.items():
        assert torch.allclose(term, (parts[0][name] + parts[1][name]) / 2, atol=1e-4), name


def test_a_scan_without_a_lesion_teaches_the_correctors_nothing(pixels):
    """All its foreground is false, from which the false-positive corrector would learn to wipe small lesions out."""
    model = tiny_model()
    model.train_stage(2)
    output = model.train()(pixels, labels=torch.zeros(2, 64, 64))
    assert (output.initial_masks > 0).any()
    for name in ("final", "false_positive", "false_negative"):
        assert output.loss_terms[name] == 0, name
    assert output.loss_terms["uncertainty"] > 0


@torch.no_grad()
def test_prompt_labels_teach_the_prompts_and_labels_the_image(labels, pixels):
    model = tiny_model()
    boxes = torch.tensor([[[4.0, 4.0, 30.0, 30.0]]]).repeat(len(pixels), 1, 1)
    asked = torch.zeros_like(labels)[:, None]
    image = model(pixels, input_boxes=boxes, labels=labels).loss_terms
    both = model(pixels, input_boxes=boxes, labels=labels, prompt_labels=asked).loss_terms
    nothing = model(pixels, input_boxes=boxes, labels=torch.zeros_like(labels)).loss_terms
    assert torch.equal(both["coarse"], image["coarse"])
    assert torch.equal(both["presence"], image["presence"])
    assert torch.equal(both["segmentation"], nothing["segmentation"])
    assert not torch.equal(both["segmentation"], image["segmentation"])


def test_padding_has_no_part_in_a_mean():
    """The same content in a frame twice as wide costs the same."""
    generator = torch.Generator().manual_seed(2)
    logits, target, entropy = (torch.rand(2, 1, 16, 12, generator=generator) for _ in range(3))
    target = (target > 0.6).float()

    def costs(padding: int) -> list[torch.Tensor]:
        wide = [
            F.pad(part, (0, padding), value=value)
            for part, value in ((10 * logits - 5, -20.0), (target, 0.0), (entropy, 0.0), (everywhere(target), False))
        ]
        wrong = (wide[0] > 0) != (wide[1] > 0)
        return [segmentation_loss(wide[0], wide[1], wide[3]), uncertainty_loss(wide[0], wide[2], wrong, *wide[1::2])]

    for narrow, wide in zip(costs(0), costs(12), strict=True):
        torch.testing.assert_close(narrow, wide)


def test_the_model_tells_its_losses_what_is_padding(labels, pixels):
    model, sizes = tiny_model(), torch.tensor([[64, 32], [64, 64]])
    output = model(pixels, labels=labels, reshaped_input_sizes=sizes)
    valid = everywhere(labels[:, None])
    valid[0, ..., 32:] = False
    expected = segmentation_loss(output.coarse_masks, labels[:, None], valid).mean()
    torch.testing.assert_close(output.loss_terms["coarse"], expected)


@pytest.mark.parametrize("value", [255.0, -1.0, float("nan"), 1.5, float("inf")])
def test_labels_out_of_range_are_refused(labels, pixels, value):
    labels[1, 3, 4] = value
    for given in ({"labels": labels}, {"labels": torch.zeros_like(labels), "prompt_labels": labels[:, None]}):
        with pytest.raises(ValueError, match="labels must lie between 0 and 1"):
            tiny_model()(pixels, **given)
