"""The README: its numbers are those of the bundled results, its commands exist, and its Python runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sfrecsam_hf.inference.bundled import bundled_checkpoint
from sfrecsam_hf.publishing.model_card import with_results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_numbers_are_those_of_the_bundled_results():
    results = json.loads((bundled_checkpoint() / "results.json").read_text())
    assert with_results(README, results) == README


def test_a_text_without_a_place_for_results_is_refused():
    with pytest.raises(ValueError, match="<!-- results -->"):
        with_results("no markers", {})


def test_the_first_python_block_runs():
    block = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "longest_diameter" in done.stdout


def test_every_file_and_command_that_is_named_exists():
    for name in re.findall(r"(?:hub_card|space|examples)/[\w./-]+\w", README):
        assert (ROOT / name).exists(), name
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", targets, flags=re.MULTILINE), target
    from sfrecsam_hf.cli import main

    for command in set(re.findall(r"sfrecsam (\w+) ", README)):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
