"""Worlds that share a past: the same prices with another future, one observation later, or known one too early.

A world is made twice over. As rows it goes through a price store of its own and `steps.load`, so that what happens
between the store and the models is part of it; there a garbage price must be one that a store and a transform take.
As a panel it can be poisoned in every way that a stream can be.

Legend: N series, T time, M prices of one observation.

Comes in: settings with a price store, or a panel. Goes out: rows, loaded data, panels. Imported by the audit.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline import steps
from pipeline.clock import utc
from pipeline.config import Config
from pipeline.prices import DESCRIPTION, KEY, SCHEMA, PriceStore
from pipeline.windows import Panel

SERIES = 4
"""Most series of a world: those with the most prices."""

OBSERVATIONS = 3000
"""Most observations of a series in a world: its last ones."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A part of a price store.

    Attributes
    ----------
    prices : DataFrame
        In `prices.SCHEMA`: each price as it is known now, with the moment at which its first vintage was known.
    covariates : DataFrame or None
        All vintages of the same series from the first price on; None where the store has none.
    series : DataFrame
        What is known of each series, in `prices.DESCRIPTION`.
    """

    prices: pl.DataFrame
    covariates: pl.DataFrame | None
    series: pl.DataFrame


def stored(config: Config) -> Rows:
    """Read the prices of the settings: at most `SERIES` series, and of each the last `OBSERVATIONS`."""
    store = PriceStore(config.prices)
    held = store.series().filter(~pl.col("series_id").is_in(config.leave_out))
    held = held.sort("rows", "series_id", descending=[True, False]).head(SERIES)
    names = held["series_id"].to_list()
    first = store.prices.vintages(names).unique(KEY[:2], keep="first", maintain_order=True)
    known = store.read(names, known_at=config.known_at_time).drop("available_time")
    prices = known.join(first.select(KEY), on=KEY[:2], maintain_order="left").select(SCHEMA.names())
    prices = prices.group_by("series_id", maintain_order=True).tail(OBSERVATIONS * config.block)
    return Rows(prices=prices, covariates=_covariates(store, prices), series=held.select(DESCRIPTION.names()))


def _covariates(store: PriceStore, prices: pl.DataFrame) -> pl.DataFrame | None:
    """Read the vintages of the covariates from the first price of each series on."""
    if not store.covariates.exists():
        return None
    start = prices.group_by("series_id").agg(start=pl.col("time").min())
    names = set(store.covariates.series()["series_id"]) & set(start["series_id"])
    rows = store.covariates.vintages(sorted(names)).join(start, on="series_id", maintain_order="left")
    return rows.filter(pl.col("time") >= pl.col("start")).drop("start")


def loaded(rows: Rows, config: Config) -> steps.Data:
    """Put rows into a price store of their own, and load them as a fit would."""
    with tempfile.TemporaryDirectory(prefix="statecast-audit-") as folder:
        store = PriceStore(Path(folder) / "prices", buckets=1)
        store.write(rows.prices)
        if rows.covariates is not None:
            store.covariates.write(rows.covariates)
        store.describe(rows.series)
        return steps.load(replace(config, folder=Path(folder), home=None, series=("*",), leave_out=(), known_at=None))


def with_garbage(rows: Rows, moment: int) -> Rows:
    """Give everything from a moment on (microseconds, UTC) to positive garbage; which values there are stays.

    That is every price of that time or later, and every covariate that became known when none of the prices before
    the moment were forecast from any more. Half of the values are wild, half are one constant.
    """
    cut = pl.lit(utc(moment))
    late = pl.col("time") >= cut
    served = rows.prices.filter(~late)["available_time"].max()
    unknown = (pl.col("available_time") >= cut) & (pl.col("available_time") > served)
    covariates = None if rows.covariates is None else _garbage(rows.covariates, unknown)
    return replace(rows, prices=_garbage(rows.prices, late), covariates=covariates)


def _garbage(frame: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    rng = np.random.default_rng(17)
    wild = pl.Series(np.where(rng.random(frame.height) < 0.5, 10 ** rng.uniform(-6, 6, frame.height), 7.0))
    values = pl.col([c for c in frame.columns if c not in KEY])
    return frame.with_columns(pl.when(where & values.is_not_null()).then(wild).otherwise(values).name.keep())


def one_later(rows: Rows) -> Rows:
    """Begin every series with one more observation that is not published, so that its prices come one later.

    Nothing has become known by it: whatever is made from the prices must stay as it is, at the same times.
    """
    time = pl.col("time")
    spacing = time.diff().median().fill_null(pl.duration(days=1))
    first = rows.prices.group_by("series_id", maintain_order=True).agg(time.min() - spacing)
    hole = first.with_columns(available_time=time, price=pl.lit(None, pl.Float64)).select(rows.prices.columns)
    return replace(rows, prices=pl.concat([hole.cast(rows.prices.schema), rows.prices]).sort(KEY))


def wild(panel: Panel, moment: int) -> Panel:
    """Overwrite all that was published at and after a moment (microseconds, UTC), mask and times as they are.

    Prices are wild or one constant, elapsed times and covariates any number: nothing that a model would hold, so that
    the same steps are taken in both worlds and the past is equal to the bit.
    """
    rng = np.random.default_rng(18)
    after, shape = _after(panel, moment), panel.price.shape
    price = np.where(rng.random(shape) < 0.5, 10 ** rng.uniform(-6, 6, shape), 7.0)
    changed = {
        name: np.where(_spread(after, x), 10 ** rng.uniform(-3, 3, x.shape), x).astype(x.dtype)
        for name, x in over_time(panel).items()
        if x.dtype.kind == "f"
    }
    return replace(panel, **changed | {"price": np.where(_spread(after, price) & panel.mask, price, panel.price)})


def holed(panel: Panel, moment: int, horizon: int) -> Panel:
    """Riddle a future as in `wild` with holes and poison, and publish prices where there were holes.

    The next `horizon` observations keep their mask, so that the origins just before the moment have the same outcomes
    known. After them a fifth of the prices are holes, and of the others a third NaN, 0, -3 or 1e40.
    """
    rng = np.random.default_rng(19)
    future, shape = wild(panel, moment), panel.price.shape
    after = _after(panel, moment)
    later = _spread(after & (np.cumsum(after, axis=1) > horizon), panel.price)
    mask = np.where(later, rng.random(shape) < 0.8, panel.mask)
    poison = later & (rng.random(shape) < 1 / 3)
    price = np.where(poison, rng.choice([np.nan, 0.0, -3.0, 1e40], shape), future.price)
    price = np.where(later & mask & np.isnan(panel.price) & ~poison, 7.0, price)
    elapsed = np.where(later[..., 0] & (rng.random(shape[:2]) < 0.1), np.float32("nan"), future.elapsed)
    return replace(future, price=np.where(mask, price, np.nan), mask=mask, elapsed=elapsed)


def _after(panel: Panel, moment: int) -> NDArray[np.bool_]:
    return (panel.time >= moment) & (np.arange(panel.time.shape[1]) < panel.length[:, None])


def one_early(panel: Panel) -> Panel:
    """Plant a leak: at every observation the panel shows the price of the next one."""

    def led(x: NDArray, last: object) -> NDArray:
        return np.concatenate([x[:, 1:], np.full_like(x[:, :1], last)], axis=1)

    inside = np.arange(panel.mask.shape[1]) < panel.length[:, None]
    mask = led(panel.mask, False) & inside[..., None]
    return replace(panel, price=np.where(mask, led(panel.price, np.nan), np.nan), mask=mask)


def over_time(panel: Panel) -> dict[str, NDArray[Any]]:
    """Give the fields of a panel that have a value at each observation, [N, T, ...]."""
    held = {f.name: getattr(panel, f.name) for f in fields(panel)}
    shape = panel.time.shape
    return {k: x for k, x in held.items() if isinstance(x, np.ndarray) and x.ndim > 1 and x.shape[:2] == shape}


def _spread(rows: NDArray[np.bool_], x: NDArray) -> NDArray[np.bool_]:
    return rows.reshape(rows.shape + (1,) * (x.ndim - 2))
