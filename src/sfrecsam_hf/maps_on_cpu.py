"""Large feature maps on a CPU: channels last, with which a convolution takes half the time, and one row at a time."""

from collections.abc import Callable

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


def row_by_row(function: Callable[..., Tensor], *maps: Tensor | None) -> Tensor:
    """
    `function(*maps)`; for inference on a CPU a row at a time.

    What is made of one row stays in cache and finds the memory of the row before. All rows at once ask the system for
    fresh memory, and that costs as much as the work itself.

    Args:
        function (`Callable`): Answers every row by itself.
        maps (`torch.Tensor` of shape `(rows, ...)` or None): Its arguments.

    Returns:
        `torch.Tensor` of shape `(rows, ...)`.
    """
    given = [part for part in maps if part is not None]
    at_once = given[0].device.type != "cpu" or any(part.requires_grad for part in given)
    if at_once or torch.compiler.is_compiling():
        return function(*maps)
    rows = range(len(given[0]))
    return torch.cat([function(*(None if part is None else part[row : row + 1] for part in maps)) for row in rows])
