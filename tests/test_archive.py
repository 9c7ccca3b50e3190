"""Forecasts come back from disk as they were, and the table is one that others can read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from simulated import HOUR, START, forecast_returns, stretch_steps

from models.errors import DataError
from models.observation import LEVELS
from pipeline.archive import QUANTILES, UTC_TIME, blocks, holds, load, to_frame, writing
from pipeline.forecasts import Forecasts


def forecasts(**changes: object) -> Forecasts:
    """Make two steps of three series, an infinite and an absent df among them."""
    returns = np.random.default_rng(1).normal(scale=0.01, size=(3, 20))
    f = stretch_steps(forecast_returns("gru", returns, scale=0.01, df=5.0, names=("b", "a", "ü/x")), 2)
    df = f.df.copy()
    df[:3], df[3:6] = np.inf, np.nan
    arrays = {x.name: getattr(f, x.name) for x in fields(f)} | {"df": df} | changes
    return Forecasts(**arrays)


def save(rows: Forecasts, folder: Path, *, fold: int = 0) -> None:
    """Write the rows as one block of a fold."""
    with writing(folder, fold) as write:
        write(rows)


def same_bits(a: Forecasts, b: Forecasts) -> None:
    """Expect every array to have the same bits and number type."""
    for x in fields(Forecasts):
        if isinstance(getattr(b, x.name), np.ndarray):
            assert getattr(a, x.name).dtype == getattr(b, x.name).dtype, x.name
            assert getattr(a, x.name).tobytes() == getattr(b, x.name).tobytes(), x.name


def test_forecasts_come_back_as_they_were(tmp_path: Path) -> None:
    """Every array has the same bits, number type and order, names keep their order, NaN and infinity stay."""
    before = forecasts()
    save(before, tmp_path / "folder" / "gru")
    after = load(tmp_path / "folder" / "gru")
    assert (after.model, after.names) == ("gru", ("b", "a", "ü/x"))
    same_bits(after, before)


def test_folds_and_blocks_are_one_table(tmp_path: Path) -> None:
    """Rows dealt by time to two folds of two blocks come back sorted by series; a block of none is a block."""
    whole = forecasts()
    early, block = whole.origin_time < START + 12 * HOUR, whole.origin_time < START + 5 * HOUR
    with writing(tmp_path, 0) as write:
        write(whole.where(block))
        write(whole.where(early & ~block))
    with writing(tmp_path, 1) as write:
        write(whole.where(early & ~early))
        write(whole.where(~early))
    same_bits(load(tmp_path), whole)
    none, late = blocks(tmp_path, 1)
    assert (len(none), none.model, none.names) == (0, "gru", whole.names)
    same_bits(late, whole.where(~early))


def test_a_series_without_rows_is_left_out(tmp_path: Path) -> None:
    """The names of a table are those that occur, in their order, and the rows point to them."""
    save(forecasts().where(forecasts().series != 1), tmp_path)
    after = load(tmp_path)
    assert after.names == ("b", "ü/x")
    assert set(after.series) == {0, 1}


def test_the_table_has_a_column_for_each_thing() -> None:
    """Names, UTC times, prices, one column a quantile level, and the density stand in the table, row by row."""
    f = forecasts()
    frame = to_frame(f)
    assert frame.columns[:5] == ["model", "series", "origin_time", "target_time", "step"]
    assert QUANTILES[0] == "q0.01"
    assert QUANTILES[5] == "q0.5"
    assert len(QUANTILES) == len(LEVELS)
    assert frame["median"].equals(frame["q0.5"].rename("median"))
    assert frame["origin_time"].dtype == UTC_TIME
    row = frame.row(41, named=True)
    assert row["series"] == f.names[f.series[41]] == "a"
    assert row["origin_time"].timestamp() * 1e6 == f.origin_time[41] == START
    assert row["q0.975"] == f.quantile[41, LEVELS.index(0.975)]
    assert (row["step"], row["actual"], row["loc"]) == (2, f.actual[41], f.loc[41])


def test_a_crash_leaves_whole_folds(tmp_path: Path) -> None:
    """A fold whose writing fails is not there, those before it are, and it can be written again."""
    save(forecasts(), tmp_path)
    with pytest.raises(pl.exceptions.PolarsError), writing(tmp_path, 1) as write:
        write(forecasts(loc=np.zeros(7)))
    assert (holds(tmp_path, 0), holds(tmp_path, 1)) == (True, False)
    same_bits(load(tmp_path), forecasts())
    with writing(tmp_path, 1) as write:
        write(forecasts(names=("b", "a", "ü/x")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold=0000", "fold=0001"]


@pytest.mark.parametrize("content", [None, b"", b"not parquet"], ids=["missing", "empty", "damaged"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """The message names the folder and the step that writes it."""
    part = tmp_path / "gru" / "fold=0000" / "part-00000.parquet"
    if content is not None:
        part.parent.mkdir(parents=True)
        part.write_bytes(content)
    with pytest.raises(DataError, match=r"gru: expected a table of forecasts.*Run `statecast backtest`"):
        load(tmp_path / "gru")


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    """A table without the columns, or without rows, is none of forecasts."""
    part = tmp_path / "fold=0000" / "part-00000.parquet"
    part.parent.mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(part)
    with pytest.raises(DataError, match="expected a table of forecasts"):
        load(tmp_path)
    to_frame(forecasts()).clear().write_parquet(part)
    with pytest.raises(DataError, match="expected a table of forecasts"):
        load(tmp_path)
