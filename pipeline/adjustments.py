"""Adjustments: prices made comparable over corporate actions such as splits, by factors that are kept beside them.

Comes in: prices as they were published, and factors. Goes out: prices in the unit of the last of the actions. Stored
prices stay as they were published. Imported by the price store.
"""

from __future__ import annotations

import polars as pl

from models.errors import DataError

FACTOR = "factor"
"""What all prices of a series before a moment are multiplied by: 0.5 for a split of one share into two."""


def checked(factors: pl.DataFrame) -> pl.DataFrame:
    """Refuse factors that no price can be multiplied by.

    Raises
    ------
    DataError
        If a factor is missing, zero, negative, NaN or infinite.
    """
    factor = pl.col(FACTOR)
    usable = (factor.is_finite() & (factor > 0)).fill_null(False)
    bad = factors.with_row_index("row").remove(usable)
    if bad.height:
        raise DataError(
            f"an adjustment's factor must be finite and above zero, but {bad.height} of {factors.height} are not; the"
            f" first is {bad.row(0, named=True)}. A 2:1 split is 0.5; to take an action back, give it the factor 1."
        )
    return factors


def adjusted(prices: pl.DataFrame, factors: pl.DataFrame) -> pl.DataFrame:
    """Multiply each price by the factors of all actions of its series that come later.

    adjusted[t] = price[t] * product of factor[a] over the actions a with time[a] > t; an action at the very time of
    a price is in that price already.

    Parameters
    ----------
    prices : DataFrame
        `series_id`, `time`, `price` and any further columns, each series in order of time; a null price stays null.
    factors : DataFrame
        `series_id`, `time`, `factor`: those known at the moment at which the prices are looked at, each (series,
        time) once.

    Returns
    -------
    DataFrame
        As `prices`, with the same rows in the same order.
    """
    chain = factors.sort("series_id", "time").select(
        "series_id", "time", pl.col(FACTOR).cum_prod(reverse=True).over("series_id")
    )
    ahead = prices.join_asof(
        chain,
        on="time",
        by="series_id",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,  # both are sorted within each series, which cannot be checked
    )
    return ahead.with_columns(pl.col("price") * pl.col(FACTOR).fill_null(1.0)).select(prices.columns)
