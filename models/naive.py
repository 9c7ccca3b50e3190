"""The naive forecasts that are always in the table: the last value, and the last value plus its drift.

Both are the AR core without lags (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed.,
5.2): the last value forecasts no move, the drift the mean move. The spread of step s is σ√s.

Comes in: moves of each series on the train split. Goes out: a core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.autoregressive import Autoregressive, AutoregressiveFit, from_fits, residual_spread
from models.errors import FitError


def fit_last_value(moves: Sequence[NDArray[np.float64]], *, horizon: int) -> Autoregressive:
    """Fit the spread of the moves around zero, one row a series, on the *train split*."""
    return _without_lags("last_value", moves, np.zeros(len(moves)), horizon)


def fit_drift(moves: Sequence[NDArray[np.float64]], *, horizon: int) -> Autoregressive:
    """Fit mean and spread of the moves, one row a series, on the *train split*; the pooled row has no drift."""
    return _without_lags("drift", moves, np.array([r.mean() if len(r) else 0.0 for r in moves]), horizon)


def _without_lags(
    kind: str, moves: Sequence[NDArray[np.float64]], means: NDArray[np.float64], horizon: int
) -> Autoregressive:
    for row, r in enumerate(moves, 1):
        if len(r) < 2 or np.ptp(r) == 0:
            raise FitError(
                f"{kind}: series row {row} has {len(r)} moves that do not vary; expected at least 2 that do. "
                "Leave the series out",
                row=row,
            )
    none = np.zeros(0)
    rows = [(m, residual_spread(r - m, "normal")) for r, m in zip(moves, means, strict=True)]
    fits = [AutoregressiveFit(constant=float(m), phi=none, scale=s, df=df) for m, (s, df) in rows]
    pooled = float(np.median([f.scale for f in fits]))
    return from_fits(kind, [AutoregressiveFit(constant=0.0, phi=none, scale=pooled, df=float("inf")), *fits], horizon)
