"""Segments files, folders and globs into pictures and one table, in constant memory, on any number of processes."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from ..data.dicom import DICOM_EXTENSIONS, Calibration, is_dicom, read_dicom
from ..modeling.image_reading import EXTENSIONS, mask_stem, read_rgb
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.segmentation import Segmentation, diameters, segment
from .visualization import corrections, heatmap, overlay

TABLE, PART = "predictions.csv", "predictions.part{}.csv"
PATIENCE = timedelta(days=7)  # a process that has done its share waits for the others
COLUMNS = [
    "image",
    "width",
    "height",
    "presence",
    "area",
    "x1",
    "y1",
    "x2",
    "y2",
    "longest_diameter",
    "perpendicular_diameter",
    "mean_uncertainty",
    "area_mm2",
    "longest_diameter_mm",
    "perpendicular_diameter_mm",
]


@dataclass
class PredictionReport:
    """What a run did: a row per image in the order of the inputs, and what could not be used."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Picture:
    """One input: where it is, and the name of its outputs below the output folder."""

    path: Path
    name: str


def predict(
    model: SFRecSamModel,
    processor: Any,
    inputs: list[str],
    output: str | Path,
    batch_size: int = 4,
    prompts: dict[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> PredictionReport:
    """
    Writes mask, overlay, uncertainty and corrections of every image, and `predictions.csv`.

    An image that cannot be used is reported and does not stop the others. Under `accelerate launch` the images are
    dealt out to the processes, and each of them returns the report of all.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        inputs (`list[str]`): Files, folders (searched at every depth) and globs.
        output (`str`): Folder; sub-folders of the inputs are mirrored.
        batch_size (`int`): Images per batch.
        prompts (`dict`, *optional*): `input_points`, `input_labels`, `input_boxes` of one image, used for all.
        resume (`bool`): Keep the rows of an earlier run that was interrupted, and do the rest.
        quiet (`bool`): No progress bar.
        options: As for [`segment`].

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A folder holds no images, or two images would be written to the same place.
    """
    pictures = find_pictures(inputs)
    output, state = Path(output), PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    output.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        _write_table(output, list(_finished(output).values()) if resume else [])
    state.wait_for_everyone()
    finished = _read_table(output / TABLE)
    left = [picture for picture in pictures if picture.name not in finished]
    mine = left[state.process_index :: state.num_processes]
    problems: list[str] = []
    with (output / PART.format(state.process_index)).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        pending: list[tuple[Picture, PIL.Image.Image, Calibration | None]] = []

        def images() -> Iterator[tuple[PIL.Image.Image, dict[str, Any]]]:
            for entry in _readable(mine, problems):
                pending.append(entry)
                yield entry[1], prompts or {}

        bar = tqdm(total=len(mine), desc="segmenting", disable=quiet or not state.is_main_process)
        for segmentation in segment(model, processor, images(), batch_size, **options):
            picture, image, calibration = pending.pop(0)
            _write_pictures(output / picture.name, image, segmentation)
            writer.writerow(_row(picture, segmentation, calibration))
            file.flush()
            bar.update()
        bar.close()
    problems = gather_object(problems)
    if state.is_main_process:
        rows = _finished(output)
        _write_table(output, [rows[picture.name] for picture in pictures if picture.name in rows])
    state.wait_for_everyone()
    return PredictionReport(list(_read_table(output / TABLE).values()), problems)


def find_pictures(inputs: list[str]) -> list[Picture]:
    """
    The images among files, folders and globs, each once, without the masks that lie beside them.

    Raises:
        FileNotFoundError: An input does not exist, or a glob matches nothing.
        ValueError: A folder holds no images, or two images would be written to the same place.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for entry in inputs:
        for path, relative in _found(entry):
            found.setdefault(path.resolve(), (path, relative))
    stems = Counter(relative.with_suffix("") for _, relative in found.values())
    pictures = [
        Picture(path, str(relative if stems[relative.with_suffix("")] > 1 else relative.with_suffix("")))
        for path, relative in found.values()
    ]
    places: dict[str, Path] = {}
    for picture in pictures:
        if other := places.get(picture.name):
            raise ValueError(
                f"{other} and {picture.path} would both be written as {picture.name}; give the folder that holds both."
            )
        places[picture.name] = picture.path
    return pictures


def _found(entry: str) -> list[tuple[Path, Path]]:
    """The images of one input, and where they lie below it."""
    path = Path(entry)
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        inside = [
            member
            for member in sorted(path.rglob("*"))
            if member.is_file() and member.suffix.lower() in EXTENSIONS | DICOM_EXTENSIONS and not _is_mask(member)
        ]
        if not inside:
            raise ValueError(f"{entry} holds no images; give a folder with {', '.join(sorted(EXTENSIONS))} files.")
        return [(member, member.relative_to(path)) for member in inside]
    plain = [*takewhile(lambda part: not set(part) & set("*?["), path.parts)]
    top = Path(*plain)
    matches = sorted(top.glob(str(path.relative_to(top)))) if len(plain) < len(path.parts) else []
    if not matches:
        raise FileNotFoundError(f"{entry} does not exist; check the path.")
    return [(match, match.relative_to(top)) for match in matches if match.is_file() and not _is_mask(match)]


def _is_mask(path: Path) -> bool:
    stem = mask_stem(path.stem)
    return stem != path.stem and any(path.with_name(f"{stem}{suffix}").exists() for suffix in EXTENSIONS)


def _readable(
    pictures: list[Picture], problems: list[str]
) -> Iterator[tuple[Picture, PIL.Image.Image, Calibration | None]]:
    for picture in pictures:
        try:
            if picture.path.suffix.lower() in DICOM_EXTENSIONS or is_dicom(picture.path):
                image, calibration = read_dicom(picture.path)
            else:
                image, calibration = read_rgb(picture.path), None
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        yield picture, image, calibration


def _write_pictures(stem: Path, image: PIL.Image.Image, segmentation: Segmentation) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    pictures = {
        "mask": PIL.Image.fromarray(segmentation.mask.astype(np.uint8) * 255),
        "overlay": overlay(image, segmentation.mask),
        "uncertainty": heatmap(image, segmentation.uncertainty),
        "corrections": corrections(image, segmentation.initial_mask, segmentation.mask),
    }
    for kind, picture in pictures.items():
        fresh = stem.with_name(f"{stem.name}_{kind}.png.new")
        picture.save(fresh, format="PNG", compress_level=1)  # the next levels take thrice the time for a tenth less
        fresh.replace(stem.with_name(f"{stem.name}_{kind}.png"))


def _row(picture: Picture, segmentation: Segmentation, calibration: Calibration | None) -> dict[str, Any]:
    measured = segmentation.measurements()
    box = measured["box"] or [""] * 4
    row = {
        "image": picture.name,
        "width": segmentation.mask.shape[1],
        "height": segmentation.mask.shape[0],
        "presence": round(measured["presence"], 4),
        "area": measured["area"],
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "longest_diameter": round(measured["longest_diameter"], 2),
        "perpendicular_diameter": round(measured["perpendicular_diameter"], 2),
        "mean_uncertainty": round(measured["mean_uncertainty"], 4),
    }
    spacing = None if calibration is None else calibration.spacing(segmentation.mask)
    if spacing is not None and measured["area"]:
        row["area_mm2"] = round(measured["area"] * spacing[0] * spacing[1], 2)
        longest, perpendicular = diameters(segmentation.mask, spacing)
        row |= {"longest_diameter_mm": round(longest, 2), "perpendicular_diameter_mm": round(perpendicular, 2)}
    return row


def _finished(output: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run, by name of the image."""
    rows: dict[str, dict[str, Any]] = {}
    for part in sorted(output.glob(PART.format("*"))):
        rows |= _read_table(part)
    return rows | _read_table(output / TABLE)


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by name of the image, without the beginning of one that a process may leave when it is killed."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        complete = [line for line in file if line.endswith("\n")]
    return {row["image"]: row for row in csv.DictReader(complete)}


def _write_table(output: Path, rows: list[dict[str, Any]]) -> None:
    fresh = output / f"{TABLE}.new"
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    fresh.replace(output / TABLE)
    for part in output.glob(PART.format("*")):
        part.unlink()
