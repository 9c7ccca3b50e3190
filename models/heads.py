"""Output heads: from a hidden vector to a distribution, in units of the running scale.

Student t: location a·s and scale exp(b)·s, with s the running scale; trained by its negative log likelihood.
The degrees of freedom are one number a model, learned with the weights and then fixed (`freeze`), so that the
t quantiles are constants of the graph. Monotone quantiles: the median and positive steps away from it
(softplus), so that levels cannot cross; trained by the pinball loss (Koenker & Bassett 1978).

Legend: B batch, S horizon steps, M prices of one moment, Q quantile levels, H hidden.

Comes in: the last layer's output. Goes out: `Distribution`. Imported by the recurrent core.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from models.core import LEAST_DF, Distribution, student, student_quantiles
from models.observation import LEVELS, MEDIAN, Array
from models.operations import namespace, per_price

HeadKind = Literal["t", "quantile"]
IQR_OF_NORMAL = 1.349


class StudentTHead(nn.Module):
    """Location and scale for each step, one df a model."""

    kind: HeadKind = "t"
    gaps = 1
    df: Tensor
    standard: Tensor

    def __init__(self, inputs: int, horizon: int, block: int) -> None:
        super().__init__()
        self.horizon, self.block = horizon, block
        self.output = nn.Linear(inputs, 2 * horizon * block)
        self.log_df = nn.Parameter(torch.tensor(math.log(6.0 - LEAST_DF)))
        self.register_buffer("df", torch.zeros(1))
        self.register_buffer("standard", torch.zeros(len(LEVELS)))
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.copy_(_start(horizon, block))
        self.freeze()

    def freeze(self) -> None:
        """Fix the degrees of freedom at their learned value."""
        df = LEAST_DF + self.log_df.detach().double().exp()
        self.df.copy_(df)
        self.standard.copy_(torch.tensor(student_quantiles(df.item())))

    def distribution(self, hidden: Array, scale: Array, rows: Array) -> Distribution:
        """Give the distribution of the move to each step.

        Parameters
        ----------
        hidden : float32 [B, H]
        scale : float32 [B, M]
            Running scale on the transformed scale.
        rows : int64 [B]
            Any row index: the df is the same for all.
        """
        return self.around(*self.parts(hidden), scale, rows, (self.horizon, self.block))

    def parts(self, hidden: Array) -> tuple[Array, Array]:
        """Give location and scale [B, S, M, 1], per price, in units of the running scale."""
        xp, shape = namespace(hidden), (self.horizon, self.block)
        a, b = self._parts(hidden)
        return per_price(a, shape, (*shape, 1)), per_price(xp.exp(b), shape, (*shape, 1))

    def around(self, middle: Array, gap: Array, scale: Array, rows: Array, shape: tuple[int, int]) -> Distribution:
        """Give the distribution of such parts for (S, M) prices."""
        xp = namespace(middle)
        unit = per_price(scale, shape, (1, shape[1], 1))
        df = xp.take(xp.constant(self.df), rows * 0)
        return student(middle * unit, gap * unit, xp.constant(self.standard), df, shape)

    def _parts(self, hidden: Array) -> tuple[Array, Array]:
        xp = namespace(hidden)
        raw = xp.linear(hidden, xp.constant(self.output.weight), xp.constant(self.output.bias))
        size = self.horizon * self.block
        return xp.split(raw, [size, size], 1)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Negative log likelihood, nats.

        Parameters
        ----------
        hidden : float32 [B, H]
        target : float32 [B, S, M]
            Moves over the running scale at the origin.

        Returns
        -------
        float32 [B, S, M]
        """
        a, b = (x.reshape(target.shape) for x in self._parts(hidden))
        return self._surprise(a, b, target)

    def score(self, middle: Tensor, gap: Tensor, target: Tensor) -> Tensor:
        """Give the same loss of parts [..., 1] at targets [...]."""
        return self._surprise(middle[..., 0], gap[..., 0].log(), target)

    def _surprise(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        df = LEAST_DF + self.log_df.exp()
        z = (target - a) * torch.exp(-b)
        constant = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + 0.5 * torch.log(math.pi * df)
        return constant + b + (df + 1) / 2 * torch.log1p(z * z / df)


class QuantileHead(nn.Module):
    """Quantiles at `LEVELS` that cannot cross; no density."""

    kind: HeadKind = "quantile"
    gaps = len(LEVELS) - 1
    df: Tensor
    levels: Tensor
    away: Tensor

    def __init__(self, inputs: int, horizon: int, block: int) -> None:
        super().__init__()
        self.horizon, self.block = horizon, block
        self.output = nn.Linear(inputs, len(LEVELS) * horizon * block)
        self.register_buffer("df", torch.full((1,), float("nan")))
        self.register_buffer("levels", torch.tensor(LEVELS))
        self.register_buffer("away", away_from_median())
        with torch.no_grad():
            self.output.weight.mul_(0.1)

    def freeze(self) -> None:
        """Nothing to fix: quantiles have no degrees of freedom."""

    def distribution(self, hidden: Array, scale: Array, rows: Array) -> Distribution:
        """Give the quantiles of the move to each step; loc is the median, scale the IQR over 1.349."""
        return self.around(*self.parts(hidden), scale, rows, (self.horizon, self.block))

    def parts(self, hidden: Array) -> tuple[Array, Array]:
        """Give the median [B, S, M, 1] and the steps away from it [B, S, M, Q-1], as `StudentTHead.parts`."""
        xp, shape = namespace(hidden), (self.horizon, self.block)
        raw = xp.linear(hidden, xp.constant(self.output.weight), xp.constant(self.output.bias))
        raw = per_price(raw, shape, (*shape, len(LEVELS)))
        middle, steps = xp.split(raw, [1, len(LEVELS) - 1], _last(shape))
        return middle, xp.softplus(steps)

    def around(self, middle: Array, gap: Array, scale: Array, rows: Array, shape: tuple[int, int]) -> Distribution:
        """Give the quantiles of such parts for (S, M) prices."""
        xp = namespace(middle)
        quantile = (middle + gap @ xp.constant(self.away)) * per_price(scale, shape, (1, shape[1], 1))
        columns = xp.split(quantile, [1] * len(LEVELS), _last(shape))
        spread = (columns[LEVELS.index(0.75)] - columns[LEVELS.index(0.25)]) * (1.0 / IQR_OF_NORMAL)
        df = xp.take(xp.constant(self.df), rows * 0)
        return Distribution(loc=columns[MEDIAN], scale=spread, quantile=quantile, df=df)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean pinball loss over the levels, in units of the running scale: [B, S, M]."""
        middle, gap = (x.reshape(*target.shape, -1) for x in self.parts(hidden))
        return self.score(middle, gap, target)

    def score(self, middle: Tensor, gap: Tensor, target: Tensor) -> Tensor:
        """Give the same loss of parts [..., 1] and [..., Q-1] at targets [...]."""
        error = target[..., None] - (middle + gap @ self.away)
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean(-1)


Head = StudentTHead | QuantileHead
HEADS: dict[str, type[StudentTHead] | type[QuantileHead]] = {"t": StudentTHead, "quantile": QuantileHead}


def _start(horizon: int, block: int) -> Tensor:
    """Start at no drift and a scale that grows with the square root of the step."""
    growth = torch.arange(1, horizon + 1).sqrt().log().repeat_interleave(block)
    return torch.cat([torch.zeros(horizon * block), growth - 0.2])


def _last(shape: tuple[int, int]) -> int:
    """Give the axis of the quantiles of (S, M) prices."""
    return 1 if shape == (1, 1) else 3


def away_from_median() -> Tensor:
    """Build the matrix [Q-1, Q] that adds the steps between each level and the median."""
    away = torch.zeros(len(LEVELS) - 1, len(LEVELS))
    for column in range(len(LEVELS)):
        away[column:MEDIAN, column] = -1.0
        away[MEDIAN:column, column] = 1.0
    return away
