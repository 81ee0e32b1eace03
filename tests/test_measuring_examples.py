"""The examples that measure: they run as written, count every image once, and do nothing twice."""

import itertools
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import SAMPLES, tiny_sam
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_examples import EXAMPLES, commands

from sfrecsam_hf.data.splits import load_split
from sfrecsam_hf.inference.checkpoints import load_checkpoint

sys.path.insert(0, str(EXAMPLES))
PARTS = runpy.run_path(str(EXAMPLES / "beside_the_lesion.py"))["parts"]
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


def test_the_ablation_has_every_row_and_goes_on_where_it_was(run):
    command = commands("ablation.py")[0]
    more = [*SMALL, "--correction-epochs", "1", "--seeds"]
    run(command, *more, "0")
    finished = {path: path.stat().st_mtime_ns for path in Path("runs/ablation").glob("*/rows.json")}
    assert len(finished) == 6
    printed = run(command, *more, "0", "1")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    rows = {line["row"]: line for line in json.loads(Path("runs/ablation/ablation.json").read_text())["rows"]}
    assert len(rows) == 9
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
    base = ["--correction-epochs", "0", "--fusions", "spatial-frequency"]
    run(commands("ablation.py")[2], *SMALL, "--seeds", "0", *base)
    (line,) = json.loads(Path("runs/pair/ablation.json").read_text())["rows"]
    assert line["row"] == "+ spatial-frequency fusion", "correctors that were not trained have no rows"


def test_the_ablation_adds_each_fusion_to_a_sam_whose_weights_rest(run):
    sam = tiny_sam()
    sam.save_pretrained("facebook/sam-vit-base")
    size = ["--image-size", str(sam.config.vision_config.image_size)]
    printed = run(commands("ablation.py")[3], *SMALL, *size, "--seeds", "0", "--correction-epochs", "0")
    assert "added to sam-vit-base, whose weights rest" in printed
    for fusion in ("none", "spatial", "spatial-frequency"):
        weights = load_file(f"runs/sam/{fusion}-0/best/model.safetensors")
        base = [name for name in sam.state_dict() if name in weights]
        assert len(base) > 100
        assert all(torch.equal(weights[name], sam.state_dict()[name]) for name in base)
        assert (fusion == "none") != any(name.startswith("branch.stages") for name in weights)


def test_the_models_of_an_ablation_go_on_at_another_size(run, capsys):
    shorter = [*SMALL, "--seeds", "0", "--correction-epochs", "0"]
    run(commands("ablation.py")[0], *shorter, "--networks")
    for path in Path("runs/ablation").glob("*/best/model.safetensors"):
        weights = load_file(path)
        weights["mask_decoder.iou_token.weight"] += 1  # what the same seed would not begin with
        save_file(weights, path, {"format": "pt"})
    assert "gone on from ablation" in run(commands("ablation.py")[4], *shorter, "--image-size", "64")
    for fusion in ("none", "spatial", "spatial-frequency"):
        earlier, later = (load_checkpoint(f"runs/{name}/{fusion}-0/best")[0] for name in ("ablation", "on"))
        assert (earlier.config.vision_config.image_size, later.config.vision_config.image_size) == (32, 64)
        moved = max(
            float((weight - earlier.state_dict()[name]).abs().max())
            for name, weight in later.state_dict().items()
            if name.startswith("mask_decoder")
        )
        assert moved < 0.05, "it began anew"
    with pytest.raises(SystemExit):
        run(commands("ablation.py")[4], *shorter, "--networks", "MONAI UNet")
    assert "give --networks without a name" in capsys.readouterr().err


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
        {"column": "auto", "name": row["name"], "lesion": row["lesion"], "final": row | {"dice": row["dice"] + 0.25}}
        for row in rows
    ]
    Path("better.json").write_text(json.dumps({"data": "BUSI", "per_image": better}))
    printed = run(commands("unet_baseline.py")[0], *small, "--beside", "better.json")
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
    weights = [load_file(f"runs/{name}/unet.safetensors") for name in ("unet", "on")]
    moved = max(float((weights[1][name] - value).abs().max()) for name, value in weights[0].items())
    assert moved < 1e-5, "a rate of almost nothing leaves the weights as they were"


def test_passes_are_counted_and_the_encoder_is_repeated_for_the_last_row(run, tiny_checkpoint):
    plain, chosen = commands("mc_samples.py")
    more = ["--model", str(tiny_checkpoint)]
    printed = run(plain, *more, "--samples", "0", "2")
    rows = json.loads(Path("mc_samples/mc_samples.json").read_text())
    assert [(row["passes"], row["encoder"]) for row in rows] == [(0, "once"), (2, "once"), (2, "every pass")]
    assert len({row["auroc"] for row in rows}) == 3, "each row is another estimate"
    assert printed == Path("mc_samples/mc_samples.md").read_text()
    PIL.Image.open("mc_samples/mc_samples.png").verify()
    splits = Path("splits.csv")
    splits.write_text("image,group,split\nbenign/benign (1).png,a,val\nbenign/benign (4).png,b,val\n")
    run(chosen, *more)
    assert [row["passes"] for row in json.loads(Path("mc/mc_samples.json").read_text())] == [0, 4, 8, 2]


def test_the_mirrored_view_is_compared_on_every_lesion_of_every_folder(run, tiny_checkpoint):
    printed = run(commands("mirrored_view.py")[0], "--model", str(tiny_checkpoint))
    rows = json.loads(Path("mirrored_view/mirrored_view.json").read_text())
    assert [(row["data"], row["prompt"]) for row in rows] == [
        (data, prompt) for data in ("BUSI", "BUS-BRA") for prompt in ("auto", "oracle-point")
    ]
    for row in rows:
        masks = load_split(row["data"], "val")["mask"]
        assert row["lesions"] == sum(np.asarray(mask).any() for mask in masks)
        assert row["difference"] == pytest.approx(row["dice"][1] - row["dice"][0])
        assert f"| {row['dice'][0]:.3f} | {row['dice'][1]:.3f} |" in printed
    assert any(row["difference"] for row in rows), "another view is another answer"


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


def test_frames_are_counted_and_what_they_take_from_lesions(run):
    folder = Path("framed")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index, (gray, top) in enumerate(((0, 20), (0, 2), (90, 20), (90, 20), (90, 20))):
        pixels, mask = np.full((60, 60), gray, np.uint8), np.zeros((60, 60), np.uint8)
        pixels[10:50, 10:50] = rng.integers(20, 250, (40, 40))
        if gray:
            pixels = rng.integers(20, 250, (60, 60)).astype(np.uint8)
        mask[top : top + 9, 20:30] = 255
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        PIL.Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    printed = run([*commands("scan_frames.py")[0][:2], "framed"])
    assert printed == Path("scan_frames.md").read_text()
    assert printed.splitlines()[-1] == "| framed | 5 | 2 | 1 |"


def test_every_part_is_switched_off_by_itself_and_back_on(run, tiny_checkpoint):
    printed = run(commands("switched_off.py")[0], "--model", str(tiny_checkpoint))
    rows = json.loads(Path("switched_off/switched_off.json").read_text())
    script = runpy.run_path(str(EXAMPLES / "switched_off.py"))
    model, _ = load_checkpoint(str(tiny_checkpoint), "cpu")
    learned = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for part, pattern in script["PARTS"].items():
        with script["switched_off"](model, pattern):
            changed = [
                name for name, parameter in model.named_parameters() if not torch.equal(parameter, learned[name])
            ]
        assert changed, part
        assert all(torch.equal(parameter, learned[name]) for name, parameter in model.named_parameters()), part
        for data in ("BUSI", "BUS-BRA"):
            chosen = [row for row in rows if (row["data"], row["switched_off"]) == (data, part)]
            assert [row["prompt"] for row in chosen] == ["auto", "oracle-point"]
            assert any(row["difference"] for row in chosen) or part == "fusion of prompts and features", part
            assert all(
                f"| {part} | {row['prompt']} | {row['lesions']} | {row['dice']:.3f} |" in printed for row in chosen
            )


def test_each_corrector_is_compared_with_the_initial_mask(run, tiny_checkpoint):
    printed = run(commands("correctors.py")[0], "--model", str(tiny_checkpoint))
    found = json.loads(Path("runs/correctors/correctors.json").read_text())
    assert list(found) == ["BUSI", "BUS-BRA"]
    for data, rows in found.items():
        initial, positive, negative, both = rows
        assert initial["images"] == sum(np.asarray(mask).any() for mask in load_split(data, "val")["mask"])
        for row in rows:
            assert f"| {row['row']} | {row['dice']['mean']:.3f} |" in printed
            assert row["dice"]["difference"] == pytest.approx(row["dice"]["mean"] - initial["dice"]["mean"])
        assert positive["recall"]["difference"] <= 0 <= negative["recall"]["difference"]
        assert both["dice"]["difference"], "the correctors of this model change the mask"


def test_the_filter_responses_are_drawn(run, tiny_checkpoint):
    bundled, own = commands("filter_response.py")
    assert run(bundled).count("mean distance from 1 is 0.0") == 3
    run([*own[:3], str(tiny_checkpoint), *own[4:]])
    assert PIL.Image.open("response.png").width < PIL.Image.open("filter_response.png").width


def test_the_benchmark_times_every_rival_and_stage_and_keeps_what_it_has(run, monkeypatch):
    command = ["python", "examples/benchmark.py", "--sizes", "tiny", "--repeats", "1", "--no-memory"]
    printed = run(command, "--rivals", "SF-RecSAM", "SF-RecSAM encoder per sample", "SamModel sdpa")
    report = json.loads(Path("runs/benchmark/benchmark.json").read_text())
    assert printed.strip() == Path("runs/benchmark/benchmark.md").read_text().strip()
    PIL.Image.open("runs/benchmark/benchmark.png").verify()
    inference, training = (part["rows"] for part in report["runs"])
    assert inference.keys() == {"SF-RecSAM", "SF-RecSAM encoder per sample", "SamModel sdpa"}
    assert training.keys() == {"SF-RecSAM", "SamModel sdpa"}
    (stages,) = (part["seconds"] for part in report["stages"])
    assert stages.keys() == {"encode", "prompt", "decode", "sample", "correct", "post-process"}
    monkeypatch.setattr("sfrecsam_hf.modeling.segmentation.segmentations", None)  # the last stage fails
    with pytest.raises(TypeError):
        run(command, "--rivals", "SF-RecSAM", "--output", "interrupted")
    assert len(json.loads(Path("interrupted/benchmark.json").read_text())["runs"]) == 2


@settings(max_examples=80, deadline=None)
@given(size=st.tuples(*[st.integers(8, 90)] * 2), lesion=st.tuples(*[st.floats(0, 1)] * 4))
def test_one_crop_holds_the_whole_lesion_and_the_other_nothing_of_it(size, lesion):
    mask = np.zeros(size, bool)
    (top, bottom), (left, right) = (
        sorted(int(place * (side - 1)) for place in pair)
        for pair, side in zip((lesion[:2], lesion[2:]), size, strict=True)
    )
    mask[top : bottom + 1, left : right + 1] = True
    found = PARTS(mask)
    if found is None:
        assert (bottom - top + 1) / size[0] > 0.15 or (right - left + 1) / size[1] > 0.15
        return
    held, beside = found
    assert mask[held].sum() == mask.sum()
    assert not mask[beside].any()
    assert mask[held].shape == mask[beside].shape


def test_presence_is_asked_with_the_lesion_and_beside_it(run, tiny_checkpoint):
    rng = np.random.default_rng(0)
    for index in range(10):
        mask = np.zeros((60, 70), np.uint8)
        mask[20:30, 5 * index : 5 * index + 12] = 255
        for name, pixels in (("images", rng.integers(20, 250, (60, 70)).astype(np.uint8)), ("masks", mask)):
            Path("small", name).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(f"small/{name}/{index}.png")
    printed = run(
        [*commands("beside_the_lesion.py")[0][:2], "--data", "small", "BUS-BRA", "--model", str(tiny_checkpoint)]
    )
    assert Path("beside_the_lesion/beside_the_lesion.md").read_text() in printed
    small, other = json.loads(Path("beside_the_lesion/beside_the_lesion.json").read_text())
    assert small["scans"] == len(load_split("small", "val"))
    assert max(small["held_given_a_mask"], small["beside_given_a_mask"]) <= small["scans"]
    assert 0 <= small["auroc"] <= 1
    assert other["scans"] or other["auroc"] is None
