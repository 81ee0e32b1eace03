"""Pictures, table and files of one answer."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from sfrecsam_hf import Segmentation
from sfrecsam_hf.drawing import ADDED, CONTOUR, REMOVED, contour, corrections, heatmap, overlay
from visits import BACKGROUND, BOX_CORNER, Answer, Click, Visit

SHOWN_SIDE = 800
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


def magnification(image: PIL.Image.Image) -> int:
    """How many times a small image is enlarged to be looked at."""
    return max(1, SHOWN_SIDE // max(image.size))


def enlarged(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image as it is shown."""
    return image.resize([side * magnification(image) for side in image.size], PIL.Image.Resampling.BICUBIC)


def enlarged_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A boolean mask of shape `(height, width)` at `size` `(width, height)`, with smooth borders."""
    gray = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(gray.resize(size, PIL.Image.Resampling.BICUBIC)) > 127


def write_segment_files(folder: Path, visit: Visit, answer: Answer) -> SegmentFiles:
    """Draws and writes an automatic answer into `folder`."""
    image, found = visit.encoded.image, answer.segmentation
    large = enlarged(image)
    mask, initial = (enlarged_mask(layer, large.size) for layer in (found.mask, found.initial_mask))
    uncertainty = np.asarray(PIL.Image.fromarray(found.uncertainty.astype(np.float32)).resize(large.size))
    shown = overlay(large, mask)
    pictures = {
        "contour": shown,
        "initial": overlay(large, initial),
        "corrected": shown,
        "uncertainty": heatmap(large, uncertainty),
        "corrections": corrections(large, initial, mask),
        "mask": PIL.Image.fromarray(found.mask.astype(np.uint8) * 255),
        "overlay": overlay(image, found.mask),
    }
    stem = Path(visit.name).stem
    paths = {}
    for kind, picture in pictures.items():
        paths[kind] = folder / f"{stem}_{kind}.png"
        picture.save(paths[kind], compress_level=1)
    paths["report"] = folder / f"{stem}.json"
    paths["report"].write_text(json.dumps(report(visit.name, found, asdict(visit.controls)), indent=1))
    return SegmentFiles(**paths)


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
        ["Presence of a lesion", f"{measured['presence']:.0%}"],
        ["Area", f"{measured['area']:,} px ({measured['area'] / found.mask.size:.1%} of the image)"],
        ["Box", size],
        ["Longest diameter", f"{measured['longest_diameter']:.1f} px"],
        ["Mean uncertainty inside", f"{measured['mean_uncertainty']:.3f} bit"],
        ["Estimated overlap (IoU)", f"{found.score:.0%}"],
        ["Corrected", f"{added:,} px added, {removed:,} px removed"],
    ]


def guide_picture(image: PIL.Image.Image, mask: np.ndarray, clicks: list[Click], box: Any) -> PIL.Image.Image:
    """The enlarged image with contour and prompts; shapes tell the prompts apart as well as colours do."""
    large, times = enlarged(image), magnification(image)
    picture = overlay(large, enlarged_mask(mask, large.size))
    draw = PIL.ImageDraw.Draw(picture)
    radius = max(7, max(large.size) // 80)
    if box is not None:
        draw.rectangle([side * times for side in box], outline="white", width=max(2, radius // 4))
    waiting = [click for click in clicks if click.kind == BOX_CORNER]
    for click in clicks:
        x, y = click.x * times, click.y * times
        if click.kind == BOX_CORNER:
            if len(waiting) % 2 and click is waiting[-1]:
                draw.line([x - radius, y, x + radius, y], fill="white", width=3)
                draw.line([x, y - radius, x, y + radius], fill="white", width=3)
            continue
        colour = REMOVED if click.kind == BACKGROUND else ADDED
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour, outline="white", width=2)
        draw.line([x - radius / 2, y, x + radius / 2, y], fill="white", width=3)
        if click.kind != BACKGROUND:
            draw.line([x, y - radius / 2, x, y + radius / 2], fill="white", width=3)
    return picture


def error_map(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray) -> PIL.Image.Image:
    """The image with what the model marked in vain in blue, what it missed in orange, and the reference outlined."""
    pixels = np.array(corrections(image, truth, mask))
    pixels[contour(truth) & mask] = CONTOUR
    return PIL.Image.fromarray(pixels)
