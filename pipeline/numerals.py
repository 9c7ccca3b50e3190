"""Numerals: numbers as people and programs write them, 1,234.56 or 1.234,56 or $ 1 234.56, to float64.

Comes in: columns of text. Goes out: which decimal sign they use, and an expression that reads them. Knows polars only;
imported by whatever reads text: csv_dialect, layout, reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import polars as pl

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

    Thousands are taken only where they are grouped as such: 1,234 and 12,34,567 are, 1,23 and 0,123 are not.
    """
    group = rf"[{_GROUP[decimal]}' ]"
    point = rf"\{decimal}" if decimal == "." else decimal
    whole = rf"\d+|[1-9]\d{{0,2}}(?:{group}\d{{2,3}})*{group}\d{{3}}"
    grammar = rf"^[+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?$"
    plain = (
        text.str.replace_all(r"[\u{a0}\u{202f}\u{2009}]", " ")
        .str.replace("−", "-", literal=True)
        .str.replace("’", "'", literal=True)
        .str.replace(r"\s*\p{Sc}\s*", "")
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


def recognise(columns: Iterable[pl.Series], *, comma_likely: bool) -> Numerals:
    """Find the decimal sign under which most cells are numbers.

    Parameters
    ----------
    columns : iterable of Series
        Samples of the columns of numbers of one file; those that are not text say nothing.
    comma_likely : bool
        Whether 1,234 is rather one and a bit, if nothing in the file tells: so in files delimited by ";".
    """
    texts = [_there(cells) for cells in columns if cells.dtype == pl.String]
    cells = pl.concat(texts) if texts else pl.Series([], dtype=pl.String)
    point, comma = _read(cells, "."), _read(cells, ",")
    if point.len() != comma.len():
        return Numerals(decimal=".") if point.len() > comma.len() else Numerals(decimal=",", said="decimal comma")
    unclear = cells.filter(cells.str.contains(r"\d[.,]\d")).head(1).to_list()
    if not unclear:
        return Numerals(decimal=".")
    decimal: Decimal = "," if comma_likely and "," in unclear[0] else "."
    value = pl.select(number(pl.lit(unclear[0]), decimal)).item()
    said = (
        f"numbers like {unclear[0]!r} could be read in two ways; taken as {value:g} (else name ingest.format.decimal)"
    )
    return Numerals(decimal=decimal, said=said)


def _there(cells: pl.Series) -> pl.Series:
    return cells.to_frame("cell").filter(~missing(pl.col("cell"))).to_series()


def _read(cells: pl.Series, decimal: Decimal) -> pl.Series:
    return cells.to_frame("cell").select(number(pl.col("cell"), decimal)).to_series().drop_nulls()
