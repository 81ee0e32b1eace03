"""What an answer depends on, as short hashes: the file that was read, and the checkpoint that answered."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..modeling.modeling_sfrecsam import SFRecSamModel

DIGITS = 16  # of a checkpoint's hash, in hexadecimal


def content_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_hash(model: SFRecSamModel, processor: Any) -> str:
    """
    Of the weights as they are loaded, the configuration and the image processor, wherever they came from.

    Args:
        model ([`SFRecSamModel`]): The model.
        processor ([`SFRecSamProcessor`]): Belonging to it.
    """
    digest = hashlib.sha256()
    origin = {"_name_or_path", "transformers_version", "auto_map", "custom_pipelines"}
    for settings in (model.config.to_dict(), processor.image_processor.to_dict()):
        kept = {key: value for key, value in settings.items() if key not in origin}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {weights.dtype}".encode())
        digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:DIGITS]
