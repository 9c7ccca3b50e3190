"""The electricity benchmark is read as published, and nothing is known before its hour."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.errors import DataError, SchemaError
from pipeline.epf import read

HEADERS = {
    "NP": "Date, Price, Grid load forecast, Wind power forecast",
    "PJM": "Date, Zonal COMED price, System load forecast, Zonal COMED load foecast",
}
FIRST = datetime(2013, 1, 1)
Line = tuple[str, str, str, str]


def lines(days: int = 5, seed: int = 0) -> list[Line]:
    """Draw hours as they stand in a file: negative prices among them."""
    values = np.random.default_rng(seed).normal(20, 30, (24 * days, 3)).round(3)
    hours = [str(FIRST + timedelta(hours=h)) for h in range(24 * days)]
    return [(hour, *map(repr, map(float, row))) for hour, row in zip(hours, values, strict=True)]


def write(path: Path, rows: list[Line], market: str = "NP") -> Path:
    """Write a market's file in the published form."""
    path.write_text("\n".join([HEADERS[market], *map(",".join, rows)]) + "\n")
    return path


def test_a_published_file_is_read_to_the_last_digit(tmp_path: Path) -> None:
    """Prices, negative ones too, and both covariates stand at their hour under the market's name."""
    rows = lines()
    got = read(write(tmp_path / "NP.csv", rows))
    assert got.prices.columns == ["series_id", "time", "available_time", "price"]
    assert got.covariates.columns == ["series_id", "time", "available_time", "exog_1", "exog_2"]
    assert got.prices["price"].to_list() == [float(row[1]) for row in rows]
    assert got.prices["price"].min() < 0
    assert got.covariates["exog_2"].to_list() == [float(row[3]) for row in rows]
    assert got.prices["time"].to_list() == [datetime.fromisoformat(row[0]).replace(tzinfo=UTC) for row in rows]
    assert got.prices["series_id"].unique().to_list() == ["NP"]
    assert got.said[0] == "NP.csv: price is 'Price', exog_1 'Grid load forecast', exog_2 'Wind power forecast'"


def test_covariates_of_a_day_are_known_before_its_prices_and_after_those_of_the_day_before(tmp_path: Path) -> None:
    """At 11:00 of D - 1 the covariates of D and the prices of D - 1 are there, and nothing later of either."""
    got = read(write(tmp_path / "NP.csv", lines()))
    moment = datetime(2013, 1, 3, 11, tzinfo=UTC)
    for frame, last in ((got.prices, date(2013, 1, 3)), (got.covariates, date(2013, 1, 4))):
        known = frame.filter(pl.col("available_time") <= moment)
        assert known["time"].dt.date().max() == last
        assert known.height == 24 * last.day


def test_a_folder_holds_a_market_a_file(tmp_path: Path) -> None:
    """Markets are told by the files' names, whatever their headers; what is no table is passed over."""
    write(tmp_path / "PJM.csv", lines(seed=1), "PJM")
    write(tmp_path / "NP.csv", lines())
    (tmp_path / "notes.txt").write_text("no table")
    got = read(tmp_path)
    assert got.prices["series_id"].unique(maintain_order=True).to_list() == ["NP", "PJM"]
    assert got.prices.height == got.covariates.height == 2 * 5 * 24
    assert any("PJM.csv: price is 'Zonal COMED price'" in words for words in got.said)


def test_the_long_form_gives_the_same(tmp_path: Path) -> None:
    """A Parquet file with a row for each market and hour equals the published files."""
    folder = tmp_path / "csv"
    folder.mkdir()
    parts = []
    for seed, market in enumerate(("PJM", "NP")):
        rows = lines(seed=seed)
        write(folder / f"{market}.csv", rows, market)
        values = {name: [float(r[i]) for r in rows] for i, name in enumerate(("price", "exog_1", "exog_2"), 1)}
        hours = [datetime.fromisoformat(r[0]) for r in rows]
        parts.append(pl.DataFrame({"series_id": [market] * len(rows), "timestamp": hours} | values))
    pl.concat(parts).write_parquet(tmp_path / "long.parquet")
    one, two = read(folder), read(tmp_path / "long.parquet")
    assert one.prices.equals(two.prices)
    assert one.covariates.equals(two.covariates)


def test_missing_hours_and_values_are_said_with_their_line(tmp_path: Path) -> None:
    """A day of 23 hours and an absent day stay as they are; an empty cell is a null."""
    rows = lines()
    rows[30] = (rows[30][0], "", *rows[30][2:])
    rows = rows[:50] + rows[51:72] + rows[96:]
    got = read(write(tmp_path / "NP.csv", rows))
    said = " ".join(got.said)
    assert "1 days have fewer than 24 hours and 1 are absent, the first before line 52 (2013-01-03 03:00:00)" in said
    assert "1 values of price are missing, the first at line 32" in said
    assert got.prices["price"].null_count() == 1
    assert got.prices.height == 5 * 24 - 25


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (lambda r: [*r[:40], r[39], *r[40:]], 42, "each once and in order"),
        (lambda r: [*r[:40], r[41], r[40], *r[42:]], 43, "each once and in order"),
        (lambda r: [*r[:7], ("2013-01-01 07:30:00", *r[7][1:]), *r[8:]], 9, "full hours"),
    ],
    ids=["repeated", "out of order", "half past"],
)
def test_hours_that_cannot_be_are_refused_with_their_line(tmp_path, change, line, words) -> None:
    """An hour twice, an hour after a later one, and a half hour are not hours of the benchmark."""
    with pytest.raises(DataError, match=rf"NP.csv \(NP\) line {line}: expected.*{words}"):
        read(write(tmp_path / "NP.csv", change(lines())))


@pytest.mark.parametrize(
    ("place", "cell", "expected"),
    [(0, "01/02/2013 00:00", "an hour such as"), (0, "", "an hour"), (1, "12,5x", "a number"), (3, "inf", "a number")],
)
def test_cells_that_cannot_be_read_are_named_with_their_line(tmp_path, place, cell, expected) -> None:
    """The message has the file, the line, what was expected and what came."""
    rows = lines()
    changed = list(rows[9])
    changed[place] = f'"{cell}"'
    rows[9] = tuple(changed)
    with pytest.raises(SchemaError, match=rf"NP.csv line 11: expected {expected}"):
        read(write(tmp_path / "NP.csv", rows))


def test_other_tables_and_places_are_refused(tmp_path: Path) -> None:
    """Another number of columns, a Parquet file without ours, a market twice, no file and no hours."""
    other = tmp_path / "other.csv"
    other.write_text("Date,Price\n2013-01-01 00:00:00,1\n")
    with pytest.raises(SchemaError, match=r"expected four columns.*got Date, Price"):
        read(other)
    pl.DataFrame({"series": ["NP"], "timestamp": [FIRST]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(SchemaError, match="unknown column 'series_id': did you mean 'series'"):
        read(tmp_path / "x.parquet")
    both = tmp_path / "both"
    both.mkdir()
    write(both / "NP.csv", lines())
    frame = {"series_id": ["NP"], "timestamp": [FIRST], "price": [1.0], "exog_1": [1.0], "exog_2": [1.0]}
    pl.DataFrame(frame).write_parquet(both / "a.parquet")
    with pytest.raises(DataError, match="market NP was read from another file"):
        read(both)
    with pytest.raises(DataError, match=r"expected a \.csv or \.parquet file"):
        read(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="expected hours of a market, got none"):
        read(write(tmp_path / "NP.csv", []))
