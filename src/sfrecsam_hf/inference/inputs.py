"""Which files `predict` segments: the scans among files, folders and globs, and what it leaves out and why."""

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from ..data.clips import VIDEO, written_by
from ..data.dicom import is_dicom, is_segmentation, read_dicom
from ..data.files import File, files_of, is_hub_name
from ..data.pairing import masks_among
from ..modeling.image_reading import EXTENSIONS, read_rgb

FORMULAS = ("=", "+", "-", "@")  # with which a spreadsheet takes a cell for one
OWN = "predictions"  # with which the names of the files of a whole run begin
WRITER = "sfrecsam predict"  # in the PNG, TIFF, MP4 and DICOM files that a run writes
TIFF_SOFTWARE = 305  # the tag that names it
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break lines of a table or steer a terminal
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
    members = {entry: _members(entry) for entry in inputs}
    masks = _masks([file for files in members.values() for file in files])
    for entry, files in members.items():
        if not files:
            found.missing.append(
                f"{shown(entry)} holds no images; give a folder with {', '.join(sorted(EXTENSIONS))} files."
                if Path(entry).is_dir()
                else f"{shown(entry)} does not exist; check the path."
            )
        for file in files:
            place = file.source.resolve()
            if place in looked_at:
                continue
            looked_at.add(place)
            reason = _no_scan(file, masks, output, named=file.source == Path(entry))
            if reason is None:
                scans[place] = (file.source, Path(file.place))
            else:
                found.left_out.setdefault(reason, []).append(file.source)
    if not scans:
        _nothing_to_do(inputs, found)
    found.pictures = _named(list(scans.values()))
    return found


def read_scan(path: Path) -> PIL.Image.Image:
    """A still scan, DICOM or a picture, in RGB and upright."""
    return read_dicom(path)[0] if is_dicom(path) else read_rgb(path)


def shown(path: str | Path) -> str:
    """A path that can be printed, and written into a cell of a table in UTF-8, whatever its bytes are."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return f"./{text}" if text.startswith(FORMULAS) else text


def signed() -> PngInfo:
    """What a PNG file tells of who wrote it, so that no later run takes it for a scan."""
    written_by = PngInfo()
    written_by.add_text("Software", WRITER)
    return written_by


def _members(entry: str) -> list[File]:
    """The files of one input, at their places below it."""
    path = Path(entry)
    if _exists(path):
        return files_of(path) if path.is_dir() else [File(PurePosixPath(path.name), path, entry)]
    if is_hub_name(entry):
        from ..data.hub import fetch_images

        return files_of(fetch_images(entry))
    plain = [*takewhile(lambda part: not set(part) & set("*?["), path.parts)]
    top = Path(*plain)
    if len(plain) == len(path.parts):
        return []
    matches = sorted(top.glob(str(path.relative_to(top))))
    return [_below(top, match) for match in matches if match.is_file()]


def _below(top: Path, path: Path) -> File:
    return File(PurePosixPath(path.relative_to(top).as_posix()), path, str(path))


def _exists(path: Path) -> bool:
    """Also for a name that is too long for the file system to look up."""
    try:
        return path.exists()
    except OSError:
        return False


def _masks(members: list[File]) -> set[Path]:
    """Those files that are masks, told from what lies beside them whether it was given or not."""
    folders: dict[Path, set[Path]] = defaultdict(set)
    for file in members:
        folders[file.source.parents[len(file.place.parts) - 1]].add(file.source.parent)
    masks = set()
    for top, inside in folders.items():
        beside = (_below(top, path) for folder in inside for path in folder.iterdir() if path.is_file())
        pictures = {file.place: file for file in beside if _is_picture(file)}
        masks |= {pictures[place].source for place in masks_among(pictures)}
    return masks


def _no_scan(file: File, masks: set[Path], output: Path, named: bool) -> str | None:
    """Why a file is not segmented; a file that was named in full is an image whatever its name ends in."""
    if output in file.source.resolve().parents:
        return BELOW_OUTPUT
    if not named and not _is_picture(file):
        return NO_IMAGE
    if _was_written(file.source):
        return WRITTEN
    if file.source in masks or _is_segmentation(file):
        return MASK
    return None


def _is_picture(file: File) -> bool:
    try:
        return file.is_picture or file.source.suffix.lower() in VIDEO
    except ValueError:  # it cannot be opened, which is said where it is read
        return True


def _is_segmentation(file: File) -> bool:
    try:
        return file.is_dicom and is_segmentation(file.source)
    except Exception:  # whatever is wrong with it is said where it is read
        return False


def _was_written(path: Path) -> bool:
    """Whether a run of ours wrote the file: its pictures say so themselves, so it may have been moved since."""
    try:
        if path.suffix.lower() in VIDEO:
            return written_by(path) == WRITER
        if is_dicom(path):
            from pydicom import dcmread

            header = dcmread(path, stop_before_pixels=True, specific_tags=["SoftwareVersions"])
            return str(header.get("SoftwareVersions", "")) == WRITER
        with PIL.Image.open(path) as picture:
            return WRITER in (picture.info.get("Software"), getattr(picture, "tag_v2", {}).get(TIFF_SOFTWARE))
    except Exception:  # as above
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
    """Names without suffix where they are unique without it, and not that of the run's own files."""
    stems = Counter([Path(OWN), *(relative.with_suffix("") for _, relative in scans)])
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
