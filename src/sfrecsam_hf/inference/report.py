"""One page to look through, whole in itself: every image and clip with its outline and measurements."""

import base64
import csv
import html
import io
import json
from pathlib import Path

import PIL.Image

from .tables import FRAME_COLUMNS, FRAMES, Row, Tables
from .writing import replacing

REPORT = "report.html"
SIDE = 360  # of a picture, in pixels
PRESENCE = ("No lesion seen", "Unsure", "Lesion likely")
NOTICE = "Research use only, not for diagnosis."
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 64rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
article { border-top: 1px solid #8888; padding: 1rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: 0.85rem; opacity: 0.8; }
img { display: block; max-width: 100%; height: auto; }
section { flex: 1 1 16rem; min-width: 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.15rem 0.6rem 0.15rem 0; }
th { font-weight: 600; }
"""


def write_report(output: Path, tables: Tables, threshold: float) -> None:
    """
    Writes `report.html` out of the tables and the pictures beside them, one image or clip after the other.

    Args:
        output (`Path`): Where the pictures are.
        tables ([`Tables`]): What was measured.
        threshold (`float`): Presence below which nothing is marked, where a row's settings do not tell it.
    """
    clips = {path: rows for path in sorted(output.rglob(f"*{FRAMES}")) if (rows := _frames(path))}
    count, marked = len(tables.images), sum(bool(row["lesions"]) for row in tables.images.values())
    title = f"{count} images, {marked} with a lesion marked" + (f"; {len(clips)} clips" if clips else "")
    with replacing(output / REPORT) as fresh, fresh.open("w", encoding="utf-8") as page:
        page.write(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style><h1>{title}</h1><p>{NOTICE} "
            "Presence is the model's probability that an image shows a lesion. Uncertainty is the mean entropy of its "
            "pixels, from 0 (sure) to 1 bit (a coin toss). Diameters are the longest line and the longest at right "
            "angles to it.</p>\n"
        )
        for name, row in tables.images.items():
            own = json.loads(row["settings"] or "{}").get("presence_threshold", threshold)
            page.write(_article(output, name, row, tables.lesions[name], own))
        for path, rows in clips.items():
            page.write(_clip_article(path, path.relative_to(output).as_posix().removesuffix(FRAMES), rows))
        page.write("</html>\n")


def presence_level(presence: float, threshold: float) -> int:
    """Which of the words [`PRESENCE`] fits, beside the presence below which nothing is marked; both in [0, 1]."""
    return int(presence >= threshold) + int(presence >= (1 + threshold) / 2)


def _article(output: Path, name: str, row: Row, lesions: list[Row], threshold: float) -> str:
    pictures = [("overlay", "Outline and axes"), ("uncertainty", "Uncertainty")]
    figures = "".join(_figure(output / f"{name}_{kind}.png", caption) for kind, caption in pictures)
    presence = f"{PRESENCE[presence_level(row['presence'], threshold)]} (presence {row['presence']:.0%})"
    marked = _table(lesions) if lesions else "<p>Nothing is marked.</p>"
    return (
        f"<article>{figures}<section><h2>{html.escape(name)}</h2><p>{presence}. "
        f"{row['width']} x {row['height']} pixels.</p>{marked}</section></article>\n"
    )


def _frames(path: Path) -> list[dict[str, str]]:
    """The rows of a clip; none if another program wrote the file."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader) if reader.fieldnames == list(FRAME_COLUMNS) else []


def _clip_article(path: Path, name: str, rows: list[dict[str, str]]) -> str:
    """The frame to measure, its diameters, and how presence goes from frame to frame."""
    marked = sum(int(row["area"]) > 0 for row in rows)
    said = f"<p>A lesion is marked on {marked} of {len(rows)} frames.</p>"
    figure = ""
    for row in rows:
        if row["measure_here"] == "1":
            suffix, unit = ("_mm", "mm") if row["longest_diameter_mm"] else ("", "px")
            longest, across = (float(row[f"{kind}_diameter{suffix}"]) for kind in ("longest", "perpendicular"))
            caption = f"Frame {row['frame']}, with the longest diameter"
            figure = _figure(path.with_name(path.name.removesuffix(FRAMES) + "_largest.png"), caption)
            said += f"<p>Measure frame {row['frame']}: {longest:.1f} x {across:.1f} {unit}.</p>"
    width, height = SIDE, 60
    steps = enumerate(float(row["presence"]) for row in rows)
    points = " ".join(f"{width * index / (len(rows) - 1):.1f},{height * (1 - value):.1f}" for index, value in steps)
    said += (
        f'<svg viewBox="0 -2 {width} {height + 4}" width="{width}" role="img" aria-label="Presence of each frame">'
        f'<polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
        "<p>Presence from 0 to 100 %, first frame to last.</p>"
    )
    return f"<article>{figure}<section><h2>{html.escape(name)}</h2>{said}</section></article>\n"


def _table(lesions: list[Row]) -> str:
    head = "<tr><th>Lesion<th>Area<th>Diameters<th>Probability<th>Uncertainty</tr>"
    lines = []
    for lesion in lesions:
        metric = lesion["area_mm2"] is not None
        suffix, unit, square = ("_mm", "mm", "mm\u00b2") if metric else ("", "px", "px")
        area = f"{lesion['area_mm2']:.1f}" if metric else f"{lesion['area']}"
        longest, across = (lesion[f"{kind}_diameter{suffix}"] for kind in ("longest", "perpendicular"))
        lines.append(
            f"<tr><td>{lesion['lesion']}<td>{area} {square}<td>{longest:.1f} x {across:.1f} {unit}"
            f"<td>{lesion['probability']:.0%}<td>{lesion['mean_uncertainty']:.2f} bit</tr>"
        )
    return f"<table>{head}{''.join(lines)}</table>"


def _figure(path: Path, caption: str) -> str:
    if not path.is_file():
        return f"<figure><figcaption>{caption}: the picture is gone</figcaption></figure>"
    with PIL.Image.open(path) as picture:
        small, content = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    small.save(content, format="JPEG", quality=85)
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{caption} of {html.escape(path.stem)}"><figcaption>{caption}</figcaption></figure>'
    )
