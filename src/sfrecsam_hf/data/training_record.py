"""Which images a checkpoint was trained on: hashes in a small file beside it, so that no evaluation scores them.

The file holds no picture and no name. Of every image it has a hash of its pixels, a perceptual hash (which signs the
lowest frequencies have), and a hash of its group.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset
from scipy.fft import dctn
from transformers.utils import cached_file

from ..modeling.image_reading import read_rgb
from .duplicates import near_duplicate_groups
from .split_tables import shortened

FILE = "training_images.json"
SIDE, FREQUENCIES = 32, 16
DIFFERING = 76  # of 255 bits
HELD_OUT, CHOSEN_ON, TRAINED_ON, UNKNOWN = "held-out", "chosen-on", "trained-on", "unknown"


@dataclass(frozen=True)
class Print:
    """The hashes of one image."""

    content: str
    perceptual: str
    group: str


@dataclass
class Judgement:
    """
    What a checkpoint has seen of a data set.

    Args:
        protocol (`str`): `"held-out"`, `"chosen-on"` (an image chose the checkpoint), `"trained-on"` or `"unknown"`.
        kept (`list[int]`): Images that remain to be evaluated.
        left_out (`dict[str, int]`): How many do not, by the reason.
        chosen_on (`int`): How many of those that remain chose the checkpoint.
    """

    protocol: str
    kept: list[int]
    left_out: dict[str, int] = field(default_factory=dict)
    chosen_on: int = 0


@dataclass
class TrainingRecord:
    """The images that a checkpoint was trained on, and those that chose it."""

    train: set[Print] = field(default_factory=set)
    validation: set[Print] = field(default_factory=set)

    @classmethod
    def of_run(
        cls, train: list[tuple[str, Dataset]], validation: list[tuple[str, Dataset]], start: str | None
    ) -> "TrainingRecord":
        """
        The record of a run.

        Args:
            train, validation (`list[tuple[str, datasets.Dataset]]`): Path or name of each data set, and its images.
            start (`str`, *optional*): The checkpoint that it started from, whose images count, too.

        Raises:
            ValueError: The very same picture trains and validates.
        """
        record = cls({mark for source, dataset in train for mark in prints(dataset, source)})
        trained = {mark.content for mark in record.train}
        for source, dataset in validation:
            marks = prints(dataset, source)
            both = [name for name, mark in zip(dataset["name"], marks, strict=True) if mark.content in trained]
            if both:
                raise ValueError(
                    f"{len(both)} images are in train and in validation: {shortened(both)}; take them out of one, or "
                    "give one folder for both, which is then split."
                )
            record.validation.update(marks)
        before = cls.of_checkpoint(start) if start else None
        if before is not None:
            record.train |= before.train
            record.validation |= before.validation
        return record

    @classmethod
    def of_checkpoint(cls, checkpoint: str | Path) -> "TrainingRecord | None":
        """The record beside a checkpoint, a folder or a Hub name; None if there is none."""
        if not Path(checkpoint).is_dir() and "/" not in str(checkpoint):
            return None  # the name of a size, not of a checkpoint
        found = cached_file(
            str(checkpoint),
            FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found is None:
            return None
        try:
            content = json.loads(Path(found).read_text())
            return cls(*({Print(*mark) for mark in content[use]} for use in ("train", "validation")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{found} is damaged; copy the checkpoint again.") from error

    def save(self, folder: Path) -> None:
        """Writes `training_images.json` into a checkpoint's folder."""
        content = {
            use: sorted([mark.content, mark.perceptual, mark.group] for mark in marks)
            for use, marks in (("train", self.train), ("validation", self.validation))
        }
        (folder / FILE).write_text(json.dumps(content) + "\n")

    def judge(self, dataset: Dataset, source: str, include: bool = False) -> Judgement:
        """
        Which images of a data set may be evaluated.

        Left out are training images, their near-duplicates, and images of their groups (patients).

        Args:
            dataset (`datasets.Dataset`): With the columns image and group.
            source (`str`): Its path or Hub name.
            include (`bool`): Leave none out.
        """
        found = prints(dataset, source)
        trained = _identical(found, self.train)
        near = _alike(found, self.train)
        if trained.any():
            numbers = np.array(near_duplicate_groups(list(dataset["image"])))
            near |= np.isin(numbers, numbers[trained])
        groups = {known.group for known in self.train} | {
            mark.group for mark, seen in zip(found, trained | near, strict=True) if seen
        }
        related = np.array([mark.group in groups for mark in found], dtype=bool)
        reasons = {
            "training images": trained,
            "near-duplicates of training images": near & ~trained,
            "of the patient or group of a training image": related & ~trained & ~near,
        }
        seen = trained | near | related
        chosen = _identical(found, self.validation) & ~seen
        protocol = CHOSEN_ON if chosen.any() else HELD_OUT
        if include and seen.any():
            return Judgement(TRAINED_ON, list(range(len(found))), {}, int(chosen.sum()))
        counts = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
        return Judgement(protocol, np.nonzero(~seen)[0].tolist(), counts, int(chosen.sum()))


def unseen(dataset: Dataset, source: str, checkpoint: str | Path, include: bool = False) -> tuple[Dataset, Judgement]:
    """
    The images of a data set that a checkpoint may be evaluated on.

    Args:
        dataset, source, include: As for [`TrainingRecord.judge`].
        checkpoint (`str`): Folder or Hub name.

    Raises:
        ValueError: None is left.
    """
    record = TrainingRecord.of_checkpoint(checkpoint)
    if record is None:
        return dataset, Judgement(UNKNOWN, list(range(len(dataset))))
    judgement = record.judge(dataset, source, include)
    if not judgement.kept:
        raise ValueError(
            f"All {len(dataset)} images of {source} trained the checkpoint or are related to images that did; give "
            "others, or --include-training-images."
        )
    return dataset.select(judgement.kept), judgement


def prints(dataset: Dataset, source: str) -> list[Print]:
    """The hashes of all images of a data set."""
    name = Path(source).name.removesuffix(".zip")
    found = []
    for image, group in zip(dataset["image"], dataset["group"], strict=True):
        rgb = read_rgb(image)
        owner = hashlib.sha256(f"{name}/{group}".encode()).hexdigest()[:16]
        found.append(Print(content_hash(rgb), perceptual_hash(rgb), owner))
    return found


def content_hash(image: PIL.Image.Image) -> str:
    """Of the pixels: the same for every lossless way to save them."""
    rgb = read_rgb(image)
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()[:32]


def perceptual_hash(image: PIL.Image.Image) -> str:
    """The signs of the 16x16 lowest frequencies but the mean, at 32x32 pixels: 255 bits in hexadecimal."""
    small = image.convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    frequencies = dctn(np.asarray(small, dtype=np.float64))[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return np.packbits(frequencies > 0).tobytes().hex()


def _identical(found: list[Print], known: set[Print]) -> np.ndarray:
    contents = {mark.content for mark in known}
    return np.array([mark.content in contents for mark in found], dtype=bool)


def _alike(found: list[Print], known: set[Print]) -> np.ndarray:
    """
    Which images differ from one of `known` in at most `DIFFERING` bits.

    On BUSI that finds 84 % of 212 pairs of near-duplicates; of 1.2 million pairs of BUSI and BUS-BRA images, which are
    no duplicates, it takes one.
    """
    if not found or not known:
        return np.zeros(len(found), dtype=bool)
    here, there = (np.unpackbits(_bytes(marks), axis=1)[:, :-1] * 2.0 - 1.0 for marks in (found, list(known)))
    differing = (here.shape[1] - here @ there.T) / 2
    return (differing <= DIFFERING).any(axis=1)


def _bytes(marks: list[Print]) -> np.ndarray:
    return np.stack([np.frombuffer(bytes.fromhex(mark.perceptual), dtype=np.uint8) for mark in marks])


def describe(judgement: Judgement) -> dict[str, Any]:
    """What `results.json` says of it, for the card."""
    return {
        "protocol": judgement.protocol,
        "thresholds": "unconfirmed" if judgement.chosen_on else "fixed",
        "left_out": judgement.left_out,
        "chosen_on": judgement.chosen_on,
    }
