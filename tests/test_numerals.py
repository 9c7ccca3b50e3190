"""Numbers as they are written in files."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.numerals import Decimal, is_number, missing, number, recognise


def _read(text: str, decimal: Decimal) -> float | None:
    return pl.DataFrame({"t": [text]}).select(number(pl.col("t"), decimal)).item()


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1,234.56", ".", 1234.56),
        ("1.234,56", ",", 1234.56),
        ("1 234,56", ",", 1234.56),
        ("1\u00a0234\u202f567.5", ".", 1234567.5),
        ("1'234.50", ".", 1234.5),
        ("12,34,567.8", ".", 1234567.8),
        ("$ 1,000", ".", 1000.0),
        ("-€5,5", ",", -5.5),
        ("3 €", ",", 3.0),
        ("−2.5", ".", -2.5),
        ("+.5", ".", 0.5),
        ("5.", ".", 5.0),
        (" 1e-3 ", ".", 0.001),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, decimal: Decimal, value: float) -> None:
    """Thousands, signs of currencies, blanks and exponents do not hide a number."""
    assert _read(text, decimal) == value


@pytest.mark.parametrize(
    "text", ["abc", "1,23", "0,123", "1.2.3", "12 34", "1e", "--1", "5%", "0x10", "1_000", "1,234,56"]
)
def test_what_is_no_number_is_not_forced_into_one(text: str) -> None:
    """Digits that are grouped as nobody groups thousands are no number."""
    assert _read(text, ".") is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_back(value: float) -> None:
    """Reading inverts writing, bit for bit."""
    assert _read(repr(value), ".") == value


@given(st.integers(-(10**12), 10**12), st.sampled_from([".", ","]))
def test_grouped_numbers_are_read_back(cents: int, decimal: Decimal) -> None:
    """Two decimals and thousands in groups are read under either decimal sign."""
    text = f"{cents / 100:,.2f}"
    text = text if decimal == "." else text.translate(str.maketrans(".,", ",."))
    assert _read(text, decimal) == cents / 100


def test_texts_that_stand_for_nothing_are_missing() -> None:
    """The words for a missing value count in any case, and numbers and other words do not."""
    texts = ["", " ", ".", "-", "NA", "n/a", "NULL", "None", "NaN", None, "0", "abc"]
    assert pl.DataFrame({"t": texts}).select(missing(pl.col("t"))).to_series().to_list() == [True] * 10 + [False] * 2


@pytest.mark.parametrize(
    ("cells", "decimal"),
    [
        (["1.5", "1,234.5"], "."),
        (["1,5", "1.234,5"], ","),
        (["1,234", "1,5"], ","),
        (["0,123", "7,125"], ","),
        (["1,234,567", "12,345"], "."),
        (["1", "22"], "."),
    ],
)
def test_the_decimal_sign_is_told_by_the_cells(cells: list[str], decimal: str) -> None:
    """One cell that can be read in one way only decides for the file."""
    assert recognise([pl.Series(cells)], comma_likely=False).decimal == decimal


def test_an_unclear_decimal_sign_is_said() -> None:
    """Where 1,234 may be two numbers, the delimiter decides and the user is told what was taken."""
    cells = [pl.Series(["1,234", "5,678"])]
    thousands, fraction = recognise(cells, comma_likely=False), recognise(cells, comma_likely=True)
    assert (thousands.decimal, fraction.decimal) == (".", ",")
    assert "taken as 1234" in str(thousands.said)
    assert "taken as 1.234" in str(fraction.said)


def test_a_column_with_a_broken_cell_still_holds_numbers() -> None:
    """Broken cells are shown later, so they must not hide the column."""
    assert is_number(pl.Series(["1", "x", "3"]))
    assert not is_number(pl.Series(["a", "b", "3"]))
    assert not is_number(pl.Series(["", None], dtype=pl.String))
    assert is_number(pl.Series([1, 2]))
