"""Faults: what is wrong with rows of prices, where and how often, and what the policies make of it.

Comes in: rows as they were read, whole series at a time. Goes out: clean rows, and an account of every fault. Imported
by ingest.

No fault raises here: where a policy says so, whoever holds all the accounts does it. Until then what is refused is
taken away as if it were dropped, where the checks that follow need it gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, get_args, get_origin, get_type_hints

import polars as pl

from models.errors import ConfigError, unknown
from pipeline.bars import BarConfig, bars
from pipeline.calendars import WHEN, Calendars, closed, currencies, follow
from pipeline.oddities import flat, oddities
from pipeline.revisions import ordered
from pipeline.rows import ORDER, READ, UTC_TIME

EXAMPLES = 3
"""Examples kept of each fault."""

_KEY = ("series_id", "time", "available_time")
_MOMENT = ("series_id", "time")
_EXAMPLE = ("file", "line", "series_id", "time", "price", "note", "size")
_AT = "_at"
_TRADES = 0.05
"""Share of the rows of a series that share their time, from which they look like trades."""
_FEWEST = 3
"""Series that must repeat at a moment for it to be a copied one, or miss it for it to be a holiday."""
_HOLIDAYS = pl.Schema({"calendar": pl.String, "time": UTC_TIME})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do about each fault: refuse (raise), take away (drop), leave and count (keep), correct (adjust) or fill.

    Attributes
    ----------
    unreadable : {"raise", "drop"}
        A row with a cell that is no time or no number, or without the name of its series.
    null : {"drop", "keep", "fill", "raise"}
        A price that is missing, NaN or infinite; keep makes it a known hole, fill carries the last price.
    non_positive : {"raise", "drop", "keep"}
        A price of zero or less; keep is for the asinh transform, log returns cannot take it.
    disorder : {"adjust", "raise"}
        A row earlier in time than the row before it in its series; adjust sorts.
    duplicate : {"drop", "raise"}
        A row that another one repeats exactly.
    conflict : {"raise", "drop"}
        Rows of one series, time and available time whose prices differ; drop keeps the last one read.
    spike : {"keep", "drop", "fill", "raise"}
        One price, or up to three, far from the prices before and after, which agree with each other; fill carries the
        last price before it.
    split : {"keep", "adjust", "raise"}
        A lasting jump by a simple ratio such as 2:1 at the start of a day; adjust notes its factor, by which earlier
        prices are multiplied when they are read.
    unit : {"keep", "adjust", "raise"}
        A price 100 or 1000 times too large or too small, as cents among dollars; adjust brings it to the unit of most.
    jump : {"keep", "raise"}
        A jump that is none of these, as where two sources were spliced; or news.
    repeat : {"keep", "drop", "raise"}
        A moment at which every one of three or more series repeats its price, as in a copied row of a wide table.
    flat : {"keep", "drop", "raise"}
        A stretch of equal prices; drop takes away the repeats.
    closed : {"keep", "drop", "raise"}
        A price at a time at which the market is closed.
    gap : {"keep", "fill", "raise"}
        A moment at which the calendar of a series expects a row and none was read; fill puts in a known hole, also
        where a null was dropped. By a learned calendar it is a holiday if three or more series all miss it.
    short : {"keep", "drop", "raise"}
        A series with few rows.
    jump_scales : float
        Size from which a move is a spike, a split, a change of unit or a jump, in usual moves; above 1.
    flat_length : int
        Equal prices from which a stretch is flat; at least 2.
    short_length : int
        Rows below which a series is short; at least 0.
    """

    unreadable: Literal["raise", "drop"] = "raise"
    null: Literal["drop", "keep", "fill", "raise"] = "drop"
    non_positive: Literal["raise", "drop", "keep"] = "raise"
    disorder: Literal["adjust", "raise"] = "adjust"
    duplicate: Literal["drop", "raise"] = "drop"
    conflict: Literal["raise", "drop"] = "raise"
    spike: Literal["keep", "drop", "fill", "raise"] = "keep"
    split: Literal["keep", "adjust", "raise"] = "keep"
    unit: Literal["keep", "adjust", "raise"] = "keep"
    jump: Literal["keep", "raise"] = "keep"
    repeat: Literal["keep", "drop", "raise"] = "keep"
    flat: Literal["keep", "drop", "raise"] = "keep"
    closed: Literal["keep", "drop", "raise"] = "keep"
    gap: Literal["keep", "fill", "raise"] = "keep"
    short: Literal["keep", "drop", "raise"] = "keep"
    jump_scales: float = 6.5
    flat_length: int = 10
    short_length: int = 100

    def __post_init__(self) -> None:
        for fault, choices in CHOICES.items():
            if getattr(self, fault) not in choices:
                raise ConfigError(unknown(f"policy for {fault}", str(getattr(self, fault)), choices))
        for name, least in (("jump_scales", 1), ("flat_length", 2), ("short_length", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")


CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(hint) for name, hint in get_type_hints(Policy).items() if get_origin(hint) is Literal
}
"""The faults, and the policies to choose from, the default first."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row with a fault; `file` and `line` are as in `rows.READ`, None where the row was not read from a file."""

    file: int | None
    line: int | None
    series_id: str | None
    time: datetime | None
    price: float | None
    note: str = ""
    size: float | None = None
    """Of a spike, split, change of unit or jump, in usual moves: the largest are shown first."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one policy met.

    Attributes
    ----------
    name : str
        The fault.
    count : int
        Rows with the fault; stretches of flat ones, missing moments, short series.
    changed, dropped, added : int
        Rows that were corrected, taken away, and put in; for splits the factors that were noted.
    examples : tuple of Example
        The first few by file and line, or the largest.
    series : dict of str to int
        Count by series; rows without one have "".
    """

    name: str
    count: int = 0
    changed: int = 0
    dropped: int = 0
    added: int = 0
    examples: tuple[Example, ...] = ()
    series: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Rows after the policies.

    Attributes
    ----------
    rows : DataFrame
        Columns as they came, sorted by (series_id, time, available_time), which is unique; `unreadable` is null.
    found : tuple of Found
        One for each policy, met or not, in the order of `CHOICES`.
    factors : DataFrame
        Columns `series_id`, `time`, `factor`: prices before `time` are to be multiplied by it.
    calendars : dict of str to str
        The calendar of each series in words.
    weekends : tuple of str
        Series that were taken for closed at weekends, being currencies by name.
    merged, incomplete : int
        Ticks that went into a bar with others, and those of last bars that were dropped.
    """

    rows: pl.DataFrame
    found: tuple[Found, ...]
    factors: pl.DataFrame
    calendars: dict[str, str]
    weekends: tuple[str, ...] = ()
    merged: int = 0
    incomplete: int = 0


def settle(
    rows: pl.DataFrame,
    policy: Policy,
    calendars: Calendars | None = None,
    *,
    bars_of: BarConfig | None = None,
    repeated: pl.Series | None = None,
    holidays: pl.DataFrame | None = None,
) -> Settled:
    """Put rows through the policies.

    The order is: what cannot be read, disorder, nulls, prices that are not positive; then bars, if they are made of
    ticks, else duplicates and conflicts, which ticks have rightly; then closed times, repeats, spikes, splits, units
    and jumps, flat stretches, gaps and short series. Checks of a series see the last vintage of each time.

    Parameters
    ----------
    rows : DataFrame
        Columns of `rows.READ`, `rows.ORDER` and values; all rows of each series.
    policy : Policy
        What to do.
    calendars : Calendars, optional
        Which calendar to use; learned by default.
    bars_of : BarConfig, optional
        Bars to make of ticks.
    repeated : Series of datetime, optional
        Moments at which every series repeats, from `repeated_moments` over all the series; those of `rows` by default.
        Bars are not checked for repeats.
    holidays : DataFrame, optional
        Moments that no series has, from `common_holidays` over all the series; those of `rows` by default. Bars have
        none.

    Raises
    ------
    SchemaError
        If bars need volumes and there are none.
    """
    calendars, desk = calendars or Calendars(), _Desk(policy)
    rows = folded(rows.sort(ORDER))
    unpriced = rows.filter(_whole() & ~pl.col("price").is_finite().fill_null(False)).select(_MOMENT)
    rows = _settled_rows(desk, rows)
    merged = incomplete = 0
    if bars_of is None:
        rows = _settled_keys(desk, rows)
        repeated = repeated_moments([moments(rows)]) if repeated is None else repeated
        holidays = common_holidays([absences(rows, calendars)]) if holidays is None else holidays
    else:
        barred = bars(rows, bars_of)
        rows, merged, incomplete = barred.rows, barred.merged, barred.incomplete
        repeated, holidays = pl.Series([], dtype=UTC_TIME), _HOLIDAYS.to_frame()
    rows, factors, words, weekends = _settled_series(desk, rows, calendars, repeated, holidays, unpriced)
    return Settled(
        rows=rows,
        found=desk.found,
        factors=factors,
        calendars=words,
        weekends=weekends,
        merged=merged,
        incomplete=incomplete,
    )


def check(
    prices: pl.DataFrame,
    policy: Policy,
    calendars: Calendars | None = None,
    *,
    repeated: pl.Series | None = None,
    holidays: pl.DataFrame | None = None,
) -> tuple[Found, ...]:
    """Look for the faults of series in stored prices, and change nothing.

    Parameters
    ----------
    prices : DataFrame
        Columns `series_id`, `time`, `price`, one row a (series, time).
    policy : Policy
        The thresholds; what it says about faults is not used.
    calendars : Calendars, optional
        Which calendar to use; learned by default.
    repeated, holidays : optional
        As in `settle`.

    Returns
    -------
    tuple of Found
        One for each fault of a series.
    """
    prices = prices.select(*_MOMENT, "price")
    absent = {name: pl.lit(None, dtype=dtype) for name, dtype in READ.items() if name not in prices.columns}
    rows = ordered(prices.with_columns(**absent).with_row_index(ORDER), "time")
    desk, calendars = _Desk(replace(policy, **dict.fromkeys(_OF_SERIES, "keep"))), calendars or Calendars()
    repeated = repeated_moments([moments(rows)]) if repeated is None else repeated
    holidays = common_holidays([absences(rows, calendars)]) if holidays is None else holidays
    _settled_series(desk, rows, calendars, repeated, holidays, rows.select(_MOMENT).clear())
    return tuple(found for found in desk.found if found.name in _OF_SERIES)


def folded(rows: pl.DataFrame) -> pl.DataFrame:
    """Move the second row of a file with one series and local time on by the hour that the clocks go back.

    The second in time is the first read where a series runs newest first, which it does if most of its steps go back.
    Of more than two rows at such a time, those whose price is not that of the first in time are moved if there are two
    prices in all: copies stay together. Of further prices nothing is known, and the rows stay, to be met as conflicts.

    Parameters
    ----------
    rows : DataFrame
        Columns of `rows.READ`, in the order read.

    Returns
    -------
    DataFrame
        The rows, with nothing left to add: `fold` is zero.
    """
    if not (rows["fold"].to_physical() > 0).any():
        return rows
    step, nth, price = pl.col("time").diff(), pl.int_range(pl.len()), pl.col("price")
    back = (step < pl.duration()).sum() > (step > pl.duration()).sum()
    earlier = pl.when(_AT).then(nth == 1).otherwise(nth == 0)
    priced = price.ne_missing(pl.when(_AT).then(price.last()).otherwise(price.first())) & (price.n_unique() == 2)
    second = pl.when(pl.len() == 2).then(~earlier).otherwise(priced).over("file", *_MOMENT)
    rows = rows.with_columns(back.over("file", "series_id").alias(_AT))
    moved = pl.when(second).then(pl.col("fold").fill_null(pl.duration())).otherwise(pl.duration())
    return rows.with_columns(time=pl.col("time") + moved, fold=pl.duration()).drop(_AT)


def moments(rows: pl.DataFrame) -> pl.DataFrame:
    """Count by moment the series that have a price, and those that repeat their last one.

    Parameters
    ----------
    rows : DataFrame
        Columns of `rows.READ` and `rows.ORDER`; all rows of each series.

    Returns
    -------
    DataFrame
        Columns `time`, `series`, `repeated`.
    """
    prices = ordered(folded(rows.sort(ORDER)).filter(pl.col("price").is_finite() & _whole()), *_KEY[1:])
    last = prices.filter(~_same(-1, *_MOMENT)).select(*_MOMENT, _same(1, "series_id", "price").alias("again"))
    return last.group_by("time").agg(pl.len().alias("series"), pl.col("again").sum().alias("repeated"))


def repeated_moments(counts: Iterable[pl.DataFrame]) -> pl.Series:
    """Find the moments, in frames of `moments`, at which each of three or more series repeats its price; sorted."""
    total = pl.concat(counts).group_by("time").agg(pl.col("series", "repeated").sum())
    every = (pl.col("series") >= _FEWEST) & (pl.col("series") == pl.col("repeated"))
    return total.filter(every)["time"].sort()


def absences(rows: pl.DataFrame, calendars: Calendars) -> pl.DataFrame:
    """Count by learned calendar and moment the series that miss it, and how many more of them run from then on.

    Parameters
    ----------
    rows : DataFrame
        Columns of `rows.READ` and `rows.ORDER`; all rows of each series.
    calendars : Calendars
        Which calendar to use; a named one knows its holidays, and nothing is counted.

    Returns
    -------
    DataFrame
        Columns `calendar`, `time`, `missing`, `more`.
    """
    if calendars.name is not None:
        rows = rows.clear()
    rows = folded(rows.sort(ORDER)).filter(pl.col("price").is_finite() & _whole())
    rows = rows.select(WHEN.names()).unique().sort(WHEN.names())
    followed = follow(rows, calendars)
    span = rows.group_by("series_id").agg(pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
    after = pl.col("last") + pl.duration(microseconds=1)
    events = [
        followed.missing.with_columns(missing=1, more=0),
        span.select("series_id", time="first", missing=0, more=1),
        span.select("series_id", time=after, missing=0, more=-1),
    ]
    named = pl.concat(events, how="vertical_relaxed").join(_words(followed.words), on="series_id")
    return named.group_by(_HOLIDAYS.names()).agg(pl.col("missing", "more").cast(pl.Int64).sum())


def common_holidays(counts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Find what each of three or more series of one calendar misses, in frames of `absences`: `calendar`, `time`."""
    total = pl.concat(counts).group_by(_HOLIDAYS.names()).agg(pl.col("missing", "more").sum()).sort(_HOLIDAYS.names())
    running = pl.col("more").cum_sum().over("calendar")
    return total.filter((pl.col("missing") >= _FEWEST) & (pl.col("missing") == running)).select(_HOLIDAYS.names())


def merged(parts: Sequence[Sequence[Found]]) -> tuple[Found, ...]:
    """Sum what was found in parts that have no series in common; the first examples stay."""
    return tuple(_sum(same) for same in zip(*parts, strict=True))


def _sum(parts: Sequence[Found]) -> Found:
    def place(example: Example) -> tuple[object, ...]:
        file, line = example.file, example.line
        where = (file is None, file or 0, line is None, line or 0, example.series_id or "", str(example.time))
        return -(example.size or 0.0), *where

    series: dict[str, int] = {}
    for part in parts:
        for name, count in part.series.items():
            series[name] = series.get(name, 0) + count
    counts = {name: sum(getattr(part, name) for part in parts) for name in ("count", "changed", "dropped", "added")}
    examples = sorted((example for part in parts for example in part.examples), key=place)
    return Found(name=parts[0].name, examples=tuple(examples[:EXAMPLES]), series=series, **counts)


_OF_SERIES = ("spike", "split", "unit", "jump", "repeat", "flat", "closed", "gap", "short")


class _Desk:
    """The policies, and what they have met so far."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._found: dict[str, Found] = {}

    @property
    def found(self) -> tuple[Found, ...]:
        return tuple(self._found.get(name, Found(name=name)) for name in CHOICES)

    def note(self, name: str, rows: pl.DataFrame, at: pl.Series, note: pl.Expr | str = "", **done: int) -> None:
        """Put down the rows `at`, and how many were dropped, changed or added."""
        text = pl.lit(note) if isinstance(note, str) else note
        met = (
            rows.with_columns(text.alias("note")).filter(at) if at.any() else rows.clear().with_columns(note=pl.lit(""))
        )
        if "size" not in met.columns:
            met = met.with_columns(size=pl.lit(None, pl.Float64))
        order = ("file", "line", "series_id", "time")
        first = met.sort("size", *order, descending=[True, *(False for _ in order)], nulls_last=True).head(EXAMPLES)
        self._found[name] = Found(
            name=name,
            count=met.height,
            examples=tuple(Example(**row) for row in first.select(_EXAMPLE).rows(named=True)),
            series=dict(met["series_id"].fill_null("").value_counts(sort=True).rows()),
            **done,
        )

    def take(
        self,
        name: str,
        rows: pl.DataFrame,
        at: pl.Series,
        note: pl.Expr | str = "",
        *,
        drop: pl.Series | None = None,
        refused: bool = False,
    ) -> pl.DataFrame:
        """Note the rows `at`; where the policy is to drop, take away `drop`, by default the same rows.

        Rows that are `refused` are taken away also where the policy is to raise.
        """
        policy = getattr(self.policy, name)
        taken = policy == "drop" or (refused and policy == "raise")
        kept = rows.filter(~(at if drop is None else drop)) if taken else rows
        self.note(name, rows, at, note, dropped=rows.height - kept.height)
        return kept

    def carry(self, name: str, rows: pl.DataFrame, at: pl.Series, note: pl.Expr | str = "") -> pl.DataFrame:
        """Note the rows `at`, and give them the last price of their series before them."""
        self.note(name, rows, at, note, changed=int(at.sum()))
        rows = rows.with_columns(at.alias(_AT))
        last = pl.when(~pl.col(_AT)).then("price").forward_fill().over("series_id")
        return rows.with_columns(pl.when(_AT).then(last).otherwise("price").alias("price")).drop(_AT)


def _same(shift: int, *columns: str) -> pl.Expr:
    """Say where columns equal those of the row before (shift 1) or after (shift -1)."""
    return pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift(shift)) for c in columns)


def _whole() -> pl.Expr:
    """Say which rows could be read."""
    return pl.col("unreadable").is_null() & pl.col("series_id").is_not_null() & pl.col("time").is_not_null()


def _at(rows: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    return rows.select(expression.fill_null(False).alias("at"))["at"]


def _settled_rows(desk: _Desk, rows: pl.DataFrame) -> pl.DataFrame:
    """Meet the faults of single rows, given in the order read, and sort them."""
    why = pl.col("unreadable").fill_null("no series or no time")
    rows = desk.take("unreadable", rows, _at(rows, ~_whole()), why, refused=True)
    read = ordered(rows)
    early = _at(read, _same(1, "series_id") & (pl.col("time") < pl.col("time").shift(1)))
    desk.note("disorder", read, early, "earlier than the row before it", changed=int(early.sum()))
    rows = ordered(read, *_KEY[1:], ORDER)
    rows = rows.with_columns(pl.when(pl.col("price").is_finite()).then("price").alias("price"))
    null = rows["price"].is_null()
    filled = desk.policy.null == "fill"
    rows = desk.carry("null", rows, null) if filled else desk.take("null", rows, null, refused=True)
    below = _at(rows, pl.col("price") <= 0)
    note = 'transform = "asinh" needs ingest.policy.non_positive = "keep"'
    return desk.take("non_positive", rows, below, note, refused=True)


def _settled_keys(desk: _Desk, rows: pl.DataFrame) -> pl.DataFrame:
    """Meet rows with one key; of equal rows, and of those that clash, the last read stays."""
    rows = ordered(rows, *_KEY[1:], "price", ORDER)
    rows = desk.take("duplicate", rows, _at(rows, _same(-1, *_KEY, "price")), refused=True)
    rows = ordered(rows, *_KEY[1:], ORDER)
    clash = _at(rows, _same(-1, *_KEY) | _same(1, *_KEY))
    share = (_same(-1, *_MOMENT) | _same(1, *_MOMENT)).fill_null(False).mean().over("series_id")
    trades = 'these look like trades; make bars of them (ingest.bars.every = "1m")'
    note = pl.when(share > _TRADES).then(pl.lit(trades)).otherwise(pl.lit(""))
    return desk.take("conflict", rows, clash, note, drop=_at(rows, _same(-1, *_KEY)), refused=True)


def _settled_series(
    desk: _Desk,
    rows: pl.DataFrame,
    calendars: Calendars,
    repeated: pl.Series,
    holidays: pl.DataFrame,
    unpriced: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str], tuple[str, ...]]:
    """Meet the faults of series; give rows, factors, calendars in words, and whose weekends are free."""
    shut = closed(rows.select(WHEN.names()), calendars)
    weekends = tuple(currencies(rows.filter(shut)["series_id"])) if calendars.name is None else ()
    rows = desk.take("closed", rows, shut, pl.format("closed on {}", pl.col("time").dt.strftime("%A %H:%M")))
    again = rows["time"].is_in(repeated.implode()) & rows["price"].is_not_null()
    rows = desk.take("repeat", rows, again, "every series repeats its price")
    rows, factors = _settled_moves(desk, rows)
    rows = _settled_stretches(desk, rows)
    rows, words = _settled_gaps(desk, rows, calendars, holidays, unpriced)
    few = _at(rows, pl.len().over("series_id") < desk.policy.short_length)
    first = few & _at(rows, ~_same(1, "series_id"))
    rows = desk.take("short", rows, first, pl.format("{} rows", pl.len().over("series_id")), drop=few)
    return rows, factors, words, weekends


def _settled_moves(desk: _Desk, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Meet spikes, splits, changes of unit and jumps; give the rows and the factors of the splits."""
    seen = _seen(rows)
    odd = oddities(seen, jump_scales=desk.policy.jump_scales, whole=currencies(seen["series_id"]))
    rows = _beside(rows, seen, odd)
    size = pl.format("{} usual moves", pl.col("size").round(1))
    factor = pl.format("times {}", pl.col("factor").round(6))
    split = rows.filter(pl.col("kind") == "split").select(*_MOMENT, "factor")
    adjusted = desk.policy.split == "adjust"
    desk.note("split", rows, _at(rows, pl.col("kind") == "split"), factor, changed=split.height if adjusted else 0)
    unit = _at(rows, pl.col("kind") == "unit")
    mended = int(unit.sum()) if desk.policy.unit == "adjust" else 0
    desk.note("unit", rows, unit, factor, changed=mended)
    if mended:
        scaled = pl.when(unit).then(pl.col("price") * pl.col("factor")).otherwise("price")
        rows = rows.with_columns(scaled.alias("price"))
    desk.note("jump", rows, _at(rows, pl.col("kind") == "jump"), size)
    spike = _at(rows, pl.col("kind") == "spike")
    rows = (desk.carry if desk.policy.spike == "fill" else desk.take)("spike", rows, spike, size)
    return rows.drop(odd.columns), split if adjusted else split.clear()


def _settled_stretches(desk: _Desk, rows: pl.DataFrame) -> pl.DataFrame:
    """Meet flat stretches; the first row of each stays."""
    seen = _seen(rows)
    rows = _beside(rows, seen, flat(seen))
    long = pl.col("length") >= desk.policy.flat_length
    at, drop = _at(rows, long & (pl.col("place") == 0)), _at(rows, long & (pl.col("place") > 0))
    rows = desk.take("flat", rows, at, pl.format("{} equal prices", "length"), drop=drop)
    return rows.drop("length", "place")


def _settled_gaps(
    desk: _Desk, rows: pl.DataFrame, calendars: Calendars, holidays: pl.DataFrame, unpriced: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Meet missing moments, of which those `unpriced` had a row; give the rows and the calendars in words."""
    followed = follow(rows.select(WHEN.names()).filter(~_same(1, *_MOMENT)), calendars)
    missing = followed.missing.join(_words(followed.words), on="series_id", how="left", maintain_order="left")
    missing = missing.join(holidays, on=_HOLIDAYS.names(), how="anti", maintain_order="left")
    files = rows.group_by("series_id").agg(pl.col("file").first())
    holes = missing.drop("calendar").join(files, on="series_id", how="left", maintain_order="left")
    gap = holes.join(unpriced.unique().with_columns(read=True), on=_MOMENT, how="left", maintain_order="left")["read"]
    holes = pl.concat([rows.clear(), holes.with_columns(fold=pl.duration())], how="diagonal_relaxed")
    filled = desk.policy.gap == "fill"
    note = "no row" if calendars.name else "no row; if it is a holiday, name the calendar: ingest.calendar.name"
    desk.note("gap", holes, gap.is_null(), note, added=holes.height if filled else 0)
    return ordered(pl.concat([rows, holes]), *_KEY[1:]) if filled else rows, followed.words


def _words(words: dict[str, str]) -> pl.DataFrame:
    """Put the calendars of series in words into a frame."""
    return pl.DataFrame(list(words.items()), schema={"series_id": pl.String, "calendar": pl.String}, orient="row")


def _seen(rows: pl.DataFrame) -> pl.DataFrame:
    """Take the last vintage of each price, with its place among the rows as the column `_AT`."""
    return rows.with_row_index(_AT).filter(pl.col("price").is_not_null()).filter(~_same(-1, *_MOMENT))


def _beside(rows: pl.DataFrame, seen: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """Put what is said about the rows `seen` beside `rows`, null at the others."""
    at = seen.select(_AT).hstack(said)
    return rows.with_row_index(_AT).join(at, on=_AT, how="left", maintain_order="left").drop(_AT)
