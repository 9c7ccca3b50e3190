"""Output heads: from a hidden vector to a distribution, in units of the running scale.

Student t: location a·s and scale exp(b)·s, with s the running scale; trained by its negative log likelihood.
The degrees of freedom are one number a model, learned with the weights and then fixed (`freeze`), so that the
t quantiles are constants of the graph. Monotone quantiles: the median and positive steps away from it
(softplus), so that levels cannot cross; trained by the pinball loss (Koenker & Bassett 1978). Point: location by the
squared error, and beside it a normal whose spread is learned from the errors. Categorical: probabilities of the bins of
`bins.py`, trained by the cross-entropy.

Legend: B batch, S horizon steps, M prices of one moment, Q quantile levels, H hidden, K bins.

Comes in: the last layer's output. Goes out: `Distribution`. Imported by the recurrent core.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from models.bins import Bins
from models.core import LEAST_DF, Distribution, student, student_quantiles
from models.errors import ConfigError
from models.observation import LEVELS, MEDIAN, Array
from models.operations import namespace, per_price

HeadKind = Literal["t", "quantile", "point", "categorical"]
IQR_OF_NORMAL = 1.349

OF_ALL = 0.01
"""Share of the distribution over bins that is the same for all bins, which on the train split are equally full."""


class LocationScale(ABC, nn.Module):
    """Location and scale for each step; the shape of the distribution is one number a model."""

    gaps = 1
    df: Tensor
    standard: Tensor

    def __init__(self, inputs: int, horizon: int, block: int) -> None:
        super().__init__()
        self.horizon, self.block = horizon, block
        self.output = nn.Linear(inputs, 2 * horizon * block)
        self.register_buffer("df", torch.full((1,), float("inf")))
        self.register_buffer("standard", torch.tensor(student_quantiles(float("inf"))).float())
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.copy_(_start(horizon, block))

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
        loc, spread, standard = middle * unit, gap * unit, xp.constant(self.standard)
        if shape != (1, 1):
            return student(loc, spread, standard, df, shape)
        return Distribution(loc=loc, scale=spread, quantile=xp.outer(spread, standard, loc), df=df)

    def _raw(self, hidden: Array) -> tuple[Array, Array]:
        """Give location and log scale [B, S*M]."""
        xp = namespace(hidden)
        raw = xp.linear(hidden, xp.constant(self.output.weight), xp.constant(self.output.bias))
        size = self.horizon * self.block
        return xp.split(raw, [size, size], 1)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Give the loss of each target.

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

    @abstractmethod
    def _parts(self, hidden: Array) -> tuple[Array, Array]:
        """Give location and log scale [B, S*M], and say what of them teaches the body."""

    @abstractmethod
    def _surprise(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        """Give the loss of locations and log scales at targets."""


class StudentTHead(LocationScale):
    """Student t, its df learned; the loss is the negative log likelihood, nats."""

    kind: HeadKind = "t"

    def __init__(self, inputs: int, horizon: int, block: int) -> None:
        super().__init__(inputs, horizon, block)
        self.log_df = nn.Parameter(torch.tensor(math.log(6.0 - LEAST_DF)))
        self.freeze()

    def freeze(self) -> None:
        """Fix the degrees of freedom at their learned value."""
        df = LEAST_DF + self.log_df.detach().double().exp()
        self.df.copy_(df)
        self.standard.copy_(torch.tensor(student_quantiles(df.item())))

    def _parts(self, hidden: Array) -> tuple[Array, Array]:
        return self._raw(hidden)

    def _surprise(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        df = LEAST_DF + self.log_df.exp()
        z = (target - a) * torch.exp(-b)
        constant = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + 0.5 * torch.log(math.pi * df)
        return constant + b + (df + 1) / 2 * torch.log1p(z * z / df)


class PointHead(LocationScale):
    """Location by the squared error; a normal around it, whose spread teaches nothing but itself.

    The loss is e² + b + (e exp(-b))² / 2 with e the error, in running scales, and b the log of the spread. In the last
    two terms e and what b is computed from are detached: location and body learn by the squared error alone.
    """

    kind: HeadKind = "point"

    def freeze(self) -> None:
        """Nothing to fix: a normal has infinite degrees of freedom."""

    def _parts(self, hidden: Array) -> tuple[Array, Array]:
        a, b = self._raw(hidden)
        return a, (self._raw(hidden.detach())[1] if isinstance(hidden, Tensor) and hidden.requires_grad else b)

    def _surprise(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        error = target - a
        return error.square() + b + (error.detach() * torch.exp(-b)).square() / 2


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
        return _of_quantiles(quantile, xp.take(xp.constant(self.df), rows * 0), shape)

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean pinball loss over the levels, in units of the running scale: [B, S, M]."""
        middle, gap = (x.reshape(*target.shape, -1) for x in self.parts(hidden))
        return self.score(middle, gap, target)

    def score(self, middle: Tensor, gap: Tensor, target: Tensor) -> Tensor:
        """Give the same loss of parts [..., 1] and [..., Q-1] at targets [...]."""
        error = target[..., None] - (middle + gap @ self.away)
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean(-1)


class CategoricalHead(nn.Module):
    """Probabilities of bins of the move over its running scale; quantiles of them, no density.

    Parameters
    ----------
    inputs, horizon, block, bins : int
        H, S, M and K.
    """

    kind: HeadKind = "categorical"
    df: Tensor

    def __init__(self, inputs: int, horizon: int, block: int, bins: int) -> None:
        super().__init__()
        self.horizon, self.block = horizon, block
        self.bins = Bins(horizon, block, bins)
        self.output = nn.Linear(inputs, horizon * block * bins)
        self.register_buffer("df", torch.full((1,), float("nan")))
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.zero_()

    def freeze(self) -> None:
        """Nothing to fix: bins have no degrees of freedom."""

    def distribution(self, hidden: Array, scale: Array, rows: Array) -> Distribution:
        """Give the quantiles of the move to each step; parameters as in `StudentTHead.distribution`."""
        xp, shape = namespace(hidden), (self.horizon, self.block)
        quantile = self.bins.quantiles(self.share(hidden)) * per_price(scale, shape, (1, shape[1], 1))
        return _of_quantiles(quantile, xp.take(xp.constant(self.df), rows * 0), shape)

    def share(self, hidden: Array) -> Array:
        """Give the probabilities of the bins, [B, S, M, 1, K]; where S and M are 1 these two axes are left out."""
        xp = namespace(hidden)
        logits = xp.linear(hidden, xp.constant(self.output.weight), xp.constant(self.output.bias))
        prices = () if self.horizon == self.block == 1 else (self.horizon, self.block)
        own = xp.softmax(xp.reshape(logits, (-1, *prices, 1, self.bins.count)))
        return own * (1 - OF_ALL) + OF_ALL / self.bins.count

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Give the cross-entropy of the bins of targets [B, S, M], nats."""
        share = self.share(hidden).reshape(*target.shape, -1)
        return -share.gather(-1, self.bins.of(target)[..., None])[..., 0].log()

    @torch.no_grad()
    def temper(self, temperature: float, *, density: bool = False) -> None:
        """Make the probabilities p^(1/T), normalised, for good: below 1 the likely gets likelier.

        With `density` it is the density p/w that is raised, w the width of a bin; bins that are equally full of train
        targets are narrow where targets are many. (Ackley, Hinton & Sejnowski 1985, Cognitive Science 9(1).)
        """
        if not 0 < temperature < math.inf:
            raise ConfigError(f"temperature of bins: expected a finite number above 0, got {temperature}")
        self.output.weight.div_(temperature)
        self.output.bias.div_(temperature)
        if density:
            self.output.bias.add_((1 - 1 / temperature) * self.bins.edges.diff().log().flatten())


HEADS: dict[str, type[StudentTHead] | type[QuantileHead] | type[PointHead]] = {
    "t": StudentTHead,
    "quantile": QuantileHead,
    "point": PointHead,
}
"""Heads of a location and steps away from it, which can be put together over steps."""


def _start(horizon: int, block: int) -> Tensor:
    """Start at no drift and a scale that grows with the square root of the step."""
    growth = torch.arange(1, horizon + 1).sqrt().log().repeat_interleave(block)
    return torch.cat([torch.zeros(horizon * block), growth - 0.2])


def _of_quantiles(quantile: Array, df: Array, shape: tuple[int, int]) -> Distribution:
    """Take the median for the location and the interquartile range over 1.349 for the scale."""
    columns = namespace(quantile).split(quantile, [1] * len(LEVELS), _last(shape))
    spread = (columns[LEVELS.index(0.75)] - columns[LEVELS.index(0.25)]) * (1.0 / IQR_OF_NORMAL)
    return Distribution(loc=columns[MEDIAN], scale=spread, quantile=quantile, df=df)


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
