"""With torchvision the pipelines take its image processor, and give the masks that they give without it."""

import json
from functools import partial

import numpy as np
import pytest
from conftest import IMAGE_SIZE, scan, tiny_model
from stranger import run_as_stranger

from sfrecsam_hf import SFRecSamImageProcessorPil
from sfrecsam_hf.modeling.pipeline_sfrecsam import (
    LesionSegmentationPipeline,
    SFRecSamImageSegmentationPipeline,
    SFRecSamMaskGenerationPipeline,
)

# What transformers asks of torchvision for SAM. Torchvision itself would have to be built for the very torch in use.
STAND_IN = {
    "__init__": "__version__ = '0.27.0'",
    "ops/__init__": "",
    "ops/boxes": "def batched_nms(*_, **__):\n    raise RuntimeError('this torchvision has no operators')",
    "io/__init__": "",
    "transforms/__init__": """
import enum

class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
""",
    "transforms/functional": "from torchvision.transforms.v2.functional import *",
    "transforms/v2/__init__": "",
    "transforms/v2/functional": """
import torch
from torchvision.transforms import InterpolationMode

def pil_to_tensor(image):
    raise NotImplementedError

def grayscale_to_rgb(image):
    return image.expand(3, -1, -1) if len(image) == 1 else image

def pad(image, padding, fill=0, padding_mode="constant"):
    left, top, right, bottom = padding
    return torch.nn.functional.pad(image, (left, right, top, bottom), value=fill)

def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(values, dtype=image.dtype)[:, None, None] for values in (mean, std))
    return (image - mean) / std

def resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True):
    return torch.nn.functional.interpolate(image, size, mode=interpolation.value, antialias=antialias)
""",
}
GRID = {"points_per_crop": 4, "pred_iou_thresh": -9, "stability_score_thresh": 0, "crops_nms_thresh": 0.95}
USE = f"""
import json, numpy as np
from transformers import AutoImageProcessor, pipeline
from transformers.utils import is_torchvision_available

tasks = ("image-segmentation", "lesion-segmentation", "mask-generation")
pipes = {{task: pipeline(task, model="org/backends", trust_remote_code=True) for task in tasks}}
np.savez(
    "answers.npz",
    segment=pipes["image-segmentation"]("image.png")[0]["mask"],
    lesion=pipes["lesion-segmentation"]("image.png")["mask"],
    masks=pipes["mask-generation"]("image.png", **{GRID})["masks"],
)
loaded = AutoImageProcessor.from_pretrained("org/backends", trust_remote_code=True)
np.save("labels.npy", loaded("image.png", segmentation_maps="mask.png", return_tensors="np")["labels"])
json.dump([is_torchvision_available(), type(loaded).__name__, loaded.backend], open("backend.json", "w"))
"""


@pytest.fixture(scope="module")
def folder(hub, processor, tmp_path_factory):
    """What a stranger with torchvision finds."""
    tiny_model().push_to_hub("org/backends")
    processor.push_to_hub("org/backends")
    library = tmp_path_factory.mktemp("library")
    for name, code in STAND_IN.items():
        file = library / "torchvision" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    folder = tmp_path_factory.mktemp("stranger")
    for picture, name in zip(scan(60, 90, seed=3), ("image.png", "mask.png"), strict=True):
        picture.save(folder / name)
    run_as_stranger(hub, folder, USE, library)
    return folder


def test_torchvision_is_used_where_it_is(folder):
    assert json.loads((folder / "backend.json").read_text()) == [True, "SFRecSamImageProcessor", "torchvision"]


@pytest.mark.parametrize(
    ("name", "pipe", "masks"),
    [
        ("segment", SFRecSamImageSegmentationPipeline, lambda found: found[0]["mask"]),
        ("lesion", LesionSegmentationPipeline, lambda found: found["mask"]),
        ("masks", partial(SFRecSamMaskGenerationPipeline, **GRID), lambda found: found["masks"]),
    ],
)
def test_the_masks_are_those_of_pillow(folder, name, pipe, masks):
    """But for the pixels that two ways of shrinking an image put on either side of the border."""
    image_processor = SFRecSamImageProcessorPil(image_size=IMAGE_SIZE)
    pillow = np.asarray(masks(pipe(model=tiny_model(), image_processor=image_processor)(str(folder / "image.png"))))
    torchvision = np.load(folder / "answers.npz")[name]
    assert pillow.shape == torchvision.shape
    assert (pillow != torchvision).mean() < 0.01
    assert 0 < (pillow > 0).mean() < 1


def test_labels_are_those_of_pillow(folder):
    """Torchvision's nearest neighbour would put them half an input pixel away."""
    pillow = SFRecSamImageProcessorPil(image_size=IMAGE_SIZE)
    labels = pillow(folder / "image.png", segmentation_maps=folder / "mask.png", return_tensors="np")["labels"]
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), labels)
    assert 0 < labels.mean() < 1
