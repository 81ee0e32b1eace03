"""
Settings judged by cross-validation, then one model trained with them on everything: `sfrecsam train --folds 4`.

Nothing is selected on what it is judged by. Every fold trains the same number of epochs and keeps its last weights;
correctors and thresholds of a fold come from the other folds; the final model takes those of all folds.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from ..data.loading import find, to_dataset
from ..data.split_tables import apply_splits, exclude
from ..data.splits import Resolved, grouped_folds
from ..data.training_record import TrainingRecord
from ..evaluation.evaluate import measure
from ..evaluation.measured import Measured
from ..evaluation.report import write_report
from ..evaluation.summary import summarised
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from ..modeling.false_corrector import DualFalseCorrector
from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .calibration import correction_threshold, presence_threshold
from .config import TrainingConfig
from .correctors import ErrorMaps, threshold_dice, train_correctors
from .dataset import TrainingImages
from .prompting import train_prompts
from .summary import machine_name
from .trainer import train

BASE = "best"
MAPS, CORRECTOR, DICE = "error_maps.safetensors", "corrector.safetensors", "correction_dice.npz"
OBJECTED = " (objected to)"


def train_folds(config: TrainingConfig, folds: int, resume: bool = False) -> Path:
    """
    Cross-validates the settings and trains the final model; returns its folder.

    The folder of the run then holds `fold-1` to `fold-K`, `final`, `evaluation` with the out-of-fold figures of each
    data set, and `folds.json`, which says what each part cost.

    Args:
        config ([`TrainingConfig`]): Settings of every part; without `validation`, since each fold holds images out.
        folds (`int`): Number of folds, at least 2.
        resume (`bool`): Go on with an interrupted run: parts that have ended are left as they are.

    Raises:
        FileExistsError: The output folder holds a run and `resume` is False.
        ValueError: The settings name validation data, or the data cannot be used.
    """
    run = FoldedRun(config, folds, resume)
    for fold in range(folds):
        run.part(f"fold-{fold + 1}", lambda fold=fold: run.train_fold(fold))
        run.part(f"errors-{fold + 1}", lambda fold=fold: run.map_errors(fold))
    run.part("final", run.train_final)
    run.part("prompts", run.train_prompts)
    run.part("correctors", run.train_correctors)
    for fold in range(folds):
        run.part(f"measured-{fold + 1}", lambda fold=fold: run.measure_fold(fold))
    run.part("thresholds", run.finish_final)
    run.report()
    return run.output / "final" / BASE


@dataclass
class HeldOut:
    """The images of one data set that a fold did not train on."""

    name: str
    images: Dataset


class FoldedRun:
    """One run in one folder; each part leaves a line in `folds.json` when it has ended."""

    def __init__(self, config: TrainingConfig, folds: int, resume: bool):
        if config.validation:
            raise ValueError("validation must be left out with --folds: each fold holds its own images out.")
        self.config, self.folds, self.output = config, folds, Path(config.output)
        self.log = self.output / "folds.json"
        if self.log.is_file() and not resume:
            raise FileExistsError(f"{self.output} already holds a run; pass --resume or choose another --output.")
        found = [find(source) for source in config.train]
        if config.splits is not None:
            apply_splits(found, config.splits)
        self.sources = [to_dataset(source, source.samples) for source in found]
        self.names = [Path(source).name.removesuffix(".zip") for source in config.train]
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"train names two folders of one name ({', '.join(self.names)}); rename one of them.")
        self.dealt = grouped_folds(self.sources, folds, config.seed)
        if config.exclude is not None:
            exclude(found, config.exclude)
        self.kept = [{sample.name for sample in source.samples} for source in found]
        self.output.mkdir(parents=True, exist_ok=True)

    def done(self) -> dict[str, float]:
        """The parts that have ended, and the seconds that each took."""
        return json.loads(self.log.read_text()) if self.log.is_file() else {}

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Does a part of the run, unless it has been done, and notes how long it took."""
        if name in self.done():
            return
        print(f"***** part {name}", flush=True)
        start = time.perf_counter()
        work()
        seconds = self.done() | {name: time.perf_counter() - start}
        fresh = self.log.with_suffix(".new")
        fresh.write_text(json.dumps(seconds, indent=1) + "\n")
        fresh.replace(self.log)

    def train_fold(self, fold: int) -> None:
        """The base of one fold."""
        folder = self.output / f"fold-{fold + 1}"
        settings = replace(self.config, output=str(folder), correction_epochs=0, seed=self.config.seed + fold)
        settings.epochs = self.config.fold_epochs or self.config.epochs
        train(settings, resume=(folder / "latest").is_file(), data=self.taught(without_fold=fold))

    def map_errors(self, fold: int) -> None:
        """What the base of a fold makes of the images that it did not train on."""
        folder = self.output / f"fold-{fold + 1}"
        model = SFRecSamModel.from_pretrained(folder / BASE).eval()
        parts = [part.images for part in self.held_out(fold)]
        images = TrainingImages(parts, _processor(model).image_processor, augmentation=0.0)
        ErrorMaps.of(model, images, self.config.mc_samples).save(folder / MAPS)

    def taught(self, without_fold: int | None = None) -> Resolved:
        """The images to train on: those that nobody objects to, of the other folds."""
        chosen = [
            source.select(
                [
                    index
                    for index, (name, fold) in enumerate(zip(source["name"], dealt, strict=True))
                    if name in kept and fold != without_fold
                ]
            )
            for source, dealt, kept in zip(self.sources, self.dealt, self.kept, strict=True)
        ]
        held = {name: len(source) for name, source in zip(self.config.train, self.sources, strict=True)}
        record = TrainingRecord.of_run(list(zip(self.config.train, chosen, strict=True)), [], None)
        return Resolved(train=chosen, validation=[], record=record, held=held)

    def held_out(self, fold: int) -> list[HeldOut]:
        """The images that a fold did not train on."""
        return [
            HeldOut(name, source.select(np.flatnonzero(dealt == fold)))
            for name, source, dealt in zip(self.names, self.sources, self.dealt, strict=True)
        ]

    def maps(self, fold: int) -> ErrorMaps:
        """What a fold's base made of the images it did not train on."""
        return ErrorMaps.load(self.output / f"fold-{fold + 1}" / MAPS)

    def train_correctors(self) -> None:
        """Correctors and thresholds: for each fold from the other folds, for the final model from all."""
        every = list(range(self.folds))
        save_file(self.new_corrector(every).state_dict(), self.output / CORRECTOR)
        unbiased = []
        for fold in every:
            folder = self.output / f"fold-{fold + 1}" / BASE
            model = SFRecSamModel.from_pretrained(folder)
            model.corrector.load_state_dict(self.new_corrector([f for f in every if f != fold]).state_dict())
            unbiased.append(threshold_dice(model.corrector.eval(), self.maps(fold)))
            model.save_pretrained(folder)
        for fold in every:
            self.set_thresholds(self.output / f"fold-{fold + 1}" / BASE, [f for f in every if f != fold], unbiased)
        np.savez(self.output / DICE, *unbiased)

    def new_corrector(self, teachers: list[int]) -> DualFalseCorrector:
        """Correctors that learned from the errors of the given folds."""
        config = SFRecSamConfig.from_pretrained(self.output / "fold-1" / BASE)
        maps = ErrorMaps.joined([self.maps(fold) for fold in teachers])
        torch.manual_seed(self.config.seed)
        corrector = DualFalseCorrector(maps.context.shape[1], config.corrector_channels, config.correctors)
        epochs, rate = self.config.correction_epochs, self.config.correction_learning_rate
        train_correctors(corrector, maps, epochs, rate, self.config.seed)
        return corrector

    def set_thresholds(self, folder: Path, chosen_on: list[int], dice: list[np.ndarray]) -> None:
        """Stores the thresholds that are best on the given folds in the configuration of a checkpoint."""
        model = SFRecSamModel.from_pretrained(folder)
        model.config.suspicion_threshold = correction_threshold(np.concatenate([dice[fold] for fold in chosen_on]))
        tables = [self.presence_table(fold) for fold in chosen_on]
        columns = [np.concatenate(column) for column in zip(*tables, strict=True)]
        if len(columns[0]):
            model.config.presence_threshold = presence_threshold(*columns)
        model.save_pretrained(folder)
        _processor(model).save_pretrained(folder)
        print(
            f"{folder}: suspicion_threshold {model.config.suspicion_threshold:.3f}, "
            f"presence_threshold {model.config.presence_threshold:.3f}"
        )

    def presence_table(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        What [`presence_threshold`] takes, of a fold's held-out images.

        Data without a normal scan have no say: the threshold could only empty the masks of their lesions.
        """
        maps, start, chosen = self.maps(fold), 0, []
        for part in self.held_out(fold):
            index = torch.arange(start, start + len(part.images))
            start += len(part.images)
            if (maps.target[index].amax((1, 2, 3)) == 0).any():
                chosen.append(index)
        part = maps.select(torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long))
        true, mask = (part.target > 0.5).flatten(1), (part.initial > 0).flatten(1)
        lesion = true.any(dim=1)
        dice = 2 * (true & mask).sum(1) / (true.sum(1) + mask.sum(1)).clamp(min=1)
        gain = torch.where(lesion, -dice, mask.any(dim=1).float())
        return part.presence.sigmoid().numpy(), lesion.numpy(), gain.numpy()

    def measure_fold(self, fold: int) -> None:
        """Every figure of the images that a fold did not train on, at their original size."""
        folder = self.output / f"fold-{fold + 1}"
        model = SFRecSamModel.from_pretrained(folder / BASE).eval()
        processor = _processor(model)
        for part in self.held_out(fold):
            for name, images in self.judged(part):
                measure(model, processor, images, quiet=True).save(folder / f"{name}.json")

    def judged(self, part: HeldOut) -> list[tuple[str, Dataset]]:
        """The images of a data set that nobody objects to, and, if there are any, the others."""
        kept = self.kept[self.names.index(part.name)]
        good = [index for index, name in enumerate(part.images["name"]) if name in kept]
        bad = sorted(set(range(len(part.images))) - set(good))
        judged = [(part.name, part.images.select(good))]
        return judged + [(f"{part.name}{OBJECTED}", part.images.select(bad))] * bool(bad)

    def train_final(self) -> None:
        """The model that is published: everything trains it, and nothing is selected on it."""
        folder = self.output / "final"
        settings = replace(self.config, output=str(folder), correction_epochs=1)
        train(settings, resume=(folder / "latest").is_file(), data=self.taught())

    def train_prompts(self) -> None:
        """Teaches every model what a click asks for; no automatic mask changes."""
        if not self.config.prompt_epochs:
            return
        for fold in [*range(self.folds), None]:
            folder = self.output / ("final" if fold is None else f"fold-{fold + 1}") / BASE
            model = SFRecSamModel.from_pretrained(folder)
            train_prompts(model, self.taught(without_fold=fold).train, self.config)
            model.save_pretrained(folder)

    def finish_final(self) -> None:
        """Gives the final model the correctors and thresholds that all folds' errors teach, and halves its file."""
        folder = self.output / "final" / BASE
        model = SFRecSamModel.from_pretrained(folder)
        model.corrector.load_state_dict(load_file(self.output / CORRECTOR))
        model.save_pretrained(folder)
        stored = np.load(self.output / DICE)
        self.set_thresholds(folder, list(range(self.folds)), [stored[name] for name in stored.files])
        _store_in_half(folder)

    def report(self) -> None:
        """Writes the out-of-fold figures of each data set, without the images that are objected to and with them."""
        for name in self.names:
            good, bad = (self._measured(f"{name}{kind}") for kind in ("", OBJECTED))
            self._write(name, good, {"to which others object": len({row["name"] for row in bad.rows})})
            if bad.rows:
                self._write(f"{name} all", good + bad, {})

    def _measured(self, name: str) -> Measured:
        """What was measured under a name, in all folds together."""
        paths = [self.output / f"fold-{fold + 1}" / f"{name}.json" for fold in range(self.folds)]
        return sum((Measured.load(path) for path in paths if path.is_file()), Measured())

    def _write(self, name: str, measured: Measured, left_out: dict[str, int]) -> None:
        about = {
            "model": "final",
            "data": name,
            "split": None,
            "folds": self.folds,
            "options": {},
            "dtype": "float32",
            "machine": machine_name(torch.device("cpu")),
            "protocol": "out-of-fold",
            "thresholds": "cross-fitted",
            "left_out": left_out,
        }
        write_report(self.output / "evaluation" / name, about | summarised(measured), measured.rows)


def _store_in_half(folder: Path) -> None:
    """Writes the weights of a checkpoint in float16: half the file. They are loaded as float32, as before."""
    model = SFRecSamModel.from_pretrained(folder)
    model.save_pretrained(folder, state_dict={name: value.half() for name, value in model.state_dict().items()})


def _processor(model: SFRecSamModel) -> SFRecSamProcessor:
    return SFRecSamProcessor(SFRecSamImageProcessorPil(image_size=model.config.vision_config.image_size))


__all__ = ["train_folds"]
