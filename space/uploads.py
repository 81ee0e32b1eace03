"""Reads what visitors give, within limits, and says in one sentence what is wrong with the rest."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
from gradio.components.image import ImageData
from gradio.data_classes import FileData, ListFiles

from sfrecsam_hf.modeling.image_reading import read_mask, read_rgb

MAX_MEGABYTES = 20
MAX_PIXELS = 16_000_000
MAX_BATCH = 32


def path_of(payload: ImageData | FileData | None) -> str | None:
    """In place of Gradio's reading, which says nothing of a file that is no image and leaves an empty file behind."""
    return None if payload is None else payload.path


def paths_of(payload: ListFiles | None) -> list[str]:
    """The same of several files."""
    return [] if payload is None else [file.path for file in payload]


def read_upload(path: Path) -> PIL.Image.Image:
    """
    One image as upright RGB.

    Raises:
        ValueError: It is too large, or no image; the sentence names the file, and no folder of the server.
    """
    try:
        _check_limits(path)
        return read_rgb(path)
    except (OSError, ValueError) as error:
        raise ValueError(_without_folders(error, path)) from error


def read_reference(path: Path, image: PIL.Image.Image) -> np.ndarray:
    """
    The reference mask of an image, boolean, of shape `(height, width)`.

    Raises:
        ValueError: It is no image, or of another size.
    """
    try:
        _check_limits(path)
        mask = read_mask(path)
    except (OSError, ValueError) as error:
        raise ValueError(_without_folders(error, path)) from error
    if mask.shape != (image.height, image.width):
        raise ValueError(
            f"{path.name} is {mask.shape[1]} x {mask.shape[0]} pixels, but its image is {image.width} x "
            f"{image.height}; export both at the same size."
        )
    return mask


def _check_limits(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path.name} is no longer on the server; drop it again.")
    if path.stat().st_size > MAX_MEGABYTES * 1_000_000:
        raise ValueError(f"{path.name} is larger than {MAX_MEGABYTES} MB; export it as PNG or JPEG.")
    if path.read_bytes()[128:132] == b"DICM":
        raise ValueError(f"{path.name} is DICOM; export the frame as PNG, or run `sfrecsam predict` on it.")
    try:
        with PIL.Image.open(path) as image:
            pixels = image.width * image.height
    except PIL.Image.DecompressionBombError:
        pixels = MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError):
        return  # the reader says what is wrong
    if pixels > MAX_PIXELS:
        raise ValueError(f"{path.name} has more than {MAX_PIXELS // 1_000_000} million pixels; shrink it first.")


def _without_folders(error: Exception, path: Path) -> str:
    return re.sub(re.escape(str(path)), path.name, str(error))
