"""GARCH on moves that are adjusted for the hour of the week in which they fall.

    r_t = f(slot_t) · u_t        u_t a GJR-GARCH(1,1)-t        var(y_{t+s} - y_t) = Σ_{k≤s} f(slot_{t+k})² E_t σ²_{t+k}

Andersen & Bollerslev (1997), Intraday periodicity and volatility persistence in financial markets, J. Empirical Finance
4(2-3), doi:10.1016/S0927-5398(97)00004-2: without the adjustment the pattern of the day passes for clusters, and the
persistence is lost. f is the mean absolute move of each of the 168 hours of a week over that of the series, drawn
toward the factor of the hour of the day as if that were twenty more weeks. An hour that saw no move on the train split
lies in a closed market: it has the factor of the next hour that did, which is when the next move will come.

Legend: B batch, T time, S horizon steps, R rows of parameters (0 pooled), W the 168 hours of a week.

Comes in: moves of each series on the train split and the hours of the week of their ends. Goes out: a core that reads
`@hour_of_week` of the origin and of each target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.core import Distribution, Tick, over_time, student
from models.errors import FitError
from models.fittable import Vector, one_price
from models.garch import SHORTEST, Garch, fit_garch
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price

SLOT = "@hour_of_week"
"""The covariate that is read, of the origin's own time and ahead: 0 is the first hour of Monday, UTC."""

SLOTS, HOURS = 168, 24
WEEKS = 20
"""Weeks that an hour of the week needs to count as much as the hour of the day."""

LEAST_FACTOR = 0.05


class Factors(nn.Module):
    """The table of factors, looked up by series and hour of the week.

    Parameters
    ----------
    factor : float [R, W]
    """

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.float().reshape(-1, 1))

    def of(self, series: Array, slot: Array, count: int) -> Array:
        """Look up factors [B, count]; a slot that is none counts as the first or last."""
        xp = namespace(slot)
        known = xp.clip(xp.where(xp.isnan(slot), 0.0, slot), 0.0, SLOTS - 1.0)
        row = xp.reshape(series, (-1, 1)) * SLOTS + xp.reshape(xp.cast(known, series), (-1, count))
        return xp.reshape(xp.take(xp.constant(self.factor), row), (-1, count))


class Diurnal(nn.Module):
    """A GARCH core around which moves are divided and scales multiplied by factors of the hour of the week.

    Parameters
    ----------
    core : Garch
        Of the adjusted moves.
    factor : float [R, W]
    """

    kind = "garch_diurnal"
    past = future = 1
    elapsed = False
    block = 1

    def __init__(self, core: Garch, factor: Tensor) -> None:
        super().__init__()
        self.core, self.horizon, self.factors = core, core.horizon, Factors(factor)
        self.register_buffer("adding", torch.ones(self.horizon, self.horizon).triu(), persistent=False)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of each row."""
        return self.core.df

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the variance of the next adjusted move."""
        return self.core.state_tensors()

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        now, state = self.core.carried(self._adjusted(tick), state)
        return self._distribution(now, tick.series, tick.future), state

    def _adjusted(self, tick: Tick) -> Tick:
        """Divide moves [B, 1] by the factor of their hour."""
        return replace(tick, change=tick.change / self.factors.of(tick.series, tick.past, 1))

    def _distribution(self, variance: Array, series: Array, slots: Array) -> Distribution:
        """Give the distribution of the moves, with the variance of the next adjusted one and the hours ahead."""
        xp, shape, garch = namespace(variance), (self.horizon, 1), self.core
        factor = self.factors.of(series, slots, self.horizon)
        variances = garch.variance_of_each(variance, series) * (factor * factor)
        if self.horizon > 1:
            adding = xp.constant(self.adding)
            factor, variances = factor @ adding, variances @ adding
        loc = garch.row(series, "mean") * factor
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (loc, xp.sqrt(variances)))
        return student(loc, scale, garch.row(series, "standard"), garch.row(series, "df"), shape)

    @torch.no_grad()
    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the variance step by step, all else at once."""
        batch, time = ticks.change.shape[:2]
        series = ticks.series.repeat_interleave(time)
        factor = self.factors.of(series, ticks.past.flatten(0, 1), 1).unflatten(0, (batch, time))
        variance, state = self.core.carried_over(replace(ticks, change=ticks.change / factor), state)
        made = self._distribution(variance.flatten(0, 1), series, ticks.future.flatten(0, 1))
        return over_time(made, time), state


def fit_diurnal(moves: Sequence[Vector], slots: Sequence[NDArray[np.integer]], *, horizon: int) -> Diurnal:
    """Fit factors, and one GJR-GARCH(1,1)-t a series on the adjusted moves, on the *train split*.

    Parameters
    ----------
    moves : sequence of float64 [T]
    slots : sequence of int [T]
        Hour of the week at the end of each move, 0 to 167.
    horizon : int
        S.

    Raises
    ------
    FitError
        As for GARCH, or all moves of a series end in the same hour of the day.
    """
    series = [one_price(r, row, kind="GARCH_DIURNAL", least=SHORTEST) for row, r in enumerate(moves, 1)]
    table = factor_table(series, slots)
    adjusted = [r / f[slot] for r, f, slot in zip(series, table[1:].numpy(), slots, strict=True)]
    return Diurnal(fit_garch(adjusted, horizon=horizon), table)


def factor_table(moves: Sequence[Vector], slots: Sequence[NDArray[np.integer]]) -> Tensor:
    """Give the factors of each series, float64 [R, W].

    Those of a series that stands still are one. Those of a series never seen, row 0, are the medians over the series
    that move, of which there must be one.
    """
    pairs = list(zip(moves, slots, strict=True))
    moving = {row: factors_of(r, slot, row) for row, (r, slot) in enumerate(pairs, 1) if r.any()}
    each = [moving.get(row, np.ones(SLOTS)) for row in range(1, len(pairs) + 1)]
    return torch.from_numpy(np.stack([np.median(list(moving.values()), axis=0), *each]))


def factors_of(r: Vector, slot: NDArray[np.integer], row: int) -> Vector:
    """Give the factor of each hour of the week [W]; the mean of their squares over the moves is one."""
    if len(np.unique(slot % HOURS)) == 1:
        raise FitError(
            f"hours: all moves of series row {row} end in hour {slot[0] % HOURS} of the day; expected "
            "prices within the day. Leave out garch_diurnal (garch is the same), leave fit.network.diurnal at false",
            row=row,
        )
    size, count = (np.bincount(slot, w, minlength=SLOTS).reshape(-1, HOURS) for w in (np.abs(r), None))
    typical = np.mean(np.abs(r))
    hour = (size.sum(0) + WEEKS * typical) / (count.sum(0) + WEEKS)
    factor = np.maximum(((size + WEEKS * hour) / (count + WEEKS)).ravel() / typical, LEAST_FACTOR)
    seen = np.flatnonzero(count)
    factor = factor[seen[np.searchsorted(seen, np.arange(SLOTS)) % len(seen)]]
    return factor / np.sqrt(np.mean(factor[slot] ** 2))
