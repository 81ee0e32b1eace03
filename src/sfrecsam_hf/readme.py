"""Writes the results table into the README, so that no number in it is typed by hand.

python -m sfrecsam_hf.readme README.md hub_card/results.json
"""

import json
import re
import sys
from pathlib import Path

from .evaluation import table

MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", flags=re.DOTALL)


def with_results(text: str, results: dict) -> str:
    """
    The text with the table of `results.json` between its two markers.

    Raises:
        ValueError: The markers are missing.
    """
    if not MARKED.search(text):
        raise ValueError("The text has no <!-- results --> and <!-- /results --> to write between.")
    return MARKED.sub(lambda found: f"{found[1]}{table(results)}\n{found[2]}", text)


if __name__ == "__main__":
    readme, source = map(Path, sys.argv[1:])
    readme.write_text(with_results(readme.read_text(), json.loads(source.read_text())))
