"""Any image a user has, as 8-bit RGB; any mask, as booleans. Everything else is refused in one sentence."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import load_image

MAX_SIDE = 16384
EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}

ImageLike = str | Path | PIL.Image.Image | np.ndarray | torch.Tensor


def read_rgb(image: ImageLike, name: str = "image") -> PIL.Image.Image:
    """
    Reads one image of any kind and mode as 8-bit RGB, upright.

    16-bit and float images are stretched from their darkest to their brightest pixel, unless they already lie in
    [0, 255] or [0, 1]; transparency is laid over black, where there is no tissue.

    Args:
        image (`str`, `Path`, `PIL.Image.Image`, `numpy.ndarray` or `torch.Tensor`):
            Path, URL, or pixels: `(height, width)`, `(height, width, channels)` or `(channels, height, width)`.
        name (`str`): How to call it in an error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, is truncated, has NaN pixels, or its size is absurd.
    """
    if isinstance(image, (str, Path)):
        name, image = str(image), _open(str(image))
    if isinstance(image, PIL.Image.Image):
        check_size(image.size, name)
        image = _decoded(image, name)
        if image.mode[0] not in "IF":
            return _flattened(image)
        image = np.asarray(image)
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise ValueError(f"{name} is a {type(image).__name__}; pass a path, URL, PIL image, array or tensor.")
    return PIL.Image.fromarray(_rgb_array(image, name))


def read_mask(mask: ImageLike, name: str = "mask") -> np.ndarray:
    """
    Reads one mask as booleans: above one half of its range is lesion, so anti-aliased edges are cut in the middle.

    Args:
        mask (`str`, `Path`, `PIL.Image.Image`, `numpy.ndarray` or `torch.Tensor`): Boolean, {0, 1}, or [0, 255].
        name (`str`): How to call it in an error.

    Returns:
        `numpy.ndarray` of shape `(height, width)`.

    Raises:
        FileNotFoundError, ValueError: As for [`read_rgb`].
    """
    if isinstance(mask, (str, Path)):
        name, mask = str(mask), _open(str(mask))
    if isinstance(mask, PIL.Image.Image):
        check_size(mask.size, name)
        mask = np.asarray(_flattened(_decoded(mask, name)) if mask.mode[0] not in "IF" else mask)
    array = np.squeeze(mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask))
    if array.ndim == 3:
        array = array[..., :3].max(axis=-1)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; a mask needs height and width only.")
    if array.dtype == bool:
        return array
    brightest = float(array.max()) if array.size else 0.0
    return array > (0.5 if brightest <= 1 else 127 if brightest <= 255 else brightest / 2)


def mask_stem(stem: str) -> str:
    """The image that a mask's name implies: `x` for `x_mask`, `x_mask_1`, `x_gt` and `mask_x`; itself otherwise."""
    return re.sub(r"(_mask|_gt|_seg)(_?\d+)?$|^mask_", "", stem, flags=re.IGNORECASE)


def check_size(size: tuple[int, int], name: str) -> None:
    """Refuses a `(width, height)` that no ultrasound image has."""
    if min(size) < 2 or max(size) > MAX_SIDE:
        raise ValueError(f"{name} is {size[0]}x{size[1]} pixels; images need 2 to {MAX_SIDE} pixels a side.")


def _open(source: str) -> PIL.Image.Image:
    if source.startswith(("http://", "https://", "data:image/")):
        return load_image(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{source} does not exist; check the path.")
    if path.stat().st_size == 0:
        raise ValueError(f"{source} is empty; fetch or export it again.")
    try:
        return PIL.Image.open(path)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"{source} is absurdly large; images need 2 to {MAX_SIDE} pixels a side.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{source} is not an image that Pillow can read; convert it to PNG.") from error


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
