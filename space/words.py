"""An answer in words: is there a lesion, how good is its outline, what is that worth, what could be better."""

from typing import Any

import numpy as np

from scan import Answer, Guidance, Scan
from sfrecsam_hf import Segmentation
from sfrecsam_hf.inference.predict_clip import ClipReport
from sfrecsam_hf.inference.report import PRESENCE, presence_level
from sfrecsam_hf.modeling.lesions import Lesion
from sfrecsam_hf.modeling.tidying import components
from staged_model import Controls

WORTH = "On normal scans of hospitals it has not seen it is often wrong."
LEVELS = ("none", "unsure", "likely")  # of the words for a presence, for their colours
GOOD, FAIR = 0.8, 0.6  # estimated overlap
RAGGED, LOWER = 1.15, 0.01  # longer outline for the same area; lower expected overlap


def head_line(found: Segmentation, guidance: Guidance, controls: Controls, clip: str = "") -> dict[str, Any]:
    """
    What is said first: a level for its colour, a title, and sentences.

    Args:
        found ([`Segmentation`]): What is shown.
        guidance ([`Guidance`]): What it was asked with.
        controls ([`Controls`]): With the presence threshold.
        clip (`str`): Of a clip, what is said of all its frames; the mask before correction is not offered there.
    """
    guided = bool(guidance.prompt.points or guidance.prompt.box or guidance.strokes)
    level, title = _presence(found, guided, controls.presence_threshold)
    better = "" if clip or guidance.before_correction else initial_is_better(found)
    lines = [clip, _fit(found, guidance), better, WORTH]
    return {"level": level, "title": title, "lines": [line for line in lines if line]}


def initial_is_better(found: Segmentation) -> str:
    """Why the mask before correction may be the better one; empty if it is not."""
    if not found.initial_mask.any() or (found.mask == found.initial_mask).all():
        return ""
    if components(found.mask)[1] > components(found.initial_mask)[1]:
        return "The correction split the lesion into pieces; look at the mask before it."
    if _edge(found.mask) > RAGGED * _edge(found.initial_mask):
        return "The correction made the outline ragged; look at the mask before it."
    if _expected_overlap(found, found.mask) < _expected_overlap(found, found.initial_mask) - LOWER:
        return "The correction lowered the expected overlap; look at the mask before it."
    return ""


def foot_line(scan: Scan, answer: Answer) -> str:
    """How long it took."""
    decoded = f"decoded in {answer.decode_ms:.0f} ms" if answer.decode_ms else "nothing decoded again"
    return (
        f"Image encoded once in {scan.encode_ms:.0f} ms. This answer: {decoded}, corrected and measured in "
        f"{answer.rest_ms:.0f} ms."
    )


def clip_line(frames: int, report: ClipReport) -> str:
    """What is said of all frames of a clip."""
    counted = f"A lesion on {report.with_lesion} of {frames} frames."
    return (
        counted if report.largest is None else f"{counted} It is longest on frame {report.largest + 1}: measure there."
    )


def clip_foot_line(frames: int, seconds: float) -> str:
    """How long a clip took, and what one does not do with it."""
    return (
        f"{frames} frames segmented in {seconds:.1f} s. A click or a box is followed forward and backward. Brush and "
        "eraser are for single images."
    )


def measurement_rows(found: Segmentation, spacing: tuple[float, float] | None) -> list[list[str]]:
    """
    The table beside the picture: what was measured, and how much; millimetres where they are known.

    Args:
        found ([`Segmentation`]): What is shown.
        spacing (`tuple[float, float]`, *optional*): Height and width of a pixel in millimetres.
    """
    lesions = found.lesions
    rows = [["Probability of a lesion", f"{found.presence:.0%}"], ["Estimated overlap (IoU)", f"{found.score:.0%}"]]
    for number, lesion in enumerate(lesions[:5], 1):
        name = "" if len(lesions) == 1 else f" {number}"
        rows += [[f"Diameters{name}", diameters(lesion, spacing)], [f"Area{name}", _area(lesion.area, spacing)]]
    if not lesions:
        rows.append(["Diameters", "no lesion marked"])
    if len(lesions) > 1:
        rows.append(["Lesions", str(len(lesions))])
    added, removed = (found.mask & ~found.initial_mask).sum(), (found.initial_mask & ~found.mask).sum()
    inside = found.uncertainty[found.mask].mean() if found.mask.any() else found.uncertainty.mean()
    rows += [
        ["Mean uncertainty", f"{inside:.3f} bit"],
        ["Changed by correction and you", f"{added:,} px added, {removed:,} removed"],
    ]
    return rows


def diameters(lesion: Lesion, spacing: tuple[float, float] | None) -> str:
    """The longest diameter and the one across it."""
    drawn = lesion.axes(spacing or (1.0, 1.0))
    return f"{drawn.longest:.1f} x {drawn.perpendicular:.1f} {'mm' if spacing else 'px'}"


def _area(pixels: int, spacing: tuple[float, float] | None) -> str:
    return f"{pixels * spacing[0] * spacing[1]:,.1f} mm² ({pixels:,} px)" if spacing else f"{pixels:,} px"


def _presence(found: Segmentation, guided: bool, threshold: float) -> tuple[str, str]:
    if guided:
        return ("guided", "Outlined with your guidance") if found.mask.any() else ("none", "Nothing marked")
    level = presence_level(found.presence, threshold)
    return LEVELS[level], PRESENCE[level]


def _fit(found: Segmentation, guidance: Guidance) -> str:
    if not found.mask.any():
        return "If you see a lesion, click on it, or drag a box around it."
    if guidance.strokes:
        return "You edited the mask; the estimates are of the model's own."
    if found.score >= GOOD:
        return "The outline probably fits well."
    if found.score >= FAIR:
        return "The outline probably fits roughly; check its border."
    return "The outline may be far off; click on the lesion, or drag a box around it."


def _edge(mask: np.ndarray) -> float:
    """Length of the outline over the root of the area: 4 for a square, more for what is ragged."""
    sides = sum(np.count_nonzero(np.diff(np.pad(mask, 1).astype(np.int8), axis=axis)) for axis in (0, 1))
    return sides / max(mask.sum(), 1) ** 0.5


def _expected_overlap(found: Segmentation, mask: np.ndarray) -> float:
    """Dice that the mask is expected to have if the mean probability of the samples is right."""
    return float(2 * found.probability[mask].sum() / max(found.probability.sum() + mask.sum(), 1e-12))
