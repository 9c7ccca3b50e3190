"""Revisions: which rows of a frame say something new against the vintages held, and what they revise.

Comes in: vintages held and rows to add. Goes out: the rows that are new, each with the moment at which it became
known, and the values that they replace. Imported by the store of vintages.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from models.errors import PolicyError
from pipeline.rows import UTC_TIME

KEY = ("series_id", "time", "available_time")
"""What identifies a row: the values of one moment, as they were known from `available_time` on."""

_NEW = "_new"


def ordered(frame: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Sort by series name and then by the columns `by`; rows equal in all of them keep their order.

    Names are compared through their rank, which is several times faster than comparing strings.
    """
    rank = pl.Enum(frame["series_id"].unique().sort())
    return frame.sort(pl.col("series_id").cast(rank), *by, maintain_order=True)


def followed() -> pl.Expr:
    """Say which rows, sorted by `KEY`, are not the latest vintage of their (series, time)."""
    return pl.all_horizontal(_equals(-1, "series_id", "time"))


def news(held: pl.DataFrame, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Take the rows that say something new.

    Parameters
    ----------
    held : DataFrame
        `KEY` and values: all vintages held of the series and times of `rows`.
    rows : DataFrame
        `KEY` and some of the values. A null `available_time` was not given: the row is new if it is the first of
        its (series, time), and then known from its `time` on, or if its values differ from the latest vintage, and
        then known from `now` on.
    now : datetime
        In UTC. A revision becomes known after what it revises, whatever the clock says.

    Returns
    -------
    DataFrame
        Columns of `held`, sorted by `KEY`. Values that `rows` do not have are those of the vintage before.

    Raises
    ------
    PolicyError
        If values differ under one key.
    """
    given = [c for c in rows.columns if c not in KEY]
    fresh = _dated(held.select(rows.columns), _distinct(held.select(rows.columns), rows, given), given, now)
    carried = [c for c in held.columns if c not in rows.columns]
    return _carried(held, fresh, carried).select(held.columns)


def revised(held: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """List the new rows that differ from the vintage before of their (series, time), with old values and new ones.

    Returns
    -------
    DataFrame
        `KEY` of the new rows, and for each value `old_<value>` and `new_<value>`.
    """
    values = [c for c in fresh.columns if c not in KEY]
    pairs = [e for c in values for e in (pl.col(c).shift(1).alias(f"old_{c}"), pl.col(c).alias(f"new_{c}"))]
    other = pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift(1)) for c in values)
    again = pl.all_horizontal(_NEW, other, *_equals(1, "series_id", "time"))
    rows = _stacked(held, fresh, "time", "available_time")
    return rows.select(*KEY, *pairs, again.alias(_NEW)).filter(_NEW).drop(_NEW)


def _equals(shift: int, *columns: str) -> list[pl.Expr]:
    """Say where columns equal those of the row before (shift 1) or after (shift -1)."""
    return [pl.col(c).eq_missing(pl.col(c).shift(shift)) for c in columns]


def _stacked(held: pl.DataFrame, rows: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Sort held and other rows together, the held ones first where equal; `_NEW` says which is which."""
    marked = [held.with_columns(pl.lit(False).alias(_NEW)), rows.with_columns(pl.lit(True).alias(_NEW))]
    return ordered(pl.concat(marked, how="diagonal"), *by)


def _distinct(held: pl.DataFrame, rows: pl.DataFrame, given: Sequence[str]) -> pl.DataFrame:
    """Take the rows whose key is not held, each once; refuse other values under one key."""
    stack = _stacked(held, rows, "time", "available_time")
    same_key = pl.all_horizontal(_equals(1, *KEY))
    before = [pl.col(c).shift(1).alias(f"old_{c}") for c in given]
    clash = stack.with_columns(*before).filter(same_key & ~pl.all_horizontal(_equals(1, *given)))
    if clash.height:
        _refuse(clash, given)
    return stack.filter(pl.col(_NEW) & ~same_key).drop(_NEW)


def _refuse(clash: pl.DataFrame, given: Sequence[str]) -> None:
    """Say which values stand under one key."""
    first = clash.row(0, named=True)
    pairs = ", ".join(f"{c} {first['old_' + c]} and {first[c]}" for c in given)
    moment = first["available_time"]
    raise PolicyError(
        f"conflict: {clash.height} rows give other values for the same series, time and available_time;"
        f" the first is {first['series_id']} at {first['time']}: {pairs},"
        f" {'neither with an available_time' if moment is None else f'both available at {moment}'}."
        " A value that was revised needs a later available_time, or none: then it is known from the ingest on."
    )


def _dated(held: pl.DataFrame, rows: pl.DataFrame, given: Sequence[str], now: datetime) -> pl.DataFrame:
    """Give rows without `available_time` the moment at which they became known; leave out those that tell nothing new.

    The latest vintage is looked for in `held` and among the rows that say when they became known.
    """
    known = pl.col("available_time")
    dated, undated = rows.filter(known.is_not_null()), rows.filter(known.is_null()).drop("available_time")
    if undated.is_empty():
        return dated
    latest = ordered(pl.concat([held, dated]), "time", "available_time").filter(~followed())
    pairs = undated.join(latest, on=["series_id", "time"], how="left", suffix="_before")
    differs = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_before")) for c in given)
    later = pl.max_horizontal(pl.lit(now, dtype=UTC_TIME), known + pl.duration(microseconds=1))
    first = known.is_null()
    fresh = pairs.filter(first | differs).with_columns(available_time=pl.when(first).then("time").otherwise(later))
    return pl.concat([dated, fresh.select(dated.columns)])


def _carried(held: pl.DataFrame, fresh: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Take over `columns`, which new rows do not give, from the vintage held before each; sorted by `KEY`."""
    stack = _stacked(held, fresh, "time", "available_time").with_row_index("row")
    if columns:
        held_row = pl.when(~pl.col(_NEW)).then("row").forward_fill().over("series_id", "time")
        places = stack.select(held_row).to_series()
        stack = stack.with_columns(stack[c].gather(places) for c in columns)
    return stack.filter(_NEW)
