"""A mask is read for what it draws: labels, colours, palettes and alpha are shapes, and only soft edges are cut."""

import io

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest
import torch
from conftest import scan
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.modeling.image_reading import mask_stem, read_mask

SHAPE = np.asarray(scan(60, 80, 3)[1]) > 0


def colour(values: tuple[int, ...]) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.where(SHAPE[..., None], np.uint8(values), np.uint8(0)))


def palette(colours: list[int]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(SHAPE.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


def alpha(inside: tuple[int, ...], outside: tuple[int, ...]) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.where(SHAPE[..., None], np.uint8(inside), np.uint8(outside)))


KINDS = {
    "boolean": PIL.Image.fromarray(SHAPE),
    "dark red": colour((90, 0, 0)),
    "dark green in a palette": palette([0, 0, 0, 0, 100, 0]),
    "palette without colours": palette([0, 0, 0, 0, 0, 0]),
    "16-bit label": PIL.Image.fromarray(SHAPE.astype(np.uint16) * 2),
    "float label": PIL.Image.fromarray(SHAPE.astype(np.float32) * 0.3),
    "white on transparent": alpha((255, 255, 255, 255), (255, 255, 255, 0)),
    "black on transparent": alpha((0, 0, 0, 255), (0, 0, 0, 0)),
    "faint on transparent": alpha((0, 0, 0, 40), (0, 0, 0, 0)),
    "gray and alpha": alpha((9, 255), (9, 0)),
    "white, opaque": alpha((255, 255, 255, 255), (0, 0, 0, 255)),
    "array with alpha": np.asarray(alpha((0, 0, 0, 255), (0, 0, 0, 0))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask(kind):
    assert np.array_equal(read_mask(KINDS[kind]), SHAPE)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(1, 65535), min_size=1, max_size=4),
    kind=st.sampled_from([np.uint16, np.int32, np.float32]),
    seed=st.integers(0, 99),
)
def test_every_label_is_lesion(labels, kind, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, *labels], (6, 8))
    values = np.kron(coarse, np.ones((5, 5))).astype(kind)
    assert np.array_equal(read_mask(values), values > 0)


@pytest.mark.parametrize("label", [2, 9])
def test_a_label_that_is_a_line_or_a_dot_is_lesion(label):
    values = SHAPE.astype(np.uint8) * label
    values[2, 5:40] = values[55, 70] = 1
    assert np.array_equal(read_mask(values), values > 0)


@pytest.mark.parametrize("brightest", [255, 100])
def test_soft_edges_are_cut_in_the_middle(brightest):
    large = PIL.Image.fromarray(np.kron(SHAPE, np.ones((4, 4))).astype(np.uint8) * brightest)
    for soft in (large.resize((80, 60), PIL.Image.Resampling.BOX), PIL.Image.fromarray(SHAPE).convert("L")):
        assert np.array_equal(read_mask(soft), SHAPE)
    blurred = PIL.Image.fromarray(SHAPE.astype(np.uint8) * brightest).filter(PIL.ImageFilter.GaussianBlur(2))
    assert np.array_equal(read_mask(blurred), np.asarray(blurred) > blurred.getextrema()[1] / 2)


@pytest.mark.parametrize("quality", [60, 90, 100])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_noise_of_compression_is_no_lesion(kind, quality):
    file = io.BytesIO()
    PIL.Image.fromarray(SHAPE.astype(np.uint8) * 255).save(file, kind, quality=quality)
    differing = read_mask(PIL.Image.open(file)) != SHAPE
    assert differing.mean() < 0.005


def test_a_mask_is_never_emptied_in_silence():
    soft = np.linspace(0, 0.4, 4800).reshape(60, 80)
    with pytest.raises(ValueError, match=r"soft\.png has no pixel above 0\.5 and would be empty"):
        read_mask(soft, "soft.png")
    assert not read_mask(np.zeros((4, 5), np.uint8)).any()


def test_a_mask_in_half_precision():
    assert np.array_equal(read_mask(torch.tensor(SHAPE).bfloat16()), SHAPE)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_what_is_no_mask_is_refused(value):
    with pytest.raises(ValueError, match="negative or no numbers"):
        read_mask(np.where(SHAPE, value, 0.0))


@pytest.mark.parametrize(
    ("stem", "image"),
    [("x_mask", "x"), ("X_MASK_1", "X"), ("x-gt", "x"), ("x_tumor", "x"), ("mask_7", "7"), ("mask", "mask")],
)
def test_the_name_of_a_mask_tells_its_image(stem, image):
    assert mask_stem(stem) == image
