"""What a network reads at each move, all causal: nothing here is learned.

The move over its running scale on every memory, the absolute value of that, and the log of the running variances;
covariates and elapsed time where there are any. Covariates come raw and are standardised inside the step, to mean 0
and variance 1 on the train split (LeCun, Bottou, Orr & Müller 1998, Efficient BackProp, 4.3).

Legend: B batch, T time, F features, W memories, M prices of one moment, S horizon steps, R rows, C covariates (known
with the price, or ahead).

Comes in: ticks. Goes out: features and running scales. Imported by network.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.core import Tick
from models.observation import Array, State, StateTensor
from models.operations import namespace
from models.scale import RunningScale


class Inputs(nn.Module):
    """Features of a network.

    Parameters
    ----------
    memories : tuple of int
        Lengths in moves of the running scales, increasing.
    unit : float
        Typical absolute move on the transformed scale, fitted on the *train split*.
    horizon, block, past, future : int
        S, M and the numbers of covariates.
    elapsed : bool
        Whether the log of the elapsed time is a feature.
    """

    def __init__(
        self, memories: tuple[int, ...], *, unit: float, horizon: int, block: int, past: int, future: int, elapsed: bool
    ) -> None:
        super().__init__()
        self.horizon, self.past, self.future, self.elapsed = horizon, past, future, elapsed
        self.scale = RunningScale(memories, unit, block)
        self.width = 3 * self.scale.width + past + horizon * future + int(elapsed)
        self.register_buffer("unit", torch.tensor([unit]))
        for name, count in (("past", past), ("future", future)):
            if count:
                self.register_buffer(f"{name}_center", torch.zeros(count))
                self.register_buffer(f"{name}_unit", torch.ones(count))

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the running scale."""
        return self.scale.state_tensors()

    def fit_covariates(self, name: Literal["past", "future"], rows_RC: Tensor) -> None:
        """Take center and unit of raw covariates [R, C], rows of the *train split*: mean and standard deviation.

        A covariate that is constant there, up to the rounding of float32, has unit 1.
        """
        spread, mean = torch.std_mean(rows_RC.double(), 0, correction=0)
        self.get_buffer(f"{name}_center").copy_(mean)
        self.get_buffer(f"{name}_unit").copy_(torch.where(spread > 1e-6 * mean.abs(), spread, 1.0))

    def step(self, tick: Tick, state: State) -> tuple[Array, Array, State]:
        """Give the features [B, F] and the running scale [B, M] on the transformed scale."""
        move, log_variance, scale, following = self.scale.step(tick.change, tick.held, state)
        return self._beside(move, log_variance, tick), scale, following

    @torch.no_grad()
    def unroll(self, ticks: Tick, state: State) -> tuple[Tensor, Tensor, State]:
        """Give features [B, T, F] and running scales [B, T, M] of many ticks."""
        move, log_variance, scale, following = self.scale.unroll(ticks.change, ticks.held, state)
        batch, time = ticks.change.shape[:2]
        flat = {f: getattr(ticks, f).flatten(0, 1) for f in ("change", "held", "past", "future", "elapsed")}
        many = Tick(series=ticks.series.repeat_interleave(time), **flat)
        features = self._beside(move.flatten(0, 1), log_variance.flatten(0, 1), many)
        return features.unflatten(0, (batch, time)), scale, following

    def _beside(self, move: Array, log_variance: Array, tick: Tick) -> Array:
        """Put everything that the network reads side by side, [B, F]; the moves come first."""
        xp = namespace(move)
        parts = [move, xp.abs(move), log_variance]
        if self.past:
            parts.append(self._standardised("past", tick.past))
        if self.future:
            parts.append(self.known_ahead(tick.future))
        if self.elapsed:
            parts.append(xp.log(xp.reshape(tick.elapsed, (-1, 1))))
        return xp.concat(parts, 1)

    def known_ahead(self, future: Array) -> Array:
        """Standardise raw covariates known ahead, [B, S, C] to [B, S*C]."""
        standardised = self._standardised("future", future)
        return namespace(future).reshape(standardised, (-1, self.horizon * self.future))

    def _standardised(self, name: str, raw: Array) -> Array:
        constant = namespace(raw).constant
        return (raw - constant(self.get_buffer(f"{name}_center"))) / constant(self.get_buffer(f"{name}_unit"))
