"""COCO files and DICOM segmentations are masks like any other: their own libraries write them, we read them."""

import json

import highdicom as hd
import numpy as np
import pydicom
import pytest
from conftest import scan
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from test_dicom import written as dicom_file

from sfrecsam_hf import load_folder
from sfrecsam_hf.data.inspection import inspect
from sfrecsam_hf.data.layouts import LABELS

IMAGES = {f"s{number}.png": scan(60, 80, number) for number in range(3)}
MASKS = {name: np.asarray(mask) > 0 for name, (_, mask) in IMAGES.items()}


def polygon_of(mask: np.ndarray) -> list[float]:
    """The convex outline of an ellipse."""
    rows, columns = np.nonzero(mask)
    left = [(columns[rows == row].min(), row) for row in np.unique(rows)]
    right = [(columns[rows == row].max() + 1, row) for row in np.unique(rows)[::-1]]
    return [float(value) for point in (*left, *right) for value in point]


def lengths(mask: np.ndarray, compressed: bool) -> dict:
    if compressed:
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.nonzero(np.diff(np.concatenate([[0], flat])))[0]
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, flat.size]).tolist()}


def coco_folder(root, segmentations: dict, images: dict | None = None, **extra):
    (root / "images").mkdir(exist_ok=True)
    for name, (image, _) in (images or IMAGES).items():
        image.save(root / "images" / name)
    numbers = {name: number for number, name in enumerate(images or IMAGES)}
    content = {
        "images": [{"id": number, "file_name": name, "width": 80, "height": 60} for name, number in numbers.items()],
        "annotations": [
            {"id": index, "image_id": numbers[name], "category_id": 1, "segmentation": outline}
            for index, (name, outline) in enumerate(segmentations.items())
        ],
        "categories": [{"id": 1, "name": "Malignant"}],
        **extra,
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("kind", ["polygons", "run lengths", "compressed run lengths"])
def test_coco(tmp_path, kind):
    drawn = {
        name: [polygon_of(mask)] if kind == "polygons" else lengths(mask, kind.startswith("compressed"))
        for name, mask in MASKS.items()
        if name != "s2.png"
    }
    dataset = load_folder(coco_folder(tmp_path, drawn))
    assert dataset["name"] == ["s0", "s1", "s2"]
    assert [LABELS[label] for label in dataset["label"]] == ["malignant", "malignant", "unknown"]
    for row, name in zip(dataset, MASKS, strict=True):
        read, true = np.asarray(row["mask"]) > 0, MASKS[name] & (name != "s2.png")
        assert (read != true).mean() < (0.02 if kind == "polygons" else 1e-9)
    assert inspect(tmp_path).layout == "COCO"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0, 1), compressed=st.booleans())
def test_any_run_lengths_come_back(tmp_path_factory, seed, share, compressed):
    mask = np.random.default_rng(seed).random((60, 80)) < share
    root = coco_folder(
        tmp_path_factory.mktemp("coco"), {"s0.png": lengths(mask, compressed)}, {"s0.png": IMAGES["s0.png"]}
    )
    assert np.array_equal(np.asarray(load_folder(root)[0]["mask"]) > 0, mask)


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[]],
        {"size": [60, 80], "counts": [5, 5]},
        {"size": [6, 8], "counts": [48]},
        {"size": [60, 80], "counts": "no such lengths"},
        {"size": [60, 80], "counts": "zz"},
        {"size": [60, 80], "counts": [-100, 100, 4800]},
        {"size": [60, 80], "counts": [0.5, 100, 4699.5]},
        [[1e9, 10, 30, 1e9, 30, 30]],
        [[100, 100, 110, 100, 110, 110]],
        [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]],
        "drawing",
        None,
    ],
)
def test_damaged_outlines_are_named(tmp_path, outline):
    root = coco_folder(tmp_path, {"s0.png": outline})
    with pytest.raises(ValueError, match=r"annotations\.json, image s0\.png has an outline that cannot be read"):
        load_folder(root)


def test_images_of_a_coco_file_that_are_not_here_are_told(tmp_path):
    root = coco_folder(tmp_path, {"s0.png": [polygon_of(MASKS["s0.png"])]})
    content = json.loads((root / "annotations.json").read_text())
    content["images"].append({"id": 77, "file_name": "gone.png"})
    (root / "annotations.json").write_text(json.dumps(content))
    assert any("1 images of" in note and "gone.png" in note for note in inspect(root).unused)


def changed_coco(root, change):
    coco_folder(root, {"s0.png": [polygon_of(MASKS["s0.png"])]})
    content = json.loads((root / "annotations.json").read_text())
    change(content)
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def test_annotations_of_images_that_are_not_listed_are_told(tmp_path):
    root = changed_coco(tmp_path, lambda content: content["annotations"].append({"image_id": 77}))
    assert any("1 annotations of" in note and "image 77" in note for note in inspect(root).unused)


def test_numbers_that_are_text_still_match(tmp_path):
    def as_text(content):
        for image in content["images"]:
            image["id"] = str(image["id"])

    masks = [np.asarray(mask) > 0 for mask in load_folder(changed_coco(tmp_path, as_text))["mask"]]
    assert [mask.any() for mask in masks] == [True, False, False]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content["images"][1].update(id=0), "2 images of the number 0"),
        (lambda content: content["images"][0].update(height="tall"), "no COCO file that can be read"),
        (lambda content: content["images"][0].update(height=10**9), "is drawn on 80x1000000000 pixels"),
        (lambda content: content["annotations"].append("drawing"), "no COCO file that can be read"),
        (lambda content: content["annotations"][0].pop("image_id"), "'image_id' is missing"),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused(tmp_path, change, told):
    with pytest.raises(ValueError, match=rf"annotations\.json.*{told}"):
        load_folder(changed_coco(tmp_path, change))


def test_other_json_is_not_taken_for_coco(tmp_path, busi_folder):
    image, mask = IMAGES["s0.png"]
    image.save(tmp_path / "s0.png")
    mask.save(tmp_path / "s0_mask.png")
    (tmp_path / "results.json").write_text('{"images": 3}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert len(load_folder(tmp_path)) == 1


def segmentation(source: pydicom.Dataset, mask: np.ndarray, kind: str) -> hd.seg.Segmentation:
    """As highdicom writes it."""
    code = hd.sr.CodedConcept("4147007", "SCT", "Mass")
    segment = hd.seg.SegmentDescription(1, "lesion", code, code, algorithm_type="MANUAL")
    return hd.seg.Segmentation(
        source_images=[source],
        pixel_array=mask[None].astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )


def dicom_folder(root, kind: str, named: bool = False) -> dict[str, np.ndarray]:
    masks = {}
    for number in range(2):
        gray, mask = (np.asarray(picture) for picture in scan(60, 80, number))
        identity = {
            "StudyInstanceUID": hd.UID(),
            "SeriesInstanceUID": hd.UID(),
            "FrameOfReferenceUID": hd.UID(),
            "PatientID": "p",
            "PatientName": "p",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyDate": "20260101",
            "StudyTime": "120000",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "StudyID": "1",
            "Modality": "US",
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
            "InstanceNumber": 1,
            "SeriesNumber": 1,
            "PixelSpacing": [0.1, 0.1],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 0],
            "SliceThickness": 1,
        }
        source = pydicom.dcmread(dicom_file(gray, **identity))
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID
        source.save_as(root / f"scan{number}.dcm", enforce_file_format=True)
        found = segmentation(source, mask > 0, kind)
        if named:
            for group in found.PerFrameFunctionalGroupsSequence:
                group.pop("DerivationImageSequence", None)
            del found.ReferencedSeriesSequence
        found.save_as(root / (f"scan{number}_seg.dcm" if named else f"1.2.{9 - number}"))
        masks[f"scan{number}.dcm"] = mask > 0
    return masks


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
@pytest.mark.parametrize("named", [False, True], ids=["by identifier", "by name"])
def test_dicom_segmentations(tmp_path, kind, named):
    masks = dicom_folder(tmp_path, kind, named)
    dataset = load_folder(tmp_path)
    assert dataset["name"] == list(masks)
    for row in dataset:
        assert np.array_equal(np.asarray(row["mask"]) > 0, masks[row["name"]])
        assert row["image"].size == (80, 60)


def test_a_segmentation_without_its_scan_is_no_scan(tmp_path):
    dicom_folder(tmp_path, "BINARY")
    (tmp_path / "scan1.dcm").unlink()
    assert "is a DICOM segmentation, not a scan" in str(inspect(tmp_path))
