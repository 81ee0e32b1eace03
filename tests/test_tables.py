"""Tables are read in any spelling that a spreadsheet writes."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.data.tables import read_table, split_name

TEXT = st.text(st.characters(codec="cp1252", exclude_characters="\r\n\0", exclude_categories=["Cc"]), max_size=12)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1252"]


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["train", " Val ", "TEST"])), min_size=1, max_size=5),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(ENCODINGS),
    heading=st.sampled_from([("image", "group", "split"), ("File Name", "Patient", "SET"), ("ID", "Case", "Subset")]),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_every_cell_comes_back(cells, separator, encoding, heading, ending):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=ending)
    writer.writerows([heading, *cells])
    content = text.getvalue().encode(encoding)
    if encoding == "cp1252" and _is_utf8(content) and not content.isascii():
        return  # the same bytes mean something else
    rows = read_table("splits.csv", content)
    assert [tuple(row.get(column) for column in ("image", "group", "split")) for row in rows] == [
        tuple(cell.strip() for cell in row) for row in cells
    ]
    assert [split_name(row.get("split")) for row in rows] == [split.strip().lower() for _, _, split in cells]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_rows_know_their_line():
    rows = read_table("t.csv", b'image,split\na,train\n\n"b\nb",val\nc,val\n')
    assert [row.place for row in rows] == ["t.csv line 2", "t.csv line 5", "t.csv line 6"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"image,split\n", b"\xff\xfe"])
def test_an_empty_table_has_no_rows(content):
    assert read_table("t.csv", content) == []


@pytest.mark.parametrize(
    "content",
    [
        b"image,split\n" + b"x" * 200_000 + b",val\n",
        b"\xff\xfei",
        "image,split\na,val\n".encode("utf-16-le"),
        "image,split\na,val\n".encode("utf-32"),
        b'image,split\n"a,val\nb,val\n',
    ],
)
def test_what_is_no_table_is_named(content):
    with pytest.raises(ValueError, match=r"t\.csv is no table that can be read"):
        read_table("t.csv", content)


def test_a_cell_too_many_is_named():
    with pytest.raises(ValueError, match=r"t\.csv line 3 has 3 cells for 2 columns; put quotes around commas"):
        read_table("t.csv", b"image,split\na,train\nb,c,val\n")
