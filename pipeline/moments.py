"""Moments: times as they are written in files, recognised and brought to UTC.

Comes in: a column of times, as text, numbers or polars' own types, and a sample of it. Goes out: a `Moments`, which
says how they are written and gives an expression that reads them. Knows polars and the errors; imported by whatever
reads times from files: csv_dialect, layout, reading.

Nothing is guessed row by row: one form is recognised and all rows are read in it; what does not fit is null, with a
note that says why if the reason is not plain.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import polars as pl

from models.errors import SchemaError
from pipeline.numerals import missing
from pipeline.rows import UTC_TIME

Unit = Literal["s", "ms", "us", "ns"]
Kind = Literal["typed", "compact", "year first", "day first", "month first", "day and name", "name and day", "epoch"]

_YEAR, _MONTH, _DAY = r"(?P<year>\d{4})", r"(?P<month>\d{1,2})", r"(?P<day>\d{1,2})"
_ABBREVIATIONS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = rf"(?P<month>(?i:{'|'.join(_ABBREVIATIONS)})[a-z]*)\.?"
_AFTER_HOUR = r":?(?P<minute>[0-5]\d)(?::?(?P<second>[0-5]\d)(?P<fraction>[.,:]\d+)?)? ?(?P<half>[AaPp]\.?[Mm]\.?)?"
_CLOCK = rf"(?P<hour>2[0-3]|[01]?\d){_AFTER_HOUR}"
_COMPACT_CLOCK = r"(?P<hour>2[0-3]|[01]\d)" + _AFTER_HOUR.replace(r"[.,:]\d+", r"[.,]\d+|(?:\d{3})+")
_OFFSET = r"(?P<offset>Z|z|UTC|GMT|[+-](?:0\d|1[0-8])(?::?[0-5]\d)?)"
_DATES: dict[Kind, str] = {
    "compact": r"(?P<year>1[6-9]\d\d|2[0-2]\d\d)(?P<month>\d\d)(?P<day>\d\d)",
    "year first": rf"{_YEAR}[-/.]{_MONTH}(?:[-/.]{_DAY})?",
    "day first": rf"{_DAY}[-/.]{_MONTH}[-/.]{_YEAR}",
    "month first": rf"{_MONTH}[-/.]{_DAY}[-/.]{_YEAR}",
    "day and name": rf"{_DAY}[-/. ]?{_NAME}[-/., ]*(?P<year>\d{{4}}|\d\d)",
    "name and day": rf"{_NAME} ?{_DAY},? {_YEAR}",
}
_UNITS: dict[Unit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_MICROSECONDS: dict[Unit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_FIRST, _LAST = datetime(1677, 1, 1, tzinfo=UTC), datetime(2262, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
_CLEAR = 10.0
"""How many times better one reading must be than the other to decide whether the day or the month is first."""

_ENOUGH = 500
"""Cells that tell whether a column holds times."""

SAMPLE = 10_000
"""Rows at the head of a file from which its form is recognised."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """How the times of a column are written.

    Attributes
    ----------
    kind : str
        Order of the parts of a date, or "epoch", or "typed" for polars' own dates and times.
    time_zone : str
        Zone of the times that name none.
    unit : {"s", "ms", "us", "ns"} or None
        Unit of an epoch.
    unit_given : bool
        Whether the user named the unit; if not, numbers of the size of another unit are not read.
    example : str
        A text of the column.
    """

    kind: Kind
    time_zone: str = "UTC"
    unit: Unit | None = None
    unit_given: bool = False
    example: str = ""

    @property
    def said(self) -> str:
        """Say how the times are taken."""
        if self.unit is not None:
            return f"epoch {_UNITS[self.unit]}, UTC"
        zone = "UTC" if self.time_zone == "UTC" else f"{self.time_zone} -> UTC"
        return zone if self.kind == "typed" else f"{self.kind} ({self.example}), {zone}"

    def read(self, frame: pl.LazyFrame, cell: str, dtype: pl.DataType, to: str) -> pl.LazyFrame:
        """Read the column `cell`, of type `dtype`, into a struct column `to` of `time`, `fold` and `note`.

        `time` is in UTC, microseconds, null where the cell is missing or cannot be read; `fold`, a duration, is what to
        add if this is the second time that the clocks show this; `note` tells why it cannot be read.
        """
        if self.kind == "epoch":
            return frame.with_columns(self._epoch(pl.col(cell), dtype).alias(to))
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            return frame.with_columns(_struct(pl.col(cell).cast(UTC_TIME)).alias(to))
        if self.kind == "typed":
            naive = frame.with_columns(pl.col(cell).cast(pl.Datetime("us")).alias(to))
            return naive.with_columns(self._local(pl.col(to), pl.lit(None, dtype=pl.Int64)).alias(to))
        text = pl.col(cell).cast(pl.String).str.strip_chars()  # step by step: the engine repeats shared expressions
        parts = frame.with_columns(text.str.extract_groups(_pattern(self.kind)).alias(to)).with_columns(
            (_date(pl.col(to), self.kind).cast(pl.Datetime("us")) + pl.duration(microseconds=_clock(pl.col(to)))).alias(
                "naive"
            ),
            _offset(pl.col(to).struct.field("offset")).alias("offset"),
        )
        local = self._local(pl.col("naive"), pl.col("offset"))
        return parts.with_columns(local.alias(to)).drop("naive", "offset")

    def _local(self, naive: pl.Expr, offset: pl.Expr) -> pl.Expr:
        """Bring naive times to UTC: by their offset, microseconds, or where that is null by the zone."""
        given = (naive - pl.duration(microseconds=offset.fill_null(0))).dt.replace_time_zone("UTC")
        if self.time_zone == "UTC":
            return _struct(given)
        earliest, latest = (
            naive.dt.replace_time_zone(self.time_zone, ambiguous=which, non_existent="null").dt.convert_time_zone("UTC")
            for which in ("earliest", "latest")
        )
        skipped = naive.is_not_null() & offset.is_null() & earliest.is_null()
        return _struct(
            pl.when(offset.is_null()).then(earliest).otherwise(given),
            fold=pl.when(offset.is_null()).then(latest - earliest),
            note=pl.when(skipped).then(pl.lit(f"the clocks skip it in {self.time_zone}")),
        )

    def _epoch(self, cell: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        """Read counts since 1970; whole ones exactly."""
        assert self.unit is not None
        cell = cell.str.strip_chars() if dtype == pl.String else cell
        count = cell.cast(pl.Float64, strict=False)
        size = _unit_of(count)
        other = (size != self.unit).fill_null(False) & (not self.unit_given)
        factor = _MICROSECONDS[self.unit]
        fits = ~other & ((count * factor).abs() < 9.22e18) & (count.abs() < 9.22e18)
        rough = (pl.when(fits).then(count) * factor).round().cast(pl.Int64, strict=False)
        if dtype == pl.String or dtype.is_integer():
            whole = pl.when(fits).then(cell).cast(pl.Int64, strict=False)
            rough = pl.coalesce(whole // 1000 if self.unit == "ns" else whole * int(factor), rough)
        note = size + pl.lit(f" among {self.unit}; if all are in one unit, name it: ingest.format.unit")
        return _struct(_epoch_time(rough), note=pl.when(other).then(note))


def recognise(
    rows: pl.LazyFrame, *, where: str, time_zone: str, unit: Unit | None = None, day_first: bool | None = None
) -> Moments:
    """Find the form of a column of times.

    Whether the day or the month comes first is told by any field above 12 in the file; if there is none, by the
    reading under which the times are in order, or else evenly spaced.

    Parameters
    ----------
    rows : LazyFrame
        Columns `cell`, the times, and `series`, the name of the series of each; in the order of the file.
    where : str
        File and column, for messages.
    time_zone : str
        Zone of times that name none.
    unit : {"s", "ms", "us", "ns"}, optional
        Unit of numbers that are epochs; recognised by their size by default.
    day_first : bool, optional
        Whether the day stands before the month, where both are numbers.

    Raises
    ------
    SchemaError
        If the cells are no times in a known form, or day and month cannot be told apart.
    """
    sample = rows.head(SAMPLE).collect()
    form = _form(sample["cell"], unit)
    there = sample["cell"].drop_nulls()
    if form is None:
        raise SchemaError(
            f"{where}: no times in a known form, such as {there.head(1).to_list()}. Known: ISO 8601 (2019-12-31T23:59),"
            " 31/12/2019, 12/31/2019, 31.12.2019, 31-Dec-2019, Dec 31, 2019, 20191231, 20191231235959, seconds to"
            " nanoseconds since 1970 (of a year before 1973 only with ingest.format.unit)."
        )
    moments = replace(form, time_zone=time_zone, example=str(there[0]).strip())
    if moments.kind not in ("day first", "month first"):
        return moments
    if day_first is not None:
        return replace(moments, kind="day first" if day_first else "month first")
    kind = _order(rows, sample)
    if kind is None:
        raise SchemaError(
            f"{where}: times like {moments.example!r} may have the day or the month first, and nothing in the file"
            " tells which. Say it: ingest.format.day_first = true or false."
        )
    return replace(moments, kind=kind)


def is_time(cells: pl.Series) -> bool:
    """Tell whether a column holds times: nine in ten of the cells that are there."""
    there = _there(cells).head(_ENOUGH)
    if there.dtype == pl.String or there.dtype.is_numeric():
        count = there.cast(pl.Float64, strict=False).abs()
        if not count.is_null().any() and not (count >= 1e7).any():
            return False  # numbers too small to be anything but numbers
    form = _form(there, None)
    return form is not None and _valid(there, [form])[0] >= 0.9 * there.len()


def is_clock(cells: pl.Series) -> bool:
    """Tell whether a column holds times of day: 23:59, 23:59:59.5, 235959, 2359."""
    if cells.dtype == pl.Time:
        return True
    if not (cells.dtype == pl.String or cells.dtype.is_integer()):
        return False
    text = _there(cells).cast(pl.String).str.strip_chars()
    fits = text.str.contains(rf"^{_CLOCK} ?{_OFFSET}?$") | text.str.contains(r"^\d{1,6}$")
    return text.len() > 0 and bool(fits.all())


def joined(date: pl.Expr, clock: pl.Expr, clocks: pl.Series) -> pl.Expr:
    """Join a date and a time of day from two columns into one text; null where either is missing.

    Digits that lost leading zeros (93000 for 09:30:00) get them back, as many as the sample `clocks` needs.
    """
    digits = _there(clocks).cast(pl.String).str.strip_chars().str.len_chars().max()
    width = 6 if isinstance(digits, int) and digits > 4 else 4
    text = clock.cast(pl.String).str.strip_chars()
    padded = pl.when(text.str.contains(r"^\d+$")).then(text.str.zfill(width)).otherwise(text)
    return pl.concat_str([date.cast(pl.String).str.strip_chars(), padded], separator=" ")


def _pattern(kind: Kind) -> str:
    between, clock = ("[T _]?", _COMPACT_CLOCK) if kind == "compact" else ("[T, ]+", _CLOCK)
    return rf"^{_DATES[kind]}(?:{between}{clock}(?: ?{_OFFSET})?)?$"


def _date(parts: pl.Expr, kind: Kind) -> pl.Expr:
    """Put year, month and day together; null where there is no such day."""
    year, month, day = (parts.struct.field(name) for name in ("year", "month", "day"))
    century = pl.when(year.cast(pl.Int32) < 70).then(pl.lit("20")).otherwise(pl.lit("19"))
    year = pl.when(year.str.len_chars() == 2).then(century + year).otherwise(year)
    if kind in ("day and name", "name and day"):  # not by replace_strict, for which the engine would hold all rows
        name = month.str.slice(0, 3).str.to_lowercase()
        month = pl.coalesce(pl.when(name == m).then(pl.lit(str(i))) for i, m in enumerate(_ABBREVIATIONS, start=1))
    filled = pl.when(year.is_not_null()).then(day.str.zfill(2).fill_null("01"))
    return pl.concat_str([year, month.str.zfill(2), filled]).str.to_date("%Y%m%d", strict=False)


def _clock(parts: pl.Expr) -> pl.Expr:
    """Put the time of day together, in microseconds; zero where there is none."""
    hour, minute, second = (
        parts.struct.field(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second")
    )
    half = parts.struct.field("half").str.slice(0, 1).str.to_lowercase()
    hour = pl.when(half.is_null()).then(hour).otherwise(hour % 12 + pl.when(half == "p").then(12).otherwise(0))
    digits = parts.struct.field("fraction").str.strip_chars_start(".,:").str.slice(0, 6)
    fraction = digits.str.pad_end(6, "0").cast(pl.Int64).fill_null(0)
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction


def _offset(text: pl.Expr) -> pl.Expr:
    """Read an offset from UTC, in microseconds; null where none is given."""
    digits = text.str.replace(":", "", literal=True)
    minutes = digits.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + digits.str.slice(3, 2).cast(
        pl.Int64, strict=False
    ).fill_null(0)
    signed = pl.when(digits.str.starts_with("-")).then(-minutes).otherwise(minutes)
    return pl.when(text.is_not_null()).then(signed.fill_null(0) * 60_000_000)


def _struct(time: pl.Expr, fold: pl.Expr | None = None, note: pl.Expr | None = None) -> pl.Expr:
    none = pl.duration(microseconds=0)
    return pl.struct(
        pl.when(time.is_between(_FIRST, _LAST)).then(time).alias("time"),
        (none if fold is None else fold.fill_null(none)).alias("fold"),
        (pl.lit(None, dtype=pl.String) if note is None else note).alias("note"),
    )


def _epoch_time(microseconds: pl.Expr) -> pl.Expr:
    return microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _unit_of(count: pl.Expr) -> pl.Expr:
    """Tell the unit of an epoch by its size; null for the first years, in which units overlap."""
    size = count.abs()
    units = pl.when(size < 1e8).then(None).when(size < 1e11).then(pl.lit("s")).when(size < 1e14).then(pl.lit("ms"))
    return units.when(size < 1e17).then(pl.lit("us")).when(size.is_finite()).then(pl.lit("ns"))


def _there(cells: pl.Series) -> pl.Series:
    cells = cells.drop_nulls()
    return cells.to_frame("cell").filter(~missing(pl.col("cell"))).to_series() if cells.dtype == pl.String else cells


def _form(cells: pl.Series, unit: Unit | None) -> Moments | None:
    """Find the form in which most cells can be read, at least half of them."""
    cells = _there(cells)
    if cells.dtype in (pl.Date, pl.Datetime):
        return Moments(kind="typed")
    if not cells.len() or not (cells.dtype == pl.String or cells.dtype.is_numeric()):
        return None
    count = cells.to_frame("cell").select(pl.col("cell").cast(pl.Float64, strict=False)).to_series()
    if unit is not None and count.is_not_null().mean() == 1:
        return Moments(kind="epoch", unit=unit, unit_given=True)
    sizes = count.to_frame("n").select(_unit_of(pl.col("n"))).to_series().drop_nulls()
    forms = [Moments(kind=kind) for kind in _DATES]
    forms += [Moments(kind="epoch", unit=u) for u in _UNITS if (sizes == u).any()]
    valid = _valid(cells, forms)
    best = max(range(len(forms)), key=valid.__getitem__)
    return forms[best] if valid[best] >= 0.5 * cells.len() else None


def _valid(cells: pl.Series, forms: list[Moments]) -> list[int]:
    """Count the cells that each form can read."""
    return _counts(cells.to_frame("cell").lazy(), forms, cells.dtype)


def _counts(rows: pl.LazyFrame, forms: list[Moments], dtype: pl.DataType) -> list[int]:
    for i, form in enumerate(forms):
        rows = form.read(rows, "cell", dtype, to=str(i))
    counts = (pl.col(str(i)).struct.field("time").count().alias(str(i)) for i in range(len(forms)))
    return list(rows.select(counts).collect(engine="streaming").row(0))


def _order(rows: pl.LazyFrame, sample: pl.DataFrame) -> Kind | None:
    """Tell whether the day or the month comes first: by fields above 12, else by the order and evenness of times."""
    kinds: tuple[Kind, Kind] = ("day first", "month first")
    forms = [Moments(kind=kind) for kind in kinds]
    day, month = _valid(sample["cell"], forms)
    if day == month:  # the head does not tell: ask the whole file
        day, month = _counts(rows, forms, sample["cell"].dtype)
    if day != month:
        return kinds[0] if day > month else kinds[1]
    read = [_dated(sample, form) for form in forms]
    if read[0].equals(read[1]) or _there(sample["cell"]).str.contains(r"^\s*\d+\.").all():
        return kinds[0]  # the same under both, or with dots, which no one writes month first
    for measure in (_disorder, _span, _unevenness):
        one, other = measure(read[0]), measure(read[1])
        if min(one, other) * _CLEAR < max(one, other):
            return kinds[0] if one < other else kinds[1]
    return None


def _dated(sample: pl.DataFrame, form: Moments) -> pl.DataFrame:
    read = form.read(sample.lazy(), "cell", sample.schema["cell"], to="read").collect()
    return read.select("series", pl.col("read").struct.field("time")).drop_nulls("time")


def _disorder(read: pl.DataFrame) -> float:
    """Count the steps against the direction, old to new or new to old, that most steps of a series take."""
    step = pl.col("time").diff().cast(pl.Int64)
    steps = read.group_by("series").agg((step > 0).sum().alias("on"), (step < 0).sum().alias("back"))
    return float(steps.select(pl.min_horizontal("on", "back").sum()).item())


def _span(read: pl.DataFrame) -> float:
    """Measure the days covered if a series has several moments a day; zero, which tells nothing, otherwise."""
    days = read.unique().group_by("series", pl.col("time").dt.date()).len()
    if days["len"].max() == 1:
        return 0.0
    return read.select((pl.col("time").max() - pl.col("time").min()).dt.total_seconds() / 86_400).item()


def _unevenness(read: pl.DataFrame) -> float:
    """Divide the largest gap between moments by the median one."""
    gaps = read["time"].unique().sort().diff().drop_nulls().cast(pl.Int64).cast(pl.Float64).to_list()
    return max(gaps) / statistics.median(gaps) if gaps else 0.0
