"""An answer in the formats that other programs read, each written from the same lesions."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from .answers import Answer
from .inputs import WRITER, signed
from .outlines import outlines
from .visualization import LABEL_COLOURS
from .writing import replacing


def write(format: str, stem: Path, answer: Answer) -> list[Path]:
    """
    Writes an answer in one format, whole or not at all.

    Args:
        format (`str`): One of [`FORMATS`].
        stem (`Path`): Folder and beginning of the file's name; the format adds its ending.
        answer ([`Answer`]): What to write.

    Returns:
        `list[Path]`: The files; the second one is the scan that a DICOM segmentation refers to, if it was no DICOM.

    Raises:
        ModuleNotFoundError: The format's library is missing: `pip install 'sfrecsam-hf[formats]'`.
        OSError: A file cannot be written.
        ValueError: There is no such format, or it cannot hold the answer.
    """
    with ExitStack() as whole:
        paths = []
        for ending, content in encoded(format, answer).items():
            paths.append(stem.with_name(stem.name + ending))
            whole.enter_context(replacing(paths[-1])).write_bytes(content)
    return paths


def encoded(format: str, answer: Answer) -> dict[str, bytes]:
    """The contents of what [`write`] writes, by the endings of the files' names; raises as it does."""
    check(format)
    return FORMATS[format][1](answer)


def check(format: str) -> None:
    """Raises where [`write`] would because there is no such format or its library is missing."""
    if format not in FORMATS:
        raise ValueError(f"{format} is no format; choose from {', '.join(FORMATS)}.")
    for library in FORMATS[format][0]:
        import_module(library)


def joined_coco(files: list[Path]) -> dict[str, Any]:
    """One COCO file out of one for each image, numbered anew."""
    joined: dict[str, Any] = {}
    for number, path in enumerate(files, 1):
        content = json.loads(path.read_text(encoding="utf-8"))
        joined = joined or content | {"images": [], "annotations": []}
        joined["images"] += [image | {"id": number} for image in content["images"]]
        for annotation in content["annotations"]:
            joined["annotations"].append(annotation | {"id": len(joined["annotations"]) + 1, "image_id": number})
    return joined


def _coco(answer: Answer, as_runs: bool) -> bytes:
    """Polygons, or run lengths; a lesion with holes is always run lengths, since a COCO polygon cannot have any."""
    height, width = answer.found.mask.shape
    annotations = []
    for number, lesion in enumerate(answer.found.lesions, 1):
        rings = outlines(lesion.inside, lesion.box[:2])
        left, top, right, bottom = lesion.box
        runs = as_runs or len(rings) > 1
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "segmentation": _runs(lesion.placed((height, width))) if runs else [rings[0].ravel().tolist()],
                "area": lesion.area,
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": int(runs),
                "score": round(lesion.probability, 4),
                "uncertainty": round(lesion.uncertainty, 4),
            }
        )
    content = {
        "info": {"description": WRITER},
        "images": [{"id": 1, "file_name": answer.name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": answer.label}],
    }
    return json.dumps(content).encode()


def _runs(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's run lengths: down the columns, and first of what is outside."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _labelled_png(answer: Answer) -> dict[str, bytes]:
    picture = PIL.Image.fromarray(answer.labels()).convert("P")
    picture.putpalette([channel for colour in LABEL_COLOURS for channel in colour])
    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=signed())
    return {"_labels.png": content.getvalue()}


def _contours(answer: Answer) -> dict[str, bytes]:
    """A row for each point; the outer ring of a lesion is ring 0, and its holes follow."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    height, width = answer.spacing or (None, None)
    writer.writerow(["image", "lesion", "ring", "x", "y", *(["x_mm", "y_mm"] if answer.spacing else [])])
    for number, lesion in enumerate(answer.found.lesions, 1):
        for ring, points in enumerate(outlines(lesion.inside, lesion.box[:2])):
            for x, y in points.tolist():
                metric = [round(x * width, 3), round(y * height, 3)] if answer.spacing else []
                writer.writerow([answer.name, number, ring, x, y, *metric])
    return {"_contours.csv": text.getvalue().encode()}


def _geojson(answer: Answer) -> dict[str, bytes]:
    """Polygons in pixels, y downwards."""
    features = []
    for number, lesion in enumerate(answer.found.lesions, 1):
        rings = [[*ring.tolist(), ring[0].tolist()] for ring in outlines(lesion.inside, lesion.box[:2])]
        measured = {"image": answer.name, "lesion": number, "label": answer.label}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": rings},
                "properties": measured | lesion.measurements(answer.spacing),
            }
        )
    return {"_contours.geojson": json.dumps({"type": "FeatureCollection", "features": features}).encode()}


def _nifti(answer: Answer) -> dict[str, bytes]:
    """The numbered lesions, placed as programs place a picture: x to the left, y to the back, in millimetres."""
    import nibabel

    height, width = answer.spacing or (1.0, 1.0)
    image = nibabel.Nifti1Image(answer.labels().T[..., None], np.diag([-width, -height, 1.0, 1.0]))
    image.header.set_xyzt_units("mm" if answer.spacing else "unknown")
    image.header["descrip"] = WRITER
    return {"_labels.nii.gz": gzip.compress(image.to_bytes(), mtime=0)}


def _dicom_segmentation(answer: Answer) -> dict[str, bytes]:
    from .dicom_objects import segmentation_files

    return segmentation_files(answer)


def _dicom_capture(answer: Answer) -> dict[str, bytes]:
    from .dicom_objects import capture_file

    return capture_file(answer)


# For each format the libraries that it needs beside the package's own, and what writes it.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Answer], dict[str, bytes]]]] = {
    "coco": ((), lambda answer: {"_coco.json": _coco(answer, as_runs=False)}),
    "coco-rle": ((), lambda answer: {"_coco_rle.json": _coco(answer, as_runs=True)}),
    "labels": ((), _labelled_png),
    "contours": ((), _contours),
    "geojson": ((), _geojson),
    "nifti": (("nibabel",), _nifti),
    "dicom-seg": (("highdicom",), _dicom_segmentation),
    "dicom-sc": (("highdicom",), _dicom_capture),
}
