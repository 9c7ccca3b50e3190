"""Oddities: prices that do not fit their own series: spikes, splits, changes of unit, lasting jumps, flat stretches.

Comes in: a price frame, one row a (series, time), sorted, without nulls. Goes out: what is odd about each row, and
the factor that would mend it. Imported by faults.

A move leads to a row from the row before it. It is measured in usual moves of its series, on the log scale and as a
difference, and the smaller of the two counts; where a price is not positive there is only the difference. The usual
move is a robust standard deviation from the past: of each block of 50 moves the size that one in ten exceeds, the
median of that over the five blocks before, divided by 1.645. Zero moves do not count, so that a flat stretch does not
make it zero; moves by a power of ten do not either, so that a series that goes to and fro between cents and dollars
keeps its scale. Where the ten moves before and after are larger than usual too, more is asked of a move: a crash is
not a fault. So what is said about a row no longer changes once ten more rows have come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

KINDS = pl.Enum(["spike", "split", "unit", "jump"])
_NONE, _SPIKE, _SPLIT, _UNIT, _JUMP = -1, 0, 1, 2, 3
"""What a row can be; it is one of them at most."""

SPIKE_ROWS = 3
"""A spike comes back within so many rows."""

_BLOCK = 50
_BLOCKS = 5
_FEWEST = 20
"""A series with fewer moves has no usual one."""
_TAIL, _DEVIATIONS = 0.9, 1.645
"""Share of moves below the size that is taken, and that size in standard deviations of a normal law."""
_FLOOR = 2e-4
"""No usual move is smaller than this share of the price."""
_AGREES = 0.2
"""Share of a spike's move by which the levels before and after it may differ, where usual moves allow less."""
_AROUND = 10
"""Rows over which a split must last, and whose moves tell whether these are unusual times."""
_UNUSUAL = 1.35
"""Usual moves; in unusual times half of the moves are larger: twice what the normal law says."""
_SPLIT_SIZE = 10.0
"""Usual moves below which a fall by a simple ratio may as well be news."""
_SPLIT_SHARE, _SPLIT_MOVES = 0.05, 3.5
"""How far a move may miss the ratio of a split: as a share of the ratio's log, and in usual moves."""
_POWER = 0.05
"""Decimal digits by which a move may miss a power of ten."""
_QUIET = 1 / 15
"""Share of the log of a split's ratio that half of the moves after it stay below: a crash is not quiet."""
_WHOLE = np.log([2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50])
_BROKEN = np.log([3 / 2, 5 / 2, 4 / 3, 5 / 4])
_RATIOS = np.concatenate([-_WHOLE, -_BROKEN, _WHOLE])
"""Logs of what a split makes of the price; shares are put together in whole numbers only."""


@dataclass(frozen=True, kw_only=True)
class _Moves:
    """Prices [n] and the moves that lead to them, NaN at the first row of a series; `end` is the row after its last."""

    price: Floats
    end: Rows
    series: Rows
    log: Floats
    difference: Floats


def oddities(prices: pl.DataFrame, *, jump_scales: float, whole: pl.Series) -> pl.DataFrame:
    """Say what is odd about each row.

    Parameters
    ----------
    prices : DataFrame
        Columns `series_id`, `time`, `price`, sorted by series and time, one row a moment; prices are finite.
    jump_scales : float
        Usual moves beyond which a move is odd.
    whole : Series of str
        Series that cannot split, such as currencies.

    Returns
    -------
    DataFrame
        A row for each of `prices`: `kind`, one of `KINDS` or null; `factor`, by which to multiply the price if it is
        in another unit, or the prices before it if it is the first after a split, null elsewhere; and `size`, the
        move in usual moves.
    """
    moves = _moves(prices)
    power = _power(moves.log)
    log_usual = np.maximum(_usual(moves.log, moves, power), _FLOOR)
    floor = _FLOOR * np.abs(np.concatenate([moves.price[:1], moves.price[:-1]]))
    usual = np.maximum(_usual(moves.difference, moves, power), floor)
    size = np.fmin(np.abs(moves.log) / log_usual, np.abs(moves.difference) / usual)
    odd = _lonely(moves, size, jump_scales)
    away = _away(moves, np.where(odd, power, 0))
    kind, factor = np.full(prices.height, _NONE), np.where(away != 0, 10.0**-away, np.nan)
    spike, rest = _spikes(moves, np.flatnonzero(odd & (power == 0)), usual)
    kind[rest] = _JUMP
    can = rest[_can_split(prices, rest, whole) & (size[rest] > _SPLIT_SIZE)]
    ratio = _split_ratio(moves, can, log_usual)
    kind[can[ratio != 0]] = _SPLIT
    factor[can[ratio != 0]] = np.exp(ratio[ratio != 0])
    kind[spike] = _SPIKE
    kind[away != 0] = _UNIT
    found = pl.DataFrame({"kind": kind, "factor": factor, "size": size}, nan_to_null=True)
    return found.with_columns(pl.when(pl.col("kind") >= 0).then(pl.col("kind").cast(pl.UInt8)).cat.to(KINDS))


def flat(prices: pl.DataFrame) -> pl.DataFrame:
    """Count the length of the stretch of equal prices that each row is in, and which row of it it is.

    Parameters
    ----------
    prices : DataFrame
        As in `oddities`.

    Returns
    -------
    DataFrame
        A row for each of `prices`: `length`, and `place`, 0 for the first row of its stretch.
    """
    moves = _moves(prices)
    start = np.flatnonzero(moves.difference != 0)  # NaN, at the first row of a series, is not 0
    length = np.diff(np.append(start, prices.height))
    place = np.arange(prices.height) - np.repeat(start, length)
    return pl.DataFrame({"length": np.repeat(length, length), "place": place})


def _moves(prices: pl.DataFrame) -> _Moves:
    price = prices["price"].to_numpy()
    series = prices.select(pl.col("series_id").rle_id())["series_id"].to_numpy().astype(np.int64)
    ends = np.cumsum(np.bincount(series)) if len(series) else series
    inside = series[1:] == series[:-1]
    difference = np.full(len(price), np.nan)
    log = np.full(len(price), np.nan)
    difference[1:][inside] = np.diff(price)[inside]
    positive = inside & (price[1:] > 0) & (price[:-1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        log[1:][positive] = np.diff(np.log(price))[positive]
    return _Moves(price=price, end=ends[series], series=series, log=log, difference=difference)


def _power(log: Floats) -> Rows:
    """Give the power of ten, 2 or more either way, by which a price moved; 0 where it did not move by one."""
    digits = np.nan_to_num(log) / np.log(10)
    near = np.rint(digits)
    return np.where((np.abs(near) >= 2) & (np.abs(digits - near) < _POWER), near, 0).astype(np.int64)


def _usual(move: Floats, moves: _Moves, power: Rows) -> Floats:
    """Give the usual size of a move before each row [n], NaN where the series has too few moves."""
    usual = np.full(len(move), np.nan)
    counts = np.isfinite(move) & (move != 0) & (power == 0)
    rows = np.flatnonzero(counts)
    if not len(rows):
        return usual
    series = moves.series[rows]
    start = np.searchsorted(series, series)
    place = np.arange(len(rows)) - start
    block = np.cumsum((place % _BLOCK) == 0) - 1
    first = (place // _BLOCK == 0)[place % _BLOCK == 0]  # of each block: is it the first of its series
    sizes = np.full((block[-1] + 1, _BLOCK), np.inf)
    sizes[block, place % _BLOCK] = np.abs(move[rows])
    before = _trailing(_tails(sizes), first)
    return _carried(usual, rows, before[block], moves.series)


def _tails(sizes: Floats) -> Floats:
    """Give the usual size of each block [n, _BLOCK] padded with infinities, NaN where there are too few."""
    sizes.sort(axis=1)
    number = np.isfinite(sizes).sum(axis=1)
    tail = sizes[np.arange(len(sizes)), (_TAIL * (number - 1)).astype(np.int64)] / _DEVIATIONS
    return np.where(number >= _FEWEST, tail, np.nan)


def _trailing(tail: Floats, first: Mask) -> Floats:
    """Take the median over the blocks before each block of the same series; the first block has only itself."""
    series = np.cumsum(first)
    lagged = np.full((len(tail), _BLOCKS), np.nan)
    for lag in range(1, _BLOCKS + 1):
        same = series[lag:] == series[:-lag]
        lagged[lag:, lag - 1][same] = tail[:-lag][same]
    lagged[first, 0] = tail[first]
    known = ~np.isnan(lagged).all(axis=1)
    before = np.full(len(tail), np.nan)
    before[known] = np.nanmedian(lagged[known], axis=1)
    return before


def _carried(usual: Floats, rows: Rows, value: Floats, series: Rows) -> Floats:
    """Set `usual` at `rows` to `value`, and at the rows after each to the same, up to the end of the series."""
    usual[rows] = value
    frame = pl.DataFrame({"series": series, "usual": pl.Series(usual, nan_to_null=True)})
    return frame.select(pl.col("usual").forward_fill().backward_fill().over("series"))["usual"].to_numpy()


def _away(moves: _Moves, power: Rows) -> Rows:
    """Give the powers of ten by which each price is away from the unit of most rows of its series."""
    level = np.cumsum(power)
    away = np.zeros(len(power), np.int64)
    for series in np.unique(moves.series[power != 0]):
        begin, stop = np.searchsorted(moves.series, [series, series + 1])
        units, number = np.unique(level[begin:stop], return_counts=True)
        away[begin:stop] = level[begin:stop] - units[number.argmax()]
    return away


def _lonely(moves: _Moves, size: Floats, jump_scales: float) -> Mask:
    """Say which moves are beyond `jump_scales` usual ones, also where the moves around them are larger than usual."""
    rows = np.flatnonzero(size > jump_scales)
    around = rows[:, None] + np.concatenate([np.arange(-_AROUND, 0), np.arange(1, _AROUND + 1)])
    inside = (around >= 0) & (around < moves.end[rows][:, None])
    around = np.where(inside, around, 0)
    inside &= moves.series[around] == moves.series[rows][:, None]
    sizes = np.where(inside, np.fmax(size[around], _UNUSUAL), _UNUSUAL)
    odd = np.zeros(len(size), bool)
    odd[rows] = size[rows] > jump_scales * np.median(sizes, axis=1) / _UNUSUAL
    return odd


def _spikes(moves: _Moves, odd: Rows, usual: Floats) -> tuple[Rows, Rows]:
    """Part the rows that odd moves lead to into the rows of spikes, and those that belong to no spike."""
    length = np.zeros(len(odd), np.int64)
    before = moves.price[odd - 1]
    for rows in range(SPIKE_ROWS, 0, -1):
        back = np.minimum(odd + rows, len(moves.price) - 1)
        allowed = np.fmax(2 * usual[odd] * np.sqrt(rows + 1), _AGREES * np.abs(moves.difference[odd]))
        agree = np.abs(moves.price[back] - before) <= allowed
        last = moves.price[back - 1]
        sharp = np.abs(moves.price[back] - last) > np.abs(moves.difference[odd]) / 2
        length[agree & sharp & (odd + rows < moves.end[odd])] = rows
    spikes, rest, free = [], [], 0
    for row, rows in zip(odd.tolist(), length.tolist(), strict=True):
        if row < free:
            continue
        if rows:
            spikes.extend(range(row, row + rows))
            free = row + rows + 1
        else:
            rest.append(row)
    return np.array(spikes, np.int64), np.array(rest, np.int64)


def _can_split(prices: pl.DataFrame, rows: Rows, whole: pl.Series) -> Mask:
    """Say which rows are the first of a day, of a series that can split."""
    day, name = prices["time"].dt.date(), prices["series_id"].gather(rows)
    return (day.gather(rows) != day.gather(rows - 1)).to_numpy() & ~name.is_in(whole.implode()).to_numpy()


def _split_ratio(moves: _Moves, odd: Rows, usual: Floats) -> Floats:
    """Give the log of the ratio of the split before each row [n], 0 where the move is no split."""
    ratio = _RATIOS[np.abs(moves.log[odd][:, None] - _RATIOS).argmin(axis=1)]
    near = np.abs(moves.log[odd] - ratio) <= np.fmin(_SPLIT_MOVES * usual[odd], _SPLIT_SHARE * np.abs(ratio))
    after = odd[:, None] + np.arange(1, _AROUND + 1)
    there = after < moves.end[odd][:, None]
    after = np.minimum(after, len(moves.price) - 1)
    steps = np.where(there, np.nan_to_num(moves.log[after]), np.nan)
    near &= there.sum(axis=1) >= _AROUND // 2
    ratio[~near] = 0
    path = np.nancumsum(steps[near], axis=1)
    lasts = np.abs(np.median(path, axis=1)) < np.abs(ratio[near]) / 4
    quiet = np.nanmedian(np.abs(steps[near]), axis=1) < _QUIET * np.abs(ratio[near])
    ratio[np.flatnonzero(near)[~(lasts & quiet)]] = 0
    return ratio
