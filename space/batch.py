"""Many images at once: a table, pictures and a zip; with reference masks also Dice and error maps."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pictures import enlarged, enlarged_mask, error_map, report
from sfrecsam_hf import segment
from sfrecsam_hf.drawing import overlay as contour_overlay
from sfrecsam_hf.image_reading import mask_stem
from sfrecsam_hf.metrics import overlap
from staged_model import Controls, StagedModel
from uploads import MAX_BATCH, read_reference, read_upload

HEADERS = ["Image", "Presence", "Area (px)", "Longest diameter (px)", "Mean uncertainty (bit)", "Dice"]


@dataclass(frozen=True)
class BatchAnswer:
    """Rows of the table, captioned pictures, the zip, and a sentence for each file that could not be used."""

    rows: list[list[Any]]
    pictures: list[tuple[str, str]]
    archive: Path
    problems: list[str]


def segment_batch(
    staged: StagedModel,
    paths: list[Path],
    reference_paths: list[Path],
    controls: Controls,
    folder: Path,
    progress: Callable[[float, str], None],
) -> BatchAnswer:
    """
    Segments every image that can be read.

    Args:
        staged ([`StagedModel`]): Model and processor.
        paths (`list[Path]`): Images; at most 32.
        reference_paths (`list[Path]`): Masks, in any order: `x.png` or `x_mask.png` belongs to the image `x`.
        controls ([`Controls`]): As for one image.
        folder (`Path`): Where pictures and zip are written.
        progress (`Callable`): Told the share that is done and what is being done.

    Raises:
        ValueError: There is no image, or there are too many, or none of them can be used.
    """
    if not paths:
        raise ValueError("No images were given; add at least one.")
    if len(paths) > MAX_BATCH:
        raise ValueError(f"{len(paths)} images are too many at once; give at most {MAX_BATCH}.")
    references = {mask_stem(path.stem): path for path in reference_paths}
    names, images, truths, problems = [], [], [], []
    for path in paths:
        try:
            image = read_upload(path)
            reference = references.pop(path.stem, None)
            truths.append(None if reference is None else read_reference(reference, image))
        except ValueError as error:
            problems.append(str(error))
            continue
        images.append(image)
        names.append(path.stem if path.stem not in names else path.name)
    problems += [f"{path.name} belongs to none of the images." for path in references.values()]
    if not images:
        raise ValueError(" ".join(problems))

    answer = BatchAnswer([], [], folder / "sfrecsam.zip", problems)
    with zipfile.ZipFile(answer.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        found = segment(staged.model, staged.processor, images, **asdict(controls))
        for index, (name, image, truth, segmentation) in enumerate(zip(names, images, truths, found, strict=True)):
            progress((index + 1) / len(images), f"{name}: {index + 1} of {len(images)}")
            measured = segmentation.measurements()
            scores = {} if truth is None else overlap(segmentation.mask, truth)
            row = [measured["presence"], measured["area"], measured["longest_diameter"], measured["mean_uncertainty"]]
            row = [name, *(round(value, 3) for value in row), round(scores["dice"], 3) if scores else None]
            answer.rows.append(row)
            shown = _picture(image, segmentation.mask, truth)
            picture = folder / f"{name}.png"
            shown.save(picture, compress_level=1)
            caption = name if truth is None else f"{name}: Dice {scores['dice']:.3f}"
            answer.pictures.append((str(picture), caption))
            mask = PIL.Image.fromarray(segmentation.mask.astype(np.uint8) * 255)
            archive.writestr(f"{name}_mask.png", _png(mask))
            archive.writestr(f"{name}_overlay.png", _png(contour_overlay(image, segmentation.mask, truth)))
            numbers = report(name, segmentation, asdict(controls)) | scores
            archive.writestr(f"{name}.json", json.dumps(numbers, indent=1))
            if truth is not None:
                archive.writestr(f"{name}_errors.png", _png(error_map(image, segmentation.mask, truth)))
        archive.writestr("table.csv", _table(answer.rows))
    return answer


def _picture(image: PIL.Image.Image, mask: np.ndarray, truth: np.ndarray | None) -> PIL.Image.Image:
    large = enlarged(image)
    mask = enlarged_mask(mask, large.size)
    if truth is None:
        return contour_overlay(large, mask)
    return error_map(large, mask, enlarged_mask(truth, large.size))


def _png(picture: PIL.Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue()


def _table(rows: list[list[Any]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows([HEADERS, *rows])
    return written.getvalue()
