"""Thresholds chosen on validation images, never on a test split, and stored in the configuration."""

from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.metrics import roc_curve

from .modeling_sfrecsam import SFRecSamModel
from .segmentation import segment

LESION_SENSITIVITY = 0.98
PIXELS_PER_IMAGE = 20_000


def calibrate(model: SFRecSamModel, processor: Any, validation: Dataset) -> dict[str, float]:
    """
    Finds `suspicion_threshold` and `presence_threshold`.

    Suspicious is what Youden's index separates best: entropy against the error of the initial mask, per pixel of the
    lesion images. Presence is the highest threshold at which 98 % of the lesion images keep their mask.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): With the columns `image` and `mask`.
    """
    rng = np.random.default_rng(0)
    presence, entropies, errors = [], [], []
    found = segment(model, processor, validation["image"], presence_threshold=0.0, correctors=())
    for mask, segmentation in zip(validation["mask"], found, strict=True):
        true = np.asarray(mask) > 0
        if not true.any():
            continue
        presence.append(segmentation.presence)
        chosen = rng.choice(true.size, min(PIXELS_PER_IMAGE, true.size), replace=False)
        entropies.append(segmentation.uncertainty.flat[chosen])
        errors.append((segmentation.initial_mask != true).flat[chosen])
    false_alarms, hits, thresholds = roc_curve(np.concatenate(errors), np.concatenate(entropies))
    suspicion = thresholds[1:][np.argmax((hits - false_alarms)[1:])]
    return {
        "suspicion_threshold": float(np.clip(suspicion, 0.01, 0.99)),
        "presence_threshold": float(np.quantile(presence, 1 - LESION_SENSITIVITY, method="lower")),
    }
