"""A value out of range is refused in one sentence that names it, by model, processor and pipelines."""

import math

import pytest
import torch
from conftest import IMAGE_SIZE, scan
from transformers import pipeline

from sfrecsam_hf import segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.modeling.pipeline_sfrecsam import SFRecSamMaskGenerationPipeline

IMAGE = scan(48, 64, 3)[0]
SIZES = torch.tensor([[40, IMAGE_SIZE], [IMAGE_SIZE, 40]])
LABELS = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
POINT = torch.full((2, 1, 1, 2), 30.0)


def changed(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone().float()
    tensor.view(-1)[5 % tensor.numel()] = value
    return tensor


FORWARD = {
    **{
        f"{name} {value}": ({name: value}, rf"{name}={value} must lie between 0 and 1")
        for name in ("suspicion_threshold", "presence_threshold")
        for value in (-3.0, 7.0, math.nan, math.inf)
    },
    "mc_samples": ({"mc_samples": 1.5}, "mc_samples=1.5 must be 0 or more, and whole"),
    **{
        f"labels {v}": ({"labels": changed(LABELS, v)}, "labels must lie between 0 and 1") for v in (255, -1, math.nan)
    },
    "labels of prompts": (
        {"labels": LABELS, "prompt_labels": changed(LABELS[:, None], 2)},
        "labels must lie between 0 and 1",
    ),
    **{
        f"reshaped_input_sizes {v}": (
            {"reshaped_input_sizes": changed(SIZES, v)},
            "reshaped_input_sizes must be 1 to 64",
        )
        for v in (-1, 0, 9999)
    },
    "prompt label 1.7": (
        {"input_points": POINT, "input_labels": torch.full((2, 1, 1), 1.7)},
        "input_labels must be 1",
    ),
    "prompt label 2": ({"input_points": POINT, "input_labels": torch.full((2, 1, 1), 2)}, "input_labels must be 1"),
    "a NaN point": ({"input_points": changed(POINT, math.nan)}, "input_points lie outside"),
    "an infinite box": ({"input_boxes": torch.full((2, 1, 4), math.inf)}, "input_boxes lie outside"),
    "a NaN mask": ({"input_masks": changed(torch.zeros(2, 1, 32, 32), math.nan)}, "input_masks hold NaN"),
}


@pytest.mark.parametrize(("options", "said"), FORWARD.values(), ids=FORWARD)
def test_forward(model, pixels, options, said):
    with pytest.raises(ValueError, match=said) as error:
        model(pixels, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels(model, pixels, value):
    for method in (model.forward, model.encode, model.get_image_embeddings):
        with pytest.raises(ValueError, match="pixel_values hold NaN or infinite values"):
            method(changed(pixels, value))


def test_the_stages(model, pixels):
    decoded = model.decode(model.prompt(model.encode(pixels)))
    with pytest.raises(ValueError, match="suspicion_threshold=7"):
        model.correct(decoded, 7)
    with pytest.raises(ValueError, match="presence_threshold=nan"):
        model.apply_presence_threshold(model(pixels), math.nan)


@pytest.mark.parametrize("labels", [[[1.7]], [[2]], [[math.nan]], [["1"]]])
def test_prompt_labels_of_the_processor(processor, labels):
    with pytest.raises(ValueError, match=r"input_labels must be 1 \(lesion\) or 0 \(background\)"):
        processor(IMAGE, input_points=[[[10, 20]]], input_labels=labels)


def test_mask_threshold(processor):
    inputs = processor(IMAGE)
    sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes")]
    with pytest.raises(ValueError, match="mask_threshold=nan"):
        processor.post_process_masks([torch.zeros(1, 1, 32, 32)], *sizes, math.nan, scan_boxes=inputs["scan_boxes"])


@pytest.mark.parametrize("size", [0, -2])
def test_batch_size(model, processor, size):
    with pytest.raises(ValueError, match=f"batch_size={size} must be 1 or more"):
        segment(model, processor, [IMAGE], batch_size=size)


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("lesion-segmentation", {"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ("lesion-segmentation", {"presence_threshold": 7}, "presence_threshold=7 must lie between 0 and 1"),
        ("image-segmentation", {"suspicion_threshold": math.nan}, "suspicion_threshold=nan must be a finite number"),
        ("lesion-segmentation", {"input_points": [[9, 9]], "input_labels": [1.7]}, "input_labels must be 1"),
        ("mask-generation", {"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ("mask-generation", {"pred_iou_thresh": math.nan}, "pred_iou_thresh=nan must be a finite number"),
    ],
)
def test_pipelines(tiny_checkpoint, task, options, said):
    pipe = pipeline(task, model=str(tiny_checkpoint), trust_remote_code=True)
    with pytest.raises(ValueError, match=said):
        pipe(IMAGE, **options)


def test_the_grid_of_mask_generation(model, processor):
    generate = SFRecSamMaskGenerationPipeline(model=model, image_processor=processor.image_processor)
    with pytest.raises(ValueError, match="stability_score_thresh=inf"):
        generate(IMAGE, stability_score_thresh=math.inf)


def test_the_command_line(tiny_checkpoint, tmp_path, capsys):
    IMAGE.save(tmp_path / "scan.png")
    command = ["predict", str(tmp_path / "scan.png"), "--model", str(tiny_checkpoint), "--output", str(tmp_path / "o")]
    assert main([*command, "--presence-threshold", "2"]) == 2
    assert "presence" in capsys.readouterr().err
