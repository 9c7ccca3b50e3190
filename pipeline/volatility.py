"""How well the size of moves is forecast, whatever their direction.

Legend: n rows. A move is an outcome on the transformed scale, from the origin to the target; both scores are of moves
around zero, not around a model's own location, so that all models have the same target.

Comes in: `Forecasts`. Goes out: a loss [n] and a share. Knows numpy; imported by metrics.

References
----------
Patton (2011), Volatility forecast comparison using imperfect volatility proxies, Journal of Econometrics 160, 246-256,
doi:10.1016/j.jeconom.2010.03.034. Mincer & Zarnowitz (1969), The evaluation of economic forecasts, in: Economic
Forecasts and Expectations, NBER, 3-46.
"""

from __future__ import annotations

import numpy as np

from pipeline.density import Vector, mean_distance
from pipeline.forecasts import Forecasts

EQUAL = 1e-9
"""Moves that differ from their mean size by no more than this share of it are of one size."""


def expected_square(forecasts: Forecasts) -> Vector:
    """Give the mean of the squared move, [n], on the squared transformed scale: scale² df/(df - 2) + loc².

    NaN without density, and where df ≤ 2: the variance is infinite there.
    """
    df, scale = forecasts.df, np.where(forecasts.scale > 0, forecasts.scale, np.nan)
    return scale**2 * (1 + 2 / np.where(df > 2, df - 2, np.nan)) + forecasts.loc**2


def qlike(forecasts: Forecasts) -> Vector:
    """Take log h + outcome²/h, h the expected square, [n]: QLIKE of Patton (2011), for which outcome² is proxy enough.

    Its mean ranks forecasts of the variance as the variance itself would, were it seen. Compare its differences: the
    level depends on the unit. NaN where the variance is infinite (df ≤ 2).
    """
    h = expected_square(forecasts)
    return np.log(h) + forecasts.outcome**2 / h


def r2(forecasts: Forecasts) -> float:
    """Give the share of the variation of |outcome| that the forecast E|outcome| explains, at most 1.

    1 - Σ (|y| - E|y|)² / Σ (|y| - ȳ)², both over ȳ², with ȳ the mean of |y| over the rows of the same series and step,
    so that no series weighs more for its volatility, and a difference *between* series explains nothing. ȳ is the best
    constant in hindsight: above zero is better than any constant forecast. This is the R² of Mincer & Zarnowitz (1969)
    with the intercept and the slope held at 0 and 1: a biased forecast is not mended, and may fall below zero. Absolute
    moves, not squared ones, since the R² of squares of heavy-tailed moves is that of a few days.

    NaN without density, where df ≤ 1, where a series never moves, and where all moves are of the size of their mean.
    """
    size = np.abs(forecasts.outcome)
    cell = forecasts.series.astype(np.int64) * (int(forecasts.step.max()) + 1) + forecasts.step
    _, row, count = np.unique(cell, return_inverse=True, return_counts=True)
    mean = np.bincount(row, weights=size) / count
    unit = np.where(mean > 0, mean, np.nan)[row]
    error = (size - mean_distance(forecasts, 0.0)) / unit
    spread = size / unit - 1
    return float(1 - np.sum(error**2) / np.sum(spread**2)) if np.max(np.abs(spread)) > EQUAL else float("nan")
