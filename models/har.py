"""HAR: the size of the next move from averages of absolute moves over a day, a week and a month.

    scale_t = b_0 + Σ_n b_n · (|r_t| + … + |r_{t-n+1}|) / n        r_{t+1} = μ + scale_t · t_ν

Corsi (2009), A simple approximate long-memory model of realized volatility, J. Financial Econometrics 7(2),
doi:10.1093/jjfinec/nbp001, eq. 8, on absolute moves in the place of realised volatility (Ghysels, Santa-Clara &
Valkanov 2006, J. Econometrics 131). Coefficients, all of them at least zero, and ν by maximum likelihood, so that one
large move does not decide the fit as it would by least squares. Step s is regressed directly: the move from t to t + s
has coefficients of its own, fitted to the overlapping moves of s steps, with the ν of the first step.

Legend: B batch, T time, S horizon steps, R rows of parameters (0 pooled), L lags (the longest average), A averages.

Comes in: moves of each series on the train split. Goes out: a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, special
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, Tick, over_time, student, student_quantiles
from models.errors import ConfigError, FitError
from models.fittable import Vector, one_price
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price
from models.ring import pushed, unrolled

LEAST_BASE = 1e-3
"""Least b_0, as a share of the mean absolute move: a series that stands still keeps a scale."""

MOST_DF = 200.0


@dataclass(frozen=True, kw_only=True)
class HarConfig:
    """Averages of HAR.

    Attributes
    ----------
    averages : tuple of int
        Moves that each average covers, increasing, 1 to 1000.
    """

    averages: tuple[int, ...] = (1, 5, 22)

    def __post_init__(self) -> None:
        a = self.averages
        if not a or list(a) != sorted(set(a)) or not 1 <= a[0] <= a[-1] <= 1000:
            raise ConfigError(f"averages: expected increasing numbers of moves from 1 to 1000, got {list(a)}")


class Har(nn.Module):
    """The HAR core: a ring of the last absolute moves is its state.

    Parameters
    ----------
    weights : float [R, S, L]
        Weights of the last L absolute moves, the newest first, in the scale of the move to step s.
    base, loc : float [R, S]
        b_0 and s·μ.
    typical : float [R]
        Mean absolute move, which stands for the moves before the first.
    df : float [R]
    """

    kind = "har"
    past = future = 0
    elapsed = False
    block = 1
    weights: Tensor
    base: Tensor
    loc: Tensor
    typical: Tensor
    df: Tensor
    standard: Tensor

    def __init__(self, weights: Tensor, base: Tensor, loc: Tensor, typical: Tensor, df: Tensor) -> None:
        super().__init__()
        _, self.horizon, self.lags = weights.shape
        tables = {"weights": weights, "base": base, "loc": loc, "typical": typical, "df": df}
        tables["standard"] = torch.tensor(student_quantiles(df.numpy()))
        for name, table in tables.items():
            self.register_buffer(name, table.float())

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried; NaN stands for the typical move."""
        meaning = "last absolute moves, the newest first"
        return (StateTensor("sizes", (1, self.lags), "float32", float("nan"), "return", meaning),)

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        size = namespace(tick.change).abs(tick.change)
        ring = pushed(state["sizes"], size, tick.held, (1, self.lags))
        return self._distribution(ring, tick.series), {"sizes": ring}

    def _distribution(self, ring: Array, series: Array) -> Distribution:
        """Give the distribution of the moves after absolute ones [B, 1, L]."""
        xp, shape = namespace(ring), (self.horizon, 1)
        tables = (self.weights, self.base, self.loc, self.typical, self.df, self.standard)
        weights, base, loc, typical, df, standard = (xp.take(xp.constant(table), series) for table in tables)
        sizes = xp.where(xp.isnan(ring), xp.reshape(typical, (-1, 1, 1)), ring)
        scale = base + xp.sum(weights * sizes, 2)
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (loc, scale))
        return student(loc, scale, standard, df, shape)

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...], all at once."""
        time = ticks.change.shape[1]
        rings = unrolled(state["sizes"], ticks.change.abs(), ticks.held)
        made = self._distribution(rings.flatten(0, 1), ticks.series.repeat_interleave(time))
        return over_time(made, time), {"sizes": rings[:, -1]}


def fit_har(moves: Sequence[Vector], *, horizon: int, config: HarConfig) -> Har:
    """Fit one HAR a series on its moves on the *train split*; row 0 takes the medians, in units of the typical move.

    Raises
    ------
    FitError
        A series does not vary, has fewer than 100 moves beyond its longest average and horizon, or the likelihood has
        no maximum.
    """
    least = config.averages[-1] + horizon + 100
    series = [one_price(r, row, kind="HAR", least=least) for row, r in enumerate(moves, 1)]
    typical = np.array([np.mean(np.abs(r)) for r in series])
    fits = [_fit_one(r / u, row, horizon, config) for row, (r, u) in enumerate(zip(series, typical, strict=True), 1)]
    mean, coefficients, df = (np.stack(x) for x in zip(*fits, strict=True))
    mean, coefficients, df, typical = (
        np.concatenate([np.median(x, axis=0, keepdims=True), x]) for x in (mean, coefficients, df, typical)
    )
    share = np.array([(np.arange(config.averages[-1]) < n) / n for n in config.averages])
    base = coefficients[..., 0] * typical[:, None]
    loc = (mean * typical)[:, None] * np.arange(1, horizon + 1)
    return Har(*(torch.from_numpy(x) for x in (coefficients[..., 1:] @ share, base, loc, typical, df)))


def _fit_one(r: Vector, row: int, horizon: int, config: HarConfig) -> tuple[float, Vector, float]:
    """Fit moves in units of the typical one: the mean, coefficients [S, 1 + A], degrees of freedom."""
    design, mean = _averages(np.abs(r), config.averages), float(r.mean())
    path = np.concatenate([[0.0], np.cumsum(r - mean)])[config.averages[-1] :]
    first = np.full(design.shape[1], 0.8 / design.shape[1])
    coefficients, df = _most_likely(design[:-1], np.diff(path), first, (LEAST_DF, MOST_DF), row)
    steps = [coefficients]
    for s in range(2, horizon + 1):
        longer, _ = _most_likely(design[:-s], path[s:] - path[:-s], steps[-1] * np.sqrt(s / (s - 1)), (df, df), row)
        steps.append(longer)
    return mean, np.array(steps), df


def _averages(size: Vector, averages: tuple[int, ...]) -> Vector:
    """Put one and the averages of the last absolute moves side by side where there are all of them, [n, 1 + A]."""
    total = np.concatenate([[0.0], np.cumsum(size)])
    end = np.arange(averages[-1], len(total))
    return np.column_stack([np.ones(len(end)), *((total[end] - total[end - n]) / n for n in averages)])


def _most_likely(
    design: Vector, residual: Vector, start: Vector, df: tuple[float, float], row: int
) -> tuple[Vector, float]:
    """Find the coefficients [1 + A] of the scale, and ν within bounds, of greatest Student t likelihood."""
    bounds = [(LEAST_BASE, None), *[(0.0, None)] * (design.shape[1] - 1), df]
    found = optimize.minimize(
        _loss, [*start, np.clip(6.0, *df)], (design, residual), jac=True, method="L-BFGS-B", bounds=bounds
    )
    if not np.isfinite(found.fun):
        raise FitError(f"HAR: series row {row}: no likelihood, the optimiser stopped: {found.message}", row=row)
    return found.x[:-1], float(found.x[-1])


def _loss(parameters: Vector, design: Vector, residual: Vector) -> tuple[float, Vector]:
    """Give the mean negative log likelihood of residuals with scales `design @ b`, and its gradient."""
    b, df = parameters[:-1], parameters[-1]
    scale = design @ b
    q = residual**2 / (df * scale**2)
    constant = special.gammaln(df / 2) - special.gammaln((df + 1) / 2) + 0.5 * np.log(np.pi * df)
    value = constant + np.mean(np.log(scale) + (df + 1) / 2 * np.log1p(q))
    by_scale = (1 - (df + 1) * q / (1 + q)) / scale
    by_df = 0.5 * (special.digamma(df / 2) - special.digamma((df + 1) / 2) + 1 / df)
    by_df += np.mean(0.5 * np.log1p(q) - (df + 1) / (2 * df) * q / (1 + q))
    return float(value), np.append(by_scale @ design / len(design), by_df)
