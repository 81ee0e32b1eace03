"""What a training run used and what it cost, written beside its checkpoint, for the model card."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from .training_config import TrainingConfig

FILE = "training_summary.json"
PATHS = ("train", "validation", "output", "splits", "model", "sam")


def write_summary(
    folder: Path,
    config: TrainingConfig,
    history: Path,
    images: list[int],
    validation_images: int,
    device: torch.device,
    **measured: Any,
) -> None:
    """
    Writes `training_summary.json`: settings, data, steps and cost of a run. Of every path only its name is kept.

    Args:
        folder (`Path`): Folder of the checkpoint.
        config ([`TrainingConfig`]): Settings of the run.
        history (`Path`): Its `history.jsonl`, from which epochs and steps are read.
        images (`list[int]`): Training images per entry of `config.train`.
        validation_images (`int`): Validation images.
        device (`torch.device`): On which it ran.
        measured: `seconds`, `processes`, `parameters` and whatever else belongs in the file.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in PATHS}
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.is_file() else []
    ends = {row["stage"]: row for row in rows}
    names = [Path(source).stem for source in config.train]
    summary = {
        "start": Path(config.sam or config.model).name,
        "data": [
            {"name": name, "images": count, "share": share}
            for name, count, share in zip(names, images, config.shares, strict=True)
        ],
        "validation": {"name": Path(config.validation).stem, "images": validation_images},
        "stages": [{"stage": stage, "epochs": row["epoch"], "steps": row["step"]} for stage, row in ends.items()],
        "settings": settings,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **measured,
    }
    fresh = folder / f"{FILE}.new"
    fresh.write_text(json.dumps(summary, indent=1) + "\n")
    fresh.replace(folder / FILE)


def _processor() -> str:
    """The processor's name, as Linux tells it, or Python elsewhere."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
