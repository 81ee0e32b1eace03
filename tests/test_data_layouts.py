"""Each layout, as a folder and as a zip, gives the same `datasets` columns; what is wrong is told in a sentence."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import scan

from sfrecsam_hf import load_bus_bra, load_busi, load_folder, load_udiat
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.inspection import inspect

COLUMNS = {"image", "mask", "label", "name", "group"}
SAMPLES = Path(__file__).resolve().parents[1] / "space" / "samples"


def zipped(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))


def assert_same(ours, theirs):
    assert ours.features == theirs.features
    for one, other in zip(ours, theirs, strict=True):
        assert (one["name"], one["label"], one["group"]) == (other["name"], other["label"], other["group"])
        assert np.array_equal(np.asarray(one["image"]), np.asarray(other["image"]))
        assert np.array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))


def test_busi(busi_folder, tmp_path):
    dataset = load_busi(busi_folder)
    assert set(dataset.column_names) == COLUMNS
    labels = [dataset.features["label"].int2str(label) for label in dataset["label"]]
    assert {label: labels.count(label) for label in labels} == {"benign": 10, "malignant": 6, "normal": 4}
    for row in dataset:
        assert row["mask"].size == row["image"].size
        assert set(np.unique(row["mask"])) <= {0, 255}
    assert not any(np.asarray(mask).any() for mask in dataset["mask"][16:])
    assert_same(dataset, load_busi(zipped(busi_folder, tmp_path)))


def test_several_masks_are_joined_by_or(busi_folder):
    row = next(row for row in load_busi(busi_folder) if row["name"] == "benign/benign (2).png")
    parts = [np.asarray(PIL.Image.open(busi_folder / "benign" / f"benign (2)_mask{n}.png")) > 0 for n in ("", "_1")]
    assert parts[1].any()
    assert np.array_equal(np.asarray(row["mask"]) > 0, parts[0] | parts[1])


def test_udiat(tmp_path):
    root = tmp_path / "udiat"
    for folder in ("original", "GT"):
        (root / folder).mkdir(parents=True)
    for number in (1, 2):
        image, mask = scan(50, 70, number)
        image.save(root / "original" / f"00000{number}.png")
        mask.save(root / "GT" / f"00000{number}.png")
    dataset = load_udiat(root)
    assert dataset["name"] == ["000001", "000002"]
    assert set(dataset.column_names) == COLUMNS
    assert_same(dataset, load_udiat(zipped(root, tmp_path)))
    assert_same(dataset, load_folder(root))


def test_bus_bra_is_split_by_patient(tmp_path):
    root = tmp_path / "bra"
    for folder in ("Images", "Masks"):
        (root / folder).mkdir(parents=True)
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for case in (9, 10):
        for side in "lr":
            name = f"bus_{case:04d}-{side}"
            image, mask = scan(60, 50, case)
            image.save(root / "Images" / f"{name}.png")
            mask.save(root / "Masks" / f"{name.replace('bus', 'mask')}.png")
            rows.append(f"{name},{case},cyst,benign,2,GE,50,60,{side},x")
    (root / "bus_data.csv").write_text("\n".join(rows))
    train, validation = load_bus_bra(root, "train"), load_bus_bra(root, "val")
    assert set(train["group"]) == {"case 9"}
    assert set(validation["group"]) == {"case 10"}
    assert len(load_bus_bra(root)) == 4
    assert_same(train, load_folder(zipped(root, tmp_path), split="train"))


def test_any_folder_with_masks_beside_images():
    dataset = load_folder(SAMPLES)
    assert len(dataset) == 6
    assert all(np.asarray(mask).any() for mask in dataset["mask"])


def test_images_beside_masks_folders(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image, mask = scan(40, 40, 0)
    image.save(tmp_path / "images" / "a.jpg")
    mask.save(tmp_path / "masks" / "a_mask.png")
    assert load_folder(tmp_path)["name"] == ["a"]


def copied(busi_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(busi_folder, tmp_path / "copy"))


def test_a_missing_mask_is_named(busi_folder, tmp_path):
    folder = copied(busi_folder, tmp_path)
    (folder / "benign" / "benign (4)_mask.png").unlink()
    with pytest.raises(ValueError, match=r"benign \(4\)\.png has no mask"):
        load_busi(folder)


def test_a_mask_of_another_size_is_named(busi_folder, tmp_path):
    folder = copied(busi_folder, tmp_path)
    PIL.Image.new("L", (5, 5)).save(folder / "benign" / "benign (4)_mask.png")
    with pytest.raises(ValueError, match=r"benign \(4\)_mask\.png is 5x5 pixels"):
        load_busi(folder)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_folder(tmp_path / "nowhere")


def test_the_report_tells_what_was_found(busi_folder, tmp_path, capsys):
    folder = copied(busi_folder, tmp_path)
    (folder / "malignant" / "malignant (1)_mask.png").unlink()
    PIL.Image.new("L", (5, 5)).save(folder / "malignant" / "malignant (2)_mask.png")
    report = inspect(folder)
    assert report.layout == "BUSI"
    assert report.counts == {"benign": 10, "malignant": 6, "normal": 4}
    assert report.multi_mask == ["benign/benign (2).png"]
    assert report.duplicates == [["benign/benign (1).png", "benign/benign (3).png"]]
    assert len(report.problems) == 2
    assert main(["data", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(report)
    assert main(["data", str(folder / "nowhere")]) == 2
