"""The ranking of unlabelled scans: every scan once, uncertain ones first, and of two that are alike one later."""

import csv
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import SAMPLES

from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.inference.rank import rank, rank_files

SCANS = {path.stem: path for path in sorted(SAMPLES.glob("*[lr].png"))}


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, "cpu")


def test_every_scan_has_one_place_and_the_files_say_why(loaded):
    ranked = rank(*loaded, SCANS.items())
    assert sorted(one.name for one in ranked) == sorted(SCANS)
    assert all(0 <= one.uncertainty <= 1 and 0 <= one.presence <= 1 for one in ranked)
    assert ranked[0].novelty == 2
    assert all(0 <= one.novelty <= 2 for one in ranked)


def test_the_command_writes_the_order_and_names_what_it_cannot_read(tiny_checkpoint, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in SCANS.values():
        shutil.copy(path, scans)
    (scans / "broken.png").write_bytes(b"nothing")
    shutil.copy(next(iter(SCANS.values())), scans / "broken_mask.png")
    command = ["rank", str(scans), "--model", str(tiny_checkpoint), "--output", str(scans / "order"), "--shown", "4"]
    for _ in range(2):  # the second run does not rank its own picture
        assert main(command) == 2
        said = capsys.readouterr()
        assert "broken.png" in said.err
        assert f"{len(SCANS)} scans ranked" in said.out
        assert "1 files that are masks of other images" in said.out
    rows = list(csv.DictReader((scans / "order" / "ranking.csv").open()))
    assert sorted(row["image"] for row in rows) == sorted(SCANS)
    assert [row["rank"] for row in rows] == [str(place) for place in range(1, len(SCANS) + 1)]
    PIL.Image.open(scans / "order" / "ranking.png").verify()


def test_a_scan_is_encoded_once(loaded, monkeypatch):
    model, processor = loaded
    seen, encode = [], type(model).encode

    def counted(self, pixel_values, *more, **kwargs):
        seen.append(len(pixel_values))
        return encode(self, pixel_values, *more, **kwargs)

    monkeypatch.setattr(type(model), "encode", counted)
    rank(model, processor, SCANS.items())
    assert sum(seen) == len(SCANS)


def test_no_scan_that_can_be_read(loaded, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"None of the 1 scans can be read: .*broken\.png"):
        rank_files(*loaded, [str(tmp_path)], tmp_path / "order", 4)


def test_the_order_does_not_depend_on_that_of_the_files(loaded):
    forward, backward = (rank(*loaded, scans) for scans in (SCANS.items(), list(SCANS.items())[::-1]))
    assert [one.name for one in forward] == [one.name for one in backward]


def test_a_twin_comes_after_scans_that_are_new(loaded, tmp_path):
    twins = dict(SCANS)
    for name in list(SCANS):
        gray = np.asarray(PIL.Image.open(SCANS[name]).convert("L"))
        PIL.Image.fromarray((gray * 0.99).astype(np.uint8)).save(tmp_path / f"{name}-again.png")
        twins[f"{name}-again"] = tmp_path / f"{name}-again.png"
    first = [one.name.removesuffix("-again") for one in rank(*loaded, twins.items())[: len(SCANS)]]
    assert len(set(first)) >= len(SCANS) - 2
