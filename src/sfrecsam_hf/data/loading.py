"""Breast-ultrasound data sets as `datasets.Dataset` with the columns image, mask, label, name and group.

One path for all: a layout is recognised, its images are paired with their masks, and the pairs become rows. A folder
and a zip of that folder load alike.
"""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image, Value

from ..modeling.image_reading import EXTENSIONS, mask_stem, read_mask, read_rgb

LABELS = ["benign", "malignant", "normal", "unknown"]
MASK_FOLDERS = {"mask", "masks", "gt", "label", "labels", "groundtruth", "ground_truth", "annotations"}
IMAGE_FOLDERS = {"image", "images", "original", "imgs", "img"}
FEATURES = Features(
    {
        "image": Image(),
        "mask": Image(),
        "label": ClassLabel(names=LABELS),
        "name": Value("string"),
        "group": Value("string"),
    }
)

Source = Path | zipfile.Path


@dataclass
class Sample:
    """One image of a data set, before it is read."""

    image: Source
    masks: list[Source]
    name: str
    label: str = "unknown"
    group: str = ""
    split: str | None = None


@dataclass
class DataReport:
    """What was found in a data set; `print` it."""

    layout: str
    counts: dict[str, int]
    multi_mask: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"layout: {self.layout}", f"images: {sum(self.counts.values())}"]
        lines += [f"  {label}: {count}" for label, count in sorted(self.counts.items())]
        lines.append(f"with more than one mask: {len(self.multi_mask)}")
        lines += [f"  {name}" for name in self.multi_mask]
        lines.append(f"groups of near-duplicates: {len(self.duplicates)}")
        lines += [f"  {', '.join(names)}" for names in self.duplicates]
        lines.append(f"problems: {len(self.problems)}")
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


def load_busi(source: str | Path, splits: str | Path | None = None, split: str | None = None) -> Dataset:
    """
    BUSI (Al-Dhabyani et al., 2020): `benign/benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`, ...

    The masks of one image are joined by OR.

    Args:
        source (`str`): The folder, or a zip of it, at any depth above the class folders.
        splits (`str`, *optional*): CSV with `image,group,split`; without it `group` is the image itself (see
            [`~sfrecsam_hf.data.splits.near_duplicate_groups`]).
        split (`str`, *optional*): Only this split of that CSV.

    Raises:
        FileNotFoundError, ValueError: There are no such images, or a mask is missing or does not fit.
    """
    return _to_dataset(_with_splits(scan_busi(_opened(source)), splits, split), source, split)


def load_udiat(source: str | Path) -> Dataset:
    """UDIAT / Dataset B (Yap et al., 2018): `original/000001.png` with `GT/000001.png`. See [`load_busi`]."""
    return _to_dataset(scan_paired_folders(_opened(source)), source)


def load_bus_bra(source: str | Path, split: str | None = None) -> Dataset:
    """
    BUS-BRA (Gomez-Flores et al., 2023): `Images/bus_0001-l.png`, `Masks/mask_0001-l.png`, `bus_data.csv`.

    `group` is the patient. Patients whose case number is a multiple of ten are the validation split.

    Args:
        source (`str`): The folder, or a zip of it.
        split (`str`, *optional*): `"train"` or `"val"`; all images if not given.
    """
    samples = [sample for sample in scan_bus_bra(_opened(source)) if split in (None, sample.split)]
    return _to_dataset(samples, source, split)


def load_folder(source: str | Path, splits: str | Path | None = None, split: str | None = None) -> Dataset:
    """
    Any layout that is known: BUSI, BUS-BRA, UDIAT, `images/` with `masks/`, or `NAME.png` with `NAME_mask.png`.

    Args:
        source (`str`): The folder or zip.
        splits (`str`, *optional*): As for [`load_busi`].
        split (`str`, *optional*): Only this split.
    """
    _, samples = scan(source)
    if splits is not None:
        samples = _with_splits(samples, splits, split)
    elif split is not None and any(sample.split for sample in samples):
        samples = [sample for sample in samples if sample.split == split]
    elif split is not None:
        raise ValueError(f"{source} has no splits of its own; give a splits CSV to choose {split!r}.")
    return _to_dataset(samples, source, split)


def scan(source: str | Path) -> tuple[str, list[Sample]]:
    """The name of the layout in `source` and its images, unread; raises `ValueError` if none is known."""
    opened = _opened(source)
    for layout, scanner in SCANNERS.items():
        samples = scanner(opened)
        if samples:
            return layout, samples
    raise ValueError(f"{source} holds no images with masks in a layout that is known; see `sfrecsam data --help`.")


def scan_busi(root: Source) -> list[Sample]:
    """Images below folders named benign, malignant and normal."""
    samples = []
    for folder in _folders(root):
        if folder.name.lower() in LABELS[:3]:
            label = folder.name.lower()
            samples += _beside_masks(folder, label, prefix=f"{folder.name}/")
    return samples


def scan_bus_bra(root: Source) -> list[Sample]:
    """Images listed in `bus_data.csv`."""
    for folder in _folders(root):
        table = folder / "bus_data.csv"
        if not table.is_file():
            continue
        rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
        samples = []
        for row in rows:
            mask = folder / "Masks" / f"{row['ID'].replace('bus', 'mask', 1)}.png"
            samples.append(
                Sample(
                    image=folder / "Images" / f"{row['ID']}.png",
                    masks=[mask] if mask.is_file() else [],
                    name=row["ID"],
                    label=row["Pathology"],
                    group=f"case {row['Case']}",
                    split="val" if int(row["Case"]) % 10 == 0 else "train",
                )
            )
        return samples
    return []


def scan_paired_folders(root: Source) -> list[Sample]:
    """A folder of images beside a folder of masks with the same stems; a mask may add `_mask` or `mask_`."""
    for parent in _folders(root):
        children = {child.name.lower(): child for child in parent.iterdir() if child.is_dir()}
        images = next((children[name] for name in children if name in IMAGE_FOLDERS), None)
        masks = next((children[name] for name in children if name in MASK_FOLDERS), None)
        if images is None or masks is None:
            continue
        by_stem: dict[str, list[Source]] = {}
        for mask in _pictures(masks):
            by_stem.setdefault(mask_stem(mask.stem), []).append(mask)
        return [
            Sample(image=image, masks=by_stem.get(image.stem, []), name=image.stem, group=image.stem)
            for image in _pictures(images)
        ]
    return []


def scan_beside(root: Source) -> list[Sample]:
    """`NAME.png` beside `NAME_mask.png` in any one folder."""
    for folder in _folders(root):
        samples = _beside_masks(folder, "unknown")
        if any(sample.masks for sample in samples):
            return samples
    return []


SCANNERS: dict[str, Callable[[Source], list[Sample]]] = {
    "BUS-BRA": scan_bus_bra,
    "BUSI": scan_busi,
    "images and masks": scan_paired_folders,
    "NAME and NAME_mask": scan_beside,
}


def inspect(source: str | Path, find_duplicates: bool = True) -> DataReport:
    """
    Reads every image and mask and reports counts, multi-mask images, missing or mismatched masks and duplicates.

    Args:
        source (`str`): The folder or zip.
        find_duplicates (`bool`): Also look for near-duplicates.
    """
    from .splits import near_duplicate_groups

    layout, samples = scan(source)
    report = DataReport(layout, dict(Counter(sample.label for sample in samples)))
    readable, images = [], []
    for sample in samples:
        if len(sample.masks) > 1:
            report.multi_mask.append(sample.name)
        try:
            image, _ = _read(sample)
        except (OSError, ValueError) as error:
            report.problems.append(str(error))
            continue
        readable.append(sample.name)
        images.append(image)
    if find_duplicates:
        members: dict[int, list[str]] = {}
        for name, group in zip(readable, near_duplicate_groups(images), strict=True):
            members.setdefault(group, []).append(name)
        report.duplicates = [names for names in members.values() if len(names) > 1]
    return report


def _opened(source: str | Path) -> Source:
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file() and zipfile.is_zipfile(path):
        return zipfile.Path(path)
    raise FileNotFoundError(f"{source} is neither a folder nor a zip file; check the path.")


def _folders(root: Source) -> Iterator[Source]:
    yield root
    for child in sorted(root.iterdir(), key=lambda path: path.name):
        if child.is_dir() and child.name != "__MACOSX":
            yield from _folders(child)


def _pictures(folder: Source) -> list[Source]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _digits(path.name)])


def _digits(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _beside_masks(folder: Source, label: str, prefix: str = "") -> list[Sample]:
    images, masks = [], {}
    for picture in _pictures(folder):
        stem = mask_stem(picture.stem)
        if stem == picture.stem:
            images.append(picture)
        else:
            masks.setdefault(stem, []).append(picture)
    return [
        Sample(
            image=image,
            masks=masks.get(image.stem, []),
            name=f"{prefix}{image.name}",
            label=label,
            group=f"{prefix}{image.name}",
        )
        for image in images
    ]


def _with_splits(samples: list[Sample], splits: str | Path | None, split: str | None) -> list[Sample]:
    if splits is None:
        if split is not None:
            raise ValueError(f"split={split!r} needs a splits CSV with the columns image, group and split.")
        return samples
    rows = _split_rows(splits)
    chosen = []
    for sample in samples:
        row = rows.get(sample.name)
        if row is not None and split in (None, row["split"]):
            sample.group, sample.split = row["group"], row["split"]
            chosen.append(sample)
    return chosen


def named_in(splits: str | Path, samples: list[Sample]) -> bool:
    """Whether a splits CSV names any of these images."""
    rows = _split_rows(splits)
    return any(sample.name in rows for sample in samples)


def _split_rows(splits: str | Path) -> dict[str, dict[str, str]]:
    path = Path(splits)
    if not path.is_file():
        raise FileNotFoundError(f"{splits} does not exist; give a CSV with the columns image, group and split.")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"image", "group", "split"} <= set(reader.fieldnames or []):
            raise ValueError(f"{splits} needs the columns image, group and split.")
        return {row["image"]: row for row in reader}


def _read(sample: Sample) -> tuple[PIL.Image.Image, np.ndarray]:
    image = read_rgb(_picture(sample.image), name=str(sample.image))
    if not sample.masks:
        raise ValueError(f"{sample.image} has no mask; add one, or an empty one if there is no lesion.")
    joined = np.zeros((image.height, image.width), dtype=bool)
    for source in sample.masks:
        mask = read_mask(_picture(source), name=str(source))
        if mask.shape != joined.shape:
            raise ValueError(
                f"{source} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is {image.width}x{image.height}; "
                "export both at the same size."
            )
        joined |= mask
    return image, joined


def _picture(source: Source) -> str | PIL.Image.Image:
    if isinstance(source, Path):
        return str(source)
    try:
        return PIL.Image.open(io.BytesIO(source.read_bytes()))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{source} is not an image that Pillow can read; convert it to PNG.") from error


def _to_dataset(samples: list[Sample], source: str | Path, split: str | None = None) -> Dataset:
    if not samples:
        chosen = f" in the split {split!r}" if split else ""
        raise ValueError(f"{source} holds no images of this layout{chosen}; check the path and the splits.")
    rows: dict[str, list] = {name: [] for name in FEATURES}
    for sample in samples:
        _, mask = _read(sample)
        encoded = io.BytesIO()
        PIL.Image.fromarray(mask.astype(np.uint8) * 255).save(encoded, format="PNG")
        inside_zip = not isinstance(sample.image, Path)
        rows["image"].append({"bytes": sample.image.read_bytes() if inside_zip else None, "path": str(sample.image)})
        rows["mask"].append({"bytes": encoded.getvalue(), "path": None})
        rows["label"].append(sample.label if sample.label in LABELS else "unknown")
        rows["name"].append(sample.name)
        rows["group"].append(sample.group)
    return Dataset.from_dict(rows, features=FEATURES)
