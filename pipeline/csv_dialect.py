"""CSV dialect: how the lines of delimited text divide into fields, and which line is the header.

Comes in: the first lines of a file. Goes out: a `Dialect`, with an expression that splits any line of the file. Knows
polars and what times and numbers look like; imported by tables.

Lines are split by expressions rather than by a CSV reader, so that line numbers are those of the file, comments and
blank lines included, and a broken line is a row that can be shown instead of the end of the reading. The price: a
quoted field cannot go on in the next line; such lines count as broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from models.errors import DataError, SchemaError
from pipeline.moments import is_time
from pipeline.numerals import is_number

DELIMITERS = {"\t": "tab", ";": "';'", "|": "'|'", ",": "','"}
"""The known delimiters and what to call them, the least likely inside a field first."""

_STEADY = 0.9
_BODY = 200
"""Rows that are compared with the first one to tell whether it is a header."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file of delimited text is written.

    Attributes
    ----------
    delimiter : str
        One character between fields.
    names : tuple of str
        Names of the columns; column_1, column_2, ... if there is no header.
    header : bool
        Whether a line names the columns.
    first : int
        Line at which the rows may begin, from 1.
    said : tuple of str
        What was recognised, in words.
    """

    delimiter: str
    names: tuple[str, ...]
    header: bool
    first: int
    said: tuple[str, ...] = ()

    def rows(self, lines: pl.LazyFrame) -> pl.LazyFrame:
        """Split lines into columns.

        Parameters
        ----------
        lines : LazyFrame
            `line`, the number of each from 1, and `text`, without a byte-order mark.

        Returns
        -------
        LazyFrame
            `line`; `broken`, the text of a line that has another number of fields, null elsewhere; and `c0`, `c1`, ...,
            text, null in broken lines. Blank lines and comments are left out.
        """
        fields = pl.col("fields")
        width = len(self.names)
        spare = (fields.list.len() == width + 1) & (fields.list.last() == "")
        whole = (fields.list.len() == width) | spare
        kept = lines.filter((pl.col("line") >= self.first) & holds(pl.col("text"), self.delimiter))
        split = kept.with_columns(split_line(pl.col("text"), self.delimiter).alias("fields"))
        return split.select(
            "line",
            pl.when(~whole.fill_null(False)).then("text").alias("broken"),
            *(pl.when(whole).then(fields.list.get(i, null_on_oob=True)).alias(f"c{i}") for i in range(width)),
        )


def holds(text: pl.Expr, delimiter: str) -> pl.Expr:
    """Tell whether a line is a row: neither blank, nor delimiters only, nor a comment, which begins with #."""
    bare = text.str.strip_chars(f" \t\r{delimiter}")
    return (bare != "") & ~bare.str.starts_with("#")


def split_line(text: pl.Expr, delimiter: str) -> pl.Expr:
    """Split a line into a list of fields, quotes taken off; null if its quotes do not close or do not enclose."""
    text = text.str.strip_chars_end("\r")
    sign = rf"\{delimiter}" if delimiter == "|" else delimiter
    quoted = pl.when(text.str.contains('"', literal=True)).then(pl.lit(delimiter) + text)
    found = quoted.str.extract_all(rf'{sign}(?:"(?:[^"]|"")*"|[^"{sign}][^{sign}]*|)')
    bare = pl.element().str.replace(rf"^{sign}", "")
    bare = pl.when(bare.str.starts_with('"')).then(bare.str.slice(1).str.head(-1)).otherwise(bare)
    fields = pl.when(found.list.join("") == quoted).then(found.list.eval(bare.str.replace_all('""', '"', literal=True)))
    return pl.when(quoted.is_null()).then(text.str.split(delimiter)).otherwise(fields)


def recognise(lines: Iterable[str], *, where: str, delimiter: str | None = None, header: bool | None = None) -> Dialect:
    """Find the delimiter and the header from the first lines of a file.

    Parameters
    ----------
    lines : iterable of str
        The first lines, from line 1 on.
    where : str
        Name of the file, for messages.
    delimiter : str, optional
        The delimiter, recognised by default: the one that gives the same number of fields in nine lines of ten.
    header : bool, optional
        Whether there is a header; by default, whether the first row is unlike the rows below it.

    Raises
    ------
    DataError
        If there are no rows.
    SchemaError
        If a line before the rows divides otherwise than they do.
    """
    numbered = pl.DataFrame({"text": lines}, schema={"text": pl.String}).with_row_index("line", offset=1)
    chosen = _delimiter(numbered["text"]) if delimiter is None else delimiter
    kept = numbered.filter(holds(pl.col("text"), chosen))
    kept = kept.with_columns(split_line(pl.col("text"), chosen).alias("fields"))
    if not kept.height:
        raise DataError(f"{where} is empty: it has no line but blank ones and comments.")
    start, width = _start(kept, where)
    body = [
        fields
        for fields in kept["fields"][start : start + _BODY].to_list()
        if fields is not None and len(fields) == width
    ]
    named = _named(body) if header is None else header
    if named and kept.height == start + 1:
        raise DataError(f"{where} has a header but no rows: {kept['text'][start]!r} is all there is.")
    said = (f"delimiter {DELIMITERS.get(chosen, repr(chosen))}",) if chosen != "," else ()
    said += () if named else ("no header: columns are named column_1, column_2, ...",)
    said += (f"lines before {kept['line'][start]} left out",) if start else ()
    return Dialect(
        delimiter=chosen,
        names=tuple(name.strip() for name in body[0]) if named else tuple(f"column_{i + 1}" for i in range(width)),
        header=named,
        first=int(kept["line"][start]) + named,
        said=said,
    )


def _delimiter(text: pl.Series) -> str:
    """Choose the delimiter under which lines have the same number of fields."""
    steadiness = {}
    for delimiter in DELIMITERS:
        rows = text.to_frame("text").filter(holds(pl.col("text"), delimiter))
        counts = Counter(rows.select(split_line(pl.col("text"), delimiter).list.len()).to_series().to_list())
        width, lines = counts.most_common(1)[0] if counts else (0, 0)
        steadiness[delimiter] = lines / rows.height if width is not None and width >= 2 else 0.0
    steady = [delimiter for delimiter, share in steadiness.items() if share >= _STEADY]
    best = max(steadiness, key=steadiness.__getitem__)
    return steady[0] if steady else best if steadiness[best] else ","


def _start(kept: pl.DataFrame, where: str) -> tuple[int, int]:
    """Find the first of the lines that divide as most do, and into how many fields; titles before it are skipped."""
    counts = kept["fields"].list.len().to_list()
    width = Counter(count for count in counts if count is not None).most_common(1)
    if not width:
        raise SchemaError(f"{where}: no line can be divided into fields; do its quotes close?")
    start = counts.index(width[0][0])
    for count, line in zip(counts[:start], kept["line"], strict=False):
        if count != 1:
            raise SchemaError(
                f"{where}: line {line} has {count or 'broken'} fields, but most lines have {width[0][0]}."
                " Mend it, or make it a comment: #."
            )
    return start, width[0][0]


def _named(body: list[list[str]]) -> bool:
    """Tell whether the first row names the columns: it is unlike a column of times, or of numbers, that begins there.

    Times decide if there are any: a column of prices may be named by a number.
    """
    if len(body) == 1:
        return not any(_like(pl.Series([cell], dtype=pl.String)) for cell in body[0])
    columns = [pl.Series(cells, dtype=pl.String) for cells in zip(*body, strict=True)]
    for test in (is_time, is_number):
        typed = [column for column in columns if test(column[1:])]
        if typed:
            return any(not test(column[:1]) for column in typed)
    return True


def _like(cell: pl.Series) -> bool:
    return is_time(cell) or is_number(cell)
