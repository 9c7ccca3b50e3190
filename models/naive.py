"""The naive forecasts that are always in the table: the last value, and the last value plus its drift.

Both are the AR core without lags (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed.,
5.2): the last value forecasts no move, the drift the mean move. The spread of step s is σ√s.

Comes in: moves of each series on the train split. Goes out: a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from models.autoregressive import Autoregressive, AutoregressiveFit, from_fits, residual_spread
from models.fittable import Vector, fittable


def fit_last_value(moves: Sequence[Vector], *, horizon: int) -> Autoregressive:
    """Fit the spread of the moves around zero, one row a series, on the *train split*."""
    return _without_lags("last_value", moves, horizon)


def fit_drift(moves: Sequence[Vector], *, horizon: int) -> Autoregressive:
    """Fit mean and spread of the moves, one row a series, on the *train split*; the pooled row has no drift."""
    return _without_lags("drift", moves, horizon)


def _without_lags(kind: Literal["last_value", "drift"], moves: Sequence[Vector], horizon: int) -> Autoregressive:
    """Fit moves [T] or, of blocks, [T, M]."""
    fits = []
    for row, r in enumerate(moves, 1):
        columns = fittable(r, row, kind=kind, least=2)
        means = np.array([x.mean() if kind == "drift" else 0.0 for x in columns])
        sizes = [residual_spread(x - m, "normal")[0] for x, m in zip(columns, means, strict=True)]
        fits.append(_fit(means, np.array(sizes)))
    pooled = np.median([f.scale for f in fits], axis=0)
    return from_fits(kind, [_fit(np.zeros_like(pooled), pooled), *fits], horizon)


def _fit(constant: Vector, scale: Vector) -> AutoregressiveFit:
    """Give the fit without lags."""
    return AutoregressiveFit(constant=constant, phi=np.zeros((len(scale), 0)), scale=scale, df=float("inf"))
