"""Numerals: numbers as people and programs write them, 1,234.56 or 1.234,56 or $ 1 234.56, to float64.

Comes in: columns of text. Goes out: which decimal sign they use, and an expression that reads them. Knows polars and
the errors; imported by whatever reads text: csv_dialect, layout, reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from models.errors import SchemaError

Decimal = Literal[".", ","]

MISSING = ("", ".", "-", "na", "n/a", "#n/a", "null", "none", "nan", "nat", "inf", "-inf", "+inf", "infinity")
"""Texts, in lower case, that say that there is no value, or none that is finite."""

_ENOUGH = 500
"""Cells that tell whether a column holds numbers."""

_GROUP = {".": ",", ",": r"\."}


@dataclass(frozen=True, kw_only=True)
class Numerals:
    """How the numbers of a file are written.

    Attributes
    ----------
    decimal : {".", ","}
        The sign before the fraction; the other one, a blank or an apostrophe may stand between thousands.
    said : str or None
        What to tell the user, if it is not the plain decimal point.
    """

    decimal: Decimal
    said: str | None = None


def missing(text: pl.Expr) -> pl.Expr:
    """Tell where a text says that there is no value: one of `MISSING` in any case, or null."""
    return text.is_null() | text.str.strip_chars().str.to_lowercase().is_in(MISSING)


def number(text: pl.Expr, decimal: Decimal) -> pl.Expr:
    """Read text as float64; null where it is missing or no number, so compare with `missing`.

    Thousands are taken only where they are grouped as such: 1,234 and 12,34,567 are, 1,23 and 0,123 are not. The sign
    of a currency, or its code after the number, is passed over.
    """
    group = rf"[{_GROUP[decimal]}' ]"
    point = rf"\{decimal}" if decimal == "." else decimal
    whole = rf"\d+|[1-9]\d{{0,2}}(?:{group}\d{{2,3}})*{group}\d{{3}}"
    grammar = rf"^[+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?$"
    plain = (
        text.str.replace_all(r"[\u{a0}\u{202f}\u{2009}]", " ")
        .str.replace("−", "-", literal=True)
        .str.replace("’", "'", literal=True)
        .str.replace(r"\s*\p{Sc}\s*|\s+[A-Z]{3}\s*$", "")
        .str.strip_chars()
    )
    fits = pl.when(plain.str.contains(grammar)).then(plain)
    return (
        fits.str.replace_all(group, "").str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)
        if decimal == ","
        else fits.str.replace_all(group, "").cast(pl.Float64, strict=False)
    )


def is_number(cells: pl.Series) -> bool:
    """Tell whether a column holds numbers: at least half of the cells that are there, as some may be broken."""
    if cells.dtype != pl.String:
        return cells.dtype.is_numeric()
    there = _there(cells).head(_ENOUGH)
    return there.len() > 0 and max(_read(there, ".").len(), _read(there, ",").len()) >= 0.5 * there.len()


def no_number(cells: pl.Series) -> str | None:
    """Give the first cell of a column of text in which none is a number; None if there is one, or nothing."""
    there = _there(cells) if cells.dtype == pl.String else pl.Series([], dtype=pl.String)
    if not there.len() or _read(there, ".").len() or _read(there, ",").len():
        return None
    return str(there[0])


def recognise(columns: Iterable[pl.Series], *, where: str, comma_likely: bool) -> Numerals:
    """Find the decimal sign under which most cells are numbers.

    Parameters
    ----------
    columns : iterable of Series
        Samples of the columns of numbers of one file; those that are not text say nothing.
    where : str
        Name of the file, for messages.
    comma_likely : bool
        Whether the file hints at decimal commas, as those delimited by ";" do, so that 1.234 may be 1234.

    Raises
    ------
    SchemaError
        If all numbers with a comma are like 1,234, which is one and a bit or a thousand and more.
    """
    texts = [_there(cells) for cells in columns if cells.dtype == pl.String]
    cells = pl.concat(texts) if texts else pl.Series([], dtype=pl.String)
    point, comma = _read(cells, "."), _read(cells, ",")
    if point.len() != comma.len():
        return Numerals(decimal=".") if point.len() > comma.len() else Numerals(decimal=",", said="decimal comma")
    both = cells.to_frame("c").select("c", point=number(pl.col("c"), "."), comma=number(pl.col("c"), ","))
    unclear = both.filter(pl.col("point") != pl.col("comma"))
    for text, large, small in unclear.filter(pl.col("c").str.contains(",", literal=True)).head(1).iter_rows():
        raise SchemaError(
            f"{where}: numbers like {text!r} may be {large:g} or {small:g}, and nothing in the file tells which."
            " Say which sign stands before the fraction: ingest.format.decimal = '.' or ','."
        )
    if not unclear.height or not comma_likely:
        return Numerals(decimal=".")
    text, value, _ = unclear.row(0)
    said = f"numbers like {text!r} could be read in two ways; taken as {value:g} (else name ingest.format.decimal)"
    return Numerals(decimal=".", said=said)


def _there(cells: pl.Series) -> pl.Series:
    return cells.to_frame("cell").filter(~missing(pl.col("cell"))).to_series()


def _read(cells: pl.Series, decimal: Decimal) -> pl.Series:
    return cells.to_frame("cell").select(number(pl.col("cell"), decimal)).to_series().drop_nulls()
