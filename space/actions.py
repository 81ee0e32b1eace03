"""What each button, click and slider does. Layout and wiring are in `app.py`."""

import html
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from batch import Left, segment_batch
from cine import Cine
from downloads import OTHER_FORMATS, report, write_files, write_other
from explain import frequency_story
from pictures import mask_picture, save, served, viewer_value
from sample_list import SAMPLES
from scan import Scan, Shown
from sfrecsam_hf import Segmentation
from sfrecsam_hf.data.dicom import Calibration
from staged_model import Controls, StagedModel
from uploads import Upload, holds_clip, read_clip, read_upload
from visits import Visit
from words import clip_foot_line, clip_line, foot_line, head_line, initial_is_better, measurement_rows

NO_IMAGE = "Drop an image, paste one, or pick a sample."
NOT_GUIDED = "Outlines, measurements and files appear here."
PAGE_OUTPUTS = 12
LONG_S = 5  # of work that is left, from which on a visitor is told
_HIDDEN = gr.update(visible=False)
FIRST_FRAMES = 8  # of a clip, after which one can say how long it takes
FAILED = "That did not work"


def on_page(action: Callable) -> Callable:
    """
    Runs an action of the page and shows the visit as it is afterwards.

    What is wrong with the input is said as plain text, whatever a file name holds, and what was shown stays.
    """

    @wraps(action)
    def answered(self: "Actions", visit: Visit, *inputs: Any) -> list[Any]:
        with visit.at_work(), visit.turn:
            with suppress(Left):  # the page was closed: nobody waits for the rest
                try:
                    action(self, visit, *inputs)
                except ValueError as error:
                    gr.Warning(html.escape(str(error)), title=FAILED, duration=15)
                shown = self.page(visit)
            return [gr.skip()] * (PAGE_OUTPUTS + 1) if visit.ended else [visit, *shown]

    return answered


def in_call(action: Callable) -> Callable:
    """Runs an action that stands alone; what is wrong with the input is an error of the call."""

    @wraps(action)
    def answered(self: "Actions", visit: Visit, *inputs: Any, **more: Any) -> list[Any]:
        with visit.at_work():
            try:
                answers = action(self, visit, *inputs, **more)
                return [gr.skip() if visit.ended else visit, *answers]
            except ValueError as error:
                raise gr.Error(html.escape(str(error)), title=FAILED, print_exception=False) from error

    return answered


class Actions:
    """
    The Space's actions. The first argument of each is the visit, which Gradio keeps.

    Args:
        staged ([`StagedModel`]): Model and processor.
    """

    def __init__(self, staged: StagedModel):
        self.staged = staged

    @on_page
    def open_upload(
        self,
        visit: Visit,
        event: gr.EventData,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
        format: str = OTHER_FORMATS[0][1],
    ) -> None:
        """Opens a file that was dropped on the viewer, pasted, or picked."""
        visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
        visit.format = format
        said = _said(visit, event)
        own = visit.take(str(said.get("path")))
        if holds_clip(own):
            clip = read_clip(own)
            cine = Cine(own.name, clip, clip.calibration, visit.new_folder("image"))
            self._answer_clip(visit, cine)  # a frame can be damaged: then what was open stays
            visit.scan = cine
        else:
            visit.scan = Scan.open(self.staged, own.name, read_upload(own))

    @on_page
    def open_sample(
        self,
        visit: Visit,
        event: gr.EventData,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
        format: str = OTHER_FORMATS[0][1],
    ) -> None:
        """Opens one of the samples."""
        visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))
        visit.format = format
        index = _said(visit, event).get("index")
        if index not in range(len(SAMPLES)):
            raise ValueError("There is no such sample; reload the page.")
        sample = SAMPLES[int(index)]
        visit.scan = Scan.open(self.staged, sample.name, Upload(sample.image()), sample.reference())

    @on_page
    def guide(self, visit: Visit, event: gr.EventData) -> None:
        """Answers to all clicks, the box and all strokes as they are now."""
        said, scan = _said(visit, event), _opened(visit)
        if isinstance(scan, Cine):
            scan.point_out(said.get("frames"))
            scan.show(said.get("frame"))
        else:
            scan.point_out(*(said.get(kind) for kind in ("points", "labels", "box", "strokes")))

    @on_page
    def show_frame(self, visit: Visit, event: gr.EventData) -> None:
        """Shows another frame of a clip."""
        said, scan = _said(visit, event), _opened(visit)
        if not isinstance(scan, Cine):
            raise ValueError("No clip is open; drop one.")
        scan.show(said.get("frame"))

    @on_page
    def control(
        self,
        visit: Visit,
        mc_samples: int,
        suspicion_threshold: float,
        presence_threshold: float,
        correctors: list[str],
    ) -> None:
        """Answers again with other settings; the image is not encoded again."""
        visit.controls = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))

    @on_page
    def switch_correction(self, visit: Visit) -> None:
        """Shows the mask before correction, or the corrected one again."""
        scan = _opened(visit)
        if isinstance(scan, Cine):
            raise ValueError("On a clip, take the correctors off under Control.")
        scan.guidance = replace(scan.guidance, before_correction=not scan.guidance.before_correction)

    @on_page
    def choose_format(self, visit: Visit, format: str) -> None:
        """Offers what is shown in another of the formats, from now on."""
        if format not in dict(OTHER_FORMATS).values():
            raise ValueError("There is no such format; choose one of the list.")
        visit.format = format

    @on_page
    def calibrate_by_line(self, visit: Visit, event: gr.EventData) -> None:
        """Takes the size of a pixel from a line of known length."""
        self._calibrate(visit, _said(visit, event).get("mm_per_pixel"))

    @on_page
    def calibrate(self, visit: Visit, mm_per_pixel: float | None) -> None:
        """Takes the size of a pixel as typed; the file's own if nothing is."""
        self._calibrate(visit, mm_per_pixel)

    @in_call
    def explain(self, visit: Visit) -> list[Any]:
        """Shows what the frequency branch does with the image."""
        with visit.turn:
            if visit.scan is None:
                return [None, None, None, NO_IMAGE]
            try:
                cine = isinstance(visit.scan, Cine)
                encoded = self.staged.encode(visit.scan.shown().image) if cine else visit.scan.encoded
                story = frequency_story(self.staged.model, encoded)
            except ValueError as error:
                return [None, None, None, str(error)]
            folder = visit.new_folder("explain")
            pictures = [
                save(picture, folder / f"{kind}.png")
                for kind, picture in (("spectrum", story.spectrum), ("energy", story.energy))
            ]
        shares = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in story.shares)
        said = f"Energy of what the filter changes, as a share of the features' energy: {shares}."
        return [pictures[0], story.responses, pictures[1], said]

    def receive(self, visit: Visit, files: list[str] | None) -> Any:
        """Takes uploads, so that they go with the visitor even if nothing is done with them."""
        with visit.at_work():
            for file in files or []:
                try:
                    visit.take(file)
                except ValueError as error:
                    gr.Warning(html.escape(str(error)), title=FAILED)
        return gr.skip() if visit.ended else visit

    @in_call
    def batch(
        self,
        visit: Visit,
        images: list[str] | None,
        references: list[str] | None = None,
        mc_samples: int = 8,
        suspicion_threshold: float = 0.5,
        presence_threshold: float = 0.5,
        correctors: list[str] = ("fp", "fn"),
        progress: gr.Progress = gr.Progress(),
    ) -> list[Any]:
        """
        Segment several breast-ultrasound images, and compare them with reference masks where there are any.

        Args:
            images: Image files, at most 32: PNG, JPEG, TIFF, BMP or DICOM.
            references: Mask files named `x.png` or `x_mask.png` for the image `x`.
            mc_samples: Stochastic decoder passes, 0 to 32.
            suspicion_threshold: Pixels less certain than this, in bits from 0 to 1, may be corrected.
            presence_threshold: Probability of a lesion below which nothing is marked.
            correctors: Any of "fp" (remove false positives) and "fn" (add false negatives).

        Returns:
            Table of measurements, pictures of the outlines, a ZIP with masks, overlays, numbers and the table, and a
            sentence that counts what was segmented and names what was left out.
        """
        paths, truths = ([visit.take(path) for path in group or []] for group in (images, references))
        settings = Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors))

        def tell(share: float, words: str) -> None:
            if visit.ended:
                raise Left
            progress(share, desc=words)

        try:
            answer = segment_batch(self.staged, paths, truths, settings, visit.new_folder("batch"), tell)
        except Left:  # the page was closed: nobody waits for the rest
            return [gr.skip()] * 4
        said = f"{len(answer.numbers)} segmented, {len(answer.problems)} left out. " + " ".join(answer.problems)
        return [answer.rows(), answer.pictures, str(answer.archive), said]

    @in_call
    def segment(
        self,
        visit: Visit,
        image: str | None,
        points: list[list[float]] = (),
        labels: list[int] = (),
        box: list[float] = (),
        mc_samples: int = 8,
        suspicion_threshold: float = 0.5,
        presence_threshold: float = 0.5,
        correctors: list[str] = ("fp", "fn"),
        format: str = "mask",
    ) -> list[Any]:
        """
        Outline the lesions in one breast-ultrasound image. Research use only, not for diagnosis.

        Args:
            image: Image file: PNG, JPEG, TIFF, BMP or DICOM.
            points: Clicks as [x, y] in pixels of the image; empty to let the model find lesions by itself.
            labels: 1 (lesion) or 0 (background) for each point; all 1 if empty.
            box: [x1, y1, x2, y2] around a lesion, in pixels of the image; empty for none.
            mc_samples: Stochastic decoder passes, 0 to 32.
            suspicion_threshold: Pixels less certain than this, in bits from 0 to 1, may be corrected.
            presence_threshold: Probability of a lesion below which nothing is marked.
            correctors: Any of "fp" (remove false positives) and "fn" (add false negatives).
            format: "mask" for a PNG of the image's size, or one that `sfrecsam predict --format` takes.

        Returns:
            The lesions in that format, and the measurements; millimetres where the file tells them.
        """
        if image is None:
            raise ValueError("No image was given; pass a file.")
        with visit.turn:
            own = visit.take(image)
            if not isinstance(visit.scan, Scan) or visit.scan.upload.path != own:
                visit.scan = Scan.open(self.staged, own.name, read_upload(own))
            scan, settings = (
                visit.scan,
                Controls(mc_samples, suspicion_threshold, presence_threshold, tuple(correctors)),
            )
            scan.point_out(points, labels, box)
            found = scan.answer(self.staged, settings).segmentation
            folder = visit.new_folder("api")
            if format == "mask":
                path = save(mask_picture(found.mask), folder / f"{own.stem}_mask.png")
            else:
                path = str(write_other(folder, scan.shown(), found, format))
            spacing = scan.calibration.spacing(found.mask)
        return [path, report(own.name, found, scan.guidance, settings, self.staged, spacing)]

    def page(self, visit: Visit) -> list[Any]:
        """Everything that the Segment tab shows and offers."""
        scan = visit.scan
        if scan is None:
            return [{"ticket": visit.ticket}, None, [], _HIDDEN, None, None, None, None, *[_HIDDEN] * 3, NOT_GUIDED]
        return self._clip(visit, scan) if isinstance(scan, Cine) else self._image(visit, scan)

    def _image(self, visit: Visit, scan: Scan) -> list[Any]:
        answer = scan.answer(self.staged, visit.controls)
        found = answer.segmentation
        image = self._picture(visit, scan)
        before = scan.guidance.before_correction
        switch = gr.update(
            visible=before or bool(initial_is_better(found)),
            value="Use the corrected mask" if before else "Use the mask before correction",
        )
        head = head_line(found, scan.guidance, visit.controls)
        foot = foot_line(scan, answer)
        return self._shown(visit, scan.shown(), found, image, head, switch, [_HIDDEN] * 3, foot)

    def _answer_clip(self, visit: Visit, cine: Cine) -> Segmentation:
        """The answer to the shown frame; says how long it takes where all frames have to be segmented."""
        began = time.perf_counter()

        def tell(done: int) -> None:
            if visit.ended:
                raise Left
            left = (time.perf_counter() - began) / done * (cine.clip.frames - done)
            if done == FIRST_FRAMES and left > LONG_S:
                gr.Info(f"{done} of {cine.clip.frames} frames are done; about {left:.0f} s more.", duration=left)

        return cine.answer(self.staged, visit.controls, lambda: visit.new_folder("clip"), tell)

    def _clip(self, visit: Visit, cine: Cine) -> list[Any]:
        found = self._answer_clip(visit, cine)
        shown, clip, whole = cine.shown(), cine.clip, cine.report
        head = head_line(found, shown.guidance, visit.controls, clip_line(clip.frames, whole))
        files = [gr.update(visible=path.is_file(), value=str(path)) for path in whole.files[:3]]
        foot = clip_foot_line(clip.frames, cine.spent_s)
        value, *others = self._shown(visit, shown, found, cine.picture(), head, _HIDDEN, files, foot)
        frames = {"count": clip.frames, "shown": cine.frame, "measure": whole.largest, "rate": clip.rate}
        return [value | {"frames": frames | {"outlines": served(cine.outlines)}}, *others]

    def _shown(
        self,
        visit: Visit,
        shown: Shown,
        found: Segmentation,
        image: Path,
        head: dict[str, Any],
        switch: dict[str, Any],
        whole_clip: list[dict[str, Any]],
        foot: str,
    ) -> list[Any]:
        """What the page shows and offers of one picture."""
        folder = visit.new_folder("answer")
        files = write_files(folder, shown, found, visit.controls, self.staged)
        try:
            other = str(write_other(folder, shown, found, visit.format))
        except ValueError as error:
            gr.Warning(html.escape(str(error)), title=FAILED)
            other = None
        return [
            viewer_value(shown, found, folder, image, visit.ticket),
            head,
            measurement_rows(found, shown.calibration.spacing(found.mask)),
            switch,
            *(str(path) for path in asdict(files).values()),
            other,
            *whole_clip,
            foot,
        ]

    def _picture(self, visit: Visit, scan: Scan) -> Path:
        """The image as the viewer loads it, written once."""
        if scan.picture is None:
            scan.picture = visit.new_folder("image") / f"{Path(scan.name).stem}.png"
            save(scan.encoded.image, scan.picture)
        return scan.picture

    def _calibrate(self, visit: Visit, mm_per_pixel: Any) -> None:
        scan = _opened(visit)
        if mm_per_pixel is None:
            scan.calibration = scan.upload.calibration
            return
        if not isinstance(mm_per_pixel, (int, float)) or not 1e-4 <= mm_per_pixel <= 10:
            raise ValueError("Millimetres per pixel must lie between 0.0001 and 10.")
        scan.calibration = Calibration((float(mm_per_pixel), float(mm_per_pixel)))


def _opened(visit: Visit) -> Scan:
    if visit.scan is None:
        raise ValueError("No image is open (a visit ends after an hour without use); drop one or pick a sample.")
    return visit.scan


def _said(visit: Visit, event: gr.EventData) -> dict[str, Any]:
    """What a page says with an event, which may be anything; the number of its request is kept."""
    said = event._data if isinstance(event._data, dict) else {}
    if isinstance(said.get("ticket"), int):
        visit.ticket = said["ticket"]
    return said
