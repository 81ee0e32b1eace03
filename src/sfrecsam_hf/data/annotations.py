"""Masks that are no pictures: COCO polygons and run lengths, and DICOM segmentations."""

import json
from collections import defaultdict
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
        from pycocotools import mask as coco

        height, width = self.size or (height, width)
        joined = np.zeros((height, width), dtype=bool)
        for outline in self.outlines:
            try:
                lengths = _checked(outline, height, width)
                if not isinstance(lengths, dict) or isinstance(lengths["counts"], list):
                    lengths = coco.frPyObjects(lengths, height, width)
                decoded = coco.decode(coco.merge(lengths) if isinstance(lengths, list) else lengths)
            except Exception as error:  # pycocotools raises whatever comes
                raise ValueError(f"{self.whole} has an outline that cannot be read ({error}); correct it.") from error
            joined |= decoded.astype(bool)
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
    except ValueError:
        return None
    known = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))
    return content if known else None


def _read_coco(file: File, content: dict, images: list[PurePosixPath], drawn: Drawn) -> None:
    try:
        categories = {entry["id"]: str(entry["name"]).lower() for entry in content.get("categories", [])}
        outlines: dict[Any, list] = defaultdict(list)
        called: dict[Any, set[str]] = defaultdict(set)
        for annotation in content["annotations"]:
            outlines[annotation["image_id"]].append(annotation.get("segmentation"))
            called[annotation["image_id"]].add(categories.get(annotation.get("category_id"), ""))
        entries = [(entry["id"], str(entry["file_name"]), entry) for entry in content["images"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file.whole} is no complete COCO file: {error} is missing.") from error
    strangers = []
    for number, name, entry in entries:
        place = _place(file, name, images)
        if place is None:
            strangers.append(name)
            continue
        size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
        drawn.masks[place].append(CocoMask(f"{file.whole}, image {name}", size, outlines[number]))
        if len(called[number]) == 1:
            drawn.labels[place] = next(iter(called[number]))
    if strangers:
        drawn.unused.append(f"{len(strangers)} images of {file.whole} are not here, first {strangers[0]}")


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


def _checked(outline: Any, height: int, width: int) -> Any:
    """Refuses what pycocotools would take for something else."""
    if isinstance(outline, list) and outline:
        if not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in outline):
            raise ValueError("a polygon needs three points or more")
        if not np.isfinite([float(value) for polygon in outline for value in polygon]).all():
            raise ValueError("a polygon has points that are no numbers")
        return outline
    if isinstance(outline, dict) and list(outline.get("size", [])) == [height, width]:
        counts = outline.get("counts")
        if isinstance(counts, list) and sum(counts) != height * width:
            raise ValueError("its run lengths do not add up to its size")
        return outline
    raise ValueError("it is neither a polygon nor run lengths of the image's size")


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
