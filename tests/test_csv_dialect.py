"""How delimited text divides into fields."""

from __future__ import annotations

import csv
import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError, SchemaError
from pipeline.csv_dialect import recognise, split_line

_FIELD = st.text(st.sampled_from('ab1 ,;|\t"é'), max_size=6)


@given(st.lists(_FIELD, min_size=2, max_size=5), st.sampled_from(",;|\t"))
def test_lines_are_split_as_the_csv_module_wrote_them(fields: list[str], delimiter: str) -> None:
    """Splitting inverts writing with quotes, doubled quotes and delimiters inside fields."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    line = pl.DataFrame({"t": [out.getvalue().removesuffix("\n")]})
    assert line.select(split_line(pl.col("t"), delimiter)).item().to_list() == fields


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_delimiter_is_the_one_that_divides_evenly(delimiter: str) -> None:
    """A header and rows are enough, whatever stands inside quotes."""
    lines = [delimiter.join(row) for row in (["time", "price"], ["2019-01-01", '"1,5;|"'], ["2019-01-02", "2"])]
    dialect = recognise(lines, where="a.csv")
    assert dialect.delimiter == delimiter
    assert dialect.names == ("time", "price")


def test_decimal_commas_do_not_pass_for_delimiters() -> None:
    """Where both divide evenly, the comma is part of the numbers."""
    assert recognise(["2019-01-01;1,5", "2019-01-02;2,5"], where="a.csv").delimiter == ";"


def test_a_first_row_like_the_others_is_no_header() -> None:
    """Columns of a file without header are numbered; times decide before numbers, which may name a column."""
    assert recognise(["2019-01-01,1", "2019-01-02,2"], where="a.csv").names == ("column_1", "column_2")
    assert recognise(["date,2330", "2019-01-02,2"], where="a.csv").names == ("date", "2330")
    assert recognise(["2019-01-01,1", "2019-01-02,2"], where="a.csv", header=True).header


def test_titles_comments_and_blank_lines_are_no_rows_and_keep_the_line_numbers() -> None:
    """The line of a row is its line in the file."""
    lines = ["# by me", "Prices of wool", "", "date,price", "2019-01-01,1", "#", "", "2019-01-02,2", ",", ""]
    dialect = recognise(lines, where="a.csv")
    rows = dialect.rows(pl.LazyFrame({"line": range(1, len(lines) + 1), "text": lines})).collect()
    assert rows["line"].to_list() == [5, 8]
    assert rows["c1"].to_list() == ["1", "2"]
    assert "lines before 4 left out" in dialect.said


def test_a_line_with_other_fields_is_shown_as_broken() -> None:
    """Too many, too few and quotes that do not close lose nothing; an empty field too many does no harm."""
    lines = ["date,price", "2019-01-01,1", "2019-01-02,1,5", "2019-01-03", '"2019-01-04,1', "2019-01-05,1,"]
    rows = recognise(lines, where="a.csv").rows(pl.LazyFrame({"line": range(1, 7), "text": lines})).collect()
    assert rows["broken"].to_list() == [None, lines[2], lines[3], lines[4], None]
    assert rows["c1"].to_list() == ["1", None, None, None, "1"]


def test_files_without_rows_are_refused() -> None:
    """Nothing, comments only and a header only are told apart."""
    with pytest.raises(DataError, match="is empty"):
        recognise(["# nothing", ""], where="a.csv")
    with pytest.raises(DataError, match="header but no rows"):
        recognise(["date,price", ""], where="a.csv")


def test_a_header_that_does_not_fit_its_rows_is_refused() -> None:
    """A header of another width would shift the names."""
    with pytest.raises(SchemaError, match="line 1 has 2 fields, but most lines have 3"):
        recognise(["date,price", "2019-01-01,1,5", "2019-01-02,1,5"], where="a.csv")
