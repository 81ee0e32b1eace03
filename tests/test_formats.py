"""Each format is read back by its own library, and says what the masks say."""

import csv
import io
import json

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from sfrecsam_hf import load_folder
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.formats import FORMATS, Answer, check, joined_coco, write
from sfrecsam_hf.inference.inputs import WRITER, find_pictures
from sfrecsam_hf.inference.outlines import outlines, signed_area
from sfrecsam_hf.modeling.segmentation import Segmentation

SPACING = (0.1, 0.2)
SCAN = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8))
ROWS, COLUMNS = np.mgrid[:70, :90]


def answer(mask: np.ndarray, **about) -> Answer:
    value = mask * 0.875
    found = Segmentation(mask, mask, value, value, value, uncertainty=value / 2, presence=0.9, score=0.8)
    return Answer("scan.png", SCAN, found, **{"spacing": SPACING, **about})


DISC = (ROWS - 40) ** 2 + (COLUMNS - 50) ** 2 < 18**2
MASKS = {
    "two lesions": DISC | ((abs(ROWS - 8) < 5) & (abs(COLUMNS - 12) < 9)),
    "with a hole": DISC & ~((ROWS - 40) ** 2 + (COLUMNS - 52) ** 2 < 6**2),
    "at the edge": (ROWS > 55) & (COLUMNS < 30),
    "none": ROWS < 0,
}


@pytest.fixture(params=list(MASKS))
def mask(request):
    return MASKS[request.param]


def numbered(mask: np.ndarray) -> np.ndarray:
    """Pieces of a mask as SciPy finds them, the largest first."""
    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    order = np.argsort(-np.bincount(pieces.ravel())[1:]) + 1
    return sum((np.where(pieces == piece, number, 0) for number, piece in enumerate(order, 1)), np.zeros_like(pieces))


@pytest.mark.parametrize("format", ["coco", "coco-rle"])
def test_coco(mask, tmp_path, format):
    from pycocotools.coco import COCO

    (path,) = write(format, tmp_path / "scan", answer(mask))
    coco = COCO(path)
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("scan.png", 90, 70)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == numbered(mask).max()
    read = sum((coco.annToMask(one) for one in annotations), np.zeros(mask.shape, np.uint8))
    if format == "coco-rle":
        assert np.array_equal(read, mask)
    assert (read != mask).sum() <= 0.02 * mask.sum()  # pycocotools rounds polygons
    for one, number in zip(annotations, range(1, 9), strict=False):
        own = numbered(mask) == number
        assert one["area"] == own.sum()
        left, top, width, height = one["bbox"]
        assert own[top : top + height, left : left + width].sum() == own.sum()
        assert (one["score"], one["uncertainty"]) == (0.875, 0.4375)


def test_coco_of_several_images(tmp_path):
    from pycocotools.coco import COCO

    files = [write("coco", tmp_path / name, answer(mask))[0] for name, mask in MASKS.items()]
    (tmp_path / "all.json").write_text(json.dumps(joined_coco(files)))
    coco = COCO(tmp_path / "all.json")
    counts = [len(coco.getAnnIds(imgIds=[number])) for number in coco.getImgIds()]
    assert counts == [numbered(mask).max() for mask in MASKS.values()]


def test_labelled_png(mask, tmp_path):
    (path,) = write("labels", tmp_path / "scan", answer(mask))
    picture = PIL.Image.open(path)
    assert np.array_equal(np.asarray(picture), numbered(mask))
    assert np.array_equal(np.asarray(picture.convert("RGB")).any(axis=-1), mask), "seen by people, too"


def test_nifti(mask, tmp_path):
    import nibabel

    (path,) = write("nifti", tmp_path / "scan", answer(mask))
    image = nibabel.load(path)
    assert np.array_equal(np.asarray(image.dataobj)[..., 0].T, numbered(mask))
    assert image.header.get_zooms()[:2] == pytest.approx((0.2, 0.1))
    assert image.header.get_xyzt_units()[0] == "mm"


def test_contours(mask, tmp_path):
    (path,) = write("contours", tmp_path / "scan", answer(mask))
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert {int(row["lesion"]) for row in rows} == set(range(1, numbered(mask).max() + 1))
    for row in rows:
        assert float(row["x_mm"]) == pytest.approx(float(row["x"]) * 0.2, abs=1e-3)
        assert float(row["y_mm"]) == pytest.approx(float(row["y"]) * 0.1, abs=1e-3)
    drawn = PIL.Image.new("1", (mask.shape[1] * 4, mask.shape[0] * 4))
    for lesion, ring in sorted({(row["lesion"], row["ring"]) for row in rows}):
        ends = [
            (float(row["x"]) * 4, float(row["y"]) * 4)
            for row in rows
            if (row["lesion"], row["ring"]) == (lesion, ring)
        ]
        PIL.ImageDraw.Draw(drawn).polygon(ends, fill=int(ring == "0"))
    assert np.array_equal(np.asarray(drawn)[2::4, 2::4], mask)


def test_geojson(mask, tmp_path):
    (path,) = write("geojson", tmp_path / "scan", answer(mask))
    features = json.loads(path.read_text())["features"]
    assert len(features) == numbered(mask).max()
    for feature in features:
        rings = [np.array(ring) for ring in feature["geometry"]["coordinates"]]
        assert all(np.array_equal(ring[0], ring[-1]) for ring in rings)
        enclosed = sum(signed_area(ring[:-1]) for ring in rings)
        assert enclosed == pytest.approx(feature["properties"]["area"], rel=0.02)
        assert feature["properties"]["area_mm2"] == pytest.approx(feature["properties"]["area"] * 0.02)


@pytest.fixture
def dicom(tmp_path):
    """A DICOM ultrasound image with a patient and a study."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UltrasoundImageStorage
    image = pydicom.Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = UltrasoundImageStorage, generate_uid()
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientID, image.PatientName, image.Modality = "0815", "Doe^Jane", "US"
    image.Rows, image.Columns, image.SamplesPerPixel = 70, 90, 3
    image.PhotometricInterpretation, image.PlanarConfiguration = "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelSpacing = list(SPACING)
    image.PixelData = SCAN.tobytes()
    path = tmp_path / "scan.dcm"
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("given", ["DICOM", "PNG"])
def test_dicom_segmentation(mask, tmp_path, dicom, given):
    import highdicom
    import pydicom

    paths = write("dicom-seg", tmp_path / "found", answer(mask, source=dicom if given == "DICOM" else None))
    scan = pydicom.dcmread(dicom if given == "DICOM" else paths[1])
    assert len(paths) == (1 if given == "DICOM" else 2)
    read = highdicom.seg.segread(paths[0])
    pixels = read.get_pixels_by_source_instance([scan.SOPInstanceUID], combine_segments=True)
    assert np.array_equal(pixels[0], numbered(mask))
    assert read.StudyInstanceUID == scan.StudyInstanceUID
    assert read.PatientID == scan.PatientID
    measures = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(map(float, measures.PixelSpacing)) == list(SPACING)
    assert np.array_equal(scan.pixel_array, np.asarray(SCAN))


def test_dicom_capture(tmp_path, dicom):
    import pydicom

    (path,) = write("dicom-sc", tmp_path / "found", answer(DISC, source=dicom))
    capture = pydicom.dcmread(path)
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert (capture.PatientID, str(capture.PatientName)) == ("0815", "Doe^Jane")
    assert capture.StudyInstanceUID == pydicom.dcmread(dicom).StudyInstanceUID
    changed = (capture.pixel_array != np.asarray(SCAN)).any(axis=-1)
    assert changed[DISC & ~ndimage.binary_erosion(DISC)].all()


def test_the_loader_reads_what_was_written(tmp_path):
    SCAN.save(tmp_path / "scan.png")
    write("coco-rle", tmp_path / "scan", answer(MASKS["two lesions"]))
    (row,) = load_folder(tmp_path)
    assert np.array_equal(np.asarray(row["mask"]) > 0, MASKS["two lesions"])


def test_nothing_that_was_written_is_an_input(tmp_path, dicom):
    for format in FORMATS:
        write(format, tmp_path / "found", answer(DISC))
    found = find_pictures([str(tmp_path)], tmp_path / "out")
    assert [picture.path for picture in found.pictures] == [dicom]


@pytest.mark.parametrize(("format", "library"), [("nifti", "nibabel"), ("dicom-seg", "highdicom")])
def test_a_library_that_is_missing(monkeypatch, capsys, tmp_path, tiny_checkpoint, format, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    SCAN.save(tmp_path / "scan.png")
    command = ["predict", str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(tiny_checkpoint)]
    assert main([*command, "--format", format]) == 2
    assert "pip install 'sfrecsam-hf[formats]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_format_that_does_not_exist():
    with pytest.raises(ValueError, match="xml is no format; choose from coco"):
        check("xml")


def test_more_lesions_than_a_byte_can_number(tmp_path):
    with pytest.raises(ValueError, match="more than 8 bits can number"):
        write("labels", tmp_path / "scan", answer((ROWS % 3 == 0) & (COLUMNS % 3 == 0)))
    assert not list(tmp_path.iterdir())


def test_predict_writes_every_format_and_a_page(tiny_checkpoint, tmp_path, capsys):
    for name in ("a", "b"):
        SCAN.resize((180, 140)).save(tmp_path / f"{name}.png")
    command = ["predict", str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(tiny_checkpoint)]
    assert main([*command, "--presence-threshold", "0", "--report", "--format", *FORMATS]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    endings = ("_coco.json", "_coco_rle.json", "_labels.png", "_contours.csv", "_contours.geojson")
    endings += ("_labels.nii.gz", "_seg.dcm", "_scan.dcm", "_overlay.dcm")
    assert {f"{name}{ending}" for name in ("a", "b") for ending in endings} <= written
    assert len(json.loads((tmp_path / "out" / "predictions_coco.json").read_text())["images"]) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<article>") == 2
    assert page.count("data:image/jpeg") == 4
    assert "http" not in page.replace("http-equiv", ""), "the page needs nothing from elsewhere"
    assert "report.html" in capsys.readouterr().out


def test_outlines_of_pixels_that_touch_at_a_corner():
    ring, *holes = outlines(np.eye(3, dtype=bool))
    assert not holes
    assert signed_area(ring) == pytest.approx(2.5)


def test_pictures_say_who_wrote_them(tmp_path):
    (path,) = write("labels", tmp_path / "scan", answer(DISC))
    assert PIL.Image.open(path).info["Software"] == WRITER
