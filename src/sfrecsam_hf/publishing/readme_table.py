"""The results table of the README: a row for each data set below a model folder, beside the strongest baseline."""

import json
import re
from pathlib import Path
from typing import Any

from .card_tables import public_name

MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", flags=re.DOTALL)
HEADS = (
    "data",
    "lesions",
    "Dice, no prompt",
    "strongest baseline, no prompt",
    "lesions found",
    "Dice, one true click",
)


def write_readme_table(readme: str | Path, folder: str | Path) -> None:
    """
    Writes the table of [`readme_table`] between the markers of a README.

    Raises:
        ValueError: The markers are missing.
    """
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    if not MARKED.search(text):
        raise ValueError(f"{path} has no <!-- results --> and <!-- /results --> to write between.")
    table = readme_table(folder)
    path.write_text(MARKED.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8")


def readme_table(folder: str | Path) -> str:
    """
    The table in Markdown, from `results.json` of a model folder and of the folders directly below it.

    Dice is the mean over lesions, with its 95 % interval. A `baseline.json` beside a `results.json` holds `name`,
    `dice` and, if they are known, `low` and `high` of the strongest baseline on the same images.

    Raises:
        ValueError: Results have no figures for automatic prompts.
    """
    folder = Path(folder)
    lines = [HEADS, ("---",) * len(HEADS)]
    for path in [folder / "results.json", *sorted(folder.glob("*/results.json"))]:
        results = json.loads(path.read_text(encoding="utf-8"))
        auto, clicked = (results["columns"].get(column) for column in ("auto", "oracle-point"))
        if auto is None:
            raise ValueError(f"{path} has no figures for automatic prompts; evaluate with --columns auto too.")
        lesions, found = auto["final"]["lesion"], auto["found"]["final"]["iou_50"]
        rival = path.with_name("baseline.json")
        lines.append(
            (
                public_name(results["data"]),
                str(lesions["images"]),
                f"**{_with_interval(lesions['dice'], 'mean')}**",
                _baseline(json.loads(rival.read_text(encoding="utf-8"))) if rival.is_file() else "–",
                f"{100 * found['share']:.0f} %",
                f"{clicked['final']['lesion']['dice']['mean']:.3f}" if clicked else "–",
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _baseline(rival: dict[str, Any]) -> str:
    return f"{_with_interval(rival, 'dice')} {rival['name']}"


def _with_interval(found: dict[str, Any], name: str) -> str:
    interval = f" ({found['low']:.3f} to {found['high']:.3f})" if "low" in found else ""
    return f"{found[name]:.3f}{interval}"
