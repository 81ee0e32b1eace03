"""The model card: every number in it comes from what was measured, and the Hub's own tools can read it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from safetensors.torch import load_file

from sfrecsam_hf.cli import main
from sfrecsam_hf.evaluation.measured import Measured
from sfrecsam_hf.evaluation.pixel_quality import PixelCounts
from sfrecsam_hf.evaluation.report import read_rows
from sfrecsam_hf.evaluation.summary import summarised
from sfrecsam_hf.inference.bundled import bundled_card_template, bundled_checkpoint
from sfrecsam_hf.publishing.card_tables import Evaluation, what_went_wrong
from sfrecsam_hf.publishing.model_card import write_card

# What is cited, not measured.
LITERATURE = ("ECCV 2024", "Data in Brief, 2020", "Medical Physics, 2023", "CC BY 4.0", "CC0", "Scientific Data, 2025")
MASKS = ("initial", "final")
NUMBER = re.compile(r"(?<![\w.-])\d+(?:[.,]\d+)*(?![\w])")


@pytest.fixture(scope="module")
def folder(evaluated_run, tmp_path_factory) -> Path:
    """A model repository."""
    folder = tmp_path_factory.mktemp("repository") / "model"
    shutil.copytree(evaluated_run / "best", folder)
    shutil.copytree(evaluated_run / "evaluation", folder, dirs_exist_ok=True)
    write_card(folder, "org/tiny")
    return folder


@pytest.fixture(scope="module")
def card(folder) -> str:
    return (folder / "README.md").read_text()


def results_of(folder: Path, place: str = "") -> dict:
    return json.loads((folder / place / "results.json").read_text())


def rows_of(folder: Path, place: str = "", column: str = "auto") -> list[dict]:
    return [row for row in read_rows(folder / place / "per_image.csv") if row["column"] == column]


def section(card: str, title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## )", card, flags=re.DOTALL | re.MULTILINE)[1]


def leaves(value) -> list:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def written(value: float) -> set[str]:
    """Every way in which the card may write a measured value."""
    forms = {f"{value:.{digits}f}" for digits in (0, 1, 2, 3)} | {str(value)}
    return forms | {f"{100 * value:.{digits}f}" for digits in (0, 1)} | {f"{value / 3600:.1f}", f"{value / 60:.0f}"}


def test_the_means_are_those_of_the_images(folder, card):
    """The tables, computed again from the rows of the single images."""
    part = section(card, "Results")
    pattern = r"#### Prompt: `(.+?)`\n\n(\| \| initial.*?)\n\n.*?(\| group.*?)\n\n"
    tables = re.findall(pattern, part, flags=re.DOTALL)
    places = ("", "", "samples", "samples")
    assert [column for column, *_ in tables] == ["auto", "oracle-point"] * 2
    for place, (column, metrics, groups) in zip(places, tables, strict=True):
        rows = [row for row in rows_of(folder, place, column) if row["lesion"]]
        lines = metrics.splitlines()[2:]
        for metric, line in zip(("dice", "iou", "precision", "recall", "hd95", "assd"), lines, strict=False):
            digits = 1 if metric in ("hd95", "assd") else 3
            expected = [f"{np.mean([row[f'{mask}_{metric}'] for row in rows]):.{digits}f}" for mask in MASKS]
            assert re.findall(r"\| ([\d.]+) \(", line) == expected, (column, metric)
        found = [f"{100 * np.mean([row[f'{mask}_iou'] >= 0.5 for row in rows]):.0f}" for mask in MASKS]
        assert re.findall(r"\| (\d+) %", lines[-2]) == found
        for line in groups.splitlines()[2:]:
            label, count, dice, hd95 = (cell.strip() for cell in line.strip("|").split("|"))
            if label in ("small", "medium", "large"):
                continue
            chosen = [row for row in rows if row["label"] == label]
            assert int(count) == len(chosen)
            for cell, metric, digits in ((dice, "dice", 3), (hd95, "hd95", 1)):
                means = (np.mean([row[f"{mask}_{metric}"] for row in chosen]) for mask in MASKS)
                assert cell == " → ".join(f"{mean:.{digits}f}" for mean in means)


def test_every_number_is_a_measured_one(folder, card):
    """Not one number of the text is found anywhere but in results, summary and configuration."""
    summary = json.loads((folder / "training_summary.json").read_text())
    measured = leaves(json.loads((folder / "config.json").read_text())) + leaves(summary)
    settings = summary["settings"]
    measured.append(settings["batch_size"] * settings["accumulation"] * summary["processes"])
    allowed = {
        "95",
        "5",
        "0.5",
        "0.01",
        "0.05",
        "0.95",
        f"{summary['parameters']:,}",
        f"{sum(weight.numel() for weight in load_file(folder / 'model.safetensors').values()):,}",
    }
    for place in ("", "samples"):
        results = results_of(folder, place)
        measured += leaves(results)
        for column in results["columns"].values():
            kept = column["presence"]["lesions_with_mask"]
            measured += [kept["images"] - kept["count"], kept["count"] - column["found"]["final"]["any"]["count"]]
        for row in results["worst"]:
            measured += [1 - row["final_precision"], 1 - row["final_recall"]]
        allowed.update(NUMBER.findall(results["machine"]))
    allowed.update(*map(written, measured))
    text = card.split("---\n", 2)[2]
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for cited in LITERATURE:
        text = text.replace(cited, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    numbers = set(NUMBER.findall(text))
    assert len(numbers) > 60
    assert numbers <= allowed


def test_the_template_holds_no_number(tmp_path):
    text = bundled_card_template().read_text()
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|```.*?```", "", text, flags=re.DOTALL)
    for cited in LITERATURE:
        text = text.replace(cited, "")
    assert not NUMBER.findall(text)


@pytest.mark.parametrize("place", ["columns", "training"])
def test_what_was_measured_otherwise_is_written_otherwise(folder, card, place, tmp_path):
    """Every figure is moved by its own amount; the card must hold the new ones and none of the old."""
    moved = tmp_path / "model"
    shutil.copytree(folder, moved)
    if place == "columns":
        results = results_of(moved)
        for mask in ("initial", "final"):
            results["columns"]["auto"][mask]["lesion"]["dice"] |= {"mean": 0.77777, "low": 0.01234, "high": 0.98765}
        results["columns"]["oracle-point"]["uncertainty"]["auroc"] = 0.11111
        (moved / "results.json").write_text(json.dumps(results))
        expected = ("| Dice | 0.778 (0.012 to 0.988) | 0.778 (0.012 to 0.988) |", "| 0.111 /", "value: 0.7778")
    else:
        summary = json.loads((moved / "training_summary.json").read_text())
        summary["seconds"], summary["machine"], summary["processes"] = 90_000.0, "Abacus 3000", 1
        summary["stages"][0]["steps"] = 98765
        summary["data"][0]["groups_in_validation"] = 17
        (moved / "training_summary.json").write_text(json.dumps(summary))
        expected = ("**25.0 hours on Abacus 3000 (", "processes: 1)**", "| 98765 |", "; 17 groups")
    write_card(moved, "org/tiny")
    changed = (moved / "README.md").read_text()
    for text in expected:
        assert text in changed
        assert text not in card


def test_the_metadata(folder):
    data = metadata_load(folder / "README.md")
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["datasets"] == ["busi"]
    assert {"dice", "iou", "precision", "recall", "hd95", "assd"} == set(data["metrics"])
    assert "base_model" not in data, "trained from scratch"
    assert {"medical", "breast-ultrasound"} <= set(data["tags"])


def test_the_model_index_has_the_main_results_of_both_prompts(folder):
    name, results = model_index_to_eval_results(metadata_load(folder / "README.md")["model-index"])
    assert name == "tiny"
    for place, data in (("", "BUSI"), ("samples", "samples")):
        for column, summary in results_of(folder, place)["columns"].items():
            mine = {
                result.metric_name: result.metric_value
                for result in results
                if (result.dataset_name, result.dataset_config) == (f"{data}, prompts: {column}", column)
            }
            lesion = summary["final"]["lesion"]
            assert mine["Dice"] == pytest.approx(lesion["dice"]["mean"], abs=1e-4)
            assert mine["ASSD in pixels"] == pytest.approx(lesion["assd"]["mean"], abs=1e-4)
            found = summary["found"]["final"]["iou_50"]["share"]
            assert mine["Lesions found, IoU at least 0.5"] == pytest.approx(found, abs=1e-4)
            uncertain = summary["uncertainty"]["auroc"]
            assert mine["AUROC of uncertainty against error"] == pytest.approx(uncertain, abs=1e-4)
            assert ("Normal scans with a mask" in mine) == (data == "BUSI" and column == "auto")


def test_the_hubs_format_of_results_says_what_was_measured(folder):
    """`.eval_results/*.yaml`, read by the Hub's own parser."""
    files = sorted((folder / ".eval_results").iterdir())
    assert [file.name for file in files] == ["busi.yaml", "samples.yaml"]
    for file, place in zip(files, ("", "samples"), strict=True):
        results = results_of(folder, place)
        entries = parse_eval_result_entries(yaml.safe_load(file.read_text()))
        assert [entry.task_id for entry in entries] == ["auto", "oracle-point"]
        for entry in entries:
            lesion = results["columns"][entry.task_id]["final"]["lesion"]
            assert entry.value == pytest.approx(lesion["dice"]["mean"], abs=1e-4)
            assert entry.dataset_id == f"org/{file.stem}"
            prefix = f"{place}/" if place else ""
            assert entry.source_url == f"https://huggingface.co/org/tiny/blob/main/{prefix}results.json"
            assert f"prompt {entry.task_id}" in entry.notes
            assert f"split {results['split'] or 'all'}" in entry.notes


def test_a_data_set_with_and_without_some_images_has_two_sections(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "samples" / "results.json").write_text(json.dumps(results_of(copy) | {"data": "Dataset_BUSI_with_GT all"}))
    write_card(copy, "org/tiny")
    assert re.findall(r"^### (.+)$", (copy / "README.md").read_text(), re.MULTILINE) == ["BUSI", "BUSI all"]
    _, results = model_index_to_eval_results(metadata_load(copy / "README.md")["model-index"])
    assert {result.dataset_type for result in results} == {"busi"}
    assert {"BUSI, prompts: auto", "BUSI all, prompts: auto"} <= {result.dataset_name for result in results}


def test_data_from_the_hub_keep_their_name(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "results.json").write_text(json.dumps(results_of(copy) | {"data": "clinic/scans"}))
    write_card(copy, "org/tiny")
    (file,) = (copy / ".eval_results").glob("clinic*")
    assert {entry.dataset_id for entry in parse_eval_result_entries(yaml.safe_load(file.read_text()))} == {
        "clinic/scans"
    }
    _, results = model_index_to_eval_results(metadata_load(copy / "README.md")["model-index"])
    assert "clinic/scans" in {result.dataset_type for result in results}


PROTOCOLS = {
    "out-of-fold": "Each image was predicted by a model that had not seen it or its group, in 4 folds.",
    "held-out": "The checkpoint did not train on these images.",
    "chosen-on": "5 of these images chose the checkpoint, so the figures are too high.",
    "trained-on": "The checkpoint trained on some of these images, so the figures are too high.",
    "unknown": "It is not recorded which images the checkpoint trained on.",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_card_and_notes_say_what_the_figures_were_measured_on(folder, tmp_path, protocol):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    results = results_of(copy)
    results |= {
        "protocol": protocol,
        "folds": 4,
        "chosen_on": 5,
        "thresholds": "cross-fitted",
        "left_out": {"objections": 31, "x": 0, "y": 2},
    }
    (copy / "results.json").write_text(json.dumps(results))
    write_card(copy, "org/tiny")
    told = section((copy / "README.md").read_text(), "Results").split("### samples")[0]
    notes = yaml.safe_load((copy / ".eval_results" / "busi.yaml").read_text())[0]["notes"]
    for text in (told, notes):
        assert [name for name, sentence in PROTOCOLS.items() if sentence in text] == [protocol]
        assert "Each threshold was chosen on images of other groups." in text
        assert text.count("Left out:") == 1
        assert "Left out: 31 objections, 2 y." in text


def test_what_depends_on_thresholds_chosen_here_is_called_unconfirmed(folder, card, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "results.json").write_text(json.dumps(results_of(copy) | {"thresholds": "unconfirmed"}))
    write_card(copy, "org/tiny")
    sentence = "These images also chose the thresholds, so what correction gains is unconfirmed."
    assert sentence not in card
    assert section((copy / "README.md").read_text(), "Results").count(sentence) == 1
    assert sentence in yaml.safe_load((copy / ".eval_results" / "busi.yaml").read_text())[0]["notes"]


def test_the_hub_reads_the_card(folder, hub):
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert card.data.model_name == "tiny"
    assert len(card.data.eval_results) > 30
    assert card.text.lstrip().startswith("# SF-RecSAM")


def test_every_section_and_picture_is_there(folder, card):
    titles = re.findall(r"^## (.+)$", card, flags=re.MULTILINE)
    assert titles == [
        "Limits",
        "Quick start",
        "Intended use",
        "Results",
        "Known failures",
        "Uncertainty and calibration",
        "Training data",
        "Training time",
        "Citation",
    ]
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", card)
    assert {"worst.png", "reliability.png", "samples/worst.png", "samples/reliability.png"} == set(pictures)
    assert all((folder / picture).is_file() for picture in pictures)
    assert "not for diagnosis" in card
    assert str(folder.parent) not in card


def by_dice_and_size(row: dict) -> tuple[float, float]:
    return row["final_dice"], row["lesion_area"]


@pytest.mark.parametrize("pictured", [True, False])
def test_the_worst_images_are_told_in_their_order(folder, tmp_path, pictured):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    if not pictured:
        (copy / "worst.png").unlink()
    shutil.rmtree(copy / "samples")
    write_card(copy)
    failures = section((copy / "README.md").read_text(), "Known failures")
    worst = sorted((row for row in rows_of(folder) if row["lesion"]), key=by_dice_and_size)[:12]
    told = re.findall(r"^\| `(\S+ \(\d+\).png)` \| (\w+), (\w+), ([\d.]+) %", failures, re.MULTILINE)
    assert [name for name, *_ in told] == [row["name"] for row in worst]
    assert [label for _, label, *_ in told] == [row["label"] for row in worst]
    assert [area for *_, area in told] == [f"{100 * row['lesion_area']:.1f}" for row in worst]
    assert ("without their pictures" in failures) is not pictured
    assert ("Yellow: model" in failures) is pictured


def test_trainings_that_followed_each_other_are_added_up(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    last = json.loads((copy / "training_summary.json").read_text())
    first = json.loads(json.dumps(last))
    first["data"][0]["share"], first["image_size"], first["seconds"] = 0.25, 32, 3600.0
    first["machine"] = "Abacus"
    last["before"], last["start"], last["seconds"] = first, "best", 7200.0
    last["stages"] = last["stages"][1:]
    last["data"].append({"name": "my_BUS-BRA", "images": 7, "share": 0.5, "groups": 5, "groups_in_validation": 0})
    (copy / "training_summary.json").write_text(json.dumps(last))
    write_card(copy)
    text = (copy / "README.md").read_text()
    time = section(text, "Training time")
    assert re.findall(r"^\| (base|correctors) \| (\d+) \|", time, re.MULTILINE) == [
        ("base", "32"),
        ("correctors", "32"),
        ("correctors", "64"),
    ]
    assert "took **3.0 hours**: 1.0 hours on Abacus (" in time
    data = section(text, "Training data")
    assert "| BUSI | 13 | 7 | 25 %, then 100 % |" in data
    assert "| BUS-BRA | 7 | 5 | 50 % |" in data
    assert "No pretrained SAM was used" in data
    assert metadata_load(copy / "README.md")["datasets"] == ["busi", "bus-bra"]


def test_failures_are_counted(folder, tmp_path):
    """Of 16 lesions, two are missed, one mask lies elsewhere, and four masks are changed; of 4 normals one alarms."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    results = results_of(copy)
    summary = results["columns"]["auto"]
    summary["presence"]["lesions_with_mask"] |= {"count": 14, "share": 14 / 16, "low": 0.64, "high": 0.965}
    summary["found"]["final"]["any"]["count"] = 13
    summary["correction"]["helped"]["count"], summary["correction"]["harmed"]["count"] = 1, 3
    summary["normal"]["with_mask"] |= {"count": 1, "share": 0.25, "low": 0.0456, "high": 0.6994}
    (copy / "results.json").write_text(json.dumps(results))
    write_card(copy)
    text = (copy / "README.md").read_text()
    told = " ".join(section(text, "Known failures").split())
    assert told.startswith(
        "**BUSI**, prompt `auto`: lesions with an empty mask: 2 of 16; lesions whose mask lies elsewhere: 1; "
        "images whose Dice correction changes by more than 0.01: 1 up, 3 down; normal scans with a mask: 1 of 4. "
    )
    told = " ".join(section(text, "Results").split())
    assert "- Normal scans with a mask (false positives): 1 of 4, 25 % (5 to 70 %)." in told
    assert "- Lesion images with a mask: 14 of 16, 88 % (64 to 96 %)." in told


@pytest.mark.parametrize(
    ("precision", "recall", "dice", "area", "words"),
    [
        (0.0, 0.0, 0.0, 0.0, "missed: the mask is empty"),
        (0.0, 0.0, 0.0, 0.1, "elsewhere: mask and lesion share no pixel"),
        (
            0.1,
            0.2,
            0.13,
            0.1,
            "mostly elsewhere: 90 % of the mask lies outside the lesion, 80 % of the lesion is missed",
        ),
        (0.25, 0.95, 0.4, 0.1, "too large: 75 % of the mask lies outside the lesion"),
        (0.9, 0.3, 0.45, 0.1, "too small: 70 % of the lesion is missed"),
    ],
)
def test_what_went_wrong_is_said_from_the_figures(precision, recall, dice, area, words):
    row = {"final_precision": precision, "final_recall": recall, "final_dice": dice, "final_area": area}
    assert what_went_wrong(row) == words


def test_a_checkpoint_without_a_record_says_so(folder, tmp_path):
    bare = tmp_path / "model"
    shutil.copytree(folder, bare)
    (bare / "training_summary.json").unlink()
    shutil.rmtree(bare / "samples")
    (bare / "worst.png").unlink()
    write_card(bare)
    text = (bare / "README.md").read_text()
    assert "without a record of its training" in text
    assert "time of training is not recorded" in text
    assert "worst.png" not in text
    assert "datasets" not in metadata_load(bare / "README.md")


def test_images_of_busi_are_not_denied_where_they_are_shown(folder, card, tmp_path):
    assert "None of its images are shown here" not in card
    bare = tmp_path / "model"
    shutil.copytree(folder, bare)
    (bare / "worst.png").unlink()
    write_card(bare)
    assert "None of its images are shown here" in (bare / "README.md").read_text()


def test_the_command_writes_card_and_readme(folder, tmp_path, capsys):
    copy, readme = tmp_path / "model", tmp_path / "README.md"
    shutil.copytree(folder, copy)
    (copy / "README.md").unlink()
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    assert main(["card", str(copy), "--name", "org/tiny", "--license", "mit", "--readme", str(readme)]) == 0
    assert metadata_load(copy / "README.md")["license"] == "mit"
    assert 'model="org/tiny"' in (copy / "README.md").read_text()
    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\n| data |")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text
    assert str(copy / "README.md") in capsys.readouterr().out


def test_what_cannot_be_told_is_refused_in_one_sentence(folder, tmp_path, capsys):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "README.md").unlink()
    whole = (copy / "results.json").read_text()
    for text in ("not json", "[]", '{"columns": {}}'):
        (copy / "results.json").write_text(text)
        assert main(["card", str(copy)]) == 2
        assert re.fullmatch(r"sfrecsam: .*results\.json was not written by .*\n", capsys.readouterr().err)
    (copy / "results.json").unlink()
    assert main(["card", str(copy)]) == 2
    assert re.fullmatch(r"sfrecsam: .* has no results\.json; run .*\n", capsys.readouterr().err)
    (copy / "results.json").write_text(whole)
    (copy / "config.json").unlink()
    assert main(["card", str(copy)]) == 2
    assert re.fullmatch(r"sfrecsam: .* holds no checkpoint; .*\n", capsys.readouterr().err)
    assert not (copy / "README.md").exists()


def test_the_bundled_card_is_what_the_command_writes(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(bundled_checkpoint(), copy)
    write_card(copy)
    assert (copy / "README.md").read_text() == (bundled_checkpoint() / "README.md").read_text()


def test_the_bundled_results_are_small():
    for evaluation in Evaluation.all_below(bundled_checkpoint()):
        assert (evaluation.folder / "results.json").stat().st_size < 100_000


def test_data_without_a_lesion_have_a_card(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "samples")
    normals = [row for row in rows_of(copy) if not row["lesion"]]
    measured = Measured(normals, {"auto": PixelCounts.none()}, {"auto": 1.0})
    (copy / "results.json").write_text(json.dumps(results_of(copy) | summarised(measured)))
    write_card(copy, "org/tiny")
    text = (copy / "README.md").read_text()
    assert f"{len(normals)} images; 0 have a lesion, in 0 groups." in text
    assert "Normal scans with a mask (false positives):" in text
    assert not list((copy / ".eval_results").glob("busi.yaml"))


def test_no_image_of_busi_is_shipped():
    shipped = list(Evaluation.all_below(bundled_checkpoint()))
    assert "BUSI" in [evaluation.data for evaluation in shipped]
    assert not [
        evaluation.folder for evaluation in shipped if evaluation.data == "BUSI" and evaluation.figure("worst.png")
    ]
