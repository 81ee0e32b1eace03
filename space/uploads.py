"""Reads what visitors give, within limits, and says in one sentence what is wrong with the rest."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
from gradio.data_classes import FileData, ListFiles

from sfrecsam_hf.data.clips import Clip, is_clip, open_clip
from sfrecsam_hf.data.dicom import Calibration, is_dicom, read_dicom
from sfrecsam_hf.modeling.image_reading import read_mask, read_rgb

MAX_MEGABYTES = 20
MAX_PIXELS = 16_000_000
MAX_BATCH = 32
MAX_FRAMES, MAX_CLIP_PIXELS = 240, 200_000_000


@dataclass(frozen=True)
class Upload:
    """An image as upright RGB, what its file says about the size of its pixels, and where it lies."""

    image: PIL.Image.Image
    calibration: Calibration = field(default_factory=Calibration)
    path: Path | None = None


def paths_of(payload: FileData | ListFiles | None) -> str | list[str] | None:
    """In place of Gradio's own reading of files, which leaves an empty one behind for each."""
    return [file.path for file in payload] if isinstance(payload, ListFiles) else payload and payload.path


def read_upload(path: Path) -> Upload:
    """
    One image.

    Raises:
        ValueError: It is too large, or no image; the sentence names the file, and no folder of the server.
    """
    try:
        _check_file(path)
        if is_dicom(path):
            upload = Upload(*read_dicom(path, path.name), path)
        else:
            _check_pixels(path)
            upload = Upload(read_rgb(path), path=path)
    except (OSError, ValueError) as error:
        raise ValueError(_without_folders(error, path)) from error
    if upload.image.width * upload.image.height > MAX_PIXELS:
        raise ValueError(_too_large(path))
    return upload


def holds_clip(path: Path) -> bool:
    """Whether an upload has several frames."""
    try:
        return is_clip(path)
    except Exception:  # a damaged file fails in many ways; the reader says what is wrong
        return False


def read_clip(path: Path) -> Clip:
    """
    A clip, whose frames are read when they are asked for.

    Raises:
        ValueError: It is too large, or cannot be read; the sentence names the file, and no folder of the server.
    """
    try:
        _check_file(path)
        clip = open_clip(path)
        width, height = clip[0].size
    except (OSError, ValueError) as error:
        raise ValueError(_without_folders(error, path)) from error
    if clip.frames > MAX_FRAMES or clip.frames * width * height > MAX_CLIP_PIXELS:
        raise ValueError(
            f"{path.name} has {clip.frames} frames of {width} x {height} pixels; cut it to at most {MAX_FRAMES} "
            f"frames and {MAX_CLIP_PIXELS // 1_000_000} million pixels in all."
        )
    return clip


def read_reference(path: Path, image: PIL.Image.Image) -> np.ndarray:
    """
    The reference mask of an image, boolean, of shape `(height, width)`.

    Raises:
        ValueError: It is no image, or of another size.
    """
    try:
        _check_file(path)
        _check_pixels(path)
        mask = read_mask(path)
    except (OSError, ValueError) as error:
        raise ValueError(_without_folders(error, path)) from error
    if mask.shape != (image.height, image.width):
        raise ValueError(
            f"{path.name} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is {image.width} x "
            f"{image.height}; export both at the same size."
        )
    return mask


def _check_file(path: Path) -> None:
    if path.stat().st_size > MAX_MEGABYTES * 1_000_000:
        raise ValueError(f"{path.name} is larger than {MAX_MEGABYTES} MB; export it as PNG or JPEG.")


def _check_pixels(path: Path) -> None:
    try:
        with PIL.Image.open(path) as image:
            pixels = image.width * image.height
    except PIL.Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError):
        return  # the reader says what is wrong
    if pixels > MAX_PIXELS:
        raise ValueError(_too_large(path))


def _too_large(path: Path) -> str:
    return f"{path.name} has more than {MAX_PIXELS // 1_000_000} million pixels; shrink it first."


def _without_folders(error: Exception, path: Path) -> str:
    return re.sub(re.escape(str(path)), path.name, str(error))
