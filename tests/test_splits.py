"""Duplicates are found, and no split, given or made, tears a group of them apart."""

import csv

import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLES, scan
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import load_busi, load_folder
from sfrecsam_hf.data.duplicates import SIMILARITY, correlations, near_duplicate_groups
from sfrecsam_hf.data.splits import grouped_folds, load_split, load_splits, resolve

COPIES = {"benign/benign (1).png", "benign/benign (3).png"}


def variants(image: PIL.Image.Image, tmp_path) -> list[PIL.Image.Image]:
    image.save(tmp_path / "again.jpg", quality=60)
    brighter = PIL.Image.fromarray((np.asarray(image) * 1.2).clip(0, 255).astype(np.uint8))
    margin = image.width // 100
    cropped = image.crop((margin, margin, image.width, image.height - margin))
    deep = PIL.Image.fromarray(np.asarray(image).astype(np.float32) * 300)
    return [image, PIL.Image.open(tmp_path / "again.jpg"), brighter, image.resize((300, 170)), cropped, deep]


def test_copies_are_found_and_others_are_not(tmp_path):
    images = [scan(120, 160, seed)[0] for seed in range(8)]
    copies = variants(images[3], tmp_path)
    groups = near_duplicate_groups(images + copies)
    assert len(set(groups[:8])) == 8
    assert set(groups[8:]) == {groups[3]}


def test_texture_finds_what_a_crop_hides():
    images = [PIL.Image.open(path) for path in sorted(SAMPLES.glob("*.png")) if "mask" not in path.name]
    crops = []
    for image in images:
        across, down = image.width // 50, image.height // 50
        crops.append(image.crop((across, down, image.width - across, image.height - down)))
    alike = correlations([image.convert("L") for image in images + crops])
    assert min(alike[index, len(images) + index] for index in range(len(images))) < SIMILARITY
    groups = near_duplicate_groups(images + crops)
    assert groups[: len(images)] == groups[len(images) :]
    assert len(set(groups)) == len(images)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=3, max_size=12), min_size=1, max_size=3),
    folds=st.integers(2, 3),
    seed=st.integers(0, 99),
)
def test_no_group_crosses_a_fold(sizes, folds, seed):
    sources = [
        Dataset.from_dict(
            {
                "group": [f"g{number}" for number, size in enumerate(groups) for _ in range(size)],
                "label": [number % 2 for number, size in enumerate(groups) for _ in range(size)],
            }
        )
        for groups in sizes
    ]
    dealt = grouped_folds(sources, folds, seed)
    assert [len(part) for part in dealt] == [len(source) for source in sources]
    assert set(np.concatenate(dealt)) == set(range(folds))
    for source, part in zip(sources, dealt, strict=True):
        assert len(set(zip(source["group"], part, strict=True))) == len(set(source["group"]))


def test_groups_of_duplicates_reach_every_fold():
    groups = [f"g{number // 2}" if number < 60 else f"s{number}" for number in range(150)]
    source = Dataset.from_dict({"group": groups, "label": [number % 3 for number in range(150)]})
    for seed in range(5):
        (folds,) = grouped_folds([source], 5, seed)
        assert min(np.bincount(folds[:60], minlength=5)) >= 6
        assert max(np.bincount(folds)) - min(np.bincount(folds)) <= 2


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="2 groups of images cannot be dealt into 3 folds"):
        grouped_folds([Dataset.from_dict({"group": ["a", "a", "b"], "label": [0, 0, 0]})], 3)


def test_without_a_table_busi_is_split_by_its_duplicates(busi_folder):
    train, validation = (load_split(busi_folder, split) for split in ("train", "val"))
    assert min(len(train), len(validation)) > 0
    assert set(train["name"]) >= COPIES or set(validation["name"]) >= COPIES
    assert len(train) + len(validation) == 20
    assert set(validation["label"]) == {0, 1, 2}


def test_a_run_is_split_as_its_parts_are(busi_folder):
    resolved = resolve([str(busi_folder)], [str(busi_folder)])
    assert resolved.train[0]["name"][:] == load_split(busi_folder, "train")["name"][:]
    assert resolved.validation[0]["name"][:] == load_split(busi_folder, "val")["name"][:]


def folder_of(tmp_path, name: str, seeds: range):
    root = tmp_path / name
    root.mkdir()
    for seed in seeds:
        image, mask = scan(60, 80, seed)
        image.save(root / f"s{seed}.png")
        mask.save(root / f"s{seed}_mask.png")
    return str(root)


def test_two_folders_without_splits_are_used_as_a_whole(tmp_path):
    one, other = folder_of(tmp_path, "one", range(6)), folder_of(tmp_path, "other", range(6, 9))
    resolved = resolve([one], [other])
    assert (len(resolved.train[0]), len(resolved.validation[0])) == (6, 3)


def test_one_picture_cannot_train_and_validate(tmp_path):
    one, other = folder_of(tmp_path, "one", range(6)), folder_of(tmp_path, "other", range(5, 9))
    with pytest.raises(ValueError, match=r"1 images are in train and in validation: s5\.png"):
        resolve([one], [other])


def table(tmp_path, rows: list[tuple], separator: str = ",", encoding: str = "utf-8", heading=None):
    path = tmp_path / "splits.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([heading or ("image", "group", "split"), *rows])
    return path


def rows_of(busi_folder, validation: int = 4, spelling=("val", "train")) -> list[tuple]:
    names = load_busi(busi_folder)["name"]
    return [(name, f"G{index // 2}", spelling[index >= validation]) for index, name in enumerate(names)]


def test_a_table_is_honoured(busi_folder, tmp_path):
    path = table(tmp_path, rows_of(busi_folder))
    validation = load_split(busi_folder, "val", path)
    assert validation["group"] == ["G0", "G0", "G1", "G1"]
    assert len(load_split(busi_folder, "train", path)) == 16


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_spelling_of_a_table_is_read(busi_folder, tmp_path, separator, encoding):
    path = table(
        tmp_path,
        [(name, f"{group} é", split) for name, group, split in rows_of(busi_folder, 4, ("Validation", " TRAINING "))],
        separator,
        encoding,
        heading=("Image", "Group", "Split"),
    )
    assert load_split(busi_folder, "val", path)["group"] == ["G0 é", "G0 é", "G1 é", "G1 é"]


def test_names_without_folder_or_suffix_are_found(busi_folder, tmp_path):
    rows = [(name.split("/")[1].removesuffix(".png"), group, split) for name, group, split in rows_of(busi_folder)]
    assert len(load_split(busi_folder, "val", table(tmp_path, rows))) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("benign/none.png", "x", "train"), "line 22 names 'benign/none.png', which is not in"),
        (("benign/benign (1).png", "G0", "train"), r"line 22 puts benign/benign \(1\)\.png into train, but .* line 2"),
        (("benign/benign (9).png", "G0", "train"), "line 22 puts group G0 into train, but .* line 2 does not"),
        (("benign/benign (1).png", "G0", "hold-out"), "line 22 has the split 'hold-out'; write train, val or test"),
        (("../secret.png", "x", "train"), "line 22 names '../secret.png', which lies outside"),
        (("benign/benign (1).png", "G0", "val", "more"), "line 22 has 4 cells for 3 columns"),
    ],
)
def test_a_wrong_row_is_refused(busi_folder, tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_split(busi_folder, "val", table(tmp_path, [*rows_of(busi_folder), row]))


def test_images_that_a_table_does_not_list_are_told(busi_folder, tmp_path, caplog):
    path = table(tmp_path, rows_of(busi_folder)[:18])
    assert len(load_split(busi_folder, "train", path)) == 14
    assert "2 images of" in caplog.text
    assert "normal/normal (3).png, normal/normal (4).png" in caplog.text


def test_a_table_of_one_data_set_leaves_the_other_its_own(busi_folder, tmp_path):
    other = folder_of(tmp_path, "other", range(50, 60))
    path = table(tmp_path, rows_of(busi_folder))
    first, second = load_splits([busi_folder, other], "val", path)
    assert (len(first), len(second)) == (4, 2)


def test_objected_images_are_left_out_and_told(busi_folder, tmp_path, caplog):
    path = tmp_path / "objections.csv"
    path.write_text("image,objection\nbenign/benign (4).png,axilla\nbenign/benign (5).png,\n")
    names = load_folder(busi_folder, without=path)["name"]
    assert "benign/benign (4).png" not in names
    assert "benign/benign (5).png" in names
    assert "1 images of" in caplog.text
    assert "axilla 1" in caplog.text


def test_a_table_without_its_columns_is_refused(busi_folder, tmp_path):
    (tmp_path / "splits.csv").write_text("file,part\na,b\n")
    with pytest.raises(ValueError, match="needs the columns image and split"):
        load_busi(busi_folder, splits=tmp_path / "splits.csv", split="val")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        load_busi(busi_folder, splits=tmp_path / "nowhere.csv", split="val")
