"""The files that can be taken away: what is shown, also in the formats that other programs read."""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pictures import Spacing, mask_picture, overlay_picture, save
from scan import Guidance, Shown
from sfrecsam_hf import Segmentation
from sfrecsam_hf.inference import formats
from sfrecsam_hf.inference.answers import Answer
from sfrecsam_hf.inference.report import NOTICE
from staged_model import Controls, StagedModel

OTHER_FORMATS = [
    ("COCO, polygons (JSON)", "coco"),
    ("COCO, run lengths (JSON)", "coco-rle"),
    ("DICOM segmentation", "dicom-seg"),
    ("DICOM picture with outline", "dicom-sc"),
    ("NIfTI, numbered lesions", "nifti"),
    ("PNG, numbered lesions", "labels"),
    ("Contours (CSV)", "contours"),
    ("Contours (GeoJSON)", "geojson"),
]


@dataclass(frozen=True)
class Files:
    """What every answer offers to download."""

    mask: Path
    overlay: Path
    report: Path


def write_files(folder: Path, shown: Shown, found: Segmentation, controls: Controls, staged: StagedModel) -> Files:
    """Writes the mask at the image's size, the picture that is shown, and all numbers."""
    stem = Path(shown.name).stem
    spacing = shown.calibration.spacing(found.mask)
    numbers = report(shown.name, found, shown.guidance, controls, staged, spacing)
    files = Files(folder / f"{stem}_mask.png", folder / f"{stem}_overlay.png", folder / f"{stem}.json")
    save(mask_picture(found.mask), files.mask)
    save(overlay_picture(shown.image, found, shown.guidance.prompt, spacing), files.overlay)
    files.report.write_text(json.dumps(numbers, indent=1))
    return files


def write_other(folder: Path, shown: Shown, found: Segmentation, format: str) -> Path:
    """
    Writes an answer as `sfrecsam predict --format` does.

    A DICOM segmentation refers to a DICOM scan. Where the image was none, one is made, and both come in a ZIP.

    Raises:
        ValueError: There is no such format, or it cannot hold the answer; the sentence says why.
    """
    spacing = shown.calibration.spacing(found.mask)
    answer = Answer(shown.name, shown.image, found, spacing, shown.source)
    stem = folder / Path(shown.name).stem
    try:
        paths = formats.write(format, stem, answer)
    except Exception as error:  # a DICOM file can be wrong in many ways
        raise ValueError(f"{shown.name} cannot be written as {format}: {error}") from error
    if len(paths) == 1:
        return paths[0]
    archive = stem.with_name(f"{stem.name}_{format}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
        for path in paths:
            whole.write(path, path.name)
    return archive


def report(
    name: str,
    found: Segmentation,
    guidance: Guidance,
    controls: Controls,
    staged: StagedModel,
    spacing: Spacing,
) -> dict[str, Any]:
    """All that is known of one answer, as the JSON download and the API give it; lengths in pixels, or as named."""
    height, width = found.mask.shape
    return {
        "image": name,
        "width": width,
        "height": height,
        **found.measurements(),
        "each_lesion": [lesion.measurements(spacing) for lesion in found.lesions],
        "mm_per_pixel": list(spacing) if spacing else None,
        "estimated_iou": found.score,
        "corrected_pixels": int((found.mask != found.initial_mask).sum()),
        "guidance": guidance.as_json(),
        "settings": asdict(controls),
        "checkpoint": staged.checkpoint,
        "revision": staged.revision,
        "notice": NOTICE,
    }
