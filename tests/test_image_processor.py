"""Any image goes in, and its mask comes out at the exact size it came in."""

import io

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import IMAGE_SIZE, scan, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf import SFRecSamImageProcessor, SFRecSamImageProcessorPil

GRAY, MASK = scan(60, 90, seed=3)
PIXELS = np.asarray(GRAY)
PROCESSORS = {
    kind.__name__: kind(image_size=IMAGE_SIZE) for kind in (SFRecSamImageProcessor, SFRecSamImageProcessorPil)
}


def translucent():
    image = GRAY.convert("RGBA")
    image.putalpha(255)
    return image


def palette_with_transparency():
    image = GRAY.convert("P")
    image.info["transparency"] = 255
    return image


SAME = {
    "RGB": GRAY.convert("RGB"),
    "RGBA": translucent(),
    "gray with alpha": GRAY.convert("LA"),
    "palette": GRAY.convert("RGB").convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=256),
    "CMYK": GRAY.convert("RGB").convert("CMYK"),
    "YCbCr": GRAY.convert("YCbCr"),
    "integer": GRAY.convert("I"),
    "float": GRAY.convert("F"),
    "array": PIXELS,
    "array with a channel": PIXELS[..., None],
    "RGB array": np.stack([PIXELS] * 3, axis=-1),
    "channels first": np.stack([PIXELS] * 3),
    "RGBA array": np.stack([PIXELS] * 3 + [np.full_like(PIXELS, 255)], axis=-1),
    "array in [0, 1]": PIXELS / 255,
    "float32 in [0, 255]": PIXELS.astype(np.float32),
    "uint16 array of 8-bit values": PIXELS.astype(np.uint16),
    "tensor": torch.tensor(PIXELS),
    "float tensor in [0, 1]": torch.tensor(PIXELS)[None].repeat(3, 1, 1) / 255,
    "half tensor": (torch.tensor(PIXELS) / 255).half(),
    "non-contiguous": np.asfortranarray(PIXELS),
}


@pytest.fixture(params=PROCESSORS.values(), ids=PROCESSORS)
def processor(request):
    return request.param


@pytest.mark.parametrize("kind", SAME)
def test_the_same_image_in_every_form(processor, kind):
    expected, got = processor(GRAY, return_tensors="pt"), processor(SAME[kind], return_tensors="pt")
    assert got["pixel_values"].shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert got["original_sizes"].tolist() == [[60, 90]]
    assert (got["pixel_values"] - expected["pixel_values"]).abs().max() < 0.06


def test_16_bit_images_are_stretched_and_not_cut_off(processor):
    deep = (PIXELS.astype(np.uint16) * 200).astype(np.uint16)
    expected = processor(GRAY, return_tensors="pt")["pixel_values"]
    buffer = io.BytesIO()
    PIL.Image.fromarray(deep).save(buffer, format="PNG")
    for image in (deep, PIL.Image.open(buffer), torch.tensor(deep.astype(np.int32))):
        got = processor(image, return_tensors="pt")["pixel_values"]
        correlation = np.corrcoef(got.flatten(), expected.flatten())[0, 1]
        assert correlation > 0.999


def test_one_bit_images(processor):
    got = processor(MASK.convert("1"), return_tensors="pt")["pixel_values"]
    assert (got - processor(MASK, return_tensors="pt")["pixel_values"]).abs().max() < 0.06


def test_transparency_is_laid_over_black(processor):
    image = PIL.Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    black = processor(PIL.Image.new("L", (40, 40)), return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], black)
    assert processor(palette_with_transparency(), return_tensors="pt")["pixel_values"].isfinite().all()


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.bmp", "image.tif", "IMAGE.PNG"])
def test_paths(processor, tmp_path, name):
    GRAY.save(tmp_path / name)
    expected = processor(PIL.Image.open(tmp_path / name), return_tensors="pt")["pixel_values"]
    for path in (tmp_path / name, str(tmp_path / name)):
        assert torch.equal(processor(path, return_tensors="pt")["pixel_values"], expected)


def test_a_photograph_is_turned_upright(processor, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    GRAY.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    assert processor(tmp_path / "turned.jpg", return_tensors="pt")["original_sizes"].tolist() == [[90, 60]]


def test_colour_is_dropped(processor):
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 200
    pixel_values = processor(red, return_tensors="pt")["pixel_values"][0]
    gray = processor(PIL.Image.fromarray(red).convert("L"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixel_values, gray)


@given(height=st.integers(2, 300), width=st.integers(2, 300))
@settings(deadline=None, max_examples=40)
def test_any_size_comes_back_exactly(height, width):
    image, _ = scan(height, width, seed=0)
    for processor in PROCESSORS.values():
        inputs = processor(image, return_tensors="pt")
        assert inputs["pixel_values"].shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)
        assert inputs["original_sizes"].tolist() == [[height, width]]
        resized = inputs["reshaped_input_sizes"][0].tolist()
        assert max(resized) == IMAGE_SIZE
        assert abs(resized[0] * width - resized[1] * height) <= max(height, width)
        restored = processor.restore(torch.randn(2, 32, 32), (height, width), inputs["scan_boxes"][0])
        assert restored.shape == (2, height, width)


@given(height=st.integers(20, 200), width=st.integers(20, 200), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_mask_survives_the_way_there_and_back(height, width, seed):
    """Out at the model's size and back, an ellipse keeps its place: the two ways are each other's inverse."""
    image, mask = scan(height, width, seed)
    for processor in PROCESSORS.values():
        inputs = processor(image, mask, return_tensors="pt")
        labels = inputs["labels"]
        assert labels.shape == (1, IMAGE_SIZE, IMAGE_SIZE)
        assert set(labels.unique().tolist()) <= {0, 1}
        back = processor.restore(labels[0].float(), (height, width), inputs["scan_boxes"][0]) > 0.5
        true = torch.tensor(np.asarray(mask) > 0)
        overlap, union = (back & true).sum(), (back | true).sum()
        if min(height, width) * IMAGE_SIZE / max(height, width) > 24:
            assert overlap / union > 0.8


@given(height=st.integers(2, 200), width=st.integers(2, 200))
@settings(deadline=None, max_examples=40)
def test_padding_never_bleeds_into_the_result(height, width):
    """Logits of +5 on the image and -20 on its padding come back as +5 everywhere."""
    for processor in PROCESSORS.values():
        inputs = processor(np.zeros((height, width), np.uint8) + 9, return_tensors="pt")
        rows, columns = inputs["reshaped_input_sizes"][0].tolist()
        valid = torch.zeros(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
        valid[:rows, :columns] = True
        for stride in (1, 2, 4):
            seen = valid[stride // 2 :: stride, stride // 2 :: stride]
            logits = torch.where(seen, 5.0, -20.0)
            if seen.any():
                restored = processor.restore(logits, (height, width), inputs["scan_boxes"][0])
                assert torch.allclose(restored, torch.tensor(5.0))


@torch.no_grad()
def test_the_model_does_not_see_padding_as_tissue():
    """A wide image: nothing outside it is ever lesion, uncertain, or framed by the box."""
    model, processor = tiny_model(), PROCESSORS["SFRecSamImageProcessor"]
    wide, _ = scan(30, 120, seed=1)
    inputs = processor(wide, return_tensors="pt")
    output = model(**inputs)
    height = int(inputs["reshaped_input_sizes"][0, 0])
    assert height == 16
    assert (output.pred_masks[..., height // 2 :, :] < 0).all()
    assert output.prompt_boxes[0, 0, 3] <= height * 1.2
    disturbed = inputs["pixel_values"].clone()
    disturbed[..., height:, :] = 3.0
    branch = [
        model.branch(
            pixels.mean(dim=1, keepdim=True), torch.zeros(1, 1, 64, 64).index_fill(2, torch.arange(height), 1.0)
        )[0]
        for pixels in (inputs["pixel_values"], disturbed)
    ]
    assert torch.equal(*branch)


def test_batches_of_different_sizes(processor):
    images = [scan(40 + 13 * index, 100 - 9 * index, index)[0] for index in range(4)]
    batch = processor(images, return_tensors="pt")
    for index, image in enumerate(images):
        alone = processor(image, return_tensors="pt")
        for name in ("pixel_values", "original_sizes", "scan_boxes", "reshaped_input_sizes"):
            assert torch.equal(batch[name][index], alone[name][0]), name
    stack = processor(np.stack([np.stack([PIXELS] * 3, -1)] * 2), return_tensors="pt")
    assert stack["pixel_values"].shape[0] == 2


MASKS = {
    "0 and 255": np.asarray(MASK),
    "0 and 1": np.asarray(MASK) // 255,
    "boolean": np.asarray(MASK) > 0,
    "boolean tensor": torch.tensor(np.asarray(MASK) > 0),
    "PIL 1-bit": MASK.convert("1"),
    "PIL RGB": MASK.convert("RGB"),
    "PIL palette": MASK.convert("P"),
    "RGB array": np.stack([np.asarray(MASK)] * 3, axis=-1),
    "red on black": PIL.Image.merge("RGB", [MASK, MASK.point(lambda _: 0), MASK.point(lambda _: 0)]),
    "float": np.asarray(MASK) / 255.0,
    "16-bit": np.asarray(MASK).astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", MASKS)
def test_the_same_mask_in_every_form(processor, kind):
    expected = processor(GRAY, MASK, return_tensors="pt")["labels"]
    assert 0 < expected.float().mean() < 1
    assert torch.equal(processor(GRAY, [MASKS[kind]], return_tensors="pt")["labels"], expected)


def test_both_backends_agree():
    one, other = (processor(GRAY, MASK, return_tensors="pt") for processor in PROCESSORS.values())
    assert (one["pixel_values"] - other["pixel_values"]).abs().max() < 0.06
    assert (one["labels"] != other["labels"]).float().mean() < 0.01
    assert torch.equal(one["reshaped_input_sizes"], other["reshaped_input_sizes"])


@torch.no_grad()
def test_post_processing_gives_masks_of_the_original_sizes(processor):
    images = [scan(45, 80, 1)[0], scan(123, 77, 2)[0]]
    inputs = processor(images, return_tensors="pt")
    outputs = tiny_model()(**inputs)
    sizes = inputs["original_sizes"].tolist()
    for mask, size in zip(
        processor.post_process_semantic_segmentation(outputs, target_sizes=sizes), sizes, strict=True
    ):
        assert (list(mask.shape), mask.dtype) == (size, torch.int64)
        assert set(mask.unique().tolist()) <= {0, 1}
    scored = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    for result in scored:
        assert result["segmentation_scores"].shape == (2, *result["segmentation"].shape)
        assert torch.equal(result["segmentation"], result["segmentation_scores"].argmax(dim=0))
    padded = processor.post_process_semantic_segmentation(outputs)
    assert [tuple(mask.shape) for mask in padded] == [(32, 32)] * 2
    reshaped = inputs["reshaped_input_sizes"].tolist()
    as_sam = processor.post_process_masks(outputs.pred_masks, sizes, reshaped, scan_boxes=inputs["scan_boxes"])
    assert [list(mask.shape[-2:]) for mask in as_sam] == sizes
    assert all(mask.dtype == torch.bool for mask in as_sam)
    with pytest.raises(ValueError, match="1 target_sizes were given for 2 images"):
        processor.post_process_semantic_segmentation(outputs, target_sizes=sizes[:1])


def test_the_size_can_be_chosen():
    processor = SFRecSamImageProcessor(image_size=128)
    assert processor(GRAY, return_tensors="pt")["pixel_values"].shape == (1, 3, 128, 128)
    assert SFRecSamImageProcessor()(GRAY, return_tensors="pt")["pixel_values"].shape == (1, 3, 256, 256)
