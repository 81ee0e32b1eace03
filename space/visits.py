"""What the Space remembers of a visitor, in memory and on disk, and how it forgets it."""

import itertools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cine import Cine
from scan import Scan
from staged_model import Controls

IDLE_SECONDS = 3600
KEPT_ANSWERS = 3
UPLOAD_FOLDER = re.compile(r"[0-9a-f]{64}")  # Gradio names the folder of an upload after a secret and its content


@dataclass(eq=False)
class Visit:
    """
    One visitor's image, settings and files: what Gradio keeps for a page or a client as its `gr.State`.

    Every file of a visit lies below `folder`. A visit reads and removes nothing else, whatever a caller names.

    Args:
        folder (`Path`): Made when it is needed. Beside it lie other visits, and what Gradio just received.
        controls ([`Controls`]): Settings of the last answer.
        turn (`threading.Lock`): Held by actions on the image, which wait for each other.
        ended (`bool`): Whether the page was closed.
        scan ([`Scan`] or [`Cine`], *optional*): The image or the clip that is open.
        format (`str`): The chosen one of the other formats.
        ticket (`int`): Number of the page's last request.
    """

    folder: Path
    controls: Controls
    turn: threading.Lock = field(default_factory=threading.Lock)
    ended: bool = False
    scan: Scan | Cine | None = None
    format: str = "coco"
    ticket: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _running: int = 0
    _numbers: itertools.count = field(default_factory=itertools.count)

    @classmethod
    def begin(cls, root: Path, controls: Controls) -> "Visit":
        """A new visit below `root`; what was left there more than an hour ago goes first."""
        sweep(root)
        return cls(Path(tempfile.mkdtemp(prefix="visit-", dir=root)), controls)

    def __deepcopy__(self, memo: dict) -> "Visit":
        """Gradio copies the first value of a state, which is made for one visitor alone."""
        return self

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the files of the visit until the action is done, even if its page is closed meanwhile."""
        with self._guard:
            self._running += 1
        if self.folder.is_dir():
            os.utime(self.folder)
        try:
            yield
        finally:
            with self._guard:
                self._running -= 1
            self._delete_if_over()

    def end(self) -> None:
        """Ends the visit. Nothing of it is left in memory or on disk once the actions that run are done."""
        self.ended = True
        self._delete_if_over()

    def take(self, named: str) -> Path:
        """
        The visit's own copy of an upload.

        Args:
            named (`str`): Path that Gradio gave to the caller for it; anything can stand here.

        Raises:
            ValueError: It is no upload, or no longer there.
        """
        upload = Path(named)
        own = self.folder / "uploads" / upload.parent.name / upload.name
        known = upload.parent.parent == self.folder.parent and UPLOAD_FOLDER.fullmatch(upload.parent.name)
        linked = upload.is_symlink() or upload.parent.is_symlink()
        if known and not linked and upload.is_file() and not (own.is_file() and own.samefile(upload)):
            own.parent.mkdir(parents=True, exist_ok=True)
            fresh = (
                self.folder / f"incoming-{next(self._numbers)}"
            )  # sent again: the newest is what goes with the visit
            os.link(upload, fresh)
            fresh.replace(own)
        if not known or linked or not own.is_file():
            raise ValueError(f"{upload.name} is not among your uploads; drop it again.")
        return own

    def new_folder(self, kind: str) -> Path:
        """An empty folder for the files of an answer; older answers of this kind are deleted."""
        folder = self.folder / kind / f"{next(self._numbers):06d}"
        folder.mkdir(parents=True)
        for old in sorted(folder.parent.iterdir())[:-KEPT_ANSWERS]:
            shutil.rmtree(old)
        return folder

    def _delete_if_over(self) -> None:
        with self._guard:
            if not self.ended or self._running:
                return
            self.scan = None
            uploads = self.folder / "uploads"
            for own in [path for path in uploads.rglob("*") if path.is_file()]:
                received = self.folder.parent / own.relative_to(uploads)
                # Equal files of two visitors arrive at one place: it goes with the last link to it.
                if received.is_file() and received.samefile(own) and own.stat().st_nlink == 2:
                    received.unlink()
            shutil.rmtree(self.folder, ignore_errors=True)


def sweep(root: Path) -> None:
    """Deletes uploads that nothing was done with, and visits that nobody ended, after an hour."""
    for folder in root.iterdir():
        with suppress(FileNotFoundError):  # its own visit was quicker
            if folder.stat().st_mtime < time.time() - IDLE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
