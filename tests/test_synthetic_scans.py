"""Synthetic scans: a folder as any other, the same by number, some normal, lesions that differ from the tissue."""

import runpy
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage
from test_examples import EXAMPLES, commands

from sfrecsam_hf.data.loading import load_folder

SCRIPT = str(EXAMPLES / "synthetic_scans.py")
synthetic_scan = runpy.run_path(SCRIPT)["synthetic_scan"]


def test_the_command_writes_a_folder_that_training_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = commands("synthetic_scans.py")
    monkeypatch.setattr(sys, "argv", [*command[1:], "--count", "8"])
    runpy.run_path(SCRIPT, run_name="__main__")
    rows = load_folder(Path("synthetic"))
    assert len(rows) == 8
    for number, row in enumerate(sorted(rows, key=lambda row: row["name"])):
        image, mask = synthetic_scan(number)
        assert np.array_equal(np.asarray(row["image"].convert("L")), image)
        assert np.array_equal(np.asarray(row["mask"]) > 0, mask)


def test_some_are_normal_and_lesions_are_darker_than_their_surroundings():
    scans = [synthetic_scan(number) for number in range(60)]
    with_lesion = [(image, mask) for image, mask in scans if mask.any()]
    assert 40 <= len(with_lesion) < 60
    darker = 0
    for image, mask in with_lesion:
        around = ndimage.binary_dilation(mask, iterations=6) & ~mask
        darker += image[mask].mean() < image[around].mean()
        assert image.std() > 10
    assert darker > 0.8 * len(with_lesion)
