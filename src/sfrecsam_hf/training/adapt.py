"""Fits a checkpoint to another scanner or hospital with a handful of its labelled images (METHOD 9).

What is re-tuned is small: frequency filters, fusion gates, norm affines (also of the pretrained convolutions), and
the presence score with its threshold. Whether it helps is judged on images of the site that the fit did not see, by
cross-validation over the handful. Where it does not help, the base is kept.
"""

import copy
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from ..evaluation.metrics import overlap
from ..modeling.adapters_only import base_of
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import segment
from ..modeling.site_adaptation import BUNDLED, PARTS, fingerprint, save_adaptation, site_weights
from .dataset import TrainingImages

FEWEST = 10
LESION_SENSITIVITY = 0.95
HARM = 0.01  # of Dice: below it an image counts as unchanged
REPORT = "adaptation.json"


@dataclass
class Fit:
    r"""
    How the weights are re-tuned.

    Args:
        parts (`tuple[str, ...]`): Which weights, see [`site_weights`].
        steps (`int`): Optimizer steps.
        batch_size (`int`): Images a step.
        learning_rate (`float`): Peak; it falls to zero along a cosine.
        augmentation (`float`): Strength, as in training.
        folds (`int`): Parts of the handful, each judged by a fit on the others.
        seed (`int`): Of folds, order and augmentation.
    """

    parts: tuple[str, ...] = PARTS
    steps: int = 40
    batch_size: int = 8
    learning_rate: float = 3e-4
    augmentation: float = 0.7
    folds: int = 4
    seed: int = 0


@dataclass
class Outcome:
    r"""
    What one version of the model made of the handful, each image by a fit that had not seen it.

    Args:
        dice (`float`): Mean over the lesion images, with the masks that the presence threshold leaves.
        normal_masks (`float`, *optional*): Share of normal scans with a mask, if there are any.
        score (`float`): Mean over all images: Dice of a lesion image; 1 for a normal scan without a mask, else 0.
        harmed (`float`): Share of images whose score is more than 0.01 below that of the base.
    """

    dice: float
    normal_masks: float | None
    score: float
    harmed: float


def adapt(
    model: SFRecSamModel,
    processor: Any,
    site: Dataset,
    output: str | Path,
    base: str | None = None,
    fit: Fit | None = None,
) -> tuple[str, dict[str, Outcome]]:
    """
    Fits the model to a site and writes the difference to `output`, unless the base is better.

    Args:
        model ([`SFRecSamModel`]): The base; left as it is.
        processor ([`SFRecSamProcessor`]): Belonging to it.
        site (`datasets.Dataset`): 10 to 50 labelled images, with the columns of [`~sfrecsam_hf.load_folder`].
        output (`str`): Folder for `adaptation.safetensors`, configurations and `adaptation.json`, the report.
        base (`str`, *optional*): Folder or Hub name that the model was loaded from; the bundled checkpoint if not
            given.
        fit ([`Fit`], *optional*): How to re-tune.

    Returns:
        The version that was kept, `"base"`, `"thresholds"` or `"adapted"`, and what each version made of the handful.

    Raises:
        FileExistsError: `output` holds something already.
        ValueError: There are too few images or lesions.
    """
    fit, output, started = fit or Fit(), _empty(output), time.perf_counter()
    lesion = np.array([np.asarray(mask).any() for mask in site["mask"]])
    groups = np.array(site["group"])
    folds = min(fit.folds, len(set(groups)))
    if len(site) < FEWEST or lesion.sum() < folds or folds < 2:
        raise ValueError(
            f"{len(site)} images with {lesion.sum()} lesions from {len(set(groups))} patients are too few to adapt "
            f"and to judge; give {FEWEST} or more, of 2 or more patients or groups."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=fit.seed)
    parts = [held for _, held in splitter.split(np.zeros(len(site)), lesion, groups)]
    before = _answers(model, processor, site)
    after = np.empty((len(site), 2))
    with tqdm(total=fit.steps * (folds + 1), desc="adapting") as bar:
        for held in parts:
            tuned = fitted(model, processor, site.select(np.setdiff1d(np.arange(len(site)), held)), fit, bar=bar)
            after[held] = _answers(tuned, processor, site.select(held))
        tuned = fitted(model, processor, site, fit, bar=bar)
    stored = model.config.presence_threshold
    as_stored = np.full(len(site), stored)
    base_scores = _scores(before, lesion, as_stored)
    versions = {
        "base": _outcome(before, lesion, as_stored, base_scores),
        "thresholds": _outcome(before, lesion, _cross_fitted(before, lesion, parts, stored), base_scores),
        "adapted": _outcome(after, lesion, _cross_fitted(after, lesion, parts, stored), base_scores),
    }
    # The first of the best: of two that are equally good, the one that changes less.
    kept = max(versions, key=lambda name: versions[name].score)
    output.mkdir(parents=True, exist_ok=True)
    size = 0
    if kept != "base":
        answers = after if kept == "adapted" else before
        tuned = tuned if kept == "adapted" else copy.deepcopy(model)
        tuned.config.presence_threshold = _threshold(answers, lesion, stored)
        size = _save(tuned, processor, model.state_dict(), base, output)
    report = {
        "kept": kept,
        "images": len(site),
        "lesions": int(lesion.sum()),
        "groups": len(set(groups)),
        "folds": folds,
        "fit": asdict(fit),
        "weights": sum(weight.numel() for weight in site_weights(model, fit.parts).values()),
        "bytes": size,
        "seconds": time.perf_counter() - started,
        "versions": {name: asdict(outcome) for name, outcome in versions.items()},
    }
    (output / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return kept, versions


def adapt_threshold(
    model: SFRecSamModel,
    processor: Any,
    scans: Iterable[Any],
    normals: float,
    output: str | Path,
    base: str | None = None,
) -> float:
    """
    Fits the presence threshold to a site from scans without masks, and writes it to `output`; returns it.

    So many scans stay without a mask as are expected to be normal: those with the lowest presence. No weight is
    re-tuned: a filter that brought the spectrum of the features to that of the training images changed the Dice at an
    unseen site by 0.001, and entropy minimisation harms more images than it helps.

    Args:
        model ([`SFRecSamModel`]): The base; only its threshold is changed.
        processor ([`SFRecSamProcessor`]): Belonging to it.
        scans (`Iterable[PIL.Image.Image]`): 10 or more of the site, lesions and normal scans as they come.
        normals (`float`): Share of normal scans that is expected, in [0, 1].
        output (`str`): Folder for the configuration, an empty difference, and `adaptation.json`, the report.
        base (`str`, *optional*): As for [`adapt`].

    Raises:
        FileExistsError: `output` holds something already.
        ValueError: There are too few scans, or the share is out of range.
    """
    output, started = _empty(output), time.perf_counter()
    if not 0 <= normals <= 1:
        raise ValueError(f"normals={normals} must be a share between 0 and 1.")
    found = segment(model, processor, tqdm(scans, desc="looking"), mc_samples=0, presence_threshold=0.0)
    presence = np.sort([one.presence for one in found])
    if len(presence) < FEWEST:
        raise ValueError(f"{len(presence)} scans are too few for a threshold; give {FEWEST} or more.")
    refused = round(normals * len(presence))
    lower, upper = np.concatenate([[0.0], presence, [1.0]])[refused : refused + 2]
    before, model.config.presence_threshold = model.config.presence_threshold, float(lower + upper) / 2
    size = _save(model, processor, model.state_dict(), base, output)
    report = {
        "kept": "thresholds",
        "images": len(presence),
        "expected_normals": normals,
        "presence_threshold": {"base": before, "adapted": model.config.presence_threshold},
        "bytes": size,
        "seconds": time.perf_counter() - started,
    }
    (output / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return model.config.presence_threshold


def table(versions: dict[str, Outcome]) -> str:
    """What each version made of images that its fit had not seen, as a table for a terminal."""
    lines = ["| version | Dice of lesions | normal scans with a mask | images harmed |", "|---|---|---|---|"]
    for name, outcome in versions.items():
        normals = "none here" if outcome.normal_masks is None else f"{outcome.normal_masks:.0%}"
        lines.append(f"| {name} | {outcome.dice:.3f} | {normals} | {outcome.harmed:.0%} |")
    return "\n".join(lines)


def fitted(
    model: SFRecSamModel,
    processor: Any,
    rows: Dataset,
    fit: Fit,
    chosen: Callable[[SFRecSamModel], dict[str, torch.nn.Parameter]] | None = None,
    bar: tqdm | None = None,
) -> SFRecSamModel:
    """
    A copy of the model in evaluation mode, with some of its weights fitted to labelled images.

    Args:
        model ([`SFRecSamModel`]): Left as it is.
        processor ([`SFRecSamProcessor`]): Belonging to it.
        rows (`datasets.Dataset`): The images, with the columns of [`~sfrecsam_hf.load_folder`].
        fit ([`Fit`]): How to re-tune.
        chosen (`Callable`, *optional*): Names the weights of the copy; [`site_weights`] of `fit.parts` if not given.
        bar (`tqdm`, *optional*): Moved on by each step.
    """
    tuned = copy.deepcopy(model)
    tuned.train_stage(1)
    weights = site_weights(tuned, fit.parts) if chosen is None else chosen(tuned)
    tuned.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    images = TrainingImages([rows], processor.image_processor, fit.seed, fit.augmentation, quiet=True)
    optimizer = torch.optim.AdamW(weights.values(), lr=fit.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.learning_rate, fit.steps)
    order = np.random.default_rng(fit.seed)
    tuned.train()
    for step in range(fit.steps):
        batch = order.choice(len(images), min(fit.batch_size, len(images)), replace=False)
        tuned(**images.__getitems__([(step, int(index)) for index in batch])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if bar is not None:
            bar.update()
    return tuned.requires_grad_(True).eval()


def _empty(output: str | Path) -> Path:
    """The folder to write to, unless it holds something."""
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; choose another --output.")
    return output


def _save(
    tuned: SFRecSamModel, processor: Any, weights: dict[str, torch.Tensor], base: str | None, output: Path
) -> int:
    """Writes an adapted model as the difference to the weights of its base; returns the bytes of the difference."""
    tuned.config.adapted_from, tuned.config.adapted_revision = _name_of(base)
    tuned.config.adapted_fingerprint = fingerprint(weights)
    size = save_adaptation(tuned, weights, output)
    processor.save_pretrained(output)
    return size


def _name_of(base: str | None) -> tuple[str, str | None]:
    """How an adaptation names its base, and the base's commit if it is on the Hub."""
    if base is None:
        return BUNDLED, None
    found = base_of(base)
    return (found["base_model"], found["base_revision"]) if found else (str(Path(base).resolve()), None)


def _answers(model: SFRecSamModel, processor: Any, rows: Dataset) -> np.ndarray:
    """Presence of each image, and the Dice of its mask before the presence threshold, of shape `(images, 2)`."""
    found = segment(model, processor, rows["image"], presence_threshold=0.0)
    truths = (np.asarray(mask) > 0 for mask in rows["mask"])
    return np.array([(one.presence, overlap(one.mask, true)["dice"]) for one, true in zip(found, truths, strict=True)])


def _scores(answers: np.ndarray, lesion: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Of each image: the Dice of a lesion, 0 if it is refused; of a normal scan 1 without a mask, and 0 with one."""
    presence, dice = answers.T
    shown = presence >= thresholds
    return np.where(lesion, shown * dice, ~shown | (dice == 1))  # a mask that is empty by itself has a Dice of 1


def _outcome(answers: np.ndarray, lesion: np.ndarray, thresholds: np.ndarray, base_scores: np.ndarray) -> Outcome:
    scores = _scores(answers, lesion, thresholds)
    return Outcome(
        dice=float(scores[lesion].mean()),
        normal_masks=None if lesion.all() else float(1 - scores[~lesion].mean()),
        score=float(scores.mean()),
        harmed=float(np.mean(scores < base_scores - HARM)),
    )


def _cross_fitted(answers: np.ndarray, lesion: np.ndarray, parts: list[np.ndarray], stored: float) -> np.ndarray:
    """A presence threshold for each image, chosen on the images of the other folds."""
    thresholds = np.empty(len(lesion))
    for held in parts:
        others = np.setdiff1d(np.arange(len(lesion)), held)
        thresholds[held] = _threshold(answers[others], lesion[others], stored)
    return thresholds


def _threshold(answers: np.ndarray, lesion: np.ndarray, stored: float) -> float:
    """
    The presence threshold with the best mean score among those that keep the masks of 95 % of the lesions.

    Without a normal scan there is nothing to gain: then it is the stored one, or lower if that keeps more lesions.
    """
    presence = answers[:, 0]
    allowed = float(np.quantile(presence[lesion], 1 - LESION_SENSITIVITY, method="lower"))
    if lesion.all():
        return min(stored, allowed)
    ordered = np.unique([0.0, *presence, 1.0])
    candidates = [x for x in (ordered[1:] + ordered[:-1]) / 2 if x <= allowed] or [allowed]
    return float(max(candidates, key=lambda x: _scores(answers, lesion, x).mean()))
