"""A panel of prices on the transformed scale: observations for the models, moves to fit on, targets to hit.

Legend: N series, T time, M prices of one moment (1), S horizon steps.

Comes in: a numpy panel. Goes out: tensors and arrays. Imported by fitting, training and backtest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import FitError
from models.forecaster import observe
from models.observation import Observation
from models.transforms import Transform
from pipeline.windows import Panel


def observations(panel: Panel, *, horizon: int) -> Observation:
    """Give the panel as observations [N, T, ...]; series i has parameter row i + 1."""
    return observe(
        torch.from_numpy(panel.price)[..., None],
        mask=torch.from_numpy(panel.mask)[..., None],
        series=torch.arange(1, len(panel.names) + 1),
        elapsed=torch.from_numpy(panel.elapsed),
        horizon=horizon,
    )


def outcomes(panel: Panel, transform: Transform, horizon: int) -> NDArray[np.float64]:
    """Give the moves [N, T, S, 1] from origin t to t + s, s = 1..S; NaN where either price does not count."""
    price = np.where(_counts(panel, transform), panel.price, np.nan)
    ahead = np.full((*price.shape, horizon), np.nan)
    for step in range(1, horizon + 1):
        ahead[:, :-step, step - 1] = price[:, step:]
    series, time = price.shape
    rows = torch.arange(1, series + 1).repeat_interleave(time)
    origin = torch.from_numpy(price).reshape(-1, 1)
    move = transform.difference(torch.from_numpy(ahead).reshape(-1, horizon), origin, rows)
    return move.numpy().reshape(series, time, horizon, 1)


def _counts(panel: Panel, transform: Transform) -> NDArray[np.bool_]:
    """Mark the prices [N, T] that a forecaster takes in: published, and in the domain of the transform."""
    return panel.mask & transform.admits(torch.from_numpy(panel.price)).numpy()


def moves(panel: Panel, transform: Transform, until: int) -> list[NDArray[np.float64]]:
    """Give the moves of each series between prices that count, before the time `until` (microseconds, UTC)."""
    out = []
    known = _counts(panel, transform) & (panel.time < until)
    for row in range(len(panel.names)):
        price = torch.from_numpy(panel.price[row, known[row]])[:, None]
        rows = torch.full((max(len(price) - 1, 0),), row + 1)
        out.append(transform.difference(price[1:], price[:-1], rows).numpy()[:, 0])
    return out


def typical_move(panel: Panel, transform: Transform, until: int) -> float:
    """Give the median over the series that move of the root mean square move before the time `until`.

    Raises
    ------
    FitError
        No series moves.
    """
    sizes = [np.sqrt(np.mean(r**2)) for r in moves(panel, transform, until) if r.any()]
    if not sizes:
        raise FitError(
            f"expected prices that vary before the end of train, got {len(panel.names)} series that do not. Check "
            "the prices, or give more history"
        )
    return float(np.median(sizes))
