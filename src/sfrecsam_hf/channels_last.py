"""Feature maps whose channels lie last in memory: on a CPU a convolution takes half the time with them."""

import torch
from torch import Tensor


def stacked(*maps: Tensor) -> Tensor:
    """
    The channels of all maps, one after the other: on a CPU they lie last, wherever those of the maps lie.

    Convolutions, norms and sums keep this layout. `torch.cat` does not: one channel alone has no layout that it sees,
    and it would put those of all maps first again.

    Args:
        maps (`torch.Tensor` of shape `(batch, any, height, width)`): Of one size.

    Returns:
        `torch.Tensor` of shape `(batch, sum of channels, height, width)`.
    """
    if maps[0].device.type != "cpu":
        return torch.cat(maps, dim=1)
    return torch.cat([part.permute(0, 2, 3, 1) for part in maps], dim=-1).permute(0, 3, 1, 2)
