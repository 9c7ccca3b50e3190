"""Panels, splits and lanes: prices of many series as aligned arrays, cut without leaking the future.

Comes in: long sorted arrays of prices. Goes out: a `Panel`, a `Split` of it into train, validation and test by
calendar time, and `Lanes` for truncated back-propagation through time. Knows numpy only, so that it runs where
training runs; imported by training, backtest and the forecasters' fitting.

Prices that are published together, such as the 24 hours of a day-ahead auction, are one observation: a block of M
prices. Blocks are whole days of the market's clock, or equal parts of them. An hour that a day does not have (clocks go
forward) is a price that was not published; the second of two hours of one name (they go back) is left out, and counted.

Legend: N series, T time (index of an observation within its series), M prices of one observation, B lanes, L longest
lane, R rows as they come, O observations of all series.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import ConfigError, DataError, unknown

Part = Literal["train", "validation", "test"]

DAY = 86_400_000_000
"""Microseconds of a day."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Prices of N series, left-aligned: index 0 is where each series truly begins, rows end in padding.

    Attributes
    ----------
    names : tuple of str
        Names of the series, in the order of the rows.
    time : int64 [N, T]
        Microseconds since 1970, UTC; increasing: of the first price of each block. Padding repeats the last time of the
        series.
    price_time : int64 [N, T, M]
        Time of each price, published or not; `time` where M is 1. Padding repeats the last block.
    price : float64 [N, T, M]
        Prices in the unit of the series; NaN in holes and padding.
    mask : bool [N, T, M]
        True where a price was published; False in holes and padding.
    elapsed : float32 [N, T]
        Time since the previous published observation, in bars: 1 where nothing is missing, at and before
        the first published observation, and in padding.
    bar : int64 [N]
        Median spacing of the observations in microseconds (the lower one of two; 1 for a single observation).
    length : int64 [N]
        Observations, holes included: row n is padding from `length[n]` on.
    dropped : int
        Prices that were left out because their hour came twice in one day.
    past_names, future_names : tuple of str
        Names of the covariates, P and K of them. Of a column beside blocks there is one a price: `load.00`, `load.01`.
    past : float32 [N, T, P], or empty where P is 0
        Covariates of the price's own time, as known when the price was. In padding they mean nothing.
    future : float32 [N, T, S, K], or empty where K is 0
        Covariates of the targets: [n, t, s] is of the (s + 1)-th observation after t, as known when price t was; it
        may be a view without memory of its own. In padding they mean nothing.
    """

    names: tuple[str, ...]
    time: NDArray[np.int64]
    price_time: NDArray[np.int64]
    price: NDArray[np.float64]
    mask: NDArray[np.bool_]
    elapsed: NDArray[np.float32]
    bar: NDArray[np.int64]
    length: NDArray[np.int64]
    dropped: int = 0
    past_names: tuple[str, ...] = ()
    past: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))
    future_names: tuple[str, ...] = ()
    future: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.float32))

    @property
    def block(self) -> int:
        """M, prices of one observation."""
        return self.price.shape[2]

    @property
    def published(self) -> NDArray[np.bool_]:
        """True where any price of an observation was published; bool [N, T]."""
        return np.asarray(self.mask.any(axis=2))

    @property
    def grid(self) -> str:
        """Name of the bar grid, such as 1d, 1h or 15m: the median spacing of most series; else `tick`."""
        spacing = int(np.median(self.bar))
        units = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
        for unit, seconds in units.items():
            count, rest = divmod(spacing, seconds * 1_000_000)
            if count and not rest and (self.bar == spacing).mean() > 0.5:
                return f"{count}{unit}"
        return "tick"

    @property
    def grid_bar(self) -> NDArray[np.int64]:
        """A bar of each series in microseconds, [N]: that of the grid, as a served file counts; without one its own."""
        return self.bar if self.grid == "tick" else np.full_like(self.bar, np.median(self.bar))

    def before(self, time: int) -> Panel:
        """Cut off everything at and after a moment (microseconds, UTC); padding is as in a panel built so.

        Covariates known ahead stay with their origin, also where the target lies after the cut: they were known.

        Raises
        ------
        DataError
            If a series has no observation before it.
        """
        inside = (np.arange(self.time.shape[1]) < self.length[:, None]) & (self.time < time)
        length = inside.sum(axis=1)
        if not length.all():
            none = [name for name, count in zip(self.names, length, strict=True) if not count]
            raise DataError(
                f"{len(none)} of {len(self.names)} series have no observation before {_utc(time)}: {none[:20]}. Leave "
                "them out (leave_out in the settings), or make the parts of the split after it smaller"
            )
        inside = inside[:, : length.max()]
        shape = np.s_[:, : length.max()]
        last = (np.arange(len(length))[:, None], length[:, None] - 1)
        return Panel(
            names=self.names,
            time=np.where(inside, self.time[shape], self.time[last]),
            price_time=np.where(inside[..., None], self.price_time[shape], self.price_time[last]),
            price=np.where(inside[..., None], self.price[shape], np.nan),
            mask=inside[..., None] & self.mask[shape],
            elapsed=np.where(inside, self.elapsed[shape], np.float32(1)),
            bar=self.bar,
            length=length,
            dropped=self.dropped,
            past_names=self.past_names,
            past=self.past[shape],
            future_names=self.future_names,
            future=self.future[shape],
        )


def panel(
    series_id: ArrayLike, time: ArrayLike, price: ArrayLike, *, block: int = 1, clock: ArrayLike | None = None
) -> Panel:
    """Build a panel from long arrays.

    Parameters
    ----------
    series_id : str [R]
        Name of the series of each row. The rows of a series are together.
    time : int64 [R]
        Microseconds since 1970, UTC; strictly increasing within a series.
    price : float64 [R]
        Prices; a value that is not finite is a hole.
    block : int, 1 or more
        M, prices of one observation: consecutive ones of the series' own spacing, counted from midnight.
    clock : int64 [R], optional
        What the clock of the market shows at `time`, microseconds since 1970 without a zone: by it days begin. UTC by
        default.

    Raises
    ------
    DataError
        If the arrays have not one axis of one length, there are no rows, a series occurs in two places, or times do not
        increase; if blocks do not divide the day, or the prices of a series do not stand at equal distances.
    """
    series_id, time = np.asarray(series_id), np.asarray(time, np.int64)
    price = np.asarray(price, np.float64)
    clock = time if clock is None else np.asarray(clock, np.int64)
    _refuse_shapes(series_id=series_id, time=time, price=price, clock=clock)
    start = _starts(series_id, time)
    names = tuple(str(name) for name in series_id[start])
    dropped, time_OM, price_OM = 0, time[:, None], price[:, None]
    if block > 1:
        ends = np.append(start[1:], len(time))
        parts = [
            _blocks(name, time[a:b], price[a:b], clock[a:b], block)
            for name, a, b in zip(names, start, ends, strict=True)
        ]
        time_OM, price_OM = (np.concatenate([part[k] for part in parts]) for k in range(2))
        count, dropped = np.array([len(part[0]) for part in parts]), sum(part[2] for part in parts)
        start = np.cumsum(count) - count

    length = np.diff(start, append=len(time_OM))
    column = np.arange(length.max())
    row = np.minimum(start[:, None] + column, (start + length - 1)[:, None])
    valid = column < length[:, None]
    time_NTM = time_OM[row]
    mask = valid[..., None] & np.isfinite(price_OM)[row]
    bar = _bars(time_NTM[..., 0], length)
    return Panel(
        names=names,
        time=time_NTM[..., 0],
        price_time=time_NTM,
        price=np.where(mask, price_OM[row], np.nan),
        mask=mask,
        elapsed=_elapsed(time_NTM[..., 0], mask.any(axis=2), valid, bar),
        bar=bar,
        length=length,
        dropped=dropped,
    )


def _refuse_shapes(**arrays: NDArray[Any]) -> None:
    """Refuse arrays that are not one value a row each."""
    if len({x.shape for x in arrays.values()}) > 1 or arrays["time"].ndim != 1:
        came = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items())
        raise DataError(
            f"a panel needs arrays [R] of one length, a value a row; came {came}. Give a row for each price"
        )


def _starts(series_id: NDArray[Any], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the row at which each series begins, and check the order of the rows."""
    if not len(time):
        raise DataError(
            "a panel needs prices, but there are no rows. Ingest prices, or leave fewer series out (leave_out in the "
            "settings)"
        )
    change = np.concatenate(([True], series_id[1:] != series_id[:-1]))
    backward = np.flatnonzero(~change[1:] & (np.diff(time) <= 0)) + 1
    if len(backward):
        r = int(backward[0])
        raise DataError(
            f"times must increase within a series: row {r} of {series_id[r]} is at {_utc(int(time[r]))} after"
            f" {_utc(int(time[r - 1]))}. Sort the rows and settle duplicates (ingest does)."
        )
    start = np.flatnonzero(change)
    names, count = np.unique(series_id[start], return_counts=True)
    if (count > 1).any():
        raise DataError(f"series {names[count > 1][0]} occurs in {count.max()} places: sort rows by series, time")
    return start


def _blocks(
    name: str, time: NDArray[np.int64], price: NDArray[np.float64], clock: NDArray[np.int64], block: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Lay the rows of one series out as blocks: times and prices [O, M], and how many rows were left out.

    A price that is not there is NaN, at the time that it would have; of two at one place the first one is taken.
    """
    spacing = _spacing(name, time, clock, block)
    place, row = np.unique(clock // spacing, return_index=True)
    _, first, of = np.unique(place // block, return_index=True, return_inverse=True)
    begin = time[row[first]] - place[first] % block * spacing
    time_OM = begin[:, None] + spacing * np.arange(block)
    price_OM = np.full(time_OM.shape, np.nan)
    time_OM[of, place % block], price_OM[of, place % block] = time[row], price[row]
    return time_OM, price_OM, len(time) - len(row)


def _spacing(name: str, time: NDArray[np.int64], clock: NDArray[np.int64], block: int) -> int:
    """Give the spacing of the prices of one series, by which a block must be a day or an equal part of one."""
    if len(time) < 2:
        raise DataError(f"blocks of {block} prices: expected several prices of {name}, got one. Leave the series out")
    spacing = int(np.sort(np.diff(time))[(len(time) - 2) // 2])
    every = np.timedelta64(spacing, "us").item()
    if DAY % (block * spacing):
        raise DataError(
            f"blocks of {block} prices: expected that they make a day or an equal part of one, but those of {name} "
            f"come every {every}. Set block to the prices of a day: 24 of hours, 96 of quarters of an hour"
        )
    if (uneven := clock % spacing != clock[0] % spacing).any():
        row = int(uneven.argmax())
        raise DataError(
            f"blocks of {block} prices: expected those of {name} every {every} from {_utc(int(time[0]))} on, got one "
            f"at {_utc(int(time[row]))}. Ingest them as bars of equal length, or set block to 1"
        )
    return spacing


def _bars(time: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute the lower median spacing [N] of times [N, T]; padding has spacing 0 and sorts first."""
    if time.shape[1] == 1:
        return np.ones(len(time), np.int64)
    spacing = np.sort(np.diff(time, axis=1), axis=1)
    middle = spacing.shape[1] - 1 - (length - 1) // 2
    return np.maximum(np.take_along_axis(spacing, middle[:, None], axis=1)[:, 0], 1)


def _elapsed(
    time: NDArray[np.int64], mask: NDArray[np.bool_], valid: NDArray[np.bool_], bar: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Compute bars since the previous published observation, float32 [N, T]."""
    column = np.arange(time.shape[1])
    latest = np.maximum.accumulate(np.where(mask, column, -1), axis=1)
    previous = np.concatenate((np.full((len(time), 1), -1), latest[:, :-1]), axis=1)
    since = time - np.take_along_axis(time, np.maximum(previous, 0), axis=1)
    return np.where(valid & (previous >= 0), since / bar[:, None], 1.0).astype(np.float32)


def _utc(time: int) -> str:
    return f"{np.datetime64(time, 'us')}Z"


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How much of the pooled history is kept apart, latest last. Train is what remains.

    Attributes
    ----------
    validation : float
        Fraction of the published observations of all series, before the test.
    test : float
        Fraction of the published observations of all series, at the end.
    """

    validation: float = 0.16
    test: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise ConfigError(
                "validation and test must be fractions above 0 with a sum below 1, not"
                f" {self.validation} and {self.test}"
            )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two cuts of calendar time, common to all series: no series' future is pooled with another's past.

    A price is of the train if its time is before `train_end_time`, of the validation if it is before
    `validation_end_time`, and else of the test. An origin is of the part of its *target*, the price `horizon`
    observations later. Hence the origins of the last `horizon` prices before a cut belong to the later part
    (they are purged from the earlier one), every price from a cut on is forecast, and no origin is in two.

    Attributes
    ----------
    train_end_time, validation_end_time : int
        Microseconds since 1970, UTC; the first moment that is not of the train / of the validation.
    """

    train_end_time: int
    validation_end_time: int

    def origins(self, panel: Panel, part: Part, horizon: int = 1) -> NDArray[np.bool_]:
        """Mark the origins of a part.

        Element [n, i] is True where prices of observation i and of its target i + horizon are published
        and the target is of `part`. Data up to and including i may be used from there. A forecaster of steps
        1 to S is trained on the origins of `horizon=S`, all of whose targets lie in the part or before it;
        its step s is scored on those of `horizon=s`.

        Returns
        -------
        bool [N, T]
        """
        if part not in get_args(Part):
            raise ConfigError(unknown("part of a split", part, get_args(Part)))
        if horizon < 1:
            raise ConfigError(f"horizon must be at least 1, not {horizon}")
        published = panel.published
        origins = np.zeros_like(published)
        target = panel.time[:, horizon:]
        inside = {
            "train": target < self.train_end_time,
            "validation": (target >= self.train_end_time) & (target < self.validation_end_time),
            "test": target >= self.validation_end_time,
        }[part]
        origins[:, :-horizon] = published[:, :-horizon] & published[:, horizon:] & inside
        return origins


def split(panel: Panel, config: SplitConfig) -> Split:
    """Cut the calendar so that the parts hold the asked fractions of all published observations.

    Observations at one time are never torn apart, so the fractions hold up to the prices of one moment.

    Raises
    ------
    DataError
        If there are too few distinct times for three parts.
    """
    time = panel.time[panel.published]
    at = [int(len(time) * (1 - config.test - config.validation)), int(len(time) * (1 - config.test))]
    if not len(time):
        raise DataError("a split needs published prices, but all of them are holes. Ingest prices that have values")
    train_end, validation_end = (int(t) for t in np.partition(time, at)[at])
    if not time.min() < train_end < validation_end:
        raise DataError(
            f"{len(time)} prices at {len(np.unique(time))} distinct times are too few to be cut into train,"
            f" validation ({config.validation:.0%}) and test ({config.test:.0%}). Give more history, or other fractions"
            " (split in the settings)"
        )
    return Split(train_end_time=train_end, validation_end_time=validation_end)


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """Contiguous pieces of series, near equal in length, that together hold every observation once.

    Lane b is the observations `start[b]` to `stop[b] - 1` of series `series[b]`. Lanes are sorted by
    (series, start).

    Attributes
    ----------
    series : int32 [B]
        Row of the panel.
    start, stop : int64 [B]
        Indices into that row; stop is exclusive and larger than start.
    previous : int32 [B]
        The lane that ends where this one starts, in the same series: its last state is the state to begin
        with. -1 where the series truly begins: only there is the state reset.
    """

    series: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    previous: NDArray[np.int32]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where a lane has an observation, False in its padding; bool [B, L]."""
        length = self.stop - self.start
        return np.arange(length.max()) < length[:, None]

    def gather(self, x: NDArray[Any]) -> NDArray[Any]:
        """Take [N, T, ...] to lanes [B, L, ...], a copy; L is the longest lane.

        Padding repeats the lane's last value, so that arithmetic on it stays in range: it is told apart by
        `valid`, never by its value (a gathered mask is to be combined with `valid`).
        """
        longest = int((self.stop - self.start).max())
        out = np.empty((len(self.series), longest, *x.shape[2:]), x.dtype)
        for lane, row, start, stop in zip(out, self.series, self.start, self.stop, strict=True):
            lane[: stop - start] = x[row, start:stop]
            lane[stop - start :] = x[row, stop - 1]
        return out


def lanes(length: ArrayLike, count: int) -> Lanes:
    """Cut series into lanes so that the longest lane is as short as `count` lanes allow.

    With L the smallest length for which ceil(length / L) pieces a series are at most `count` in all, each
    series is cut into that many pieces that differ by one observation at most. There may be fewer lanes than
    `count`, where more would not shorten the longest, and more where there are more series.

    Parameters
    ----------
    length : int [N]
        Observations of each series, counted from its start; a series of none gets no lane.
    count : int
        Most lanes; raised to the number of series that have observations.

    Raises
    ------
    DataError
        If a length is negative or all are zero.
    """
    length = np.asarray(length, np.int64)
    if not length.size or length.min() < 0 or not length.max():
        raise DataError(f"lanes need series with observations; the lengths given are {length[:10].tolist()}")
    pieces = -(-length // _shortest(length, max(count, int((length > 0).sum()))))
    series = np.repeat(np.arange(len(length)), pieces)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    k = np.arange(len(series)) - first
    n, p = length[series], pieces[series]
    return Lanes(
        series=series.astype(np.int32),
        start=k * n // p,
        stop=(k + 1) * n // p,
        previous=np.where(k > 0, np.arange(len(series)) - 1, -1).astype(np.int32),
    )


def _shortest(length: NDArray[np.int64], count: int) -> int:
    """Find by bisection the smallest L for which the sum of ceil(length / L) is at most `count`."""
    low, high = 1, int(length.max())
    while low < high:
        middle = (low + high) // 2
        if (-(-length // middle)).sum() <= count:
            high = middle
        else:
            low = middle + 1
    return low
