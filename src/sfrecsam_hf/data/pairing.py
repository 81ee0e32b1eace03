"""Which pictures are masks, and of which images: told from names and folders alone, in any case of letters.

A path without its words for images and masks is the same for both: `train/images/a.png` and `train/masks/a_mask.png`
are both `train/a`. So every layout is paired by one rule, at every depth.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..modeling.image_reading import mask_stem

IMAGE_FOLDERS = {"image", "images", "img", "imgs", "original", "originals", "scan", "scans", "picture", "pictures"}
# Where several folders hold masks of one image, the first in this order is used.
MASK_FOLDERS = [
    {"mask", "masks"},
    {"gt", "groundtruth", "groundtruths"},
    {"seg", "segs", "segmentation", "segmentations"},
    {"annotation", "annotations"},
    {"label", "labels"},
]
OTHER_FINDING = re.compile(r"[_-]other\d*$", re.IGNORECASE)  # in BrEaST: outlines of what is no tumour

Key = tuple[tuple[str, ...], str]


@dataclass
class Pairing:
    """
    What belongs together.

    Args:
        masks (`dict[PurePosixPath, list[PurePosixPath]]`): For every image its masks; none for an image without.
        unused (`dict[PurePosixPath, str]`): Masks that are not used, and why.
    """

    masks: dict[PurePosixPath, list[PurePosixPath]] = field(default_factory=dict)
    unused: dict[PurePosixPath, str] = field(default_factory=dict)


def masks_among(places: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """
    Those pictures that are masks of others, as `sfrecsam data` tells them apart.

    Args:
        places (`Iterable[PurePosixPath]`): All pictures of one folder, as paths below it.
    """
    pairing = pair(places)
    return {mask for masks in pairing.masks.values() for mask in masks} | set(pairing.unused)


def pair(places: Iterable[PurePosixPath]) -> Pairing:
    """
    Pairs the pictures of one folder, given as paths below it.

    A mask lies in a folder of masks beside images of the same name, or its name is that of an image with `_mask` or a
    like word. If that gives none, a number that one image alone has decides: `mask_7` belongs to `test_image_7`.
    """
    places = list(places)
    in_folder = {place for place in places if folder_key(place)[0] is not None}
    drawn = {(folder_key(mask)[1], mask.stem.lower()) for mask in in_folder}
    named = {  # images/x_seg.png is an image if masks/x_seg.png is there
        place
        for place in places
        if mask_stem(place.stem) != place.stem
        and (place in in_folder or (folder_key(place)[1], place.stem.lower()) not in drawn)
    }
    if len(named | in_folder) == len(places):  # without images these words mean something else
        named, in_folder = (named, set()) if len(named) < len(places) else (set(), set())
    candidates = [place for place in places if place not in in_folder]
    plain = [place for place in candidates if place not in named]
    keys = {(folder_key(place)[1], place.stem.lower()) for place in plain}
    by_key: dict[Key, list[PurePosixPath]] = defaultdict(list)
    pairing = Pairing()
    for place in plain:
        key = folder_key(place)[1], place.stem.lower()
        base = OTHER_FINDING.sub("", place.stem)
        if base != place.stem and (key[0], base.lower()) in keys and key not in drawn:
            pairing.unused[place] = "outlines something else than the lesion"
        else:
            pairing.masks[place] = []
            by_key[key].append(place)
    left = []
    for place in places:
        if place in named or place in in_folder:
            images = _images_of(place, by_key)
            for image in images:
                pairing.masks[image].append(place)
            if not images:
                left.append(place)
    _pair_by_number(left, pairing)
    _keep_first_folder(pairing)
    return pairing


def folder_key(place: PurePosixPath) -> tuple[int | None, tuple[str, ...]]:
    """The rank of the folder of masks that the picture lies in, if any, and its folders without words for either."""
    rank, kept = None, []
    for part in place.parent.parts:
        found, rest = _role(part)
        rank = found if isinstance(found, int) else rank
        if rest:
            kept.append(rest)
    return rank, tuple(kept)


def in_image_folder(place: PurePosixPath) -> bool:
    """Whether a folder above the picture says that it holds images."""
    return any(_role(part)[0] == "images" for part in place.parent.parts)


def neutral_folders(place: PurePosixPath) -> list[str]:
    """The folders above a picture, without words for images."""
    return [rest for part in place.parent.parts if (rest := part if _role(part)[0] is None else _role(part)[1])]


def _role(folder: str) -> tuple[int | str | None, str]:
    """The rank of a folder of masks, or "images", or None; and what is left of its name."""
    text = re.sub(r"ground[ _-]truth", "groundtruth", folder.lower())
    words = re.split(r"[ _-]+", text)
    ranks = [rank for rank, names in enumerate(MASK_FOLDERS) for word in words if word in names]
    images = [word for word in words if word in IMAGE_FOLDERS]
    if len(words) > 2 or bool(ranks) == bool(images):  # Dataset_BUSI_with_GT is no folder of masks
        return None, folder.lower()
    known = IMAGE_FOLDERS.union(*MASK_FOLDERS)
    return ranks[0] if ranks else "images", "_".join(word for word in words if word not in known)


def _images_of(mask: PurePosixPath, by_key: dict[Key, list[PurePosixPath]]) -> list[PurePosixPath]:
    folders = folder_key(mask)[1]
    for stem in dict.fromkeys((mask.stem, mask_stem(mask.stem))):
        found = by_key.get((folders, stem.lower()), [])
        if found:
            return [image for image in found if image.stem == stem] or found
    return []


def _number(stem: str) -> str:
    found = re.search(r"\d.*$", mask_stem(stem))
    return found.group().lower() if found else ""


def _pair_by_number(left: list[PurePosixPath], pairing: Pairing) -> None:
    waiting: dict[Key, list[PurePosixPath]] = defaultdict(list)
    for image, masks in pairing.masks.items():
        if not masks:
            waiting[folder_key(image)[1], _number(image.stem)].append(image)
    for mask in left:
        images = waiting.get((folder_key(mask)[1], _number(mask.stem)), []) if _number(mask.stem) else []
        if len(images) == 1:
            pairing.masks[images[0]].append(mask)
        else:
            pairing.unused[mask] = "is a mask without its image"


def _keep_first_folder(pairing: Pairing) -> None:
    for image, masks in pairing.masks.items():
        ranks = {mask: -1 if (rank := folder_key(mask)[0]) is None else rank for mask in masks}
        first = min(ranks.values(), default=None)
        for mask in [mask for mask in masks if ranks[mask] != first]:
            masks.remove(mask)
            kept = next(other for other in masks if ranks[other] == first)
            pairing.unused[mask] = f"is a second mask of {image}; {kept} is used"
