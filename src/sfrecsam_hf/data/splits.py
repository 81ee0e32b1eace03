"""Decides which images train and which validate: the one place that is asked by train, evaluate and the examples."""

import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from .duplicates import near_duplicate_groups
from .files import read_scan
from .layouts import Found, Sample
from .loading import find, of_split, to_dataset
from .split_tables import apply_splits, exclude
from .training_record import TrainingRecord

PARTS = 5  # four train, one validates

logger = logging.getLogger(__name__)


@dataclass
class Resolved:
    """
    The images of a training run.

    Args:
        train (`list[datasets.Dataset]`): One for each data set to train on.
        validation (`list[datasets.Dataset]`): One for each data set to validate on.
        record ([`TrainingRecord`]): Both as hashes, to be saved beside the checkpoint.
        held (`dict[str, int]`): How many images each data set holds, whatever their split.
    """

    train: list[Dataset]
    validation: list[Dataset]
    record: TrainingRecord
    held: dict[str, int]


def resolve(
    train: list[str],
    validation: list[str],
    splits: str | Path | None = None,
    without: str | Path | None = None,
    start: str | None = None,
) -> Resolved:
    """
    Decides which images a run trains on.

    A data set is split by the table that names it, else by itself (folders named train and val, a table of its own),
    else by [`split_by_group`]. One that has no split and is given for one purpose alone is used for it as a whole.

    Args:
        train (`list[str]`): Folders, zips or Hub names to train on.
        validation (`list[str]`): Those to validate on.
        splits (`str`, *optional*): CSV with the columns image, group and split.
        without (`str`, *optional*): CSV of images to leave out of both.
        start (`str`, *optional*): The checkpoint that the run starts from; what it was trained on is recorded, too.

    Raises:
        FileNotFoundError, ValueError: As for [`~sfrecsam_hf.load_folder`]; or one image is in both.
    """
    train, validation = [str(source) for source in train], [str(source) for source in validation]
    sources = {source: find(source) for source in dict.fromkeys([*train, *validation])}
    _apply(list(sources.values()), splits, without)
    for source, found in sources.items():
        if (source in train and source in validation) or any(sample.split for sample in found.samples):
            _ensure_split(found)
    train_sets = [_part(sources[source], "train") for source in train]
    validation_sets = [_part(sources[source], "val") for source in validation]
    record = TrainingRecord.of_run(
        list(zip(train, train_sets, strict=True)), list(zip(validation, validation_sets, strict=True)), start
    )
    return Resolved(train_sets, validation_sets, record, {name: len(found.samples) for name, found in sources.items()})


def load_split(
    source: str | Path,
    split: str | None,
    splits: str | Path | None = None,
    *,
    without: str | Path | None = None,
    streaming: bool = False,
) -> Dataset:
    """
    One split of one data set, decided as in [`resolve`]: it does not depend on a training run or its seed.

    Args:
        source (`str`): Folder, zip or Hub name.
        split (`str`, *optional*): `"train"`, `"val"` or `"test"`; all images if not given.
        splits, without: As for [`resolve`].
        streaming (`bool`): As for [`~sfrecsam_hf.data.loading.find`].

    Raises:
        FileNotFoundError, ValueError: As for [`~sfrecsam_hf.load_folder`].
    """
    return load_splits([source], split, splits, without=without, streaming=streaming)[0]


def load_splits(
    sources: list,
    split: str | None,
    splits: str | Path | None = None,
    *,
    without: str | Path | None = None,
    streaming: bool = False,
) -> list[Dataset]:
    """The same of several data sets."""
    found = [find(source, streaming=streaming) for source in sources]
    _apply(found, splits, without)
    for entry in found if split is not None else []:
        _ensure_split(entry)
    return [_part(entry, split) for entry in found]


def load_parts(source: str | Path, splits: str | Path | None = None) -> DatasetDict:
    """
    All splits that a data set or a table has, as the Hub names them: train, validation and test; or train alone.

    Args:
        source (`str`): Folder, zip or Hub name.
        splits (`str`, *optional*): As for [`resolve`].

    Raises:
        FileNotFoundError, ValueError: As for [`~sfrecsam_hf.load_folder`].
    """
    found = find(source)
    _apply([found], splits, None)
    has = {sample.split for sample in found.samples if sample.split}
    named = {"train": "train", "val": "validation", "test": "test"}
    parts = {named[split]: to_dataset(found, of_split(found, split)) for split in named if split in has}
    return DatasetDict(parts or {"train": to_dataset(found, found.samples)})


def split_by_group(found: Found) -> None:
    """
    Splits a data set four to one, so that no patient, group or near-duplicate crosses and classes keep their share.

    Sets `split` of every sample, and `group` to what must stay together.

    On 621 BUSI images, 60 of 125 validation images are then in groups of two or more, and 5 (4 %) still have a twin in
    train that the search for duplicates misses.

    Raises:
        ValueError: There are fewer than five such groups, or an image cannot be read.
    """
    samples = found.samples
    names = _joined_groups(samples)
    for sample, name in zip(samples, names, strict=True):
        sample.group = name
    if len(set(names)) < PARTS:
        raise ValueError(
            f"{found.source} has {len(samples)} images in {len(set(names))} groups; to split it, at least {PARTS} "
            "groups or a splits CSV are needed."
        )
    dataset = Dataset.from_dict({"label": [sample.label for sample in samples], "group": names})
    for sample, fold in zip(samples, grouped_folds([dataset], PARTS)[0], strict=True):
        sample.split = "val" if fold == 0 else "train"


def grouped_folds(sources: list[Dataset], folds: int = 4, seed: int = 0) -> list[np.ndarray]:
    """
    Deals the images of several data sets into folds; no group crosses a fold.

    Each fold gets its share of every data set and of every class in it. Groups of different data sets are different
    groups, even if they bear the same name.

    Args:
        sources (`list[datasets.Dataset]`): With the columns `label` and `group`.
        folds (`int`): Number of folds, at least 2.
        seed (`int`): Order in which groups of one size are dealt.

    Returns:
        `list[numpy.ndarray]`: For each data set the fold, 0 to `folds - 1`, of each of its images.

    Raises:
        ValueError: There are fewer groups than folds.
    """
    groups = [f"{number}/{group}" for number, source in enumerate(sources) for group in source["group"]]
    strata = [f"{number}/{label}" for number, source in enumerate(sources) for label in source["label"]]
    if not 2 <= folds <= len(set(groups)):
        raise ValueError(f"{len(set(groups))} groups of images cannot be dealt into {folds} folds.")
    if max(Counter(strata).values()) < folds:  # so few images that no class can reach every fold
        strata = ["all"] * len(groups)
    fold = np.zeros(len(groups), dtype=int)
    with warnings.catch_warnings():  # a class with fewer images than folds is told by no fold having it
        warnings.simplefilter("ignore", UserWarning)
        dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for number, (_, held_out) in enumerate(dealer.split(groups, strata, groups)):
            fold[held_out] = number
    return np.split(fold, np.cumsum([len(source) for source in sources])[:-1])


def _apply(sources: list[Found], splits: str | Path | None, without: str | Path | None) -> None:
    if splits is not None:
        apply_splits(sources, splits)
    if without is not None:
        exclude(sources, without)


def _ensure_split(found: Found) -> None:
    """Splits a data set that has no split, or takes validation images out of training if it has none of its own."""
    splits = {sample.split for sample in found.samples}
    if splits == {None}:
        split_by_group(found)
    elif "train" in splits and "val" not in splits:
        training = [sample for sample in found.samples if sample.split == "train"]
        split_by_group(Found(found.source, found.layout, training))
    else:
        return
    counts = Counter(sample.split for sample in found.samples)
    logger.info("%s: %d images train and %d validate", found.source, counts["train"], counts["val"])


def _part(found: Found, split: str | None) -> Dataset:
    """The images of a split; all of a data set that has none, or if `split` is None."""
    whole = all(sample.split is None for sample in found.samples)
    samples = found.samples if whole else of_split(found, split)
    if not samples:
        has = ", ".join(sorted({sample.split for sample in found.samples if sample.split}))
        raise ValueError(f"{found.source} has no images in the split {split!r}, only in {has}.")
    return to_dataset(found, samples)


def _joined_groups(samples: list[Sample]) -> list[str]:
    """Groups joined where near-duplicates link them, each named for its first."""
    numbers = near_duplicate_groups([read_scan(sample.image) for sample in samples])
    first: dict[object, int] = {}
    links = []
    for index, sample in enumerate(samples):
        links += [(index, first.setdefault(key, index)) for key in (sample.group, numbers[index])]
    rows, columns = zip(*links, strict=True)
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(samples), len(samples)))
    component = connected_components(graph, directed=False)[1]
    named: dict[int, str] = {}
    return [named.setdefault(int(number), sample.group) for number, sample in zip(component, samples, strict=True)]
