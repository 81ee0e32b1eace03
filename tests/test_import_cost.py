"""What is not imported costs no time: `import sfrecsam_hf` and `sfrecsam --help` wait for nothing heavy."""

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


@pytest.mark.parametrize(
    "code",
    [
        "import sfrecsam_hf",
        *(
            f"from sfrecsam_hf.cli import main; main({arguments})"
            for arguments in (["--help"], ["train", "--help"], ["predict", "--help"], ["no-such-job"])
        ),
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not imported(code) & HEAVY


def test_inference_needs_no_extra():
    code = "from sfrecsam_hf import SFRecSamModel, SFRecSamProcessor, LesionSegmentationPipeline, segment"
    found = imported(code)
    assert {"torch", "transformers"} <= found
    assert not found & EXTRAS
