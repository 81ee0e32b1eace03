"""Many images at once: a table, pictures and a zip; with reference masks also Dice and error maps."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from downloads import report
from pictures import error_map, mask_picture, save, shown, shown_mask
from scan import Guidance
from sfrecsam_hf import Segmentation, segment
from sfrecsam_hf.evaluation.metrics import overlap
from sfrecsam_hf.inference.tables import MEASURED, rows_of
from sfrecsam_hf.inference.visualization import overlay
from sfrecsam_hf.modeling.image_reading import mask_stem
from staged_model import Controls, StagedModel
from uploads import MAX_BATCH, Upload, read_reference, read_upload
from words import diameters

HEADERS = ["Image", "Presence", "Lesions", "Area", "Diameters", "Uncertainty (bit)", "Dice"]
COLUMNS = ("image", *MEASURED, "dice")


class Left(Exception):  # noqa: N818 - nothing went wrong
    """Nobody waits for the batch any more."""


@dataclass
class BatchAnswer:
    """The zip, numbers of each image, captioned pictures, and a sentence for each file that could not be used."""

    archive: Path
    numbers: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def rows(self) -> list[list[Any]]:
        """The numbers as the page shows them."""
        return [
            [
                found["image"],
                f"{found['presence']:.0%}",
                found["lesions"],
                f"{found['area_mm2']:.1f} mm²" if "area_mm2" in found else f"{found['area']} px",
                found["diameters"],
                f"{found['mean_uncertainty']:.3f}",
                f"{found['dice']:.3f}" if "dice" in found else "",
            ]
            for found in self.numbers
        ]

    def csv(self) -> str:
        """The numbers as a table for other programs."""
        written = io.StringIO()
        writer = csv.DictWriter(written, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.numbers)
        return written.getvalue()


def segment_batch(
    staged: StagedModel,
    paths: list[Path],
    reference_paths: list[Path],
    controls: Controls,
    folder: Path,
    progress: Callable[[float, str], None],
) -> BatchAnswer:
    """
    Segments every image that can be read, one after the other: each as if it were alone.

    Args:
        staged ([`StagedModel`]): Model and processor.
        paths (`list[Path]`): Images; at most 32.
        reference_paths (`list[Path]`): Masks, in any order: `x.png`, `x_mask.png` and `x_mask_1.png` belong to the
            image `x`, and several of one image are merged.
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
    references = defaultdict(list)
    for path in reference_paths:
        references[mask_stem(path.stem)].append(path)
    answer, names = BatchAnswer(folder / "sfrecsam.zip"), set()
    with zipfile.ZipFile(answer.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, path in enumerate(paths):
            progress(index / len(paths), f"{path.name}: {index + 1} of {len(paths)}")
            try:
                upload = read_upload(path)
                truths = [read_reference(reference, upload.image) for reference in references.pop(path.stem, [])]
            except ValueError as error:
                answer.problems.append(str(error))
                continue
            name = path.stem if path.stem not in names else f"{path.stem} ({index + 1})"
            names.add(name)
            truth = np.logical_or.reduce(truths) if truths else None
            (found,) = segment(staged.model, staged.processor, [upload.image], **asdict(controls))
            _add(answer, archive, name, upload, truth, found, controls, staged)
        archive.writestr("table.csv", answer.csv())
    left = [path for group in references.values() for path in group]
    answer.problems.extend(f"{path.name} belongs to none of the images." for path in left)
    if not answer.numbers:
        raise ValueError(" ".join(answer.problems))
    return answer


def _add(
    answer: BatchAnswer,
    archive: zipfile.ZipFile,
    name: str,
    upload: Upload,
    truth: np.ndarray | None,
    found: Segmentation,
    controls: Controls,
    staged: StagedModel,
) -> None:
    """Adds one image to the table, the pictures and the zip."""
    scores = {} if truth is None else overlap(found.mask, truth)
    spacing = upload.calibration.spacing(found.mask)
    numbers = report(name, found, Guidance(), controls, staged, spacing)
    lesions = found.lesions
    row, _ = rows_of(name, found, [spacing] * len(lesions))
    row["diameters"] = diameters(lesions[0], spacing) if lesions else "no lesion marked"
    answer.numbers.append(row | scores)
    image, large = upload.image, shown(upload.image)
    mask = shown_mask(found.mask, large.size)
    picture = overlay(large, mask) if truth is None else error_map(large, mask, shown_mask(truth, large.size))
    caption = f"{name}: Dice {scores['dice']:.3f}" if scores else name
    answer.pictures.append((save(picture, answer.archive.with_name(f"{name}.png")), caption))
    archive.writestr(f"{name}_mask.png", _png(mask_picture(found.mask)))
    archive.writestr(f"{name}_overlay.png", _png(overlay(image, found.mask, truth)))
    archive.writestr(f"{name}.json", json.dumps(numbers | scores, indent=1))
    if truth is not None:
        archive.writestr(f"{name}_errors.png", _png(error_map(image, found.mask, truth)))


def _png(picture: PIL.Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue()
