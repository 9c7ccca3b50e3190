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


def _long(words: list[str], name: str = "Region", series_id: str | None = None) -> Layout:
    """Lay out a long table of times, prices and words."""
    times = [f"2019-01-{i + 2:02d}" for i in range(len(words))]
    frame = pl.DataFrame({"c0": times, "c1": words, "c2": [f"{i}.5" for i in range(len(words))]})
    return lay_out(["date", name, "price"], frame, Columns(series_id=series_id), header=True, where="a.csv")


def test_words_that_may_name_series_are_asked_for() -> None:
    """Two series are never merged in silence: the message shows the words and both ways out."""
    with pytest.raises(
        SchemaError, match=r"'Region' holds words \(NP, PJM\) .*series_id = 'Region', or .*series_id = ''"
    ):
        _long(["NP", "PJM", "NP"])
    assert _long(["NP", "PJM", "NP"], series_id="Region").series_id == 1
    alone = _long(["NP", "PJM", "NP"], series_id="")
    assert alone.series_id is None
    assert "not used: Region" in alone.said


def test_a_file_that_is_said_to_be_one_series_is_no_wide_table() -> None:
    """Nor is a column of it taken for the series by its name."""
    assert _lay_out({"symbol": "w", "date": "t", "price": "n"}, Columns(series_id="")).series_id is None
    with pytest.raises(SchemaError, match="price may be any of 'A', 'B'"):
        _lay_out({"date": "t", "A": "n", "B": "n"}, Columns(series_id=""))


@pytest.mark.parametrize(
    "words",
    [
        ["NP", "NP", "NP"],
        ["x1", "x2", "x3"],
        ["buy", "sell", "buy"],
        ["True", "False", "True"],
        ["0.25%", "-1.5%", "0.25%"],
        ["1.25M", "2M", "2M"],
        ["", "", "holiday", "strike", "strike", "", "", ""],
    ],
)
def test_words_that_name_no_series_are_not_asked_for(words: list[str]) -> None:
    """Constants, labels of single rows, sides of trades, quantities and rare notes."""
    assert _long(words).series_id is None


@pytest.mark.parametrize("words", [["A", "B", "A"], ["3M", "6M", "3M"], ["NO", "SE", "NO"]])
def test_short_names_of_series_do_not_pass_for_sides_or_quantities(words: list[str]) -> None:
    """Letters, tenors and countries are asked for."""
    with pytest.raises(SchemaError, match="holds words"):
        _long(words)


def test_more_names_of_series_are_known() -> None:
    """Those that may only describe a series give way to a symbol."""
    for name in ("sym", "ISIN", "RIC", "Code", "Name", "Area", "Zone", "Market", "Gebiet"):
        assert _long(["NP", "PJM", "NP"], name).series_id == 1
    assert _lay_out({"name": "w", "symbol": "w", "date": "t", "price": "n"}).series_id == 1


@pytest.mark.parametrize(
    "header",
    [
        "Datum Zuletzt Eröffn. Hoch Tief",
        "Datum Schluss Eröffnung Hoch Tief",
        "Date Dernier Ouv. Plus_haut Plus_bas",
        "Data Ultimo Apertura Massimo Minimo",
        "Fecha Último Apertura Máximo Mínimo",
        "Fecha Cierre Apertura Máximo Mínimo",
        "Datum Kurs",
        "Datum Preis",
        "Date Cours",
        "Data Prezzo",
        "Fecha Precio",
    ],
)
def test_bars_in_other_languages_are_no_wide_table(header: str) -> None:
    """The price is the close, and the rest stands beside it."""
    time, price, *rest = header.split()
    names = {time: "t", price: "n"} | {name.replace("_", " "): "n" for name in rest} | {"Vol.": "w", "+/- %": "w"}
    layout = _lay_out(names)
    assert (layout.time, layout.prices, layout.wide) == ((0,), (1,), False)


@pytest.mark.parametrize("name", ["Stunde", "Hour", "Heure", "Ora", "Hora"])
def test_the_hour_beside_a_date_is_not_lost(name: str) -> None:
    """A clock joins the date; a number of an hour is refused, named or not, for it may be from 0 or from 1."""
    names = ["Datum", name, "Preis"]
    frame = pl.DataFrame({"c0": ["2019-01-02"] * 2, "c1": ["01:00", "02:00"], "c2": ["1.5", "2.5"]})
    assert lay_out(names, frame, Columns(), header=True, where="a.csv").time == (0, 1)
    numbered = frame.with_columns(pl.Series("c1", ["1", "24"]))
    for columns in (Columns(), Columns(time=f"Datum+{name}")):
        with pytest.raises(SchemaError, match="Join them into one column of times"):
            lay_out(names, numbered, columns, header=True, where="a.csv")
    whole = numbered.with_columns(pl.col("c0") + " 01:00")
    assert lay_out(names, whole, Columns(price="Preis"), header=True, where="a.csv").time == (0,)


def _bare(rows: list[str]) -> Layout:
    """Lay out rows without a header."""
    frame = pl.DataFrame(
        [row.split(",") for row in rows], [f"c{i}" for i in range(rows[0].count(",") + 1)], orient="row"
    )
    names = [f"column_{i + 1}" for i in range(frame.width)]
    return lay_out(names, frame, Columns(), header=False, where="a.csv")


def test_bars_without_header_are_known_by_their_order() -> None:
    """The price is their close, and it is said; numbers that are not so ordered in every row are no bars."""
    bars = _bare(["2019.01.02,00:15,1.1,1.4,1.0,1.3,70", "2019.01.02,00:30,1.3,1.3,1.1,1.2,80"])
    assert (bars.time, bars.prices) == ((0, 1), (5,))
    assert "bars: columns 'column_3' to 'column_6' are open, high, low, close" in bars.said
    assert _bare(["2019.01.02,1.1,1.4,1.0,1.3", "2019.01.03,1.3,1.2,1.1,1.2"]).prices == (1,)


def test_columns_that_count_rows_are_no_times_and_no_prices() -> None:
    """The numbers of trades may be as large as epochs; a file without header holds them first."""
    rows = [f"{1577836800 + i},{7 + i % 2}.5,0.1,{1577836800000 + 700 * i * i},buy" for i in range(9)]
    layout = _bare(rows)
    assert (layout.time, layout.prices, layout.series_id) == ((3,), (1,), None)
