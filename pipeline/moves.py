"""A panel of prices on the transformed scale: observations for the models, moves to fit on, targets to hit.

Legend: N series, T time, M prices of one moment, S horizon steps, P and K covariates.

Comes in: a numpy panel. Goes out: tensors and arrays. Imported by fitting, training and backtest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError, FitError, unknown
from models.forecaster import observe
from models.observation import Observation
from models.shell import Shell
from models.transforms import Transform
from pipeline.calendar_features import ahead, calendar, of_calendar
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
        Covariates to give, in this order; none by default. See `known_beside` and `known_ahead`.

    Raises
    ------
    DataError
        The panel does not have one of the covariates, or not so far ahead, or no value of it.
    """
    beside = {"past": known_beside(panel, past), "future": known_ahead(panel, future, horizon)}
    return observe(
        torch.from_numpy(panel.price),
        mask=torch.from_numpy(panel.mask),
        series=torch.arange(1, len(panel.names) + 1),
        elapsed=torch.from_numpy(panel.elapsed),
        horizon=horizon,
        **{k: torch.from_numpy(x) for k, x in beside.items() if x.size},
    )


def known_beside(panel: Panel, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Give covariates of the prices' own times, [N, T, P]: of the panel, and those of the calendar computed.

    Raises
    ------
    DataError
        The panel does not have one of them, or no value of it.
    """
    return _chosen("past", panel.past, panel.past_names, names, lambda made: calendar(made, panel.time))


def known_ahead(panel: Panel, names: tuple[str, ...], horizon: int) -> NDArray[np.float32]:
    """Give covariates of the targets, [N, T, S, K], as they were known at the origin.

    Element [n, t, s] is of the (s + 1)-th observation after t. Those of the calendar are of the time s + 1 bars after t
    (`Panel.grid_bar`), whenever that observation came.

    Raises
    ------
    DataError
        The panel does not have one of them, or not so far ahead, or no value of it.
    """
    reach = panel.future.shape[2]
    if any(name in panel.future_names for name in names) and reach < horizon:
        raise DataError(
            f"expected covariates for {horizon} steps ahead, got a panel with {reach}. Set fit.horizon to {horizon} or "
            "more"
        )
    bar, held = panel.grid_bar[:, None], panel.future[:, :, :horizon]
    return _chosen("ahead", held, panel.future_names, names, lambda made: ahead(made, panel.time, bar, horizon))


def _chosen(
    setting: str,
    held: NDArray[np.float32],
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    make: Callable[[tuple[str, ...]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Take the covariates of these names, without a copy where all are wanted in their order."""
    made = tuple(name for name in wanted if name not in names and of_calendar(name))
    for name in wanted:
        if name in names:
            _check_known(name, held[..., names.index(name)])
        elif name not in made:
            raise DataError(f"{unknown('covariate', name, names)}. The settings name them: {setting}")
    if wanted == names:
        return held
    everything = (*names, *made)
    pool = np.concatenate([x for x in (held, make(made)) if x.shape[-1]] or [held], -1)
    return pool[..., [everything.index(name) for name in wanted]]


def _check_known(name: str, values: NDArray[np.float32]) -> None:
    """Refuse a covariate without a single value: each price beside it would be held as poison."""
    if not np.isfinite(values).any():
        raise DataError(
            f"covariate {name!r} is NaN or infinite beside every price. Ingest its values, or take it out of past and "
            "ahead and train again"
        )


def sound(panel: Panel) -> NDArray[np.bool_]:
    """Mark the moments [N, T] beside which every covariate is a number; the others are held, and show a fit nothing."""
    marked = np.ones(panel.time.shape, bool)
    for beside in (panel.past, panel.future):
        if beside.size:
            marked &= np.isfinite(beside).all(axis=tuple(range(2, beside.ndim)))
    return marked


def observed_by(forecaster: Shell[Any], panel: Panel) -> Observation:
    """Give the observations that a model reads: its covariates by name, those of the calendar computed.

    Raises
    ------
    DataError
        The panel does not have a covariate of the fit, or not so far ahead, or no value of it.
    """
    past, future = forecaster.past_names, forecaster.future_names
    try:
        return observations(panel, horizon=forecaster.horizon, past=past, future=future)
    except DataError as error:
        raise DataError(
            f"{forecaster.name} reads past = {list(past)} and ahead = {list(future)}: {error}. Name the covariates of "
            "its fit in the settings, or train it again"
        ) from error


def outcomes(panel: Panel, transform: Transform, horizon: int) -> NDArray[np.float64]:
    """Give the moves [N, T, S, M] from each price of t to that of t + s, s = 1..S; NaN where either does not count."""
    price = np.where(counts(panel, transform), panel.price, np.nan)
    series, time, block = price.shape
    ahead = np.full((series, time, horizon, block), np.nan)
    for step in range(1, horizon + 1):
        ahead[:, :-step, step - 1] = price[:, step:]
    rows = torch.arange(1, series + 1).repeat_interleave(time)
    origin = torch.from_numpy(price)[:, :, None].expand(ahead.shape)
    later, now = (x.reshape(-1, horizon * block) for x in (torch.from_numpy(ahead), origin))
    return transform.difference(later, now, rows).numpy().reshape(ahead.shape)


def counts(panel: Panel, transform: Transform) -> NDArray[np.bool_]:
    """Mark the prices [N, T, M] that a forecaster takes in.

    Those that were published and lie in the domain of the transform; none of a block in which one that was published
    does not.
    """
    admitted = transform.admits(torch.from_numpy(panel.price)).numpy()
    return panel.mask & ~(panel.mask & ~admitted).any(axis=2, keepdims=True)


def moves(panel: Panel, transform: Transform, until: int) -> list[NDArray[np.float64]]:
    """Give the moves of each series between prices that count, before the time `until` (microseconds, UTC).

    Returns
    -------
    list of float64 [T], or of [T, M] for blocks
        Each price of a block moves from the last one of its own place that counts; NaN where it does not count itself.
    """
    out = []
    known = counts(panel, transform) & (panel.time < until)[..., None]
    for row in range(len(panel.names)):
        held = known[row].any(axis=1)
        there, price = known[row, held], np.where(known[row, held], panel.price[row, held], np.nan)
        latest = np.maximum.accumulate(np.where(there, np.arange(len(there))[:, None], 0), axis=0)
        last = np.take_along_axis(price, latest[:-1], axis=0)
        rows = torch.full((len(last),), row + 1)
        moved = transform.difference(torch.from_numpy(price[1:]), torch.from_numpy(last), rows).numpy()
        out.append(moved[:, 0] if panel.block == 1 else moved)
    return out


def move_times(panel: Panel, transform: Transform, until: int) -> list[NDArray[np.int64]]:
    """Give the time at which each of `moves` ends, microseconds since 1970, UTC."""
    there = np.logical_or.reduce(counts(panel, transform), axis=2) & (panel.time < until)
    return [time[there[row]][1:] for row, time in enumerate(panel.time)]


def typical_move(panel: Panel, transform: Transform, until: int) -> float:
    """Give the median over the series that move of the root mean square move before the time `until`.

    Raises
    ------
    FitError
        No series moves.
    """
    sizes = [np.sqrt(np.nanmean(r**2)) for r in moves(panel, transform, until) if np.nan_to_num(r).any()]
    if not sizes:
        raise FitError(
            f"expected prices that vary before the end of train, got {len(panel.names)} series that do not. Check "
            "the prices, or give more history"
        )
    return float(np.median(sizes))
