"""Configuration of SF-RecSAM, told as differences from `SamConfig`."""

from collections.abc import Iterable

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, SamConfig
from transformers.models.sam.configuration_sam import (
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from .efficientnet_lite import STRIDES, pyramid_channels

FUSIONS = ("none", "spatial", "spatial-frequency")
CORRECTORS = ("fp", "fn")

# Which class answers to which Auto class and to which pipeline task: written into every checkpoint, and registered by
# `import sfrecsam_hf`. The processors' part is in processor_config.json, the rest in config.json.
AUTO_MAP = {
    "AutoConfig": "configuration_sfrecsam.SFRecSamConfig",
    "AutoModel": "modeling_sfrecsam.SFRecSamModel",
    "AutoModelForImageSegmentation": "modeling_sfrecsam.SFRecSamModel",
    "AutoModelForMaskGeneration": "modeling_sfrecsam.SFRecSamModel",
    "AutoModelForSemanticSegmentation": "modeling_sfrecsam.SFRecSamModel",
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_sfrecsam.SFRecSamProcessor"}
IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": [  # for Pillow alone, and for where torchvision is installed
        "image_processing_sfrecsam.SFRecSamImageProcessorPil",
        "image_processing_sfrecsam.SFRecSamImageProcessor",
    ]
}
PIPELINES = {
    "image-segmentation": "pipeline_sfrecsam.SFRecSamImageSegmentationPipeline",
    "lesion-segmentation": "pipeline_sfrecsam.LesionSegmentationPipeline",
    "mask-generation": "pipeline_sfrecsam.SFRecSamMaskGenerationPipeline",
}


@strict
class SFRecSamVisionConfig(SamVisionConfig):
    r"""
    SAM's ViT, whose `patch_size` is the distance between tokens and may be smaller than the patch kernel.

    Args:
        patch_kernel_size (`int`, *optional*):
            Side of the patch kernel in pixels; `patch_size` if not given. A 16-pixel kernel with `patch_size=8`
            keeps SAM's pretrained kernel and gives a 32x32 token grid at 256 px (paper section 4.1).
        adapter_dim (`int`, defaults to 64):
            Width of the bottleneck adapter that follows each ViT block; 0 leaves the adapters out.
        fused_channels (`int`, defaults to 0):
            Channels of the fused spatial-frequency features that the global-attention blocks read. Derived from
            `SFRecSamConfig.branch_width`.
        encoder_dropout (`float`, defaults to 0.1):
            Dropout on each adapter's output in training, and in the reference mode of the uncertainty estimate.
    """

    model_type = "sfrecsam_vision_model"

    patch_kernel_size: int | None = None
    adapter_dim: int = 64
    fused_channels: int = 0
    encoder_dropout: float | int = 0.1

    def __post_init__(self, **kwargs):
        self.patch_kernel_size = self.patch_kernel_size or self.patch_size
        super().__post_init__(**kwargs)
        # SAM stores 1e-10, which would silence every weight that a plain SAM checkpoint does not bring, and a
        # position scale that is noise at this grid; both matter only for weights that are not loaded.
        self.initializer_range = max(self.initializer_range, 0.02)
        self.scale = 1
        for name in ("image_size", "patch_size", "patch_kernel_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more.")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.adapter_dim < 0 or not 0 <= self.encoder_dropout < 1:
            raise ValueError(
                f"adapter_dim={self.adapter_dim} must be 0 or more, and encoder_dropout={self.encoder_dropout} at "
                "least 0 and below 1."
            )
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}.")
        if (self.patch_kernel_size - self.patch_size) % 2:
            raise ValueError(
                f"patch_kernel_size={self.patch_kernel_size} and patch_size={self.patch_size} must differ by an "
                "even number, so that patches stay centred on their token."
            )


@strict
class SFRecSamConfig(SamConfig):
    r"""
    Configuration of [`SFRecSamModel`].

    Args:
        target (`str`, defaults to `"lesion"`):
            What the masks outline; the label of the foreground, in pipelines and in the card.
        modality (`str`, defaults to `"breast ultrasound"`):
            What the images are; the card tells it.
        fusion (`str`, defaults to `"spatial-frequency"`):
            What the convolutional branch adds to SAM: `"none"` (no branch features), `"spatial"` (convolutional
            features) or `"spatial-frequency"` (with the learnable filter in the Fourier domain).
        branch_width (`float`, defaults to 1.0):
            Times the channels of EfficientNet-Lite0, which the branch is made of: 1.1 for Lite2.
        branch_depth (`float`, defaults to 1.0):
            Times its blocks: 1.1 for Lite1, 1.2 for Lite2.
        decoder_channels (`tuple[int, ...]`, defaults to `(16, 32, 48, 96, 128)`):
            Channels of the coarse-mask head at strides 2, 4, 8, 16 and 32.
        filter_bins (`int`, defaults to 16):
            Radial frequencies at which the learnable filter is stored; it is interpolated in between.
        mask_stride (`int`, *optional*):
            Stride of the mask logits; SAM's own (a quarter of the token distance) if not given.
        correctors (`tuple[str, ...]`, defaults to `("fp", "fn")`):
            Which halves of the dual false corrector exist: any subset of `{"fp", "fn"}`.
        corrector_channels (`int`, defaults to 32):
            Width of the corrector and of the learned uncertainty head.
        mc_samples (`int`, defaults to 8):
            Stochastic decoder passes per prompt; 0 uses the learned uncertainty head instead.
        sample_dropout (`float`, defaults to 0.2):
            Channel dropout on embeddings and high-resolution features in those passes.
        prompt_jitter (`float`, defaults to 0.05):
            Standard deviation of the prompt jitter in those passes, as a share of the box's side (of the image's
            side for points).
        suspicion_threshold (`float`, defaults to 0.5):
            Predictive entropy in bits above which a pixel is suspicious.
        presence_threshold (`float`, defaults to 0.5):
            Presence probability below which an image prompted automatically is given an empty mask.
        box_margin (`float`, defaults to 0.1):
            Margin of the automatic box, as a share of its side.
        base_model (`str`, *optional*):
            Hub name of the SAM that `from_sam` extended.
        base_revision (`str`, *optional*):
            Its commit.
        adapters_only (`bool`, defaults to `False`):
            Whether the weight file beside this configuration holds only what was added to that SAM.
        adapted_from (`str`, *optional*):
            Folder or Hub name of the checkpoint that `sfrecsam adapt` fitted to a site; the weight file beside this
            configuration holds only the difference.
        adapted_revision (`str`, *optional*):
            Its commit on the Hub.
        adapted_fingerprint (`str`, *optional*):
            SHA-256 of its weights.
    """

    model_type = "sfrecsam"
    # What `transformers.Trainer` leaves out of its predictions: all of [`SFRecSamOutput`] but the masks.
    keys_to_ignore_at_inference = [
        "loss_terms",
        "iou_scores",
        "initial_masks",
        "coarse_masks",
        "mean_probability",
        "predictive_entropy",
        "mutual_information",
        "suspicious_region",
        "false_positive_probability",
        "false_negative_probability",
        "presence_logits",
        "prompt_points",
        "prompt_labels",
        "prompt_boxes",
        "prompt_is_automatic",
        "scan_boxes",
        "text",
        "vision_hidden_states",
        "vision_attentions",
    ]
    sub_configs_defaults = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": SFRecSamVisionConfig,
    }

    target: str = "lesion"
    modality: str = "breast ultrasound"
    fusion: str = "spatial-frequency"
    branch_width: float | int = 1.0
    branch_depth: float | int = 1.0
    decoder_channels: list[int] | tuple[int, ...] = (16, 32, 48, 96, 128)
    filter_bins: int = 16
    mask_stride: int | None = None
    correctors: list[str] | tuple[str, ...] = ("fp", "fn")
    corrector_channels: int = 32
    mc_samples: int = 8
    sample_dropout: float | int = 0.2
    prompt_jitter: float | int = 0.05
    suspicion_threshold: float | int = 0.5
    presence_threshold: float | int = 0.5
    box_margin: float | int = 0.1
    base_model: str | None = None
    base_revision: str | None = None
    adapters_only: bool = False
    adapted_from: str | None = None
    adapted_revision: str | None = None
    adapted_fingerprint: str | None = None

    def __post_init__(self, **kwargs):
        kwargs.pop("custom_pipelines", None)
        if isinstance(self.vision_config, PreTrainedConfig) and self.vision_config.model_type == "sam_vision_model":
            self.vision_config = self.vision_config.to_dict()
        if isinstance(self.vision_config, dict):
            self.vision_config = {**self.vision_config, "model_type": SFRecSamVisionConfig.model_type}
        super().__post_init__(**kwargs)
        vision, prompt = self.vision_config, self.prompt_encoder_config
        prompt.image_size, prompt.patch_size = vision.image_size, vision.patch_size
        prompt.image_embedding_size = vision.image_size // vision.patch_size
        vision.fused_channels = 0 if self.fusion == "none" else self.branch_channels[STRIDES.index(16)]
        self.mask_stride = self.mask_stride or vision.patch_size // 4
        self.name_target(self.target)
        self._check_ranges()

    def name_target(self, target: str) -> None:
        """Sets what the masks outline, in all three places where transformers looks for it."""
        if not target.strip() or target == "background":
            raise ValueError(f"target={target!r} must name what the masks outline, such as 'lesion' or 'fetal head'.")
        self.target = target
        self.id2label, self.label2id = {0: "background", 1: target}, {"background": 0, target: 1}

    def _check_ranges(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion={self.fusion!r} is not one of {FUSIONS}.")
        if unknown := set(self.correctors) - set(CORRECTORS):
            raise ValueError(f"correctors={tuple(self.correctors)} names {unknown}; choose from {CORRECTORS}.")
        token_stride = self.vision_config.patch_size
        if token_stride not in STRIDES:
            raise ValueError(f"patch_size={token_stride} is not one of the strides {STRIDES} of the branch.")
        if self.mask_stride not in STRIDES or self.mask_stride > token_stride:
            raise ValueError(
                f"mask_stride={self.mask_stride} is not one of {STRIDES}, or is larger than the token distance "
                f"patch_size={token_stride}."
            )
        if len(self.decoder_channels) != len(STRIDES):
            raise ValueError(
                f"decoder_channels={tuple(self.decoder_channels)} must have one number for each of {STRIDES}."
            )
        if self.vision_config.output_channels != self.mask_decoder_config.hidden_size:
            raise ValueError(
                f"vision_config.output_channels={self.vision_config.output_channels} must equal "
                f"mask_decoder_config.hidden_size={self.mask_decoder_config.hidden_size}."
            )
        if 2 * self.vision_config.num_pos_feats != self.prompt_encoder_config.hidden_size:
            raise ValueError(
                f"vision_config.num_pos_feats={self.vision_config.num_pos_feats} must be half of "
                f"prompt_encoder_config.hidden_size={self.prompt_encoder_config.hidden_size}."
            )
        if self.filter_bins < 2 or self.corrector_channels < 1 or min(self.decoder_channels) < 1:
            raise ValueError(
                f"filter_bins={self.filter_bins} must be 2 or more, corrector_channels={self.corrector_channels} and "
                f"decoder_channels={tuple(self.decoder_channels)} 1 or more."
            )
        if not (self.branch_width > 0 and self.branch_depth > 0):
            raise ValueError(f"branch_width={self.branch_width} and branch_depth={self.branch_depth} must be above 0.")
        if self.mc_samples < 0:
            raise ValueError(f"mc_samples={self.mc_samples} must be 0 or more.")
        for name in ("sample_dropout", "prompt_jitter", "box_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")
        for name in ("suspicion_threshold", "presence_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie between 0 and 1.")

    @property
    def branch_channels(self) -> tuple[int, ...]:
        """Channels of the branch at strides 2, 4, 8, 16 and 32."""
        return pyramid_channels(self.branch_width)

    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """Tasks whose pipeline lies beside the checkpoint, less those that this process has from an import."""
        from transformers.pipelines import SUPPORTED_TASKS

        registered = {task: SUPPORTED_TASKS.get(task, {}).get("impl") for task in PIPELINES}
        ours = {task: PIPELINES[task].split(".")[1] for task in PIPELINES}
        return _custom_pipelines(
            task for task, impl in registered.items() if ours[task] != getattr(impl, "__name__", "")
        )

    def to_dict(self) -> dict:
        """Adds what lets the Auto classes and `pipeline` find the code that lies beside the checkpoint."""
        return {**super().to_dict(), "auto_map": dict(AUTO_MAP), "custom_pipelines": _custom_pipelines(PIPELINES)}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs) -> "SFRecSamConfig":
        """
        As for any configuration.

        Raises:
            ValueError: `config.json` is damaged, or is that of another architecture.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, TypeError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"config.json of {pretrained_model_name_or_path} is damaged or of another version ({reason}); fetch "
                "or save the checkpoint again."
            ) from error

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "SFRecSamConfig":
        """As for any configuration, but refuses that of another architecture."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a {model_type!r} checkpoint and not an SF-RecSAM one; to extend a SAM, call "
                "SFRecSamModel.from_sam(...)."
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def tiny(cls, **overrides) -> "SFRecSamConfig":
        """The bundled size: 256 px, 16x16 tokens, about 6 M parameters; SAM's part trains from scratch."""
        return cls(
            **{
                "vision_config": {
                    "hidden_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "mlp_ratio": 2.0,
                    "image_size": 256,
                    "patch_size": 16,
                    "window_size": 0,
                    "global_attn_indexes": (0, 1),
                    "output_channels": 128,
                    "num_pos_feats": 64,
                    "adapter_dim": 0,
                },
                "prompt_encoder_config": {"hidden_size": 128},
                "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 512, "iou_head_hidden_dim": 128},
                "corrector_channels": 24,
                **overrides,
            }
        )

    @classmethod
    def base(cls, **overrides) -> "SFRecSamConfig":
        """SAM ViT-B at the paper's geometry: 256 px, 16-pixel kernel every 8 pixels, 32x32 tokens, 16-windows."""
        return cls(
            **{
                "vision_config": {
                    "image_size": 256,
                    "patch_size": 8,
                    "patch_kernel_size": 16,
                    "window_size": 16,
                },
                **overrides,
            }
        )

    @classmethod
    def sam_geometry(cls, **overrides) -> "SFRecSamConfig":
        """SAM ViT-B exactly as released: 1024 px, 64x64 tokens, windows of 14."""
        return cls(**overrides)


def _custom_pipelines(tasks: Iterable[str]) -> dict[str, dict]:
    return {task: {"impl": PIPELINES[task], "pt": ["AutoModel"], "type": "image"} for task in tasks}


SFRecSamConfig.register_for_auto_class()

__all__ = ["SFRecSamConfig", "SFRecSamVisionConfig"]
