"""Bars: ticks merged into one row for each stretch of time, number of ticks or volume.

Comes in: rows of ticks, sorted. Goes out: rows in the same columns, one a bar. Imported by faults.

The time of a bar is its end, the moment from which it is known, so nothing in it is from later. A time bar is of the
ticks from its start up to, not including, its end. Ticks of equal time stamps stay together, in the order read, so the
time of a bar is unique; a bar of ticks or volume may therefore hold more than was asked for. The last bar of a series
is dropped unless it is known to be finished: a time bar is once a tick of a later bar has come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import polars as pl

from models.errors import ConfigError, SchemaError, unknown
from pipeline.rows import ORDER, READ

_EVERY = re.compile(r"[1-9]\d*[smhdw]")
SUMMED = ("volume", "amount", "qty", "quantity", "size", "quote_qty", "quote_volume", "base_volume", "count", "trades")
"""Names of columns that are added up in a bar, as is the column of volumes; of others the last value is taken."""
_BAR, _SO_FAR = "_bar", "_so_far"
_ROUNDING = 1e-9
"""Share of a bar by which a sum of volumes may miss it through rounding."""


@dataclass(frozen=True, kw_only=True)
class BarConfig:
    """Which bars to make of ticks: exactly one of `every`, `ticks` and `volume` is given.

    Attributes
    ----------
    every : str or None
        Length of a time bar: a number and s, m, h, d or w, such as "1m", "15m", "1h", "1d" or "1w". Bars begin at
        whole multiples, UTC; weeks on Monday.
    ticks : int or None
        Ticks in a bar, at least 1.
    volume : float or None
        Volume in a bar, above 0.
    price : {"close", "open", "high", "low", "mean", "vwap"}
        What of the ticks is the price of a bar; vwap is their mean weighted by volume.
    empty : {"null", "skip", "carry"}
        A time bar without a tick: a known hole, no row, or the last price with volume 0.
    volume_column : str
        Name of the column of volumes.
    """

    every: str | None = None
    ticks: int | None = None
    volume: float | None = None
    price: Literal["close", "open", "high", "low", "mean", "vwap"] = "close"
    empty: Literal["null", "skip", "carry"] = "null"
    volume_column: str = "volume"

    def __post_init__(self) -> None:
        if sum(size is not None for size in (self.every, self.ticks, self.volume)) != 1:
            raise ConfigError("bars need exactly one of every, ticks and volume, such as every = '1m'")
        if self.every is not None and not _EVERY.fullmatch(self.every):
            raise ConfigError(f"every must be a number and s, m, h, d or w, such as '15m', not {self.every!r}")
        if min(self.ticks or 1, self.volume or 1) <= 0 or self.ticks == 0 or self.volume == 0:
            raise ConfigError(f"ticks and volume must be above 0, not {self.ticks or self.volume}")
        for name in ("price", "empty"):
            choices = get_args(get_type_hints(BarConfig)[name])
            if getattr(self, name) not in choices:
                raise ConfigError(unknown(f"{name} of bars", getattr(self, name), choices))

    @property
    def grid(self) -> str:
        """Say which bars these are, such as "15m bars, close, empty: null"."""
        size = self.every or (f"{self.ticks}-tick" if self.ticks else f"{self.volume:g}-volume")
        return f"{size} bars, {self.price}" + (f", empty: {self.empty}" if self.every else "")


@dataclass(frozen=True, kw_only=True)
class Barred:
    """Bars, and what became of the ticks.

    Attributes
    ----------
    rows : DataFrame
        Columns of the ticks, sorted by (series_id, time), which is unique; file, line and order are those of the last
        tick of the bar and null for an empty one. The volume is the sum, other values are the last.
    merged : int
        Ticks in finished bars less the bars they made, beside the empty ones.
    incomplete : int
        Ticks in last bars that were dropped.
    """

    rows: pl.DataFrame
    merged: int
    incomplete: int


def bars(rows: pl.DataFrame, config: BarConfig) -> Barred:
    """Merge ticks into bars; rows without a price are left out.

    Parameters
    ----------
    rows : DataFrame
        Columns of `rows.READ`, `rows.ORDER` and values, sorted by (series_id, time, order).
    config : BarConfig
        Which bars to make.

    Raises
    ------
    SchemaError
        If volumes are needed and there is no such column.
    """
    if (config.volume or config.price == "vwap") and config.volume_column not in rows.columns:
        raise SchemaError(
            f"bars by volume: {unknown('column', config.volume_column, rows.columns)}. Name the column of volumes: "
            "ingest.bars.volume_column"
        )
    ticks = rows.filter(pl.col("price").is_not_null())
    marked = _by_time(ticks, config.every) if config.every else _by_amount(ticks, config)
    whole = marked.filter("_whole")
    made = _merged(whole, config)
    merged = whole.height - made.height
    if config.every and config.empty != "skip":
        made = _filled(made, config.every, config)
    return Barred(rows=made.select(rows.columns), merged=merged, incomplete=ticks.height - whole.height)


def _by_time(ticks: pl.DataFrame, every: str) -> pl.DataFrame:
    """Name the bar of each tick by its end; the last of a series is not known to be whole."""
    end = (pl.col("time").dt.truncate(every).dt.offset_by(every)).alias(_BAR)
    return ticks.with_columns(end).with_columns((pl.col(_BAR) < pl.col(_BAR).max().over("series_id")).alias("_whole"))


def _by_amount(ticks: pl.DataFrame, config: BarConfig) -> pl.DataFrame:
    """Count the bar of each tick by the amount before its moment; it is whole once that amount is reached."""
    size = config.ticks or config.volume
    one = pl.lit(1.0) if config.ticks else pl.col(config.volume_column).fill_null(0.0).clip(0.0)
    moment = (
        ticks.with_columns(one.alias("_one"))
        .group_by("series_id", "time", maintain_order=True)
        .agg(pl.col("_one").sum())
    )
    so_far = pl.col("_one").cum_sum().over("series_id").alias(_SO_FAR)
    moment = moment.with_columns(so_far).with_columns(
        (((pl.col(_SO_FAR) - pl.col("_one")) / size + _ROUNDING).floor()).alias(_BAR)
    )
    whole = pl.col(_SO_FAR).max().over("series_id", _BAR) / size + _ROUNDING >= pl.col(_BAR) + 1
    moment = moment.with_columns(whole.alias("_whole")).drop("_one", _SO_FAR)
    return ticks.join(moment, on=["series_id", "time"], how="left", maintain_order="left")


def _merged(ticks: pl.DataFrame, config: BarConfig) -> pl.DataFrame:
    """Make one row of the ticks of each bar."""
    price, volume = pl.col("price"), pl.col(config.volume_column)
    kinds = {
        "close": price.last(),
        "open": price.first(),
        "high": price.max(),
        "low": price.min(),
        "mean": price.mean(),
    }
    if config.price == "vwap":
        kinds["vwap"] = pl.when(volume.sum() > 0).then((price * volume).sum() / volume.sum()).otherwise(price.mean())
    summed = [c for c in ticks.columns if c in (config.volume_column, *SUMMED)]
    values = [c for c in ticks.columns if c not in {*READ, ORDER, _BAR, "_whole", *summed}]
    time = pl.col(_BAR).first() if config.every else pl.col("time").last()
    known = pl.col("available_time").max()
    return ticks.group_by("series_id", _BAR, maintain_order=True).agg(
        pl.col("file", "line", ORDER, *values).last(),
        pl.col(summed).sum(),
        kinds[config.price].alias("price"),
        time.alias("time"),
        pl.when(known.is_not_null()).then(pl.max_horizontal(known, time)).alias("available_time"),
        pl.lit(0, dtype=pl.Duration("us")).alias("fold"),
        pl.lit(None, dtype=pl.String).alias("unreadable"),
    )


def _filled(made: pl.DataFrame, every: str, config: BarConfig) -> pl.DataFrame:
    """Put in the time bars without a tick between the first and the last one of each series."""
    time = pl.col("time")
    ends = pl.datetime_range(time.min(), time.max(), interval=every).alias("time")
    grid = made.group_by("series_id", maintain_order=True).agg(ends).explode("time")
    rows = grid.join(made, on=["series_id", "time"], how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("fold").fill_null(pl.duration()))
    if config.empty == "null":
        return rows
    volume = [pl.col(c).fill_null(0.0) for c in made.columns if c in (config.volume_column, *SUMMED)]
    return rows.with_columns(pl.col("price").forward_fill().over("series_id"), *volume)
