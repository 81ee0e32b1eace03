"""One ultrasound frame out of a DICOM file, as a viewer would show it, and how large its pixels are."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from ..modeling.image_reading import MAX_SIDE, check_size, read_rgb

DICOM_EXTENSIONS = frozenset({".dcm", ".dicom", ".ima"})
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # bits or fractions, labels
MILLIMETRES_PER_CENTIMETRE = 10
CENTIMETRES = 3  # the code of the unit in an ultrasound region
HELD = 0.9  # share of a lesion that must lie in a region to be measured by it


@dataclass(frozen=True)
class Region:
    """A calibrated rectangle of the image in pixels, its last row and column included; `spacing` in millimetres."""

    left: int
    top: int
    right: int
    bottom: int
    spacing: tuple[float, float]


@dataclass
class Calibration:
    """
    How large the pixels of an image are.

    Args:
        spacing_everywhere (`tuple[float, float]`, *optional*): Height and width of a pixel in millimetres.
        regions (`list[Region]`): The parts of an ultrasound image that are calibrated in centimetres.
    """

    spacing_everywhere: tuple[float, float] | None = None
    regions: list[Region] = field(default_factory=list)

    def spacing(self, mask: np.ndarray) -> tuple[float, float] | None:
        """
        Height and width of a pixel in millimetres where the lesion lies, or None if the file does not tell.

        Args:
            mask (`numpy.ndarray` of shape `(height, width)`): Boolean.
        """
        if self.spacing_everywhere is not None or not mask.any():
            return self.spacing_everywhere
        holding = [
            region
            for region in self.regions
            if mask[region.top : region.bottom + 1, region.left : region.right + 1].sum() >= HELD * mask.sum()
        ]
        smallest = min(holding, key=lambda r: (r.right - r.left) * (r.bottom - r.top), default=None)
        return None if smallest is None else smallest.spacing


def is_dicom(file: Path) -> bool:
    """Whether the file says that it is DICOM, whatever its name."""
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def is_segmentation(file: Path | BinaryIO) -> bool:
    """Whether a DICOM file holds masks of another one (DICOM-SEG) and is no scan itself."""
    header = _pydicom(str(file)).dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
    return header.get("SOPClassUID", "") in SEGMENTATION_CLASSES


def read_dicom(file: Path | BinaryIO, name: str | None = None) -> tuple[PIL.Image.Image, Calibration]:
    """
    Reads a single-frame DICOM image: palette, colour space, rescaling and window applied as the file asks.

    Args:
        file (`Path` or binary file): The file.
        name (`str`, *optional*): How to call it in an error.

    Returns:
        The image as 8-bit RGB, and its calibration.

    Raises:
        ValueError: pydicom is missing, or the file has no single frame that can be read.
    """
    name = name or str(file)
    pydicom = _pydicom(name)
    try:
        dataset = pydicom.dcmread(file)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        size = int(dataset.Columns), int(dataset.Rows)
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{name} is DICOM without pixels that pydicom can decode; export it as PNG.") from error
    if str(dataset.get("SOPClassUID", "")) in SEGMENTATION_CLASSES:
        raise ValueError(f"{name} is a DICOM segmentation, not a scan; give the image that it belongs to.")
    if frames > 1:
        raise ValueError(f"{name} has {frames} frames; export the one to use.")
    check_size(size, name)
    try:
        pixels = as_shown(dataset, dataset.pixel_array)
    except Exception as error:
        raise ValueError(f"{name} is DICOM without pixels that pydicom can decode; export it as PNG.") from error
    return read_rgb(pixels, name=name), calibration_of(dataset)


def _pydicom(name: str) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ValueError(f"{name} is DICOM; install pydicom to read it.") from error
    return pydicom


def as_shown(dataset: Any, pixels: np.ndarray) -> np.ndarray:
    """8-bit pixels. YBR is RGB already: `pixel_array` of pydicom 3 converts it."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)[..., :3]
        return (pixels >> 8 if pixels.max() > 255 else pixels).astype(np.uint8)
    if pixels.ndim == 3:
        return (pixels >> max(int(dataset.BitsStored) - 8, 0)).astype(np.uint8)
    values, black, white = _through_window(dataset, apply_modality_lut(pixels, dataset))
    gray = ((values.astype(np.float64) - black) * (255 / max(white - black, 1e-6))).clip(0, 255)
    gray = np.rint(gray).astype(np.uint8)
    return 255 - gray if kind == "MONOCHROME1" else gray


def _through_window(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The values as the file's first window or table asks for, and which of them are black and white."""
    from pydicom.pixels import apply_voi, apply_windowing

    try:
        if dataset.get("VOILUTSequence"):
            return apply_voi(values, dataset), 0, 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        if "WindowWidth" in dataset and "WindowCenter" in dataset:
            shown = apply_windowing(np.append(values.ravel(), [-1e12, 1e12]), dataset)
            return shown[:-2].reshape(values.shape), shown[-2], shown[-1]
    except (AttributeError, TypeError, ValueError, IndexError):
        pass  # a window without a width shows nothing; the whole range does
    if values.dtype == np.uint8:
        return values, 0, 255
    return values, values.min(), values.max()


def calibration_of(dataset: Any) -> Calibration:
    """What a header tells of the size of pixels. A region without centimetres, or without a size, tells nothing."""
    regions = dataset.get("SequenceOfUltrasoundRegions")
    if regions:
        return Calibration(regions=[found for region in regions if (found := _region(region)) is not None])
    try:
        height, width = (float(value) for value in dataset.PixelSpacing)
    except (AttributeError, TypeError, ValueError):
        return Calibration()
    return Calibration((height, width) if _is_length(height) and _is_length(width) else None)


def _region(region: Any) -> Region | None:
    try:
        units = int(region.PhysicalUnitsXDirection), int(region.PhysicalUnitsYDirection)
        height, width = (
            float(delta) * MILLIMETRES_PER_CENTIMETRE for delta in (region.PhysicalDeltaY, region.PhysicalDeltaX)
        )
        left, top = (int(region.get(f"RegionLocationMin{side}0", 0)) for side in "XY")
        right, bottom = (int(region.get(f"RegionLocationMax{side}1", MAX_SIDE)) for side in "XY")
    except (AttributeError, TypeError, ValueError):
        return None
    if units != (CENTIMETRES, CENTIMETRES) or not (_is_length(height) and _is_length(width)) or min(left, top) < 0:
        return None
    return Region(left, top, right, bottom, (height, width))


def _is_length(value: float) -> bool:
    return math.isfinite(value) and value > 0
