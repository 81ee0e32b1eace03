"""Cine clips frame by frame: multi-frame DICOM, GIF, APNG, WebP, TIFF, video files and folders of frames.

A clip is read one frame at a time, so that memory does not grow with its length.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image

from ..modeling.image_reading import EXTENSIONS, check_size, picture_frames, read_rgb
from .dicom import Calibration, as_shown, calibration_of, is_dicom

VIDEO = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".wmv", ".mpg", ".mpeg"})
# What FFmpeg may take a video file for: a list of other files that has the name of a video would be followed.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,mpeg,mpegts,mpegvideo"
RATE = 20.0  # frames a second where the file does not say


@dataclass(frozen=True, eq=False)
class Clip(Sequence[PIL.Image.Image]):
    r"""
    One clip on disk: a sequence of RGB pictures, of which those asked for are read.

    Args:
        path (`Path`): File, or folder of frames.
        frames (`int`): How many; 2 or more.
        rate (`float`): Frames a second.
        reader: Yields the frames from an index on, as RGB pictures.
        calibration ([`Calibration`]): How large a pixel is, where the file tells.
    """

    path: Path
    frames: int
    rate: float
    reader: Callable[[int], Iterator[PIL.Image.Image]]
    calibration: Calibration = field(default_factory=Calibration)

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[PIL.Image.Image]:
        return itertools.islice(self.reader(0), self.frames)

    def __getitem__(self, index: Any) -> Any:
        """One frame, or a list of neighbouring ones."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(self.frames)
            return list(itertools.islice(self.reader(start), max(stop - start, 0)))
        return next(self.reader(range(self.frames)[index]))


def is_clip(path: str | Path) -> bool:
    """
    Whether a file holds more than one frame. A folder is a clip only where the caller says so.

    What is wrong with a file that cannot be opened is said where it is read.
    """
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() in VIDEO:
        return True
    try:
        if is_dicom(path):
            return _dicom_frames(path) > 1
        with PIL.Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:
        return False


def open_clip(path: str | Path) -> Clip:
    """
    Opens a clip; its frames are read when they are asked for.

    Args:
        path (`str`): A multi-frame file, or a folder whose pictures, in the order of their numbers, are the frames.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It holds fewer than two frames, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if path.is_dir():
        clip = _folder(path)
    elif path.suffix.lower() in VIDEO:
        clip = _video(path)
    elif is_dicom(path):
        clip = _dicom(path)
    else:
        clip = _picture(path)
    if clip.frames < 2:
        raise ValueError(f"{path} holds {clip.frames} frame; a clip needs two or more.")
    return clip


def _folder(path: Path) -> Clip:
    found = [file for file in path.iterdir() if file.is_file() and file.suffix.lower() in EXTENSIONS]
    files = sorted(found, key=lambda file: [int(part) if part.isdigit() else part for part in _parts(file.name)])
    return Clip(path, len(files), RATE, lambda start: (read_rgb(str(file)) for file in files[start:]))


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _picture(path: Path) -> Clip:
    try:
        with PIL.Image.open(path) as image:
            check_size(image.size, str(path))
            image.load()  # before it, WebP does not tell how long a frame lasts
            frames, milliseconds = getattr(image, "n_frames", 1), image.info.get("duration") or 1000 / RATE
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a clip that Pillow can read; export it as GIF, MP4 or DICOM.") from error

    return Clip(path, frames, 1000 / milliseconds, partial(picture_frames, path))


def _dicom_frames(path: Path) -> int:
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(f"{path} is DICOM; install pydicom to read it.") from error
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
    return int(header.get("NumberOfFrames", 1) or 1)


def _dicom(path: Path) -> Clip:
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    frames = _dicom_frames(path)
    header = dcmread(path, stop_before_pixels=True)
    check_size((int(header.Columns), int(header.Rows)), str(path))
    milliseconds = float(header.get("FrameTime") or 1000 / float(header.get("CineRate") or RATE))

    def reader(start: int) -> Iterator[PIL.Image.Image]:
        for index, pixels in enumerate(iter_pixels(path, indices=range(start, frames)), start):
            yield read_rgb(as_shown(header, pixels), name=f"frame {index + 1} of {path}")

    return Clip(path, frames, 1000 / milliseconds, reader, calibration_of(header))


def _video(path: Path) -> Clip:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path} is a video; run `pip install 'sfrecsam-hf[video]'` to read it.") from error

    only = {"format_whitelist": CONTAINERS}

    def decoded() -> Iterator[PIL.Image.Image]:
        with av.open(str(path), options=only) as container:
            for index, frame in enumerate(container.decode(video=0)):
                yield read_rgb(frame.to_image(), name=f"frame {index + 1} of {path}")

    try:
        with av.open(str(path), options=only) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or RATE)
            # What the header says is a guess in many files.
            frames = sum(1 for packet in container.demux(stream) if packet.size)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} is not a video that can be decoded; export it as MP4 (H.264) or GIF.") from error
    return Clip(path, frames, rate, lambda start: itertools.islice(decoded(), start, None))


def written_by(path: Path) -> str:
    """The comment of a video file, where programs write their name; empty if there is none."""
    import av

    with av.open(str(path)) as container:
        return str(container.metadata.get("comment", ""))
