"""A panel of prices on the transformed scale: observations for the models, moves to fit on, targets to hit.

Legend: N series, T time, M prices of one moment (1), S horizon steps, P and K covariates.

Comes in: a numpy panel. Goes out: tensors and arrays. Imported by fitting, training and backtest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError, FitError, unknown
from models.forecaster import Forecaster, observe
from models.observation import Observation
from models.transforms import Transform
from pipeline.windows import Panel


def observations(
    panel: Panel, *, horizon: int, past: tuple[str, ...] = (), future: tuple[str, ...] = ()
) -> Observation:
    """Give the panel as observations [N, T, ...]; series i has parameter row i + 1.

    Parameters
    ----------
    panel : Panel
    horizon : int
        S; no more than the panel's covariates reach ahead, where `future` names any.
    past, future : tuple of str
        Covariates to give, of those of the panel, in this order; none by default. `future[n, t, s]` is of the
        (s + 1)-th observation after t, as it was known when price t was.

    Raises
    ------
    DataError
        The panel does not have one of the covariates, or not so far ahead.
    """
    beside = {
        "past": _chosen("past", panel.past, panel.past_names, past),
        "future": _chosen("ahead", panel.future, panel.future_names, future)[:, :, :horizon],
    }
    if future and panel.future.shape[2] < horizon:
        raise DataError(
            f"expected covariates for {horizon} steps ahead, got a panel with {panel.future.shape[2]}. Set "
            f"fit.horizon to {horizon} or more"
        )
    return observe(
        torch.from_numpy(panel.price)[..., None],
        mask=torch.from_numpy(panel.mask)[..., None],
        series=torch.arange(1, len(panel.names) + 1),
        elapsed=torch.from_numpy(panel.elapsed),
        horizon=horizon,
        **{k: torch.from_numpy(x) for k, x in beside.items() if x.size},
    )


def _chosen(
    setting: str, held: NDArray[np.float32], names: tuple[str, ...], wanted: tuple[str, ...]
) -> NDArray[np.float32]:
    """Take the covariates of these names, without a copy where all are wanted in their order."""
    for name in wanted:
        if name not in names:
            raise DataError(f"{unknown('covariate', name, names)}. The settings name them: {setting}")
    return held if wanted == names else held[..., [names.index(name) for name in wanted]]


def observed_by(forecaster: Forecaster, panel: Panel) -> Observation:
    """Give the observations that a forecaster reads: with the panel's covariates where it takes any.

    Raises
    ------
    DataError
        The forecaster was fitted on another number of covariates.
    """
    counts = {"past": forecaster.past, "ahead": forecaster.future}
    held = {"past": panel.past_names, "ahead": panel.future_names}
    for setting, count in counts.items():
        if count and count != len(held[setting]):
            raise DataError(
                f"{forecaster.name} was fitted on {count} covariates, but the settings have {setting} = "
                f"{list(held[setting])}. Name those of the fit, or train it again"
            )
    past, future = panel.past_names[: forecaster.past], panel.future_names[: forecaster.future]
    return observations(panel, horizon=forecaster.horizon, past=past, future=future)


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
