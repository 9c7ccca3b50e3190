"""GJR-GARCH(1,1) with Student t innovations: the honest opponent on assets.

    r_t = μ + e_t      σ²_{t+1} = ω + (α + γ·1[e_t < 0]) e_t² + β σ²_t      e_t / σ_t ~ standardised t_ν

Glosten, Jagannathan, Runkle (1993), J. Finance 48(5); fitted by maximum likelihood with the `arch` package.
The variance of the move to step s, Σ_{k≤s} E σ²_{t+k}, is affine in σ²_{t+1}: with persistence
φ = α + γ/2 + β and long-run variance σ̄² = ω/(1-φ) it is s·σ̄² + (1-φ^s)/(1-φ)·(σ²_{t+1} - σ̄²).

Legend: B batch, M prices of one moment, S horizon steps, R rows of parameters (0 pooled), Q levels.

Comes in: moves of each series on the train split. Goes out: a core. Knows arch, imported when fitting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, Tick, over_time, student, student_quantiles
from models.errors import FitError
from models.fittable import Vector, one_price
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price
from models.series_by_series import each

COLUMNS = ("mu", "omega", "alpha", "gamma", "beta", "nu")
SHORTEST = 250
LONGEST_PERSISTENCE = 0.9999
ROUNDING = 1e-3
"""By how much the optimiser may overstep the bound of an integrated variance."""
STARTS = ((0.0, 0.02, 0.05, 0.04, 0.92, 6.0), (0.0, 0.01, 0.03, 0.02, 0.95, 3.5))
"""Starting values besides arch's own, for moves of unit variance: a series that stood still for a while leads the
optimiser from a single start into a poor optimum, and a weak opponent would flatter everybody else."""


class Garch(nn.Module):
    """The GARCH core: the variance of the next move is its state.

    Parameters
    ----------
    parameters : float64 [R, 6]
        Columns mu, omega, alpha, gamma, beta, nu, one row a series, row 0 pooled; moves are not in percent.
    horizon : int
        S.
    """

    kind = "garch"
    past = future = 0
    elapsed = False
    block = 1
    mean: Tensor
    omega: Tensor
    alpha: Tensor
    alpha_down: Tensor
    beta: Tensor
    long_run: Tensor
    loc: Tensor
    variance_base: Tensor
    variance_slope: Tensor
    df: Tensor
    standard: Tensor

    def __init__(self, parameters: Tensor, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("parameters_by_row", parameters.double())
        mu, omega, alpha, gamma, beta, nu = (parameters[:, k : k + 1].double() for k in range(6))
        steps = torch.arange(1, horizon + 1).double()
        persistence = (alpha + gamma / 2 + beta).clamp(max=LONGEST_PERSISTENCE)
        long_run = omega / (1 - persistence)
        reach = (1 - persistence**steps) / (1 - persistence)
        to_scale = (nu - 2) / nu
        tables = {
            "mean": mu,
            "omega": omega,
            "alpha": alpha,
            "alpha_down": alpha + gamma,
            "beta": beta,
            "long_run": long_run,
            "loc": mu * steps,
            "variance_base": to_scale * long_run * (steps - reach),
            "variance_slope": to_scale * reach,
            "df": nu[:, 0],
            "standard": torch.tensor(student_quantiles(nu[:, 0].numpy())),
            "each_base": to_scale * long_run * (1 - persistence ** (steps - 1)),
            "each_slope": to_scale * persistence ** (steps - 1),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=not name.startswith("each"))

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the variance of the next move; NaN stands for the long-run variance."""
        return (StateTensor("variance", (1,), "float32", float("nan"), "return^2", "variance of the next move"),)

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        now, state = self.carried(tick, state)
        return self._distribution(now, tick.series), state

    def carried(self, tick: Tick, state: State) -> tuple[Array, State]:
        """Take in one tick; give the variance of the next move [B, 1], and the state."""
        xp = namespace(tick.change)
        before = xp.where(xp.isnan(state["variance"]), self.row(tick.series, "long_run"), state["variance"])
        after = self._shocked(tick.change, tick.series) + self.row(tick.series, "beta") * before
        kept = xp.where(tick.held, state["variance"], after)
        return xp.where(tick.held, before, after), {"variance": kept}

    def row(self, series: Array, name: str) -> Array:
        """Take a table's row of each series."""
        xp = namespace(series)
        return xp.take(xp.constant(getattr(self, name)), series)

    def _shocked(self, change: Array, series: Array) -> Array:
        """Give what a move adds to the next variance: ω + (α + γ·1[e < 0]) e²."""
        xp = namespace(change)
        shock = change - self.row(series, "mean")
        impact = xp.where(shock < 0.0, self.row(series, "alpha_down"), self.row(series, "alpha"))
        return self.row(series, "omega") + impact * (shock * shock)

    def _distribution(self, variance: Array, series: Array) -> Distribution:
        """Give the distribution of the moves, with the variance of the next one."""
        xp, shape = namespace(variance), (self.horizon, 1)
        spread = xp.sqrt(self.row(series, "variance_base") + self.row(series, "variance_slope") * variance)
        loc, scale = (per_price(x, shape, (*shape, 1)) for x in (self.row(series, "loc"), spread))
        return student(loc, scale, self.row(series, "standard"), self.row(series, "df"), shape)

    def variance_of_each(self, variance: Array, series: Array) -> Array:
        """Give the squared scale of the t of each single move ahead [B, S], with the variance of the next one."""
        return self.row(series, "each_base") + self.row(series, "each_slope") * variance

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the variance step by step, on plain arrays, all else at once."""
        time = ticks.change.shape[1]
        variance, state = self.carried_over(ticks, state)
        made = self._distribution(variance.flatten(0, 1), ticks.series.repeat_interleave(time))
        return over_time(made, time), state

    @torch.no_grad()
    def carried_over(self, ticks: Tick, state: State) -> tuple[Tensor, State]:
        """Take in many ticks; give the variance of the next move after each [B, T, 1], and the state."""
        batch, time = ticks.change.shape[:2]
        rows = ticks.series.repeat_interleave(time)
        shocked = self._shocked(ticks.change.flatten(0, 1), rows).unflatten(0, (batch, time))
        still, added = (x.transpose(0, 1).cpu().numpy() for x in (ticks.held, shocked))
        beta, long_run = (self.row(ticks.series, k).cpu().numpy() for k in ("beta", "long_run"))
        kept, used = state["variance"].cpu().numpy(), np.empty_like(added)
        for t in range(time):
            before = np.where(np.isnan(kept), long_run, kept)
            after = added[t] + beta * before
            used[t] = np.where(still[t], before, after)
            kept = np.where(still[t], kept, after)
        variance = torch.from_numpy(used).to(rows.device).transpose(0, 1)
        return variance, {"variance": torch.from_numpy(kept).to(rows.device)}


def fit_garch(moves: Sequence[NDArray[np.float64]], *, horizon: int) -> Garch:
    """Fit one GJR-GARCH(1,1)-t a series on its moves on the *train split*; row 0 takes the medians.

    Raises
    ------
    FitError
        A series is shorter than 250 moves, does not vary, or the optimiser finds nothing proper from any start. The
        most likely fit is taken, whether the optimiser was content or not: on prices of few ticks it complains at the
        best optimum, and calls one converged that is far worse.
    """
    series = [one_price(r, row, kind="GARCH", least=SHORTEST) for row, r in enumerate(moves, 1)]
    rows = np.array(each(fit_one, series))
    return Garch(torch.from_numpy(np.vstack([np.median(rows, axis=0), rows])), horizon)


def fit_one(r: Vector, row: int) -> list[float]:
    """Give `COLUMNS` of one series [T]; see `fit_garch`."""
    from arch import arch_model

    unit = float(np.std(r))
    model = arch_model(r / unit, mean="Constant", vol="GARCH", p=1, o=1, q=1, dist="t", rescale=False)
    results = [model.fit(disp="off", show_warning=False, starting_values=s) for s in (None, *map(np.array, STARTS))]
    usable = [x for x in results if _is_proper(x.params)]
    if not usable:
        flags = [x.convergence_flag for x in results]
        raise FitError(f"GARCH: series row {row}: no proper fit, the optimiser stopped with {flags}", row=row)
    best = max(usable, key=lambda x: x.loglikelihood)
    mu, omega, alpha, gamma, beta, nu = (float(x) for x in best.params)
    return [mu * unit, omega * unit**2, alpha, gamma, beta, nu]


def _is_proper(params: ArrayLike) -> bool:
    """Tell whether the variance does not explode and the tails are proper; it may be integrated, as RiskMetrics' is."""
    _, _, alpha, gamma, beta, nu = np.asarray(params)
    return bool(alpha + gamma / 2 + beta < 1 + ROUNDING and nu > LEAST_DF)
