"""Covariates as they were known at the origin: from the store beside a panel, aligned with its prices.

The one rule. A covariate of a time τ, seen from an origin, is the value of the latest time up to τ that was known when
the forecast was due, and of several vintages of this time the latest one known by then. So what was not known yet is
the latest known value carried forward, and no later vintage is ever seen. A forecast is due when the price of its
origin becomes known, or, with `due = "target"`, just before the next price does: of an auction the prices of a day are
known long before those of the next are asked for, and the forecasts of load and wind come between. A price becomes
known at the `available_time` of its *first* vintage: a price that is revised a year later is not forecast from what was
known a year later. Where nothing was known yet, the median of what the series had before the end of train stands in, or
that of all series where this one has none: no price is lost.

τ is the price's own time for `past` and the time of each target for `ahead`. Targets after the last price are the next
times at which the store has covariates of the series, where those stand beside its last prices, then further bars.

Beside blocks of M prices that are published together every covariate has a column a price, `load.00` to `load.23`: of
the block's own hours, or of those of the target block. The block is known when the last of its prices is.

Legend: N series, T time, M prices of one observation, S horizon steps, P and K columns, R vintages of one covariate of
one series.

Comes in: a panel and the store. Goes out: the panel with covariates, and a digest of them. Knows polars; imported by
steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, product
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import ConfigError, DataError, unknown
from pipeline.calendar_features import of_calendar
from pipeline.moves import known_ahead, known_beside
from pipeline.prices import KEY, PriceStore, digest
from pipeline.windows import Panel

Due = Literal["origin", "target"]

WHERE_FROM = "Ingest columns beside the price with ingest.columns.values, or the source epf"
"""What to do where a column is not there."""

_NEVER = np.iinfo(np.int64).min
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class _History:
    """All vintages of one covariate of one series, sorted by time, then by the moment at which they were known.

    Entry 0 stands for nothing known: it is before all times and known always.

    Attributes
    ----------
    time, available : int64 [1 + R]
        Microseconds since 1970, UTC.
    value : float32 [1 + R]
    earlier : int64 [1 + R]
        The last entry before each that was known before it; whatever lies between the two was not.
    """

    time: NDArray[np.int64]
    available: NDArray[np.int64]
    value: NDArray[np.float32]
    earlier: NDArray[np.int64]

    def at(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the entry of the latest time up to `time`, its last vintage, whenever that was known."""
        return np.searchsorted(self.time, time, side="right") - 1

    def known(self, entry: NDArray[np.int64], moment: NDArray[np.int64]) -> NDArray[np.float32]:
        """Go back from these entries to those known at these moments, and take their values."""
        entry = entry.copy()
        while (late := self.available[entry] > moment).any():
            entry[late] = self.earlier[entry[late]]
        return self.value[entry]


def with_covariates(
    panel: Panel,
    store: PriceStore,
    *,
    past: tuple[str, ...],
    ahead: tuple[str, ...],
    horizon: int,
    until: int,
    known_at: datetime | None = None,
    due: Due = "origin",
) -> tuple[Panel, str]:
    """Put covariates of the store beside the prices of a panel.

    Parameters
    ----------
    panel : Panel
        As built from the store.
    store : PriceStore
    past, ahead : tuple of str
        Columns of the store's covariates, and features of the calendar, which need no store; the panel has them in
        this order.
    horizon : int
        S, steps for which the covariates known ahead are given.
    until : int
        End of train, microseconds since 1970, UTC: what stands in where nothing was known is fitted before it.
    known_at : datetime, optional
        Moment after which nothing is read.
    due : {"origin", "target"}
        Whether a forecast is due when the price of its origin becomes known, or just before the next price does.

    Returns
    -------
    Panel
        `past[n, t]` is of the time of price t; `future[n, t, s]` is of the (s + 1)-th observation after t, and both
        were known when the forecast from t was due. Beside blocks there is a column for each price m, named
        `<covariate>.<m>`.
        Features of the calendar, one a block, are those of `moves.known_beside` and `known_ahead`.
    str
        sha256 of all vintages that were read; empty where none was.

    Raises
    ------
    ConfigError
        A name is neither a column of the store's covariates nor of the calendar; those that are, are listed.
    DataError
        A covariate has no value before the end of train in any series, or one that float32 does not hold.
    """
    held_past, held_ahead = (tuple(name for name in names if not of_calendar(name)) for names in (past, ahead))
    covered, sha256 = panel, ""
    if held_past or held_ahead:
        covered, sha256 = _of_store(panel, store, held_past, held_ahead, horizon, until, known_at, due)
    past, ahead = (_per_price(names, panel.block) for names in (past, ahead))
    covered = replace(
        covered,
        past_names=past,
        past=known_beside(covered, past),
        future_names=ahead,
        future=known_ahead(covered, ahead, horizon),
    )
    return covered, sha256


def _of_store(
    panel: Panel,
    store: PriceStore,
    past: tuple[str, ...],
    ahead: tuple[str, ...],
    horizon: int,
    until: int,
    known_at: datetime | None,
    due: Due,
) -> tuple[Panel, str]:
    """Put columns of the store beside the prices; the digest is of all their vintages."""
    wanted = tuple(dict.fromkeys((*past, *ahead)))
    rows = _vintages(panel, store, wanted, known_at)
    parts = {str(name): part for (name,), part in rows.partition_by("series_id", as_dict=True).items()}
    histories = {name: _histories(name, panel.names, parts, rows, until) for name in wanted}
    moment = _moments(panel, store)
    moment = _before_the_next(moment, panel.length) if due == "target" else moment
    times = [_times(parts[name]) if name in parts else np.empty(0, np.int64) for name in panel.names]
    covered = replace(
        panel,
        past_names=_per_price(past, panel.block),
        past=_past(panel, moment, [histories[name] for name in past]),
        future_names=_per_price(ahead, panel.block),
        future=_future(panel, moment, times, horizon, [histories[name] for name in ahead]),
    )
    return covered, digest(rows, wanted)


def _per_price(names: tuple[str, ...], block: int) -> tuple[str, ...]:
    """Name the columns of covariates beside blocks, price by price; features of the calendar stand once."""
    if block == 1:
        return names
    wide = ([name] if of_calendar(name) else [f"{name}.{m:02}" for m in range(block)] for name in names)
    return tuple(chain.from_iterable(wide))


def columns(store: PriceStore) -> list[str]:
    """Name the columns that the store holds beside its prices."""
    held = store.covariates
    return [c for c in held.scan().collect_schema().names() if c not in KEY] if held.exists() else []


def _vintages(panel: Panel, store: PriceStore, wanted: tuple[str, ...], known_at: datetime | None) -> pl.DataFrame:
    """Read every vintage of the panel's series, sorted by `KEY`."""
    held, known = store.covariates, columns(store)
    for name in wanted:
        if name not in known:
            raise ConfigError(f"past, ahead: {unknown('covariate', name, known)}. {WHERE_FROM}")
    rows = held.vintages(sorted(set(panel.names).intersection(held.series()["series_id"]))).select(*KEY, *wanted)
    return rows if known_at is None else rows.filter(pl.col("available_time") <= known_at)


def exactly(panel: Panel, store: PriceStore, name: str, *, known_at: datetime | None = None) -> NDArray[np.float64]:
    """Give a covariate at the very times of single prices, in its latest vintage, [N, T]; NaN where it has no value.

    Nothing is carried forward: it is for what moments are called, which is said of them and of no later one.

    Raises
    ------
    ConfigError
        The store has no such column.
    """
    rows = _vintages(panel, store, (name,), known_at).filter(pl.col(name).is_not_null())
    latest = rows.unique(("series_id", "time"), keep="last", maintain_order=True)
    value = np.full(panel.time.shape, np.nan)
    for (series,), part in latest.partition_by("series_id", as_dict=True, maintain_order=True).items():
        n, time = panel.names.index(str(series)), _times(part)
        own = panel.time[n, : panel.length[n]]
        place = np.searchsorted(time, own).clip(max=len(time) - 1)
        told = time[place] == own
        value[n, : len(own)][told] = part[name].cast(pl.Float64).to_numpy()[place[told]]
    return value


def _histories(
    covariate: str, names: tuple[str, ...], parts: dict[str, pl.DataFrame], rows: pl.DataFrame, until: int
) -> list[_History]:
    """Sort one covariate by series; entry 0 has what stands in where nothing was known."""
    _refuse_beyond(rows, covariate)
    median = _median(rows, covariate, until)
    if median is None:
        raise DataError(
            f"covariate {covariate!r} has no value before the end of train in any series. Ingest its history, or take "
            "it out of past and ahead"
        )
    histories = []
    for name in names:
        part = parts.get(name, rows.clear()).filter(pl.col(covariate).is_not_null())
        own = _median(part, covariate, until)
        available = np.concatenate(([_NEVER], part["available_time"].to_physical().to_numpy()))
        value = np.concatenate(([median if own is None else own], part[covariate].to_numpy()))
        histories.append(
            _History(
                time=np.concatenate(([_NEVER], _times(part))),
                available=available,
                value=value.astype(np.float32),
                earlier=_earlier(available),
            )
        )
    return histories


def _refuse_beyond(rows: pl.DataFrame, covariate: str) -> None:
    """Refuse numbers that would become infinite in float32: what was ingested as a number is no poison."""
    beyond = rows.filter(pl.col(covariate).abs().is_between(_LARGEST, float("inf"), closed="none"))
    if len(beyond):
        first = beyond.row(0, named=True)
        raise DataError(
            f"covariate {covariate!r}: expected values up to {_LARGEST:.2g}, the largest of float32, got {len(beyond)} "
            f"beyond, first {first['series_id']} at {first['time'].isoformat()} = {first[covariate]:g}. Ingest it in a "
            "larger unit into a new data folder, or take it out of past and ahead"
        )


def _median(rows: pl.DataFrame, covariate: str, until: int) -> float | None:
    """Give the median of what was known before a moment; None where nothing was."""
    return rows.filter(pl.col("available_time").to_physical() < until)[covariate].median()  # type: ignore[return-value]


def _times(rows: pl.DataFrame) -> NDArray[np.int64]:
    return rows["time"].to_physical().to_numpy()


def _earlier(available: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find for each entry the last one before it with a smaller moment, by jumping over those that are not smaller.

    All entries between one and its pointer are known no sooner than itself: this stays true when a pointer takes over
    that of the entry to which it points.
    """
    pointer = np.maximum(np.arange(len(available)) - 1, 0)
    while (on := (available[pointer] >= available) & (pointer > 0)).any():
        pointer[on] = pointer[pointer[on]]
    return pointer


def _moments(panel: Panel, store: PriceStore) -> NDArray[np.int64]:
    """Give the moment [N, T] at which the first vintage of each price was known; padding has the last one.

    Of a block it is the latest of those of its prices; an hour without a row says nothing.
    """
    first = store.prices.vintages(panel.names).unique(("series_id", "time"), keep="first", maintain_order=True)
    moment = np.empty_like(panel.time)
    parts = first.partition_by("series_id", as_dict=True)
    for row, name in enumerate(panel.names):
        part, wanted = parts[(name,)], panel.price_time[row]
        time, available = _times(part), part["available_time"].to_physical().to_numpy()
        place = np.minimum(np.searchsorted(time, wanted), len(time) - 1)
        moment[row] = np.where(time[place] == wanted, available[place], _NEVER).max(axis=1)
    return moment


def _before_the_next(moment: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the moment [N, T] just before the next price is known; after the last price that is a usual spacing on."""
    later = moment.copy()
    later[:, :-1] = moment[:, 1:] - 1
    for row, count in enumerate(length):
        usual = int(np.median(np.diff(moment[row, :count]))) if count > 1 else 1
        later[row, count - 1 :] = moment[row, count - 1] + max(usual, 1) - 1
    return np.maximum(later, moment)


def _past(panel: Panel, moment: NDArray[np.int64], histories: list[list[_History]]) -> NDArray[np.float32]:
    """Give [N, T, P]: for each price the covariate of its own time."""
    past = np.empty((*panel.time.shape, len(histories) * panel.block), np.float32)
    for column, (history, m) in enumerate(product(histories, range(panel.block))):
        for n, one in enumerate(history):
            past[n, :, column] = one.known(one.at(panel.price_time[n, :, m]), moment[n])
    return past


def _future(
    panel: Panel,
    moment: NDArray[np.int64],
    times: list[NDArray[np.int64]],
    horizon: int,
    histories: list[list[_History]],
) -> NDArray[np.float32]:
    """Give [N, T, S, K]: for each origin the covariate of each target, a view where all was known in time."""
    series, time, block = panel.price.shape
    final = np.empty((series, time + horizon - 1, len(histories) * block), np.float32)
    late: dict[tuple[int, int], NDArray[np.float32]] = {}
    for n in range(series):
        target = _targets(panel, n, times[n], horizon)
        for column, (history, m) in enumerate(product(histories, range(block))):
            entry = history[n].at(target[:, m])
            final[n, :, column] = history[n].value[entry]
            at_target = np.lib.stride_tricks.sliding_window_view(entry, horizon)
            if (history[n].available[at_target] > moment[n][:, None])[: panel.length[n]].any():
                late[n, column] = history[n].known(at_target, moment[n][:, None])
    # torch warns of views that cannot be written
    future = np.lib.stride_tricks.sliding_window_view(final, horizon, axis=1, writeable=True).swapaxes(2, 3)
    if late:
        future = future.copy()
    for (n, column), known in late.items():
        future[n, :, :, column] = known
    return future


def _targets(panel: Panel, n: int, beside: NDArray[np.int64], horizon: int) -> NDArray[np.int64]:
    """Give the times [T + S - 1, M] of the observations after the first, those to come included.

    The targets of origin t are the elements t to t + S - 1. Blocks to come follow a bar after another.
    """
    own = panel.price_time[n, : panel.length[n]]
    later = own[:0]
    if panel.block == 1 and np.isin(own[-horizon:], beside).all():
        later = np.unique(beside[beside > own[-1]])[:horizon, None]
    known = np.concatenate((own, later))
    missing = panel.time.shape[1] + horizon - len(known)
    return np.concatenate((known, known[-1] + panel.bar[n] * np.arange(1, missing + 1)[:, None]))[1:]
