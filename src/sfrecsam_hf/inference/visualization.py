"""Pictures for people: contours, heatmaps, corrections, contact sheets. Colours are safe for colour-blind eyes."""

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from scipy import ndimage

from ..modeling.image_reading import read_rgb
from ..modeling.lesions import Axes
from ..modeling.segmentation import Segmentation

LINE = 2
CONTOUR = (255, 194, 10)
TRUTH = (64, 176, 255)
ADDED = (26, 133, 255)
REMOVED = (230, 97, 0)
AXES = (255, 255, 255)
# Black outside, and eight colours (Okabe and Ito) again and again for numbered lesions.
LESION_COLOURS = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)]
LESION_COLOURS += [(0, 114, 178), (213, 94, 0), (204, 121, 167), (255, 255, 255)]
LABEL_COLOURS = [(0, 0, 0), *(LESION_COLOURS * 32)[:255]]
# Nine steps of viridis (matplotlib), so that a prediction needs no plotting library.
VIRIDIS = [(68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128)]
VIRIDIS += [(94, 201, 98), (173, 220, 48), (253, 231, 37)]


def contour(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The inner border of a boolean mask of shape `(height, width)`, `thickness` pixels wide."""
    return mask & ~ndimage.binary_erosion(mask, iterations=thickness, border_value=0)


def outline_width(size: tuple[int, int]) -> int:
    """Of an outline in a picture of this width and height: 2 pixels, more in one above 750."""
    return max(LINE, round(max(size) / 300))


def overlay(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray | None = None) -> PIL.Image.Image:
    """
    The image with the mask's contour in yellow and, if given, the true one in blue below it.

    Args:
        image (`PIL.Image.Image`): Any mode.
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean, of the image's size.
        truth (`numpy.ndarray` of shape `(height, width)`, *optional*): Boolean.
    """
    pixels = np.array(read_rgb(image))
    thickness = outline_width(image.size)
    if truth is not None:
        pixels[contour(truth, thickness)] = TRUTH
    pixels[contour(mask, thickness)] = CONTOUR
    return PIL.Image.fromarray(pixels)


def with_axes(picture: PIL.Image.Image, lesions: list[Axes]) -> PIL.Image.Image:
    """The picture with the longest line across each lesion, and the longest at right angles to it."""
    drawn = picture.copy()
    draw = PIL.ImageDraw.Draw(drawn)
    width = max(1, outline_width(picture.size) // 2)
    for lesion in lesions:
        for line in (lesion.longest_line, lesion.perpendicular_line):
            draw.line([tuple(end) for end in line], fill=AXES, width=width)
    return drawn


def answer_picture(
    image: PIL.Image.Image, found: Segmentation, spacings: list[tuple[float, float] | None]
) -> PIL.Image.Image:
    """
    The image with the outlines of its lesions, their axes and a colour key.

    Args:
        image (`PIL.Image.Image`): Any mode.
        found ([`Segmentation`]): Its answer.
        spacings (`list`): Height and width of a pixel at each lesion, or None where pixels are square.
    """
    lines = [lesion.axes(spacing or (1.0, 1.0)) for lesion, spacing in zip(found.lesions, spacings, strict=True)]
    picture = with_axes(overlay(image, found.mask), lines)
    return keyed(picture, {"lesion": CONTOUR, "axes": AXES}, found.mask)


def keyed(
    picture: PIL.Image.Image, colours: dict[str, tuple[int, int, int]], avoid: np.ndarray | None = None
) -> PIL.Image.Image:
    """
    The picture with a colour key in the corner where it hides least; as it is if the key would hide a quarter of it.

    Args:
        picture (`PIL.Image.Image`): Of mode RGB.
        colours (`dict[str, tuple[int, int, int]]`): What each colour means.
        avoid (`numpy.ndarray` of shape `(height, width)`, *optional*): Boolean, what should not be hidden.
    """
    size = min(24, max(10, round(max(picture.size) / 40)))
    font, gap = PIL.ImageFont.load_default(size), size // 3
    width = size + 3 * gap + max(math.ceil(font.getlength(text)) for text in colours)
    height = len(colours) * (size + gap) + gap
    if width * height > picture.width * picture.height / 4:
        return picture
    corners = [(x, y) for y in (picture.height - height, 0) for x in (0, picture.width - width)]
    if avoid is not None:
        corners.sort(key=lambda corner: avoid[corner[1] : corner[1] + height, corner[0] : corner[0] + width].sum())
    left, top = corners[0]
    drawn = picture.copy()
    draw = PIL.ImageDraw.Draw(drawn)
    draw.rectangle([left, top, left + width - 1, top + height - 1], fill="black")
    for row, (text, colour) in enumerate(colours.items()):
        x, y = left + gap, top + gap + row * (size + gap)
        draw.rectangle([x, y, x + size - 1, y + size - 1], fill=colour)
        draw.text((x + size + gap, y + size / 2), text, fill="white", font=font, anchor="lm")
    return drawn


def heatmap(image: PIL.Image.Image, values: np.ndarray) -> PIL.Image.Image:
    """
    `values` of shape `(height, width)` in [0, 1] over the gray image: transparent at 0, viridis above.

    Args:
        image (`PIL.Image.Image`): Any mode.
        values (`numpy.ndarray` of shape `(height, width)`): In [0, 1].
    """
    gray = np.asarray(read_rgb(image).convert("L").convert("RGB"), dtype=np.float32)
    values = np.clip(values, 0, 1)
    steps = np.linspace(0, 1, len(VIRIDIS))
    colour = np.stack([np.interp(values, steps, channel) for channel in np.transpose(VIRIDIS)], axis=-1)
    weight = np.sqrt(values)[..., None] * 0.85
    return PIL.Image.fromarray((gray * (1 - weight) + colour * weight).astype(np.uint8))


def corrections(image: PIL.Image.Image, initial: np.ndarray, final: np.ndarray) -> PIL.Image.Image:
    """The image with pixels that the correctors added in blue and those they removed in orange."""
    pixels = np.array(read_rgb(image).convert("L").convert("RGB"))
    pixels[contour(final, outline_width(image.size))] = CONTOUR
    pixels[final & ~initial] = ADDED
    pixels[initial & ~final] = REMOVED
    return PIL.Image.fromarray(pixels)


def outline_sheet(
    images: list[PIL.Image.Image],
    masks: list[np.ndarray],
    truths: list[np.ndarray],
    captions: list[str],
    side: int = 256,
) -> PIL.Image.Image:
    """
    A [`contact_sheet`] of outlines. Images are shrunk before the lines are drawn, so that the lines stay visible.

    Args:
        images (`list[PIL.Image.Image]`): At least one, of any mode.
        masks (`list[numpy.ndarray]` of shape `(height, width)`): Boolean, of each image's size.
        truths (`list[numpy.ndarray]` of shape `(height, width)`): The true masks.
        captions (`list[str]`): One line each.
        side (`int`): Longest side of a tile.
    """
    tiles = []
    for image, *pair in zip(images, masks, truths, strict=True):
        small = read_rgb(image)
        small.thumbnail((side, side))
        tiles.append(overlay(small, *(np.asarray(PIL.Image.fromarray(mask).resize(small.size)) for mask in pair)))
    return contact_sheet(tiles, captions, side, key={"model": CONTOUR, "annotator": TRUTH})


def contact_sheet(
    tiles: list[PIL.Image.Image],
    captions: list[str],
    side: int = 256,
    columns: int | None = None,
    key: dict[str, tuple[int, int, int]] | None = None,
) -> PIL.Image.Image:
    """
    Pictures side by side, each shrunk to `side` pixels and captioned.

    Args:
        tiles (`list[PIL.Image.Image]`): At least one.
        captions (`list[str]`): One line each.
        side (`int`): Longest side of a tile.
        columns (`int`, *optional*): Tiles in a row; a landscape sheet if not given.
        key (`dict[str, tuple[int, int, int]]`, *optional*): What each colour means, for a line at the bottom.
    """
    columns = columns or math.ceil(math.sqrt(len(tiles) * 1.5))
    line = 16
    rows = math.ceil(len(tiles) / columns)
    sheet = PIL.Image.new("RGB", (columns * side, rows * (side + line) + line * bool(key)), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = index % columns * side, index // columns * (side + line)
        shrunk = tile.convert("RGB")
        shrunk.thumbnail((side, side))
        sheet.paste(shrunk, (left, top + line))
        draw.text((left + 2, top + 2), caption, fill="black")
    left, top = 2, rows * (side + line)
    for name, colour in (key or {}).items():
        draw.rectangle((left, top + 3, left + 16, top + 12), fill=colour)
        draw.text((left + 22, top + 2), name, fill="black")
        left += 36 + round(draw.textlength(name))
    return sheet
