"""
A checkpoint is loaded whole or refused.

transformers draws weights that a file lacks at random, leaves out those that it does not know, and turns integers into
floats; it warns, and the masks are wrong.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

FLOATS = {"F64", "F32", "F16", "BF16"}
REMEDY = "fetch or save the checkpoint again"


@contextmanager
def without_report() -> Iterator[None]:
    """Keeps transformers from logging tables of weights that do not fit: a sentence tells what is refused."""
    logger = logging.getLogger("transformers.modeling_utils")

    def no_report(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in ("LOAD REPORT", "checkpoint seem corrupted"))

    logger.addFilter(no_report)
    try:
        yield
    finally:
        logger.removeFilter(no_report)


def refuse_damaged(model: PreTrainedModel, info: dict[str, Any], source: str | Path, access: dict[str, Any]) -> None:
    """
    Refuses a model whose weights are not all and only those of its file, or are no finite floats.

    Args:
        model ([`~transformers.PreTrainedModel`]): As loaded, ours or a SAM.
        info (`dict`): What transformers notes about the loading: `missing_keys`, `unexpected_keys`, `mismatched_keys`.
        source (`str`): Folder or Hub name.
        access (`dict`): `cache_dir` and `revision`, as for `from_pretrained`.

    Raises:
        ValueError: With the file, what is wrong with it, and what to do.
    """
    named = f"The weight file (model*.safetensors) of {source}"
    missing, unknown = info["missing_keys"], info["unexpected_keys"]
    mismatched = {entry[0]: f"{tuple(entry[1])} for {tuple(entry[2])}" for entry in info["mismatched_keys"]}
    if any(name.startswith("branch.") for name in {*unknown, *mismatched}):
        raise ValueError(
            f"{source} was saved by sfrecsam-hf 0.1, whose convolutional branch was another; load it with that "
            "version, or train it anew."
        )
    if missing:
        raise ValueError(
            f"{named} lacks {len(missing)} of {len(model.state_dict())} weights ({_some(missing)}); {REMEDY}."
        )
    if mismatched:
        shapes = _some(f"{name}: {shapes}" for name, shapes in mismatched.items())
        raise ValueError(f"{named} has {len(mismatched)} weights of another shape ({shapes}); {REMEDY}.")
    if unknown:
        raise ValueError(f"{named} has {len(unknown)} weights of another model ({_some(unknown)}); {REMEDY}.")
    no_floats = [name for file in _files(source, access) for name in _no_floats(file)]
    if no_floats:
        raise ValueError(f"{named} has {len(no_floats)} weights that are no floats ({_some(no_floats)}); {REMEDY}.")
    refuse_broken(model.state_dict(), named)


def refuse_broken(weights: dict[str, Tensor], named: str) -> None:
    """
    Refuses weights with NaN or infinity.

    Args:
        weights (`dict[str, torch.Tensor]`): By name.
        named (`str`): What the error calls their file.

    Raises:
        ValueError: With the file and the first such weights.
    """
    broken = [name for name, value in weights.items() if not (value.is_meta or torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"{named} has {len(broken)} weights with NaN or infinity ({_some(broken)}); {REMEDY}.")


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def _files(source: str | Path, access: dict[str, Any]) -> list[Path]:
    """The weight files in a folder, or in the cache, where a model of the Hub lies after it has been loaded."""
    if Path(source).is_dir():
        return sorted(Path(source).glob("model*.safetensors"))
    known = {name: access[name] for name in ("cache_dir", "revision") if access.get(name) is not None}
    files = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    found = [try_to_load_from_cache(str(source), name, **known) for name in files]
    return next((sorted(Path(path).parent.glob("model*.safetensors")) for path in found if isinstance(path, str)), [])


def _no_floats(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as weights:
        return [name for name in weights.keys() if weights.get_slice(name).get_dtype() not in FLOATS]  # noqa: SIM118
