"""One file, one mask: every way to the model cuts the frame off a scan and puts it back. ONNX: `test_export.py`."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import SAMPLES, scan
from datasets import Dataset, Features, Image
from PIL import ImageOps
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, pipeline

from sfrecsam_hf import load_folder, segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.training.calibration import correction_dice
from sfrecsam_hf.training.dataset import TrainingImages
from staged_model import AUTOMATIC, Prompt, StagedModel

BORDERS = (30, 20, 50, 10)  # left, top, right, bottom
LEFT, TOP, RIGHT, BOTTOM = BORDERS
BOX = [60, 50, 200, 160]
GRID = {"points_per_crop": 2, "pred_iou_thresh": -9, "stability_score_thresh": 0, "crops_nms_thresh": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The sample scans, one whose speckle reads as burnt-in text, and the first of them once more on black."""
    bare = sorted(SAMPLES.glob("*[lr].png"))
    speckle, framed = (tmp_path_factory.mktemp("files") / f"{name}.png" for name in ("speckle", "framed"))
    scan(60, 90, seed=3)[0].save(speckle)
    ImageOps.expand(PIL.Image.open(bare[0]).convert("RGB"), BORDERS, 0).save(framed)
    return [*bare, speckle, framed]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return load_checkpoint(tiny_checkpoint, "cpu")


@pytest.fixture(scope="module")
def expected(files, loaded):
    """What `segment` answers to each file."""
    return list(segment(*loaded, files))


def assert_same(mask: np.ndarray, other: np.ndarray) -> None:
    """Batches of other sizes round otherwise, which may take single pixels over the threshold."""
    assert mask.shape == other.shape
    assert (mask != other).mean() < 1e-4


def on_black(mask: np.ndarray) -> np.ndarray:
    return np.pad(mask, ((TOP, BOTTOM), (LEFT, RIGHT)))


def test_the_frame_changes_nothing(expected):
    bare, framed = expected[0], expected[-1]
    for name in ("mask", "initial_mask"):
        assert_same(getattr(framed, name), on_black(getattr(bare, name)))
    for name in ("probability", "final_probability", "uncertainty"):
        np.testing.assert_allclose(getattr(framed, name), on_black(getattr(bare, name)), atol=1e-4, err_msg=name)
    assert framed.presence == pytest.approx(bare.presence, abs=1e-5)
    assert not framed.probability[:TOP].any()
    assert 0.05 < bare.mask.mean() < 0.95


@torch.no_grad()
def test_auto_classes(files, expected, loaded, tiny_checkpoint):
    model, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModel, AutoProcessor))
    inputs = processor([PIL.Image.open(file) for file in files], return_tensors="pt")
    outputs = model(**inputs)
    sizes = inputs["original_sizes"].tolist()
    post_process = processor.image_processor.post_process_semantic_segmentation
    by_label = post_process(outputs, target_sizes=sizes)
    as_sam = processor.post_process_masks(
        outputs.pred_masks, sizes, inputs["reshaped_input_sizes"], scan_boxes=inputs["scan_boxes"]
    )
    untidied = segment(*loaded, files, tidy=False)
    for mask, raw, found, said in zip(by_label, as_sam, expected, untidied, strict=True):
        assert_same(mask.numpy() > 0, found.mask)
        assert_same(raw[0, 0].numpy(), said.mask)


def test_post_processing_asks_for_the_place_of_the_scan(files, loaded):
    model, processor = loaded
    inputs = processor([files[-1]])
    with torch.no_grad():
        outputs = model(inputs["pixel_values"])
    sizes, reshaped = inputs["original_sizes"].tolist(), inputs["reshaped_input_sizes"].tolist()
    with pytest.raises(ValueError, match="scan_boxes"):
        processor.post_process_masks(outputs.pred_masks, sizes, reshaped)
    with pytest.raises(ValueError, match="scan_boxes"):
        processor.image_processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    whole = AutoImageProcessor.from_pretrained(model.config.name_or_path, do_crop_border=False)
    assert whole.post_process_masks(outputs.pred_masks, sizes, reshaped)[0].shape[-2:] == tuple(sizes[0])


def test_the_switch_is_saved_and_old_configurations_have_it_on(tmp_path, processor):
    image_processor = processor.image_processor
    assert "do_crop_border" in image_processor.to_dict()
    image_processor.save_pretrained(tmp_path)
    off = type(image_processor).from_pretrained(tmp_path, do_crop_border=False)
    off.save_pretrained(tmp_path / "off")
    assert type(image_processor).from_pretrained(tmp_path / "off").do_crop_border is False
    saved = (tmp_path / "preprocessor_config.json").read_text().replace('  "do_crop_border": true,\n', "")
    (tmp_path / "preprocessor_config.json").write_text(saved)
    assert "do_crop_border" not in saved
    assert type(image_processor).from_pretrained(tmp_path).do_crop_border is True


def test_off_for_one_call(files, processor):
    inputs = processor([files[-1]], do_crop_border=False)
    height, width = inputs["original_sizes"][0].tolist()
    assert inputs["scan_boxes"].tolist() == [[0, 0, width, height]]


@pytest.mark.parametrize("task", ["lesion-segmentation", "image-segmentation"])
def test_pipelines(files, expected, tiny_checkpoint, task):
    pipe = pipeline(task, model=str(tiny_checkpoint), trust_remote_code=True)
    for file, found in zip(files, expected, strict=True):
        answer = pipe(str(file))
        answer = answer[0] if isinstance(answer, list) else answer
        assert_same(np.asarray(answer["mask"]) > 0, found.mask)


def test_mask_generation(files, tiny_checkpoint, tmp_path):
    pipe = pipeline("mask-generation", model=str(tiny_checkpoint), trust_remote_code=True)
    options = {**GRID, "output_rle_mask": True, "output_bboxes_mask": True}
    bare, framed = (pipe(str(file), **options) for file in (files[0], files[-1]))
    assert len(bare["masks"]) == 12
    for mask, within in zip(bare["masks"], framed["masks"], strict=True):
        assert_same(within, on_black(mask))
    assert torch.equal(framed["bounding_boxes"], bare["bounding_boxes"] + torch.tensor([LEFT, TOP, LEFT, TOP]))
    counts = [sum(encoded["counts"][1::2]) for encoded in framed["rle_mask"]]
    assert counts == [int(np.count_nonzero(mask)) for mask in framed["masks"]]
    assert framed["rle_mask"][0]["size"] == list(framed["masks"][0].shape)
    pipe.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).do_crop_border is True


def test_command_line(files, expected, tiny_checkpoint, tmp_path):
    command = ["predict", str(files[0]), str(files[-1]), "--model", str(tiny_checkpoint), "--output", str(tmp_path)]
    assert main(command) == 0
    for file, found in ((files[0], expected[0]), (files[-1], expected[-1])):
        mask = np.asarray(PIL.Image.open(tmp_path / f"{file.stem}_mask.png")) > 0
        assert_same(mask, found.mask)


def test_space(files, expected, loaded):
    staged = StagedModel(*loaded)
    controls = staged.default_controls()
    moved = (BOX[0] + LEFT, BOX[1] + TOP, BOX[2] + LEFT, BOX[3] + TOP)
    asked = [(files[0], BOX), (files[-1], moved)]
    boxed = list(segment(*loaded, [(file, {"input_boxes": [box]}) for file, box in asked]))
    cases = [(file, AUTOMATIC, found) for file, found in zip(files, expected, strict=True)]
    cases += [(file, Prompt(box=tuple(box)), found) for (file, box), found in zip(asked, boxed, strict=True)]
    for file, prompt, found in cases:
        encoded = staged.encode(PIL.Image.open(file).convert("RGB"))
        answer = staged.correct(encoded, staged.decode(encoded, prompt, controls.mc_samples), controls)
        assert_same(answer.mask, found.mask)


@pytest.fixture(scope="module")
def pairs():
    """Sample scans with their masks; the same on black."""
    rows = load_folder(SAMPLES).select(range(3))
    bare = [(row["image"].convert("L"), row["mask"].convert("L")) for row in rows]
    columns = Features({"image": Image(), "mask": Image()})
    framed = [tuple(ImageOps.expand(picture, BORDERS, 0) for picture in pair) for pair in bare]
    return SimpleNamespace(
        **{
            name: Dataset.from_dict({"image": [i for i, _ in some], "mask": [m for _, m in some]}, columns)
            for name, some in (("bare", bare), ("framed", framed))
        }
    )


def test_training(pairs, processor):
    bare, framed = (
        TrainingImages([some], processor.image_processor, quiet=True) for some in (pairs.bare, pairs.framed)
    )
    for name in ("images", "masks", "sizes"):
        assert torch.equal(getattr(bare, name), getattr(framed, name)), name
    assert bare.masks.any()


def test_calibration(pairs, loaded):
    bare, framed = (correction_dice(*loaded, some) for some in (pairs.bare, pairs.framed))
    np.testing.assert_allclose(framed, bare, atol=1e-3)
