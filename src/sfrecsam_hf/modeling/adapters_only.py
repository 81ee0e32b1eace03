"""A checkpoint of what was trained alone, which names the SAM on the Hub that it stands on."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ResolvedRevision
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import resolve_revision

from .sam_weights import fitted_state, read_sam
from .training_stages import NEW_MODULES


def base_of(source: str | Path, revision: str | None = None, **access: Any) -> dict[str, str | None]:
    """
    What a configuration keeps of its SAM: `base_model` and the commit in `base_revision`.

    Args:
        source (`str`): Hub name. Of a folder or file nothing is kept, since nobody else has it.
        revision (`str`, *optional*): Branch, tag or commit.
        access: `token`, `cache_dir` and `local_files_only`, as for `from_pretrained`.
    """
    if Path(source).exists():
        return {}
    found = resolve_revision(source, revision, **access)
    commit = found.resolved if isinstance(found, ResolvedRevision) else found
    return {"base_model": str(source), "base_revision": commit}


def load_base(model: PreTrainedModel, **access: Any) -> None:
    """
    Puts the SAM that the model's configuration names under what was trained.

    Args:
        model ([`SFRecSamModel`]): Loaded from a checkpoint of its additions alone.
        access: As for [`base_of`].

    Raises:
        FileNotFoundError, ValueError: That SAM is not in reach or not complete.
    """
    model.load_state_dict(_fitted_base(model, access), strict=False)


def additions(model: PreTrainedModel) -> dict[str, Tensor]:
    """
    The weights that SF-RecSAM adds to its SAM, by name.

    Args:
        model ([`SFRecSamModel`]): Extended by `from_sam` from a SAM on the Hub, and trained with that SAM frozen.

    Raises:
        FileNotFoundError: The SAM is not in reach.
        ValueError: The model has no SAM on the Hub, or training has changed it.
    """
    if model.config.base_model is None:
        raise ValueError("The model extends no SAM of the Hub that adapters could refer to; push it whole.")
    state = model.state_dict()
    fitted = _fitted_base(model, {})
    if changed := [name for name, value in fitted.items() if not torch.equal(value.to(state[name]), state[name])]:
        raise ValueError(
            f"Training has changed {len(changed)} weights of {model.config.base_model}, so that adapters alone would "
            "not give this model back; push it whole, or train with freeze_base."
        )
    # transformers takes a file without the weight that two modules share for corrupted.
    kept = (*NEW_MODULES, *model.all_tied_weights_keys.values())
    return {name: value for name, value in state.items() if any(part in name for part in kept)}


def _fitted_base(model: PreTrainedModel, access: dict[str, Any]) -> dict[str, Tensor]:
    _, weights = read_sam(model.config.base_model, revision=model.config.base_revision, **access)
    return fitted_state(weights, model.state_dict())[0]
