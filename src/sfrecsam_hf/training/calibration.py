"""Thresholds chosen on validation images, never on a test split, and stored in the configuration."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import ImageOps
from PIL.Image import Image
from sklearn.metrics import roc_curve

from ..evaluation.metrics import overlap
from ..evaluation.oracle_prompts import oracle_point
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import segment

LESION_SENSITIVITY = 0.95
NEGLIGIBLE = 0.001
PIXELS_PER_IMAGE = 20_000
STEPS = 20
BATCH = 8


def calibrate(model: SFRecSamModel, processor: Any, *validation: Dataset) -> dict[str, float]:
    """
    Finds `suspicion_threshold` and `presence_threshold` of a model whose correctors are untrained.

    Suspicious is what Youden's index separates best: entropy against the error of the initial mask, per pixel of the
    lesion images. Presence is where the mean Dice is best if a normal scan counts 1 with an empty mask and 0 with any
    other, among the thresholds at which 95 % of the lesion images keep their mask. Data without a normal scan have no
    say in it, since it could only empty the masks of their lesions; without any it is left out. Every image counts as
    it is and mirrored: normal scans are few, and what fits the way they happen to lie does not hold.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): One or several, with the columns `image` and `mask`.
    """
    rng = np.random.default_rng(0)
    decided, entropies, errors = [], [], []
    for dataset in validation:
        images, normal = [], False
        asked = (image for image, _ in _both_ways(dataset))
        found = segment(model, processor, asked, presence_threshold=0.0, correctors=())
        for (_, true), segmentation in zip(_both_ways(dataset), found, strict=True):
            mask = segmentation.initial_mask
            if not true.any():
                normal = True
                images.append((segmentation.presence, False, float(mask.any())))
                continue
            images.append((segmentation.presence, True, -overlap(mask, true)["dice"]))
            chosen = rng.choice(true.size, min(PIXELS_PER_IMAGE, true.size), replace=False)
            entropies.append(segmentation.uncertainty.flat[chosen])
            errors.append((mask != true).flat[chosen])
        decided += images * normal
    false_alarms, hits, entropy = roc_curve(np.concatenate(errors), np.concatenate(entropies))
    suspicion = entropy[1:][np.argmax((hits - false_alarms)[1:])]
    thresholds = {"suspicion_threshold": float(np.clip(suspicion, 0.01, 0.99))}
    if decided:
        thresholds["presence_threshold"] = _presence_threshold(decided)
    return thresholds


def _both_ways(dataset: Dataset) -> Iterator[tuple[Image, np.ndarray]]:
    """Each image and its boolean mask, as they are and mirrored."""
    for row in dataset.select_columns(["image", "mask"]):
        true = np.asarray(row["mask"]) > 0
        yield row["image"], true
        yield ImageOps.mirror(row["image"]), true[:, ::-1]


def _presence_threshold(decided: list[tuple[float, bool, float]]) -> float:
    """
    Half-way between the images that are better refused and the others: on a score, rounding would decide.

    Args:
        decided (`list[tuple[float, bool, float]]`): Presence of each image, whether it shows a lesion, and what an
            empty mask in place of the predicted one gains.
    """
    presence, lesion, gain = (np.array(column) for column in zip(*sorted(decided), strict=True))
    affordable = np.cumsum(lesion) <= (1 - LESION_SENSITIVITY) * lesion.sum()
    refused = np.argmax([0.0, *np.where(affordable, np.cumsum(gain), -np.inf)])
    return float(np.mean([0.0, *presence][refused : refused + 2]))


@torch.inference_mode()
def calibrate_correction(
    model: SFRecSamModel, processor: Any, validation: Dataset, clicked: bool = False
) -> dict[str, float]:
    """
    Finds the `suspicion_threshold` at which the trained correctors help most.

    Tries every 0.05 bits for the best mean Dice of the corrected masks over the lesion images, at their original size,
    with as many stochastic passes as the model answers with. Of those within a thousandth of the best it is the
    highest, which leaves most pixels alone; at 1 bit nothing is suspicious, so that correction never makes these
    images worse on average. Correctors that help an automatic mask may harm a clicked one, which is better to begin
    with: `clicked` weighs both alike.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode, with trained correctors.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): With the columns `image` and `mask`.
        clicked (`bool`): Ask for each mask a second time, with one click on the lesion.
    """
    pairs = ((row["image"], np.asarray(row["mask"]) > 0) for row in validation.select_columns(["image", "mask"]))
    lesions = [(image, true) for image, true in pairs if true.any()]
    asked = [(image, true, None) for image, true in lesions]
    if clicked:
        asked += [(image, true, [oracle_point(true)]) for image, true in lesions]
    thresholds = np.linspace(0, 1, STEPS + 1)
    scores = []
    for start in range(0, len(asked), BATCH):
        images, masks, points = zip(*asked[start : start + BATCH], strict=True)
        inputs = processor(list(images), input_points=list(points))
        # Above no bit everything is suspicious: what a threshold would correct can be read off afterwards.
        outputs = model(**inputs.to(model.device), suspicion_threshold=0.0, presence_threshold=0.0)
        initial, corrected, entropy = (
            outputs[name][:, 0, 0].float().cpu() for name in ("initial_masks", "pred_masks", "predictive_entropy")
        )
        for index, true in enumerate(masks):
            logits = [torch.where(entropy[index] > bits, corrected[index], initial[index]) for bits in thresholds]
            box = inputs["scan_boxes"][index].tolist()
            found = processor.image_processor.restore(torch.stack(logits), true.shape, box).numpy() > 0
            scores.append([overlap(mask, true)["dice"] for mask in found])
    dice = np.mean(scores, axis=0)
    return {"suspicion_threshold": float(thresholds[dice >= dice.max() - NEGLIGIBLE].max())}
