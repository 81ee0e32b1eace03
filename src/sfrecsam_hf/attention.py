"""SAM's windowed and global attention without its bias tensor: exact, in less memory, and faster.

SAM adds to every dot product a decomposed relative position: one term for the row of the key and one for its column,
both linear in the query. Written out as a bias it has `heads * tokens**2` numbers per image, 0.8 GB for one block of
ViT-B at 1024 px. Two ways around it give the same answer:

- `"folded"` appends the two terms to the query and one-hot codes of row and column to the key, so that the plain dot
  product already contains them. No bias exists, which admits the flash kernels of a GPU and saves training memory.
- `"banded"` takes the queries a few rows at a time, so that the bias in use stays in a CPU's cache.

`"unbiased"`, the default, is `"folded"` on an accelerator and `"banded"` on a CPU, where the wider dot product costs
more than the bias.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionSdpaAttention

from .configuration_sfrecsam import SFRecSamVisionConfig

BAND = 256  # queries whose bias is made at a time: 12 MB for ViT-B at 1024 px
UNBIASED = ("unbiased", "folded", "banded")

# The mask decoder has no relative positions: for it all three are PyTorch's own attention.
for name in UNBIASED:
    AttentionInterface.register(name, sdpa_attention_forward)


def relative_terms(
    query: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """
    What the decomposed relative positions add to a query's dot product with each key row and each key column.

    Args:
        query (`torch.Tensor` of shape `(batch, heads, height * width, head_dim)`): Unscaled queries.
        rel_pos_h (`torch.Tensor` of shape `(2 * height - 1, head_dim)`): SAM's table for rows.
        rel_pos_w (`torch.Tensor` of shape `(2 * width - 1, head_dim)`): SAM's table for columns.
        size (`tuple[int, int]`): Height and width of the grid or window.

    Returns:
        Two tensors of shape `(batch, heads, height * width, height)` and `(batch, heads, height * width, width)`.
    """
    grid = query.unflatten(2, size)
    rows = torch.einsum("bnhwc,hkc->bnhwk", grid, _by_distance(rel_pos_h, size[0]))
    columns = torch.einsum("bnhwc,wkc->bnhwk", grid, _by_distance(rel_pos_w, size[1]))
    return rows.flatten(2, 3), columns.flatten(2, 3)


def _by_distance(table: Tensor, length: int) -> Tensor:
    """Entry of the table for every pair of query and key, of shape `(length, length, head_dim)`."""
    place = torch.arange(length, device=table.device)
    return table[place[:, None] - place[None] + length - 1]


def folded_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """
    Attention with the relative terms inside the dot product.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch, heads, tokens, head_dim)`): Unscaled.
        rows (`torch.Tensor` of shape `(batch, heads, tokens, height)`): From `relative_terms`.
        columns (`torch.Tensor` of shape `(batch, heads, tokens, width)`): From `relative_terms`.

    Returns:
        `torch.Tensor` of shape `(batch, heads, tokens, head_dim)`.
    """
    height, width, head_dim = rows.shape[-1], columns.shape[-1], query.shape[-1]
    row_codes = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, dim=0)
    column_codes = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    codes = torch.cat([row_codes, column_codes], dim=1).expand(*key.shape[:2], -1, -1)
    query = torch.cat([query * head_dim**-0.5, rows, columns], dim=-1)
    key = torch.cat([key, codes], dim=-1)
    # The fused kernels want values as wide as keys.
    value = F.pad(value, (0, height + width))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :head_dim]


def banded_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As `folded_attention`, with a bias for `BAND` queries at a time."""
    bands = zip(*(part.split(BAND, dim=2) for part in (query, rows, columns)), strict=True)
    read = [
        F.scaled_dot_product_attention(
            part, key, value, attn_mask=(row[..., :, None] + column[..., None, :]).flatten(-2)
        )
        for part, row, column in bands
    ]
    return torch.cat(read, dim=2)


class SFRecSamVisionAttention(SamVisionAttention):
    """SAM's attention, computed as `config._attn_implementation` says; the weights are the same for all."""

    def __init__(self, config: SFRecSamVisionConfig, window_size: int):
        super().__init__(config, window_size)
        self.config = config

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, height, width, hidden_size)`): Tokens of grids or windows.
            output_attentions (`bool`, *optional*): As for `SamVisionAttention`; only `"eager"` has them.

        Returns:
            `torch.Tensor` of shape `(batch, height, width, hidden_size)`, and the attention weights if there are any.
        """
        implementation = self.config._attn_implementation
        if implementation == "eager":
            return super().forward(hidden_states)
        if implementation not in UNBIASED or not self.use_rel_pos:
            return SamVisionSdpaAttention.forward(self, hidden_states)
        if implementation == "unbiased":
            implementation = "banded" if hidden_states.device.type == "cpu" else "folded"
        batch, height, width, _ = hidden_states.shape
        heads = self.qkv(hidden_states).reshape(batch, height * width, 3, self.num_attention_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        terms = relative_terms(query, self.rel_pos_h, self.rel_pos_w, (height, width))
        attention = folded_attention if implementation == "folded" else banded_attention
        read = attention(query, key, value, *terms)
        return self.proj(read.transpose(1, 2).reshape(batch, height, width, -1)), None
