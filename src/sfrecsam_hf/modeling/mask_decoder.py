"""SAM's mask decoder for a few tokens on a shared grid: SAM's weights and SAM's answer, sooner."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import (
    SamAttention,
    SamMaskDecoder,
    SamTwoWayAttentionBlock,
    SamTwoWayTransformer,
)


def tokens_read_image(attention: SamAttention, tokens: Tensor, image: Tensor, positions: Tensor) -> Tensor:
    """
    `attention(query=tokens, key=image + positions, value=image)`, projecting tokens and never the image.

    The bias of the keys adds one number to all scores of a query, which softmax does not see.

    Args:
        attention (`SamAttention`): Whose weights are used.
        tokens (`torch.Tensor` of shape `(rows, tokens, channels)`): Queries.
        image (`torch.Tensor` of shape `(rows, pixels, channels)`): Image embeddings.
        positions (`torch.Tensor` of shape `(1, pixels, channels)`): Of every row's pixels.

    Returns:
        `torch.Tensor` of shape `(rows, tokens, channels)`.
    """
    query = _by_head(attention.q_proj(tokens), attention) @ _weight_by_head(attention.k_proj, attention)
    query = query.flatten(1, 2) * attention.scaling
    shares = torch.baddbmm(query @ positions.mT, query, image.mT).softmax(dim=-1)
    read = (shares @ image).unflatten(1, (attention.num_attention_heads, -1))
    read = read @ _weight_by_head(attention.v_proj, attention).mT
    return attention.out_proj(read.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def image_reads_tokens(
    attention: SamAttention, image: Tensor, positions: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """
    `attention(query=image + positions, key=keys, value=values)`, projecting tokens and never the image.

    Args:
        attention (`SamAttention`): Whose weights are used.
        image (`torch.Tensor` of shape `(rows, pixels, channels)`): Image embeddings.
        positions (`torch.Tensor` of shape `(1, pixels, channels)`): Of every row's pixels.
        keys, values (`torch.Tensor` of shape `(rows, tokens, channels)`): Tokens.

    Returns:
        `torch.Tensor` of shape `(rows, pixels, channels)`.
    """
    heads = attention.num_attention_heads
    key = _by_head(attention.k_proj(keys), attention) * attention.scaling
    offset = (key @ attention.q_proj.bias.view(heads, -1, 1)).flatten(1, 2)
    key = (key @ _weight_by_head(attention.q_proj, attention)).flatten(1, 2)
    scores = torch.baddbmm(key @ positions.mT + offset, key, image.mT)
    shares = scores.unflatten(1, (heads, -1)).softmax(dim=2).flatten(1, 2)
    value = _by_head(attention.v_proj(values), attention) @ attention.out_proj.weight.T.unflatten(0, (heads, -1))
    return torch.baddbmm(attention.out_proj.bias, shares.mT, value.flatten(1, 2))


def _by_head(tokens: Tensor, attention: SamAttention) -> Tensor:
    """`(rows, tokens, width)` as `(rows, heads, tokens, head_dim)`."""
    return tokens.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _weight_by_head(projection: nn.Linear, attention: SamAttention) -> Tensor:
    """A projection's weight as `(heads, head_dim, channels)`."""
    return projection.weight.unflatten(0, (attention.num_attention_heads, -1))


def few(attention: SamAttention, tokens: Tensor) -> bool:
    """Whether tokens of shape `(rows, 1, tokens, channels)` are so few that the functions above cost less."""
    if attention.config._attn_implementation == "eager" or torch.compiler.is_compiling():
        return False  # the first is for looking at weights of attention, the second has one graph for any number
    return 2 * attention.num_attention_heads * tokens.shape[2] <= attention.hidden_size


class FewTokensBlock(SamTwoWayAttentionBlock):
    """SAM's block, with the two attentions between tokens and image as above while the tokens are few."""

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_point_embedding: Tensor,
        key_point_embedding: Tensor,
        attention_similarity: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            queries, query_point_embedding (`torch.Tensor` of shape `(rows, 1, tokens, channels)`): Tokens.
            keys (`torch.Tensor` of shape `(rows, 1, pixels, channels)`): Image embeddings.
            key_point_embedding (`torch.Tensor` of shape `(1, 1, pixels, channels)`): Positions, equal in all rows.
            attention_similarity (`torch.Tensor`, *optional*): As for `SamTwoWayAttentionBlock`; unused by this model.

        Returns:
            As for `SamTwoWayAttentionBlock`.
        """
        if not few(self.cross_attn_token_to_image, queries):
            return super().forward(
                queries, keys, query_point_embedding, key_point_embedding, attention_similarity, **kwargs
            )
        offered = queries if self.skip_first_layer_pe else queries + query_point_embedding
        mixed, _ = self.self_attn(query=offered, key=offered, value=queries)
        queries = self.layer_norm1(mixed if self.skip_first_layer_pe else queries + mixed)

        image, positions = keys.squeeze(1), key_point_embedding.squeeze(1)
        offered = (queries + query_point_embedding).squeeze(1)
        read = tokens_read_image(self.cross_attn_token_to_image, offered, image, positions)
        queries = self.layer_norm2(queries + read.unsqueeze(1))
        queries = self.layer_norm3(queries + self.mlp(queries))

        offered = (queries + query_point_embedding).squeeze(1)
        read = image_reads_tokens(self.cross_attn_image_to_token, image, positions, offered, queries.squeeze(1))
        return queries, self.layer_norm4(image + read).unsqueeze(1), read.unsqueeze(1)


class SharedGridTransformer(SamTwoWayTransformer):
    """SAM's two-way transformer for rows on one grid, whose positions are held once and not per row."""

    def __init__(self, config: SamMaskDecoderConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            FewTokensBlock(config, skip_first_layer_pe=index == 0) for index in range(config.num_hidden_layers)
        )

    def forward(
        self, point_embeddings: Tensor, image_embeddings: Tensor, image_positional_embeddings: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            point_embeddings (`torch.Tensor` of shape `(rows, 1, tokens, channels)`): Output and prompt tokens.
            image_embeddings (`torch.Tensor` of shape `(rows, channels, grid, grid)`): With the dense prompt.
            image_positional_embeddings (`torch.Tensor` of shape `(1, channels, grid, grid)`): Of every row.

        Returns:
            As for `SamTwoWayTransformer`.
        """
        # Channels last, the sequence of tokens that SAM makes of an image is a view and needs no copies.
        image_embeddings = image_embeddings.contiguous(memory_format=torch.channels_last)
        image_positional_embeddings = image_positional_embeddings.contiguous(memory_format=torch.channels_last)
        final = self.final_attn_token_to_image
        if not few(final, point_embeddings):
            return super().forward(point_embeddings, image_embeddings, image_positional_embeddings, **kwargs)
        queries, keys = point_embeddings, image_embeddings.flatten(2).mT.unsqueeze(1)
        positions = image_positional_embeddings.flatten(2).mT.unsqueeze(1)
        for layer in self.layers:
            queries, keys, _ = layer(queries, keys, point_embeddings, positions)
        offered = (queries + point_embeddings).squeeze(1)
        read = tokens_read_image(final, offered, keys.squeeze(1), positions.squeeze(1))
        return self.layer_norm_final_attn(queries + read.unsqueeze(1)), keys


class SFRecSamMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder with that transformer; the weights are the same."""

    def __init__(self, config: SamMaskDecoderConfig):
        super().__init__(config)
        self.transformer = SharedGridTransformer(config)
