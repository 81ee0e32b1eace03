"""Pictures, table and files of one answer."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from sfrecsam_hf import Segmentation
from sfrecsam_hf.inference.visualization import ADDED, CONTOUR, REMOVED, contour, corrections, heatmap, overlay
from visits import Answer, Guidance, Visit

SHOWN_SIDE, LARGEST_SHOWN_SIDE = 800, 1600
TINT = 0.25
NOTICE = "Research use only, not for diagnosis."


@dataclass(frozen=True)
class SegmentFiles:
    """Paths of everything that one automatic answer shows and offers."""

    contour: Path
    initial: Path
    corrected: Path
    uncertainty: Path
    corrections: Path
    mask: Path
    overlay: Path
    report: Path


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


def write_segment_files(folder: Path, visit: Visit, answer: Answer) -> SegmentFiles:
    """Draws and writes an automatic answer into `folder`."""
    image, found = visit.encoded.image, answer.segmentation
    large = shown(image)
    mask, initial = (shown_mask(layer, large.size) for layer in (found.mask, found.initial_mask))
    uncertainty = np.asarray(PIL.Image.fromarray(found.uncertainty.astype(np.float32)).resize(large.size))
    pictures = {
        "contour": overlay(large, mask),
        "initial": tinted(large, initial),
        "corrected": tinted(large, mask),
        "uncertainty": heatmap(large, uncertainty),
        "corrections": corrections(large, initial, mask),
        "mask": mask_picture(found.mask),
        "overlay": overlay(image, found.mask),
    }
    stem = Path(visit.name).stem
    paths = {kind: folder / f"{stem}_{kind}.png" for kind in pictures}
    for kind, picture in pictures.items():
        save(picture, paths[kind])
    paths["report"] = folder / f"{stem}.json"
    paths["report"].write_text(json.dumps(report(visit.name, found, asdict(visit.controls)), indent=1))
    return SegmentFiles(**paths)


def tinted(image: PIL.Image.Image, mask: np.ndarray) -> PIL.Image.Image:
    """The image with the mask, boolean of shape `(height, width)`, filled and outlined."""
    pixels = np.array(image.convert("RGB"))
    pixels[mask] = ((1 - TINT) * pixels[mask] + TINT * np.array(CONTOUR)).astype(np.uint8)
    return overlay(PIL.Image.fromarray(pixels), mask)


def report(name: str, found: Segmentation, settings: dict[str, Any]) -> dict[str, Any]:
    """All numbers of one answer, as the JSON download and the API give them; lengths in pixels."""
    height, width = found.mask.shape
    return {
        "image": name,
        "width": width,
        "height": height,
        **found.measurements(),
        "estimated_iou": found.score,
        "corrected_pixels": int((found.mask != found.initial_mask).sum()),
        "settings": settings,
        "notice": NOTICE,
    }


def measurement_rows(found: Segmentation) -> list[list[str]]:
    """The table beside the pictures: what was measured, and how much."""
    measured = found.measurements()
    box = measured["box"]
    added, removed = (found.mask & ~found.initial_mask).sum(), (found.initial_mask & ~found.mask).sum()
    size = f"{box[2] - box[0]} x {box[3] - box[1]} px at ({box[0]}, {box[1]})" if box else "no lesion marked"
    return [
        ["Presence", f"{measured['presence']:.0%}"],
        ["Area", f"{measured['area']:,} px ({measured['area'] / found.mask.size:.1%})"],
        ["Box", size],
        ["Longest diameter", f"{measured['longest_diameter']:.1f} px"],
        ["Diameter across it", f"{measured['perpendicular_diameter']:.1f} px"],
        ["Mean uncertainty", f"{measured['mean_uncertainty']:.3f} bit"],
        ["Estimated IoU", f"{found.score:.0%}"],
        ["Corrected", f"{added:,} px added, {removed:,} removed"],
    ]


def guide_picture(image: PIL.Image.Image, mask: np.ndarray, guidance: Guidance) -> PIL.Image.Image:
    """The shown image with contour and prompts; shapes tell the prompts apart as well as colours do."""
    large, times = shown(image), magnification(image)
    picture = overlay(large, shown_mask(mask, large.size))
    draw = PIL.ImageDraw.Draw(picture)
    radius = max(7, max(large.size) // 80)
    if guidance.prompt.box is not None:
        draw.rectangle([side * times for side in guidance.prompt.box], outline="white", width=max(2, radius // 4))
    if guidance.corner is not None:
        _bars(draw, [side * times for side in guidance.corner], radius, "+")
    for point, label in zip(guidance.prompt.points, guidance.prompt.labels, strict=True):
        x, y = (side * times for side in point)
        disc = [x - radius, y - radius, x + radius, y + radius]
        draw.ellipse(disc, fill=ADDED if label else REMOVED, outline="white", width=2)
        _bars(draw, (x, y), radius / 2, "+" if label else "-")
    return picture


def _bars(draw: PIL.ImageDraw.ImageDraw, at: tuple[float, float], reach: float, sign: str) -> None:
    """A plus or minus sign."""
    x, y = at
    draw.line([x - reach, y, x + reach, y], fill="white", width=3)
    if sign == "+":
        draw.line([x, y - reach, x, y + reach], fill="white", width=3)


def error_map(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray) -> PIL.Image.Image:
    """The image with what the model marked in vain in blue, what it missed in orange, and the reference outlined."""
    pixels = np.array(corrections(image, truth, mask))
    pixels[contour(truth) & mask] = CONTOUR
    return PIL.Image.fromarray(pixels)
