"""One ultrasound frame and its pixel spacing out of a DICOM file, through pydicom where it is installed."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..modeling.image_reading import read_rgb

MILLIMETRES_PER_CENTIMETRE = 10


def is_dicom(path: Path) -> bool:
    """Whether the file says that it is DICOM, whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> tuple[PIL.Image.Image, tuple[float, float] | None]:
    """
    Reads a single-frame DICOM image.

    Args:
        path (`Path`): The file.

    Returns:
        The image, and the height and width of a pixel in millimetres, or None if the file does not tell.

    Raises:
        ValueError: pydicom is missing, or the file has no single frame that can be read.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ValueError(f"{path} is DICOM; install pydicom to read it.") from error
    try:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
    except Exception as error:
        raise ValueError(f"{path} is DICOM without pixels that pydicom can decode; export it as PNG.") from error
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(f"{path} has {dataset.NumberOfFrames} frames; export the one to segment.")
    if dataset.PhotometricInterpretation.startswith("YBR"):
        pixels = pydicom.pixels.convert_color_space(pixels, dataset.PhotometricInterpretation, "RGB")
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1))).round().astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
    return read_rgb(pixels, name=str(path)), _spacing(dataset)


def _spacing(dataset: Any) -> tuple[float, float] | None:
    regions = dataset.get("SequenceOfUltrasoundRegions")
    if regions:
        region = regions[0]
        centimetres = abs(float(region.PhysicalDeltaY)), abs(float(region.PhysicalDeltaX))
        return tuple(value * MILLIMETRES_PER_CENTIMETRE for value in centimetres)
    if dataset.get("PixelSpacing"):
        return tuple(float(value) for value in dataset.PixelSpacing)
    return None
