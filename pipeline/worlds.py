"""Worlds that share a past: the same prices with another future, one observation later, or known one too early.

A world is made twice over. As rows it goes through a price store of its own and `steps.load`, so that what happens
between the store and the models is part of it; there a garbage price must be one that a store and a transform take.
As a panel it can be poisoned in every way that a stream can be.

Legend: N series, T time.

Comes in: settings with a price store, or a panel. Goes out: rows, loaded data, panels. Imported by the audit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline import steps
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
        In `prices.SCHEMA`, one vintage of each price.
    covariates : DataFrame or None
        The same series and times; None where the store has none.
    series : DataFrame
        What is known of each series, in `prices.DESCRIPTION`.
    """

    prices: pl.DataFrame
    covariates: pl.DataFrame | None
    series: pl.DataFrame


def stored(config: Config) -> Rows:
    """Read the prices of the settings: at most `SERIES` series, and of each the last `OBSERVATIONS`."""
    store = PriceStore(config.folder / "prices")
    held = store.series().filter(~pl.col("series_id").is_in(config.leave_out))
    held = held.sort("rows", "series_id", descending=[True, False]).head(SERIES)
    names, known_at = held["series_id"].to_list(), config.known_at_time
    prices = store.read(names, known_at=known_at).group_by("series_id", maintain_order=True).tail(OBSERVATIONS)
    covariates = None
    if store.covariates.exists():
        both = set(names) & set(store.covariates.series()["series_id"])
        found = store.covariates.read(sorted(both), known_at=known_at) if both else None
        covariates = None if found is None else found.join(prices.select(KEY[:2]), on=KEY[:2], how="semi")
    return Rows(prices=prices.select(SCHEMA.names()), covariates=covariates, series=held.select(DESCRIPTION.names()))


def loaded(rows: Rows, config: Config) -> steps.Data:
    """Put rows into a price store of their own, and load them as a fit would."""
    with TemporaryDirectory(prefix="statecast-audit-") as folder:
        store = PriceStore(Path(folder) / "prices", buckets=1)
        store.write(rows.prices)
        if rows.covariates is not None:
            store.covariates.write(rows.covariates)
        store.describe(rows.series)
        return steps.load(replace(config, folder=Path(folder), leave_out=(), known_at=None))


def with_garbage(rows: Rows, moment: int) -> Rows:
    """Replace every value that is published at or after a moment (microseconds, UTC) by a positive garbage number.

    Values are wild in one half of the rows, a constant in the other; which are published, and when, stays.
    """

    def spoilt(frame: pl.DataFrame) -> pl.DataFrame:
        rng = np.random.default_rng(17)
        late = pl.col("available_time") >= _utc(moment)
        wild = np.where(rng.random(frame.height) < 0.5, 10 ** rng.uniform(-6, 6, frame.height), 7.0)
        values = [c for c in frame.columns if c not in KEY]
        garbage = pl.when(pl.col(values).is_null()).then(None).otherwise(pl.Series(wild))
        return frame.with_columns(pl.when(late).then(garbage).otherwise(pl.col(values)).name.keep())

    covariates = None if rows.covariates is None else spoilt(rows.covariates)
    return replace(rows, prices=spoilt(rows.prices), covariates=covariates)


def one_later(rows: Rows) -> Rows:
    """Begin every series with one more observation that is not published, so that its prices come one later.

    Nothing has become known by it: whatever is made from the prices must stay as it is, at the same times.
    """
    time = pl.col("time")
    spacing = time.diff().median().fill_null(pl.duration(days=1))
    first = rows.prices.group_by("series_id", maintain_order=True).agg(time.min() - spacing)
    hole = first.with_columns(available_time=time, price=pl.lit(None, pl.Float64)).select(rows.prices.columns)
    return replace(rows, prices=pl.concat([hole.cast(rows.prices.schema), rows.prices]).sort(KEY))


def spoilt(panel: Panel, moment: int, horizon: int) -> Panel:
    """Overwrite all that a panel holds at and after a moment (microseconds, UTC): prices, mask, elapsed, covariates.

    The next `horizon` observations keep their mask and take wild prices, so that the origins just before the moment
    have an outcome in both worlds; after them prices are wild, constant, poison (NaN, 0, -3, 1e40) or holes, and
    prices are published where there were holes. Times stay.
    """
    rng = np.random.default_rng(18)
    shape = panel.price.shape
    after = (panel.time >= moment) & (np.arange(shape[1]) < panel.length[:, None])
    near = after & (np.cumsum(after, axis=1) <= horizon)
    wild = 10 ** rng.uniform(-6, 6, shape)
    anything = rng.choice([np.nan, 0.0, -3.0, 1e40, 7.0], shape)
    price = np.where(near | (rng.random(shape) < 0.5), wild, anything)
    mask = np.where(near, panel.mask, rng.random(shape) < 0.8)
    changed = {
        name: np.where(_spread(after, x), rng.choice([np.nan, 1e6, -1e6, 0.5], x.shape).astype(x.dtype), x)
        for name, x in over_time(panel).items()
        if x.dtype.kind == "f"
    }
    now = np.where(after, mask, panel.mask)
    return replace(
        panel, **changed | {"price": np.where(now & after, price, np.where(now, panel.price, np.nan)), "mask": now}
    )


def one_early(panel: Panel) -> Panel:
    """Plant a leak: at every observation the panel shows the price of the next one."""

    def led(x: NDArray, last: object) -> NDArray:
        return np.concatenate([x[:, 1:], np.full_like(x[:, :1], last)], axis=1)

    inside = np.arange(panel.mask.shape[1]) < panel.length[:, None]
    mask = led(panel.mask, False) & inside
    return replace(panel, price=np.where(mask, led(panel.price, np.nan), np.nan), mask=mask)


def over_time(panel: Panel) -> dict[str, NDArray[Any]]:
    """Give the fields of a panel that have a value at each observation, [N, T, ...]."""
    held = {f.name: getattr(panel, f.name) for f in fields(panel)}
    shape = panel.mask.shape
    return {k: x for k, x in held.items() if isinstance(x, np.ndarray) and x.ndim > 1 and x.shape[:2] == shape}


def _spread(rows: NDArray[np.bool_], x: NDArray) -> NDArray[np.bool_]:
    return rows.reshape(rows.shape + (1,) * (x.ndim - 2))


def _utc(microseconds: int) -> pl.Expr:
    return pl.lit(datetime.fromtimestamp(0, UTC)) + pl.duration(microseconds=microseconds)
