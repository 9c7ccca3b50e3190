"""A core that sees its moves adjusted for the hour of the week: a network's counterpart of GARCH on adjusted moves.

    u_t = r_t / f(slot_t)        y_{t+s} - y_t  ~  g_s · (what the core says of the adjusted moves)

with f the factors of `diurnal.factors_of` and g_s = √(Σ_{k≤s} f(slot_{t+k})² / s), the root mean square of those of the
moves to come: exact for the next one, and for later ones as if their variances were equal. The network so learns what
is left, clusters and tails, and need not learn the clock (Andersen & Bollerslev 1997, J. Empirical Finance 4(2-3)).

Legend: B batch, T time, S horizon steps, R rows of parameters (0 pooled), W the 168 hours of a week, K covariates.

Comes in: a core, factors. Goes out: a core that also reads `@hour_of_week`, of the origin and of each target, behind
the covariates of its own. Trained by `pipeline/training.py`.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from models.core import Core, Distribution, Tick, over_time
from models.diurnal import Factors
from models.observation import Array, State, StateTensor
from models.operations import namespace, per_price


class Seasonal(nn.Module):
    """A core around which moves are divided, and their distribution multiplied, by factors of the hour of the week.

    Parameters
    ----------
    core : Core
        Of the adjusted moves; of single prices (M = 1).
    factor : float [R, W]
    """

    def __init__(self, core: Core, factor: Tensor) -> None:
        super().__init__()
        self.core, self.factors = core, Factors(factor)
        self.kind, self.horizon, self.block = core.kind, core.horizon, core.block
        self.past, self.future, self.elapsed = core.past + 1, core.future + 1, core.elapsed
        # column s of the product with the squared factors is their mean over the steps up to s
        steps = torch.arange(1, self.horizon + 1)
        self.register_buffer("up_to", (torch.ones(self.horizon, self.horizon).triu() / steps), persistent=False)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of each row of parameters, or of all."""
        return self.core.df

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: what the core carries, in adjusted moves."""
        return self.core.state_tensors()

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        adjusted, growth = self.adjusted(tick)
        made, state = self.core.step(adjusted, state)
        return self._grown(made, growth), state

    def adjusted(self, tick: Tick) -> tuple[Tick, Array]:
        """Give a tick [B, ...] with its move adjusted and without the hours, and the growth g [B, S]."""
        xp = namespace(tick.change)
        past, now = self._behind(tick.past, self.past - 1, 1)
        future, ahead = self._behind(tick.future, self.future - 1, 2)
        factor = self.factors.of(tick.series, xp.reshape(ahead, (-1, self.horizon)), self.horizon)
        growth = factor if self.horizon == 1 else xp.sqrt((factor * factor) @ xp.constant(self.up_to))
        change = tick.change / self.factors.of(tick.series, now, 1)
        return replace(tick, change=change, past=past, future=future), growth

    @staticmethod
    def _behind(covariates: Array, own: int, axis: int) -> tuple[Array, Array]:
        """Part the covariates of the core from the hour behind them; a graph has no split into nothing."""
        if not own and not isinstance(covariates, Tensor):
            return covariates, covariates
        return namespace(covariates).split(covariates, [own, 1], axis)

    def _grown(self, made: Distribution, growth: Array) -> Distribution:
        """Bring the distribution of adjusted moves back to moves."""
        g = per_price(growth, (self.horizon, 1), (self.horizon, 1, 1))
        return Distribution(loc=made.loc * g, scale=made.scale * g, quantile=made.quantile * g, df=made.df)

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]."""
        adjusted, growth = self.adjusted_over(ticks)
        made, state = self.core.unroll(adjusted, state)
        time = ticks.change.shape[1]
        flat = Distribution(**{f.name: getattr(made, f.name).flatten(0, 1) for f in fields(Distribution)})
        return over_time(self._grown(flat, growth.flatten(0, 1)), time), state

    @torch.no_grad()
    def adjusted_over(self, ticks: Tick) -> tuple[Tick, Tensor]:
        """Give ticks [B, T, ...] with their moves adjusted and without the hours, and the growth [B, T, S]."""
        batch, time = ticks.change.shape[:2]
        beside = ("change", "held", "past", "future", "elapsed")
        flat = {f: getattr(ticks, f).flatten(0, 1) for f in beside}
        adjusted, growth = self.adjusted(Tick(series=ticks.series.repeat_interleave(time), **flat))
        over = {f: getattr(adjusted, f).unflatten(0, (batch, time)) for f in beside}
        return Tick(series=ticks.series, **over), growth.unflatten(0, (batch, time))
