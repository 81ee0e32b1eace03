"""`pipeline("lesion-segmentation")` takes all that `segment` takes, in every form, and gives the same answers."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import scan
from datasets import Dataset, Image
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from sfrecsam_hf import SFRecSamModel, segment

SIZES = [(60, 90), (90, 60), (64, 64), (33, 80), (200, 120)]
PROMPTS = {
    "none": {},
    "a point": {"input_points": [[20, 30]]},
    "points": {"input_points": [[20, 30], [50, 10]], "input_labels": [1, 0]},
    "a box": {"input_boxes": [[5, 6, 50, 30]]},
    "both": {"input_points": [[20, 30]], "input_boxes": [[5, 6, 50, 30]]},
}
OPTIONS = {
    "defaults": {},
    "no samples": {"mc_samples": 0},
    "five samples": {"mc_samples": 5},
    "low suspicion": {"suspicion_threshold": 0.1},
    "always absent": {"presence_threshold": 1.0},
    "never absent": {"presence_threshold": 0.0},
    "one corrector": {"correctors": ("fn",)},
    "no corrector": {"correctors": ()},
}


@pytest.fixture(scope="module")
def images():
    return [scan(*size, seed)[0] for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return pipeline("lesion-segmentation", model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def expected(pipe, processor, images):
    return list(segment(pipe.model, processor, images))


def check(found, segmentation):
    assert found["label"] == "lesion"
    for name, mask in (("mask", segmentation.mask), ("initial_mask", segmentation.initial_mask)):
        assert found[name].mode == "L"
        np.testing.assert_array_equal(np.asarray(found[name]), mask * np.uint8(255))
    for name in ("probability", "uncertainty"):
        assert found[name].shape == segmentation.mask.shape
        np.testing.assert_allclose(found[name], getattr(segmentation, name), atol=1e-4)
    for name in ("presence", "score"):
        assert found[name] == pytest.approx(getattr(segmentation, name), abs=1e-5)
    measured, expected = dict(found["measurements"]), segmentation.measurements()
    assert found["box"] == measured.pop("box") == expected.pop("box")
    assert measured == pytest.approx(expected, abs=1e-3)


def check_all(found, segmentations):
    found = list(found)
    assert len(found) == len(segmentations)
    for entry, segmentation in zip(found, segmentations, strict=True):
        check(entry, segmentation)


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_prompts(pipe, processor, images, prompts):
    (segmentation,) = segment(pipe.model, processor, [(images[0], prompts)])
    check(pipe(images[0], **prompts), segmentation)
    check(pipe({"image": images[0], **prompts}), segmentation)
    if prompts:
        assert pipe(images[0])["uncertainty"].tolist() != pipe(images[0], **prompts)["uncertainty"].tolist()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(pipe, processor, images, options):
    (segmentation,) = segment(pipe.model, processor, images[:1], **options)
    check(pipe(images[0], **options), segmentation)
    again = pipeline("lesion-segmentation", model=pipe.model, image_processor=processor.image_processor, **options)
    check(again(images[0]), segmentation)


def test_a_normal_scan_has_an_empty_mask_and_no_box(pipe, images):
    found = pipe(images[0], presence_threshold=1.0)
    assert not np.asarray(found["mask"]).any()
    assert (found["box"], found["measurements"]["area"]) == (None, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_a_list_in_batches(pipe, images, expected, batch_size):
    found = pipe(images, batch_size=batch_size)
    assert isinstance(found, list)
    check_all(found, expected)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_prompts_of_each_image_in_one_batch(pipe, processor, images, batch_size):
    """In batches of one size: another size rounds otherwise, and this model's many borders lie on the threshold."""
    prompts = list(PROMPTS.values())
    pairs = list(zip(images, prompts, strict=True))
    found = pipe([{"image": image, **given} for image, given in pairs], batch_size=batch_size)
    check_all(found, list(segment(pipe.model, processor, pairs, batch_size)))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_generator_is_read_as_it_is_needed(pipe, images, expected, batch_size):
    read = []
    found = pipe((read.append(index) or image for index, image in enumerate(images)), batch_size=batch_size)
    check(next(iter(found)), expected[0])
    assert len(read) <= 2 * batch_size
    check_all(pipe(image for image in images), expected)


@pytest.mark.parametrize("kind", [iter, tuple, lambda images: map(PIL.Image.Image.copy, images)])
def test_any_iterable(pipe, images, expected, kind):
    check_all(pipe(kind(images)), expected)


def test_columns_and_rows_of_a_data_set(pipe, processor, images, expected):
    boxes = [[[2, 3, 40, 30]], None, [[8, 8, 30, 30]], None, None]
    data = Dataset.from_dict({"image": images, "input_boxes": boxes, "label": [0, 1, 0, 1, 0]})
    data = data.cast_column("image", Image())
    column = pipe(data["image"], batch_size=2)
    assert not isinstance(column, list)
    check_all(column, expected)
    check_all(pipe(KeyDataset(data, "image"), batch_size=2), expected)
    pairs = [(image, {"input_boxes": box}) for image, box in zip(images, boxes, strict=True)]
    prompted = list(segment(pipe.model, processor, pairs))
    check_all(pipe(data, batch_size=2), prompted)
    assert (prompted[0].mask != expected[0].mask).any()


def test_every_form_of_an_image(pipe, images, expected, tmp_path):
    images[0].save(tmp_path / "image.png")
    pixels = np.asarray(images[0])
    for form in (tmp_path / "image.png", str(tmp_path / "image.png"), pixels, torch.tensor(pixels), images[0]):
        check(pipe(form), expected[0])
    check_all(pipe([str(tmp_path / "image.png"), pixels]), [expected[0]] * 2)


def test_workers_read_the_images(pipe, images, expected):
    check_all(pipe(images, batch_size=2, num_workers=1), expected)


def test_half_precision(tiny_checkpoint, images, expected):
    pipe = pipeline("lesion-segmentation", model=str(tiny_checkpoint), dtype=torch.bfloat16)
    assert isinstance(pipe.model, SFRecSamModel)
    assert pipe.model.dtype == torch.bfloat16
    found = pipe(images[0], input_points=[[20.3, 30.7]])
    assert found["uncertainty"].shape == expected[0].mask.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe, image: pipe([]), "images is empty"),
        (lambda pipe, image: pipe({"picture": image}), "needs the key 'image', but has picture"),
        (lambda pipe, image: pipe(image, samples=3), "samples: this pipeline takes only .*mc_samples"),
        (lambda pipe, image: pipe(image, input_points=[[500, 3]]), "outside their image of 90x60"),
        (lambda pipe, image: pipe(image, input_labels=[1]), "input_labels need input_points"),
        (lambda pipe, image: pipe(image, mc_samples=-1), "mc_samples=-1 must be 0 or more"),
        (lambda pipe, image: pipe(image, correctors=("xy",)), "correctors=.*names"),
        (lambda pipe, image: pipe(np.full((9, 9), np.nan)), "NaN"),
        (lambda pipe, image: pipe([image, 7]), "is a int; pass a path"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(pipe, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipe, images[0])


def test_a_file_that_is_missing_or_damaged_is_named(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        pipe(str(tmp_path / "gone.png"))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png is not an image"):
        pipe([str(tmp_path / "bad.png")])


def test_a_model_object_needs_its_image_processor(pipe):
    with pytest.raises(Exception, match="which image processor to use"):
        pipeline("lesion-segmentation", model=pipe.model)
