"""Thresholds chosen on validation images, never on a test split, and stored in the configuration."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.metrics import roc_curve

from .metrics import overlap
from .modeling_sfrecsam import SFRecSamModel
from .segmentation import segment

LESION_SENSITIVITY = 0.95
PIXELS_PER_IMAGE = 20_000
STEPS = 20
BATCH = 8


def calibrate(model: SFRecSamModel, processor: Any, *validation: Dataset) -> dict[str, float]:
    """
    Finds `suspicion_threshold` and `presence_threshold` of a model whose correctors are untrained.

    Suspicious is what Youden's index separates best: entropy against the error of the initial mask, per pixel of the
    lesion images. Presence is the highest threshold at which 95 % of the lesion images keep their mask. Data without a
    normal scan have no say in it, since it could only empty the masks of their lesions; without any it is left out.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): One or several, with the columns `image` and `mask`.
    """
    rng = np.random.default_rng(0)
    presence, entropies, errors = [], [], []
    for dataset in validation:
        present, normal = [], False
        found = segment(model, processor, dataset["image"], presence_threshold=0.0, correctors=())
        for mask, segmentation in zip(dataset["mask"], found, strict=True):
            true = np.asarray(mask) > 0
            if not true.any():
                normal = True
                continue
            present.append(segmentation.presence)
            chosen = rng.choice(true.size, min(PIXELS_PER_IMAGE, true.size), replace=False)
            entropies.append(segmentation.uncertainty.flat[chosen])
            errors.append((segmentation.initial_mask != true).flat[chosen])
        presence += present * normal
    false_alarms, hits, entropy = roc_curve(np.concatenate(errors), np.concatenate(entropies))
    suspicion = entropy[1:][np.argmax((hits - false_alarms)[1:])]
    thresholds = {"suspicion_threshold": float(np.clip(suspicion, 0.01, 0.99))}
    if presence:
        # Half-way to the score below: on the score itself, rounding would decide what becomes of that image.
        scores = np.sort([0.0, *presence])
        lowest = np.searchsorted(scores, np.quantile(presence, 1 - LESION_SENSITIVITY, method="lower"))
        thresholds["presence_threshold"] = float(scores[lowest - 1 : lowest + 1].mean())
    return thresholds


@torch.inference_mode()
def calibrate_correction(
    model: SFRecSamModel, processor: Any, validation: Dataset, mc_samples: int | None = None
) -> dict[str, float]:
    """
    Finds the `suspicion_threshold` at which the trained correctors help most.

    Tries every 0.05 bits for the best mean Dice of the corrected masks over the lesion images, at their original size.
    At 1 bit nothing is suspicious, so that correction never makes these images worse on average.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode, with trained correctors.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): With the columns `image` and `mask`.
        mc_samples (`int`, *optional*): Stochastic passes; the configuration's if not given.
    """
    lesions = [row for row in validation.select_columns(["image", "mask"]) if np.asarray(row["mask"]).any()]
    thresholds = np.linspace(0, 1, STEPS + 1)
    scores = []
    for start in range(0, len(lesions), BATCH):
        rows = lesions[start : start + BATCH]
        inputs = processor([row["image"] for row in rows])
        # Above no bit everything is suspicious: what a threshold would correct can be read off afterwards.
        outputs = model(
            **inputs.to(model.device), mc_samples=mc_samples, suspicion_threshold=0.0, presence_threshold=0.0
        )
        initial, corrected, entropy = (
            outputs[name][:, 0, 0].float().cpu() for name in ("initial_masks", "pred_masks", "predictive_entropy")
        )
        for index, row in enumerate(rows):
            true = np.asarray(row["mask"]) > 0
            logits = [torch.where(entropy[index] > bits, corrected[index], initial[index]) for bits in thresholds]
            masks = processor.image_processor.restore(torch.stack(logits), true.shape).numpy() > 0
            scores.append([overlap(mask, true)["dice"] for mask in masks])
    best = np.mean(scores, axis=0).argmax()
    return {"suspicion_threshold": float(thresholds[best])}
