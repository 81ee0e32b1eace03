"""Cross-validation in one command: no fold judges what it trained on, and parts that have ended are left alone."""

import json

import pytest
import torch
from conftest import TINY_PARTS
from safetensors.torch import load_file

from sfrecsam_hf import SFRecSamModel, TrainingConfig
from sfrecsam_hf.data.training_record import TrainingRecord, prints
from sfrecsam_hf.evaluation.measured import Measured
from sfrecsam_hf.training.folds import FoldedRun, train_folds

FOLDS = 2
PARTS = [
    "fold-1",
    "errors-1",
    "fold-2",
    "errors-2",
    "final",
    "prompts",
    "correctors",
    "measured-1",
    "measured-2",
    "thresholds",
]


def settings(data, output, **changed) -> TrainingConfig:
    return TrainingConfig(
        train=[str(data)],
        output=str(output),
        branch="random",
        overrides={**TINY_PARTS, "mc_samples": 2},
        answer_size=96,
        prompt_epochs=1,
        epochs=1,
        correction_epochs=1,
        batch_size=4,
        mc_samples=2,
        tracker=None,
        overlays=0,
        **changed,
    )


@pytest.fixture(scope="module")
def objections(tmp_path_factory):
    table = tmp_path_factory.mktemp("tables") / "objections.csv"
    table.write_text("image,objection\nbenign/benign (4).png,axilla\nmalignant/malignant (1).png,\n")
    return table


@pytest.fixture(scope="module")
def run(busi_folder, objections, tmp_path_factory):
    output = tmp_path_factory.mktemp("folds") / "run"
    return train_folds(settings(busi_folder, output, exclude=str(objections)), FOLDS).parents[1]


def test_every_part_leaves_its_result(run):
    assert list(json.loads((run / "folds.json").read_text())) == PARTS
    for folder in ("fold-1", "fold-2", "final"):
        model = SFRecSamModel.from_pretrained(run / folder / "best")
        assert model.config.vision_config.image_size == 96
    results = json.loads((run / "evaluation" / "Dataset_BUSI_with_GT0 all" / "results.json").read_text())
    assert results["images"] == 20
    assert 0 <= results["columns"]["auto"]["final"]["lesion"]["dice"]["mean"] <= 1


def test_each_image_is_judged_once_by_a_model_that_never_saw_its_group(run, busi_folder):
    folded = FoldedRun(settings(busi_folder, run), FOLDS, resume=True)
    judged = []
    for fold in range(FOLDS):
        record = TrainingRecord.of_checkpoint(str(run / f"fold-{fold + 1}" / "best"))
        groups = {mark.group for mark in record.train}
        (held_out,) = folded.held_out(fold)
        assert not groups & {mark.group for mark in prints(held_out.images, str(busi_folder))}
        for path in (run / f"fold-{fold + 1}").glob(f"{held_out.name}*.json"):
            judged += [row["name"] for row in Measured.load(path).rows if row["column"] == "auto"]
    assert len(judged) == len(set(judged)) == 20


def test_an_image_that_is_objected_to_is_judged_but_never_trained_on(run):
    record = TrainingRecord.of_checkpoint(str(run / "final" / "best"))
    assert len(record.train) == 19
    every, good = (json.loads(path.read_text()) for path in sorted(run.glob("evaluation/*/results.json"))[::-1])
    assert (good["images"], every["images"]) == (19, 20)
    assert good["left_out"] == {"to which others object": 1}
    assert good["protocol"] == "out-of-fold"


def test_the_final_model_has_the_correctors_of_all_folds(run):
    taught = [
        torch.cat(
            [weight.flatten() for weight in SFRecSamModel.from_pretrained(run / part / "best").corrector.parameters()]
        )
        for part in ("fold-1", "fold-2", "final")
    ]
    assert all(not torch.equal(taught[2], other) for other in taught[:2])


def test_the_final_weights_are_stored_in_half_and_loaded_in_full(run):
    stored = load_file(run / "final" / "best" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    model = SFRecSamModel.from_pretrained(run / "final" / "best")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    name = "corrector.false_positive.leave.weight"
    assert torch.equal(model.state_dict()[name].half(), stored[name])


def test_parts_that_have_ended_are_not_done_again(run, busi_folder, objections, capsys):
    before = (run / "final" / "best" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run; pass --resume"):
        train_folds(settings(busi_folder, run, exclude=str(objections)), FOLDS)
    train_folds(settings(busi_folder, run, exclude=str(objections)), FOLDS, resume=True)
    assert "part" not in capsys.readouterr().out
    assert (run / "final" / "best" / "model.safetensors").read_bytes() == before


def test_validation_data_are_refused(busi_folder, tmp_path):
    with pytest.raises(ValueError, match="validation must be left out with --folds"):
        train_folds(settings(busi_folder, tmp_path, validation=[str(busi_folder)]), FOLDS)


def test_two_folders_of_one_name_are_refused(busi_folder, tmp_path):
    twice = TrainingConfig(train=[str(busi_folder), str(busi_folder)], output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="two folders of one name"):
        train_folds(twice, FOLDS)
