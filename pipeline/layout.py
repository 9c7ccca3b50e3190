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
from pipeline.numerals import is_number, missing, number
from pipeline.rows import ORDER, READ

NAMES: dict[str, tuple[str, ...]] = {
    "time": (
        *("timestamp", "datetime", "date", "time", "ds", "ts", "open_time"),
        *("datum", "zeit", "uhrzeit", "zeitstempel", "fecha", "data"),
    ),
    "price": (
        *("price", "close", "adj_close", "last", "settle", "y", "value", "rate", "px_last"),
        *("preis", "kurs", "schluss", "schlusskurs", "zuletzt", "cours", "dernier", "clôture", "cloture"),
        *("prezzo", "ultimo", "chiusura", "precio", "último", "cierre"),
    ),
    "series_id": (
        *("series_id", "symbol", "sym", "ticker", "unique_id", "series", "instrument", "pair", "asset", "coin", "id"),
        *("isin", "ric", "code", "name", "area", "zone", "market", "gebiet"),
    ),
    "available_time": ("available_time", "knowledge_time", "published", "as_of"),
}
"""The names by which columns are recognised, whatever their case and punctuation."""

_VAGUE = {"last", "settle", "y", "value", "rate"}
"""Names of prices that may as well be the name of one series among others in a wide table."""

_LOOSE = {"code", "name", "area", "zone", "market", "gebiet"}
"""Names of series that give way to any other, for they may only describe it."""

_DATES, _CLOCKS = {"date", "datum", "fecha", "data"}, {"time", "zeit", "uhrzeit"}
_HOURS = {"hour", "stunde", "heure", "ora", "hora"}
"""Names of the parts of a time that stands in two columns."""

_BESIDE = {
    *("open", "high", "low", "close", "adjclose", "volume", "vol", "vwap", "bid", "ask", "mid"),
    *("tickvol", "tickvolume", "realvolume", "quotevolume", "spread", "trades", "count", "amount", "turnover"),
    *("openinterest", "dividends", "stocksplits", "splitratio", "change", "changepercent", "quantity", "qty", "size"),
    *("eröffn", "eröffnung", "eröffnungskurs", "erster", "hoch", "tief", "volumen", "umsatz", "veränderung"),
    *("ouv", "ouverture", "plushaut", "plusbas", "haut", "bas", "variation"),
    *("apertura", "massimo", "minimo", "volumi", "variazione", "var", "máximo", "maximo", "mínimo", "variación"),
}
"""Names of columns that stand beside a price."""

_COUNTED = 5
"""Rows from which a column may be taken for one that counts them."""

_SIDES = ("true false", "t f", "yes no", "y n", "buy sell", "buyer seller", "b s", "bid ask", "long short", "up down")
"""Pairs of words that tell of a row, such as the side of a trade, and name no series."""

_QUANTITY = r"^[+-]?\d[\d.,' ]*[%KMBTkmb]$"
"""Numbers with a suffix, such as 1.25M."""

_INDEX = {"", "index", "unnamed0", "rownames", "rownumber", "row", "no", "nr", "id"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The user's names of the columns; None is guessed, by name and by what the cells look like.

    Attributes
    ----------
    series_id : str or None
        Name of the series: text, or a number that is taken as text. Without one a file is one series; "" says that
        it is, whatever words its other columns hold.
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
    same : tuple of int
        Columns of words that do not tell series apart in the sample, and may do so below it.
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
    same: tuple[int, ...] = ()
    wide: bool
    said: tuple[str, ...]


def names_series(where: str, column: str, words: Sequence[str]) -> SchemaError:
    """Say that a column of different words may name the series, and what to set."""
    more = ", ..." if len(words) > 2 else ""
    return SchemaError(
        f"{where}: column {column!r} holds words ({', '.join(words[:2])}{more}) and no column is known to name the"
        f" series. Name it: ingest.columns.series_id = {column!r}, or take the file as one series:"
        " ingest.columns.series_id = ''."
    )


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
        If a named column is missing, a guess is not unique, words may name series, or hours stand apart from days.
    """
    head = _Head(names, sample.get_columns(), where, header)
    time = head.time(columns.time)
    left = set(range(len(names))) - set(time)
    single = columns.series_id == ""
    series = None if single else head.role("series_id", columns.series_id, left - head.running(left))
    series = head.text(left) if series is None and not (header or single) else series
    available = head.role("available_time", columns.available_time, left - {series})
    values = tuple(head.named(name, "values") for name in columns.values)
    left -= {series, available, *values}
    numeric = [i for i in sorted(left - head.running(left)) if head.numeric(i)]
    price = None if columns.layout == "wide" else head.role("price", columns.price, left)
    if price is None and not (columns.layout == "long" or series is not None or single or values):
        wide = [i for i in sorted(left - head.running(left)) if head.numeric(i) or head.empty(i)]
        if columns.layout == "wide" or (header and len(wide) > 1):
            return head.wide(time, available, wide)
    bars = head.close(numeric) if price is None and not header else None
    price = bars if bars is not None else head.only(numeric) if price is None else price
    if columns.price is None and columns.layout is None and series is None:
        head.refuse_wide(price, numeric)
    others = [names[i] for i in numeric if i != price and not head.counts_rows(i)]
    if columns.price is None:
        also = f" (also numeric: {', '.join(others)})" if others else ""
        head.said.append(f"price: column {names[price]!r}{also}")
    unnamed = () if single or series is not None else left - {price}
    if series is None:
        head.refuse_words(unnamed)
        head.said += [f"not used: {words}"] if (words := head.words(left - {price})) else []
    return Layout(
        time=time,
        others=tuple(others),
        same=tuple(i for i in sorted(unnamed) if head.wordy(i)),
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
        if role == "series_id":
            found = [i for i in found if self.bare[i] not in _LOOSE] or found
        if len(found) > 1:
            raise self.unclear(role, found)
        if found and role != "price":
            self.said.append(f"{role}: column {self.names[found[0]]!r}")
        return found[0] if found else None

    def time(self, name: str | None) -> tuple[int, ...]:
        """Find the column of times, or those of dates and times of day."""
        if name is not None:
            parts = [name] if name in self.names else name.split("+")
            named = tuple(self.named(part.strip(), "time") for part in parts[:2])
            if len(named) == 2 and self.hours(self.cells[named[1]]):
                raise self.apart(*named)
            return named
        found = self.called("time", range(len(self.names)))
        dates, clocks = ([i for i in found if self.bare[i] in words] for words in (_DATES, _CLOCKS))
        if len(found) == 2 and len(dates) == len(clocks) == 1 and is_clock(self.cells[clocks[0]]):
            return self.pair(dates[0], clocks[0])
        if not found:
            found = [i for i, cells in enumerate(self.cells) if is_time(cells) and not self._counts_rows(cells)]
            after = found[0] + 1 if found else 0
            if found and after < len(self.cells) and self.plain_clock(self.cells[after]):
                return self.pair(found[0], after)
        if len(found) != 1:
            raise self.unclear("time", found)
        beside = [i for i, bare in enumerate(self.bare) if bare in _HOURS and is_clock(self.cells[i])]
        if len(beside) == 1 and self.days(self.cells[found[0]]):
            return self.pair(found[0], beside[0])
        self.said.append(f"time: column {self.names[found[0]]!r}")
        return (found[0],)

    def pair(self, date: int, clock: int) -> tuple[int, int]:
        """Take the time from two columns."""
        if self.hours(self.cells[clock]):
            raise self.apart(date, clock)
        self.said.append(f"time: columns {self.names[date]!r} and {self.names[clock]!r}")
        return date, clock

    def days(self, cells: pl.Series) -> bool:
        """Tell whether times are days only."""
        day = cells.drop_nulls().cast(pl.String).str.replace(r"[T ]00:00(:00(\.0+)?)?(Z| ?UTC|\+00:?00)?$", "")
        return not day.str.contains(r":|^\d{9,}$").any()

    def hours(self, cells: pl.Series) -> bool:
        """Tell whether cells number the hours of a day: one or two digits, up to 24."""
        texts = cells.cast(pl.String).str.strip_chars().drop_nulls()
        hour = texts.cast(pl.Int64, strict=False)
        fits = texts.str.contains(r"^\d\d?$").all() and bool((hour <= 24).all())  # pyright: ignore[reportOperatorIssue]
        return fits and bool((hour > 0).any())  # pyright: ignore[reportOperatorIssue]

    def apart(self, date: int, clock: int) -> SchemaError:
        """Say that the hour stands apart from the date."""
        return SchemaError(
            f"{self.where}: column {self.names[clock]!r} seems to number the hours of the days in"
            f" {self.names[date]!r}. Join them into one column of times, such as 2019-12-31 23:00, or write the hours"
            " as 23:00. Note whether hour 1 begins at 00:00 or at 01:00."
        )

    def plain_clock(self, cells: pl.Series) -> bool:
        """Tell whether cells are times of day beyond doubt, with a colon."""
        texts = cells.cast(pl.String).drop_nulls() if is_clock(cells) else pl.Series([], dtype=pl.String)
        return texts.len() > 0 and bool(texts.str.contains(":", literal=True).all())

    def running(self, among: Collection[int]) -> set[int]:
        """Find columns that number the rows: whole numbers, each once, under the name of an index or none."""
        return {
            i
            for i in among
            if (self.bare[i] in _INDEX and self._numbers_rows(self.cells[i]))
            or (not self.header and self._counts_rows(self.cells[i]))
        }

    def _numbers_rows(self, cells: pl.Series) -> bool:
        number = cells.cast(pl.Int64, strict=False) if cells.dtype == pl.String or cells.dtype.is_integer() else None
        return number is not None and not number.has_nulls() and number.len() > 1 and number.is_unique().all()

    def _counts_rows(self, cells: pl.Series) -> bool:
        """Tell whether whole numbers rise by one from row to row, as the numbers of trades do."""
        if not self._numbers_rows(cells) or len(cells) < _COUNTED:
            return False
        return bool((cells.cast(pl.Int64).diff().drop_nulls() == 1).mean() > 0.9)  # pyright: ignore[reportOperatorIssue]

    def counts_rows(self, i: int) -> bool:
        """Tell whether a column counts the rows."""
        return self._counts_rows(self.cells[i])

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
        found = [i for i in sorted(among) if self.wordy(i)]
        if len(found) == 1:
            self.said.append(f"series_id: column {self.names[found[0]]!r}")
        return found[0] if len(found) == 1 else None

    def wordy(self, i: int) -> bool:
        """Tell whether a column holds words that may name series."""
        cells = self.cells[i]
        if cells.dtype not in (pl.String, pl.Categorical, pl.Enum) or self.bare[i] in _BESIDE:
            return False
        if self.numeric(i) or self.empty(i) or is_time(cells) or is_clock(cells):
            return False
        different = self.there(i).unique().str.to_lowercase()
        quantities = different.str.contains(_QUANTITY).all() and different.str.contains("[.,%]").any()
        return not quantities and not any(set(different) <= set(pair.split()) for pair in _SIDES)

    def there(self, i: int) -> pl.Series:
        """Give the cells of a column that are there, as text."""
        text = self.cells[i].cast(pl.String).str.strip_chars().to_frame("c")
        return text.filter(~missing(pl.col("c"))).to_series()

    def refuse_words(self, among: Collection[int]) -> None:
        """Raise if words in most rows, some of them again and again, may name series that no one has named."""
        for i in (i for i in sorted(among) if self.wordy(i)):
            there = self.there(i)
            different = there.unique(maintain_order=True)
            if 1 < different.len() < there.len() and 2 * there.len() > self.cells[i].len():
                raise names_series(self.where, self.names[i], different.to_list())

    def close(self, numeric: list[int]) -> int | None:
        """Find the close of bars: the last of four columns in a row where the second is largest, the third least."""
        for bar in zip(*(numeric[k:] for k in range(4)), strict=False):
            if bar[3] - bar[0] == 3 and self._is_bar(pl.DataFrame([self.cells[i].alias(f"c{i}") for i in bar])):
                first, last = self.names[bar[0]], self.names[bar[3]]
                self.said.append(f"bars: columns {first!r} to {last!r} are open, high, low, close")
                return bar[3]
        return None

    def _is_bar(self, cells: pl.DataFrame) -> bool:
        for decimal in (".", ","):
            columns = (number(pl.col(c), decimal) if t == pl.String else pl.col(c) for c, t in cells.schema.items())
            rows = cells.select(columns).drop_nulls()
            opens, high, low, close = rows.get_columns()
            ordered = (high >= opens) & (high >= close) & (low <= opens) & (low <= close)
            if rows.height > 1 and 2 * rows.height > cells.height and ordered.all() and (high > low).any():
                return True
        return False

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
