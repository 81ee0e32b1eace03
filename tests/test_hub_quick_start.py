"""The three lines of the README give a stranger, in an empty directory, the mask that they give here."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
from conftest import SAMPLES
from stranger import run_as_stranger

from sfrecsam_hf import segment
from sfrecsam_hf.inference.checkpoints import load_checkpoint

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_three_lines_give_a_mask(hub, tmp_path):
    first, lines = re.search(r"```python\n(.*\n)((?:.*\n)*?)```", README).groups()
    assert first == "import sfrecsam_hf\n"
    for here, there in (
        ('model="hub_card"', 'model="org/sf-recsam", trust_remote_code=True'),
        ("space/samples/bus_0180-l.png", "image.png"),
    ):
        assert here in lines
        lines = lines.replace(here, there)
    assert len([line for line in lines.splitlines() if line]) == 3
    model, processor = load_checkpoint(device="cpu")
    model.push_to_hub("org/sf-recsam")
    processor.push_to_hub("org/sf-recsam")
    file = SAMPLES / "bus_0180-l.png"
    PIL.Image.open(file).save(tmp_path / "image.png")
    run_as_stranger(hub, tmp_path, lines)
    (expected,) = segment(model, processor, [file])
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "mask.png")), expected.mask * np.uint8(255))
    assert expected.mask.any()
