"""SAM's mask decoder, told that all rows of a batch lie on one grid: the same numbers with less memory traffic."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamTwoWayTransformer


class SharedGridTransformer(SamTwoWayTransformer):
    """SAM's two-way transformer for rows that share their positions, which are then held once and not per row."""

    def forward(
        self, point_embeddings: Tensor, image_embeddings: Tensor, image_positional_embeddings: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            point_embeddings (`torch.Tensor` of shape `(rows, 1, tokens, channels)`): Output and prompt tokens.
            image_embeddings (`torch.Tensor` of shape `(rows, channels, grid, grid)`): With the dense prompt.
            image_positional_embeddings (`torch.Tensor` of shape `(rows, channels, grid, grid)`): Equal in all rows.

        Returns:
            As for `SamTwoWayTransformer`.
        """
        # Channels last, the sequence of tokens that SAM makes of an image is a view and needs no copies.
        return super().forward(
            point_embeddings=point_embeddings,
            image_embeddings=image_embeddings.contiguous(memory_format=torch.channels_last),
            image_positional_embeddings=image_positional_embeddings[:1].contiguous(memory_format=torch.channels_last),
            **kwargs,
        )


class SFRecSamMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder with that transformer; the weights are the same."""

    def __init__(self, config: SamMaskDecoderConfig):
        super().__init__(config)
        self.transformer = SharedGridTransformer(config)
