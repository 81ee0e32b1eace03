"""Tables that the caller names: which image belongs to which split, and which images are not to be used."""

import logging
from collections import Counter
from pathlib import Path

from .layouts import Found, Names, Sample
from .tables import Row, open_table, split_name

SHOWN = 5

logger = logging.getLogger(__name__)


def apply_splits(sources: list[Found], table: str | Path) -> None:
    """
    Sets split and group of the images that a table names; a data set that it does not name keeps its own.

    Images that are not in the table, of a data set that is, belong to no split, which is logged.

    Args:
        sources (`list[Found]`): What was found in each data set.
        table (`str` or `Path`): CSV with the columns image and split, and group if images belong together.

    Raises:
        FileNotFoundError: There is no such table.
        ValueError: A column is missing, a row names no image of any data set or an unknown split, an image is in two
            splits, or a group is.
    """
    rows = open_table(table, ("image", "split"))
    names = [Names(found.samples) for found in sources]
    listed: dict[int, Row] = {}
    groups: dict[tuple[int, str], Row] = {}
    for row in rows:
        split = split_name(row.get("split"))
        if split is None:
            raise ValueError(f"{row.place} has the split {row.get('split')!r}; write train, val or test.")
        named = [(number, sample) for number, known in enumerate(names) if (sample := known.find(row)) is not None]
        if not named:
            searched = " and ".join(dict.fromkeys(found.source for found in sources))
            raise ValueError(f"{row.place} names {row.get('image')!r}, which is not in {searched}; correct the row.")
        for number, sample in named:
            if id(sample) in listed and sample.split != split:
                raise ValueError(
                    f"{row.place} puts {sample.name} into {split}, but {listed[id(sample)].place} does not."
                )
            sample.split, listed[id(sample)] = split, row
            sample.group = row.get("group") or sample.group
            first = groups.setdefault((number, sample.group), row)
            if split_name(first.get("split")) != split:
                raise ValueError(f"{row.place} puts group {sample.group} into {split}, but {first.place} does not.")
    for found in sources:
        if not any(id(sample) in listed for sample in found.samples):
            continue
        unlisted = [sample for sample in found.samples if id(sample) not in listed]
        for sample in unlisted:
            sample.split = None
        if unlisted:
            logger.warning(
                "%d images of %s are not in %s and belong to no split: %s",
                len(unlisted),
                found.source,
                table,
                shortened([sample.name for sample in unlisted]),
            )


def exclude(sources: list[Found], table: str | Path) -> None:
    """
    Takes the images that a table names out of the data sets, which is logged.

    Args:
        sources (`list[Found]`): What was found in each data set.
        table (`str` or `Path`): CSV with the column image. If it has a column objection, rows without one are ignored.

    Raises:
        FileNotFoundError: There is no such table.
        ValueError: It has no column image.
    """
    rows = open_table(table, ("image",))
    for found in sources:
        names = Names(found.samples)
        objected: dict[str, str] = {}
        for row in rows:
            sample = names.find(row)
            if sample is not None and (row.get("objection") or "objection" not in row.values):
                objected[sample.name] = row.get("objection") or "listed"
        found.samples = [sample for sample in found.samples if sample.name not in objected]
        if objected:
            kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(objected.values()).most_common())
            logger.warning("%d images of %s are left out by %s: %s", len(objected), found.source, table, kinds)


def check_own_splits(found: Found) -> None:
    """Raises a `ValueError` if a group crosses the splits that a data set brings along."""
    first: dict[str, Sample] = {}
    for sample in found.samples:
        if sample.split is not None:
            before = first.setdefault(sample.group, sample)
            if before.split != sample.split:
                raise ValueError(
                    f"{found.source} has the group {sample.group} in {before.split} ({before.name}) and in "
                    f"{sample.split} ({sample.name}); give a splits CSV that keeps it together."
                )


def shortened(names: list[str]) -> str:
    """The first few of many names."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
