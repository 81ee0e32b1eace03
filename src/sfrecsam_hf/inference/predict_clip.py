"""What `sfrecsam predict` writes of a clip: outlined frames, a mask stack, a row a frame, and the frame to measure."""

import csv
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from tqdm import tqdm

from ..data.clips import Clip
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation
from ..modeling.tidying import burnt_in_text, tidied
from .clips import flicker, segment_clip
from .inputs import WRITER, signed
from .tables import MEASURED, rows_of
from .visualization import overlay
from .writing import replacing

COLUMNS = ("frame", "seconds", *MEASURED, "measure_here")


@dataclass
class ClipReport:
    r"""
    What was found in a clip.

    Args:
        frames (`int`): How many there are.
        with_lesion (`int`): How many of them have a mask.
        largest (`int`, *optional*): Index of the frame with the longest diameter, which is the one to measure.
        neighbour_dice (`float`): Mean Dice between neighbouring masks, in [0, 1]; 1 is perfectly steady.
        switches (`float`): Share of neighbouring frames between which the lesion comes or goes.
        files (`list[Path]`): What was written.
    """

    frames: int
    with_lesion: int
    largest: int | None
    neighbour_dice: float
    switches: float
    files: list[Path]


def predict_clip(
    model: SFRecSamModel,
    processor: Any,
    clip: Clip,
    stem: Path,
    prompts: dict[int, dict[str, Any]] | None = None,
    mm_per_pixel: float | None = None,
    quiet: bool = False,
    seen: Callable[[int, PIL.Image.Image, Segmentation], None] | None = None,
    **options: Any,
) -> ClipReport:
    """
    Writes `STEM_outlined.mp4` (without PyAV a folder of PNG), `STEM_masks.tiff`, `STEM_frames.csv` and
    `STEM_largest.png`.

    Every file appears under its name when it is complete. Two frames are in memory at a time, beside a batch.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        clip ([`Clip`]): From [`~sfrecsam_hf.data.clips.open_clip`].
        stem (`Path`): Where to write, without an ending.
        prompts (`dict[int, dict]`, *optional*): As for [`segment_clip`].
        mm_per_pixel (`float`, *optional*): Size of a pixel in clips that do not tell it themselves.
        quiet (`bool`): No progress bar.
        seen (`Callable`, *optional*): Told the index, the picture and the answer of each frame once it is written.
        options: As for [`segment_clip`].
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    found = segment_clip(model, processor, clip, prompts, **options)
    pairs = zip(clip, found, strict=True)
    shown = tqdm(pairs, total=clip.frames, desc=clip.path.name, disable=quiet)
    rows: list[dict[str, Any]] = []
    masks: list[np.ndarray] = []  # of two neighbours, for the steadiness
    dice, switches, pairs_seen = [], 0, 0
    largest: tuple[float, int, PIL.Image.Image] | None = None
    video = find_spec("av") is not None
    kinds = ("outlined.mp4" if video else "outlined", "masks.tiff", "frames.csv")
    files = [stem.with_name(f"{stem.name}_{kind}") for kind in kinds]
    with (_video if video else _pictures)(files[0], clip.rate) as outlined, _stack(files[1], clip.rate) as stack:
        for index, (frame, one) in enumerate(shown):
            mask = tidied(one.mask, burnt_in_text(frame)) if one.mask.any() else one.mask
            one.mask = mask
            picture = overlay(frame, mask)
            outlined(picture)
            stack(PIL.Image.fromarray(mask.astype(np.uint8) * 255))
            rows.append(_row(index, one, clip, mm_per_pixel))
            if mask.any() and (largest is None or rows[-1]["longest_diameter"] > largest[0]):
                largest = rows[-1]["longest_diameter"], index, picture
            if seen is not None:
                seen(index, frame, one)
            masks = [*masks[-1:], mask]
            if len(masks) == 2 and masks[0].shape == masks[1].shape:
                steadiness = flicker(masks)
                pairs_seen += 1
                switches += steadiness["switches"]
                dice += [steadiness["neighbour_dice"]] if masks[0].any() and masks[1].any() else []
    for row in rows:
        row["measure_here"] = int(largest is not None and row["frame"] == largest[1] + 1)
    _write_rows(files[2], rows)
    if largest is not None:
        files.append(stem.with_name(f"{stem.name}_largest.png"))
        largest[2].save(files[-1], pnginfo=signed())
    return ClipReport(
        frames=len(rows),
        with_lesion=sum(row["area"] > 0 for row in rows),
        largest=None if largest is None else largest[1],
        neighbour_dice=float(np.mean(dice)) if dice else 1.0,
        switches=switches / max(pairs_seen, 1),
        files=files,
    )


def _row(index: int, one: Segmentation, clip: Clip, mm_per_pixel: float | None) -> dict[str, Any]:
    given = None if mm_per_pixel is None else (mm_per_pixel, mm_per_pixel)
    spacing = clip.calibration.spacing(one.mask) or given
    measured, _ = rows_of(clip.path.name, one, [spacing] * len(one.lesions))
    numbers = {name: measured[name] for name in MEASURED if name in measured}
    return {"frame": index + 1, "seconds": round(index / clip.rate, 3), **numbers}


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as fresh, fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _video(path: Path, rate: float) -> Iterator[Callable[[PIL.Image.Image], None]]:
    """Writes pictures into an MP4, which has its name once it is whole."""
    import av

    with replacing(path) as fresh, av.open(str(fresh), "w", format="mp4") as container:
        container.metadata["comment"] = WRITER
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4")
        stream.rate, stream.pix_fmt = Fraction(rate).limit_denominator(1000), "yuv420p"

        def write(picture: PIL.Image.Image) -> None:
            if not stream.width or stream.width == 0:
                stream.width, stream.height = (side + side % 2 for side in picture.size)
            even = PIL.Image.new("RGB", (stream.width, stream.height))
            even.paste(picture)
            container.mux(stream.encode(av.VideoFrame.from_image(even)))

        yield write
        container.mux(stream.encode())


@contextmanager
def _pictures(path: Path, rate: float) -> Iterator[Callable[[PIL.Image.Image], None]]:
    """Writes pictures into a folder, one PNG a frame: without PyAV nothing writes a video frame by frame."""
    path.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(1)
    yield lambda picture: picture.save(path / f"{next(numbers):05d}.png", pnginfo=signed())


@contextmanager
def _stack(path: Path, rate: float) -> Iterator[Callable[[PIL.Image.Image], None]]:
    """Writes masks into a TIFF with a page a frame, which has its name once it is whole."""
    with replacing(path) as fresh, AppendingTiffWriter(str(fresh), new=True) as pages:

        def write(mask: PIL.Image.Image) -> None:
            mask.save(pages, format="TIFF", compression="tiff_lzw", software=WRITER)
            pages.newFrame()

        yield write
