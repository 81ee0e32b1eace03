"""Recognises what a folder or zip holds: images with their masks, class, group and split, and what is left over."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from .annotations import DrawnMask, coco_masks, segmentation_masks
from .files import File, files_of, read_picture
from .pairing import Pairing, in_image_folder, neutral_folders, pair
from .tables import Row, read_table, split_name

LABELS = ["benign", "malignant", "normal", "unknown"]
BUS_BRA, BUSI, BUS_UCLM = "BUS-BRA", "BUSI", "BUS-UCLM"
PATIENT = re.compile(r"(patients?|cases?|subj|subjects?|pat|pid)[ _-]?\d\w*", re.IGNORECASE)
UCLM_NAME = re.compile(r"([A-Z]{4})_\d{3}")
NO_DATA = {".md", ".txt", ".pdf", ".html", ".json", ".yaml", ".yml", ".xml", ".py", ".ipynb", ".log", ".docx", ".xlsx"}
TABLES = {".csv", ".tsv"}
ALL_BUT_TABLES = "is of a kind that is not read"

Mask = File | DrawnMask


@dataclass
class Sample:
    """
    One image of a data set, before it is read.

    Args:
        image (`File`): The image.
        masks (`list[Mask]`): Its masks, to be joined by OR; none for a normal image that has no file of its own.
        name (`str`): Unique in the data set.
        label (`str`): One of `LABELS`.
        group (`str`): Patient, group of a table, or the image itself.
        split (`str`, *optional*): `train`, `val` or `test`, if the data set says so.
        objection (`str`): What others found wrong with it.
        calipers, doppler (`bool`, *optional*): What is drawn into it, if a table says so.
    """

    image: File
    masks: list[Mask]
    name: str
    label: str = "unknown"
    group: str = ""
    split: str | None = None
    objection: str = ""
    calipers: bool | None = None
    doppler: bool | None = None


@dataclass
class Found:
    """
    What a source holds.

    Args:
        source (`str`): Its path or Hub name.
        layout (`str`): Name of its layout.
        samples (`list[Sample]`): Its images.
        unused (`list[str]`): A sentence for every picture that is not used, and for rows of its tables that name none.
    """

    source: str
    layout: str
    samples: list[Sample]
    unused: list[str] = field(default_factory=list)


def recognise(source: str, called: str | None = None) -> Found:
    """
    The images of a folder or zip with their masks, unread.

    Args:
        source (`str`): Its path.
        called (`str`, *optional*): How to call it in an error.

    Raises:
        FileNotFoundError: There is no such folder or zip.
        ValueError: It holds no images with masks, or its tables contradict themselves.
    """
    files = files_of(source)
    found = Found(called or source, "", [])
    pictures = {file.place: file for file in files if file.is_picture}
    drawn = segmentation_masks(pictures)
    pairing = pair(place for place in pictures if place not in drawn.files)
    found.unused += [f"{pictures[place].whole} {reason}" for place, reason in pairing.unused.items()]
    masks: dict[PurePosixPath, list[Mask]] = {
        image: [pictures[mask] for mask in paired] for image, paired in pairing.masks.items()
    }
    labels: dict[PurePosixPath, str] = {}
    for kind in (drawn, coco_masks(files, list(masks))):
        for image, more in kind.masks.items():
            if not masks[image]:
                masks[image] = list(more)
                found.layout = found.layout or kind.layout
        found.unused += kind.unused
        labels |= kind.labels
    found.unused += [
        f"{file.whole} {ALL_BUT_TABLES}"
        for file in files
        if not file.is_picture and file.place.suffix.lower() not in NO_DATA | TABLES | {""}
    ]
    found.samples = _samples(pictures, masks, labels, found)
    if not any(sample.masks for sample in found.samples):
        raise ValueError(
            f"{found.source} holds no images with masks in a layout that is known; see `sfrecsam data --help`."
        )
    tables = _read_tables(files, found)
    found.layout = found.layout or _layout(found.samples, pairing, tables)
    _complete(found)
    return found


def aliases(sample: Sample) -> set[str]:
    """What a table may call an image: its name, its path or the last part of either, with its suffix or without."""
    whole = {sample.name, sample.image.place.as_posix()}
    parts = {"/".join(PurePosixPath(name).parts[first:]) for name in whole for first in range(name.count("/") + 1)}
    return {text.casefold() for part in parts for text in (part, PurePosixPath(part).with_suffix("").as_posix())}


class Names:
    """Finds images by what a table calls them."""

    def __init__(self, samples: Iterable[Sample]):
        self.named: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            for alias in aliases(sample):
                self.named[alias].append(sample)

    def find(self, row: Row) -> Sample | None:
        """
        The image that a row names, or None if there is none.

        Raises:
            ValueError: Several images bear that name, or it lies outside the data set.
        """
        asked = row.get("image").replace("\\", "/").removeprefix("./")
        if ".." in asked.split("/"):
            raise ValueError(f"{row.place} names {asked!r}, which lies outside the data set; correct the row.")
        found = self.named.get(asked.casefold(), [])
        exact = [sample for sample in found if asked in (sample.name, sample.image.place.as_posix())]
        if len(exact or found) > 1:
            both = " and ".join(sample.name for sample in found[:2])
            raise ValueError(f"{row.place} names {asked!r}, which may be {both}; give the path below the data set.")
        return next(iter(exact or found), None)


def _samples(
    pictures: dict[PurePosixPath, File],
    masks: dict[PurePosixPath, list[Mask]],
    labels: dict[PurePosixPath, str],
    found: Found,
) -> list[Sample]:
    annotated = {place.parent for place, paired in masks.items() if paired}
    used = []
    for place, paired in masks.items():
        if paired or _label(place) == "normal" or place.parent in annotated:
            used.append(place)
        else:
            found.unused.append(f"{pictures[place].whole} has no mask, like all images of its folder")
    top = _common_folders(used)
    short = {place: _name(place, top) for place in used}
    counted = Counter(short.values())
    return [
        Sample(
            image=pictures[place],
            masks=masks[place],
            name=(name := short[place] if counted[short[place]] == 1 else place.as_posix()),
            label=_label(place) if labels.get(place) not in LABELS else labels[place],
            group=_patient(place) or name,
            split=next((split for part in place.parent.parts if (split := _split_of(part))), None),
        )
        for place in used
    ]


def _common_folders(places: list[PurePosixPath]) -> int:
    """How many folders above all images say nothing about them."""
    common = 0
    for level in zip(*(place.parent.parts for place in places), strict=False):
        part = level[0]
        if len(set(level)) > 1 or part.lower() in LABELS or _split_of(part) or PATIENT.fullmatch(part):
            break
        common += 1
    return common


def _name(place: PurePosixPath, top: int) -> str:
    below = PurePosixPath(*place.parts[top:])
    file = place.stem if in_image_folder(place) else place.name
    return "/".join([*neutral_folders(below), file])


def _label(place: PurePosixPath) -> str:
    """The class that a folder is named for, or with which the file's name begins."""
    words = [word for part in place.parent.parts for word in re.split(r"[ _-]+", part.lower())]
    begins = re.match("|".join(LABELS[:3]) + r"(?![a-z])", place.name.lower())
    return next((word for word in words if word in LABELS[:3]), begins.group() if begins else "unknown")


def _split_of(folder: str) -> str | None:
    return next((split for word in re.split(r"[ _-]+", folder) if (split := split_name(word))), None)


def _patient(place: PurePosixPath) -> str:
    folders = [part for part in place.parent.parts if PATIENT.fullmatch(part)]
    return folders[-1] if folders else ""


def _read_tables(files: list[File], found: Found) -> list[str]:
    """Adds what tables beside the images say of them; returns the names of those that say something."""
    names, telling = Names(found.samples), []
    grouped: set[str] = set()
    splits: dict[str, Row] = {}
    for file in files:
        if file.place.suffix.lower() not in TABLES:
            continue
        rows = [row for row in read_table(file.whole, file.read_bytes()) if row.get("image")]
        pairs = [(row, names.find(row)) for row in rows]
        known = [(row, sample) for row, sample in pairs if sample is not None]
        if not known:
            continue
        telling.append(file.place.name.lower())
        for row, sample in known:
            _tell(row, sample, grouped, splits)
            if telling[-1] == "bus_data.csv" and row.get("group").isdecimal():
                sample.split = "val" if int(row.get("group")) % 10 == 0 else "train"
        if strangers := [row for row, sample in pairs if sample is None]:
            first = f"{strangers[0].place}: {strangers[0].get('image')}"
            found.unused.append(f"{len(strangers)} rows of {file.whole} name images that are not here, first {first}")
    return telling


def _tell(row: Row, sample: Sample, grouped: set[str], splits: dict[str, Row]) -> None:
    if (label := row.get("label").lower()) in LABELS:
        sample.label = label
    if row.get("group") and sample.name not in grouped:
        heading = row.headings["group"].lower()
        sample.group = row.get("group") if heading == "group" else f"{heading} {row.get('group')}"
        grouped.add(sample.name)
    if (split := split_name(row.get("split"))) is not None:
        if sample.name in splits and sample.split != split:
            raise ValueError(
                f"{row.place} puts {sample.name} into {split}, but {splits[sample.name].place} into {sample.split}."
            )
        sample.split, splits[sample.name] = split, row
    sample.objection = sample.objection or row.get("objection")
    if "calipers" in row.values:
        sample.calipers = row.says("calipers")
    if "doppler" in row.values:
        sample.doppler = row.says("doppler")


def _layout(samples: list[Sample], pairing: Pairing, tables: list[str]) -> str:
    if "bus_data.csv" in tables:
        return BUS_BRA
    if "info.csv" in tables or all(UCLM_NAME.fullmatch(sample.image.place.stem) for sample in samples):
        return BUS_UCLM
    beside = all(mask.parent == image.parent for image, masks in pairing.masks.items() for mask in masks)
    if not beside:
        return "images and masks"
    return BUSI if all(sample.label != "unknown" for sample in samples) else "NAME and NAME_mask"


def _complete(found: Found) -> None:
    """What a layout says without a table: in BUS-UCLM the name tells the patient and the mask's colour the class."""
    if found.layout != BUS_UCLM:
        return
    for sample in found.samples:
        patient = UCLM_NAME.fullmatch(sample.image.place.stem)
        if patient and sample.group == sample.name:
            sample.group = f"patient {patient.group(1)}"
        if sample.label == "unknown" and sample.masks and isinstance(sample.masks[0], File):
            sample.label = _class_by_colour(sample.masks[0])


def _class_by_colour(mask: File) -> str:
    """Green is benign, red malignant, black normal; any other colour tells nothing."""
    colours = np.asarray(read_picture(mask).convert("RGB")) > 127
    red, green, blue = (colours[..., channel] for channel in range(3))
    if not colours.any():
        return "normal"
    if (red & green).any() or blue.any():
        return "unknown"
    return "malignant" if red.any() else "benign"
