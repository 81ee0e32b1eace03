"""DICOM is read as a viewer shows it, and measured only where the file says how large a pixel is."""

import io

import numpy as np
import PIL.Image
import pydicom
import pytest
from conftest import scan
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from sfrecsam_hf.data.dicom import read_dicom

GRAY = np.asarray(scan(60, 80, 3)[0])
MASK = np.zeros((60, 80), bool)
MASK[20:30, 30:45] = True


def written(pixels: np.ndarray, **fields) -> io.BytesIO:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def read(pixels: np.ndarray, **fields) -> np.ndarray:
    return np.asarray(read_dicom(written(pixels, **fields), "scan")[0])


def region(delta: float = 0.05, units: int = 3, box: tuple = (0, 0, 79, 59), **fields) -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.PhysicalDeltaX = found.PhysicalDeltaY = delta
    found.PhysicalUnitsXDirection = found.PhysicalUnitsYDirection = units
    found.RegionLocationMinX0, found.RegionLocationMinY0 = box[:2]
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = box[2:]
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def spacing(*regions: pydicom.Dataset, **fields) -> tuple[float, float] | None:
    if regions:
        fields["SequenceOfUltrasoundRegions"] = list(regions)
    return read_dicom(written(GRAY, **fields), "scan")[1].spacing(MASK)


def test_gray_values_stay_as_they_are():
    assert np.array_equal(read(GRAY)[..., 0], GRAY)
    assert np.array_equal(read(255 - GRAY, PhotometricInterpretation="MONOCHROME1")[..., 0], GRAY)
    assert np.array_equal(read(GRAY, WindowCenter=128, WindowWidth=256)[..., 0], GRAY)


def test_a_palette_is_colours_and_not_indices():
    tables = {f"{colour}PaletteColorLookupTableDescriptor": [256, 0, 16] for colour in ("Red", "Green", "Blue")}
    steps = np.arange(256, dtype=np.uint16)
    tables |= {f"{colour}PaletteColorLookupTableData": (steps[::-1] * 257).tobytes() for colour in ("Red", "Green")}
    tables["BluePaletteColorLookupTableData"] = (steps * 257).tobytes()
    shown = read(GRAY, PhotometricInterpretation="PALETTE COLOR", **tables)
    assert np.array_equal(shown, np.stack([255 - GRAY, 255 - GRAY, GRAY], axis=-1))


def test_ybr_is_converted_once():
    colour = np.stack([GRAY, np.full_like(GRAY, 90), np.full_like(GRAY, 160)], axis=-1)
    ybr = np.asarray(PIL.Image.fromarray(colour).convert("YCbCr"))
    shown = read(ybr, PhotometricInterpretation="YBR_FULL")
    assert np.abs(shown.astype(int) - colour).max() <= 3


def test_a_window_decides_what_is_white():
    deep = GRAY.astype(np.uint16) * 4
    deep[0, :3] = 65535
    assert np.abs(read(deep, WindowCenter=512, WindowWidth=1024)[1:, :, 0].astype(int) - GRAY[1:]).max() <= 1
    assert np.array_equal(read(deep, WindowCenter=512, WindowWidth=0), read(deep))


def test_sixteen_bits_without_a_window_use_the_whole_range():
    shown = read(GRAY.astype(np.uint16) * 256)
    assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([region()], (0.5, 0.5)),
        ([region(units=4, delta=3.0), region()], (0.5, 0.5)),
        ([region(0.09, box=(0, 0, 20, 59)), region(0.05, box=(21, 0, 79, 59))], (0.5, 0.5)),
        ([region(0.09, box=(50, 0, 79, 59))], None),
        ([region(units=4)], None),
        ([region(0.0)], None),
        ([region(-0.05)], None),
        ([region(PhysicalDeltaX=None)], None),
        ([pydicom.Dataset()], None),
    ],
    ids=["one", "Doppler first", "two panels", "elsewhere", "no length", "zero", "negative", "no delta", "empty"],
)
def test_the_region_that_holds_the_lesion_measures_it(regions, expected):
    assert spacing(*regions) == (expected and pytest.approx(expected))


def test_without_regions_the_spacing_of_the_image_counts():
    assert spacing(PixelSpacing=[0.2, 0.1]) == (0.2, 0.1)
    assert spacing(PixelSpacing=[0, 0.1]) is None
    assert spacing() is None


def test_what_is_no_single_frame_is_refused():
    with pytest.raises(ValueError, match="scan has 3 frames; export the one to use"):
        read_dicom(written(np.stack([GRAY] * 3)[..., 0], NumberOfFrames=3), "scan")
    with pytest.raises(ValueError, match=r"scan is .* pixels; images need"):
        read_dicom(written(GRAY[:1]), "scan")
    with pytest.raises(ValueError, match="scan is DICOM without pixels"):
        read_dicom(io.BytesIO(b"\0" * 128 + b"DICM" + b"?" * 50), "scan")
