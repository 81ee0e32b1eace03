"""What one answer looks like, in the viewer and as a picture."""

from pathlib import Path
from typing import Any

import contourpy  # matplotlib comes with it
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from matplotlib import colormaps

from scan import Shown
from sfrecsam_hf import Segmentation
from sfrecsam_hf.inference.guided import Prompt, agreeing
from sfrecsam_hf.inference.visualization import ADDED, CONTOUR, REMOVED, contour, corrections
from sfrecsam_hf.modeling.lesions import Lesion
from words import diameters

SHOWN_SIDE, LARGEST_SHOWN_SIDE = 800, 1600
Spacing = tuple[float, float] | None


def magnification(image: PIL.Image.Image) -> float:
    """How many times larger than it is an image is shown: a whole number for small ones, below 1 for huge ones."""
    side = max(image.size)
    return LARGEST_SHOWN_SIDE / side if side > LARGEST_SHOWN_SIDE else max(1, SHOWN_SIDE // side)


def shown(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image at the size at which it is shown."""
    times = magnification(image)
    return image.resize([max(1, round(side * times)) for side in image.size], PIL.Image.Resampling.BICUBIC)


def shown_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A boolean mask of shape `(height, width)` at `size` `(width, height)`, with smooth borders."""
    return np.asarray(mask_picture(mask).resize(size, PIL.Image.Resampling.BICUBIC)) > 127


def mask_picture(mask: np.ndarray) -> PIL.Image.Image:
    """A boolean mask of shape `(height, width)` as gray values 0 and 255."""
    return PIL.Image.fromarray(mask.astype(np.uint8) * 255)


def save(picture: PIL.Image.Image, path: Path) -> str:
    """Writes a PNG, quickly rather than small, and returns where it is."""
    picture.save(path, compress_level=1)
    return str(path)


def rings(values: np.ndarray) -> list[list[list[float]]]:
    """
    Closed outlines between pixels, where values pass one half; smooth at any zoom.

    Args:
        values (`numpy.ndarray` of shape `(height, width)`): Probabilities in [0, 1], or a boolean mask.

    Returns:
        `list`: Of each ring its `[x, y]`, in pixels of the image; a pixel's middle lies at one half.
    """
    rows, columns = np.nonzero(values > 0.5)
    if not len(rows):
        return []
    top, left = max(rows.min() - 1, 0), max(columns.min() - 1, 0)  # outlines are short, images are not
    inside = np.pad(values[top : rows.max() + 2, left : columns.max() + 2].astype(float), 1)
    lines = contourpy.contour_generator(z=inside).lines(0.5)
    return [np.add(line, (left - 0.5, top - 0.5)).round(2).tolist() for line in lines]


def viewer_value(shown: Shown, found: Segmentation, folder: Path, image: Path, ticket: int) -> dict[str, Any]:
    """
    Everything that the viewer shows.

    Args:
        shown ([`Shown`]): The image.
        found ([`Segmentation`]): The answer.
        folder (`Path`): Where its pictures are written.
        image (`Path`): Where the image lies for the page.
        ticket (`int`): Number of the request that is answered.
    """
    width, height = shown.image.size
    spacing = shown.calibration.spacing(found.mask)
    colours = (colormaps["viridis"](found.uncertainty) * 255).astype(np.uint8)
    colours[..., 3] = np.sqrt(found.uncertainty.clip(0, 1)) * 217  # transparent where the model is sure
    picture = PIL.Image.fromarray(colours)
    picture.thumbnail((512, 512))  # it has no finer detail
    return {
        "name": shown.name,
        "width": width,
        "height": height,
        "ticket": ticket,
        "image": served(image),
        "uncertainty": served(Path(save(picture, folder / "uncertainty.png"))),
        "mask": rings(agreeing(found.final_probability, found.mask)),
        "initial": rings(agreeing(found.initial_probability, found.initial_mask)),
        "reference": [] if shown.reference is None else rings(shown.reference),
        "axes": [axis for lesion in found.lesions for axis in drawn_axes(lesion, spacing)],
        "mm_per_pixel": spacing,
        "guidance": shown.guidance.as_json(),
    }


def overlay_picture(image: PIL.Image.Image, found: Segmentation, prompt: Prompt, spacing: Spacing) -> PIL.Image.Image:
    """The image as it is shown, with outline, diameters and prompts; signs tell clicks apart as well as colours do."""
    picture, times = shown(image.convert("RGB")), magnification(image)
    draw = PIL.ImageDraw.Draw(picture)
    radius = max(7, max(picture.size) // 80)

    def at(points: Any) -> list[tuple[float, float]]:
        return [(x * times, y * times) for x, y in points]

    for ring in rings(agreeing(found.final_probability, found.mask)):
        draw.line(at([*ring, ring[0]]), CONTOUR, width=max(2, radius // 4), joint="curve")
    for lesion in found.lesions:
        for axis in drawn_axes(lesion, spacing):
            line = at(axis["line"])
            draw.line(line, "white", width=1)
            words, (x, y) = axis["text"], max(line)
            x = min(x, picture.width - draw.textlength(words, PIL.ImageFont.load_default(14)) - 4)
            draw.text((x, y), words, fill="white", stroke_fill="black", stroke_width=2, font_size=14)
    if prompt.box is not None:
        draw.rectangle([side * times for side in prompt.box], outline="white", width=2)
    for point, label in zip(at(prompt.points), prompt.labels, strict=True):
        x, y = point
        draw.circle(point, radius, fill=ADDED if label else REMOVED, outline="white", width=2)
        draw.line([x - radius / 2, y, x + radius / 2, y], fill="white", width=3)
        if label:
            draw.line([x, y - radius / 2, x, y + radius / 2], fill="white", width=3)
    return picture


def error_map(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray) -> PIL.Image.Image:
    """The image with what the model marked in vain in blue, what it missed in orange, and the reference outlined."""
    pixels = np.array(corrections(image, truth, mask))
    pixels[contour(truth) & mask] = CONTOUR
    return PIL.Image.fromarray(pixels)


def drawn_axes(lesion: Lesion, spacing: Spacing) -> list[dict[str, Any]]:
    """The two diameters as lines of the image, and both lengths in words at the end of the first."""
    drawn = lesion.axes(spacing or (1.0, 1.0))
    lines = drawn.longest_line, drawn.perpendicular_line
    texts = diameters(lesion, spacing), ""
    return [{"line": line.round(2).tolist(), "text": text} for line, text in zip(lines, texts, strict=True)]


def served(path: Path) -> dict[str, Any]:
    """A file that Gradio gives an address."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}
