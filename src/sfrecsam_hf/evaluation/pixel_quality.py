"""Does uncertainty locate errors, and do probabilities mean what they say? Counted over every pixel of every image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modeling.segmentation import Segmentation

LEVELS = 1024
BINS = 15
MOST_UNCERTAIN = 0.05
UNDECIDED = (0.05, 0.95)
PROBABILITIES = {"mean": "probability", "initial": "initial_probability", "corrected": "final_probability"}
PARTS = ("all", "undecided")


@dataclass
class PixelCounts:
    r"""
    What the figures of uncertainty and calibration are computed from. Counts of several images add up.

    An image weighs one, whatever its size.

    Args:
        located (`numpy.ndarray` of shape `(2, levels)`): Share of the pixels at each level of uncertainty: where the
            initial mask is right, and where it is wrong.
        calibrated (`numpy.ndarray` of shape `(3, 2, bins, 3)`): For the mean of the samples, the initial and the
            corrected probability; over all pixels and over the undecided ones between 0.05 and 0.95; in each bin of
            probability: the share of the pixels, and the sums of probability and of true lesion over them.
    """

    located: np.ndarray
    calibrated: np.ndarray

    @classmethod
    def of(cls, segmentation: Segmentation, true: np.ndarray) -> "PixelCounts":
        """
        Counts one image.

        Args:
            segmentation ([`Segmentation`]): The answer.
            true (`numpy.ndarray` of shape `(height, width)`): Boolean.
        """
        # The square root spreads the low end, where most pixels lie.
        level = np.minimum(np.sqrt(segmentation.uncertainty.clip(min=0)) * LEVELS, LEVELS - 1).astype(int)
        error = segmentation.initial_mask != true
        located = np.stack([np.bincount(level[error == wrong], minlength=LEVELS) for wrong in (False, True)])
        calibrated = []
        for name in PROBABILITIES.values():
            probability = getattr(segmentation, name).ravel()
            undecided = (probability > UNDECIDED[0]) & (probability < UNDECIDED[1])
            flat = true.ravel()
            calibrated.append([binned(probability, flat), binned(probability[undecided], flat[undecided])])
        return cls(located / true.size, np.array(calibrated) / true.size)

    @classmethod
    def none(cls) -> "PixelCounts":
        """Of no image."""
        return cls(np.zeros((2, LEVELS)), np.zeros((len(PROBABILITIES), len(PARTS), BINS, 3)))

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.located + other.located, self.calibrated + other.calibrated)

    @property
    def auroc(self) -> float | None:
        """Of uncertainty against error: the chance that a wrong pixel is more uncertain than a right one."""
        right, wrong = self.located
        if not right.any() or not wrong.any():
            return None
        below = np.cumsum(right) - right / 2
        return float((wrong * below).sum() / (wrong.sum() * right.sum()))

    @property
    def top5_error_share(self) -> float | None:
        """Share of the errors that lie in the most uncertain 5 % of the pixels."""
        wrong = self.located[1]
        if not wrong.any():
            return None
        pixels, errors = np.cumsum(self.located.sum(axis=0)[::-1]), np.cumsum(wrong[::-1])
        return float(np.interp(MOST_UNCERTAIN * pixels[-1], [0.0, *pixels], [0.0, *errors]) / errors[-1])

    def calibration_errors(self) -> dict[str, dict[str, float | None]]:
        """The [`calibration_error`] of each probability, over all and over the undecided pixels."""
        return {
            name: {part: calibration_error(bins) for part, bins in zip(PARTS, parts, strict=True)}
            for name, parts in zip(PROBABILITIES, self.calibrated, strict=True)
        }

    def reliability(self) -> dict[str, list[list[float]]]:
        """For a diagram: pairs of mean probability and lesion frequency, of each bin that is hit."""
        return {
            name: [[float(value / bins[0]) for value in bins[1:]] for bins in parts[0] if bins[0] > 0]
            for name, parts in zip(PROBABILITIES, self.calibrated, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"located": self.located.tolist(), "calibrated": self.calibrated.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PixelCounts":
        """The inverse of [`PixelCounts.to_dict`]."""
        return cls(np.array(values["located"]), np.array(values["calibrated"]))


def binned(probability: np.ndarray, true: np.ndarray, bins: int = BINS) -> np.ndarray:
    """
    Pixels in bins of equal width by their probability.

    Args:
        probability (`numpy.ndarray` of shape `(pixels,)`): In [0, 1].
        true (`numpy.ndarray` of shape `(pixels,)`): Whether each is lesion.
        bins (`int`): Their number.

    Returns:
        `numpy.ndarray` of shape `(bins, 3)`: Number of pixels, sum of their probabilities, number that are lesion.
    """
    index = np.minimum(probability * bins, bins - 1).astype(int)
    sums = (np.bincount(index, weights, minlength=bins) for weights in (None, probability, true))
    return np.stack(list(sums), axis=1).astype(float)


def calibration_error(bins: np.ndarray) -> float | None:
    """
    Expected calibration error (Guo et al., ICML 2017) for the lesion class: the mean gap between predicted probability
    and lesion frequency over the bins, weighted by their pixels.

    Args:
        bins (`numpy.ndarray` of shape `(bins, 3)`): From [`binned`], or a sum of such.

    Returns:
        `float` in [0, 1], or None if there is no pixel.
    """
    pixels, probability, lesion = bins.T
    return float(np.abs(probability - lesion).sum() / pixels.sum()) if pixels.any() else None
