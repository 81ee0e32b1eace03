"""Once the package is imported, the Auto classes know it without remote code."""

import subprocess
import sys

import pytest
import transformers
from conftest import scan

import sfrecsam_hf
from sfrecsam_hf.modeling.configuration_sfrecsam import AUTO_MAP

CLASSES = {
    **{auto: name.split(".")[1] for auto, name in AUTO_MAP.items()},
    "AutoImageProcessor": "SFRecSamImageProcessor",
    "AutoProcessor": "SFRecSamProcessor",
}
# What somebody may have imported from transformers before or after this package.
DOORS = ["AutoModel", "AutoProcessor", "SamModel", "PreTrainedConfig", "pipeline", "AutoImageProcessor"]


def run(code: str, **options) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("auto", CLASSES)
def test_auto_class_loads_without_remote_code(tiny_checkpoint, auto):
    loaded = getattr(transformers, auto).from_pretrained(tiny_checkpoint)
    assert type(loaded).__module__.startswith("sfrecsam_hf.")
    assert type(loaded).__name__.removesuffix("Pil") == CLASSES[auto]


@pytest.mark.parametrize("trust", [None, True, False])
def test_the_package_goes_before_the_code_beside_the_checkpoint(tiny_checkpoint, trust):
    model = transformers.AutoModel.from_pretrained(tiny_checkpoint, trust_remote_code=trust)
    assert type(model) is sfrecsam_hf.SFRecSamModel


def test_a_model_from_its_configuration(tiny_checkpoint):
    config = transformers.AutoConfig.from_pretrained(tiny_checkpoint)
    for auto in (transformers.AutoModel, transformers.AutoModelForMaskGeneration):
        assert type(auto.from_config(config)) is sfrecsam_hf.SFRecSamModel


@pytest.mark.parametrize("backend", ["pil", None])
def test_the_image_processor_of_each_backend(tiny_checkpoint, backend):
    loaded = transformers.AutoImageProcessor.from_pretrained(tiny_checkpoint, backend=backend)
    assert isinstance(loaded, sfrecsam_hf.SFRecSamImageProcessorPil | sfrecsam_hf.SFRecSamImageProcessor)


def test_the_pipeline_is_registered(tiny_checkpoint):
    pipe = transformers.pipeline("lesion-segmentation", model=str(tiny_checkpoint))
    assert type(pipe) is sfrecsam_hf.LesionSegmentationPipeline
    image, _ = scan(60, 90, seed=3)
    assert pipe(image)["mask"].size == image.size


@pytest.mark.parametrize("first", [True, False])
def test_any_order_of_imports(tiny_checkpoint, first):
    """In one process for each order, through every door."""
    ours, theirs = "import sfrecsam_hf", f"from transformers import {', '.join(DOORS)}"
    loaded = run(
        f"{ours if first else theirs}\n{theirs if first else ours}\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        f"folder = {str(tiny_checkpoint)!r}\n"
        "for auto in (AutoModel, AutoModelForSemanticSegmentation, AutoImageProcessor, AutoProcessor):\n"
        "    print(type(auto.from_pretrained(folder)).__module__)\n"
        "print(type(pipeline('lesion-segmentation', model=folder)).__module__)\n"
    )
    assert loaded.split() == [
        "sfrecsam_hf.modeling.modeling_sfrecsam",
        "sfrecsam_hf.modeling.modeling_sfrecsam",
        "sfrecsam_hf.modeling.image_processing_sfrecsam",
        "sfrecsam_hf.modeling.processing_sfrecsam",
        "sfrecsam_hf.modeling.pipeline_sfrecsam",
    ]
