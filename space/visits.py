"""What the Space remembers of a visitor, in memory and on disk, and how it forgets it."""

import itertools
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image

from sfrecsam_hf import Segmentation, SFRecSamOutput
from staged_model import Controls, EncodedImage, Prompt, StagedModel

IDLE_SECONDS = 3600
KEPT_ANSWERS = 3
LESION, BACKGROUND, BOX_CORNER = "Lesion", "Background", "Box corner"


@dataclass(frozen=True)
class Click:
    """One click on the image, in its pixels."""

    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Answer:
    """A segmentation, and the milliseconds of the stages that had to run for it; None for a stage that was kept."""

    segmentation: Segmentation
    decode_ms: float | None
    correct_ms: float


@dataclass
class Visit:
    """One visitor's image, clicks, settings and files."""

    folder: Path
    controls: Controls
    last_used: float = field(default_factory=time.monotonic)
    uploads: set[Path] = field(default_factory=set)
    encoded: EncodedImage | None = None
    name: str = ""
    encode_ms: float = 0.0
    clicks: list[Click] = field(default_factory=list)
    decoded: dict[Prompt, tuple[int, SFRecSamOutput]] = field(default_factory=dict)
    numbers: itertools.count = field(default_factory=itertools.count)

    def open(self, staged: StagedModel, image: PIL.Image.Image, name: str) -> None:
        """Encodes a new image and forgets the clicks on the last one."""
        started = time.perf_counter()
        self.encoded = staged.encode(image)
        self.encode_ms = 1000 * (time.perf_counter() - started)
        self.name, self.clicks, self.decoded = name, [], {}

    def close(self) -> None:
        """Forgets the image."""
        self.encoded, self.name, self.clicks, self.decoded = None, "", [], {}

    def click(self, x: float, y: float, kind: str) -> None:
        """
        Adds a click.

        Raises:
            ValueError: There is no image, or the click lies outside it.
        """
        if self.encoded is None:
            raise ValueError("There is no image to click on; drop one or pick a sample first.")
        width, height = self.encoded.image.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"({x:g}, {y:g}) lies outside the image of {width} x {height} pixels.")
        self.clicks.append(Click(x, y, kind))

    def prompt(self) -> Prompt:
        """The clicks as points and a box; the box joins the last two corners that belong together."""
        points = [click for click in self.clicks if click.kind != BOX_CORNER]
        corners = [click for click in self.clicks if click.kind == BOX_CORNER]
        box = None
        if len(corners) > 1:
            first, second = corners[len(corners) // 2 * 2 - 2 : len(corners) // 2 * 2]
            box = (min(first.x, second.x), min(first.y, second.y), max(first.x, second.x), max(first.y, second.y))
        return Prompt(
            points=tuple((click.x, click.y) for click in points),
            labels=tuple(int(click.kind == LESION) for click in points),
            box=box,
        )

    def answer(self, staged: StagedModel, prompt: Prompt) -> Answer:
        """Answers a prompt; decodes only if this prompt was not decoded before with as many samples."""
        started = time.perf_counter()
        samples, decoded = self.decoded.get(prompt, (None, None))
        kept = samples == self.controls.mc_samples
        if not kept:
            decoded = staged.decode(self.encoded, prompt, self.controls.mc_samples)
            automatic = {key: value for key, value in self.decoded.items() if key == Prompt()}
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


class Visits:
    """
    All visits by session. A visit ends when its page closes, or after an hour without a sign of life.

    Args:
        root (`Path`): Folder below which every file of every visit lies.
        controls ([`Controls`]): The settings that a visit begins with.
    """

    def __init__(self, root: Path, controls: Controls):
        self.root = root
        self.controls = controls
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str) -> Visit:
        """The visit of a session, begun if it is new."""
        with self._lock:
            now = time.monotonic()
            idle = [name for name, visit in self._visits.items() if now - visit.last_used > IDLE_SECONDS]
            for name in idle:
                self._forget(name)
            visit = self._visits.setdefault(session, Visit(self.root / "visits" / session, self.controls))
            visit.last_used = now
            return visit

    def leave(self, session: str) -> None:
        """Ends a visit: nothing of it is left in memory or on disk."""
        with self._lock:
            self._forget(session)

    def _forget(self, session: str) -> None:
        visit = self._visits.pop(session, None)
        if visit is None:
            return
        shutil.rmtree(visit.folder, ignore_errors=True)
        elsewhere = set().union(*(other.uploads for other in self._visits.values()))
        for upload in visit.uploads - elsewhere:  # equal files of two visitors are one file on disk
            upload.unlink(missing_ok=True)
