"""Any image a user has, as 8-bit RGB; any mask, as booleans. Everything else is refused in one sentence."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from .image_sources import ImageLike, file_of, is_image
from .tidying import components

MAX_SIDE = 16384
MAX_MEGAPIXELS = 25.0  # about 26 bytes a pixel are needed to segment: 0.7 GB
MEGAPIXELS_VARIABLE = "SFRECSAM_MAX_MEGAPIXELS"
EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".webp", ".gif", ".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"}
)
MASK_WORDS = "masks?|gt|ground_?truth|segs?|segmentations?"
MASK_NAME = re.compile(
    rf"(?<=.)[_\-. ]({MASK_WORDS}|lesions?|tumou?rs?)([_\- ]?\d+)?$|^({MASK_WORDS})[_\-. ](?=.)", re.IGNORECASE
)
FEW = 2  # values that are labels rather than a soft edge or the noise of compression
NOISE = 0.04  # values that lossy compression leaves around a shape, as a share of the brightest

logger = logging.getLogger(__name__)


def read_rgb(image: ImageLike, name: str = "image") -> PIL.Image.Image:
    """
    Reads one image of any kind and mode as 8-bit RGB, upright.

    16-bit and float images are stretched from their darkest to their brightest pixel, unless they already lie in
    [0, 255] or [0, 1]; transparency is laid over black, where there is no tissue.

    Args:
        image (`str`, `Path`, `PIL.Image.Image`, `numpy.ndarray`, `torch.Tensor`, `bytes` or a file open for bytes):
            Path, address, base64, the bytes of a file, or pixels: `(height, width)`, `(height, width, channels)` or
            `(channels, height, width)`.
        name (`str`): How to call it in an error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, is truncated, has NaN pixels or several frames, or its size is out of bounds.
    """
    if not isinstance(image, PIL.Image.Image | np.ndarray | torch.Tensor):
        image, name = _opened(image, name)
    if isinstance(image, PIL.Image.Image):
        check_size(image.size, name)
        image = _decoded(image, name)
        if image.mode[0] not in "IF":
            return _flattened(image)
        image = np.asarray(image)
    return PIL.Image.fromarray(_rgb_array(image, name))


def picture_frames(path: str | Path, start: int = 0) -> Iterator[PIL.Image.Image]:
    """
    The frames of a GIF, APNG, WebP or TIFF from an index on, each read as by [`read_rgb`] when it is asked for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Pillow cannot read it, or a frame is damaged.
    """
    file, name = file_of(path, "clip")
    try:
        opened = PIL.Image.open(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{name} is not a clip that Pillow can read; read a video or DICOM by sfrecsam_hf.open_clip and give its "
            "frames."
        ) from error
    with opened as image:
        for index in range(start, getattr(image, "n_frames", 1)):
            try:
                image.seek(index)
                yield read_rgb(image.copy(), name=f"frame {index + 1} of {name}")
            except (OSError, EOFError, SyntaxError) as error:
                raise ValueError(f"Frame {index + 1} of {name} is damaged; export the clip again.") from error


def read_mask(mask: ImageLike, name: str = "mask") -> np.ndarray:
    """
    Reads one mask as booleans.

    Values that fill areas are labels, colours or a palette: everything above zero is lesion. Values that only lie
    between zero and the brightest along an edge are anti-aliasing: above one half is lesion. A shape in the alpha
    channel counts where the colours show none.

    Args:
        mask (`str`, `Path`, `PIL.Image.Image`, `numpy.ndarray` or `torch.Tensor`):
            Boolean, labels, [0, 1] or [0, 255].
        name (`str`): How to call it in an error.

    Returns:
        `numpy.ndarray` of shape `(height, width)`.

    Raises:
        FileNotFoundError, ValueError: As for [`read_rgb`]; or its values are negative or no numbers, or all of them
            lie below one half of [0, 1].
    """
    if not isinstance(mask, PIL.Image.Image | np.ndarray | torch.Tensor | list):
        mask, name = _opened(mask, name)
    if isinstance(mask, torch.Tensor):
        mask = (mask.float() if mask.is_floating_point() else mask).detach().cpu().numpy()  # NumPy has no bfloat16
    if isinstance(mask, np.ndarray):
        mask = np.squeeze(mask)
        if mask.dtype == np.uint8 and mask.ndim == 3 and mask.shape[-1] == 4:
            mask = PIL.Image.fromarray(mask)
    if isinstance(mask, PIL.Image.Image):
        check_size(mask.size, name)
        mask = _mask_values(_decoded(mask, name))
    array = np.asarray(mask)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].max(axis=-1)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; a mask needs height and width only.")
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} has values that are negative or no numbers; a mask is 0 outside the lesion.")
    return _lesion(array, name)


def _mask_values(image: PIL.Image.Image) -> np.ndarray:
    """The channel, or the index of the palette, that draws the shape."""
    if image.mode[0] in "1IF":
        return np.asarray(image)
    colours = np.asarray(image.convert("RGBA"))
    alpha, brightest = colours[..., 3], colours[..., :3].max(axis=-1)
    if alpha.min() < alpha.max():
        shown = np.asarray(_flattened(image)).max(axis=-1)
        return shown if shown.any() else alpha
    return np.asarray(image) if image.mode == "P" and not brightest.any() else brightest


def _lesion(values: np.ndarray, name: str) -> np.ndarray:
    top = max(float(values.max()), 1.0) if values.dtype.kind == "f" else float(values.max())
    low = (values > 0) & (values <= top / 2)
    lesion = values > 0 if _fill_areas(values, low, top) else values > top / 2
    if low.any() and not lesion.any():
        raise ValueError(f"{name} has no pixel above {top / 2:g} and would be empty; save its lesion as {top:g}.")
    return lesion


def _fill_areas(values: np.ndarray, low: np.ndarray, top: float) -> bool:
    """Whether values up to one half are no edge or noise: few, and a piece has no other; or mostly in squares."""
    if len(np.unique(values[low])) <= FEW:
        pieces, count = components(values > NOISE * top)
        highest = np.zeros(count + 1)
        np.maximum.at(highest, pieces.ravel(), values.ravel())
        if (highest[1:] <= top / 2).any():  # a line has no squares
            return True
    elif values.dtype == np.uint8:  # what a JPEG leaves; it has 8 bits
        low = low & (values > NOISE * top)
    same = (values[:-1, :-1] == values[1:, 1:]) & (values[:-1, :-1] == values[:-1, 1:])
    same &= values[:-1, :-1] == values[1:, :-1]
    flat = np.zeros(values.shape, dtype=bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            flat[rows, columns] |= same
    return bool(low.any()) and float(flat[low].mean()) >= 0.5


def mask_stem(stem: str) -> str:
    """The image that a mask's name implies: `x` for `x_mask`, `x_mask_1`, `x-gt`, `x_tumor`, `mask_x`; or itself."""
    return MASK_NAME.sub("", stem)


def max_megapixels() -> float:
    """The largest image that is read, in megapixels; the environment variable SFRECSAM_MAX_MEGAPIXELS changes it."""
    given = os.environ.get(MEGAPIXELS_VARIABLE, MAX_MEGAPIXELS)
    try:
        bound = float(given)
    except ValueError:
        bound = 0.0
    if not bound > 0:
        raise ValueError(f"{MEGAPIXELS_VARIABLE}={given} must be a number above 0.")
    return bound


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuses a `(width, height)` that no ultrasound image has, or that is above [`max_megapixels`]."""
    if min(size) < 2 or max(size) > MAX_SIDE:
        raise ValueError(f"{name} is {size[0]}x{size[1]} pixels; images need 2 to {MAX_SIDE} pixels a side.")
    megapixels, bound = size[0] * size[1] / 1e6, max_megapixels()
    if megapixels > bound:
        raise ValueError(
            f"{name} is {size[0]}x{size[1]} pixels, {megapixels:.3g} megapixels of at most {bound:g}; "
            f"save it smaller, or set {MEGAPIXELS_VARIABLE}."
        )


def open_image(file: Path | BinaryIO, name: str) -> PIL.Image.Image:
    """
    Opens one picture without decoding it. A JPEG above [`max_megapixels`] is going to be decoded at a half, a quarter
    or an eighth of its size, which is logged.

    Raises:
        ValueError: Pillow does not know the format, the file is damaged, or it has several frames.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # our own bound is lower
            image = PIL.Image.open(file)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is above Pillow's own bound; images need 2 to {MAX_SIDE} pixels a side and "
            f"at most {max_megapixels():g} megapixels."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        known = Path(name).suffix.lower() in EXTENSIONS
        remedy = "it is damaged, or no image; fetch or export it again" if known else "convert it to PNG"
        raise ValueError(f"{name} is not an image that Pillow can read; {remedy}.") from error
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:  # a camera's MPO is one picture and its previews
        raise ValueError(
            f"{name} has {frames} frames; export the one to use, give it to `sfrecsam predict`, or call the "
            "pipeline with clip=True."
        )
    _reduce(image, name)
    return image


def _reduce(image: PIL.Image.Image, name: str) -> None:
    width, height = image.size
    bound = max_megapixels() * 1e6
    if image.format != "JPEG" or width * height <= bound:
        return
    factor = next((factor for factor in (2, 4) if width * height <= bound * factor**2), 8)
    image.draft(None, (width // factor, height // factor))
    logger.warning("%s is read at 1/%d of its %dx%d pixels.", name, factor, width, height)


def _opened(source: Any, name: str) -> tuple[PIL.Image.Image, str]:
    if not is_image(source):
        raise ValueError(f"{name} is a {type(source).__name__}; pass a path, URL, PIL image, array or tensor.")
    file, name = file_of(source, name)
    return open_image(file, name), name


def _decoded(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} is truncated or damaged; fetch or export it again.") from error


def _flattened(image: PIL.Image.Image) -> PIL.Image.Image:
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = PIL.Image.alpha_composite(black, image)
    return image.convert("RGB")


def _rgb_array(pixels: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    array = pixels.detach().cpu().float().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    if isinstance(pixels, torch.Tensor) and not pixels.is_floating_point():
        array = pixels.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {array.shape}; pass (height, width) or 1, 3 or 4 channels.")
    check_size((array.shape[1], array.shape[0]), name)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite pixels; replace them before segmenting.")
    array = array[..., :3].astype(np.float32) if array.dtype != np.uint8 else array[..., :3]
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:
            array = array * 255
        elif low < 0 or high > 255:
            array = (array - low) * (255 / max(high - low, 1e-6))
        array = np.rint(array).astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)
