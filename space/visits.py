"""What the Space remembers of a visitor, in memory and on disk, and how it forgets it."""

import itertools
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import PIL.Image

from sfrecsam_hf import Segmentation, SFRecSamDecoderOutput
from staged_model import AUTOMATIC, Controls, EncodedImage, Prompt, StagedModel

IDLE_SECONDS = 3600
KEPT_ANSWERS = 3
UPLOAD_FOLDER = re.compile(r"[0-9a-f]{64}")  # Gradio names the folder of an upload after a secret and its content
LESION, BACKGROUND, BOX_CORNER = "Lesion", "Background", "Box corner"


@dataclass(frozen=True)
class Guidance:
    """What a visitor has pointed out so far, and the first corner of a box whose second one is still to come."""

    prompt: Prompt = AUTOMATIC
    corner: tuple[float, float] | None = None


@dataclass(frozen=True)
class Answer:
    """A segmentation, and the milliseconds of the stages that had to run for it; None for a stage that was kept."""

    segmentation: Segmentation
    decode_ms: float | None
    correct_ms: float


@dataclass
class Visit:
    """One visitor's image, guidance, settings and files."""

    folder: Path
    controls: Controls
    last_used: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    uploads: set[Path] = field(default_factory=set)
    encoded: EncodedImage | None = None
    name: str = ""
    encode_ms: float = 0.0
    steps: list[Guidance] = field(default_factory=list)
    decoded: dict[Prompt, tuple[int, SFRecSamDecoderOutput]] = field(default_factory=dict)
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def guidance(self) -> Guidance:
        """All that was pointed out on the image."""
        return self.steps[-1] if self.steps else Guidance()

    def open(self, staged: StagedModel, image: PIL.Image.Image, name: str) -> None:
        """Encodes a new image and forgets the guidance on the last one."""
        started = time.perf_counter()
        self.encoded = staged.encode(image)
        self.encode_ms = 1000 * (time.perf_counter() - started)
        self.name, self.steps, self.decoded = name, [], {}

    def close(self) -> None:
        """Forgets the image."""
        self.encoded, self.name, self.steps, self.decoded = None, "", [], {}

    def click(self, x: float, y: float, kind: str) -> None:
        """
        Adds a point, or a corner of a box: every second corner completes one, which replaces the last.

        Raises:
            ValueError: There is no image, or the click lies outside it.
        """
        self._check_inside(x, y)
        now = self.guidance
        if kind != BOX_CORNER:
            points, labels = (*now.prompt.points, (x, y)), (*now.prompt.labels, int(kind == LESION))
            self.steps.append(replace(now, prompt=replace(now.prompt, points=points, labels=labels)))
        elif now.corner is None:
            self.steps.append(replace(now, corner=(x, y)))
        else:
            self.box(*now.corner, x, y)

    def box(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """
        Sets the box by two opposite corners.

        Raises:
            ValueError: There is no image, a corner lies outside it, or the box is empty.
        """
        self._check_inside(x1, y1)
        self._check_inside(x2, y2)
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        if box[0] == box[2] or box[1] == box[3]:
            raise ValueError("The box is empty; give two corners that differ in x and in y.")
        self.steps.append(Guidance(replace(self.guidance.prompt, box=box)))

    def undo(self) -> None:
        """Takes the last click, or the last box that was drawn, back."""
        self.steps = self.steps[:-1]

    def clear(self) -> None:
        """Takes all guidance back."""
        self.steps = []

    def answer(self, staged: StagedModel, prompt: Prompt) -> Answer:
        """Answers a prompt; decodes only if this prompt was not decoded before with as many samples."""
        started = time.perf_counter()
        samples, decoded = self.decoded.get(prompt, (None, None))
        kept = samples == self.controls.mc_samples
        if not kept:
            decoded = staged.decode(self.encoded, prompt, self.controls.mc_samples)
            automatic = {key: value for key, value in self.decoded.items() if key == AUTOMATIC}
            self.decoded = {**automatic, prompt: (self.controls.mc_samples, decoded)}
        ready = time.perf_counter()
        segmentation = staged.correct(self.encoded, decoded, self.controls)
        return Answer(
            segmentation,
            decode_ms=None if kept else 1000 * (ready - started),
            correct_ms=1000 * (time.perf_counter() - ready),
        )

    def new_folder(self, kind: str) -> Path:
        """An empty folder for the files of an answer; older answers of this kind are deleted."""
        folder = self.folder / kind / f"{next(self.numbers):06d}"
        folder.mkdir(parents=True)
        for old in sorted(folder.parent.iterdir())[:-KEPT_ANSWERS]:
            shutil.rmtree(old)
        return folder

    def _check_inside(self, x: float, y: float) -> None:
        if self.encoded is None:
            raise ValueError("There is no image to point at; drop one or pick a sample first.")
        width, height = self.encoded.image.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"({x:g}, {y:g}) lies outside the image of {width} x {height} pixels.")


class Visits:
    """
    All visits by session. A visit ends when its page closes, or after an hour without a sign of life.

    Args:
        root (`Path`): Folder below which every file of every visit lies.
        controls ([`Controls`]): The settings that a visit begins with.
    """

    def __init__(self, root: Path, controls: Controls):
        self.root = root.resolve()
        self.controls = controls
        self._visits: dict[str, Visit] = {}
        self._written: dict[Path, int | None] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, session: str) -> Iterator[Visit]:
        """The visit of a session, begun if it is new; a visitor's actions wait for each other."""
        with self._lock:
            if session not in self._visits:
                self._visits[session] = Visit(Path(tempfile.mkdtemp(prefix="visit-", dir=self.root)), self.controls)
            visit = self._visits[session]
            visit.last_used = time.monotonic()
        with visit.lock:
            try:
                yield visit
            finally:
                if self._visits.get(session) is not visit:  # the page was closed while this action waited
                    self.delete(visit)

    def keep(self, visit: Visit, uploads: list[Path]) -> None:
        """
        Remembers uploads, so that they go with the visitor.

        Raises:
            ValueError: A path that a caller named is no upload. Nothing is read or removed that was not uploaded.
        """
        for upload in uploads:
            if not self._is_upload(upload):
                raise ValueError(f"{upload.name} is not among your uploads; drop it again.")
        with self._lock:
            visit.uploads.update(uploads)
            self._written.update({upload: _written(upload) for upload in uploads})

    def _is_upload(self, path: Path) -> bool:
        """Whether Gradio wrote this file when somebody uploaded it: one folder below the root, and no link."""
        known = path.parent.parent == self.root and UPLOAD_FOLDER.fullmatch(path.parent.name)
        return bool(known) and path.is_file() and not path.is_symlink() and not path.parent.is_symlink()

    def leave(self, session: str) -> None:
        """Ends a visit, when the action that runs is done: nothing of it is left in memory or on disk."""
        with self._lock:
            visit = self._visits.pop(session, None)
        if visit is not None:
            with visit.lock:
                self.delete(visit)

    def forget_idle(self) -> None:
        """Ends the visits that were not used for an hour."""
        deadline = time.monotonic() - IDLE_SECONDS
        for session in [session for session, visit in self._visits.copy().items() if visit.last_used < deadline]:
            self.leave(session)

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Looks for idle visits once a minute."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(60):
                self.forget_idle()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def delete(self, visit: Visit) -> None:
        """
        Deletes a visit's answers and uploads.

        Equal files of two visitors are one file on disk: it stays while another visit has it, and when it was written
        anew by somebody whose visit does not have it yet.
        """
        shutil.rmtree(visit.folder, ignore_errors=True)
        with self._lock:
            elsewhere = set().union(*(other.uploads for other in self._visits.values()))
            for upload in visit.uploads - elsewhere:
                if self._written.pop(upload, None) == _written(upload):
                    upload.unlink(missing_ok=True)
            visit.uploads.clear()


def _written(upload: Path) -> int | None:
    return upload.stat().st_mtime_ns if upload.is_file() else None
