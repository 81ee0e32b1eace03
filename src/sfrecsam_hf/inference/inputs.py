"""Which files `predict` segments: the scans among files, folders and globs, and what it leaves out and why."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import PIL.Image

from ..data.dicom import is_dicom
from ..modeling.image_reading import EXTENSIONS, mask_stem

DICOM_EXTENSIONS = {".dcm", ".dicom", ".ima"}
IMAGE_FOLDERS = {"image", "images", "original", "imgs", "img"}
MASK_FOLDERS = {"mask", "masks", "gt", "label", "labels", "groundtruth", "ground_truth", "annotations"}
WRITER = "sfrecsam predict"  # in the PNG and DICOM files that a run writes
BELOW_OUTPUT = "lie below --output"
WRITTEN = "were written by an earlier run"
MASK = "are masks of other images"
NO_IMAGE = "are not images"


@dataclass(frozen=True)
class Picture:
    """One input: where it is, and the name of its outputs below the output folder."""

    path: Path
    name: str


@dataclass
class Inputs:
    """
    What was found.

    Args:
        pictures (`list[Picture]`): To be segmented, each file once, in the order that they were given.
        left_out (`dict[str, list[Path]]`): Files that are no scans, by the reason.
        missing (`list[str]`): A sentence for each input that does not exist or holds no scans.
    """

    pictures: list[Picture] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def left_out_in_words(self) -> list[str]:
        """One line for each reason: how many files, which of them first, and why."""
        return [
            f"left out {len(paths)} files that {reason}: {', '.join(shown(path) for path in paths[:3])}"
            + (", ..." if len(paths) > 3 else "")
            for reason, paths in self.left_out.items()
        ]


def find_pictures(inputs: list[str], output: str | Path) -> Inputs:
    """
    The scans among files, folders (searched at every depth) and globs.

    Left out are masks, whatever an earlier run wrote, and all that lies below the output folder.

    Args:
        inputs (`list[str]`): As on the command line.
        output (`str` or `Path`): Where this run will write.

    Raises:
        FileNotFoundError: None of the inputs exists.
        ValueError: There is no scan, or two scans would be written to the same place.
    """
    found = Inputs()
    output = Path(output).resolve()
    scans: dict[Path, tuple[Path, Path]] = {}
    looked_at: set[Path] = set()
    for entry in inputs:
        members = list(_members(entry))
        if not members:
            found.missing.append(
                f"{shown(entry)} holds no images; give a folder with {', '.join(sorted(EXTENSIONS))} files."
                if Path(entry).is_dir()
                else f"{shown(entry)} does not exist; check the path."
            )
        for path, relative in members:
            place = path.resolve()
            if place in looked_at:
                continue
            looked_at.add(place)
            reason = _no_scan(path, place, output, named=path == Path(entry))
            if reason is None:
                scans[place] = (path, relative)
            else:
                found.left_out.setdefault(reason, []).append(path)
    if not scans:
        _nothing_to_do(inputs, found)
    found.pictures = _named(list(scans.values()))
    return found


def shown(path: str | Path) -> str:
    """A path that can be printed and written as UTF-8, whatever its bytes are."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _members(entry: str) -> Iterator[tuple[Path, Path]]:
    """The files of one input, and where they lie below it."""
    path = Path(entry)
    if _exists(path):
        if path.is_dir():
            yield from ((member, member.relative_to(path)) for member in sorted(path.rglob("*")) if member.is_file())
        else:
            yield path, Path(path.name)
        return
    plain = [*takewhile(lambda part: not set(part) & set("*?["), path.parts)]
    top = Path(*plain)
    if len(plain) < len(path.parts):
        matches = sorted(top.glob(str(path.relative_to(top))))
        yield from ((match, match.relative_to(top)) for match in matches if match.is_file())


def _exists(path: Path) -> bool:
    """Also for a name that is too long for the file system to look up."""
    try:
        return path.exists()
    except OSError:
        return False


def _no_scan(path: Path, place: Path, output: Path, named: bool) -> str | None:
    """Why a file is not segmented; a file that was named in full is an image whatever its name ends in."""
    if output in place.parents:
        return BELOW_OUTPUT
    if not named and not _looks_like_an_image(path):
        return NO_IMAGE
    if _is_mask(path):
        return MASK
    if _was_written(path):
        return WRITTEN
    return None


def _looks_like_an_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in EXTENSIONS | DICOM_EXTENSIONS or (not suffix[1:].isalpha() and is_dicom(path))


def _is_mask(path: Path) -> bool:
    """`NAME_mask` beside an image `NAME`, or a file in a folder of masks beside a folder of images."""
    stem = mask_stem(path.stem).lower()
    if stem != path.stem.lower() and any(
        other.stem.lower() == stem and _looks_like_an_image(other) for other in path.parent.iterdir()
    ):
        return True
    for folder in path.parents:
        if folder.name.lower() in MASK_FOLDERS:
            return any(beside.name.lower() in IMAGE_FOLDERS for beside in folder.parent.iterdir() if beside.is_dir())
    return False


def _was_written(path: Path) -> bool:
    """Whether a run of ours wrote the file: its pictures say so themselves, so it may have been moved since."""
    try:
        if is_dicom(path):
            from pydicom import dcmread

            header = dcmread(path, stop_before_pixels=True, specific_tags=["SoftwareVersions"])
            return WRITER in str(header.get("SoftwareVersions", ""))
        with PIL.Image.open(path) as picture:
            return picture.info.get("Software") == WRITER
    except Exception:  # whatever is wrong with it is reported where it is read
        return False


def _nothing_to_do(inputs: list[str], found: Inputs) -> None:
    """Says in one sentence why no input is a scan."""
    if found.left_out:
        reasons = " and ".join(f"{len(paths)} {reason}" for reason, paths in found.left_out.items())
        remedy = "; choose another --output" if BELOW_OUTPUT in found.left_out else ""
        raise ValueError(f"{', '.join(map(shown, inputs))} holds no scans: of its files {reasons}{remedy}.")
    message = " ".join(found.missing)
    raise (ValueError if all(map(os.path.isdir, inputs)) else FileNotFoundError)(message)


def _named(scans: list[tuple[Path, Path]]) -> list[Picture]:
    """Names without suffix where they are unique without it."""
    stems = Counter(relative.with_suffix("") for _, relative in scans)
    pictures = [
        Picture(path, shown(relative if stems[relative.with_suffix("")] > 1 else relative.with_suffix("")))
        for path, relative in scans
    ]
    places: dict[str, Path] = {}
    for picture in pictures:
        if other := places.get(picture.name):
            raise ValueError(
                f"{shown(other)} and {shown(picture.path)} would both be written as {picture.name}; give the folder "
                "that holds both."
            )
        places[picture.name] = picture.path
    return pictures
