"""What a run writes down of each epoch: `history.jsonl`, one row for training and one for validation."""

import json
from pathlib import Path
from typing import Any

from .checkpointing import Progress, replaced


class History:
    r"""
    The rows of `history.jsonl`, each with `stage`, `epoch` and `step`. The file is whole at any moment.

    Args:
        path (`Path`): Of the file.
    """

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.is_file() else []

    def append(self, progress: Progress, values: dict[str, float]) -> None:
        """Adds a row for the epoch that is being trained."""
        row = {"stage": progress.stage, "epoch": progress.epoch + 1, "step": progress.step, **values}
        self._write([*self.rows(), row])

    def cut(self, progress: Progress) -> None:
        """Drops the rows of epochs that did not reach a state, since they are trained, and written, again."""
        reached = (progress.stage, progress.epoch)
        kept = [row for row in self.rows() if (row["stage"], row["epoch"]) <= reached]
        if kept or self.path.is_file():
            self._write(kept)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with replaced(self.path) as fresh:
            fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
