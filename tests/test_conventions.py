"""What transformers expects of a model, an image processor and a processor; its own common tests ask the same."""

import inspect
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, scan
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoProcessor
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

from sfrecsam_hf import SFRecSamImageProcessor, SFRecSamImageProcessorPil, SFRecSamModel, SFRecSamProcessor
from sfrecsam_hf.modeling.configuration_sfrecsam import IMAGE_PROCESSOR_AUTO_MAP, PROCESSOR_AUTO_MAP

IMAGE, MASK = scan(60, 90, 3)


@torch.no_grad()
def test_return_dict(model, pixels):
    named = model(pixels)
    for options in ({"return_dict": False}, {"return_dict": False, "output_hidden_states": True}):
        given = model(pixels, **options)
        assert isinstance(given, tuple)
        assert torch.equal(given[1], named.to_tuple()[1])
    assert len(model(pixels, return_dict=False)) == len(named.to_tuple())
    assert model(pixels, return_dict=True).keys() == named.keys()
    model.config.return_dict = False
    assert isinstance(model(pixels), tuple)


def test_the_loss_comes_first(model, pixels):
    labels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE)
    first, *_ = model(pixels, labels=labels, return_dict=False)
    assert first.shape == ()


def test_no_argument_has_another_meaning_elsewhere():
    assert "noise" not in inspect.signature(SFRecSamModel.forward).parameters


@pytest.mark.parametrize("kind", [SFRecSamImageProcessor, SFRecSamImageProcessorPil])
def test_the_arguments_of_an_image_processor_are_declared(kind):
    (declared,) = get_args(get_type_hints(kind.preprocess, include_extras=True)["kwargs"])
    assert declared is kind.valid_kwargs
    assert ImagesKwargs.__annotations__.keys() < declared.__annotations__.keys()
    assert "do_crop_border" in declared.__annotations__
    with pytest.raises(StrictDataclassError, match="do_crop_border"):
        kind(image_size=IMAGE_SIZE)(IMAGE, do_crop_border="perhaps")


def test_the_arguments_of_the_processor_are_declared(processor):
    (declared,) = get_args(get_type_hints(SFRecSamProcessor.__call__, include_extras=True)["kwargs"])
    assert declared is SFRecSamProcessor.valid_processor_kwargs
    assert ProcessingKwargs.__annotations__.keys() <= declared.__annotations__.keys()
    plain = processor(IMAGE)
    nested = processor(IMAGE, images_kwargs={"do_normalize": False})
    flat = processor(IMAGE, do_normalize=False)
    assert torch.equal(processor(IMAGE, images_kwargs={})["pixel_values"], plain["pixel_values"])
    assert torch.equal(nested["pixel_values"], flat["pixel_values"])
    assert not torch.equal(nested["pixel_values"], plain["pixel_values"])


def test_processors_name_their_classes_after_a_round_trip(processor, tmp_path):
    expected = processor.to_dict()
    assert expected["auto_map"] == PROCESSOR_AUTO_MAP
    assert expected["image_processor"]["auto_map"] == IMAGE_PROCESSOR_AUTO_MAP
    for step in ("once", "twice"):
        processor.save_pretrained(tmp_path / step)
        processor = AutoProcessor.from_pretrained(tmp_path / step)
        loaded = processor.to_dict()
        assert loaded["auto_map"] == expected["auto_map"]
        assert loaded["image_processor"]["auto_map"] == expected["image_processor"]["auto_map"]


@torch.no_grad()
def test_scores_have_an_axis_for_labels(model, processor):
    outputs = model(**processor([IMAGE, IMAGE.crop((0, 0, 50, 60))]))
    post_process = processor.image_processor.post_process_semantic_segmentation
    for sizes in (None, [(60, 90), (60, 50)]):
        for found in post_process(outputs, target_sizes=sizes, return_segmentation_scores=True):
            scores = found["segmentation_scores"]
            assert scores.shape == (len(model.config.id2label), *found["segmentation"].shape)
            assert torch.equal(scores.argmax(dim=0), found["segmentation"])


def test_numpy_throughout(processor):
    prompts = {"input_points": [[[10, 20]]], "input_labels": [[1]], "input_boxes": [[1, 2, 30, 40]]}
    found = processor(IMAGE, segmentation_maps=MASK, return_tensors="np", **prompts)
    assert {"input_points", "input_labels", "input_boxes", "labels", "scan_boxes"} < found.keys()
    assert {name: type(value) for name, value in found.items()} == dict.fromkeys(found, np.ndarray)
    tensors = processor(IMAGE, segmentation_maps=MASK, **prompts)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value.numpy(), found[name])
