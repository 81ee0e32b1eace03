"""Segments files, folders and globs into pictures and one table, in constant memory, on any number of processes."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import PartialState
from tqdm import tqdm

from .dicom_reading import is_dicom, read_dicom
from .drawing import corrections, heatmap, overlay
from .image_reading import EXTENSIONS, mask_stem, read_rgb
from .modeling_sfrecsam import SFRecSamModel
from .segmentation import Segmentation, diameters, segment

DICOM_EXTENSIONS = {".dcm", ".dicom", ".ima"}
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
    dealt out to the processes.

    Args:
        model ([`SFRecSamModel`]): In evaluation mode.
        processor ([`SFRecSamProcessor`]): Belonging to the model.
        inputs (`list[str]`): Files, folders (searched at every depth) and globs.
        output (`str`): Folder; sub-folders of the inputs are mirrored.
        batch_size (`int`): Images per batch.
        prompts (`dict`, *optional*): `input_points`, `input_labels`, `input_boxes` of one image, used for all.
        resume (`bool`): Keep the rows of an earlier run that was interrupted, and do the rest.
        quiet (`bool`): No progress bar.
        options: Passed to [`SFRecSamModel.forward`].

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A folder holds no images.
    """
    pictures = find_pictures(inputs)
    output, state = Path(output), PartialState(cpu=not torch.accelerator.is_available())
    output.mkdir(parents=True, exist_ok=True)
    part = output / f"predictions.part{state.process_index}.csv"
    if state.is_main_process:
        _write_table(output, list(_finished(output).values()) if resume else [])
    state.wait_for_everyone()
    finished = _finished(output)
    mine = [
        (index, picture)
        for index, picture in enumerate(pictures)
        if index % state.num_processes == state.process_index and picture.name not in finished
    ]
    report = PredictionReport()
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["order", *COLUMNS])
        writer.writeheader()
        readable = _readable(mine, report.problems)
        pending: list[tuple[int, Picture, PIL.Image.Image, tuple[float, float] | None]] = []

        def images() -> Iterator[tuple[PIL.Image.Image, dict[str, Any]]]:
            for entry in readable:
                pending.append(entry)
                yield entry[2], prompts or {}

        bar = tqdm(total=len(mine), desc="segmenting", disable=quiet or not state.is_main_process)
        for segmentation in segment(model, processor, images(), batch_size, **options):
            index, picture, image, spacing = pending.pop(0)
            _write_pictures(output / picture.name, image, segmentation)
            writer.writerow({"order": index, **_row(picture, segmentation, spacing)})
            file.flush()
            bar.update()
        bar.close()
    state.wait_for_everyone()
    if state.is_main_process:
        order = {picture.name: index for index, picture in enumerate(pictures)}
        rows = _finished(output)
        report.rows = [rows[name] for name in sorted(rows, key=lambda name: order.get(name, -1)) if name in order]
        _write_table(output, report.rows)
    return report


def find_pictures(inputs: list[str]) -> list[Picture]:
    """
    The images among files, folders and globs, without the masks that lie beside them.

    Raises:
        FileNotFoundError: An input does not exist, or a glob matches nothing.
        ValueError: A folder holds no images.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            inside = [
                member
                for member in sorted(path.rglob("*"))
                if member.is_file() and member.suffix.lower() in EXTENSIONS | DICOM_EXTENSIONS
            ]
            inside = [member for member in inside if not _is_mask(member)]
            if not inside:
                raise ValueError(f"{entry} holds no images; give a folder with {', '.join(sorted(EXTENSIONS))} files.")
            found += [(member, member.relative_to(path)) for member in inside]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
            if not matches:
                raise FileNotFoundError(f"{entry} does not exist; check the path.")
            found += [(match, Path(match.name)) for match in matches if match.is_file() and not _is_mask(match)]
    stems = Counter(relative.with_suffix("") for _, relative in found)
    return [
        Picture(path, str(relative if stems[relative.with_suffix("")] > 1 else relative.with_suffix("")))
        for path, relative in found
    ]


def _is_mask(path: Path) -> bool:
    stem = mask_stem(path.stem)
    return stem != path.stem and any(path.with_name(f"{stem}{suffix}").exists() for suffix in EXTENSIONS)


def _readable(
    pictures: list[tuple[int, Picture]], problems: list[str]
) -> Iterator[tuple[int, Picture, PIL.Image.Image, tuple[float, float] | None]]:
    for index, picture in pictures:
        try:
            if picture.path.suffix.lower() in DICOM_EXTENSIONS or is_dicom(picture.path):
                image, spacing = read_dicom(picture.path)
            else:
                image, spacing = read_rgb(picture.path), None
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        yield index, picture, image, spacing


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
        picture.save(fresh, format="PNG")
        fresh.replace(stem.with_name(f"{stem.name}_{kind}.png"))


def _row(picture: Picture, segmentation: Segmentation, spacing: tuple[float, float] | None) -> dict[str, Any]:
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
    if spacing is not None and measured["area"]:
        row["area_mm2"] = round(measured["area"] * spacing[0] * spacing[1], 2)
        longest, perpendicular = diameters(segmentation.mask, spacing)
        row |= {"longest_diameter_mm": round(longest, 2), "perpendicular_diameter_mm": round(perpendicular, 2)}
    return row


def _finished(output: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run, by name of the image."""
    rows = _parts(output)
    table = output / "predictions.csv"
    if table.is_file():
        with table.open(newline="") as file:
            rows |= {row["image"]: row for row in csv.DictReader(file)}
    return rows


def _parts(output: Path) -> dict[str, dict[str, Any]]:
    rows = {}
    for part in output.glob("predictions.part*.csv"):
        with part.open(newline="") as file:
            for row in csv.DictReader(file):
                rows[row["image"]] = {name: row[name] for name in COLUMNS}
    return rows


def _write_table(output: Path, rows: list[dict[str, Any]]) -> None:
    fresh = output / "predictions.csv.new"
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    fresh.replace(output / "predictions.csv")
    for part in output.glob("predictions.part*.csv"):
        part.unlink()
