"""SAM's ViT as SF-RecSAM changes it: overlapping patches, adapters, and blocks that read the fused features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.sam.modeling_sam import (
    SamMLPBlock,
    SamPatchEmbeddings,
    SamPreTrainedModel,
    SamVisionAttention,
    SamVisionEncoder,
    SamVisionEncoderOutput,
    SamVisionLayer,
    SamVisionNeck,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import UNBIASED, SFRecSamVisionAttention
from .configuration_sfrecsam import SFRecSamConfig, SFRecSamVisionConfig
from .efficientnet_lite import FrozenNorm2d, NormedConv2d
from .frequency_fusion import CrossBranchAttention, FrequencyFilter
from .layers import ReluConv2d, ZeroConv2d, ZeroLinear


class SFRecSamPatchEmbeddings(SamPatchEmbeddings):
    """SAM's patch projection whose kernel may be larger than the distance between tokens."""

    def __init__(self, config: SFRecSamVisionConfig):
        super().__init__(config)
        kernel = config.patch_kernel_size
        self.projection = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=kernel,
            stride=config.patch_size,
            padding=(kernel - config.patch_size) // 2,
        )


class Adapter(nn.Module):
    r"""
    Bottleneck adapter (Houlsby et al., 2019); the zero-initialised `up` makes it start as the identity.

    Args:
        hidden_size (`int`): Width of the ViT.
        adapter_dim (`int`): Width of the bottleneck.
        dropout (`float`): Dropout on what it adds.
    """

    def __init__(self, hidden_size: int, adapter_dim: int, dropout: float):
        super().__init__()
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, adapter_dim)
        self.up = ZeroLinear(adapter_dim, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        added = self.up(F.gelu(self.down(self.layer_norm(hidden_states))))
        return hidden_states + self.dropout(added)


class SFRecSamVisionLayer(SamVisionLayer):
    """A SAM block followed by its adapter; with global attention it also reads the fused features."""

    def __init__(self, config: SFRecSamVisionConfig, window_size: int):
        super(SamVisionLayer, self).__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SFRecSamVisionAttention(config, window_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamMLPBlock(config)
        self.window_size = window_size
        self.adapter = nn.Identity()
        if config.adapter_dim:
            self.adapter = Adapter(config.hidden_size, config.adapter_dim, config.encoder_dropout)
        self.cross_attention = None
        if config.fused_channels and window_size == 0:
            self.cross_attention = CrossBranchAttention(
                config.hidden_size, config.fused_channels, config.num_attention_heads
            )

    def forward(self, hidden_states: Tensor, fused_features: Tensor | None = None) -> Tensor:
        hidden_states = super().forward(hidden_states)
        if self.cross_attention is not None and fused_features is not None:
            hidden_states = hidden_states + self.cross_attention(hidden_states, fused_features)
        return self.adapter(hidden_states)


class SFRecSamPreTrainedModel(SamPreTrainedModel):
    """Initialises what SF-RecSAM adds: every new path ends in zeros, so that an extended SAM is still that SAM."""

    config: SFRecSamConfig
    _no_split_modules = ["SFRecSamVisionLayer"]

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """The attention asked for, checked; ours without a bias tensor if none was."""
        return super().get_correct_attn_implementation(requested_attention or UNBIASED, is_init_check)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (ZeroLinear, ZeroConv2d)):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ReluConv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, NormedConv2d):
            kernel = module.conv.weight
            init.normal_(kernel, std=(2 * module.conv.groups / (kernel.shape[0] * kernel[0, 0].numel())) ** 0.5)
        elif isinstance(module, FrozenNorm2d):
            for one in (module.weight, module.running_var):
                init.ones_(one)
            for zero in (module.bias, module.running_mean):
                init.zeros_(zero)
        elif isinstance(module, FrequencyFilter):
            init.zeros_(module.curve)


class SFRecSamVisionEncoder(SFRecSamPreTrainedModel, SamVisionEncoder):
    """SAM's image encoder with the differences above."""

    config: SFRecSamVisionConfig
    _can_record_outputs = {
        "hidden_states": SFRecSamVisionLayer,
        "attentions": SamVisionAttention,
    }

    def __init__(self, config: SFRecSamVisionConfig):
        super(SamVisionEncoder, self).__init__(config)
        self.image_size = config.image_size
        self.patch_embed = SFRecSamPatchEmbeddings(config)
        self.pos_embed = None
        if config.use_abs_pos:
            grid = config.image_size // config.patch_size
            self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size))
        self.layers = nn.ModuleList(
            SFRecSamVisionLayer(config, 0 if index in config.global_attn_indexes else config.window_size)
            for index in range(config.num_hidden_layers)
        )
        self.neck = SamVisionNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, fused_features: Tensor | None = None, **kwargs) -> SamVisionEncoderOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch, channels, image_size, image_size)`): Normalised image.
            fused_features (`torch.Tensor` of shape `(batch, fused_channels, height, width)`, *optional*):
                The spatial-frequency branch at stride 16.
        """
        # Patches arrive as a view of a channels-first map, which every norm and sum of every block would copy.
        hidden_states = self.patch_embed(pixel_values).contiguous()
        if self.pos_embed is not None:
            hidden_states = hidden_states + self.pos_embed
        for layer in self.layers:
            hidden_states = layer(hidden_states, fused_features)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))
