"""Layout: which column of a table is the time, which the price, and whether each series has a column of its own.

Comes in: the names of the columns, a sample of the cells, and the names that the user gives. Goes out: a `Layout`, with
every guess in words. Knows polars and what times and numbers look like; imported by reading.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from models.errors import ConfigError, SchemaError, unknown
from pipeline.moments import is_clock, is_time
from pipeline.numerals import is_number, missing
from pipeline.rows import ORDER, READ

NAMES: dict[str, tuple[str, ...]] = {
    "time": ("timestamp", "datetime", "date", "time", "ds", "ts", "open_time"),
    "price": ("price", "close", "adj_close", "last", "settle", "y", "value", "rate", "px_last"),
    "series_id": ("series_id", "symbol", "ticker", "unique_id", "series", "instrument", "pair", "asset", "coin", "id"),
    "available_time": ("available_time", "knowledge_time", "published", "as_of"),
}
"""The names by which columns are recognised, whatever their case and punctuation."""

_VAGUE = {"last", "settle", "y", "value", "rate"}
"""Names of prices that may as well be the name of one series among others in a wide table."""

_BESIDE = {
    "open",
    "high",
    "low",
    "close",
    "adjclose",
    "volume",
    "vol",
    "tickvol",
    "tickvolume",
    "realvolume",
    "vwap",
    "bid",
    "ask",
    "mid",
    "spread",
    "trades",
    "count",
    "amount",
    "turnover",
    "quotevolume",
    "openinterest",
    "dividends",
    "stocksplits",
    "splitratio",
    "change",
    "changepercent",
    "quantity",
    "qty",
    "size",
}
"""Names of columns that stand beside a price."""

_INDEX = {"", "index", "unnamed0", "rownames", "rownumber", "row", "no", "nr", "id"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The user's names of the columns; None is guessed, by name and by what the cells look like.

    Attributes
    ----------
    series_id : str or None
        Name of the series: text, or a number that is taken as text. Without one a file is one series.
    time : str or None
        Moment of the price; "date+time" joins a column of dates and one of times of day.
    price : str or None
        The price.
    available_time : str or None
        Moment at which the price became known.
    values : tuple of str
        Further columns of numbers to keep, such as the volume.
    layout : {"long", "wide"} or None
        Whether a row is a price, or a moment with a column for each series.
    """

    series_id: str | None = None
    time: str | None = None
    price: str | None = None
    available_time: str | None = None
    values: tuple[str, ...] = ()
    layout: Literal["long", "wide"] | None = None

    def __post_init__(self) -> None:
        if self.layout not in (None, "long", "wide"):
            raise ConfigError(unknown("layout", str(self.layout), ("long", "wide")))
        if isinstance(self.values, str):
            raise ConfigError(f"values must be a list of columns, not {self.values!r}")
        taken = [name for name in self.values if name in (*READ, ORDER)]
        if taken or len(set(self.values)) < len(self.values):
            raise ConfigError(
                f"values must name each column once, and none called {', '.join((*READ, ORDER))}: {taken}"
            )
        if self.layout == "wide" and (self.values or self.series_id or self.price):
            raise ConfigError(
                "a wide table has no column of prices, of series or of further values: name none of them."
            )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Roles of columns, by their position from 0.

    Attributes
    ----------
    time : tuple of int
        The time; or the date and the time of day.
    series_id, available_time : int or None
        The name of the series and the moment of knowledge, if there is a column of them.
    prices : tuple of int
        The column of prices; in a wide table those of all series.
    values : tuple of int
        Columns of further values.
    others : tuple of str
        Further columns of numbers, which have no role.
    wide : bool
        Whether each series has a column.
    said : tuple of str
        The guesses, in words.
    """

    time: tuple[int, ...]
    series_id: int | None
    available_time: int | None
    prices: tuple[int, ...]
    values: tuple[int, ...]
    others: tuple[str, ...] = ()
    wide: bool
    said: tuple[str, ...]


def lay_out(names: Sequence[str], sample: pl.DataFrame, columns: Columns, *, header: bool, where: str) -> Layout:
    """Give columns their roles: by the user's names, else by known names, else by what the cells look like.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    sample : DataFrame
        Cells of the columns, in the same order.
    columns : Columns
        The user's names.
    header : bool
        Whether `names` come from the file; if not, the first times and the first numbers are taken.
    where : str
        Name of the file, for messages.

    Raises
    ------
    SchemaError
        If a named column is missing, or a guess is not unique.
    """
    head = _Head(names, sample.get_columns(), where, header)
    time = head.time(columns.time)
    left = set(range(len(names))) - set(time)
    series = head.role("series_id", columns.series_id, left - head.running(left))
    series = head.text(left) if series is None and not header else series
    available = head.role("available_time", columns.available_time, left - {series})
    values = tuple(head.named(name, "values") for name in columns.values)
    left -= {series, available, *values}
    numeric = [i for i in sorted(left - head.running(left)) if head.numeric(i)]
    price = None if columns.layout == "wide" else head.role("price", columns.price, left)
    if price is None and not (columns.layout == "long" or series is not None or values):
        wide = [i for i in sorted(left - head.running(left)) if head.numeric(i) or head.empty(i)]
        if columns.layout == "wide" or (header and len(wide) > 1):
            return head.wide(time, available, wide)
    price = head.only(numeric) if price is None else price
    if columns.price is None and columns.layout is None and series is None:
        head.refuse_wide(price, numeric)
    others = [names[i] for i in numeric if i != price]
    if columns.price is None:
        also = f" (also numeric: {', '.join(others)})" if others else ""
        head.said.append(f"price: column {names[price]!r}{also}")
    if series is None:
        head.said += [f"not used: {words}"] if (words := head.words(left - {price})) else []
    return Layout(
        time=time,
        others=tuple(others),
        series_id=series,
        available_time=available,
        prices=(price,),
        values=values,
        wide=False,
        said=tuple(head.said),
    )


class _Head:
    """Names and first cells of the columns of one file, and what was said of them."""

    def __init__(self, names: Sequence[str], cells: list[pl.Series], where: str, header: bool) -> None:
        self.names, self.cells, self.where, self.header = names, cells, where, header
        self.bare = [re.sub(r"[\W_]", "", name.casefold()) for name in names]
        self.said: list[str] = []

    def named(self, name: str, role: str) -> int:
        """Find the column that the user names."""
        found = [i for i, other in enumerate(self.names) if other == name]
        if len(found) == 1:
            return found[0]
        what = f"column (for {role})"
        message = f"{name!r} names {len(found)} columns" if found else unknown(what, name, self.names)
        raise SchemaError(f"{self.where}: {message}. Name another in ingest.columns.{role}.")

    def called(self, role: str, among: Collection[int]) -> list[int]:
        """Find columns by the known names of a role."""
        known = {name.replace("_", "") for name in NAMES[role]}
        return [i for i in sorted(among) if self.bare[i] in known]

    def role(self, role: str, name: str | None, among: Collection[int]) -> int | None:
        """Find the column of a role, None if there is none."""
        if name is not None:
            return self.named(name, role)
        found = self.called(role, among)
        if "adjclose" in {self.bare[i] for i in found}:
            found = [i for i in found if self.bare[i] != "close"]
        if len(found) > 1:
            raise self.unclear(role, found)
        if found and role != "price":
            self.said.append(f"{role}: column {self.names[found[0]]!r}")
        return found[0] if found else None

    def time(self, name: str | None) -> tuple[int, ...]:
        """Find the column of times, or those of dates and times of day."""
        if name is not None:
            parts = [name] if name in self.names else name.split("+")
            return tuple(self.named(part.strip(), "time") for part in parts[:2])
        found = self.called("time", range(len(self.names)))
        dates, clocks = ([i for i in found if self.bare[i] == word] for word in ("date", "time"))
        if len(found) == len(dates) + len(clocks) == 2 and dates and is_clock(self.cells[clocks[0]]):
            return self.pair(dates[0], clocks[0])
        if not found:
            found = [i for i, cells in enumerate(self.cells) if is_time(cells)]
            found = found[:1] if not self.header else found
            after = found[0] + 1 if found else 0
            if found and after < len(self.cells) and self.plain_clock(self.cells[after]):
                return self.pair(found[0], after)
        if len(found) != 1:
            raise self.unclear("time", found)
        self.said.append(f"time: column {self.names[found[0]]!r}")
        return (found[0],)

    def pair(self, date: int, clock: int) -> tuple[int, int]:
        """Take the time from two columns."""
        self.said.append(f"time: columns {self.names[date]!r} and {self.names[clock]!r}")
        return date, clock

    def plain_clock(self, cells: pl.Series) -> bool:
        """Tell whether cells are times of day beyond doubt, with a colon."""
        texts = cells.cast(pl.String).drop_nulls() if is_clock(cells) else pl.Series([], dtype=pl.String)
        return texts.len() > 0 and bool(texts.str.contains(":", literal=True).all())

    def running(self, among: Collection[int]) -> set[int]:
        """Find columns that number the rows: whole numbers, each once, under the name of an index or none."""
        return {i for i in among if self.bare[i] in _INDEX and self._numbers_rows(self.cells[i])}

    def _numbers_rows(self, cells: pl.Series) -> bool:
        number = cells.cast(pl.Int64, strict=False) if cells.dtype == pl.String or cells.dtype.is_integer() else None
        return number is not None and not number.has_nulls() and number.len() > 1 and number.is_unique().all()

    def numeric(self, i: int) -> bool:
        """Tell whether a column holds numbers."""
        return is_number(self.cells[i])

    def empty(self, i: int) -> bool:
        """Tell whether a column with a name holds nothing in the sample: a series may begin later."""
        cells = self.cells[i]
        none = (
            cells.to_frame("c").select(missing(pl.col("c"))).to_series()
            if cells.dtype == pl.String
            else cells.is_null()
        )
        return bool(self.bare[i]) and bool(none.all())

    def text(self, among: Collection[int]) -> int | None:
        """Find the only column of words, which names the series of a file without header."""
        found = [i for i in sorted(among) if not (self.numeric(i) or self.empty(i) or is_time(self.cells[i]))]
        if len(found) == 1:
            self.said.append(f"series_id: column {self.names[found[0]]!r}")
        return found[0] if len(found) == 1 else None

    def words(self, among: Collection[int]) -> str:
        """List the columns that hold something, but no numbers."""
        rest = (i for i in sorted(among) if not (self.numeric(i) or self.empty(i) or not self.bare[i]))
        return ", ".join(self.names[i] for i in rest)

    def only(self, numeric: list[int]) -> int:
        """Take the only column of numbers as the price, or the first one of a file without header."""
        if len(numeric) != 1 and not (numeric and not self.header):
            raise self.unclear("price", numeric)
        return numeric[0]

    def wide(self, time: tuple[int, ...], available: int | None, series: list[int]) -> Layout:
        """Take each of some columns as a series."""
        names = [self.names[i] for i in series]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise SchemaError(
                f"{self.where}: a wide table must have columns of prices with different names; {twice or names}"
            )
        left_out = [name for i, name in enumerate(self.names) if i not in (*time, available, *series)]
        also = f" (left out: {', '.join(map(repr, left_out))})" if left_out else ""
        self.said.append(f"wide table: {len(names)} series in columns {names[0]} ... {names[-1]}{also}")
        said = tuple(self.said)
        return Layout(
            time=time, series_id=None, available_time=available, prices=tuple(series), values=(), wide=True, said=said
        )

    def refuse_wide(self, price: int, numeric: list[int]) -> None:
        """Raise if the name of the price may be the name of a series among others."""
        others = [self.names[i] for i in numeric if i != price and self.bare[i] not in _BESIDE]
        if self.bare[price] in _VAGUE and len(others) > 2:
            raise SchemaError(
                f"{self.where}: {self.names[price]!r} may be the price, or a series beside {', '.join(others)}."
                f" Say which: ingest.columns.price = {self.names[price]!r} or ingest.columns.layout = 'wide'."
            )

    def unclear(self, role: str, found: list[int]) -> SchemaError:
        """Say that a role has no column, or several."""
        which = ", ".join(repr(self.names[i]) for i in (found or range(len(self.names))))
        what = f"{role} may be any of {which}" if found else f"no column is known to be the {role} among {which}"
        example = self.names[found[0]] if found else "..."
        return SchemaError(f"{self.where}: {what}. Name it: ingest.columns.{role} = {example!r}.")
