"""`pipeline("image-segmentation")` gives lesion masks, and one file has one mask, whichever way it is segmented."""

import logging

import numpy as np
import PIL.Image
import pytest
from conftest import scan
from transformers import ImageSegmentationPipeline, pipeline
from transformers.utils import logging as transformers_logging

from sfrecsam_hf import segment
from sfrecsam_hf.cli import main
from sfrecsam_hf.inference.bundled import bundled_checkpoint, bundled_space
from sfrecsam_hf.inference.checkpoints import load_checkpoint
from sfrecsam_hf.modeling.pipeline_sfrecsam import SFRecSamImageSegmentationPipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One lesion each: gray, deep, coloured with a transparent border, and turned by EXIF."""
    folder = tmp_path_factory.mktemp("files")
    image, _ = scan(60, 90, seed=3)
    image.save(folder / "gray.png")
    PIL.Image.fromarray(np.asarray(image).astype(np.uint16) * 200).save(folder / "deep.png")
    clear = image.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 20, 60))
    clear.save(folder / "clear.png")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    image.convert("RGB").save(folder / "turned.jpg", exif=turned)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return pipeline("image-segmentation", model=str(tiny_checkpoint), trust_remote_code=True)


def test_mask_label_and_score(pipe, processor, files):
    for file, expected in zip(files, segment(pipe.model, processor, files), strict=True):
        (found,) = pipe(str(file))
        assert found.keys() == {"score", "label", "mask"}
        assert found["label"] == "lesion"
        assert found["score"] == pytest.approx(expected.score, abs=1e-5)
        assert found["mask"].mode == "L"
        np.testing.assert_array_equal(np.asarray(found["mask"]), expected.mask * np.uint8(255))


def test_no_lesion_no_mask(pipe, files):
    assert pipe(str(files[0]), presence_threshold=1.0) == []
    assert [len(found) for found in pipe([str(files[0])] * 3, batch_size=2)] == [1, 1, 1]


def test_one_file_has_one_mask(tiny_checkpoint, processor, pipe, files, tmp_path):
    lesions = pipeline("lesion-segmentation", model=str(tiny_checkpoint))
    assert main(["predict", *map(str, files), "--output", str(tmp_path), "--model", str(tiny_checkpoint)]) == 0
    for file, expected in zip(files, segment(lesions.model, processor, files), strict=True):
        masks = [
            pipe(str(file))[0]["mask"],
            pipe(PIL.Image.open(file))[0]["mask"],
            lesions(file)["mask"],
            PIL.Image.open(tmp_path / f"{file.stem}_mask.png"),
        ]
        assert 0 < expected.mask.mean() < 1
        for mask in masks:
            np.testing.assert_array_equal(np.asarray(mask), expected.mask * np.uint8(255))


def test_the_bundled_model_on_a_real_image(tmp_path):
    file = bundled_space() / "samples" / "bus_0180-l.png"
    model, processor = load_checkpoint(device="cpu")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (found,) = pipeline("image-segmentation", model=str(tmp_path), trust_remote_code=True)(str(file))
    (expected,) = segment(model, processor, [file])
    lesion = pipeline("lesion-segmentation", model=str(bundled_checkpoint()))(file)
    np.testing.assert_array_equal(np.asarray(found["mask"]), expected.mask * np.uint8(255))
    np.testing.assert_array_equal(np.asarray(lesion["mask"]), expected.mask * np.uint8(255))
    true = np.asarray(PIL.Image.open(file.with_name("bus_0180-l_mask.png"))) > 0
    assert 2 * (expected.mask & true).sum() / (expected.mask.sum() + true.sum()) > 0.7


@pytest.fixture
def logged(caplog):
    """What transformers logs, which it keeps from the root logger."""
    transformers_logging.enable_propagation()
    yield caplog
    transformers_logging.disable_propagation()


@pytest.mark.parametrize("kind", [None, ImageSegmentationPipeline, SFRecSamImageSegmentationPipeline])
def test_no_pipeline_calls_the_model_unsupported(tiny_checkpoint, pipe, processor, files, logged, kind):
    """Not even transformers' own class, as which the task is taken for a model in memory."""
    found = pipeline(
        "image-segmentation", model=pipe.model, image_processor=processor.image_processor, pipeline_class=kind
    )
    gray = next(str(file) for file in files if file.stem == "gray")
    masks = {entry["label"]: np.asarray(entry["mask"]) for entry in found(gray)}
    np.testing.assert_array_equal(masks["lesion"], np.asarray(pipe(gray)[0]["mask"]))
    assert [record for record in logged.records if record.levelno >= logging.WARNING] == []


def test_remote_code_must_be_trusted(tiny_checkpoint):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline("image-segmentation", model=str(tiny_checkpoint))
