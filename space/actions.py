"""What each button, click and slider does. Layout and wiring are in `app.py`."""

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image

from batch import HEADERS, segment_batch
from explain import frequency_story
from pictures import guide_picture, magnification, measurement_rows, report, write_segment_files
from staged_model import Controls, Prompt, StagedModel
from uploads import read_upload
from visits import BACKGROUND, BOX_CORNER, LESION, Answer, Visit, Visits

NO_IMAGE = "Drop an image, paste one, or pick a sample."
GUIDE_OUTPUTS = 3


def friendly(action: Callable) -> Callable:
    """Shows what is wrong with the input as a message, and keeps everything else as it is."""

    @wraps(action)
    def shown(*args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except ValueError as error:
            raise gr.Error(str(error), title="That did not work", print_exception=False) from error

    return shown


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
        mc_samples: float,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Encodes an upload, and answers for it; a file that is no image is put away again with a message."""
        visit = self.visits.of(request.session_hash)
        visit.controls = _controls(mc_samples, suspicion_threshold, presence_threshold, correctors)
        if image is None:
            visit.close()
            return [None, *_nothing()]
        upload = Path(image)
        visit.uploads.add(upload)
        try:
            return self._opened(visit, read_upload(upload), upload.name)
        except ValueError as error:
            visit.close()
            gr.Warning(str(error), title="This file cannot be used", duration=15)
            return [None, *_nothing()]

    def open_sample(
        self,
        request: gr.Request,
        index: int,
        mc_samples: float,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Does the same for one of the samples."""
        visit, sample = self.visits.of(request.session_hash), self.samples[index]
        visit.controls = _controls(mc_samples, suspicion_threshold, presence_threshold, correctors)
        return self._opened(visit, read_upload(sample), sample.name)

    def control(
        self,
        request: gr.Request,
        mc_samples: float,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> list[Any]:
        """Answers again with other settings; the image is not encoded again."""
        visit = self.visits.of(request.session_hash)
        visit.controls = _controls(mc_samples, suspicion_threshold, presence_threshold, correctors)
        return self._answered(visit) if visit.encoded else _nothing()

    @friendly
    def click(self, request: gr.Request, x: float | None, y: float | None, kind: str) -> list[Any]:
        """Adds a click at a pixel of the image, and answers."""
        if x is None or y is None:
            raise ValueError("Give both x and y of the click, in pixels of the image.")
        visit = self.visits.of(request.session_hash)
        visit.click(x, y, kind)
        return self._guided(visit)

    @friendly
    def select(self, request: gr.Request, at: gr.SelectData, kind: str) -> list[Any]:
        """Adds a click where the shown, enlarged image was clicked."""
        visit = self.visits.of(request.session_hash)
        times = magnification(visit.encoded.image) if visit.encoded else 1
        visit.click(at.index[0] / times, at.index[1] / times, kind)
        return self._guided(visit)

    def undo(self, request: gr.Request) -> list[Any]:
        """Takes the last click back."""
        visit = self.visits.of(request.session_hash)
        visit.clicks = visit.clicks[:-1]
        return self._guided(visit)

    def clear(self, request: gr.Request) -> list[Any]:
        """Takes all clicks back."""
        visit = self.visits.of(request.session_hash)
        visit.clicks = []
        return self._guided(visit)

    @friendly
    def batch(
        self,
        request: gr.Request,
        images: list[str] | None,
        references: list[str] | None,
        mc_samples: float,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
        progress: gr.Progress = gr.Progress(),
    ) -> list[Any]:
        """Segments several images, and compares them with reference masks where there are any."""
        visit = self.visits.of(request.session_hash)
        paths, reference_paths = ([Path(path) for path in group or []] for group in (images, references))
        visit.uploads.update(paths + reference_paths)
        answer = segment_batch(
            self.staged,
            paths,
            reference_paths,
            _controls(mc_samples, suspicion_threshold, presence_threshold, correctors),
            visit.new_folder("batch"),
            lambda share, text: progress(share, desc=text),
        )
        for problem in answer.problems:
            gr.Warning(problem, title="Left out", duration=15)
        table = {"headers": HEADERS, "data": answer.rows}
        said = f"{len(answer.rows)} segmented, {len(answer.problems)} left out. " + " ".join(answer.problems)
        return [table, answer.pictures, str(answer.archive), said]

    def explain(self, request: gr.Request) -> list[Any]:
        """Shows what the frequency branch does with the image."""
        visit = self.visits.of(request.session_hash)
        if visit.encoded is None:
            return [None, None, None, NO_IMAGE]
        try:
            story = frequency_story(self.staged.model, visit.encoded)
        except ValueError as error:
            return [None, None, None, str(error)]
        folder = visit.new_folder("explain")
        pictures = [
            _saved(picture, folder / f"{kind}.png")
            for kind, picture in (("spectrum", story.spectrum), ("filter", story.responses), ("energy", story.energy))
        ]
        shares = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in story.shares)
        return [*pictures, f"Energy of what the filter changes, as a share of the features' energy: {shares}."]

    @friendly
    def segment(
        self,
        request: gr.Request,
        image: str | None,
        points: list[list[float]],
        labels: list[int],
        box: list[float],
        mc_samples: float,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> tuple[str, dict[str, Any]]:
        """Segments one image in one call: the mask as PNG of the image's size, and the measurements."""
        if image is None:
            raise ValueError("No image was given; pass a file.")
        upload, visit = Path(image), self.visits.of(request.session_hash)
        visit.uploads.add(upload)
        settings = _controls(mc_samples, suspicion_threshold, presence_threshold, correctors)
        call = Visit(visit.folder, settings)
        call.open(self.staged, read_upload(upload), upload.name)
        for x, y, kind in _given_clicks(points, labels, box):
            call.click(x, y, kind)
        found = call.answer(self.staged, call.prompt()).segmentation
        mask = _saved(PIL.Image.fromarray(found.mask), visit.new_folder("api") / f"{upload.stem}_mask.png")
        return mask, report(upload.name, found, asdict(settings))

    def leave(self, request: gr.Request) -> None:
        """Forgets a visitor whose page was closed."""
        self.visits.leave(request.session_hash)

    def _opened(self, visit: Visit, image: PIL.Image.Image, name: str) -> list[Any]:
        visit.open(self.staged, image, name)
        return [_saved(image, visit.new_folder("image") / f"{Path(name).stem}.png"), *self._answered(visit)]

    def _answered(self, visit: Visit) -> list[Any]:
        """Everything that the Segment and the Guide tab show."""
        answer = visit.answer(self.staged, Prompt())
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
        prompt = visit.prompt()
        answer = visit.answer(self.staged, prompt)
        picture = guide_picture(visit.encoded.image, answer.segmentation.mask, visit.clicks, prompt.box)
        path = visit.new_folder("guide") / f"{Path(visit.name).stem}_guided.png"
        return [_saved(picture, path), _times(visit, answer), measurement_rows(answer.segmentation)]


def _controls(mc_samples: float, suspicion: float, presence: float, correctors: list[str]) -> Controls:
    return Controls(int(mc_samples), float(suspicion), float(presence), tuple(correctors))


def _given_clicks(points: list[list[float]], labels: list[int], box: list[float]) -> list[tuple[float, float, str]]:
    """Points, labels and box of an API call as clicks; without labels all points mark the lesion."""
    labels = labels or [1] * len(points)
    if len(labels) != len(points) or any(np.shape(point) != (2,) for point in points):
        raise ValueError("points must be a list of [x, y], and labels a 1 (lesion) or 0 (background) for each.")
    if box and np.shape(box) != (4,):
        raise ValueError("box must be [x1, y1, x2, y2], in pixels of the image.")
    clicks = [(x, y, LESION if label else BACKGROUND) for (x, y), label in zip(points, labels, strict=True)]
    corners = [(*box[:2], BOX_CORNER), (*box[2:], BOX_CORNER)] if box else []
    return clicks + corners


def _nothing() -> list[Any]:
    """The empty Segment and Guide tabs."""
    return [None, None, None, None, [], None, None, None, NO_IMAGE, None, NO_IMAGE, []]


def _times(visit: Visit, answer: Answer) -> str:
    decoded = "kept from before" if answer.decode_ms is None else f"{answer.decode_ms:.0f} ms"
    return (
        f"Image encoded **once** in **{visit.encode_ms:.0f} ms**. This answer: decoder **{decoded}**, corrector "
        f"**{answer.correct_ms:.0f} ms**."
    )


def _saved(picture: PIL.Image.Image, path: Path) -> str:
    picture.save(path, compress_level=1)
    return str(path)
