"""Forecasts come back from disk as they were, and the table is one that others can read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from simulated import START, forecast_returns, stretch_steps

from models.errors import DataError
from models.observation import LEVELS
from pipeline.archive import QUANTILES, UTC_TIME, load, save, to_frame
from pipeline.forecasts import Forecasts


def forecasts(**changes: object) -> Forecasts:
    """Make two steps of three series, an infinite and an absent df among them."""
    returns = np.random.default_rng(1).normal(scale=0.01, size=(3, 20))
    f = stretch_steps(forecast_returns("gru", returns, scale=0.01, df=5.0, names=("b", "a", "ü/x")), 2)
    df = f.df.copy()
    df[:3], df[3:6] = np.inf, np.nan
    arrays = {x.name: getattr(f, x.name) for x in fields(f)} | {"df": df} | changes
    return Forecasts(**arrays)


def test_forecasts_come_back_as_they_were(tmp_path: Path) -> None:
    """Every array has the same bits, number type and order, names keep their order, NaN and infinity stay."""
    before = forecasts()
    save(before, tmp_path / "folder" / "gru.parquet")
    after = load(tmp_path / "folder" / "gru.parquet")
    assert (after.model, after.names) == ("gru", ("b", "a", "ü/x"))
    for x in fields(Forecasts):
        a, b = getattr(after, x.name), getattr(before, x.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, x.name
            assert a.tobytes() == b.tobytes(), x.name


def test_the_table_has_a_column_for_each_thing() -> None:
    """Names, UTC times, prices, one column a quantile level, and the density stand in the table, row by row."""
    f = forecasts()
    frame = to_frame(f)
    assert frame.columns[:5] == ["model", "series", "origin_time", "target_time", "step"]
    assert QUANTILES[0] == "q0.01"
    assert QUANTILES[5] == "q0.5"
    assert len(QUANTILES) == len(LEVELS)
    assert frame["origin_time"].dtype == UTC_TIME
    row = frame.row(41, named=True)
    assert row["series"] == f.names[f.series[41]] == "a"
    assert row["origin_time"].timestamp() * 1e6 == f.origin_time[41] == START
    assert row["q0.975"] == f.quantile[41, LEVELS.index(0.975)]
    assert (row["step"], row["actual"], row["loc"]) == (2, f.actual[41], f.loc[41])


def test_a_later_save_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    """Saving again leaves one file with the newer rows."""
    save(forecasts(), tmp_path / "gru.parquet")
    save(forecasts(model="lstm"), tmp_path / "gru.parquet")
    assert load(tmp_path / "gru.parquet").model == "lstm"
    assert [p.name for p in tmp_path.iterdir()] == ["gru.parquet"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Columns of different length cannot be written, and the file stays byte for byte."""
    path = tmp_path / "gru.parquet"
    save(forecasts(), path)
    before = path.read_bytes()
    with pytest.raises(pl.exceptions.PolarsError):
        save(forecasts(loc=np.zeros(7)), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"not parquet"], ids=["missing", "empty", "damaged"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """The message names the file and the step that writes it."""
    path = tmp_path / "gru.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"gru\.parquet: expected a table of forecasts.*Run `statecast backtest`"):
        load(path)


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    """A table without the columns, or without rows, is none of forecasts."""
    path = tmp_path / "gru.parquet"
    pl.DataFrame({"x": [1]}).write_parquet(path)
    with pytest.raises(DataError, match="expected a table of forecasts"):
        load(path)
    to_frame(forecasts()).clear().write_parquet(path)
    with pytest.raises(DataError, match="expected a table of forecasts"):
        load(path)
