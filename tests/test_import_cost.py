"""What is not imported costs no time: `sfrecsam --help` waits for nothing heavy, and inference for no extra."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "PIL",
    "scipy",
    "matplotlib",
    "datasets",
    "evaluate",
    "monai",
    "gradio",
    "onnx",
}
EXTRAS = {"datasets", "evaluate", "monai", "sklearn", "pydicom", "gradio", "onnx", "tensorboard", "matplotlib"}


def imported(code: str) -> set[str]:
    """The top-level names of what a fresh process has imported after `code`."""
    code = f"try:\n    {code}\nexcept SystemExit:\n    pass\nimport sys\nprint('IMPORTED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split("IMPORTED ")[-1].split()}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["no-such-job"]])
def test_the_command_waits_for_nothing_heavy(tmp_path, arguments):
    command = tmp_path / "sfrecsam"  # as pip writes it
    command.write_text("import sys\nfrom sfrecsam_hf.cli import main\nsys.exit(main())\n")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", command, *arguments], capture_output=True, text=True, check=False
    )
    names = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "sfrecsam_hf" in names
    assert not names & HEAVY


def test_inference_needs_no_extra():
    code = "from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor, LesionSegmentationPipeline, segment"
    found = imported(code)
    assert {"torch", "transformers"} <= found
    assert not found & EXTRAS
