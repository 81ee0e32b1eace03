"""Data sets on the Hub go in by name wherever a folder does, and come back as they were."""

import json

import datasets
import numpy as np
import PIL.Image
import pytest
from conftest import scan
from datasets import Dataset, DatasetDict

from sfrecsam_hf import load_busi, load_folder
from sfrecsam_hf.cli import main
from sfrecsam_hf.data import hub as hub_data
from sfrecsam_hf.data.hub import fetch_images
from sfrecsam_hf.data.inspection import inspect
from sfrecsam_hf.data.splits import load_split


@pytest.fixture(scope="module")
def published(busi_folder, hub):
    load_busi(busi_folder).push_to_hub("org/in-one-piece")
    parts = {"train": load_split(busi_folder, "train"), "validation": load_split(busi_folder, "val")}
    DatasetDict(parts).push_to_hub("org/in-parts")
    return parts


def test_a_data_set_by_name_is_the_folder(busi_folder, published):
    here, there = load_busi(busi_folder), load_folder("org/in-one-piece")
    assert here.features == there.features
    for column in ("label", "name", "group"):
        assert here[column][:] == there[column][:]
    for row, other in zip(here, there, strict=True):
        for column in ("image", "mask"):
            assert np.array_equal(np.asarray(row[column]), np.asarray(other[column]))


def test_its_splits_are_honoured(published):
    assert load_split("org/in-parts", "val")["name"][:] == published["validation"]["name"][:]
    assert load_split("org/in-parts", "train")["name"][:] == published["train"]["name"][:]
    assert "splits: train 16, val 4" in str(inspect("org/in-parts", find_duplicates=False))


def test_in_one_piece_it_is_split_as_the_folder_is(busi_folder, published):
    assert load_split("org/in-one-piece", "val")["name"][:] == load_split(busi_folder, "val")["name"][:]


def test_others_name_their_columns_otherwise(hub):
    image, mask = scan(40, 50, 3)
    columns = {
        "scan": [image, image],
        "segmentation": [mask, mask],
        "pathology": ["Benign", "other"],
        "patient": [7, 8],
    }
    features = datasets.Features(
        {
            "scan": datasets.Image(),
            "segmentation": datasets.Image(),
            "pathology": datasets.Value("string"),
            "patient": datasets.Value("int64"),
        }
    )
    Dataset.from_dict(columns, features=features).push_to_hub("org/foreign")
    found = load_folder("org/foreign")
    assert found["label"][:] == [0, 3]
    assert found["group"][:] == ["7", "8"]
    assert np.array_equal(np.asarray(found[0]["mask"]), np.asarray(mask))


def test_images_stream_into_files_with_their_names(published, busi_folder):
    folder = fetch_images("org/in-parts")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    named = {f"{split}/{name}" for split, rows in published.items() for name in rows["name"]}
    assert found == named
    row = published["validation"][0]
    assert np.array_equal(np.asarray(PIL.Image.open(folder / "validation" / row["name"])), np.asarray(row["image"]))


def test_names_of_others_stay_below_the_cache(hub):
    image = scan(40, 50, 3)[0]
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    names = ["../../../outside.png", "/etc/scan", ".."]
    Dataset.from_dict({"image": [image] * 3, "name": names}, features=features).push_to_hub("org/hostile")
    folder = fetch_images("org/hostile")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"outside.png", "etc/scan.png", "image.png"}


def test_predict_takes_a_name(published, tiny_checkpoint, tmp_path, capsys):
    options = ["--model", str(tiny_checkpoint), "--samples", "1", "--output", str(tmp_path)]
    assert main(["predict", "org/in-parts", *options]) == 0
    assert "20 images segmented" in capsys.readouterr().out
    assert (tmp_path / "validation").is_dir()
    assert main(["predict", "org/nowhere", *options]) == 2
    assert "org/nowhere is neither a folder nor a zip here" in capsys.readouterr().err


def test_evaluate_takes_a_name_and_streams(published, tiny_checkpoint, tmp_path, monkeypatch):
    def streamed(name, streaming=False):
        assert streaming
        return datasets.load_dataset(name, streaming=True)

    monkeypatch.setattr(hub_data, "load_dataset", streamed)
    options = ["--model", str(tiny_checkpoint), "--columns", "auto", "--samples", "1", "--output", str(tmp_path)]
    assert main(["evaluate", "--data", "org/in-parts", "--split", "val", *options]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["images"] == 4


def test_what_is_streamed_is_what_is_loaded(published):
    loaded, streamed = (load_split("org/in-parts", "train", streaming=streaming) for streaming in (False, True))
    for row, other in zip(loaded, streamed, strict=True):
        assert row == other


def test_two_rows_of_one_name_are_two_images(hub):
    image = scan(40, 50, 3)[0]
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    Dataset.from_dict({"image": [image] * 2, "name": ["a", "a"]}, features=features).push_to_hub("org/twice")
    assert len(list(fetch_images("org/twice").rglob("*.png"))) == 2


def test_all_splits_of_a_folder_are_published(busi_folder, hub, tmp_path):
    table = tmp_path / "splits.csv"
    names = load_busi(busi_folder)["name"]
    rows = [f"{name},{name},{'val' if index < 4 else 'train'}" for index, name in enumerate(names)]
    table.write_text("\n".join(["image,group,split", *rows]))
    assert main(["push-data", str(busi_folder), "org/both", "--splits", str(table)]) == 0
    assert {split: len(rows) for split, rows in datasets.load_dataset("org/both").items()} == {
        "train": 16,
        "validation": 4,
    }
    assert load_split("org/both", "val")["name"][:] == names[:4]


@pytest.mark.parametrize("name", ["org/nowhere", "org/no-images"])
def test_what_is_no_data_set_is_told_in_a_sentence(hub, name, capsys):
    Dataset.from_dict({"text": ["a"]}).push_to_hub("org/no-images")
    assert main(["data", name]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"sfrecsam: {name}")
