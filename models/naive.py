"""The naive forecasts: the last value, the last value plus its drift, and for daily prices the value a week ago.

The first two are the AR core without lags (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed.,
5.2): the last value forecasts no move, the drift the mean move. The spread of step s is σ√s. The value a week ago, the
seasonal naive of the same chapter, takes back the moves since then: with k = ⌈s/7⌉ weeks, y_{t+s} is forecast by
y_{t+s-7k} = y_t - (r_t + … + r_{t+s-7k+1}), and its error is the sum of 7k moves.

Legend: T time, M prices of one moment, S horizon steps, R rows of parameters (0 pooled), L lags.

Comes in: moves of each series on the train split. Goes out: a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from models.autoregressive import Autoregressive, AutoregressiveFit, from_fits, residual_spread
from models.errors import FitError
from models.fittable import Vector, fittable

WEEK = 7
"""Observations of a week."""


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


def fit_week_ago(moves: Sequence[Vector], *, horizon: int) -> Autoregressive:
    """Fit the spread of moves over whole weeks of seven observations, one row a series, on the *train split*.

    Parameters
    ----------
    moves : sequence of float64 [T] or [T, M]
        Moves of each series, of every day of the week; holes left out, or NaN.
    horizon : int
        S, at least 1.

    Raises
    ------
    FitError
        A series has fewer moves than one more than the weeks that S steps reach over, or does not move in a week.
    """
    weeks = [-(-step // WEEK) for step in range(1, horizon + 1)]
    rows = []
    for row, r in enumerate(moves, 1):
        columns = fittable(r, row, kind="week_ago", least=WEEK * weeks[-1] + 1)
        rows.append([[_spread(x, WEEK * k) for x in columns] for k in weeks])
    scale = torch.tensor(rows, dtype=torch.float64)
    if not (scale > 0).all():
        row = int((scale <= 0).flatten(1).any(1).nonzero()[0]) + 1
        raise FitError(
            f"week_ago: series row {row} never differs from itself a week ago; expected prices that do. Leave it out",
            row=row,
        )
    scale = torch.cat([scale.quantile(0.5, 0, keepdim=True), scale])
    back = torch.tensor([WEEK * k - step for step, k in enumerate(weeks, 1)])
    taken = -(torch.arange(int(back.max())) < back[:, None]).double()
    weights = taken[None, :, None].expand(*scale.shape, -1)
    return Autoregressive("week_ago", weights, torch.zeros_like(scale), scale, torch.full((len(scale),), float("inf")))


def _spread(r: Vector, length: int) -> float:
    """Give the root mean square of the sums of so many moves in a row."""
    return float(np.sqrt(np.mean(np.convolve(r, np.ones(length), "valid") ** 2)))


def _fit(constant: Vector, scale: Vector) -> AutoregressiveFit:
    """Give the fit without lags."""
    return AutoregressiveFit(constant=constant, phi=np.zeros((len(scale), 0)), scale=scale, df=float("inf"))
