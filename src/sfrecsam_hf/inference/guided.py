"""What clicks, a box and brush strokes do to an answer, lesion by lesion. The model is asked; the rules are here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import PIL.ImageDraw
from scipy import ndimage

from ..modeling.closer_look import MAPS, pixel_at
from ..modeling.segmentation import Segmentation
from ..modeling.tidying import components

BOX_MARGIN = 0.1  # of the box's sides: how far an answer may reach beyond a box drawn by hand
SEAM = 0.1  # of the region's side: how softly one answer's maps pass into another's
ABOVE_HALF = 0.5 + 1e-6

Point = tuple[float, float]


@dataclass(frozen=True)
class Prompt:
    """
    What was pointed out on an image, in pixels of it. Empty: the model chooses.

    Args:
        points (`tuple[tuple[float, float], ...]`): Clicks `(x, y)`.
        labels (`tuple[int, ...]`): 1 for a click on a lesion, 0 for one on background.
        box (`tuple[float, float, float, float]`, *optional*): `(x1, y1, x2, y2)`.
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def of(self, label: int) -> tuple[Point, ...]:
        """The points of one label."""
        return tuple(point for point, own in zip(self.points, self.labels, strict=True) if own == label)


@dataclass(frozen=True)
class Stroke:
    """
    One stroke of a brush or an eraser.

    Args:
        path (`tuple[tuple[float, float], ...]`): At least one `(x, y)`, in pixels of the image.
        radius (`float`): In pixels of the image.
        erase (`bool`): Takes away in place of adding.
    """

    path: tuple[Point, ...]
    radius: float
    erase: bool = False


AUTOMATIC = Prompt()


def guided(prompt: Prompt, answer: Callable[[Prompt], Segmentation]) -> Segmentation:
    """
    Answers a prompt lesion by lesion, where a model alone would answer all clicks with one mask.

    A click on a marked lesion outlines that lesion anew. A click beside it adds a lesion and leaves the others. A
    click on background takes away the piece it stands on, or, where a lesion click stands on the same piece, what is
    nearer to it than to that click. A box keeps its answer inside itself and a margin of [`BOX_MARGIN`].

    Args:
        prompt ([`Prompt`]): Empty for the model's own answer.
        answer (`Callable`): What the model says to the prompt that it is given, in pixels of the image.
    """
    found, clicks = answer(AUTOMATIC if prompt.box is None else _box_alone(prompt)), prompt.of(1)
    if prompt.box is not None:
        inside = box_region(prompt.box, found.mask.shape)
        found = _masked(found, found.mask & inside, found.initial_mask & inside)
        clicks = tuple(point for point in clicks if not _on(point, inside))
    for lesion in _lesions(found.mask, clicks, prompt.of(0), answer):
        found = _with_lesion(found, lesion)
    return without_background(found, prompt.of(1), prompt.of(0))


def box_region(box: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside a box `(x1, y1, x2, y2)` and its margin, boolean of `shape` `(height, width)`."""
    x1, y1, x2, y2 = box
    across, down = BOX_MARGIN * (x2 - x1), BOX_MARGIN * (y2 - y1)
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    return ((rows > y1 - down) & (rows < y2 + down))[:, None] & ((columns > x1 - across) & (columns < x2 + across))


def without_background(found: Segmentation, lesion: tuple[Point, ...], background: tuple[Point, ...]) -> Segmentation:
    """
    Takes away what clicks on background stand on.

    Args:
        found ([`Segmentation`]): An answer.
        lesion (`tuple[tuple[float, float], ...]`): Clicks `(x, y)` on lesions.
        background (`tuple[tuple[float, float], ...]`): Clicks on background.
    """
    mask = found.mask.copy()
    for point in background:
        if not _on(point, mask):
            continue
        piece = _piece_at(mask, point)
        kept = [other for other in lesion if _on(other, piece)]
        mask &= ~(piece & _nearer(piece.shape, point, kept))
    return found if (mask == found.mask).all() else _masked(found, mask, found.initial_mask & (mask | ~found.mask))


def agreeing(probability: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    The probability, moved just across one half wherever it says another thing than the mask.

    Args:
        probability (`numpy.ndarray` of shape `(height, width)`): In [0, 1].
        mask (`numpy.ndarray` of shape `(height, width)`): Boolean.
    """
    moved = np.where(mask, np.maximum(probability, ABOVE_HALF), np.minimum(probability, 0.5))
    return moved.astype(probability.dtype)


def painted(found: Segmentation, strokes: tuple[Stroke, ...]) -> Segmentation:
    """
    The answer with brush strokes over its mask, in their order.

    Args:
        found ([`Segmentation`]): An answer.
        strokes (`tuple[Stroke, ...]`): What was painted and erased.
    """
    if not strokes:
        return found
    canvas = PIL.Image.fromarray(found.mask.astype(np.uint8))
    draw = PIL.ImageDraw.Draw(canvas)
    for stroke in strokes:
        fill, path = int(not stroke.erase), [(x - 0.5, y - 0.5) for x, y in stroke.path]
        draw.line(path, fill, width=max(1, round(2 * stroke.radius)))
        for x, y in path:
            reach = max(stroke.radius - 0.5, 0)
            draw.ellipse([x - reach, y - reach, x + reach, y + reach], fill)
    return _masked(found, np.asarray(canvas) > 0, found.initial_mask)


@dataclass
class _Lesion:
    """One lesion that was clicked on: the piece it replaces, if any, and the model's answer to its clicks."""

    replaces: np.ndarray
    clicks: tuple[Point, ...]
    mask: np.ndarray
    source: Segmentation


def _lesions(
    marked: np.ndarray,
    clicks: tuple[Point, ...],
    background: tuple[Point, ...],
    answer: Callable[[Prompt], Segmentation],
) -> list[_Lesion]:
    """The lesions that were clicked on; a click belongs to the lesion that it stands on."""
    lesions: list[_Lesion] = []
    for click in clicks:
        same = next((lesion for lesion in lesions if _on(click, lesion.mask | lesion.replaces)), None)
        if same is None:
            same = _Lesion(_piece_at(marked, click), (), np.zeros_like(marked), None)
            lesions.append(same)
        same.clicks = (*same.clicks, click)
        labels = (1,) * len(same.clicks) + (0,) * len(background)
        same.source = answer(Prompt((*same.clicks, *background), labels))
        same.mask = _pieces_of(same.source.mask, same.clicks)
        if not same.mask.any():  # a click on a lesion never takes it away
            same.mask = same.replaces
    return lesions


def _with_lesion(found: Segmentation, lesion: _Lesion) -> Segmentation:
    """The answer in which one lesion is outlined anew, or added; maps near it are those of its own answer."""
    region = _around(lesion.mask | lesion.replaces)
    initial = region & _pieces_of(lesion.source.initial_mask, lesion.clicks)
    weight = ndimage.gaussian_filter(region.astype(np.float32), SEAM * np.sqrt(max(region.sum(), 1)))
    maps = {name: weight * getattr(lesion.source, name) + (1 - weight) * getattr(found, name) for name in MAPS}
    others = found.mask & ~lesion.replaces
    areas = others.sum(), lesion.mask.sum()
    score = np.average([found.score, lesion.source.score], weights=areas) if sum(areas) else lesion.source.score
    changed = replace(found, **maps, score=float(score))
    return _masked(changed, others | lesion.mask, (found.initial_mask & ~lesion.replaces) | initial)


def _box_alone(prompt: Prompt) -> Prompt:
    """The box, and the clicks inside it."""
    x1, y1, x2, y2 = prompt.box
    inside = [x1 <= x <= x2 and y1 <= y <= y2 for x, y in prompt.points]
    points = tuple(point for point, keep in zip(prompt.points, inside, strict=True) if keep)
    return Prompt(points, tuple(own for own, keep in zip(prompt.labels, inside, strict=True) if keep), prompt.box)


def _masked(found: Segmentation, mask: np.ndarray, initial: np.ndarray) -> Segmentation:
    """The answer with other masks, and a final probability that agrees with them."""
    return replace(found, mask=mask, initial_mask=initial, final_probability=agreeing(found.final_probability, mask))


def _on(point: Point, mask: np.ndarray) -> bool:
    return bool(mask[pixel_at(point, mask.shape)])


def _piece_at(mask: np.ndarray, point: Point) -> np.ndarray:
    """The connected piece of the mask at a point; nothing if there is none."""
    labels, _ = components(mask)
    own = labels[pixel_at(point, mask.shape)]
    return labels == own if own else np.zeros_like(mask)


def _pieces_of(mask: np.ndarray, clicks: tuple[Point, ...]) -> np.ndarray:
    """The pieces that clicks stand on; the piece nearest to the first of them if they stand on none."""
    labels, _ = components(mask)
    own = {int(labels[pixel_at(click, mask.shape)]) for click in clicks} - {0}
    if not own and labels.any():
        rows, columns = np.nonzero(labels)
        nearest = np.hypot(rows + 0.5 - clicks[0][1], columns + 0.5 - clicks[0][0]).argmin()
        own = {int(labels[rows[nearest], columns[nearest]])}
    return np.isin(labels, sorted(own))


def _nearer(shape: tuple[int, int], point: Point, others: list[Point]) -> np.ndarray:
    """Pixels nearer to a point than to any of the others; all of them where there are no others."""
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    own, *rest = (np.hypot(rows[:, None] - y, columns - x) for x, y in (point, *others))
    return own < np.minimum.reduce(rest) if rest else np.ones(shape, bool)


def _around(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box with a margin, as pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros_like(mask)
    return box_region((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), mask.shape)
