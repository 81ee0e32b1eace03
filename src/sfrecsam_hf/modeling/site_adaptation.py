"""What a site changes of a checkpoint: a few thousand weights, kept as a small file that names its base (METHOD 9)."""

import hashlib
import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from .configuration_sfrecsam import SFRecSamConfig
from .efficientnet_lite import FrozenNorm2d
from .frequency_fusion import AttentionFusion, FrequencyFilter

FILE = "adaptation.safetensors"
BUNDLED = "bundled"  # the name of the checkpoint that comes with the package, which has no other that everybody knows
PROVENANCE = ("adapted_from", "adapted_revision", "adapted_fingerprint")
CHANGED = {"suspicion_threshold", "presence_threshold", *PROVENANCE}  # of the configuration
NORMS = (FrozenNorm2d, nn.GroupNorm, nn.LayerNorm)
PARTS = ("filters", "gates", "norms", "presence")


def site_weights(model: nn.Module, parts: tuple[str, ...] = PARTS) -> dict[str, nn.Parameter]:
    """
    The weights that `sfrecsam adapt` re-tunes, by name: those of the image branch and of the coarse-mask head.

    Args:
        model ([`SFRecSamModel`]): Whose weights.
        parts (`tuple[str, ...]`): Any of `"filters"` (frequency responses), `"gates"` (attention that mixes spatial
            and frequency features), `"norms"` (scale and shift of each normalised channel) and `"presence"` (the score
            that tells a lesion from a normal scan).

    Raises:
        ValueError: A part is unknown, or the model has none of them.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"parts={sorted(unknown)} are unknown; choose from {sorted(PARTS)}.")
    chosen = {
        f"{prefix}.{name}": parameter
        for prefix, module in model.named_modules()
        if _part(prefix, module) in parts
        for name, parameter in module.named_parameters()
    }
    if not chosen:
        raise ValueError(f"This model has no weights of the kinds {parts} to adapt; it was built with fusion='none'.")
    return chosen


def _part(place: str, module: nn.Module) -> str | None:
    """To which part the weights of a module belong."""
    room = place.split(".")[0]
    if room not in ("branch", "coarse_mask_head"):
        return None
    if isinstance(module, NORMS):
        return "norms"
    if isinstance(module, nn.Linear) and room == "coarse_mask_head":
        return "presence"
    return {FrequencyFilter: "filters", AttentionFusion: "gates"}.get(type(module))


def save_adaptation(model: PreTrainedModel, base: dict[str, Tensor], folder: str | Path) -> int:
    """
    Writes the configuration and, in half precision, what differs from the base; returns the bytes of that file.

    The model is given the weights that a later load finds: base plus the rounded difference.

    Args:
        model ([`SFRecSamModel`]): Adapted; its configuration names the base in `adapted_from`.
        base (`dict[str, torch.Tensor]`): The base's weights by name.
        folder (`str`): Where to write; made if need be.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    deltas = {
        name: (state[name].float() - value.float()).half()
        for name, value in base.items()
        if not torch.equal(state[name], value)
    }
    _add(model, base, deltas)
    save_file(deltas, folder / FILE, {"format": "pt"})
    model.config.save_pretrained(folder)
    return (folder / FILE).stat().st_size


def load_adaptation(model: PreTrainedModel, folder: str, **access: Any) -> None:
    """
    Adds a site's weights to the base that they were made from.

    Args:
        model ([`SFRecSamModel`]): The base, as loaded.
        folder (`str`): Folder or Hub name of the adaptation.
        access: `revision`, `token`, `cache_dir` and `local_files_only`, as for `from_pretrained`.

    Raises:
        FileNotFoundError: The adaptation has no weight file.
        ValueError: The weights are damaged, or belong to another base.
    """
    path = cached_file(folder, FILE, _raise_exceptions_for_missing_entries=False, **access)
    if path is None:
        raise FileNotFoundError(f"{folder} names a base in config.json but has no {FILE}; fetch or adapt it again.")
    try:
        deltas = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch or adapt it again.") from error
    state = model.state_dict()
    for name, delta in deltas.items():
        if name not in state or state[name].shape != delta.shape or not torch.isfinite(delta).all():
            raise ValueError(f"{path} does not fit its base: the weight {name} is unknown, of another shape or NaN.")
    _add(model, state, deltas)


def adaptation_of(folder: str, **access: Any) -> dict[str, Any] | None:
    """
    The configuration of an adaptation, or None where a folder or Hub name holds something else.

    Args:
        folder (`str`): Folder or Hub name.
        access: `revision`, `token`, `cache_dir` and `local_files_only`, as for `from_pretrained`.
    """
    path = cached_file(
        folder,
        "config.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **access,
    )
    try:
        settings = json.loads(Path(path).read_text()) if path else None
    except ValueError:  # damaged, which is said where the checkpoint is loaded
        return None
    return settings if isinstance(settings, dict) and settings.get("adapted_from") else None


def load_adapted(
    model_class: type[PreTrainedModel], folder: str, settings: dict[str, Any], *model_args: Any, **kwargs: Any
) -> PreTrainedModel:
    """
    The base that an adaptation names, with the adaptation on top.

    Args:
        model_class (`type`): [`SFRecSamModel`].
        folder (`str`): Folder or Hub name of the adaptation.
        settings (`dict`): Its config.json.
        model_args, kwargs: As for `from_pretrained`.

    Raises:
        FileNotFoundError: The base is not in reach, or the adaptation has no weight file.
        ValueError: The weights are damaged, or the base is another one than that of the adaptation.
    """
    base = settings["adapted_from"]
    if not (settings.keys() >= CHANGED and isinstance(base, str)) or Path(base).resolve() == Path(folder).resolve():
        raise ValueError(f"config.json of {folder} does not say what it was adapted from; fetch or adapt it again.")
    if base == BUNDLED:
        if find_spec("sfrecsam_hf") is None:  # remote code alone has no bundled checkpoint
            raise FileNotFoundError(
                f"{folder} was adapted from the checkpoint that comes with the package; run `pip install sfrecsam-hf`."
            )
        base = import_module("sfrecsam_hf").bundled_checkpoint()
    own = {name: kwargs.pop(name) for name in ("config", "revision", "output_loading_info") if name in kwargs}
    access = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))  # the base is told by its weights in float32
    config = SFRecSamConfig.from_pretrained(folder, revision=own.get("revision"), **access)
    of_base = {"revision": settings["adapted_revision"] or "main", "dtype": torch.float32, **kwargs}
    model = model_class.from_pretrained(base, *model_args, **of_base)
    if fingerprint(model.state_dict()) != settings["adapted_fingerprint"]:
        raise ValueError(
            f"{folder} was adapted from other weights than {settings['adapted_from']} has now; adapt it again, or put "
            "the base back."
        )
    load_adaptation(model, folder, revision=own.get("revision"), **access)
    for name in CHANGED:
        setattr(model.config, name, getattr(config, name))
    return model.to(dtype) if isinstance(dtype, torch.dtype) else model


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 of the weights by name, which tells one base from another whatever its file looks like."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _add(model: PreTrainedModel, base: dict[str, Tensor], deltas: dict[str, Tensor]) -> None:
    sums = {name: (base[name].float() + delta.float()).to(base[name].dtype) for name, delta in deltas.items()}
    model.load_state_dict(sums, strict=False)
