"""Duplicates are found, and no split, given or made, tears a group of them apart."""

import csv

import numpy as np
import PIL.Image
import pytest
from conftest import scan
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import load_busi
from sfrecsam_hf.data.splits import (
    grouped_folds,
    grouped_split,
    load_split,
    near_duplicate_groups,
    with_duplicate_groups,
)


def variants(image: PIL.Image.Image, tmp_path) -> list[PIL.Image.Image]:
    image.save(tmp_path / "again.jpg", quality=60)
    brighter = PIL.Image.fromarray((np.asarray(image) * 1.2).clip(0, 255).astype(np.uint8))
    margin = image.width // 100
    cropped = image.crop((margin, margin, image.width, image.height - margin))
    return [image, PIL.Image.open(tmp_path / "again.jpg"), brighter, image.resize((300, 170)), cropped]


def test_copies_are_found_and_others_are_not(tmp_path):
    images = [scan(120, 160, seed)[0] for seed in range(8)]
    copies = variants(images[3], tmp_path)
    groups = near_duplicate_groups(images + copies)
    assert len(set(groups[:8])) == 8
    assert set(groups[8:]) == {groups[3]}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.5, 0.9))
def test_no_group_crosses_and_classes_keep_their_share(busi_folder, seed, share):
    dataset = with_duplicate_groups(load_busi(busi_folder))
    parts = grouped_split(dataset, {"train": share, "val": 1 - share}, seed)
    assert not set(parts["train"]["group"]) & set(parts["val"]["group"])
    assert sorted([*parts["train"]["name"], *parts["val"]["name"]]) == sorted(dataset["name"])
    for label in set(dataset["label"]):
        total = list(dataset["label"]).count(label)
        assert abs(list(parts["train"]["label"]).count(label) - share * total) <= 2


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


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="2 groups of images cannot be dealt into 3 folds"):
        grouped_folds([Dataset.from_dict({"group": ["a", "a", "b"], "label": [0, 0, 0]})], 3)


def test_shares_must_sum_to_one(busi_folder):
    with pytest.raises(ValueError, match="sum to 1"):
        grouped_split(load_busi(busi_folder), {"train": 0.5, "val": 0.2})


def test_without_a_table_busi_is_split_by_its_duplicates(busi_folder):
    train, validation = (load_split(busi_folder, split) for split in ("train", "val"))
    pair = {"benign/benign (1).png", "benign/benign (3).png"}
    assert pair <= set(train["name"]) or pair <= set(validation["name"])
    assert len(train) + len(validation) == 20


def test_a_table_is_honoured(busi_folder, tmp_path):
    table = tmp_path / "splits.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "group", "split"])
        for index, name in enumerate(load_busi(busi_folder)["name"]):
            writer.writerow([name, f"G{index // 2}", "val" if index < 4 else "train"])
    validation = load_split(busi_folder, "val", table)
    assert validation["group"] == ["G0", "G0", "G1", "G1"]
    assert len(load_split(busi_folder, "train", table)) == 16


def test_a_table_without_its_columns_is_refused(busi_folder, tmp_path):
    (tmp_path / "splits.csv").write_text("file,part\na,b\n")
    with pytest.raises(ValueError, match="image, group and split"):
        load_busi(busi_folder, splits=tmp_path / "splits.csv", split="val")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        load_busi(busi_folder, splits=tmp_path / "nowhere.csv", split="val")
