"""Loads a checkpoint for inference, with errors that a user can act on."""

import os
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from transformers.utils import logging

from ..modeling.image_processing_sfrecsam import SFRecSamImageProcessor
from ..modeling.modeling_sfrecsam import SFRecSamModel
from ..modeling.processing_sfrecsam import SFRecSamProcessor
from .bundled import bundled_checkpoint

SECONDS = 10  # that the Hub has to say whether it knows a name
NOWHERE = "{} is neither a folder with an SF-RecSAM checkpoint nor a Hub repository that can be reached."


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
        ValueError: It is damaged, or of another architecture; or the device is not there.
    """
    source = str(name or bundled_checkpoint())
    _check_place(source)
    place = _device(device)
    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of a fraction of a second
    try:
        model = SFRecSamModel.from_pretrained(source, dtype="auto" if dtype == "auto" else getattr(torch, dtype))
        processor = _processor(source)
    except OSError as error:
        raise FileNotFoundError(f"The checkpoint {source} cannot be read: {' '.join(str(error).split())}") from error
    finally:
        if shows_progress:
            logging.enable_progress_bar()
    expected, prepared = model.config.vision_config.image_size, processor.image_processor.size["longest_edge"]
    if prepared != expected:
        raise ValueError(
            f"The processor of {source} (processor_config.json) prepares images of {prepared} pixels, but its model "
            f"takes {expected}; fetch or save the checkpoint again."
        )
    return model.to(place).eval(), processor


def _processor(source: str) -> SFRecSamProcessor:
    try:
        return SFRecSamProcessor(SFRecSamImageProcessor.from_pretrained(source))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(
            f"processor_config.json of {source} is damaged or of another version ({error}); fetch or save the "
            "checkpoint again."
        ) from error


def _device(name: str | None) -> torch.device:
    """A device that is there: the one that was named, or the process's accelerator, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        # Of several processes on a machine each has an accelerator of its own.
        return torch.device("cpu" if accelerator is None else f"{accelerator.type}:{os.environ.get('LOCAL_RANK', 0)}")
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    try:
        device = torch.device("" if name.isdecimal() else name)  # a number alone would mean an accelerator
        numbered = device.type == "cpu" or (device.index or 0) < torch.accelerator.device_count()
        there = device.type in kinds and numbered
    except RuntimeError:
        there = False
    if not there:
        raise ValueError(f"--device {name} is not there; choose from {', '.join(kinds)}.")
    return device


def _check_place(source: str) -> None:
    """Looks whether there is anything of this name: on this disk, in the cache, or by one request on the Hub."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inside = f"; did you mean {folder / 'best'}?" if (folder / "best" / "config.json").is_file() else "."
            raise FileNotFoundError(f"The folder {source} holds no checkpoint, since it has no config.json{inside}")
        return
    if folder.exists():
        raise FileNotFoundError(f"{source} is a file; give the folder of a checkpoint, or its name on the Hub.")
    try:
        known = isinstance(try_to_load_from_cache(source, "config.json"), str)
        if not known and not constants.is_offline_mode():
            HfApi().model_info(source, timeout=SECONDS)  # asks once, where a download would ask six times
            known = True
    except Exception as error:  # of whichever HTTP client huggingface_hub uses
        raise FileNotFoundError(NOWHERE.format(source)) from error
    if not known:
        raise FileNotFoundError(NOWHERE.format(source))
