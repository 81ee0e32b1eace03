"""The model card: every number in it comes from what was measured, and the Hub's own tools can read it."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.bundled import bundled_card_template, bundled_checkpoint
from sfrecsam_hf.publishing.card_tables import what_went_wrong
from sfrecsam_hf.publishing.model_card import find_evaluations, write_card

# What is cited, not measured.
LITERATURE = ("ECCV 2024", "Data in Brief, 2020", "Medical Physics, 2023", "CC BY 4.0", "CC0", "1, the other 0")
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
    tables = re.findall(r"#### Prompt: `(.+?)`\n\n(\| \| initial.*?)\n\n(\| group.*?)\n\n", part, flags=re.DOTALL)
    places = ("", "", "samples", "samples")
    assert [column for column, *_ in tables] == ["auto", "oracle-point"] * 2
    for place, (column, metrics, groups) in zip(places, tables, strict=True):
        rows = [row for row in results_of(folder, place)["per_image"] if row["column"] == column and row["lesion"]]
        for metric, line in zip(
            ("dice", "iou", "precision", "recall", "hd95", "assd"), metrics.splitlines()[2:], strict=True
        ):
            digits = 1 if metric in ("hd95", "assd") else 3
            expected = [f"{np.mean([row[mask][metric] for row in rows]):.{digits}f}" for mask in ("initial", "final")]
            assert re.findall(r"\| ([\d.]+) \(", line) == expected, (column, metric)
        for line in groups.splitlines()[2:]:
            label, count, dice, hd95 = (cell.strip() for cell in line.strip("|").split("|"))
            if label in ("small", "medium", "large"):
                continue
            chosen = [row for row in rows if row["label"] == label]
            assert int(count) == len(chosen)
            for cell, metric, digits in ((dice, "dice", 3), (hd95, "hd95", 1)):
                means = (np.mean([row[mask][metric] for row in chosen]) for mask in ("initial", "final"))
                assert cell == " → ".join(f"{mean:.{digits}f}" for mean in means)


def test_sizes_are_thirds_of_the_lesion_images(folder, card):
    rows = [row for row in results_of(folder)["per_image"] if row["column"] == "auto" and row["lesion"]]
    rows.sort(key=lambda row: row["lesion_area"])
    bounds = (0, 6, 11, 16)  # 16 images: the first third takes the odd one
    for size, (first, last) in zip(("small", "medium", "large"), pairwise(bounds), strict=True):
        dice = np.mean([row["final"]["dice"] for row in rows[first:last]])
        assert re.search(rf"\| {size} \| {last - first} \| [\d.]+ → {dice:.3f} \|", section(card, "Results")), size


def wilson(count: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    share, z = count / images, 1.959964
    spread = z * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    return tuple((share + z**2 / (2 * images) + side * spread) / (1 + z**2 / images) for side in (-1, 1))


def test_every_number_is_a_measured_one(folder, card):
    """Not one number of the text is found anywhere but in results, summary and configuration, or counted there."""
    summary = json.loads((folder / "training_summary.json").read_text())
    measured = leaves(json.loads((folder / "config.json").read_text())) + leaves(summary)
    settings = summary["settings"]
    measured.append(settings["batch_size"] * settings["accumulation"] * summary["processes"])
    allowed = {"95", "5", f"{summary['parameters']:,}", "0.005"}
    for place in ("", "samples"):
        results = results_of(folder, place)
        measured += leaves({**results, "per_image": []})
        rows = [row for row in results["per_image"] if row["column"] == "auto"]
        first = [row for row in rows if row["lesion"]]
        gains = [row["final"]["dice"] - row["initial"]["dice"] for row in first]
        for group in filter(None, (first, [row for row in rows if not row["lesion"]])):
            measured += wilson(sum(row["predicted_area"] > 0 for row in group), len(group))
        measured += [
            len(first),
            sum(row["predicted_area"] > 0 for row in rows if not row["lesion"]),
            sum(not row["lesion"] for row in rows),
            sum(row["predicted_area"] == 0 for row in first),
            sum(row["predicted_area"] > 0 and row["final"]["dice"] == 0 for row in first),
            sum(gain > 0.005 for gain in gains),
            sum(gain < -0.005 for gain in gains),
        ]
        for row in first:
            measured += [*leaves(row), 1 - row["final"]["precision"], 1 - row["final"]["recall"]]
            allowed.update(NUMBER.findall(row["name"]))
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
            results["columns"]["auto"][mask]["lesion"]["dice"] = {"mean": 0.12345, "low": 0.01234, "high": 0.98765}
        results["columns"]["oracle-point"]["uncertainty"]["auroc"] = 0.45678
        (moved / "results.json").write_text(json.dumps(results))
        expected = ("| Dice | 0.123 (0.012 to 0.988) | 0.123 (0.012 to 0.988) |", "| 0.457 |", "value: 0.1235")
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


def test_the_model_index_has_every_result_of_both_prompts(folder, card):
    name, results = model_index_to_eval_results(metadata_load(folder / "README.md")["model-index"])
    assert name == "tiny"
    named = {(result.dataset_name, result.dataset_config) for result in results}
    data = ("BUSI", "samples")
    assert named == {(f"{one}, prompts: {column}", column) for one in data for column in ("auto", "oracle-point")}
    for place, one in (("", "BUSI"), ("samples", "samples")):
        for column, summary in results_of(folder, place)["columns"].items():
            mine = {
                result.metric_name: result.metric_value
                for result in results
                if result.dataset_name == f"{one}, prompts: {column}"
            }
            for mask, word in (("initial", "initial"), ("final", "corrected")):
                lesion = summary[mask]["lesion"]
                assert mine[f"Dice of the {word} mask"] == pytest.approx(lesion["dice"]["mean"], abs=1e-4)
                assert mine[f"ASSD in pixels of the {word} mask"] == pytest.approx(lesion["assd"]["mean"], abs=1e-4)
                small = summary[mask]["small"]["hd95"]["mean"]
                assert mine[f"HD95 in pixels of the {word} mask, small only"] == pytest.approx(small, abs=1e-4)
            assert mine["AUROC of uncertainty against error"] == pytest.approx(
                summary["uncertainty"]["auroc"], abs=1e-4
            )
    shown = section(card, "Results") + section(card, "Calibration")
    means = re.findall(r"(?:\| |→ )(\d+\.\d+)(?= \(| →| \|)", shown)
    assert len(means) > 60
    for mean in means:
        last_digit = 10.0 ** -len(mean.split(".")[1])
        assert any(abs(float(mean) - result.metric_value) <= last_digit for result in results), mean


def test_the_hub_reads_the_card(folder, hub):
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert card.data.model_name == "tiny"
    assert len(card.data.eval_results) > 100
    assert card.text.lstrip().startswith("# SF-RecSAM")


def test_every_section_and_picture_is_there(folder, card):
    titles = re.findall(r"^## (.+)$", card, flags=re.MULTILINE)
    assert titles == [
        "Quick start",
        "Intended use",
        "Training data",
        "Results",
        "Known failures",
        "Calibration",
        "Energy and time",
        "Limits",
        "Citation",
    ]
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", card)
    assert {"worst.png", "reliability.png", "samples/worst.png", "samples/reliability.png"} == set(pictures)
    assert all((folder / picture).is_file() for picture in pictures)
    assert "not for diagnosis" in card
    assert str(folder.parent) not in card


@pytest.mark.parametrize("pictured", [True, False])
def test_the_worst_images_are_told_in_their_order(folder, tmp_path, pictured):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    if not pictured:
        (copy / "worst.png").unlink()
    shutil.rmtree(copy / "samples")
    write_card(copy)
    failures = section((copy / "README.md").read_text(), "Known failures")
    rows = [row for row in results_of(folder)["per_image"] if row["column"] == "auto" and row["lesion"]]
    worst = sorted(rows, key=lambda row: row["final"]["dice"])[:12]
    told = re.findall(r"^\| (\S+ \(\d+\).png) \| (\w+), (\w+), ([\d.]+) %", failures, re.MULTILINE)
    assert [name for name, *_ in told] == [row["name"] for row in worst]
    assert [label for _, label, *_ in told] == [row["label"] for row in worst]
    assert [area for *_, area in told] == [f"{100 * row['lesion_area']:.1f}" for row in worst]
    assert ("without their pictures" in failures) is not pictured
    assert ("in yellow" in failures) is pictured


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
    time = section(text, "Energy and time")
    assert re.findall(r"^\| (base|correctors) \| (\d+) \|", time, re.MULTILINE) == [
        ("base", "32"),
        ("correctors", "32"),
        ("correctors", "64"),
    ]
    assert "took **3.0 hours**: 1.0 hours on Abacus (" in time
    data = section(text, "Training data")
    assert "| BUSI | 13 | 7 | 25 %, then 100 % |" in data
    assert "| BUS-BRA | 7 | 5 | 50 % |" in data
    assert "from random weights" in data
    assert metadata_load(copy / "README.md")["datasets"] == ["busi", "bus-bra"]


def test_failures_are_counted(folder, tmp_path):
    """Of 16 lesions, two are missed, one mask lies elsewhere, and four masks are changed; of 4 normals one alarms."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    results = results_of(copy)
    rows = [row for row in results["per_image"] if row["column"] == "auto"]
    lesions, normals = ([row for row in rows if row["lesion"] is wanted] for wanted in (True, False))
    for row in rows:
        row["predicted_area"], row["initial"]["dice"], row["final"]["dice"] = 0.1 * row["lesion"], 0.5, 0.5
    for row, initial, final, area in zip(
        lesions,
        (0.5, 0.5, 0.5, 0.2, 0.5, 0.504),
        (0.0, 0.0, 0.0, 0.3, 0.4, 0.5),
        (0, 0, 0.1, 0.1, 0.1, 0.1),
        strict=False,
    ):
        row["initial"]["dice"], row["final"]["dice"], row["predicted_area"] = initial, final, area
    normals[0]["predicted_area"] = 0.01
    (copy / "results.json").write_text(json.dumps(results))
    write_card(copy)
    told = " ".join(section((copy / "README.md").read_text(), "Known failures").split())
    assert told.startswith(
        "On BUSI with `auto` prompts: 2 of 16 lesions missed; masks entirely elsewhere: 1; "
        "normal scans given a mask: 1 of 4; "
        "images in which the correction moved the Dice by more than 0.005: 1 up, 4 down. "
    )


def test_shares_of_images_are_told_with_how_little_a_few_images_say(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    results = results_of(copy)
    summary = results["columns"]["auto"]
    assert summary["normal"]["images"] == 4
    summary["normal"]["false_positive_rate"], summary["presence"]["sensitivity"] = 0.25, 14 / 16
    (copy / "results.json").write_text(json.dumps(results))
    write_card(copy)
    told = " ".join((copy / "README.md").read_text().split())
    assert "- Of 4 normal scans 25 % (5 to 70 %) were given a mask." in told
    assert "- Of the lesion images 88 % (64 to 97 %) were given a mask." in told
    assert wilson(1, 4) == pytest.approx((0.0456, 0.6994), abs=1e-4)


@pytest.mark.parametrize(
    ("precision", "recall", "dice", "area", "words"),
    [
        (0.0, 0.0, 0.0, 0.0, "missed: the presence score left the mask empty"),
        (0.0, 0.0, 0.0, 0.1, "elsewhere: mask and lesion share no pixel"),
        (
            0.1,
            0.2,
            0.13,
            0.1,
            "mostly elsewhere: 90 % of the mask lies outside the lesion, 80 % of the lesion is missed",
        ),
        (0.25, 0.95, 0.4, 0.1, "overdrawn: 75 % of the mask lies outside the lesion"),
        (0.9, 0.3, 0.45, 0.1, "underdrawn: 70 % of the lesion is missed"),
    ],
)
def test_what_went_wrong_is_said_from_the_figures(precision, recall, dice, area, words):
    final = {"precision": precision, "recall": recall, "dice": dice}
    assert what_went_wrong({"final": final, "predicted_area": area}) == words


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
    assert text.startswith("before\n<!-- results -->\n| prompt |")
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


def test_no_image_of_busi_is_shipped():
    shipped = list(find_evaluations(bundled_checkpoint()))
    assert "BUSI" in [evaluation.data for evaluation in shipped]
    assert not [
        evaluation.folder for evaluation in shipped if evaluation.data == "BUSI" and evaluation.figure("worst.png")
    ]
