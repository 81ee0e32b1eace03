"""The files of a folder or a zip, and one picture out of them."""

import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import PIL.Image

from ..modeling.image_reading import EXTENSIONS, open_image, read_rgb
from .dicom import DICOM_EXTENSIONS, read_dicom

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Readable(Protocol):
    """What a file in a folder, a member of a zip and a row of a Hub data set have in common."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class File:
    """
    One file of a data set.

    Args:
        place (`PurePosixPath`): Where it lies below the data set's root.
        source (`Readable`): What it is read from.
        whole (`str`): How to call it in an error.
    """

    place: PurePosixPath
    source: Readable
    whole: str

    def read_bytes(self) -> bytes:
        """
        The whole file.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            return self.source.read_bytes()
        except Exception as error:  # an encrypted or damaged zip fails in many ways
            raise ValueError(f"{self.whole} cannot be read: {error}.") from error

    def open(self) -> BinaryIO:
        """The file, opened for reading. Raises as [`File.read_bytes`]."""
        if not isinstance(self.source, Path):
            return io.BytesIO(self.read_bytes())
        try:
            return self.source.open("rb")
        except OSError as error:
            raise ValueError(f"{self.whole} cannot be read: {error.strerror}.") from error

    @property
    def is_dicom(self) -> bool:
        """By its name, or by its first bytes if its name says nothing."""
        suffix = self.place.suffix.lower()
        if suffix in DICOM_EXTENSIONS or suffix in EXTENSIONS or suffix[1:].isalpha():
            return suffix in DICOM_EXTENSIONS
        with self.open() as opened:
            return opened.read(132)[128:] == b"DICM"

    @property
    def is_picture(self) -> bool:
        """Whether it is of a kind that is read."""
        return self.place.suffix.lower() in EXTENSIONS or self.is_dicom


def is_hub_name(source: str | Path) -> bool:
    """Whether a source that is not on this disk may be a data set on the Hub, such as `org/my-scans`."""
    text, path = str(source), Path(source)
    known = path.suffix.lower() in EXTENSIONS | DICOM_EXTENSIONS | {".zip"}
    return bool(HUB_NAME.fullmatch(text)) and not known and not path.exists() and not path.parent.exists()


def files_of(source: str | Path) -> list[File]:
    """
    All files of a folder or a zip, without hidden ones, in an order that does not depend on the file system.

    Raises:
        FileNotFoundError: There is neither a folder nor a zip.
        ValueError: The zip is damaged, or a folder cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        found = list(_in_folder(path))
    elif path.is_file() and zipfile.is_zipfile(path):
        try:
            found = list(_in_zip(path))
        except Exception as error:  # of its table of contents
            raise ValueError(f"{source} is a damaged or truncated zip; fetch it again.") from error
    elif path.is_file() and path.suffix.lower() == ".zip":
        raise ValueError(f"{source} is a damaged or truncated zip; fetch it again.")
    elif path.is_file():
        raise ValueError(f"{source} is a single file; give the folder or zip that holds the images and their masks.")
    else:
        raise FileNotFoundError(f"{source} is neither a folder nor a zip file; check the path.")
    shown = [file for file in found if not any(_is_hidden(part) for part in file.place.parts)]
    return sorted(shown, key=lambda file: _natural(file.place))


def read_picture(file: File) -> PIL.Image.Image:
    """
    A picture as it was saved, undecoded; DICOM as a viewer shows it.

    Raises:
        ValueError: It cannot be read as one picture.
    """
    if file.is_dicom:
        with file.open() as opened:
            return read_dicom(opened, file.whole)[0]
    if isinstance(file.source, Path):
        if not file.source.stat().st_size:
            raise ValueError(f"{file.whole} is empty; fetch or export it again.")
        return open_image(file.source, file.whole)
    return open_image(io.BytesIO(file.read_bytes()), file.whole)


def read_scan(file: File) -> PIL.Image.Image:
    """A picture as 8-bit RGB. Raises as [`read_picture`]."""
    return read_rgb(read_picture(file), file.whole)


def _in_folder(root: Path) -> Iterator[File]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}.") from error

    seen = {root.resolve()}
    for folder, inside, names in os.walk(root, followlinks=True, onerror=refuse):
        at = Path(folder)
        inside[:] = [name for name in inside if (at / name).resolve() not in seen]  # or links would run in circles
        seen.update((at / name).resolve() for name in inside)
        for name in names:
            path = at / name
            yield File(PurePosixPath(path.relative_to(root).as_posix()), path, str(path))


def _in_zip(path: Path) -> Iterator[File]:
    archive = zipfile.ZipFile(path)
    for name in archive.namelist():
        if not name.endswith("/"):
            yield File(PurePosixPath(name), zipfile.Path(archive, name), f"{path}/{name}")


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db")


def _natural(place: PurePosixPath) -> tuple:
    """Folders in order of their names, files with 2 before 10."""
    parts = re.split(r"(\d+)", place.name)
    return place.parent.as_posix(), [int(part) if part.isdecimal() else part for part in parts]
