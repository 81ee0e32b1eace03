"""Prompts for SAM: made from the coarse mask, given by the caller, jittered.

Coordinates are `(x, y)` in pixels of the model's input. A prompt that is absent in a batch of mixed prompts is filled
with `ABSENT`, the value SAM's processor pads with.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

ABSENT = -10
CLICK_REACH = 0.1  # of the image's side: the radius of a lesion of usual size


@dataclass
class Prompts(ModelOutput):
    r"""
    Prompts of the same kind and number, one row per mask to be decoded.

    Args:
        points (`torch.Tensor` of shape `(rows, points, 2)`, *optional*): `(x, y)` in input pixels.
        labels (`torch.Tensor` of shape `(rows, points)`, *optional*): 1 foreground, 0 background.
        boxes (`torch.Tensor` of shape `(rows, 4)`, *optional*): `(x1, y1, x2, y2)` in input pixels.
        masks (`torch.Tensor` of shape `(rows, 1, height, width)`, *optional*): Logits at four times the token grid.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def select(self, rows: Tensor) -> "Prompts":
        """The given rows, with `rows` an index tensor."""
        return Prompts(**{name: value[rows] for name, value in self.items()})


def automatic_prompts(coarse_logits: Tensor, image_size: int, margin: float, mask_size: int) -> Prompts:
    """
    Box with margin, one positive point and a dense mask from the coarse mask (paper section 3.2). No ground truth.

    Where the coarse mask is empty, the box frames what comes nearest to foreground.

    Args:
        coarse_logits (`torch.Tensor` of shape `(rows, 1, height, width)`): Coarse mask logits.
        image_size (`int`): Side of the model's input in pixels.
        margin (`float`): Margin as a share of the box's side.
        mask_size (`int`): Side of the dense mask prompt.
    """
    coarse = coarse_logits.detach().float()
    width = coarse.shape[-1]
    smooth = F.avg_pool2d(coarse.sigmoid(), 5, 1, 2, count_include_pad=False)[:, 0]
    peak = smooth.flatten(1).argmax(dim=1)
    level = torch.minimum(smooth.new_tensor(0.5), 0.5 * smooth.amax((1, 2)))[:, None, None]
    foreground = smooth > level
    x1, x2 = _extent(foreground.any(dim=1))
    y1, y2 = _extent(foreground.any(dim=2))
    scale = image_size / width
    side_x, side_y = (x2 - x1) * margin, (y2 - y1) * margin
    boxes = torch.stack([x1 - side_x, y1 - side_y, x2 + side_x, y2 + side_y], dim=1) * scale
    points = torch.stack([peak % width + 0.5, peak // width + 0.5], dim=1)[:, None] * scale
    return Prompts(
        points=points,
        labels=torch.ones(points.shape[:2], dtype=torch.int, device=points.device),
        boxes=boxes.clamp(0, image_size),
        masks=F.interpolate(coarse, size=(mask_size, mask_size), mode="bilinear", align_corners=False),
    )


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last true index along the last axis of `(rows, length)`, as floats."""
    length = occupied.shape[1]
    first = occupied.int().argmax(dim=1)
    last = length - occupied.flip(1).int().argmax(dim=1)
    return first.float(), last.float()


def given_prompts(
    input_points: Tensor | None,
    input_labels: Tensor | None,
    input_boxes: Tensor | None,
    input_masks: Tensor | None,
    batch_size: int,
    image_size: int,
    mask_size: int,
) -> tuple[Prompts, int]:
    """
    Checks the caller's prompts and lays them out one row per mask.

    Args:
        input_points (`torch.Tensor` of shape `(batch, prompts, points, 2)`, *optional*): As for `SamModel`.
        input_labels (`torch.Tensor` of shape `(batch, prompts, points)`, *optional*): 1, 0, or `ABSENT`.
        input_boxes (`torch.Tensor` of shape `(batch, prompts, 4)`, *optional*): A row of `ABSENT` is no box.
        input_masks (`torch.Tensor` of shape `(batch, 1, height, width)`, *optional*): Logits, one per image.
        batch_size (`int`): Images in the batch.
        image_size (`int`): Side of the model's input in pixels.
        mask_size (`int`): Side of the dense mask prompt.

    Returns:
        The prompts and the number of prompts per image.

    Raises:
        ValueError: A prompt has the wrong shape or lies outside the image, or the numbers of prompts differ.
    """
    if input_points is not None and (input_points.ndim != 4 or input_points.shape[-1] != 2):
        raise ValueError(
            f"input_points must have shape (batch, prompts, points, 2), but got {tuple(input_points.shape)}."
        )
    if input_boxes is not None and (input_boxes.ndim != 3 or input_boxes.shape[-1] != 4):
        raise ValueError(f"input_boxes must have shape (batch, prompts, 4), but got {tuple(input_boxes.shape)}.")
    if input_masks is not None and input_masks.shape[1:] != (1, mask_size, mask_size):
        raise ValueError(
            f"input_masks must have shape (batch, 1, {mask_size}, {mask_size}), but got {tuple(input_masks.shape)}."
        )
    if input_labels is not None and input_points is None:
        raise ValueError("input_labels need input_points; pass both or neither.")
    if input_points is not None and input_labels is None:
        input_labels = torch.ones(input_points.shape[:3], dtype=torch.int, device=input_points.device)
    if input_labels is not None and input_labels.shape != input_points.shape[:3]:
        raise ValueError(
            f"input_labels must have the shape {tuple(input_points.shape[:3])} of input_points, but got "
            f"{tuple(input_labels.shape)}."
        )
    if input_labels is not None:
        known = torch.tensor([1, 0, -1, ABSENT], device=input_labels.device)
        input_labels = required(
            input_labels,
            torch.isin(input_labels, known),
            f"input_labels must be 1 (lesion), 0 (background), or -1 or {ABSENT} (no point).",
        )
    if input_masks is not None:
        input_masks = required(input_masks, input_masks.isfinite(), "input_masks hold NaN or infinite values.")
    named = {"input_points": input_points, "input_boxes": input_boxes, "input_masks": input_masks}
    for name, value in named.items():
        if value is not None and value.shape[0] != batch_size:
            raise ValueError(f"{name} are given for {value.shape[0]} images, but the batch has {batch_size}.")
    if input_points is not None and input_boxes is not None and input_points.shape[1] != input_boxes.shape[1]:
        raise ValueError(
            f"Each image needs as many boxes as point prompts, but got {input_boxes.shape[1]} and "
            f"{input_points.shape[1]}."
        )
    first = input_points if input_points is not None else input_boxes
    per_image = 1 if first is None else first.shape[1]
    prompts = Prompts(
        points=None if input_points is None else input_points.flatten(0, 1).float(),
        labels=None if input_labels is None else input_labels.flatten(0, 1),
        boxes=None if input_boxes is None else input_boxes.flatten(0, 1).float(),
        masks=None if input_masks is None else input_masks.repeat_interleave(per_image, dim=0),
    )
    _check_inside(prompts, image_size)
    return prompts, per_image


def _check_inside(prompts: Prompts, image_size: int) -> None:
    words = (
        f"{{}} lie outside the {image_size} pixels of the model's input, or a box has x1 > x2 or y1 > y2; the "
        "processor takes them in pixels of the image."
    )
    if prompts.points is not None:
        ok = ((prompts.points >= 0) & (prompts.points <= image_size)).all(-1) | (prompts.labels == ABSENT)
        prompts.points = required(prompts.points, ok, words.format("input_points"))
    if prompts.boxes is not None:
        ordered = (prompts.boxes[:, 2:] >= prompts.boxes[:, :2]).all(-1)
        ok = ((prompts.boxes >= 0) & (prompts.boxes <= image_size)).all(-1) & ordered
        prompts.boxes = required(prompts.boxes, ok | ~has_box(prompts), words.format("input_boxes"))


def required(prompt: Tensor, ok: Tensor, message: str) -> Tensor:
    """The value, if all of `ok` is true; a ValueError if not, in a compiled graph too, but not in an exported one."""
    if torch.compiler.is_exporting() or prompt.is_meta:  # on the meta device there are no values to judge
        return prompt
    if torch.compiler.is_compiling():
        return required_in_graph(prompt, ok, message)
    if not bool(ok.all()):
        raise ValueError(message)
    return prompt


# A graph cannot branch on values. As an operator of its own the check is one opaque step of it.
@torch.library.custom_op("sfrecsam::required", mutates_args=())
def required_in_graph(prompt: Tensor, ok: Tensor, message: str) -> Tensor:
    return required(prompt, ok, message).clone()


@required_in_graph.register_fake
def _(prompt: Tensor, ok: Tensor, message: str) -> Tensor:
    return torch.empty_like(prompt)


def prompt_maps(prompts: Prompts, size: int, image_size: int) -> Tensor:
    """
    Where prompts point: bumps at the clicks on the lesion, bumps at those beside it, and the box's inside.

    Args:
        prompts (`Prompts`): Rows of one kind.
        size (`int`): Side of the maps.
        image_size (`int`): Side of the model's input in pixels.

    Returns:
        `torch.Tensor` of shape `(rows, 3, size, size)`: the clicks in [0, 1]; the box in [-1, 1], with 0 on its border
        and where there is none.
    """
    given = next(iter(prompts.values()))
    centres = (torch.arange(size, device=given.device) + 0.5) / size
    maps = torch.zeros(given.shape[0], 3, size, size, device=given.device)
    if prompts.points is not None:
        away = (prompts.points / image_size)[..., None] - centres
        bumps = torch.exp(-((away / CLICK_REACH) ** 2) / 2)
        kinds = torch.stack([prompts.labels == 1, prompts.labels == 0], dim=1).float()
        maps[:, :2] = torch.einsum("rkp,rpy,rpx->rkyx", kinds, bumps[:, :, 1], bumps[:, :, 0]).clamp(max=1)
    if prompts.boxes is not None:
        x1, y1, x2, y2 = (prompts.boxes / image_size)[:, :, None].unbind(1)
        across = torch.minimum(centres - x1, x2 - centres)[:, None, :]
        down = torch.minimum(centres - y1, y2 - centres)[:, :, None]
        maps[:, 2] = torch.tanh(torch.minimum(across, down) / CLICK_REACH)
    return maps


def has_box(prompts: Prompts) -> Tensor:
    """Which rows have a box, of shape `(rows,)`."""
    return ~(prompts.boxes == ABSENT).all(dim=-1)


def group_by_kind(prompts: Prompts, rows: int) -> list[tuple[Tensor, Prompts | None]]:
    """
    Splits rows into groups of one kind and number of prompts, so that no row is padded by its neighbours.

    Padding tokens would change SAM's answer; decoding each kind on its own keeps every mask independent of the batch.

    Args:
        prompts (`Prompts`): The caller's prompts.
        rows (`int`): Number of rows.

    Returns:
        Pairs of row indices and their prompts without padding; None for rows that have no prompt.

    Raises:
        ValueError: A compiled model is given a batch in which a row lacks a prompt.
    """
    if prompts.points is None and prompts.boxes is None and prompts.masks is None:
        return [(torch.arange(rows), None)]
    if torch.compiler.is_compiling():  # a graph cannot branch on values: every row has every prompt
        words = (
            f"{{}} hold {ABSENT} for a prompt that is absent, which a compiled model cannot answer; run it eagerly."
        )
        if prompts.labels is not None:
            prompts.labels = required(prompts.labels, prompts.labels != ABSENT, words.format("input_labels"))
        if prompts.boxes is not None:
            prompts.boxes = required(prompts.boxes, has_box(prompts), words.format("input_boxes"))
        return [(torch.arange(rows), prompts)]
    kinds: dict[tuple[int, bool, bool], list[int]] = {}
    points = [0] * rows if prompts.labels is None else (prompts.labels != ABSENT).sum(dim=-1).tolist()
    boxes = [False] * rows if prompts.boxes is None else has_box(prompts).tolist()
    for row in range(rows):
        kinds.setdefault((points[row], boxes[row], prompts.masks is not None), []).append(row)
    groups: list[tuple[Tensor, Prompts | None]] = []
    for (count, box, mask), members in kinds.items():
        index = torch.tensor(members)
        if not (count or box or mask):
            groups.append((index, None))
            continue
        chosen = prompts.select(index)
        if count:
            order = (chosen.labels == ABSENT).int().argsort(dim=1, stable=True)[:, :count]
            chosen.points = chosen.points.gather(1, order[..., None].expand(-1, -1, 2))
            chosen.labels = chosen.labels.gather(1, order)
        groups.append(
            (
                index,
                Prompts(
                    points=chosen.points if count else None,
                    labels=chosen.labels if count else None,
                    boxes=chosen.boxes if box else None,
                    masks=chosen.masks,
                ),
            )
        )
    return groups


def jittered(prompts: Prompts, noise: Tensor, image_size: int) -> Prompts:
    """
    Repeats every row once per sample and moves its points and boxes a little (paper section 3.2).

    Args:
        prompts (`Prompts`): Rows of one kind.
        noise (`torch.Tensor` of shape `(samples, 4)`): Displacement of the four box sides as a share of the box's
            width and height; a point moves by the first two, as a share of the image's side.
        image_size (`int`): Side of the model's input in pixels.

    Returns:
        `Prompts` with `samples * rows` rows, samples first.
    """
    samples = noise.shape[0]
    points = boxes = None
    if prompts.points is not None:
        moved = prompts.points[None] + noise[:, None, None, :2] * image_size
        points = moved.clamp(0, image_size).flatten(0, 1)
    if prompts.boxes is not None:
        side = (prompts.boxes[:, 2:] - prompts.boxes[:, :2]).repeat(1, 2)
        moved = (prompts.boxes[None] + noise[:, None] * side).clamp(0, image_size)
        boxes = torch.cat([torch.minimum(moved[..., :2], moved[..., 2:]), moved[..., 2:]], dim=-1).flatten(0, 1)
    return Prompts(
        points=points,
        labels=None if prompts.labels is None else prompts.labels.repeat(samples, 1),
        boxes=boxes,
        masks=None if prompts.masks is None else prompts.masks.repeat(samples, 1, 1, 1),
    )
