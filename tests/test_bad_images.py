"""What is no usable image or mask is refused in one sentence that names it, and never half processed."""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import IMAGE_SIZE, scan

from sfrecsam_hf import SFRecSamImageProcessor

GRAY, MASK = scan(60, 90, seed=3)


@pytest.fixture(scope="module")
def processor():
    return SFRecSamImageProcessor(image_size=IMAGE_SIZE)


def one_sentence(error):
    message = str(error.value)
    return "\n" not in message and len(message) < 300


def test_a_missing_file(processor, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist; check the path") as error:
        processor(tmp_path / "none.png")
    assert one_sentence(error)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        processor(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"scan\.png is empty"),
        (b"just text, and no image", r"scan\.png is not an image that Pillow can read"),
        (b"\x89PNG\r\n\x1a\n", r"scan\.png is (not an image|truncated)"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", r"scan\.png is (not an image|truncated)"),
    ],
    ids=["empty", "text", "PNG header alone", "JPEG header alone"],
)
def test_a_file_that_is_no_image(processor, tmp_path, content, message):
    (tmp_path / "scan.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        processor(tmp_path / "scan.png")
    assert one_sentence(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif", "webp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file(processor, tmp_path, suffix, kept):
    path = tmp_path / f"scan.{suffix}"
    GRAY.convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"scan\.{suffix} is (truncated|not an image)") as error:
        processor(path)
    assert one_sentence(error)


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (0, 10), (10, 0)])
def test_a_side_of_less_than_two_pixels(processor, shape):
    with pytest.raises(ValueError, match=rf"image 0 is {shape[1]}x{shape[0]} pixels; images need 2 to"):
        processor(np.zeros(shape, np.uint8))
    if 0 not in shape:
        with pytest.raises(ValueError, match="images need 2 to"):
            processor(PIL.Image.new("L", shape[::-1]))


def test_an_absurd_size(processor, tmp_path):
    with pytest.raises(ValueError, match=r"20000x2 pixels; images need 2 to 16384"):
        processor(np.zeros((2, 20000), np.uint8))
    PIL.Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge\.png is .*images need 2 to 16384 pixels a side"):
        processor(tmp_path / "huge.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_number(processor, value):
    pixels = np.full((20, 30), 0.5)
    pixels[3, 4] = value
    for image in (pixels, torch.tensor(pixels), PIL.Image.fromarray(pixels.astype(np.float32))):
        with pytest.raises(ValueError, match="image 0 has NaN or infinite pixels"):
            processor(image)


@pytest.mark.parametrize("shape", [(20,), (20, 30, 2), (20, 30, 7), (2, 3, 20, 30, 3)])
def test_arrays_of_a_strange_shape(processor, shape):
    with pytest.raises(ValueError, match=r"has shape .*; pass \(height, width\)"):
        processor([np.zeros(shape, np.uint8)])


@pytest.mark.parametrize("thing", [None, 3, {"image": 1}, object()])
def test_things_that_are_no_image(processor, thing):
    with pytest.raises(ValueError, match=r"image 0 is a \w+; pass a path"):
        processor([thing])


def test_no_image_at_all(processor):
    with pytest.raises(ValueError, match="images is empty"):
        processor([])


def test_the_bad_one_of_a_batch_is_named(processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken\.png is empty"):
        processor([GRAY, tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="image 2"):
        processor([GRAY, GRAY, np.zeros((1, 5), np.uint8)])


def test_a_mask_of_another_size(processor):
    with pytest.raises(ValueError, match=r"mask 1 is 45x30 pixels but its image is 90x60; export both") as error:
        processor([GRAY, GRAY], [MASK, MASK.resize((45, 30))])
    assert one_sentence(error)


def test_another_number_of_masks(processor):
    with pytest.raises(ValueError, match="1 masks were given for 2 images"):
        processor([GRAY, GRAY], [MASK])


def test_a_mask_that_is_no_mask(processor, tmp_path):
    with pytest.raises(ValueError, match="a mask needs height and width only"):
        processor(GRAY, [np.zeros((2, 2, 60, 90))])
    with pytest.raises(FileNotFoundError, match=r"gone_mask\.png does not exist"):
        processor(GRAY, [tmp_path / "gone_mask.png"])
    (tmp_path / "broken_mask.png").write_bytes(b"no mask")
    with pytest.raises(ValueError, match=r"broken_mask\.png is not an image"):
        processor(GRAY, [tmp_path / "broken_mask.png"])


def test_an_image_of_another_size_than_the_model(model):
    with pytest.raises(ValueError, match=r"doesn't match model"):
        model(torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("name", "remedy"), [("scan.png", "fetch or export it again"), ("scan.xyz", "convert it to PNG")]
)
def test_a_png_is_not_to_be_converted_to_png(processor, tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"just text, and no image")
    with pytest.raises(ValueError, match=remedy):
        processor(tmp_path / name)
