"""A folder, a zip or a Hub data set as `datasets.Dataset` with the columns image, mask, label, name and group."""

import io
import logging
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image, Value

from ..modeling.image_reading import read_mask, read_rgb
from .annotations import SegmentationMask
from .dicom import is_segmentation
from .files import File, is_hub_name, read_picture
from .layouts import BUS_BRA, BUSI, LABELS, Found, Mask, Sample, recognise
from .split_tables import apply_splits, check_own_splits, exclude

FEATURES = Features(
    {
        "image": Image(),
        "mask": Image(),
        "label": ClassLabel(names=LABELS),
        "name": Value("string"),
        "group": Value("string"),
    }
)

logger = logging.getLogger(__name__)


def load_busi(source: str | Path, splits: str | Path | None = None, split: str | None = None) -> Dataset:
    """
    BUSI (Al-Dhabyani et al., 2020): `benign/benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`, ...

    The masks of one image are joined by OR.

    Args:
        source (`str`): The folder, or a zip of it, at any depth above the class folders.
        splits (`str`, *optional*): CSV with `image,group,split`; without it `group` is the image itself (see
            [`~sfrecsam_hf.data.splits.load_split`]).
        split (`str`, *optional*): Only this split of that CSV.

    Raises:
        FileNotFoundError, ValueError: There are no such images, or a mask is missing or does not fit.
    """
    return load_folder(source, splits, split, layout=BUSI)


def load_udiat(source: str | Path) -> Dataset:
    """UDIAT / Dataset B (Yap et al., 2018): `original/000001.png` with `GT/000001.png`. See [`load_busi`]."""
    return load_folder(source)


def load_bus_bra(source: str | Path, split: str | None = None) -> Dataset:
    """
    BUS-BRA (Gomez-Flores et al., 2023): `Images/bus_0001-l.png`, `Masks/mask_0001-l.png`, `bus_data.csv`.

    `group` is the patient. Patients whose case number is a multiple of ten are the validation split.

    Args:
        source (`str`): The folder, or a zip of it.
        split (`str`, *optional*): `"train"` or `"val"`; all images if not given.
    """
    return load_folder(source, split=split, layout=BUS_BRA)


def load_folder(
    source: str | Path,
    splits: str | Path | None = None,
    split: str | None = None,
    without: str | Path | None = None,
    layout: str | None = None,
) -> Dataset:
    """
    All images of any data set that is known, or those of one split that it or a table has.

    Known are BUSI, BUS-BRA, BUS-UCLM, UDIAT, folders of images beside folders of masks, `NAME.png` with
    `NAME_mask.png`, COCO and DICOM segmentations, at any depth; and data sets on the Hub.

    Args:
        source (`str`): The folder, zip, or Hub name such as `"org/my-scans"`.
        splits (`str`, *optional*): As for [`load_busi`].
        split (`str`, *optional*): Only this split.
        without (`str`, *optional*): CSV of images to leave out (see [`~sfrecsam_hf.data.split_tables.exclude`]).
        layout (`str`, *optional*): Refuse any other one.

    Raises:
        FileNotFoundError, ValueError: As for [`load_busi`].
    """
    found = find(source)
    if layout not in (None, found.layout):
        raise ValueError(f"{source} holds no images in the layout of {layout}, but {found.layout}; use load_folder.")
    if splits is not None:
        apply_splits([found], splits)
    if without is not None:
        exclude([found], without)
    return to_dataset(found, of_split(found, split))


def find(source: str | Path, quiet: bool = False, streaming: bool = False) -> Found:
    """
    The images of a folder, zip or Hub data set, unread. What is not used is logged.

    Args:
        source (`str`): Folder, zip or Hub name.
        quiet (`bool`): Log nothing.
        streaming (`bool`): Of a Hub data set, write the images of one row after the other into files, in place of all
            of it as one table.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: It holds no images with masks.
    """
    if is_hub_name(source):
        from .hub import recognise_hub

        found = recognise_hub(str(source), streaming)
    else:
        found = recognise(str(source))
    if found.unused and not quiet:
        logger.warning("%s: %d notes on what is not used:", source, len(found.unused))
        for note in found.unused[:5]:
            logger.warning("  %s", note)
        if len(found.unused) > 5:
            logger.warning("  and %d more; `sfrecsam data` lists all", len(found.unused) - 5)
    return found


def of_split(found: Found, split: str | None) -> list[Sample]:
    """
    The images of one split that a data set or a table has; all if `split` is None.

    Raises:
        ValueError: There are no splits, or a group crosses them.
    """
    if split is None:
        return found.samples
    if not any(sample.split for sample in found.samples):
        raise ValueError(f"{found.source} has no splits of its own; give a splits CSV to choose {split!r}.")
    check_own_splits(found)
    return [sample for sample in found.samples if sample.split == split]


def read_sample(sample: Sample) -> tuple[PIL.Image.Image, np.ndarray]:
    """
    The image as it was saved, and its joined mask as booleans.

    Raises:
        ValueError: One of them cannot be read, the mask is missing, or they differ in size.
    """
    image = read_picture(sample.image)
    width, height = read_rgb(image, sample.image.whole).size
    if not sample.masks and sample.label != "normal":
        raise ValueError(f"{sample.image.whole} has no mask; add one, or an empty one if there is no lesion.")
    joined = np.zeros((height, width), dtype=bool)
    for source in sample.masks:
        mask = _read_mask(source, height, width)
        if mask.shape != joined.shape:
            raise ValueError(
                f"{source.whole} is {mask.shape[1]}x{mask.shape[0]} pixels but its image is {width}x{height}; "
                "export both at the same size."
            )
        joined |= mask
    return image, joined


def to_dataset(found: Found, samples: list[Sample]) -> Dataset:
    """
    Reads samples of one source.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    if not samples:
        raise ValueError(f"{found.source} holds no images in this split; check the path and the splits.")
    rows: dict[str, list] = {name: [] for name in FEATURES}
    for sample in samples:
        image, mask = read_sample(sample)
        rows["image"].append(_stored(sample.image, image))
        rows["mask"].append({"bytes": _png(PIL.Image.fromarray(mask.astype(np.uint8) * 255)), "path": None})
        rows["label"].append(sample.label)
        rows["name"].append(sample.name)
        rows["group"].append(sample.group)
    return Dataset.from_dict(rows, features=FEATURES)


def _read_mask(source: Mask, height: int, width: int) -> np.ndarray:
    if not isinstance(source, File):
        return source.read(height, width)
    if source.is_dicom and is_segmentation(source.open()):
        return SegmentationMask(source, None).read(height, width)
    return read_mask(read_picture(source), source.whole)


def _stored(file: File, image: PIL.Image.Image) -> dict[str, bytes | str | None]:
    """8-bit gray and colour files as they are; all others as 8-bit PNG, so that everybody sees the same."""
    plain = image.mode in ("L", "RGB") and "transparency" not in image.info and image.format is not None
    if not plain or image.size != PIL.Image.open(file.open()).size:
        return {"bytes": _png(read_rgb(image, file.whole)), "path": None}
    if isinstance(file.source, Path):
        return {"bytes": None, "path": str(file.source)}
    return {"bytes": file.read_bytes(), "path": file.place.name}


def _png(image: PIL.Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    return encoded.getvalue()


__all__ = ["load_bus_bra", "load_busi", "load_folder", "load_udiat"]
