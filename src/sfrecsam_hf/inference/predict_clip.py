"""What `sfrecsam predict` writes of a clip: outlined frames, a mask stack, a row a frame, and the frame to measure."""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ..data.dicom import is_dicom
from ..modeling.clip_tracking import segment_clip
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation
from .answers import Answer
from .formats import joined_coco, write
from .inputs import WRITER, shown, signed
from .tables import FRAME_COLUMNS, FRAMES, MEASURED, rows_of
from .visualization import overlay
from .writing import replacing

Spacing = tuple[float, float] | None


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
    formats: Sequence[str] = (),
    seen: Callable[[int, PIL.Image.Image, Segmentation], None] | None = None,
    **options: Any,
) -> ClipReport:
    """
    Writes `STEM_outlined.mp4` (without PyAV a folder of PNG), `STEM_masks.tiff`, `STEM_frames.csv` and
    `STEM_largest.png`; in other formats a file a frame in the folder `STEM_frames`, and one COCO file of all.

    Every file appears under its name when it is complete. A clip is read once, and a few frames are in memory beside a
    batch.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        clip ([`Clip`]): From [`~sfrecsam_hf.data.clips.open_clip`].
        stem (`Path`): Where to write, without an ending.
        prompts (`dict[int, dict]`, *optional*): As for [`segment_clip`].
        mm_per_pixel (`float`, *optional*): Size of a pixel in clips that do not tell it themselves.
        quiet (`bool`): No progress bar.
        formats (`Sequence[str]`): Of [`~sfrecsam_hf.inference.formats.FORMATS`], beside the others.
        seen (`Callable`, *optional*): Told the index, the picture and the answer of each frame once it is written.
        options: As for [`segment_clip`].
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    found = segment_clip(model, processor, clip, prompts, **options)
    frames = tqdm(found, total=clip.frames, desc=clip.path.name, disable=quiet)
    rows: list[dict[str, Any]] = []
    before: np.ndarray | None = None
    steadiness: list[dict[str, float]] = []
    largest: tuple[float, int, PIL.Image.Image] | None = None
    video = find_spec("av") is not None
    files = [stem.with_name(stem.name + kind) for kind in ("_outlined.mp4" if video else "_outlined", "_masks.tiff")]
    frame_files = _FrameFiles(stem, clip, formats, model.config.id2label[1])
    with (_video if video else _pictures)(files[0], clip.rate) as outlined, _stack(files[1]) as stack:
        for index, (frame, one) in enumerate(frames):
            picture = overlay(frame, one.mask)
            outlined(picture)
            stack(PIL.Image.fromarray(one.mask.astype(np.uint8) * 255))
            spacing = _spacing(clip, one, mm_per_pixel)
            rows.append(_row(index, one, clip.rate, spacing))
            frame_files.add(index, frame, one, spacing)
            if one.lesions and (largest is None or rows[-1]["longest_diameter"] > largest[0]):
                largest = rows[-1]["longest_diameter"], index, picture
            if before is not None and before.shape == one.mask.shape:
                steadiness.append(flicker([before, one.mask]))
            before = one.mask
            if seen is not None:
                seen(index, frame, one)
    for row in rows:
        row["measure_here"] = int(largest is not None and row["frame"] == largest[1] + 1)
    files.append(stem.with_name(stem.name + FRAMES))
    _write_rows(files[-1], rows)
    if largest is not None:
        files.append(stem.with_name(f"{stem.name}_largest.png"))
        with replacing(files[-1]) as fresh:
            largest[2].save(fresh, format="PNG", pnginfo=signed())
    dice = [pair["neighbour_dice"] for pair in steadiness if not np.isnan(pair["neighbour_dice"])]
    return ClipReport(
        frames=len(rows),
        with_lesion=sum(row["area"] > 0 for row in rows),
        largest=None if largest is None else largest[1],
        neighbour_dice=float(np.mean(dice)) if dice else 1.0,
        switches=float(np.mean([pair["switches"] for pair in steadiness] or [0.0])),
        files=files + frame_files.finished(),
    )


def flicker(masks: Iterable[np.ndarray]) -> dict[str, float]:
    """
    How steady a clip's masks are.

    Args:
        masks (`Iterable[numpy.ndarray]` of shape `(height, width)`): Boolean, of the frames in order.

    Returns:
        `neighbour_dice`, the mean Dice between neighbouring frames that both have a mask, or NaN if there are none;
        and `switches`, the share of neighbouring frames between which the lesion comes or goes.
    """
    dice, switches, pairs = [], 0, 0
    for before, after in itertools.pairwise(masks):
        pairs += 1
        areas = np.count_nonzero(before), np.count_nonzero(after)
        if all(areas):
            dice.append(2 * np.count_nonzero(before & after) / sum(areas))
        switches += bool(areas[0]) != bool(areas[1])
    return {"neighbour_dice": float(np.mean(dice)) if dice else np.nan, "switches": switches / max(pairs, 1)}


class _FrameFiles:
    """The formats that other programs read: a file for each frame, in a folder; and one COCO file of all frames."""

    def __init__(self, stem: Path, clip: Clip, formats: Sequence[str], label: str):
        self.stem, self.clip, self.formats, self.label = stem, clip, formats, label
        self.source = clip.path if clip.path.is_file() and is_dicom(clip.path) else None
        self.folder = stem.with_name(f"{stem.name}_frames")
        self.coco: dict[str, list[Path]] = {format: [] for format in formats if format.startswith("coco")}
        if formats:
            self.folder.mkdir(exist_ok=True)

    def add(self, index: int, frame: PIL.Image.Image, found: Segmentation, spacing: Spacing) -> None:
        """Writes one frame."""
        name = f"{shown(self.clip.path.name)} frame {index + 1}"
        answer = Answer(name, frame, found, spacing, self.source, self.label)
        for format in self.formats:
            files = write(format, self.folder / f"{index + 1:05d}", answer)
            if format in self.coco:
                self.coco[format] += files

    def finished(self) -> list[Path]:
        """What was written."""
        joined = []
        for format, files in self.coco.items():
            joined.append(self.stem.with_name(f"{self.stem.name}_{format.replace('-', '_')}.json"))
            with replacing(joined[-1]) as fresh:
                fresh.write_text(json.dumps(joined_coco(files)), encoding="utf-8")
        return joined + ([self.folder] if self.formats else [])


def _spacing(clip: Clip, one: Segmentation, mm_per_pixel: float | None) -> Spacing:
    return clip.calibration.spacing(one.mask) or (None if mm_per_pixel is None else (mm_per_pixel, mm_per_pixel))


def _row(index: int, one: Segmentation, rate: float, spacing: Spacing) -> dict[str, Any]:
    measured, _ = rows_of("", one, [spacing] * len(one.lesions))
    numbers = {name: measured[name] for name in MEASURED if name in measured}
    return {"frame": index + 1, "seconds": round(index / rate, 3), **numbers}


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as fresh, fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, FRAME_COLUMNS)
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
def _stack(path: Path) -> Iterator[Callable[[PIL.Image.Image], None]]:
    """Writes masks into a TIFF with a page a frame, which has its name once it is whole."""
    with replacing(path) as fresh, AppendingTiffWriter(str(fresh), new=True) as pages:

        def write(mask: PIL.Image.Image) -> None:
            mask.save(pages, format="TIFF", compression="tiff_lzw", software=WRITER)
            pages.newFrame()

        yield write
