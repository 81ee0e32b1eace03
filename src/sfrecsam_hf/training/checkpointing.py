"""
The states that a run resumes from, and the folder of its best model. Both are whole at any moment.

Accelerate writes weights, optimizer and random generators. It does not name the states here: with
`ProjectConfiguration(total_limit=...)` it deletes an old state before the new one is complete. Our own numbers are
JSON, since what `register_for_checkpointing` writes is read back as a pickle that may run code.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel

from ..data.training_record import TrainingRecord
from ..inference.writing import remove, replacing
from ..modeling.configuration_sfrecsam import SFRecSamConfig
from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessorPil
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .starting_model import resized

PROGRESS, DIGESTS, AVERAGE = "progress.json", "digests.json", "average.safetensors"


@dataclass
class Progress:
    r"""
    Where a run stands: all that it needs beside weights, optimizer and random generators to go on.

    Args:
        stage, epoch, batch (`int`): Stage (from 1), epoch of the stage and batch of the epoch (from 0) that come next.
        step (`int`): Optimizer steps of the stage so far.
        best (`float`): Quality of the stage's best epoch so far, a Dice in [0, 1]; -1 before the first.
        waited (`int`): Epochs since then.
        without_overlap (`int`): Epochs in a row whose masks met no lesion at all.
        averaged (`int`): Steps that the moving average has seen.
        seconds (`float`): Duration of the run so far.
        shown (`str`): Digest of the images and masks that train and validate.
        sums (`dict[str, float]`): Of the epoch so far, over its batches: each loss term, and the seconds of each part.
    """

    stage: int = 1
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    waited: int = 0
    without_overlap: int = 0
    averaged: int = 0
    seconds: float = 0.0
    shown: str = ""
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Adds what a batch gave to the sums of its epoch."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


@contextmanager
def replaced(path: Path, main: bool = True) -> Iterator[Path]:
    """
    As `replacing`, with one sentence for whatever keeps the file or folder from being written.

    Args:
        path (`Path`): What is to be written.
        main (`bool`): Whether this process is the one of several that puts it in place.

    Raises:
        OSError: It could not be written, for instance since the disk is full; `path` is as it was before.
    """
    try:
        with replacing(path, main) as fresh:
            yield fresh
    except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch and safetensors have their own for a full disk
        reason = "PyTorch cannot write it" if isinstance(error, RuntimeError) else getattr(error, "strerror", error)
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path} could not be written ({reason}; {free:.0f} MB are free there). What was saved before is whole: "
            "make room, then go on with --resume."
        ) from error


class Checkpoints:
    r"""
    The folder of a run: `latest` names its last state, and `best/` holds its best model.

    A state is written beside the last one, `latest` is changed to name it, and only then the last one goes.

    Args:
        folder (`Path`): Of the run.
        accelerator ([`~accelerate.Accelerator`]): Holds what is saved.
        record ([`TrainingRecord`]): Of the images of the run, saved beside its best model.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, record: TrainingRecord):
        self.folder, self.accelerator, self.record = folder, accelerator, record
        self.best = folder / "best"

    def save(self, progress: Progress, config: SFRecSamConfig, average: AveragedModel | None) -> None:
        """Writes the state to resume from. All processes must call it."""
        accelerator, main = self.accelerator, self.accelerator.is_main_process
        name = f"state-{progress.stage}-{progress.step:06d}"
        if main:
            remove(self.folder / name)  # of a process that ended before `latest` named it
        with replaced(self.folder / name, main) as fresh:
            accelerator.wait_for_everyone()
            accelerator.save_state(str(fresh))
            accelerator.wait_for_everyone()
            if main:
                config.save_pretrained(fresh)
                if average is not None:
                    save_model(average.module, str(fresh / AVERAGE))
                (fresh / PROGRESS).write_text(json.dumps(asdict(progress)))
                files = [path for path in fresh.rglob("*") if path.is_file()]
                digests = {str(path.relative_to(fresh)): _file_digest(path) for path in files}
                (fresh / DIGESTS).write_text(json.dumps(digests))
        if not main:
            return
        with replaced(self.folder / "latest") as fresh:
            fresh.write_text(name)
        for old in self.folder.glob("state-*"):
            if old.name != name:
                shutil.rmtree(old)

    def load(self, state: Path, progress: Progress, average: AveragedModel | None) -> None:
        """Brings what was prepared with the accelerator, and the moving average, to where the state was written."""
        self.accelerator.load_state(str(state))
        if average is not None and progress.averaged:
            load_model(average.module, state / AVERAGE)
            average.n_averaged.fill_(progress.averaged)

    def save_best(self, model: SFRecSamModel, processor: SFRecSamProcessor) -> None:
        """Writes model and processor into `best/`, which is one whole checkpoint at any moment."""
        if not self.accelerator.is_main_process:
            return
        with replaced(self.best) as fresh:
            model.save_pretrained(fresh)
            processor.save_pretrained(fresh)
            self.record.save(fresh)

    def save_at(self, image_size: int) -> None:
        """Writes the best model again for another input size."""
        model = SFRecSamModel.from_pretrained(self.best)
        if model.config.vision_config.image_size != image_size:
            image_processor = SFRecSamImageProcessorPil(image_size=image_size)
            self.save_best(resized(model, image_size), SFRecSamProcessor(image_processor))


def size_of(folder: Path) -> int | None:
    """Side of the input of the model in a folder; None where there is none."""
    if not (folder / "config.json").is_file():
        return None
    return SFRecSamConfig.from_pretrained(folder).vision_config.image_size


def saved_state(folder: Path) -> Path:
    """
    The last state of a run, checked.

    Args:
        folder (`Path`): Of the run.

    Raises:
        FileNotFoundError: There is nothing to resume.
        ValueError: A file of the state is damaged or missing.
    """
    latest = folder / "latest"
    if not latest.is_file():
        raise FileNotFoundError(f"{latest} does not exist, so there is nothing to resume; train without --resume.")
    state = folder / latest.read_text(errors="replace").strip()
    if not (state / DIGESTS).is_file():
        raise ValueError(f"{state} is not a whole state of this version; begin anew with another --output.")
    for name, wanted in _read(state / DIGESTS).items():
        if not (state / name).is_file() or _file_digest(state / name) != wanted:
            raise ValueError(f"{state / name} is damaged or missing; begin anew with another --output.")
    return state


def saved_progress(state: Path, processes: int) -> Progress:
    """
    Where the run stood when the state was written.

    Args:
        state (`Path`): From [`saved_state`].
        processes (`int`): How many go on.

    Raises:
        ValueError: Another number of processes wrote it.
    """
    wrote = len(list(state.glob("random_states_*.pkl")))
    if wrote != processes:
        raise ValueError(f"{state} was written by {wrote} processes; resume with as many, not with {processes}.")
    return Progress(**_read(state / PROGRESS))


def _read(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(errors="replace")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged; begin anew with another --output.") from error


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the numbers in arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
