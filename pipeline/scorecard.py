"""How the forecasts that a stream has given out hold against the prices that have come to the store since.

The stream scores its own forecasts as their outcomes come (`live.py`), in a journal that only it may open. This is what
can be seen from outside while it runs, and by the published prices, revisions included.

Legend: n outcomes, Q quantile levels.

Comes in: the file of forecasts as JSON lines, and the price store. Goes out: a row for each version that served.
Imported by the flows.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.errors import DataError
from models.observation import LEVELS, MEDIAN
from pipeline.prices import PriceStore
from pipeline.quantile_scores import quantile_crps
from pipeline.rows import UTC_TIME

TAIL_BYTES = 64 * 2**20
"""How much of the end of the file is read."""

_LINE = pl.Schema(
    {
        "series": pl.String,
        "origin_time": pl.String,
        "sequence": pl.Int64,
        "model": pl.String,
        "version": pl.Int64,
        "quantiles": pl.List(pl.List(pl.Float64)),
    }
)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How the forecasts of the next price of one version hold.

    Attributes
    ----------
    model : str
    version : int
        Under which it was published.
    outcomes : int
        Forecasts whose outcome is known.
    first, last : str
        Origins of the first and last of them, UTC.
    rcrps, rmae : float
        CRPS and absolute error of the median as shares of the absolute error of the last value, each series by itself
        and then averaged by its outcomes; below 1 is better than the last value.
    coverage_50, coverage_80, coverage_95 : float
        Shares of outcomes inside the central intervals.
    """

    model: str
    version: int
    outcomes: int
    first: str
    last: str
    rcrps: float
    rmae: float
    coverage_50: float
    coverage_80: float
    coverage_95: float


def scorecard(forecasts: Path, store: PriceStore) -> list[Scored]:
    """Score the forecasts of the next price in the end of a file, which may be growing, by version.

    The outcome of a forecast is the first price of its series in the store after its origin. A forecast whose origin
    is not in the store, or has no price after it, is left out.

    Raises
    ------
    DataError
        The file does not hold forecasts of single prices.
    """
    given = _given(forecasts)
    met = given.join(_outcomes(store, given), on=["series", "time"], how="inner")
    if met.is_empty():
        return []
    quantile = np.array(met["quantile"].to_list(), dtype=np.float64)
    outcome, before = met["outcome"].to_numpy(), met["price"].to_numpy()
    inside = {f"coverage_{share}": _inside(quantile, outcome, (1 - share / 100) / 2) for share in (50, 80, 95)}
    scores = met.select("series", "model", "version", "time").with_columns(
        crps=quantile_crps(outcome, quantile),
        error=np.abs(outcome - quantile[:, MEDIAN]),
        naive=np.abs(outcome - before),
        **inside,
    )
    return [Scored(**row) for row in _by_version(scores).iter_rows(named=True)]


def _given(path: Path) -> pl.DataFrame:
    """Read the last whole lines: series, time of the origin, model, version, quantiles of the next price."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        text = file.read(TAIL_BYTES)
    if size > TAIL_BYTES:
        text = text.partition(b"\n")[2]
    whole = text[: text.rfind(b"\n") + 1]
    try:
        lines = pl.read_ndjson(io.BytesIO(whole), schema=_LINE) if whole else _LINE.to_frame()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: expected forecasts of single prices, as `statecast stream --out` writes them ({error}). Blocks "
            "of prices are scored by the stream itself"
        ) from error
    time = pl.col("origin_time").str.to_datetime("%+", time_unit="us", time_zone="UTC").cast(UTC_TIME)
    rows = lines.sort("sequence").unique(["series", "origin_time", "version"], keep="last")
    return rows.select(
        "series", "model", "version", time.alias("time"), pl.col("quantiles").list.first().alias("quantile")
    )


def _outcomes(store: PriceStore, given: pl.DataFrame) -> pl.DataFrame:
    """Give for each price of the store the one after it, as they were published."""
    held = set(store.series()["series_id"])
    names = [name for name in given["series"].unique(maintain_order=True) if name in held]
    if not names:
        return pl.DataFrame(schema={"series": pl.String, "time": UTC_TIME, "price": pl.Float64, "outcome": pl.Float64})
    first = given["time"].min()
    prices = store.read(names, start=first, adjusted=False).drop_nulls("price")  # pyright: ignore[reportArgumentType]
    after = pl.col("price").shift(-1).over("series_id").alias("outcome")
    return prices.select(pl.col("series_id").alias("series"), "time", "price", after).drop_nulls("outcome")


def _inside(quantile: np.ndarray, outcome: np.ndarray, tail: float) -> np.ndarray:
    low, high = (int(np.argmin(np.abs(np.array(LEVELS) - level))) for level in (tail, 1 - tail))
    return (quantile[:, low] <= outcome) & (outcome <= quantile[:, high])


def _by_version(scores: pl.DataFrame) -> pl.DataFrame:
    """Average over outcomes; shares of the last value's error first within each series, whose unit is its own."""
    shares = [
        (pl.col(of).sum() / pl.col("naive").sum()).alias(name) for name, of in (("rcrps", "crps"), ("rmae", "error"))
    ]
    covered = [pl.col(f"coverage_{share}").mean() for share in (50, 80, 95)]
    bounds = [pl.len().alias("outcomes"), pl.col("time").min().alias("first"), pl.col("time").max().alias("last")]
    of_series = scores.group_by("model", "version", "series").agg(*bounds, *shares, *covered)
    names = ("rcrps", "rmae", "coverage_50", "coverage_80", "coverage_95")
    weighted = [((pl.col(n) * pl.col("outcomes")).sum() / pl.col("outcomes").sum()).alias(n) for n in names]
    whole = of_series.sort("series").group_by("model", "version", maintain_order=True)
    shown = whole.agg(*weighted, pl.col("outcomes").sum(), pl.col("first").min(), pl.col("last").max())
    return shown.sort("version").with_columns(pl.col("first", "last").dt.strftime("%Y-%m-%d %H:%M:%S"))
