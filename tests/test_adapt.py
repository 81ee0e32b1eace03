"""A site's adaptation: small, loaded like any checkpoint, judged on unseen images, refused where it harms."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_model

from sfrecsam_hf import SFRecSamModel, load_busi, segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.site_adaptation import FILE, fingerprint, save_adaptation, site_weights
from sfrecsam_hf.training import adapt as adapting
from sfrecsam_hf.training.adapt import Fit, adapt

QUICK = Fit(steps=2, batch_size=4, learning_rate=0.002, folds=2)


@pytest.fixture(scope="module")
def site(busi_folder):
    return load_busi(busi_folder)


@pytest.fixture
def helping(monkeypatch):
    """As if every fit halved what was missing to a perfect mask: what is tested is what follows from that."""
    answers = adapting._answers

    def answered(model, processor, rows):
        found = answers(model, processor, rows)
        if not torch.equal(next(iter(site_weights(model).values())), next(iter(site_weights(tiny_model()).values()))):
            found[:, 1] = (1 + found[:, 1]) / 2
        return found

    monkeypatch.setattr(adapting, "_answers", answered)


def test_an_adaptation_is_small_and_loads_like_any_checkpoint(tiny_checkpoint, site, tmp_path, helping):
    model, processor = load_checkpoint(tiny_checkpoint, "cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, versions = adapt(model, processor, site, tmp_path / "site", str(tiny_checkpoint), QUICK)
    assert kept == "adapted"
    assert versions["adapted"].dice > versions["base"].dice
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), (
        "the base is left alone"
    )
    assert (tmp_path / "site" / FILE).stat().st_size < 200_000
    assert not (tmp_path / "site" / "model.safetensors").exists()
    one, _ = load_checkpoint(tmp_path / "site", "cpu")
    other = SFRecSamModel.from_pretrained(tmp_path / "site")
    changed = {name for name, value in one.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(site_weights(model))
    for name, value in other.state_dict().items():
        assert torch.equal(value, one.state_dict()[name]), name
    report = json.loads((tmp_path / "site" / "adaptation.json").read_text())
    assert report["kept"] == "adapted"
    assert report["images"] == len(site)


def test_a_fit_that_harms_is_refused(tiny_checkpoint, site, tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "_threshold", lambda answers, lesion, stored: 1.1)  # refuses every lesion
    model, processor = load_checkpoint(tiny_checkpoint, "cpu")
    lesions = site.filter(lambda row: np.asarray(row["mask"]).any())
    kept, versions = adapt(model, processor, lesions, tmp_path / "site", None, QUICK)
    assert kept == "base"
    assert versions["adapted"].harmed > 0
    assert not (tmp_path / "site" / FILE).exists()


def test_another_base_is_noticed(tiny_checkpoint, site, tmp_path, helping):
    model, processor = load_checkpoint(tiny_checkpoint, "cpu")
    base = tmp_path / "base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    adapt(model, processor, site, tmp_path / "site", str(base), QUICK)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight += 1
    model.save_pretrained(base)
    for dtype in ("float32", "bfloat16", "auto"):
        with pytest.raises(ValueError, match="was adapted from other weights"):
            load_checkpoint(tmp_path / "site", "cpu", dtype)


@pytest.fixture(scope="module")
def adaptation(tiny_checkpoint, tmp_path_factory):
    model, processor = load_checkpoint(tiny_checkpoint, "cpu")
    base = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        next(iter(site_weights(model).values())).add_(0.1)
    model.config.adapted_from, model.config.adapted_fingerprint = str(tiny_checkpoint), fingerprint(base)
    folder = tmp_path_factory.mktemp("adaptation")
    save_adaptation(model, base, folder)
    processor.save_pretrained(folder)
    return folder


def test_an_adaptation_loads_in_half_precision(adaptation):
    whole, half = (load_checkpoint(adaptation, "cpu", dtype)[0] for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.bfloat16
    for name, value in half.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name].to(value.dtype)), name


def change_settings(folder, **changed):
    settings = json.loads((folder / "config.json").read_text()) | changed
    kept = {name: value for name, value in settings.items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:40]),
        lambda folder: (folder / FILE).write_bytes(b""),
        lambda folder: (folder / FILE).unlink(),
        lambda folder: change_settings(folder, adapted_fingerprint="left out"),
        lambda folder: change_settings(folder, presence_threshold="left out"),
        lambda folder: change_settings(folder, presence_threshold="high"),
        lambda folder: change_settings(folder, adapted_from=5),
        lambda folder: change_settings(folder, adapted_from=str(folder)),
    ],
)
def test_a_damaged_adaptation_is_refused(adaptation, tmp_path, damage, capsys):
    folder = shutil.copytree(adaptation, tmp_path / "damaged")
    damage(folder)
    assert main(["export", str(folder), "--output", str(tmp_path / "exported")]) == 2
    assert str(folder) in capsys.readouterr().err


def test_each_kind_of_weight_by_itself(model):
    parts = [set(site_weights(model, (part,))) for part in ("filters", "gates", "norms", "presence")]
    assert all(parts)
    assert set.union(*parts) == set(site_weights(model))
    assert sum(map(len, parts)) == len(site_weights(model)), "no weight is of two kinds"
    with pytest.raises(ValueError, match="parts="):
        site_weights(model, ("bias",))


def test_the_command_draws_images_and_says_what_it_did(tiny_checkpoint, busi_folder, tmp_path, capsys):
    command = ["adapt", "--data", str(busi_folder), "--model", str(tiny_checkpoint), "--steps", "1"]
    code = main([*command, "--images", "12", "--output", str(tmp_path / "site")])
    said = capsys.readouterr()
    assert "| base |" in said.out
    kept = json.loads((tmp_path / "site" / "adaptation.json").read_text())["kept"]
    assert code == (2 if kept == "base" else 0)
    assert main([*command, "--output", str(tmp_path / "site")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*command, "--images", "3", "--output", str(tmp_path / "few")]) == 2
    assert "too few" in capsys.readouterr().err
    assert main([*command, "--images", "99", "--output", str(tmp_path / "many")]) == 2
    assert "between 1 and 20" in capsys.readouterr().err


def test_scans_without_masks_fit_the_presence_threshold(tiny_checkpoint, busi_folder, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    pictures = sorted(path for path in busi_folder.rglob("*.png") if "_mask" not in path.name)
    for place, path in enumerate(pictures):
        (scans / f"{place}.png").write_bytes(path.read_bytes())
    command = ["adapt", "--data", str(scans), "--model", str(tiny_checkpoint), "--normals"]
    assert main([*command, "0.4", "--output", str(tmp_path / "site")]) == 0
    model, processor = load_checkpoint(tmp_path / "site", "cpu")
    presences = [
        found.presence
        for found in segment(model, processor, map(PIL.Image.open, sorted(scans.iterdir())), mc_samples=0)
    ]
    refused = sum(presence < model.config.presence_threshold for presence in presences)
    assert refused == round(0.4 * len(pictures))
    assert main([*command, "1.4", "--output", str(tmp_path / "other")]) == 2
    assert "between 0 and 1" in capsys.readouterr().err
