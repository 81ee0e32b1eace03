"""Validation after every epoch: what the weights make of held-out images, which epoch is best, and how it looks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, concatenate_datasets
from PIL.Image import Image
from sklearn.metrics import roc_auc_score

from ..evaluation.metrics import overlap
from ..evaluation.oracle_prompts import oracle_point
from ..inference.visualization import outline_sheet
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from ..modeling.segmentation import Segmentation, segment
from .config import TrainingConfig

BATCH = 8


@dataclass
class Outcome:
    r"""
    What the model made of one held-out image, at its original size.

    Args:
        index (`int`): Of the image in [`Validation.images`].
        lesion (`bool`): Whether it shows one.
        presence (`float`): Probability in [0, 1] that it does, according to the model.
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, final, prompted by the model itself.
        initial, final (`dict[str, float]`): [`overlap`] of the masks before and after correction.
        clicked (`dict[str, float]`, *optional*): That of a lesion's final mask when it was clicked on.
    """

    index: int
    lesion: bool
    presence: float
    mask: np.ndarray
    initial: dict[str, float]
    final: dict[str, float]
    clicked: dict[str, float] | None = None


class Validation:
    r"""
    The held-out images that the best epoch is chosen on, shared out among the processes.

    Args:
        parts (`list[datasets.Dataset]`): The validation split of each data folder.
        config ([`TrainingConfig`]): Of the run.

    Raises:
        ValueError: There is no lesion among them.
    """

    def __init__(self, parts: list[Dataset], config: TrainingConfig):
        self.config, self.parts, self.images = config, parts, concatenate_datasets(parts)
        if not any(np.asarray(mask).any() for mask in self.images["mask"]):
            named = " and ".join(config.validation)
            raise ValueError(f"{named} has no lesion in its validation split to choose a checkpoint by.")

    def arrays(self) -> Iterator[np.ndarray]:
        """All images and masks, by which one set of them is told from another."""
        for row in self.images.select_columns(["image", "mask"]):
            yield np.asarray(row["image"])
            yield np.asarray(row["mask"])

    def outcomes(
        self, model: SFRecSamModel, processor: SFRecSamProcessor, accelerator: Accelerator, stage: int
    ) -> list[Outcome]:
        """Of every image; in stage 1 also of a click on each lesion, if the run trains with clicks."""
        mine = range(accelerator.process_index, len(self.images), accelerator.num_processes)
        rows = self.images.select(mine)
        pairs = [(image, np.asarray(mask) > 0) for image, mask in zip(rows["image"], rows["mask"], strict=True)]
        samples = 0 if stage == 1 else self.config.mc_samples
        with accelerator.autocast():
            answered = answers(model, processor, pairs, samples)
            outcomes = [
                Outcome(
                    index=index,
                    lesion=bool(true.any()),
                    presence=found.presence,
                    mask=found.mask,
                    initial=overlap(found.initial_mask, true),
                    final=overlap(found.mask, true),
                )
                for index, (_, true), found in zip(mine, pairs, answered, strict=True)
            ]
            if stage == 1 and self.config.click_share > 0:
                lesions = [(outcome, pair) for outcome, pair in zip(outcomes, pairs, strict=True) if outcome.lesion]
                answered = answers(model, processor, [pair for _, pair in lesions], samples, clicked=True)
                for (outcome, (_, true)), found in zip(lesions, answered, strict=True):
                    outcome.clicked = overlap(found.mask, true)
        return sorted(gather_object(outcomes), key=lambda outcome: outcome.index)

    def quality(self, scores: dict[str, float]) -> float:
        """
        The number that the best epoch has the highest of.

        The Dice of masks that the model prompted itself; where clicks were asked for, too, the average of both.
        """
        return float(np.mean([scores[name] for name in ("final_dice", "clicked_dice") if name in scores]))

    def sheet(self, outcomes: list[Outcome]) -> Image:
        """The first lesions under their masks, as many as the run's `overlays`."""
        shown = [outcome for outcome in outcomes if outcome.lesion][: self.config.overlays]
        rows = [self.images[outcome.index] for outcome in shown]
        truths = [np.asarray(row["mask"]) > 0 for row in rows]
        captions = [
            f"{row['name']} Dice {outcome.final['dice']:.2f}" for row, outcome in zip(rows, shown, strict=True)
        ]
        return outline_sheet([row["image"] for row in rows], [outcome.mask for outcome in shown], truths, captions)


def answers(
    model: SFRecSamModel,
    processor: SFRecSamProcessor,
    pairs: Iterable[tuple[Image, np.ndarray]],
    mc_samples: int | None,
    clicked: bool = False,
) -> Iterator[Segmentation]:
    """
    The answer to each image, prompted by itself or by a click on the lesion; no mask is refused.

    Args:
        model ([`SFRecSamModel`]): Put in evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        pairs (`Iterable`): Images with their true masks (`numpy.ndarray` of shape `(height, width)`, boolean).
        mc_samples (`int`, *optional*): Stochastic passes; the configuration's if not given.
        clicked (`bool`): Click on the lesion.
    """
    images = ((image, {"input_points": [[oracle_point(true)]]} if clicked else {}) for image, true in pairs)
    return segment(model.eval(), processor, images, BATCH, mc_samples=mc_samples, presence_threshold=0.0)


def scores(outcomes: list[Outcome]) -> dict[str, float]:
    """Means over the lesion images, and AUROC of the presence score if there are normal scans."""
    lesions = [outcome for outcome in outcomes if outcome.lesion]
    means = {
        f"{mask}_{name}": float(np.mean([getattr(outcome, mask)[name] for outcome in lesions]))
        for mask in ("initial", "final", "clicked")
        if getattr(lesions[0], mask) is not None
        for name in ("dice", "precision", "recall")
    }
    if len(lesions) < len(outcomes):
        presence = [outcome.presence for outcome in outcomes]
        means["presence_auroc"] = float(roc_auc_score([outcome.lesion for outcome in outcomes], presence))
    return means
