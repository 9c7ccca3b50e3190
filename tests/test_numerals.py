"""Numbers as they are written in files."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SchemaError
from pipeline.numerals import Decimal, Numerals, is_number, missing, no_number, number, recognise


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
        ("1250,40 EUR", ",", 1250.4),
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
    "text",
    [
        "abc",
        "1,23",
        "0,123",
        "1.2.3",
        "12 34",
        "1e",
        "--1",
        "5%",
        "1.2504K",
        "5EUR",
        "5 eur",
        "EUR",
        "0x10",
        "1_000",
        "1,234,56",
    ],
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
    assert recognise([pl.Series(cells)], where="a.csv", comma_likely=False).decimal == decimal


@pytest.mark.parametrize("comma_likely", [False, True])
@pytest.mark.parametrize("cells", [["1,250", "5,678"], ["12,345", "300"], ["1,250", "7.125"]])
def test_a_comma_that_may_be_a_thousand_is_asked_for(cells: list[str], comma_likely: bool) -> None:
    """Where 1,250 may be two numbers, nothing is taken, whatever the delimiter."""
    with pytest.raises(SchemaError, match=r"a\.csv: numbers like .* ingest\.format\.decimal = '\.' or ','"):
        recognise([pl.Series(cells)], where="a.csv", comma_likely=comma_likely)


def test_a_dot_before_three_digits_is_a_decimal_point() -> None:
    """It is plain, but said in a file that hints at decimal commas."""
    cells = [pl.Series(["1.250", "5.678"])]
    plain, said = (recognise(cells, where="a.csv", comma_likely=likely) for likely in (False, True))
    assert (plain.decimal, plain.said, said.decimal) == (".", None, ".")
    assert "taken as 1.25" in str(said.said)


@pytest.mark.parametrize("cells", [["1.2504K", "1.3M"], ["12.50%"], ["1.5K", "100"], ["1,5 x"]])
def test_cells_that_are_no_numbers_do_not_tell_the_decimal_sign(cells: list[str]) -> None:
    """They are shown as unreadable later, and no reason to fail."""
    assert recognise([pl.Series(cells)], where="a.csv", comma_likely=False) == Numerals(decimal=".")


def test_a_column_without_any_number_shows_its_first_cell() -> None:
    """One number is enough, and so is nothing at all."""
    assert no_number(pl.Series(["", "1.2504K", "x"])) == "1.2504K"
    for cells in (["x", "1,5"], ["", None], [1.5]):
        assert no_number(pl.Series(cells, dtype=pl.Float64 if cells == [1.5] else pl.String)) is None


def test_a_column_with_a_broken_cell_still_holds_numbers() -> None:
    """Broken cells are shown later, so they must not hide the column."""
    assert is_number(pl.Series(["1", "x", "3"]))
    assert not is_number(pl.Series(["a", "b", "3"]))
    assert not is_number(pl.Series(["", None], dtype=pl.String))
    assert is_number(pl.Series([1, 2]))
