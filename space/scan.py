"""One opened image: what was pointed out on it, and the answers to that."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from sfrecsam_hf import Segmentation, SFRecSamDecoderOutput
from sfrecsam_hf.data.dicom import Calibration, is_dicom
from sfrecsam_hf.inference.guided import AUTOMATIC, Prompt, Stroke, guided, painted
from staged_model import Controls, EncodedImage, StagedModel
from uploads import Upload

KEPT_ANSWERS = 12
MOST_POINTS, MOST_STROKE_POINTS = 64, 20_000


@dataclass(frozen=True)
class Guidance:
    """
    All that a visitor says about an image.

    Args:
        prompt ([`Prompt`]): Clicks and box.
        strokes (`tuple[Stroke, ...]`): Of brush and eraser.
        before_correction (`bool`): Whether the mask before correction is wanted.
    """

    prompt: Prompt = AUTOMATIC
    strokes: tuple[Stroke, ...] = ()
    before_correction: bool = False

    def as_json(self) -> dict[str, Any]:
        """As lists, in pixels of the image."""
        return {
            "points": [list(point) for point in self.prompt.points],
            "labels": list(self.prompt.labels),
            "box": list(self.prompt.box) if self.prompt.box else None,
            "strokes": [
                {"path": [list(point) for point in stroke.path], "radius": stroke.radius, "erase": stroke.erase}
                for stroke in self.strokes
            ],
            "before_correction": self.before_correction,
        }


@dataclass(frozen=True)
class Shown:
    """
    One picture as it is shown and taken away: an image, or a frame of a clip.

    Args:
        name (`str`): What its files are named after.
        image (`PIL.Image.Image`): RGB, upright.
        calibration ([`Calibration`]): Size of its pixels, where known.
        guidance ([`Guidance`]): What was pointed out.
        reference (`numpy.ndarray` of shape `(height, width)`, *optional*): A reader's outline.
        source (`Path`, *optional*): The DICOM file that it is all of, if it is.
    """

    name: str
    image: PIL.Image.Image
    calibration: Calibration
    guidance: Guidance
    reference: np.ndarray | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Answer:
    """A segmentation, and the milliseconds of what had to run for it; `decode_ms` is 0 if everything was kept."""

    segmentation: Segmentation
    decode_ms: float
    rest_ms: float


@dataclass(eq=False)
class Scan:
    """
    An encoded image with its guidance.

    Args:
        name (`str`): File name, as the visitor knows it.
        upload ([`Upload`]): What was read.
        encoded ([`EncodedImage`]): What the model made of it.
        encode_ms (`float`): How long that took.
        calibration ([`Calibration`]): Size of its pixels, where known.
        reference (`numpy.ndarray` of shape `(height, width)`, *optional*): A reader's outline, for the samples.
        guidance ([`Guidance`]): What was pointed out.
        picture (`Path`, *optional*): The image as the page loads it.
    """

    name: str
    upload: Upload
    encoded: EncodedImage
    encode_ms: float
    calibration: Calibration
    reference: np.ndarray | None = None
    guidance: Guidance = Guidance()
    picture: Path | None = None
    _decoded: dict[tuple[Prompt, int], SFRecSamDecoderOutput] = field(default_factory=dict)
    _corrected: dict[tuple[Prompt, Controls], Segmentation] = field(default_factory=dict)

    @classmethod
    def open(cls, staged: StagedModel, name: str, upload: Upload, reference: np.ndarray | None = None) -> "Scan":
        """Encodes an image."""
        started = time.perf_counter()
        encoded = staged.encode(upload.image)
        spent = 1000 * (time.perf_counter() - started)
        return cls(name, upload, encoded, spent, upload.calibration, reference)

    def answer(self, staged: StagedModel, controls: Controls) -> Answer:
        """What the model, the guidance and the brush make of the image; decodes only what was not decoded before."""
        started, decoding = time.perf_counter(), 0.0
        if self.guidance.before_correction:
            controls = replace(controls, correctors=())

        def asked(prompt: Prompt) -> Segmentation:
            nonlocal decoding
            key = prompt, controls.mc_samples
            if key not in self._decoded:
                before = time.perf_counter()
                self._decoded[key] = staged.decode(self.encoded, *key)
                decoding += time.perf_counter() - before
            self._decoded[key] = self._decoded.pop(key)  # what was used longest ago is first, and goes first
            if (prompt, controls) not in self._corrected:
                found = staged.correct(self.encoded, self._decoded[key], controls)
                self._corrected[prompt, controls] = staged.look_closer(found, self.encoded, prompt, controls)
            self._corrected[prompt, controls] = self._corrected.pop((prompt, controls))
            return self._corrected[prompt, controls]

        found = painted(guided(self.guidance.prompt, asked), self.guidance.strokes)
        for kept in (self._decoded, self._corrected):
            for old in list(kept)[:-KEPT_ANSWERS]:
                del kept[old]
        return Answer(found, 1000 * decoding, 1000 * (time.perf_counter() - started - decoding))

    def shown(self) -> Shown:
        """What is shown of it."""
        path = self.upload.path
        source = path if path is not None and is_dicom(path) else None
        return Shown(self.name, self.encoded.image, self.calibration, self.guidance, self.reference, source)

    def point_out(self, points: Any, labels: Any, box: Any, strokes: Any = ()) -> None:
        """
        Replaces all clicks, the box and all strokes.

        Args:
            points (`list[list[float]]`): `[x, y]` in pixels of the image.
            labels (`list[int]`): 1 (lesion) or 0 (background) for each point; all 1 if empty.
            box (`list[float]`): `[x1, y1, x2, y2]`, any two opposite corners; empty for none.
            strokes (`list[dict]`): With `path`, `radius` and `erase`.

        Raises:
            ValueError: Something has another form, or lies outside the image.
        """
        prompt = read_prompt(points, labels, box, self.encoded.image.size)
        self.guidance = replace(self.guidance, prompt=prompt, strokes=self._strokes(strokes or ()))

    def _strokes(self, given: Any) -> tuple[Stroke, ...]:
        try:
            paths = [_numbers(stroke["path"]).reshape(-1, 2) for stroke in given]
            radii = [float(stroke["radius"]) for stroke in given]
            erased = [bool(stroke.get("erase")) for stroke in given]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("strokes must be a list of {path: [[x, y], ...], radius, erase}.") from error
        longest, size = max(self.encoded.image.size), sum(map(len, paths))
        good = all(len(path) and np.isfinite(path).all() and abs(path).max() <= 3 * longest for path in paths)
        if not good or not all(0 < radius <= longest for radius in radii) or size > MOST_STROKE_POINTS:
            raise ValueError("A stroke has no path, no radius, or reaches far outside the image; paint it again.")
        return tuple(
            Stroke(tuple(map(tuple, path.tolist())), radius, erase)
            for path, radius, erase in zip(paths, radii, erased, strict=True)
        )


def read_prompt(points: Any, labels: Any, box: Any, size: tuple[int, int]) -> Prompt:
    """
    Clicks and a box as a visitor gives them, which may be anything; for an image of `size` `(width, height)`.

    Raises:
        ValueError: Something has another form, or lies outside the image.
    """
    points, labels, box = (_numbers(given) for given in (points, labels, box))
    points = points if points.size else np.empty((0, 2))
    labels = labels if labels.size else np.ones(points.shape[:1])
    if points.shape != (*labels.shape, 2) or not np.isin(labels, (0, 1)).all():
        raise ValueError("points must be a list of [x, y], and labels a 1 (lesion) or 0 (background) for each.")
    if len(points) > MOST_POINTS:
        raise ValueError(f"{len(points)} points are too many; give at most {MOST_POINTS}.")
    if box.size and box.shape != (4,):
        raise ValueError("box must be [x1, y1, x2, y2], in pixels of the image.")
    corners = box.reshape(-1, 2)
    for x, y in (*points, *corners):
        _check_inside(x, y, size)
    found = None
    if box.size:
        (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        if x1 == x2 or y1 == y2:
            raise ValueError("The box is empty; give two corners that differ in x and in y.")
        found = x1, y1, x2, y2
    return Prompt(tuple(map(tuple, points.tolist())), tuple(int(label) for label in labels), found)


def _check_inside(x: float, y: float, size: tuple[int, int]) -> None:
    width, height = size
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"({x:g}, {y:g}) lies outside the image of {width} x {height} pixels.")


def _numbers(given: Any) -> np.ndarray:
    """What was given as numbers; one that has no shape and no value where it holds anything else."""
    try:
        return np.asarray([] if given is None else given, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)
