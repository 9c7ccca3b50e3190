"""Which column is which."""

from __future__ import annotations

import polars as pl
import pytest

from models.errors import ConfigError, SchemaError
from pipeline.layout import Columns, Layout, lay_out

_CELLS = {
    "t": ["2019-01-02", "2019-01-03"],
    "n": ["1.5", "2.5"],
    "w": ["AAPL", "MSFT"],
    "i": ["0", "1"],
    "e": [None, None],
}


def _lay_out(header: dict[str, str], columns: Columns | None = None, *, named: bool = True) -> Layout:
    """Lay out columns of the kinds t time, n number, w word, i index, e empty, by their names."""
    frame = pl.DataFrame({f"c{i}": _CELLS[kind] for i, kind in enumerate(header.values())})
    return lay_out(list(header), frame, columns or Columns(), header=named, where="a.csv")


def test_columns_are_known_by_name_in_any_writing() -> None:
    """Case and punctuation do not matter."""
    layout = _lay_out({"Ticker": "w", "<OPEN>": "n", "<DATE>": "t", "As-Of": "t", "PX_LAST": "n"})
    assert (layout.series_id, layout.time, layout.available_time, layout.prices) == (0, (2,), 3, (4,))


def test_the_adjusted_close_is_preferred_and_said() -> None:
    """Of open, high, low and close the close is taken, of two closes the adjusted one."""
    bars = {"Date": "t", "Open": "n", "High": "n", "Low": "n", "Close": "n", "Volume": "n"}
    layout = _lay_out(bars)
    assert layout.prices == (4,)
    assert "price: column 'Close' (also numeric: Open, High, Low, Volume)" in layout.said
    assert _lay_out(bars | {"Adj Close": "n"}).prices == (6,)


def test_several_columns_of_numbers_are_a_wide_table() -> None:
    """Each is a series, one that begins later too; an index and words are left out, and it is said."""
    layout = _lay_out({"": "i", "date": "t", "AUD": "n", "NZD": "e", "SGD": "n", "note": "w"})
    assert layout.wide
    assert layout.prices == (2, 3, 4)
    assert any("3 series in columns AUD ... SGD" in words and "note" in words for words in layout.said)


def test_the_only_column_of_numbers_is_the_price() -> None:
    """A table of a time and a number needs no known name."""
    layout = _lay_out({"observation date": "t", "DCOILWTICO": "n"})
    assert (layout.time, layout.prices, layout.wide) == ((0,), (1,), False)


def test_a_date_and_a_clock_are_one_time() -> None:
    """The pair is known by its names, and may be named."""
    frame = pl.DataFrame({"c0": ["2019.01.02"], "c1": ["00:15"], "c2": ["1.5"]})
    for columns, names in ((Columns(), ["<DATE>", "<TIME>", "<CLOSE>"]), (Columns(time="a+b"), ["a", "b", "close"])):
        assert lay_out(names, frame, columns, header=True, where="a.csv").time == (0, 1)


def test_files_without_header_are_known_by_their_cells() -> None:
    """The first times, the first numbers and the words."""
    layout = _lay_out({"column_1": "w", "column_2": "t", "column_3": "n", "column_4": "n"}, named=False)
    assert (layout.series_id, layout.time, layout.prices, layout.wide) == (0, (1,), (2,), False)


@pytest.mark.parametrize(
    ("header", "role"),
    [
        ({"date": "t", "timestamp": "t", "price": "n"}, "time"),
        ({"date": "t", "price": "n", "close": "n"}, "price"),
        ({"date": "t", "symbol": "w", "asset": "w", "price": "n"}, "series_id"),
        ({"date": "t", "symbol": "w", "a": "n", "b": "n"}, "price"),
        ({"a": "n", "b": "n"}, "time"),
    ],
)
def test_a_guess_that_is_not_unique_is_refused(header: dict[str, str], role: str) -> None:
    """The message lists the columns and says how to name one."""
    with pytest.raises(SchemaError, match=rf"Name it: ingest\.columns\.{role} = "):
        _lay_out(header)


def test_a_vague_price_among_many_numbers_is_refused() -> None:
    """A stock called Y must not hide the others."""
    wide = {"date": "t", "A": "n", "AA": "n", "X": "n", "Y": "n"}
    with pytest.raises(SchemaError, match="layout = 'wide'"):
        _lay_out(wide)
    assert _lay_out(wide, Columns(layout="wide")).prices == (1, 2, 3, 4)
    assert _lay_out(wide, Columns(price="Y")).prices == (4,)


def test_a_missing_column_is_named_with_the_nearest() -> None:
    """The message gives the known columns."""
    with pytest.raises(SchemaError, match="did you mean 'price'"):
        _lay_out({"date": "t", "price": "n"}, Columns(price="pric"))


def test_a_column_name_that_comes_twice_cannot_be_named() -> None:
    """It would be unclear which is meant."""
    frame = pl.DataFrame({"c0": ["2019-01-01"], "c1": ["1"], "c2": ["2"]})
    with pytest.raises(SchemaError, match="names 2 columns"):
        lay_out(["date", "x", "x"], frame, Columns(price="x"), header=True, where="a.csv")


def test_ids_that_number_the_rows_are_no_series() -> None:
    """An id that never repeats is the number of a trade; one that does names a series."""
    assert _lay_out({"id": "i", "date": "t", "price": "n"}).series_id is None
    assert _lay_out({"id": "w", "date": "t", "price": "n"}).series_id == 0


def test_settings_that_contradict_each_other_are_refused() -> None:
    """A wide table has no column of prices, and further values may not take the names of ours."""
    for bad in ({"layout": "wide", "price": "x"}, {"layout": "broad"}, {"values": "volume"}, {"values": ("line",)}):
        with pytest.raises(ConfigError):
            Columns(**bad)
