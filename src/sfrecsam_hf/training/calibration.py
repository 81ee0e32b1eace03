"""Thresholds chosen on validation images, never on a test split, and stored in the configuration."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import ImageOps
from PIL.Image import Image
from sklearn.metrics import roc_curve

from ..evaluation.metrics import overlap
from ..evaluation.oracle_prompts import oracle_point
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, segment

LESION_SENSITIVITY = 0.95
NEGLIGIBLE = 0.001
HARM = 0.01
HARMED_SHARE = 0.1
PIXELS_PER_IMAGE = 20_000
THRESHOLDS = np.linspace(0, 1, 21)
BATCH = 8


def calibrate(model: SFRecSamModel, processor: Any, *validation: Dataset) -> dict[str, float]:
    """
    Finds `suspicion_threshold` and `presence_threshold` of a model whose correctors are untrained.

    Each image counts as it is and mirrored: normal scans are few, and what fits the way they happen to lie does not
    hold.

    Suspicion: what Youden's index separates best, entropy against the error of the initial mask, per pixel of the
    lesion images. Presence: [`presence_threshold`] over the data sets that hold a normal scan. Others could only empty
    the masks of their lesions; if none holds a normal scan, the presence threshold is left out.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): One or several, with the columns `image` and `mask`.
    """
    rng = np.random.default_rng(0)
    scores, entropies, errors = [], [], []
    for dataset in validation:
        rows = []
        for segmentation, true in _uncorrected(model, processor, dataset):
            rows.append(_presence_row(segmentation, true))
            if true.any():
                chosen = rng.choice(true.size, min(PIXELS_PER_IMAGE, true.size), replace=False)
                entropies.append(segmentation.uncertainty.flat[chosen])
                errors.append((segmentation.initial_mask != true).flat[chosen])
        if not all(lesion for _, lesion, _ in rows):
            scores += rows
    false_alarms, hits, entropy = roc_curve(np.concatenate(errors), np.concatenate(entropies))
    suspicion = entropy[1:][np.argmax((hits - false_alarms)[1:])]
    thresholds = {"suspicion_threshold": float(np.clip(suspicion, 0.01, 0.99))}
    if scores:
        thresholds["presence_threshold"] = presence_threshold(*_columns(scores))
    return thresholds


def calibrate_correction(
    model: SFRecSamModel, processor: Any, validation: Dataset, clicked: bool = False
) -> dict[str, float]:
    """
    Finds the `suspicion_threshold` at which the trained correctors help most: [`correction_threshold`].

    Args:
        model ([`SFRecSamModel`]): In evaluation mode, with trained correctors.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        validation (`datasets.Dataset`): With the columns `image` and `mask`.
        clicked (`bool`): Ask for each mask a second time, with one click on the lesion. Correctors that help an
            automatic mask may harm a clicked one, which is better to begin with; both count alike.
    """
    table = correction_dice(model, processor, validation)
    if clicked:
        table = np.concatenate([table, correction_dice(model, processor, validation, clicked=True)])
    return {"suspicion_threshold": correction_threshold(table)}


def presence_threshold(presence: np.ndarray, lesion: np.ndarray, gain: np.ndarray) -> float:
    """
    Below which presence a mask is better left empty.

    The best total gain among the thresholds at which 95 % of the lesion images keep their mask. The threshold lies
    half-way between two images: on a score, rounding would decide.

    Args:
        presence (`numpy.ndarray` of shape `(images,)`): In [0, 1].
        lesion (`numpy.ndarray` of shape `(images,)`): Whether the image shows one.
        gain (`numpy.ndarray` of shape `(images,)`): What an empty mask in place of the predicted one gains: minus the
            Dice of a lesion; 1 for a normal scan, 0 if its mask is empty anyway.
    """
    order = np.lexsort((gain, lesion, presence))
    presence, lesion, gain = presence[order], lesion[order].astype(bool), gain[order]
    affordable = np.cumsum(lesion) <= (1 - LESION_SENSITIVITY) * lesion.sum()
    refused = np.argmax([0.0, *np.where(affordable, np.cumsum(gain), -np.inf)])
    return float(np.mean([0.0, *presence][refused : refused + 2]))


def correction_dice(model: SFRecSamModel, processor: Any, dataset: Dataset, clicked: bool = False) -> np.ndarray:
    """
    The Dice of each lesion image's corrected mask at every suspicion threshold.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode, with trained correctors.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        dataset (`datasets.Dataset`): With the columns `image` and `mask`; normal scans are passed over.
        clicked (`bool`): Prompt with one click on the lesion.

    Returns:
        `numpy.ndarray` of shape `(lesion images, thresholds)`: At each of `THRESHOLDS`, in bits. At the last one
        nothing is suspicious: its column is the Dice of the initial mask.
    """

    def lesions() -> Iterator[tuple[Image, np.ndarray]]:
        return ((image, true) for image, true in _with_masks(dataset) if true.any())

    asked = ((image, {"input_points": [oracle_point(true)]} if clicked else {}) for image, true in lesions())
    # Above 0 bits everything is suspicious: what a higher threshold would correct can be read off afterwards.
    found = segment(model, processor, asked, BATCH, suspicion_threshold=0.0, presence_threshold=0.0)
    table = [
        [
            overlap(np.where(answer.uncertainty > bits, answer.mask, answer.initial_mask), true)["dice"]
            for bits in THRESHOLDS
        ]
        for answer, (_, true) in zip(found, lesions(), strict=True)
    ]
    return np.array(table).reshape(-1, len(THRESHOLDS))


def correction_threshold(dice: np.ndarray, harmed_share: float = HARMED_SHARE) -> float:
    """
    At which suspicion threshold correction helps most without harming many images.

    An image is harmed if correction lowers its Dice by more than 0.01. Among the thresholds at which no more than
    `harmed_share` of the images are harmed, the one with the best mean Dice; of those within a thousandth of the best
    the highest, which leaves most pixels alone. At 1 bit nothing is corrected, so these images never get worse on
    average.

    Args:
        dice (`numpy.ndarray` of shape `(images, thresholds)`): From [`correction_dice`].
        harmed_share (`float`): In [0, 1].
    """
    allowed = (dice < dice[:, -1:] - HARM).mean(axis=0) <= harmed_share
    mean = np.where(allowed, dice.mean(axis=0), -np.inf)
    return float(THRESHOLDS[mean >= mean.max() - NEGLIGIBLE].max())


def _presence_row(segmentation: Segmentation, true: np.ndarray) -> tuple[float, bool, float]:
    """Presence, whether there is a lesion, and what an empty mask gains."""
    mask = segmentation.initial_mask
    if true.any():
        return segmentation.presence, True, -overlap(mask, true)["dice"]
    return segmentation.presence, False, float(mask.any())


def _columns(rows: list[tuple[float, bool, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    presence, lesion, gain = (np.array(column) for column in zip(*rows, strict=True))
    return presence, lesion, gain


def _uncorrected(model: SFRecSamModel, processor: Any, dataset: Dataset) -> Iterator[tuple[Segmentation, np.ndarray]]:
    """The answer to each image, as it is and mirrored, with the mask that it should be."""
    asked = (image for image, _ in _both_ways(dataset))
    found = segment(model, processor, asked, presence_threshold=0.0, correctors=())
    for (_, true), segmentation in zip(_both_ways(dataset), found, strict=True):
        yield segmentation, true


def _both_ways(dataset: Dataset) -> Iterator[tuple[Image, np.ndarray]]:
    """Each image and its boolean mask, as they are and mirrored."""
    for image, true in _with_masks(dataset):
        yield image, true
        yield ImageOps.mirror(image), true[:, ::-1]


def _with_masks(dataset: Dataset) -> Iterator[tuple[Image, np.ndarray]]:
    for row in dataset.select_columns(["image", "mask"]):
        yield row["image"], np.asarray(row["mask"]) > 0
