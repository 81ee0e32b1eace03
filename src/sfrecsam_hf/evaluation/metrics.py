"""Overlap and surface distances of one binary mask, with the empty-mask rule written down.

Both masks empty: perfect (1, and 0 pixels). One of them empty: 0 overlap, and the image's diagonal as distance, since
no surface is there to measure to.
"""

import warnings

import numpy as np
import torch


def overlap(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """
    Dice, IoU, precision and recall.

    Args:
        predicted (`numpy.ndarray` of shape `(height, width)`): Boolean.
        true (`numpy.ndarray` of shape `(height, width)`): Boolean.

    Returns:
        `dict[str, float]`: Values in [0, 1]. Precision without a prediction is 1 if there is no lesion and
        0 otherwise; recall without a lesion is 1 if nothing was predicted and 0 otherwise.
    """
    both = int((predicted & true).sum())
    found, wanted = int(predicted.sum()), int(true.sum())
    if not found or not wanted:
        agreed = float(found == wanted)
        return dict.fromkeys(("dice", "iou", "precision", "recall"), agreed)
    return {
        "dice": 2 * both / (found + wanted),
        "iou": both / (found + wanted - both),
        "precision": both / found,
        "recall": both / wanted,
    }


def surface_distances(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """
    95th-percentile Hausdorff and average symmetric surface distance in pixels, Euclidean, by MONAI.

    Args:
        predicted (`numpy.ndarray` of shape `(height, width)`): Boolean.
        true (`numpy.ndarray` of shape `(height, width)`): Boolean.
    """
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance  # slow to import

    if not predicted.any() or not true.any():
        distance = 0.0 if predicted.any() == true.any() else float(np.hypot(*true.shape))
        return {"hd95": distance, "assd": distance}
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # MONAI warns of its own defaults
        return {
            "hd95": float(compute_hausdorff_distance(*pair, include_background=True, percentile=95)),
            "assd": float(compute_average_surface_distance(*pair, include_background=True, symmetric=True)),
        }


def segmentation_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """All of [`overlap`] and [`surface_distances`]."""
    return {**overlap(predicted, true), **surface_distances(predicted, true)}
