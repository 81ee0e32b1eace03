"""Correctors that learn from errors on images the base did not train on, such as those of a cross-validation."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..modeling.false_corrector import CorrectorOutput, DualFalseCorrector
from ..modeling.losses import correction_losses
from ..modeling.model_outputs import EMPTY_LOGIT
from ..modeling.modeling_sfrecsam import SFRecSamModel, correction_context
from .calibration import THRESHOLDS
from .dataset import TrainingImages

BATCH = 16
TEACHING_THRESHOLD = 0.2  # bits: lower than any that is used, so that the correctors have seen what lies around it


@dataclass
class ErrorMaps:
    r"""
    What a base made of images that it did not train on, at the mask's stride.

    Args:
        initial (`torch.Tensor` of shape `(images, 1, height, width)`): Logits of the initial mask.
        mean (`torch.Tensor` of the same shape): Mean probability of the samples.
        entropy (`torch.Tensor` of the same shape): Predictive entropy in bits.
        information (`torch.Tensor` of the same shape): Mutual information in bits.
        context (`torch.Tensor` of shape `(images, channels, height, width)`): From [`correction_context`].
        target (`torch.Tensor` of shape `(images, 1, height, width)`): Share of lesion in each pixel.
        presence (`torch.Tensor` of shape `(images,)`): Presence logits.
    """

    initial: Tensor
    mean: Tensor
    entropy: Tensor
    information: Tensor
    context: Tensor
    target: Tensor
    presence: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, model: SFRecSamModel, images: TrainingImages, mc_samples: int | None) -> "ErrorMaps":
        """
        Runs the model on images as they are.

        Args:
            model ([`SFRecSamModel`]): That did not train on them; put in evaluation mode.
            images ([`TrainingImages`]): Neither augmented nor marked nor prompted.
            mc_samples (`int`, *optional*): Stochastic passes; the configuration's if not given.

        Raises:
            ValueError: The images would be changed.
        """
        if images.augmentation or images.marks or images.click_share or images.box_share:
            raise ValueError("Errors are mapped on images as they are: give them without augmentation and prompts.")
        model.eval()
        parts: list[list[Tensor]] = []
        for start in range(0, len(images), BATCH):
            batch = images.__getitems__([(0, index) for index in range(start, min(start + BATCH, len(images)))])
            encoded = model.encode(batch["pixel_values"], pixel_mask=batch["pixel_mask"])
            decoded = model.decode(model.prompt(encoded), sample_noise=model.draw_noise(mc_samples))
            found = model.correct(decoded, correctors=())
            size = decoded.initial_masks.shape[-2:]
            parts.append(
                [
                    decoded.initial_masks[:, 0],
                    found.mean_probability[:, 0],
                    found.predictive_entropy[:, 0],
                    found.mutual_information[:, 0],
                    correction_context(decoded),
                    F.interpolate(batch["labels"][:, None], size=size, mode="area"),
                    decoded.presence_logits,
                ]
            )
        return cls(*(torch.cat(part).half() for part in zip(*parts, strict=True)))

    @classmethod
    def joined(cls, several: list["ErrorMaps"]) -> "ErrorMaps":
        """The images of several, one after the other."""
        return cls(*(torch.cat([getattr(one, field.name) for one in several]) for field in fields(cls)))

    @classmethod
    def load(cls, path: Path) -> "ErrorMaps":
        """Reads what `save` wrote."""
        return cls(**load_file(path))

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, path)

    def select(self, index: Tensor) -> "ErrorMaps":
        """The given images in float32, with `index` an index tensor."""
        return ErrorMaps(*(getattr(self, field.name)[index].float() for field in fields(self)))

    def mirrored(self) -> "ErrorMaps":
        """Left and right exchanged, the pixels below one of the mask as well."""
        flipped = ErrorMaps(
            *(value.flip(-1) if value.ndim == 4 else value for value in (getattr(self, f.name) for f in fields(self)))
        )
        side = round((self.context.shape[1] - 1) ** 0.5)
        pixels, coarse = flipped.context.split([side**2, 1], dim=1)
        pixels = pixels.unflatten(1, (side, side)).flip(2).flatten(1, 2)
        flipped.context = torch.cat([pixels, coarse], dim=1)
        return flipped

    def lesions(self) -> Tensor:
        """Indices of the images that show a lesion."""
        return torch.nonzero(self.target.amax((1, 2, 3)) > 0)[:, 0]


def train_correctors(
    corrector: DualFalseCorrector, maps: ErrorMaps, epochs: int, learning_rate: float, seed: int = 0
) -> None:
    """
    Trains both halves on the errors in the maps, each image as it is or mirrored, by chance.

    Args:
        corrector ([`DualFalseCorrector`]): Trained in place.
        maps ([`ErrorMaps`]): Of images that the base did not train on; only lesions teach.
        epochs (`int`): Times that each image passes by.
        learning_rate (`float`): Peak of the schedule.
        seed (`int`): Decides order and mirroring.
    """
    lesions, rng = maps.lesions(), np.random.default_rng(seed)
    total = epochs * len(lesions.split(BATCH))
    if not len(lesions) or not total:
        return
    optimizer = torch.optim.AdamW(corrector.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=total + 1)
    corrector.train()
    for _ in range(epochs):
        order = lesions[torch.from_numpy(rng.permutation(len(lesions)))]
        for index in order.split(BATCH):
            part = maps.select(index)
            part = part.mirrored() if rng.random() < 0.5 else part
            corrected = apply_correctors(corrector, part, TEACHING_THRESHOLD)
            inside = part.initial > EMPTY_LOGIT
            unused = torch.zeros_like(part.mean)
            terms = correction_losses(part.target, part.initial, corrected, unused, part.entropy, inside)
            loss = sum(term for name, term in terms.items() if name != "uncertainty")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(corrector.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    corrector.eval()


def apply_correctors(corrector: DualFalseCorrector, maps: ErrorMaps, threshold: float) -> CorrectorOutput:
    """What the correctors make of a few images, from [`ErrorMaps.select`]."""
    return corrector(
        mean_probability=maps.mean,
        uncertainty=maps.entropy,
        mutual_information=maps.information,
        features=maps.context,
        initial_logits=maps.initial,
        suspicion_threshold=threshold,
    )


@torch.inference_mode()
def threshold_dice(corrector: DualFalseCorrector, maps: ErrorMaps) -> np.ndarray:
    """
    Dice of each lesion image at the mask's stride, at each of `THRESHOLDS`: what [`correction_threshold`] takes.

    Args:
        corrector ([`DualFalseCorrector`]): That did not train on these images.
        maps ([`ErrorMaps`]): Of these images.

    Returns:
        `numpy.ndarray` of shape `(lesion images, thresholds)`; the last column is without correction.
    """
    rows = []
    for index in maps.lesions().split(BATCH):
        part = maps.select(index)
        true = part.target > 0.5
        corrected = apply_correctors(corrector, part, -1.0).logits
        dice = []
        for threshold in THRESHOLDS:
            mask = torch.where(part.entropy > threshold, corrected, part.initial) > 0
            total = mask.sum((1, 2, 3)) + true.sum((1, 2, 3))
            dice.append(2 * (mask & true).sum((1, 2, 3)) / total.clamp(min=1))
        rows.append(torch.stack(dice, dim=1))
    return torch.cat(rows).numpy()
