"""Starts from a Segment Anything checkpoint: its geometry read, its keys translated, its positions interpolated."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from .configuration_sfrecsam import SFRecSamConfig
from .training_stages import NEW_MODULES
from .whole_checkpoint import refuse_broken, refuse_damaged, without_report

# Original Segment Anything names, in the order in which they are replaced, and transformers' names.
ORIGINAL_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm(\d|_final_attn)", r".layer_norm\1"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
)
BRANCH_CHANNELS = {8: (32, 64, 128), 16: (16, 32, 64, 128)}


@dataclass
class SamReport:
    """Which weights of a SAM arrived as they were, which were interpolated, and which are newly initialised."""

    loaded: list[str] = field(default_factory=list)
    interpolated: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} weights of SAM loaded, {len(self.interpolated)} interpolated to the new grid, "
            f"{len(self.new)} newly initialised"
        )


def read_sam(source: str | Path, **hub_options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """
    Configuration and weights of any SAM, under transformers' names.

    Args:
        source (`str`): Folder or Hub name of a transformers `SamModel`, or the `.pth` of Segment Anything.
        hub_options: Passed to `SamModel.from_pretrained`, such as `revision` and `token`.

    Raises:
        FileNotFoundError, ValueError: It is no SAM checkpoint, or a damaged one.
    """
    if Path(source).suffix not in (".pth", ".pt", ".bin"):
        return _read_folder(source, hub_options)
    if not Path(source).is_file():
        raise FileNotFoundError(f"{source} does not exist; download a Segment Anything checkpoint there.")
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{source} is no readable PyTorch checkpoint; download it again.") from error
    if not isinstance(state, dict) or "image_encoder.pos_embed" not in state:
        raise ValueError(f"{source} is not a Segment Anything checkpoint: it has no image_encoder.pos_embed.")
    translated = {}
    for name, value in state.items():
        if name in ("pixel_mean", "pixel_std"):
            continue
        for pattern, replacement in ORIGINAL_NAMES:
            name = re.sub(pattern, replacement, name)
        translated[name] = value
    refuse_broken(translated, str(source))
    shared = translated["prompt_encoder.shared_embedding.positional_embedding"]
    translated["shared_image_embedding.positional_embedding"] = shared
    try:
        return _geometry(translated), translated
    except KeyError as error:
        raise ValueError(f"{source} is no complete Segment Anything checkpoint: it lacks {error}.") from error


def _read_folder(source: str | Path, hub_options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As `read_sam`, of a folder or a Hub repository in transformers' format."""
    from safetensors import SafetensorError

    try:
        config = SamConfig.from_pretrained(source, **hub_options)
        if config.model_type != SamConfig.model_type:
            raise ValueError(
                f"{source} is a {config.model_type!r} checkpoint and not a SAM; an SF-RecSAM is loaded with "
                "SFRecSamModel.from_pretrained(...)."
            )
        with without_report():
            asked = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, info = SamModel.from_pretrained(source, config=config, **asked, **hub_options)
    except SafetensorError as error:
        raise ValueError(f"The weight file of {source} is truncated or damaged ({error}); fetch it again.") from error
    except (AttributeError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config.json of {source} is damaged ({reason}); fetch it again.") from error
    except OSError as error:
        raise FileNotFoundError(f"{source} is neither a folder with a SAM nor a Hub repository in reach.") from error
    refuse_damaged(model, {**info, "unexpected_keys": set()}, source, hub_options)
    return model.config.to_dict(), model.state_dict()


def _geometry(state: dict[str, Tensor]) -> dict[str, Any]:
    """The configuration that weights under transformers' names imply."""
    _, grid, _, hidden = state["vision_encoder.pos_embed"].shape
    rows = [state[name] for name in sorted(_relative(state, "rel_pos_h"), key=_layer)]
    kernel = state["vision_encoder.patch_embed.projection.weight"].shape[-1]
    windows = [(len(row) + 1) // 2 for row in rows]
    return {
        "vision_config": {
            "hidden_size": hidden,
            "num_hidden_layers": len(rows),
            "num_attention_heads": hidden // rows[0].shape[1],
            "mlp_dim": len(state["vision_encoder.layers.0.mlp.lin1.bias"]),
            "output_channels": len(state["vision_encoder.neck.conv1.weight"]),
            "image_size": grid * kernel,
            "patch_size": kernel,
            "window_size": min(windows),
            "global_attn_indexes": [index for index, window in enumerate(windows) if window == grid],
            "num_pos_feats": state["shared_image_embedding.positional_embedding"].shape[1],
        },
        "prompt_encoder_config": {"hidden_size": state["prompt_encoder.no_mask_embed.weight"].shape[1]},
        "mask_decoder_config": {
            "hidden_size": state["mask_decoder.iou_token.weight"].shape[1],
            "mlp_dim": len(state["mask_decoder.transformer.layers.0.mlp.lin1.bias"]),
            "iou_head_hidden_dim": len(state["mask_decoder.iou_prediction_head.proj_in.bias"]),
        },
    }


def extended_config(
    sam: dict[str, Any],
    image_size: int | None = None,
    patch_stride: int | None = None,
    window_size: int | None = None,
    **overrides: Any,
) -> SFRecSamConfig:
    """
    The configuration of a SAM extended, with the geometry of its source unless another is asked for.

    Args:
        sam (`dict`): Configuration of the SAM.
        image_size (`int`, *optional*): Side of the input in pixels.
        patch_stride (`int`, *optional*): Distance between tokens in pixels; the patch kernel keeps its size.
        window_size (`int`, *optional*): Window of the local attention; one that divides the grid wastes nothing.
        overrides: Fields of [`SFRecSamConfig`].
    """
    vision = dict(sam["vision_config"])
    kernel = vision["patch_size"]
    vision |= {"patch_kernel_size": kernel, "patch_size": patch_stride or kernel}
    vision["image_size"] = image_size or vision["image_size"]
    vision["window_size"] = window_size or vision["window_size"]
    vision.pop("model_type", None)
    overrides.setdefault("branch_channels", BRANCH_CHANNELS.get(vision["patch_size"], (16, 32, 64, 128)))
    parts = {name: dict(sam[name]) for name in ("prompt_encoder_config", "mask_decoder_config")}
    return SFRecSamConfig(**{"vision_config": vision, **parts, **overrides})


def fitted_state(state: dict[str, Tensor], target: dict[str, Tensor]) -> tuple[dict[str, Tensor], SamReport]:
    """
    Interpolates position parameters where the grid or the window differs, and tells what became of each weight.

    Absolute positions are resized bicubically, relative ones linearly along their axis, as SAM itself does.

    Args:
        state (`dict[str, torch.Tensor]`): Weights of the SAM.
        target (`dict[str, torch.Tensor]`): Weights of the model to fill.

    Raises:
        ValueError: A weight of the SAM is missing, has no place, or does not fit.
    """
    report, fitted = SamReport(), {}
    for name, value in state.items():
        if name not in target:
            raise ValueError(f"This is no SAM checkpoint that SF-RecSAM can extend: it has no place for {name}.")
        wanted = target[name].shape
        if value.shape == wanted:
            report.loaded.append(name)
        elif name.endswith("pos_embed"):
            value = F.interpolate(
                value.float().permute(0, 3, 1, 2), size=tuple(wanted[1:3]), mode="bicubic", align_corners=False
            ).permute(0, 2, 3, 1)
            report.interpolated.append(name)
        elif name.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[1] == wanted[1]:
            value = F.interpolate(value.float().T[None], size=wanted[0], mode="linear", align_corners=False)[0].T
            report.interpolated.append(name)
        else:
            raise ValueError(f"{name} has shape {tuple(value.shape)} in the checkpoint, but the model needs {wanted}.")
        fitted[name] = value.contiguous()
    report.new = [name for name in target if name not in state]
    if missing := [name for name in report.new if not any(part in name for part in NEW_MODULES)]:
        raise ValueError(f"This is no complete SAM checkpoint: it lacks {', '.join(missing)}.")
    return fitted, report


def _relative(state: dict[str, Tensor], kind: str) -> list[str]:
    return [name for name in state if name.endswith(kind)]


def _layer(name: str) -> int:
    return int(re.search(r"layers\.(\d+)\.", name)[1])
