"""The examples that measure: they run as written, count every image once, and do nothing twice."""

import itertools
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from conftest import SAMPLES, tiny_sam
from safetensors.torch import load_file, save_file
from test_examples import EXAMPLES, commands

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.evaluation.report import write_rows
from sfrecsam_hf.inference.checkpoints import load_checkpoint

sys.path.insert(0, str(EXAMPLES))
SMALL = ["--epochs", "1", "--image-size", "32", "--batch-size", "4"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, busi_folder):
    """Runs a command of a docstring where BUSI and BUS-BRA are folders of a few scans."""
    for name, target in (("examples", EXAMPLES), ("BUSI", busi_folder), ("BUS-BRA", SAMPLES)):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)

    def python(command: list[str], *more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*command[1:], *more])
        runpy.run_path(command[1], run_name="__main__")
        return capsys.readouterr().out

    return python


@pytest.mark.slow
def test_the_ablation_has_every_row_and_goes_on_where_it_was(run):
    command = commands("ablation.py")[0]
    more = [*SMALL, "--correction-epochs", "1", "--seeds"]
    run(command, *more, "0")
    finished = {path: path.stat().st_mtime_ns for path in Path("runs/ablation").glob("*/rows.json")}
    assert len(finished) == 3
    printed = run(command, *more, "0", "1")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    rows = {line["row"]: line for line in json.loads(Path("runs/ablation/ablation.json").read_text())["rows"]}
    assert len(rows) == 6
    for name, line in rows.items():
        assert line["seeds"] == 2
        assert f"| {name} | {line['dice']:.3f} |" in printed
        if "against" in line:
            assert line["difference"] == pytest.approx(line["dice"] - rows[line["against"]]["dice"])
            assert line["low"] <= line["difference"] <= line["high"]
            assert np.mean(line["difference_of_each_seed"]) == pytest.approx(line["difference"])
            assert len(set(line["difference_of_each_seed"])) == 2 or not line["difference"]


def test_rows_of_the_ablation_can_be_left_out(run):
    run(commands("ablation.py")[2], *SMALL, "--seeds", "0")
    rows = json.loads(Path("runs/pair/ablation.json").read_text())["rows"]
    assert [line["row"] for line in rows] == ["SAM alone", "+ spatial fusion"]
    run(commands("ablation.py")[2], *SMALL, "--seeds", "0", "--fusions", "spatial")
    (line,) = json.loads(Path("runs/pair/ablation.json").read_text())["rows"]
    assert line == {name: rows[1][name] for name in line}
    assert "against" not in line


@pytest.mark.slow
def test_the_ablation_adds_each_fusion_to_a_frozen_sam(run):
    sam = tiny_sam()
    sam.save_pretrained("facebook/sam-vit-base")
    size = ["--image-size", str(sam.config.vision_config.image_size)]
    printed = run(commands("ablation.py")[3], *SMALL, *size, "--seeds", "0", "--correction-epochs", "0")
    assert "added to sam-vit-base, frozen" in printed
    for fusion in ("none", "spatial", "spatial-frequency"):
        weights = load_file(f"runs/sam/{fusion}-0/best/model.safetensors")
        base = [name for name in sam.state_dict() if name in weights]
        assert len(base) > 100
        assert all(torch.equal(weights[name], sam.state_dict()[name]) for name in base)
        assert (fusion == "none") != any(name.startswith("branch.pretrained") for name in weights)


@pytest.mark.slow
def test_correctors_that_were_not_trained_have_no_rows(run):
    base = ["--seeds", "0", "--correction-epochs", "0", "--fusions", "spatial-frequency"]
    run(commands("ablation.py")[2], *SMALL, *base)
    (line,) = json.loads(Path("runs/pair/ablation.json").read_text())["rows"]
    assert line["row"] == "+ spatial-frequency fusion"


@pytest.mark.slow
def test_the_models_of_an_ablation_go_on_at_another_size(run):
    shorter = [*SMALL, "--seeds", "0", "--correction-epochs", "0"]
    run(commands("ablation.py")[0], *shorter)
    for path in Path("runs/ablation").glob("*/best/model.safetensors"):
        weights = load_file(path)
        weights["mask_decoder.iou_token.weight"] += 1  # what the same seed would not begin with
        save_file(weights, path, {"format": "pt"})
    assert "from the models of ablation" in run(commands("ablation.py")[4], *shorter, "--image-size", "64")
    for fusion in ("none", "spatial", "spatial-frequency"):
        earlier, later = (load_checkpoint(f"runs/{name}/{fusion}-0/best")[0] for name in ("ablation", "on"))
        assert (earlier.config.vision_config.image_size, later.config.vision_config.image_size) == (32, 64)
        moved = max(
            float((weight - earlier.state_dict()[name]).abs().max())
            for name, weight in later.state_dict().items()
            if name.startswith("mask_decoder")
        )
        assert moved < 0.05, "it began anew"


def test_the_unets_are_measured_on_every_validation_image(run):
    printed = run(commands("unet_baseline.py")[0], *SMALL)
    results = json.loads(Path("runs/unet/results.json").read_text())
    for (name, result), data in itertools.product(results.items(), ("BUSI", "BUS-BRA")):
        validation, rows = load_split(data, "val"), result["per_image"][data]
        assert [row["name"] for row in rows] == validation["name"][:]
        assert [row["lesion"] for row in rows] == [bool(np.any(mask)) for mask in validation["mask"]]
        dice = np.mean([row["dice"] for row in rows if row["lesion"]])
        assert re.search(rf"\| {name} \|.*\| {dice:.3f} \|", printed)
    assert "| SF-RecSAM |" not in printed, "the bundled checkpoint was evaluated on other images"


def test_an_evaluation_of_the_same_images_is_set_beside_the_unets(run):
    small = [*SMALL, "--networks", "MONAI UNet"]
    run(commands("unet_baseline.py")[0], *small)
    rows = json.loads(Path("runs/unet/results.json").read_text())["MONAI UNet"]["per_image"]["BUSI"]
    better = [
        {"column": "auto", "name": row["name"], "lesion": row["lesion"], "final_dice": row["dice"] + 0.25}
        | {f"final_{metric}": row[metric] for metric in ("precision", "recall")}
        for row in rows
    ]
    Path("better").mkdir()
    Path("better/results.json").write_text(json.dumps({"data": "BUSI"}))
    write_rows(Path("better/per_image.csv"), better)
    printed = run(commands("unet_baseline.py")[0], *small, "--beside", "better")
    assert printed.count("| SF-RecSAM |") == 1
    assert "| +0.250 (+0.250 to +0.250) |" in printed


def test_a_unet_goes_on_from_an_earlier_run(run):
    small = [*SMALL, "--networks", "MONAI UNet"]
    first, second = commands("unet_baseline.py")
    run(first, *small)
    run(second, *small, "--learning-rate", "1e-9")
    earlier, later = (
        json.loads(Path(f"runs/{name}/results.json").read_text())["MONAI UNet"] for name in ("unet", "on")
    )
    assert later["seconds"] > earlier["seconds"]
    weights = [load_file(next(Path("runs", name).glob("*unet.safetensors"))) for name in ("unet", "on")]
    moved = max(float((weights[1][name] - value).abs().max()) for name, value in weights[0].items())
    assert moved < 1e-5, "a rate of almost nothing leaves the weights as they were"


def test_robustness_compares_every_change_with_the_unchanged_pictures(run, tiny_checkpoint):
    printed = run(commands("robustness.py")[0], "--model", str(tiny_checkpoint))
    rows = json.loads(Path("robustness/robustness.json").read_text())
    for data in ("BUSI", "BUS-BRA"):
        masks = [np.asarray(mask).any() for mask in load_split(data, "val")["mask"]]
        plain, *changed = (row for row in rows if row["data"] == data)
        assert plain["change"] == "none"
        assert plain["difference"] == 0
        assert plain["lesions"] == sum(masks)
        for row in changed:
            cut_off = row["change"] in ("black frame", "dark gray frame", "black below")
            assert bool(row["difference"]) != cut_off, row["change"]
            assert row["lesions"] <= plain["lesions"]
            assert row["normals"] == plain["normals"] == len(masks) - sum(masks)
            assert f"| {data} | {row['change']} | {row['lesions']} | {row['dice']:.3f} |" in printed


def test_a_change_moves_the_outline_with_the_picture():
    changes = runpy.run_path(str(EXAMPLES / "robustness.py"))["CHANGES"]
    mask = np.zeros((60, 80), bool)
    mask[20:35, 25:55] = True
    for name, change in changes.items():
        gray, moved = change(np.where(mask, 0.8, 0.2), mask)
        assert gray.shape == moved.shape, name
        assert moved.dtype == bool, name
        assert gray[moved].mean() > 2 * gray[~moved].mean() or name == "a third of the contrast", name


def test_the_benchmark_times_every_rival_and_stage_and_keeps_what_it_has(run, monkeypatch):
    command = ["python", "examples/benchmark.py", "--sizes", "tiny", "--repeats", "1", "--no-memory"]
    printed = run(command, "--rivals", "SF-RecSAM", "SF-RecSAM bfloat16", "SamModel")
    report = json.loads(Path("runs/benchmark/benchmark.json").read_text())
    assert printed.strip() == Path("runs/benchmark/benchmark.md").read_text().strip()
    inference, training = (part["rows"] for part in report["runs"])
    assert inference.keys() == {"SF-RecSAM", "SF-RecSAM bfloat16", "SamModel"}
    assert training.keys() == {"SF-RecSAM", "SamModel"}
    (stages,) = (part["seconds"] for part in report["stages"])
    assert stages.keys() == {"encode", "decode", "sample", "correct", "post-process"}
    monkeypatch.setattr("sfrecsam_hf.modeling.segmentation.segmentations", None)  # the last stage fails
    with pytest.raises(TypeError):
        run(command, "--rivals", "SF-RecSAM", "--output", "interrupted")
    assert len(json.loads(Path("interrupted/benchmark.json").read_text())["runs"]) == 2


@pytest.mark.slow
def test_the_benchmark_times_the_exported_graph(run):
    command = ["python", "examples/benchmark.py", "--sizes", "tiny", "--repeats", "1", "--modes", "inference"]
    run(command, "--rivals", "SF-RecSAM", "SF-RecSAM ONNX")
    (part,) = json.loads(Path("runs/benchmark/benchmark.json").read_text())["runs"]
    assert part["rows"]["SF-RecSAM ONNX"]["seconds_per_image"]["median"] > 0
    assert part["rows"]["SF-RecSAM"]["peak_mib"] > 0


def test_a_site_is_fitted_and_judged_on_other_patients(run, tiny_checkpoint):
    small = ["--base", str(tiny_checkpoint), "--site", "BUSI", "--images", "4", "--draws", "1"]
    (command,) = commands("sites.py")
    run(command, *small, "--fits", "filters", "LoRA")
    rows = json.loads(Path("runs/sites/sites.json").read_text())
    assert [row["fit"] for row in rows] == ["filters", "LoRA"]
    assert rows[0]["base"] == rows[1]["base"]
    for row in rows:
        assert row["fitted"] != row["base"], "a fit changes something"
        assert 0 < len(row["judges"]) < 20
    run(command, *small, "--fits", "filters")
    assert len(json.loads(Path("runs/sites/sites.json").read_text())) == 2, "what was measured is not done again"
    assert "| 4 | LoRA |" in Path("runs/sites/sites.md").read_text()


def test_another_organ_is_measured_in_millimetres(run, tiny_checkpoint):
    for name in ("images", "masks"):
        Path("HC18", name).mkdir(parents=True)
    ellipse = PIL.Image.new("L", (100, 80))
    PIL.ImageDraw.Draw(ellipse).ellipse([20, 20, 79, 59], fill=255)
    table = ["name,width,pixel_size_mm_after_resize,head_circumference_mm"]
    for name in ("a", "b"):
        scan = np.random.default_rng(0).integers(1, 255, (80, 100), dtype=np.uint8)
        PIL.Image.fromarray(scan).save(f"HC18/images/{name}.png")
        ellipse.save(f"HC18/masks/{name}.png")
        table.append(f"{name},200,0.25,79.3")  # the ellipse has 158.65 pixels, of 0.5 mm since the width was halved
    Path("HC18/index.csv").write_text("\n".join(table))
    command = ["python", "examples/another_organ.py", "--model", str(tiny_checkpoint), "--data", "HC18"]
    printed = run(command, "--output", "runs/heads")
    found = json.loads(Path("runs/heads/another_organ.json").read_text())
    assert found["outlines of HC18"]["dice"] == 1
    assert found["outlines of HC18"]["error_mm"] < 0.5
    assert found[str(tiny_checkpoint)]["error_mm"] > 0.5
    assert printed.strip() == Path("runs/heads/another_organ.md").read_text().strip()
