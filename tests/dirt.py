"""Clean rows as they would be read, and known faults put into them; for the tests of faults, calendars and bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.rows import ORDER, READ

MONDAY = datetime(2020, 1, 6, tzinfo=UTC)


def times(number: int, *, step: timedelta = timedelta(days=1), start: datetime = MONDAY) -> list[datetime]:
    """Give moments one step apart; days are working days."""
    if step < timedelta(days=1):
        return [start + k * step for k in range(number)]
    return [start + timedelta(days=7 * (k // 5) + k % 5) for k in range(number)]


def walk(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Draw prices from 100 whose moves are of about 1 %, none of them large."""
    return 100 * np.exp(np.cumsum(0.01 * np.clip(rng.standard_normal(number), -3, 3)))


def rows(series: dict[str, tuple[list[datetime], NDArray[np.float64]]]) -> pl.DataFrame:
    """Make rows as read from one file, series after series."""
    parts = [pl.DataFrame({"series_id": name, "time": time, "price": price}) for name, (time, price) in series.items()]
    return read(pl.concat(parts))


def read(frame: pl.DataFrame) -> pl.DataFrame:
    """Give rows, in their order, the columns of rows as read; those that there are stay."""
    absent = {name: pl.lit(None, dtype=kind) for name, kind in READ.items() if name not in frame.columns}
    numbered = frame.with_columns(**absent).with_columns(
        file=pl.lit(0, dtype=pl.UInt32),
        line=pl.int_range(2, pl.len() + 2),
        fold=pl.col("fold").fill_null(pl.duration()),
    )
    typed = numbered.with_columns((pl.col("line") - 2).alias(ORDER)).cast({"time": READ["time"]})
    return typed.select(*READ, ORDER, *[c for c in frame.columns if c not in (*READ, ORDER)])


def market(seed: int, *, series: int = 4, number: int = 300) -> pl.DataFrame:
    """Make clean daily rows of some series."""
    rng = np.random.default_rng(seed)
    return rows({f"S{k}": (times(number), walk(rng, number)) for k in range(series)})


def dirty(clean: pl.DataFrame, seed: int, number: int = 5) -> tuple[pl.DataFrame, dict[str, int]]:
    """Put `number` of each fault of single rows into clean ones; give what is read, and the counts."""
    rng = np.random.default_rng(seed)
    name = clean["series_id"].to_numpy()
    inner = np.flatnonzero(np.append(name[1:] == name[:-1], False) & (np.arange(clean.height) % 5 == 2))
    at = rng.choice(inner, (5, number), replace=False)
    place = np.arange(clean.height, dtype=float)
    place[at[0]], place[at[0] + 1] = place[at[0] + 1], place[at[0]]
    parts = [
        clean.with_columns(place=place),
        clean[at[1]].with_columns(place=at[1] + 0.1),
        clean[at[2]].with_columns(place=at[2] - 0.1, price=pl.col("price") * 1.001),
        clean[at[3]].with_columns(place=at[3] + 0.1, price=pl.lit(None, dtype=pl.Float64)),
        clean[at[4]].with_columns(
            place=at[4] + 0.1, price=pl.lit(None, dtype=pl.Float64), unreadable=pl.lit("price 'a'")
        ),
    ]
    counts = {"disorder": number, "duplicate": number, "conflict": 2 * number, "null": number, "unreadable": number}
    return read(pl.concat(parts, how="vertical_relaxed").sort("place").drop("place")), counts
