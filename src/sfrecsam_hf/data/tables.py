"""Tables that people keep beside images: any separator, any common encoding, any spelling of the columns."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

COLUMNS = {
    "image": ("image", "name", "id", "file", "filename", "file_name", "image_id", "image_name", "image_filename"),
    "label": ("class", "label", "pathology", "diagnosis", "classification"),
    "group": ("group", "patient", "patient_id", "case", "case_id", "caseid", "subject", "subject_id", "exam"),
    "split": ("split", "set", "subset", "partition"),
    "objection": ("objection",),
    "calipers": ("calipers", "caliper", "markers", "marks"),
    "doppler": ("doppler",),
}
SPLITS = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "ts"),
}
YES = {"1", "1.0", "yes", "y", "true", "x"}


@dataclass
class Row:
    """One line of a table: its place in the file, and what its known columns say."""

    place: str
    values: dict[str, str]
    headings: dict[str, str]

    def get(self, column: str) -> str:
        """The value of a column of `COLUMNS`, or an empty text."""
        return self.values.get(column, "")

    def says(self, column: str) -> bool:
        """Whether a column of yes and no says yes."""
        return self.get(column).lower() in YES


def split_name(text: str) -> str | None:
    """`train`, `val` or `test` for any spelling of it."""
    word = text.strip().lower()
    return next((name for name, spellings in SPLITS.items() if word in spellings), None)


def read_table(name: str, content: bytes) -> list[Row]:
    """
    The rows of a CSV file.

    Args:
        name (`str`): How to call it in an error.
        content (`bytes`): UTF-8 with or without a byte-order mark, UTF-16 with one, or Windows-1252; separated by
            commas, semicolons, tabs or bars.

    Raises:
        ValueError: It is no text or no table, or a row has more cells than the first line.
    """
    try:
        return _rows(name, _decoded(content))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} is no table that can be read ({error}); save it as CSV in UTF-8.") from error


def _rows(name: str, text: str) -> list[Row]:
    heading = text.lstrip().splitlines()[:1]
    separator = max(",;\t|", key=heading[0].count) if heading else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    columns: list[str] | None = None
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if columns is None:
            columns = cells
            continue
        place = f"{name} line {reader.line_num}"
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            raise ValueError(f"{place} has {len(cells)} cells for {len(columns)} columns; put quotes around commas.")
        rows.append(_row(place, dict(zip(columns, cells, strict=False))))
    return rows


def _row(place: str, cells: dict[str, str]) -> Row:
    by_heading = {heading.lower().replace(" ", "_"): heading for heading in cells}
    values, headings = {}, {}
    for column, spellings in COLUMNS.items():
        heading = next((by_heading[spelling] for spelling in spellings if spelling in by_heading), None)
        if heading is not None:
            values[column], headings[column] = cells[heading], heading
    return Row(place, values, headings)


def open_table(path: str | Path, needed: tuple[str, ...]) -> list[Row]:
    """
    A table that the caller named.

    Args:
        path (`str` or `Path`): The file.
        needed (`tuple[str, ...]`): Columns of `COLUMNS` that it must have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, or there are no rows.
    """
    wanted = f"{', '.join(needed[:-1])} and {needed[-1]}" if len(needed) > 1 else needed[0]
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; give a CSV with the columns {wanted}.")
    rows = read_table(str(path), Path(path).read_bytes())
    if not rows or not set(needed) <= set(rows[0].values):
        raise ValueError(f"{path} needs the columns {wanted}.")
    return rows


def _decoded(content: bytes) -> str:
    text = _as_text(content)
    if "\0" in text:
        raise csv.Error("it holds NUL, as UTF-32 and UTF-16 without a byte-order mark do")
    return text


def _as_text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
