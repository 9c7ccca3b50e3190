"""EGARCH(1,1) with leverage and Student t innovations: the variance moves in logs.

    r_t = μ + σ_t e_t      ln σ²_{t+1} = ω + α (|e_t| - √(2/π)) + γ e_t + β ln σ²_t      e_t ~ standardised t_ν,  α >= 0

Nelson (1991), Conditional heteroskedasticity in asset returns, Econometrica 59(2), in the form of the `arch` package,
which fits it by maximum likelihood. With E|e| = √(ν-2) Γ((ν-1)/2) / (√π Γ(ν/2)) and m the long-run mean of ln σ²,

    E ln σ²_{t+k} = m + β^{k-1} (ln σ²_{t+1} - m)        m = (ω + α (E|e| - √(2/π))) / (1 - β)
    var ln σ²_{t+k} = (1 - β^{2(k-1)}) / (1 - β²) · (α² (1 - (E|e|)²) + γ²)

There is no closed form of E σ²_{t+k} for k > 1: under t innovations it is infinite (Nelson, p. 352). The variance of
the move to step s is that of lognormal σ², Σ_{k≤s} exp(E ln σ²_{t+k} + ½ var ln σ²_{t+k}).

Legend: B batch, T time, S horizon steps, R rows of parameters (0 pooled).

Comes in: moves of each series on the train split. Goes out: a core. Knows arch, imported when fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, Tick, over_time, student, student_quantiles
from models.errors import FitError
from models.fittable import Vector, one_price
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price
from models.series_by_series import each

COLUMNS = ("mu", "omega", "alpha", "gamma", "beta", "nu", "unit")
SHORTEST = 250
LONGEST_PERSISTENCE = 0.9999
MOST = 20.0
"""Furthest that a log variance goes from that of the series: a factor of 22,000 in scale, either way."""
HALF_NORMAL = float(np.sqrt(2 / np.pi))
STARTS = ((0.0, 0.0, 0.1, -0.05, 0.98, 6.0), (0.0, 0.0, 0.3, 0.0, 0.9, 4.0))
"""Starting values besides arch's own, for moves of unit variance."""


class Egarch(nn.Module):
    """The EGARCH core: the log variance of the next move is its state, over the variance of the series.

    Parameters
    ----------
    parameters : float64 [R, 7]
        Columns mu, omega, alpha, gamma, beta, nu of moves in units of the column unit, the size of the series' moves.
    horizon : int
        S.
    """

    kind = "egarch"
    past = future = 0
    elapsed = False
    block = 1
    df: Tensor

    def __init__(self, parameters: Tensor, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("parameters_by_row", parameters.double())
        mu, omega, alpha, gamma, beta, nu, unit = (parameters[:, k : k + 1].double() for k in range(7))
        beta = beta.clamp(max=LONGEST_PERSISTENCE)
        size = torch.exp(torch.lgamma((nu - 1) / 2) - torch.lgamma(nu / 2)) * ((nu - 2) / torch.pi).sqrt()
        long_run = ((omega + alpha * (size - HALF_NORMAL)) / (1 - beta)).clamp(-MOST, MOST)
        ahead = torch.arange(horizon).double()
        spread = (1 - beta ** (2 * ahead)) / (1 - beta**2) * (alpha**2 * (1 - size**2) + gamma**2)
        tables = {
            "mean": mu,
            "per_unit": 1 / unit,
            "base": omega - alpha * HALF_NORMAL,
            "alpha": alpha,
            "gamma": gamma,
            "beta": beta,
            "long_run": long_run,
            "loc": mu * unit * (ahead + 1),
            "decay": beta**ahead,
            "toward": long_run * (1 - beta**ahead) + spread / 2 + torch.log(unit**2 * (nu - 2) / nu),
            "df": nu[:, 0],
            "standard": torch.tensor(student_quantiles(nu[:, 0].numpy())),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float())
        self.register_buffer("adding", torch.ones(horizon, horizon).triu(), persistent=False)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried; NaN stands for the long run."""
        meaning = "log variance of the next move, over that of the series"
        return (StateTensor("log_variance", (1,), "float32", float("nan"), "log", meaning),)

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        xp, now = namespace(tick.change), state["log_variance"]
        before = xp.where(xp.isnan(now), self._row(tick.series, "long_run"), now)
        after = self._after(tick.change, before, tick.series)
        kept = xp.where(tick.held, now, after)
        return self._distribution(xp.where(tick.held, before, after), tick.series), {"log_variance": kept}

    def _row(self, series: Array, name: str) -> Array:
        xp = namespace(series)
        return xp.take(xp.constant(getattr(self, name)), series)

    def _after(self, change: Array, log_variance: Array, series: Array) -> Array:
        """Give the log variance of the move after one [B, 1]."""
        xp = namespace(change)
        shock = change * self._row(series, "per_unit") - self._row(series, "mean")
        e = shock * xp.exp(log_variance * -0.5)
        impact = self._row(series, "alpha") * xp.abs(e) + self._row(series, "gamma") * e
        following = self._row(series, "base") + impact + self._row(series, "beta") * log_variance
        return xp.clip(following, -MOST, MOST)

    def _distribution(self, log_variance: Array, series: Array) -> Distribution:
        """Give the distribution of the moves, with the log variance of the next one."""
        xp, shape = namespace(log_variance), (self.horizon, 1)
        each = xp.exp(self._row(series, "toward") + self._row(series, "decay") * log_variance)
        scale = xp.sqrt(each @ xp.constant(self.adding) if self.horizon > 1 else each)
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (self._row(series, "loc"), scale))
        return student(loc, scale, self._row(series, "standard"), self._row(series, "df"), shape)

    @torch.no_grad()
    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the log variance step by step, all else at once."""
        time, kept, used = ticks.change.shape[1], state["log_variance"], []
        long_run = self._row(ticks.series, "long_run")
        for change, held in zip(ticks.change.unbind(1), ticks.held.unbind(1), strict=True):
            before = torch.where(kept.isnan(), long_run, kept)
            after = self._after(change, before, ticks.series)
            used.append(torch.where(held, before, after))
            kept = torch.where(held, kept, after)
        made = self._distribution(torch.stack(used, 1).flatten(0, 1), ticks.series.repeat_interleave(time))
        return over_time(made, time), {"log_variance": kept}


def fit_egarch(moves: Sequence[Vector], *, horizon: int) -> Egarch:
    """Fit one EGARCH(1,1)-t a series on its moves on the *train split*; row 0 takes the medians.

    Raises
    ------
    FitError
        A series is shorter than 250 moves, does not vary, or the optimiser finds nothing proper from any start. The
        most likely fit is taken, whether the optimiser was content or not, as for GARCH.
    """
    series = [one_price(r, row, kind="EGARCH", least=SHORTEST) for row, r in enumerate(moves, 1)]
    rows = np.array(each(_fit_one, series))
    return Egarch(torch.from_numpy(np.vstack([np.median(rows, axis=0), rows])), horizon)


def _fit_one(r: Vector, row: int) -> list[float]:
    unit = float(np.std(r))
    model = specification(r / unit)
    results = [model.fit(disp="off", show_warning=False, starting_values=s) for s in (None, *map(np.array, STARTS))]
    usable = [x for x in results if _is_proper(x.params)]
    if not usable:
        flags = [x.convergence_flag for x in results]
        raise FitError(f"EGARCH: series row {row}: no proper fit, the optimiser stopped with {flags}", row=row)
    return [*map(float, max(usable, key=lambda x: x.loglikelihood).params), unit]


def specification(r: Vector) -> Any:
    """Give arch's model of moves of unit variance, its tails bounded where the variance would cease to be.

    The size of a move never calms, α >= 0. With α below 0, which a few hundred moves can prefer, a large move lowers
    the variance, so that the next one is larger still over its scale: from one surprise on the scale falls to nothing.
    """
    from arch import arch_model
    from arch.univariate import EGARCH, StudentsT

    class Alarmed(EGARCH):
        def bounds(self, resids: Any) -> list[tuple[float, float]]:
            level, _, *others = super().bounds(resids)
            return [level, (0.0, np.inf), *others]

    class Bounded(StudentsT):
        def bounds(self, resids: Any) -> list[tuple[float, float]]:  # noqa: ARG002  as arch calls it
            return [(LEAST_DF, 500.0)]

    model = arch_model(r, mean="Constant", vol="EGARCH", p=1, o=1, q=1, dist="t", rescale=False)
    model.volatility, model.distribution = Alarmed(p=1, o=1, q=1), Bounded()
    return model


def _is_proper(params: ArrayLike) -> bool:
    """Tell whether the log variance neither explodes nor falls for ever, and the tails are proper."""
    _, _, alpha, _, beta, nu = np.asarray(params)
    return bool(alpha >= 0 and abs(beta) < 1 and nu >= LEAST_DF)
