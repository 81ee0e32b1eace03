"""Masks that are no pictures: COCO polygons and run lengths, and DICOM segmentations."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np

from .dicom import is_segmentation
from .files import File
from .tables import split_name


class DrawnMask(Protocol):
    """A mask that is computed from its description."""

    @property
    def whole(self) -> str:
        """How to call it in an error."""
        ...

    def read(self, height: int, width: int) -> np.ndarray:
        """The mask as booleans; `height` and `width` are those of its image, for descriptions without a size."""
        ...


@dataclass
class Drawn:
    """
    The masks of one kind in a data set.

    Args:
        layout (`str`): Name of the kind.
        masks (`dict[PurePosixPath, list[DrawnMask]]`): By the place of the image.
        labels (`dict[PurePosixPath, str]`): What the annotations call what is outlined, by the place of the image.
        files (`set[PurePosixPath]`): Where they were read from.
        unused (`list[str]`): A sentence for what belongs to no image.
    """

    layout: str
    masks: dict[PurePosixPath, list[DrawnMask]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[PurePosixPath, str] = field(default_factory=dict)
    files: set[PurePosixPath] = field(default_factory=set)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CocoMask:
    """All outlines of one image in a COCO file; none is an empty mask."""

    whole: str
    size: tuple[int, int] | None
    outlines: list[Any]

    def read(self, height: int, width: int) -> np.ndarray:
        if self.size is not None and self.size != (height, width):
            raise ValueError(
                f"{self.whole} is drawn on {self.size[1]}x{self.size[0]} pixels but its image is {width}x{height}; "
                "export both at the same size."
            )
        joined = np.zeros((height, width), dtype=bool)
        for outline in self.outlines:
            try:
                polygons = isinstance(outline, list)
                joined |= _filled(outline, height, width) if polygons else _unpacked(outline, height, width)
            except Exception as error:  # a damaged file fails in many ways
                raise ValueError(f"{self.whole} has an outline that cannot be read ({error}); correct it.") from error
        return joined


@dataclass(frozen=True)
class SegmentationMask:
    """The frames of a DICOM segmentation that belong to one image; all frames if `instance` is None."""

    file: File
    instance: str | None

    @property
    def whole(self) -> str:
        return self.file.whole

    def read(self, height: int, width: int) -> np.ndarray:
        import pydicom

        try:
            dataset = pydicom.dcmread(self.file.open())
            frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
            half = 0.5 * float(dataset.get("MaximumFractionalValue", 0) or 0)
            chosen = [index for index, of in enumerate(_images_of(dataset)) if self.instance in (None, of)]
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"{self.whole} is a DICOM segmentation that pydicom cannot decode.") from error
        return (frames[chosen] > half).any(axis=0)


def coco_masks(files: list[File], images: list[PurePosixPath]) -> Drawn:
    """
    The outlines in all COCO files among `files`.

    Raises:
        ValueError: A COCO file is damaged, or names an image that may be one of several.
    """
    drawn = Drawn("COCO")
    for file in files:
        if file.place.suffix.lower() == ".json" and (content := _coco(file)) is not None:
            drawn.files.add(file.place)
            _read_coco(file, content, images, drawn)
    return drawn


def segmentation_masks(pictures: Mapping[PurePosixPath, File]) -> Drawn:
    """The DICOM segmentations among `pictures` that tell by their identifiers which of the others they belong to."""
    drawn = Drawn("DICOM segmentations")
    dicom = {place: file for place, file in pictures.items() if file.is_dicom}
    drawn.files = {place for place, file in dicom.items() if is_segmentation(file.open())}
    if not drawn.files:
        return drawn
    identified = {_instance(dicom[place]): place for place in dicom if place not in drawn.files}
    for place in sorted(drawn.files):
        file = dicom[place]
        images = {of for of in _images_of(_header(file)) if of in identified}
        for instance in sorted(images):
            drawn.masks[identified[instance]].append(SegmentationMask(file, instance))
        if not images:
            drawn.files.remove(place)  # its name may tell
    return drawn


def _coco(file: File) -> dict | None:
    """The content of a COCO file; None for any other JSON."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    known = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))
    return content if known else None


def _read_coco(file: File, content: dict, images: list[PurePosixPath], drawn: Drawn) -> None:
    """Images and annotations are matched by their numbers as text, since some programs write these as text."""
    try:
        categories = {entry["id"]: str(entry["name"]).lower() for entry in content.get("categories", [])}
        outlines: dict[str, list] = defaultdict(list)
        called: dict[str, set[str]] = defaultdict(set)
        for annotation in content["annotations"]:
            number = str(annotation["image_id"])
            outlines[number].append(annotation.get("segmentation"))
            called[number].add(categories.get(annotation.get("category_id"), ""))
        entries = [(str(entry["id"]), str(entry["file_name"]), _size(entry)) for entry in content["images"]]
    except KeyError as error:
        raise ValueError(f"{file.whole} is no complete COCO file: {error} is missing.") from error
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{file.whole} is no COCO file that can be read ({error}); correct it.") from error
    counted = Counter(number for number, _, _ in entries)
    if twice := [number for number, count in counted.items() if count > 1]:
        raise ValueError(f"{file.whole} has {counted[twice[0]]} images of the number {twice[0]}; number them anew.")
    if lost := [number for number in outlines if number not in counted]:
        drawn.unused.append(
            f"{sum(len(outlines[number]) for number in lost)} annotations of {file.whole} belong to no image in it, "
            f"first of image {lost[0]}"
        )
    strangers = []
    for number, name, size in entries:
        place = _place(file, name, images)
        if place is None:
            strangers.append(name)
            continue
        drawn.masks[place].append(CocoMask(f"{file.whole}, image {name}", size, outlines[number]))
        if len(called[number]) == 1:
            drawn.labels[place] = next(iter(called[number]))
    if strangers:
        drawn.unused.append(f"{len(strangers)} images of {file.whole} are not here, first {strangers[0]}")


def _size(entry: dict) -> tuple[int, int] | None:
    return (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None


def _place(file: File, name: str, images: list[PurePosixPath]) -> PurePosixPath | None:
    asked = PurePosixPath(name.replace("\\", "/"))
    if (beside := file.place.parent / asked) in images:
        return beside
    found = [place for place in images if place.parts[-len(asked.parts) :] == asked.parts]
    split = next((split for word in file.place.stem.split("_") if (split := split_name(word))), None)
    if len(found) > 1 and split:
        found = [place for place in found if any(split_name(part) == split for part in place.parent.parts)]
    if len(found) > 1:
        raise ValueError(f"{file.whole} names {name}, which may be {found[0]} and {found[1]}; give the longer path.")
    return found[0] if found else None


def _filled(polygons: list, height: int, width: int) -> np.ndarray:
    """The inside of polygons; what pycocotools would crash at, or draw nowhere, is refused."""
    from pycocotools import mask as coco

    if not polygons or not all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons
    ):
        raise ValueError("a polygon needs three points or more")
    values = np.array([float(value) for polygon in polygons for value in polygon])
    if not np.isfinite(values).all():
        raise ValueError("a polygon has points that are no numbers")
    if np.abs(values).max() > 2 * max(height, width):
        raise ValueError("a polygon reaches far outside its image")
    filled = coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)
    if not filled.any():
        raise ValueError("its polygons hold no pixel of the image")
    return filled


def _unpacked(lengths: Any, height: int, width: int) -> np.ndarray:
    """The mask of run lengths, down the columns and first of what is outside; a list, or COCO's text for one."""
    if not isinstance(lengths, dict) or list(lengths.get("size", [])) != [height, width]:
        raise ValueError("it is neither a polygon nor run lengths of the image's size")
    counts = lengths["counts"]
    counts = counts if isinstance(counts, list) else _decompressed(counts)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise ValueError("its run lengths do not add up to its size")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a letter; from the fourth on the difference to the last but one."""
    counts: list[int] = []
    letters = iter(text.encode())
    for letter in letters:
        value, bits = (letter - 48) & 31, 5
        while letter - 48 & 32:
            letter = next(letters, 0)  # where the text ends too early, the sum tells
            value |= ((letter - 48) & 31) << bits
            bits += 5
        value -= (letter - 48 & 16) << (bits - 4)  # its last bit is the sign
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _header(file: File) -> Any:
    import pydicom

    return pydicom.dcmread(file.open(), stop_before_pixels=True, force=True)


def _instance(file: File) -> str:
    return str(_header(file).get("SOPInstanceUID", ""))


def _images_of(dataset: Any) -> list[str]:
    """For each frame of a segmentation the identifier of its image, or an empty text."""
    shared = dataset.get("SharedFunctionalGroupsSequence", [])
    frames = dataset.get("PerFrameFunctionalGroupsSequence", []) or [None]
    referenced = [
        str(instance.ReferencedSOPInstanceUID)
        for series in dataset.get("ReferencedSeriesSequence", [])
        for instance in series.get("ReferencedInstanceSequence", [])
    ]
    alone = referenced[0] if len(referenced) == 1 else ""
    return [_source(frame) or next(filter(None, map(_source, shared)), alone) for frame in frames]


def _source(group: Any) -> str:
    derivations = group.get("DerivationImageSequence", []) if group is not None else []
    sources = [source for derivation in derivations for source in derivation.get("SourceImageSequence", [])]
    return str(sources[0].ReferencedSOPInstanceUID) if sources else ""
