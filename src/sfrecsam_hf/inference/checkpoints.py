"""Loads a checkpoint for inference, with errors that a user can act on."""

import os
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError

from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessor
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .bundled import bundled_checkpoint


def load_checkpoint(
    name: str | Path | None = None, device: str | None = None, dtype: str = "float32"
) -> tuple[SFRecSamModel, SFRecSamProcessor]:
    """
    Model, in evaluation mode, and processor.

    Args:
        name (`str`, *optional*): Folder or Hub name; the bundled checkpoint if not given.
        device (`str`, *optional*): Such as `"cpu"` and `"cuda:0"`; the process's accelerator if there is one.
        dtype (`str`): `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for that of the weight file.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is damaged, or of another architecture.
    """
    source = str(name or bundled_checkpoint())
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        # Of several processes on a machine each has an accelerator of its own.
        device = "cpu" if accelerator is None else f"{accelerator.type}:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        model = SFRecSamModel.from_pretrained(source, dtype="auto" if dtype == "auto" else getattr(torch, dtype))
        processor = SFRecSamProcessor(SFRecSamImageProcessor.from_pretrained(source))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{source} is neither a folder with an SF-RecSAM checkpoint nor a Hub repository that can be reached."
        ) from error
    return model.to(device).eval(), processor
