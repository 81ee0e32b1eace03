"""Pictures for people: contours, heatmaps, corrections, contact sheets. Colours are safe for colour-blind eyes."""

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
from scipy import ndimage

CONTOUR = (255, 194, 10)
TRUTH = (64, 176, 255)
ADDED = (26, 133, 255)
REMOVED = (230, 97, 0)
# Nine steps of viridis (matplotlib), so that a prediction needs no plotting library.
VIRIDIS = [(68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128)]
VIRIDIS += [(94, 201, 98), (173, 220, 48), (253, 231, 37)]


def contour(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The inner border of a boolean mask of shape `(height, width)`, `thickness` pixels wide."""
    return mask & ~ndimage.binary_erosion(mask, iterations=thickness, border_value=0)


def overlay(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray | None = None) -> PIL.Image.Image:
    """
    The image with the mask's contour in yellow and, if given, the true one in blue below it.

    Args:
        image (`PIL.Image.Image`): Any mode.
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, of the image's size.
        truth (`numpy.ndarray` of shape `(height, width)`, *optional*): Boolean.
    """
    pixels = np.array(image.convert("RGB"))
    thickness = max(1, round(max(pixels.shape) / 300))
    if truth is not None:
        pixels[contour(truth, thickness)] = TRUTH
    pixels[contour(mask, thickness)] = CONTOUR
    return PIL.Image.fromarray(pixels)


def heatmap(image: PIL.Image.Image, values: np.ndarray) -> PIL.Image.Image:
    """
    `values` of shape `(height, width)` in [0, 1] over the gray image: transparent at 0, viridis above.

    Args:
        image (`PIL.Image.Image`): Any mode.
        values (`numpy.ndarray` of shape `(height, width)`): In [0, 1].
    """
    gray = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    values = np.clip(values, 0, 1)
    steps = np.linspace(0, 1, len(VIRIDIS))
    colour = np.stack([np.interp(values, steps, channel) for channel in np.transpose(VIRIDIS)], axis=-1)
    weight = np.sqrt(values)[..., None] * 0.85
    return PIL.Image.fromarray((gray * (1 - weight) + colour * weight).astype(np.uint8))


def corrections(image: PIL.Image.Image, initial: np.ndarray, final: np.ndarray) -> PIL.Image.Image:
    """The image with pixels that the correctors added in blue and those they removed in orange."""
    pixels = np.array(image.convert("L").convert("RGB"))
    pixels[contour(final)] = CONTOUR
    pixels[final & ~initial] = ADDED
    pixels[initial & ~final] = REMOVED
    return PIL.Image.fromarray(pixels)


def contact_sheet(
    tiles: list[PIL.Image.Image], captions: list[str], side: int = 256, columns: int | None = None
) -> PIL.Image.Image:
    """
    Pictures side by side, each shrunk to `side` pixels and captioned.

    Args:
        tiles (`list[PIL.Image.Image]`): At least one.
        captions (`list[str]`): One line each.
        side (`int`): Longest side of a tile.
        columns (`int`, *optional*): Tiles in a row; a landscape sheet if not given.
    """
    columns = columns or math.ceil(math.sqrt(len(tiles) * 1.5))
    line = 16
    sheet = PIL.Image.new("RGB", (columns * side, math.ceil(len(tiles) / columns) * (side + line)))
    draw = PIL.ImageDraw.Draw(sheet)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = index % columns * side, index // columns * (side + line)
        shrunk = tile.convert("RGB")
        shrunk.thumbnail((side, side))
        sheet.paste(shrunk, (left, top + line))
        draw.text((left + 2, top + 2), caption, fill="white")
    return sheet
