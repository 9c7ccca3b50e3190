"""Tables: a price file of any known kind as a lazy table, cells still as they stand.

Comes in: a path. Goes out: a `Table`. Nothing is read but the head; the rest streams when the table is collected.
Imported by reading.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from models.errors import ConfigError, DataError, unknown
from pipeline import csv_dialect
from pipeline.moments import SAMPLE, Unit
from pipeline.numerals import Decimal
from pipeline.plain_text import COMPRESSED, plain

DELIMITED, JSON_LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")
PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
ENDINGS = (*DELIMITED, *JSON_LINES, *PARQUET, *ARROW)
"""Endings of the files that can be read; text files may be compressed, with another ending after it."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files are written; None is recognised from each file.

    Attributes
    ----------
    delimiter : str or None
        One character between the fields of delimited text.
    decimal : {".", ","} or None
        Sign before the fraction of a number; the other one may stand between thousands.
    encoding : str or None
        Encoding of text, by one of Python's names.
    header : bool or None
        Whether the first line of delimited text names the columns.
    day_first : bool or None
        Whether 03/04/2019 is the third of April.
    unit : {"s", "ms", "us", "ns"} or None
        Unit of times that are counts since 1970.
    time_zone : str
        Zone of times that name none, such as Europe/Berlin.
    """

    delimiter: str | None = None
    decimal: Decimal | None = None
    encoding: str | None = None
    header: bool | None = None
    day_first: bool | None = None
    unit: Unit | None = None
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n#'):
            raise ConfigError(f"delimiter must be one character, and no quote, line end or #, not {self.delimiter!r}")
        for name, choices in (("decimal", (".", ",")), ("unit", ("s", "ms", "us", "ns"))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ConfigError(unknown(f"{name} of a format", str(value), choices))
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise ConfigError(
                f"encoding must be one that Python knows, such as cp1252, not {self.encoding!r}"
            ) from error
        try:
            ZoneInfo(self.time_zone)
        except (LookupError, ValueError, OSError) as error:
            raise ConfigError(f"time_zone must be a name like Europe/Berlin, not {self.time_zone!r}") from error


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of a file.

    Attributes
    ----------
    frame : LazyFrame
        `line`, Int64 from 1; `broken`, the text of a line that is no row, null elsewhere; the columns `c0`, `c1`, ...
    names : tuple of str
        Names of the columns in the file; they may repeat.
    sample : DataFrame
        The head of `frame`.
    header : bool
        Whether the names come from the file.
    comma_likely : bool
        Whether the delimiter hints at decimal commas.
    said : tuple of str
        What was recognised, in words.
    """

    frame: pl.LazyFrame
    names: tuple[str, ...]
    sample: pl.DataFrame
    header: bool = True
    comma_likely: bool = False
    said: tuple[str, ...] = ()


def ending(path: Path) -> str | None:
    """Give the ending of a file that says what it holds, in lower case, or None if it is not a known one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED:
        kind = suffixes[-2] if len(suffixes) == 2 else ""
        return kind if kind in (*DELIMITED, *JSON_LINES) else None
    return suffixes[-1] if suffixes and suffixes[-1] in ENDINGS else None


def open_table(path: Path, form: Format, copy: Path) -> Table:
    """Open a file as a table.

    Parameters
    ----------
    path : Path
        File with a known ending.
    form : Format
        What is known of its form.
    copy : Path
        Where to put a copy of text that polars cannot scan as it is. It must stay while the table is in use.

    Raises
    ------
    DataError
        If the file cannot be read, or has no rows.
    """
    kind = ending(path)
    try:
        if kind in (*PARQUET, *ARROW):
            scan = pl.scan_parquet(path, glob=False) if kind in PARQUET else pl.scan_ipc(path, glob=False)
            return _columnar(path, scan)
        text, said = plain(path, copy, form.encoding)
        if not text.stat().st_size:
            raise DataError(f"{path} is empty.")
        table = _json_lines(path, _lines(text)) if kind in JSON_LINES else _delimited(path, _lines(text), form)
        return Table(**{**vars(table), "said": (*said, *table.said)})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Is it what its ending says?") from error


def _columnar(path: Path, scan: pl.LazyFrame) -> Table:
    names = tuple(scan.collect_schema().names())
    columns = scan.select(pl.col(name).alias(f"c{i}") for i, name in enumerate(names))
    none = pl.lit(None, dtype=pl.String)
    frame = columns.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64), none.alias("broken"))
    sample = frame.head(SAMPLE).collect()
    if not sample.height:
        raise DataError(f"{path} has columns but no rows.")
    return Table(frame=frame, names=names, sample=sample)


def _lines(path: Path) -> pl.LazyFrame:
    """Scan a text file: `line` from 1, `text`, without the byte-order mark."""
    scan = pl.scan_lines(path, name="text", row_index_name="line", row_index_offset=1, glob=False)
    line, text = pl.col("line").cast(pl.Int64), pl.col("text")
    return scan.with_columns(line, pl.when(line == 1).then(text.str.strip_prefix("\ufeff")).otherwise(text))


def _delimited(path: Path, lines: pl.LazyFrame, form: Format) -> Table:
    head = lines.head(SAMPLE).collect()["text"].to_list()
    dialect = csv_dialect.recognise(head, where=str(path), delimiter=form.delimiter, header=form.header)
    frame = dialect.rows(lines)
    return Table(
        frame=frame,
        names=dialect.names,
        sample=frame.head(SAMPLE).collect(),
        header=dialect.header,
        comma_likely=dialect.delimiter == ";",
        said=dialect.said,
    )


def _json_lines(path: Path, lines: pl.LazyFrame) -> Table:
    """Take the keys of the objects at the head as columns; values become text."""
    text = pl.col("text")
    filled = lines.filter(text.str.strip_chars() != "")
    keys = _keys(filled.head(SAMPLE).collect()["text"].to_list())
    if not keys:
        raise DataError(f"{path} has no JSON objects, one a line, such as {{'time': ..., 'price': ...}}.")
    is_object = text.str.strip_chars_start().str.starts_with("{") & text.str.json_path_match("$").is_not_null()
    frame = filled.select(
        "line",
        pl.when(~is_object).then(text).alias("broken"),
        *(_json_cell(text, key).alias(f"c{i}") for i, key in enumerate(keys)),
    )
    return Table(frame=frame, names=keys, sample=frame.head(SAMPLE).collect())


def _json_cell(text: pl.Expr, key: str) -> pl.Expr:
    """Give the value of a key as text; a number as it is written, for the match by path may round its last digit."""
    quoted = json.dumps(key)
    found = text.str.json_path_match(f"$[{quoted}]")
    written = text.str.extract(rf"{re.escape(quoted)}\s*:\s*(-?\d[\d.eE+-]*)")
    near = found.cast(pl.Float64, strict=False) / written.cast(pl.Float64, strict=False)
    return pl.when((near - 1).abs() < 1e-12).then(written).otherwise(found)


def _keys(texts: list[str]) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for text in texts:
        try:
            row = json.loads(text)
        except ValueError:
            continue
        keys |= dict.fromkeys(row) if isinstance(row, dict) else {}
    return tuple(keys)
