"""What each button, click and slider does. Layout and wiring are in `app.py`."""

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image

from batch import segment_batch
from explain import frequency_story
from pictures import (
    guide_picture,
    magnification,
    mask_picture,
    measurement_rows,
    report,
    save,
    shown,
    write_segment_files,
)
from staged_model import AUTOMATIC, Controls, StagedModel
from uploads import read_upload
from visits import BACKGROUND, LESION, Answer, Visit, Visits

NO_IMAGE = "Drop an image, paste one, or pick a sample."
WELCOME = f"""
**{NO_IMAGE}**

You get the outline, where the model is unsure, what it corrected, measurements, and files to download. Then click on
the image under *Guide*, give many images and reference masks under *Compare*, and see under *Explain* what the
frequency branch adds to a plain SAM.
"""
GUIDE_OUTPUTS = 3


def friendly(action: Callable) -> Callable:
    """Shows what is wrong with the input as a message, and keeps everything else as it is."""

    @wraps(action)
    def answered(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except ValueError as error:
            raise gr.Error(str(error), title="That did not work", print_exception=False) from error

    return answered


class Actions:
    """
    The Space's actions. Those with a request belong to a visit; `segment` stands alone.

    Args:
        staged ([`StagedModel`]): Model and processor.
        visits ([`Visits`]): What is remembered of each visitor.
        samples (`list[Path]`): Sample images to pick from.
    """

    def __init__(self, staged: StagedModel, visits: Visits, samples: list[Path]):
        self.staged = staged
        self.visits = visits
        self.samples = samples

    def open_image(
        self,
        request: gr.Request,
        image: str | None,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Encodes an upload, and answers for it; a file that is no image is put away again with a message."""
        with self.visits.of(request.session_hash) as visit:
            visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
            visit.close()
            if image is None:  # also said before a paste, whose image must not be taken away when this arrives
                return [gr.skip(), *_nothing()]
            upload = Path(image)
            try:
                self.visits.keep(visit, [upload])
                return self._opened(visit, read_upload(upload), upload.name)
            except ValueError as error:
                gr.Warning(str(error), title="This file cannot be used", duration=15)
                return [None, *_nothing()]

    def open_sample(
        self,
        request: gr.Request,
        index: int,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Does the same for one of the samples."""
        with self.visits.of(request.session_hash) as visit:
            visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
            sample = self.samples[index]
            return self._opened(visit, read_upload(sample), sample.name)

    def control(
        self,
        request: gr.Request,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Answers again with other settings; the image is not encoded again."""
        with self.visits.of(request.session_hash) as visit:
            visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
            return self._answered(visit) if visit.encoded else _nothing()

    @friendly
    def click(self, request: gr.Request, x: float | None, y: float | None, kind: str) -> list[Any]:
        """Adds a click at a pixel of the image, and answers."""
        if x is None or y is None:
            raise ValueError("Give both x and y of the click, in pixels of the image.")
        with self.visits.of(request.session_hash) as visit:
            visit.click(x, y, kind)
            return self._guided(visit)

    @friendly
    def select(self, request: gr.Request, at: gr.SelectData, kind: str) -> list[Any]:
        """Adds a click where the shown image was clicked."""
        with self.visits.of(request.session_hash) as visit:
            visit.click(*_in_image(visit, at.index), kind)
            return self._guided(visit)

    @friendly
    def draw_box(self, request: gr.Request, drawn: gr.EventData) -> list[Any]:
        """Sets the box that was drawn on the shown image."""
        with self.visits.of(request.session_hash) as visit:
            visit.box(*_in_image(visit, drawn.corners))
            return self._guided(visit)

    def undo(self, request: gr.Request) -> list[Any]:
        """Takes the last click or box back."""
        with self.visits.of(request.session_hash) as visit:
            visit.undo()
            return self._guided(visit)

    def clear(self, request: gr.Request) -> list[Any]:
        """Takes all clicks and the box back."""
        with self.visits.of(request.session_hash) as visit:
            visit.clear()
            return self._guided(visit)

    @friendly
    def receive(self, request: gr.Request, files: list[str] | None) -> None:
        """Remembers uploads, so that they go with the visitor even if nothing is done with them."""
        with self.visits.of(request.session_hash) as visit:
            self.visits.keep(visit, [Path(file) for file in files or []])

    @friendly
    def batch(
        self,
        request: gr.Request,
        images: list[str] | None,
        references: list[str] | None,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
        progress: gr.Progress = gr.Progress(),
    ) -> list[Any]:
        """Segments several images, and compares them with reference masks where there are any."""
        paths, reference_paths = ([Path(path) for path in group or []] for group in (images, references))
        with self.visits.of(request.session_hash) as visit:
            self.visits.keep(visit, paths + reference_paths)
            folder = visit.new_folder("batch")
        answer = segment_batch(
            self.staged,
            paths,
            reference_paths,
            Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors)),
            folder,
            lambda share, text: progress(share, desc=text),
        )
        for problem in answer.problems:
            gr.Warning(problem, title="Left out", duration=15)
        said = f"{len(answer.numbers)} segmented, {len(answer.problems)} left out. " + " ".join(answer.problems)
        return [answer.rows(), answer.pictures, str(answer.archive), said]

    def explain(self, request: gr.Request) -> list[Any]:
        """Shows what the frequency branch does with the image."""
        with self.visits.of(request.session_hash) as visit:
            if visit.encoded is None:
                return [None, None, None, NO_IMAGE]
            try:
                story = frequency_story(self.staged.model, visit.encoded)
            except ValueError as error:
                return [None, None, None, str(error)]
            folder = visit.new_folder("explain")
            pictures = {"spectrum": story.spectrum, "filter": story.responses, "energy": story.energy}
            paths = [save(picture, folder / f"{kind}.png") for kind, picture in pictures.items()]
        shares = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in story.shares)
        return [*paths, f"Energy of what the filter changes, as a share of the features' energy: {shares}."]

    @friendly
    def segment(
        self,
        request: gr.Request,
        image: str | None,
        points: list[list[float]],
        labels: list[int],
        box: list[float],
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> tuple[str, dict[str, Any]]:
        """Segments one image in one call: the mask as PNG of the image's size, and the measurements."""
        if image is None:
            raise ValueError("No image was given; pass a file.")
        with self.visits.of(request.session_hash) as visit:
            upload = Path(image)
            self.visits.keep(visit, [upload])
            settings = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
            call = Visit(visit.folder, settings)
            call.open(self.staged, read_upload(upload), upload.name)
            _guide(call, points, labels, box)
            found = call.answer(self.staged, call.guidance.prompt).segmentation
            path = save(mask_picture(found.mask), visit.new_folder("api") / f"{upload.stem}_mask.png")
        return path, report(upload.name, found, asdict(settings))

    def leave(self, request: gr.Request) -> None:
        """Forgets a visitor whose page was closed."""
        self.visits.leave(request.session_hash)

    def _opened(self, visit: Visit, image: PIL.Image.Image, name: str) -> list[Any]:
        visit.open(self.staged, image, name)
        preview = save(shown(image), visit.new_folder("image") / f"{Path(name).stem}.png")
        return [preview, *self._answered(visit)]

    def _answered(self, visit: Visit) -> list[Any]:
        """Everything that the Segment and the Guide tab show."""
        answer = visit.answer(self.staged, AUTOMATIC)
        files = write_segment_files(visit.new_folder("segment"), visit, answer)
        return [
            str(files.contour),
            (str(files.initial), str(files.corrected)),
            str(files.uncertainty),
            str(files.corrections),
            measurement_rows(answer.segmentation),
            *(str(path) for path in (files.mask, files.overlay, files.report)),
            _times(visit, answer),
            *self._guided(visit),
        ]

    def _guided(self, visit: Visit) -> list[Any]:
        """What the Guide tab shows."""
        if visit.encoded is None:
            return _nothing()[-GUIDE_OUTPUTS:]
        answer = visit.answer(self.staged, visit.guidance.prompt)
        picture = guide_picture(visit.encoded.image, answer.segmentation.mask, visit.guidance)
        path = visit.new_folder("guide") / f"{Path(visit.name).stem}_guided.png"
        return [save(picture, path), _times(visit, answer), measurement_rows(answer.segmentation)]


def _in_image(visit: Visit, shown_sides: list[float | None]) -> list[float]:
    """Coordinates in the shown image as coordinates in the image itself; the browser has none before it is loaded."""
    if None in shown_sides:
        raise ValueError("The picture was still loading; point at it again.")
    times = magnification(visit.encoded.image) if visit.encoded else 1
    return [side / times for side in shown_sides]


def _guide(call: Visit, points: Any, labels: Any, box: Any) -> None:
    """Points, labels and box of an API call; without labels all points mark the lesion."""
    points, labels, box = (_numbers(given or []) for given in (points, labels, box))
    points = points if points.size else np.empty((0, 2))
    labels = labels if labels.size else np.ones(points.shape[:1])
    if points.shape != (*labels.shape, 2) or not np.isin(labels, (0, 1)).all():
        raise ValueError("points must be a list of [x, y], and labels a 1 (lesion) or 0 (background) for each.")
    if box.size and box.shape != (4,):
        raise ValueError("box must be [x1, y1, x2, y2], in pixels of the image.")
    for (x, y), label in zip(points.tolist(), labels, strict=True):
        call.click(x, y, LESION if label else BACKGROUND)
    if box.size:
        call.box(*box.tolist())


def _numbers(given: Any) -> np.ndarray:
    """What was given as numbers; one that has no shape and no value where it holds anything else."""
    try:
        return np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _nothing() -> list[Any]:
    """The empty Segment and Guide tabs."""
    return [None, None, None, None, [], None, None, None, WELCOME, None, NO_IMAGE, []]


def _times(visit: Visit, answer: Answer) -> str:
    decoded = "kept from before" if answer.decode_ms is None else f"{answer.decode_ms:.0f} ms"
    return (
        f"Image encoded **once** in **{visit.encode_ms:.0f} ms**. This answer: decoder **{decoded}**, corrector "
        f"**{answer.correct_ms:.0f} ms**."
    )
