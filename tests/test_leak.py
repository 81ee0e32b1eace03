"""Images that a checkpoint was trained on are not scored by `evaluate`, unless a switch says so."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import scan

from sfrecsam_hf import TrainingConfig, load_folder, train
from sfrecsam_hf.cli import main
from sfrecsam_hf.data.splits import load_split, resolve
from sfrecsam_hf.data.training_record import FILE, TrainingRecord, unseen


@pytest.fixture(scope="module")
def folder(busi_folder, tmp_path_factory):
    """BUSI's layout without its splits: the resolver splits it."""
    return shutil.copytree(busi_folder, tmp_path_factory.mktemp("data") / "scans")


@pytest.fixture(scope="module")
def run(folder, tiny_checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    data = {"train": [str(folder)], "validation": [str(folder)], "output": str(output), "model": str(tiny_checkpoint)}
    train(TrainingConfig(**data, epochs=1, correction_epochs=0, batch_size=4, tracker=None, overlays=0))
    return output


def evaluated(run, data, output, *options) -> dict:
    arguments = ["--data", str(data), "--output", str(output), "--columns", "auto", "--samples", "1", *options]
    assert main(["evaluate", "--model", str(run / "best"), *arguments]) == 0
    return json.loads((output / "results.json").read_text())


def test_training_images_are_left_out_and_told(run, folder, tmp_path, capsys):
    held_out = load_split(folder, "val")["name"][:]
    results = evaluated(run, folder, tmp_path / "all")
    assert results["images"] == len(held_out)
    assert results["left_out"] == {"training images": 20 - len(held_out)}
    assert results["protocol"] == "chosen-on"
    assert f"left out: {20 - len(held_out)} training images" in capsys.readouterr().out


def test_the_split_of_a_run_can_be_asked_for(run, folder, tmp_path):
    results = evaluated(run, folder, tmp_path / "val", "--split", "val")
    assert (results["images"], results["left_out"]) == (len(load_split(folder, "val")), {})


def test_a_switch_includes_them_and_the_results_say_so(run, folder, tmp_path):
    results = evaluated(run, folder, tmp_path / "with", "--include-training-images")
    assert (results["images"], results["protocol"], results["left_out"]) == (20, "trained-on", {})


def test_nothing_left_is_one_sentence(run, folder, tmp_path, capsys):
    arguments = ["--data", str(folder), "--split", "train", "--output", str(tmp_path / "none")]
    assert main(["evaluate", "--model", str(run / "best"), *arguments]) == 2
    assert "images of" in capsys.readouterr().err


def test_the_record_holds_no_picture_and_no_name(run, folder):
    text = (run / "best" / FILE).read_text()
    assert "benign" not in text
    assert len(text) < 20 * 150


def record_of(folder) -> TrainingRecord:
    return resolve([str(folder)], [str(folder)]).record


def test_copies_elsewhere_are_known_again(folder, tmp_path):
    record, training = record_of(folder), load_split(folder, "train")
    other = tmp_path / "other"
    other.mkdir()
    row = training[len(training) - 1]
    row["image"].save(other / "same.png")
    gray = row["image"].convert("L")
    PIL.Image.fromarray((np.asarray(gray) * 0.9).astype(np.uint8)).resize((211, 173)).save(other / "near.png")
    scan(80, 90, 999)[0].save(other / "new.png")
    for name in ("same", "near", "new"):
        size = PIL.Image.open(other / f"{name}.png").size
        PIL.Image.new("L", size, 0).save(other / f"{name}_mask.png")
    judgement = record.judge(load_folder(other), str(other))
    assert judgement.left_out == {"training images": 1, "near-duplicates of training images": 1}
    assert [load_folder(other)["name"][index] for index in judgement.kept] == ["new.png"]
    assert judgement.protocol == "held-out"


def test_other_images_of_a_training_patient_are_left_out(tmp_path):
    root = tmp_path / "hospital"
    for number in range(12):
        patient = root / f"patient{number // 2}"
        patient.mkdir(parents=True, exist_ok=True)
        image, mask = scan(60, 80, number)
        image.save(patient / f"s{number}.png")
        mask.save(patient / f"s{number}_mask.png")
    record = record_of(root)
    trained = load_split(root, "train")["group"][0]
    image, mask = scan(60, 80, 77)
    image.save(root / trained / "later.png")
    mask.save(root / trained / "later_mask.png")
    judgement = record.judge(load_folder(root), str(root))
    assert judgement.left_out["of the patient or group of a training image"] == 1


def test_a_run_that_goes_on_remembers_what_came_before(run, tmp_path):
    for seed in range(6):
        image, mask = scan(60, 80, 200 + seed)
        image.save(tmp_path / f"s{seed}.png")
        mask.save(tmp_path / f"s{seed}_mask.png")
    before = TrainingRecord.of_checkpoint(run / "best")
    record = resolve([str(tmp_path)], [str(tmp_path)], start=str(run / "best")).record
    assert record.train > before.train


def test_a_checkpoint_without_a_record_is_unknown(tiny_checkpoint, folder):
    dataset = load_folder(folder)
    kept, judgement = unseen(dataset, str(folder), tiny_checkpoint)
    assert (len(kept), judgement.protocol) == (20, "unknown")
