"""What a training run used and what it cost, written beside its checkpoint, for the model card."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from .checkpointing import replaced
from .config import TrainingConfig

FILE = "training_summary.json"
PATHS = ("train", "validation", "output", "splits", "exclude", "model", "sam", "branch")


def write_summary(
    folder: Path,
    config: TrainingConfig,
    history: list[dict[str, Any]],
    groups: list[list[str]],
    validation_groups: list[list[str]],
    device: torch.device,
    **measured: Any,
) -> None:
    """
    Writes `training_summary.json`: settings, data, steps and cost of a run. Of every path only its name is kept.

    A run that went on from the checkpoint of another keeps that one's summary in `before`.

    Args:
        folder (`Path`): Folder of the checkpoint.
        config ([`TrainingConfig`]): Settings of the run.
        history (`list[dict]`): The rows of its `history.jsonl`, from which epochs and steps are read.
        groups (`list[list[str]]`): For each entry of `config.train` the duplicate group of each image.
        validation_groups (`list[list[str]]`): The same for each entry of `config.validation`.
        device (`torch.device`): On which it ran.
        measured: `seconds`, `processes`, `image_size`, `parameters` and whatever else belongs in the file.
    """
    ends = {row["stage"]: row for row in history}
    start, before = config.sam or config.model, Path(config.model) / FILE
    held_out = dict(zip(config.validation, validation_groups, strict=True))
    summary = {
        "start": Path(start).name if Path(start).exists() else start,
        "before": json.loads(before.read_text()) if before.is_file() else None,
        "data": [
            {
                **_counted(source, members),
                "share": share,
                # Groups of different data sets may bear the same name.
                "groups_in_validation": len(set(members) & set(held_out.get(source, []))),
            }
            for source, members, share in zip(config.train, groups, config.shares, strict=True)
        ],
        "validation": [_counted(source, members) for source, members in held_out.items()],
        "stages": [{"stage": stage, "epochs": row["epoch"], "steps": row["step"]} for stage, row in ends.items()],
        "settings": {name: value for name, value in asdict(config).items() if name not in PATHS},
        "machine": machine_name(device),
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **measured,
    }
    with replaced(folder / FILE) as fresh:
        fresh.write_text(json.dumps(summary, indent=1) + "\n")


def _counted(source: str, groups: list[str]) -> dict[str, Any]:
    return {"name": Path(source).name.removesuffix(".zip"), "images": len(groups), "groups": len(set(groups))}


def machine_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor as Linux tells it, or Python elsewhere."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
