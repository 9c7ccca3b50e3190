"""Reading: price files of any common form as lazy, typed rows.

Comes in: paths, what the user says of columns and form, and a folder for copies of text that must be decompressed or
re-encoded first. Goes out: for each file a `Reading`, lazy rows in the columns of `pipeline.rows.READ` and every guess
in words. A cell that cannot be read becomes a row that says so; nothing is dropped. Imported by ingest.

Times become UTC; digits finer than a microsecond are cut.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from models.errors import DataError, SchemaError
from pipeline import moments, numerals
from pipeline.layout import Columns, Layout, lay_out, names_series
from pipeline.numerals import Decimal, missing, number
from pipeline.plain_text import COMPRESSED
from pipeline.rows import READ
from pipeline.tables import DELIMITED, ENDINGS, JSON_LINES, Format, Table, ending, open_table

_KEPT = ("line", "broken", "time", "time text")
_NEVER = pl.struct(pl.lit(None, dtype=READ["time"]).alias("time"), pl.lit(None, dtype=pl.String).alias("note"))

_WORDS = 10_000
"""Different words from which a column is no longer taken for one that names series."""
_DAY = r"(?:0[1-9]|[12]\d|3[01])"
_DATED = re.compile(rf"[-_. ](?:19|20)\d\d(?:[-_.](?:0[1-9]|1[0-2])(?:[-_.]{_DAY})?|(?:0[1-9]|1[0-2]){_DAY})$")
"""A day or a month at the end of a name."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One file, read.

    Attributes
    ----------
    rows : LazyFrame
        Columns of `pipeline.rows.READ`, then the further values; each row of the file once, or each cell of a wide
        table. It may scan a copy in the workspace, which must stay until it is collected.
    said : tuple of str
        What was recognised and guessed, in words.
    others : tuple of str
        Further columns of numbers, which were not read.
    """

    rows: pl.LazyFrame
    said: tuple[str, ...]
    others: tuple[str, ...] = ()


def find(paths: Sequence[str]) -> list[Path]:
    """Find the files of some paths, in the order given, each once.

    Parameters
    ----------
    paths : sequence of str
        Files; folders, of which all files of known endings are taken, sorted, folders within them too; patterns with *,
        ? or [], and ** for any number of folders, of which likewise.

    Raises
    ------
    DataError
        If a path leads to no file, or to none that can be read.
    """
    found = [file for path in paths for file in _files(path)]
    return list(dict.fromkeys(found))


def read(path: Path, index: int, columns: Columns, form: Format, workspace: Path) -> Reading:
    """Read a file lazily; only its head is looked at now, and the whole of text that has to be copied.

    Parameters
    ----------
    path : Path
        File of a known ending.
    index : int
        What `file` shall be in its rows; it also names the copy in `workspace`, so it must differ between files.
    columns : Columns
        The user's names of the columns.
    form : Format
        What the user says of its form.
    workspace : Path
        Folder for copies.

    Raises
    ------
    DataError
        If the file is empty or damaged.
    SchemaError
        If a column is missing or cannot be guessed, or its times or numbers are in no known form.
    """
    if ending(path) is None:
        raise DataError(_unknown_ending(path))
    table = open_table(path, form, workspace / f"{index:06d}.txt")
    cells = table.sample.drop("line", "broken")
    layout = lay_out(table.names, cells, columns, header=table.header, where=str(path))
    source = _Source(path=path, table=table, layout=layout, form=form)
    source.refuse_words()
    said = [*table.said, *layout.said]
    if not layout.wide and layout.series_id is None:
        said.append(f"series_id: {source.stem!r}, after the name of the file")
    timed, words = source.timed(table.frame, "time", layout.time)
    said.append(words)
    if layout.available_time is not None:
        timed, words = source.timed(timed, "available_time", (layout.available_time,))
        said.append(words)
    numbers = source.numerals()
    said += [numbers.said] if numbers.said else []
    rows = source.wide(timed, numbers.decimal) if layout.wide else source.long(timed, numbers.decimal)
    typed = rows.with_columns(pl.lit(index, dtype=pl.UInt32).alias("file"))
    return Reading(rows=typed.select(*READ, *columns.values), said=tuple(said), others=layout.others)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A table, what its columns mean, and how its cells are typed."""

    path: Path
    table: Table
    layout: Layout
    form: Format

    def refuse_words(self) -> None:
        """Raise if words that are all the same at the head, and may name series, differ below it."""
        for i in self.layout.same:
            words = self.table.frame.select(pl.col(f"c{i}").cast(pl.String).str.strip_chars().unique()).head(_WORDS)
            there = words.drop_nulls().collect(engine="streaming").to_series().to_list()
            if 1 < len([word for word in there if word]) < _WORDS:
                raise names_series(str(self.path), self.table.names[i], [word for word in there if word])

    @property
    def stem(self) -> str:
        """Name of the file without its endings, and without the day or month of one among many."""
        name = self.path.name
        stem = name[: -len("".join(self.path.suffixes[-2:]))] if _compressed(self.path) else self.path.stem
        return _DATED.sub("", stem) or stem

    def dtype(self, i: int) -> pl.DataType:
        """Type of the cells of a column."""
        return self.table.sample.schema[f"c{i}"]

    def timed(self, frame: pl.LazyFrame, role: str, columns: tuple[int, ...]) -> tuple[pl.LazyFrame, str]:
        """Add the times in one or two columns, as the struct `role` and `role text`; and say how they are taken."""
        cell, dtype, text = pl.col(f"c{columns[0]}"), self.dtype(columns[0]), f"{role} text"
        if len(columns) == 2:
            cell = moments.joined(cell, pl.col(f"c{columns[1]}"), self.table.sample[f"c{columns[1]}"])
            dtype = pl.String()
        series = self.layout.series_id
        name = pl.lit("") if series is None else pl.col(f"c{series}")
        form = moments.recognise(
            self.table.frame.select(cell.alias("cell"), name.alias("series")),
            where=f"{self.path}: {role} in column {self.table.names[columns[0]]!r}",
            time_zone=self.form.time_zone,
            unit=self.form.unit,
            day_first=self.form.day_first,
        )
        read = form.read(frame.with_columns(cell.alias(text)), text, dtype, to=role)
        there = ~missing(pl.col(text)) if dtype == pl.String else pl.col(text).is_not_null()
        return read.with_columns(
            pl.when(there).then(pl.col(text).cast(pl.String)).alias(text)
        ), f"{role} as {form.said}"

    def numerals(self) -> numerals.Numerals:
        """Find how the numbers are written, unless the user says it; a column must hold some."""
        for i in (*self.layout.prices, *self.layout.values):
            cell = numerals.no_number(self.table.sample[f"c{i}"])
            if cell is not None:
                name = self.table.names[i]
                raise SchemaError(f"{self.path}: column {name!r} holds {cell!r}, which is no number, and none that is.")
        if self.form.decimal is not None:
            return numerals.Numerals(decimal=self.form.decimal)
        columns = [self.table.sample[f"c{i}"] for i in (*self.layout.prices, *self.layout.values)]
        return numerals.recognise(columns, where=str(self.path), comma_likely=self.table.comma_likely)

    def long(self, timed: pl.LazyFrame, decimal: Decimal) -> pl.LazyFrame:
        """Type a table with a row for each price."""
        numeric = {self.table.names[i]: i for i in self.layout.values} | {"price": self.layout.prices[0]}
        typed = timed.select(
            *_KEPT,
            pl.col("^available_time( text)?$"),
            self._series().alias("series_id"),
            *(self._number(i, decimal).alias(name) for name, i in numeric.items()),
            *(pl.col(f"c{i}").cast(pl.String).alias(f"{name} text") for name, i in numeric.items()),
        )
        return _finished(typed, tuple(numeric))

    def wide(self, timed: pl.LazyFrame, decimal: Decimal) -> pl.LazyFrame:
        """Type a table with a column for each series; cells come line by line, in the order of the columns."""
        names = [self.table.names[i].strip() for i in self.layout.prices]
        prices = pl.concat_list(self._number(i, decimal) for i in self.layout.prices)
        texts = pl.concat_list(pl.col(f"c{i}").cast(pl.String) for i in self.layout.prices)
        listed = timed.select(
            *_KEPT,
            pl.col("^available_time( text)?$"),
            prices.alias("price"),
            texts.alias("price text"),
            pl.lit(pl.Series([names])).first().alias("series_id"),
        )
        return _finished(listed.explode("series_id", "price", "price text"), ("price",))

    def _series(self) -> pl.Expr:
        """Give the name of the series of a row; null where it has none."""
        i = self.layout.series_id
        if i is None:
            return pl.lit(self.stem)
        dtype = self.dtype(i)
        if not (dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer()):
            raise SchemaError(f"{self.path}: names of series must be text or integers, not {dtype}.")
        name = pl.col(f"c{i}").cast(pl.String).str.strip_chars()
        return pl.when(name != "").then(name)

    def _number(self, i: int, decimal: Decimal) -> pl.Expr:
        dtype, cell = self.dtype(i), pl.col(f"c{i}")
        if dtype == pl.String:
            return number(cell, decimal)
        if not (dtype.is_numeric() or dtype == pl.Null):
            raise SchemaError(f"{self.path}: column {self.table.names[i]!r} must hold numbers, not {dtype}.")
        return cell.cast(pl.Float64)


def _finished(typed: pl.LazyFrame, numeric: Iterable[str]) -> pl.LazyFrame:
    """Put together what could not be read of each row, and take the times out of their structs.

    Beside each column, "<name> text" shows the cell that it was read from.
    """
    if "available_time" not in typed.collect_schema():
        typed = typed.with_columns(pl.lit(None).alias("available_time text"), _NEVER.alias("available_time"))
    faults = [pl.when(pl.col("series_id").is_null()).then(pl.lit("no series"))]
    faults += [pl.when(pl.col("time text").is_null()).then(pl.lit("no time"))]
    for role in ("time", "available_time"):
        note = pl.concat_str(pl.lit(" ("), pl.col(role).struct.field("note"), pl.lit(")")).fill_null("")
        faults.append(pl.when(pl.col(role).struct.field("time").is_null()).then(_shown(role) + note))
    for name in numeric:
        unread = pl.col(name).is_null() & ~missing(pl.col(f"{name} text"))
        faults.append(pl.when(unread).then(_shown(name)))
    said = typed.with_columns(pl.concat_str(*faults, separator="; ", ignore_nulls=True).alias("unreadable"))
    broken = pl.when(pl.col("broken").is_not_null()).then(pl.concat_str(pl.lit("line '"), "broken", pl.lit("'")))
    return said.select(
        "line",
        "series_id",
        pl.col("time").struct.field("time"),
        pl.col("time").struct.field("fold"),
        pl.col("available_time").struct.field("time").alias("available_time"),
        *(pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in numeric),
        pl.coalesce(broken, pl.when(pl.col("unreadable") != "").then("unreadable")).alias("unreadable"),
    )


def _shown(name: str) -> pl.Expr:
    """Show the text that a column was read from; null where there was none."""
    return pl.concat_str(pl.lit(f"{name} '"), f"{name} text", pl.lit("'"))


def _files(path: str) -> list[Path]:
    """Find the files of one path."""
    here = Path(path).expanduser()
    if here.is_file():
        if ending(here) is None:
            raise DataError(_unknown_ending(here))
        return [here]
    within = here.rglob("*") if here.is_dir() else map(Path, glob.iglob(str(here), recursive=True))
    files = sorted(file for file in within if file.is_file() and not file.name.startswith("."))
    known = [file for file in files if ending(file) is not None]
    if known:
        return known
    if files:
        raise DataError(_unknown_ending(files[0]))
    what = "files in folder" if here.is_dir() else "file, folder or pattern"
    raise DataError(f"no {what} {path!r} (looked from {Path.cwd()}). Known endings: {_known()}.")


def _compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def _known() -> str:
    return f"{', '.join(ENDINGS)}; {', '.join((*DELIMITED, *JSON_LINES))} also with {', '.join(COMPRESSED)} after it"


def _unknown_ending(path: Path) -> str:
    return f"{path} has no ending that says what it holds. Known: {_known()}."
