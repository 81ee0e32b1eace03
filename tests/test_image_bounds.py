"""An image that would fill the memory is refused before it is decoded, or read smaller where its format can."""

import tracemalloc

import numpy as np
import PIL.Image
import pytest
from conftest import scan
from test_dicom import written as dicom_file

from sfrecsam_hf.data.dicom import read_dicom
from sfrecsam_hf.modeling.image_reading import MEGAPIXELS_VARIABLE, max_megapixels, read_mask, read_rgb

GRAY = scan(300, 400, 3)[0]


def test_the_bound_can_be_set(monkeypatch, tmp_path):
    GRAY.save(tmp_path / "scan.png")
    assert read_rgb(tmp_path / "scan.png").size == (400, 300)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.1")
    for read in (read_rgb, read_mask):
        with pytest.raises(
            ValueError, match=r"scan\.png is 400x300 pixels, 0.12 megapixels of at most 0\.1; save it smaller"
        ):
            read(tmp_path / "scan.png")
    with pytest.raises(ValueError, match="image is 400x300 pixels"):
        read_rgb(np.asarray(GRAY))
    with pytest.raises(ValueError, match="scan is 400x300 pixels"):
        read_dicom(dicom_file(np.asarray(GRAY)), "scan")


@pytest.mark.parametrize("value", ["many", "0", "-3", "nan"])
def test_a_bound_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, value)
    with pytest.raises(ValueError, match=f"{MEGAPIXELS_VARIABLE}={value} must be a number above 0"):
        max_megapixels()


def test_a_large_file_is_refused_before_it_is_decoded(tmp_path):
    PIL.Image.new("L", (12_000, 12_000)).save(tmp_path / "large.png")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"large\.png is 12000x12000 pixels, 144 megapixels of at most 25"):
        read_rgb(tmp_path / "large.png")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_large_jpeg_is_read_smaller_and_told(monkeypatch, tmp_path, caplog):
    GRAY.save(tmp_path / "scan.jpg", quality=95)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.05")
    small = read_rgb(tmp_path / "scan.jpg")
    assert small.size == (200, 150)
    assert "scan.jpg is read at 1/2 of its 400x300 pixels" in caplog.text
    expected = np.asarray(GRAY.resize((200, 150), PIL.Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(small)[..., 0] - expected).mean() < 4
