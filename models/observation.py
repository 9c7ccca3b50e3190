"""What every model takes and gives: observation in, forecast or label out, state carried.

Legend: B batch (series or lanes), T time, M prices published at once (1 for ticks and bars, 24 for a
day-ahead auction), S horizon steps, Q quantile levels, C classes, P past-only covariates, K covariates known
ahead.

Comes in: nothing. Goes out: the value types of the step contract. Imports no array library, so that the
serving side shares it; may be imported by everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LEVELS: tuple[float, ...] = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
"""Quantile levels of every forecast; the median is the point forecast."""

MEDIAN: int = LEVELS.index(0.5)

Array = Any
"""A torch tensor; a numpy array on the serving side; a symbol while a step is traced to a graph."""

State = dict[str, Array]
"""Named tensors, batch axis first. A value: never stored on a model, never changed in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What becomes known at one moment; with a time axis after the batch axis, at many moments.

    Attributes
    ----------
    price : float64 [B, M]
        Raw prices.
    mask : bool [B, M]
        True where a price was published. A price that is NaN, infinite or outside the domain of the
        transform where the mask is True is poison: the whole row leaves the state as it was.
    series : int64 [B]
        Row of the per-series parameters; 0 is the pooled row, for series never seen. No time axis.
    past : float32 [B, P]
        Covariates known with the price.
    future : float32 [B, S, K]
        Covariates known ahead, one row for each horizon step.
    elapsed : float32 [B]
        Time since the previous observation, in bars of the grid (1 where nothing is missing).
    """

    price: Array
    mask: Array
    series: Array
    past: Array
    future: Array
    elapsed: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Distribution of the next prices. The value at origin i, step s is for i + s, made with data up to i.

    Attributes
    ----------
    quantile : float64 [B, S, M, Q]
        Prices at `LEVELS`, in price units. NaN before a series has shown its first price.
    loc, scale : float32 [B, S, M]
        Location and scale on the transformed scale (log return or asinh difference from origin to target).
    df : float32 [B]
        Degrees of freedom of the Student t on that scale: inf is the normal, NaN says that the forecaster
        has quantiles only and no density.
    """

    quantile: Array
    loc: Array
    scale: Array
    df: Array

    @property
    def median(self) -> Array:
        """The point forecast, float64 [B, S, M], in price units."""
        return self.quantile[..., MEDIAN]


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """How probable each class is. The value at i is of what the model was taught at i, made with data up to i.

    Attributes
    ----------
    probability : float32 [B, C]
        In the order of the model's classes; adds up to 1.
    """

    probability: Array


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of a state: what a store, a split adjustment or a reader of the file must know of it.

    `shape` is without the batch axis. `initial` fills a state that has seen nothing. `unit` is `price`
    where a split must rescale it, else `return`, `return^2`, `count` or `hidden`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    initial: float
    unit: str
    meaning: str


def at(observations: Observation, t: int) -> Observation:
    """Take the observation of moment `t` from observations with a time axis."""
    o = observations
    return Observation(
        price=o.price[:, t],
        mask=o.mask[:, t],
        series=o.series,
        past=o.past[:, t],
        future=o.future[:, t],
        elapsed=o.elapsed[:, t],
    )


def between(observations: Observation, start: int, stop: int) -> Observation:
    """Take the moments `start` to `stop - 1`, views without a copy."""
    o = observations
    return Observation(
        price=o.price[:, start:stop],
        mask=o.mask[:, start:stop],
        series=o.series,
        past=o.past[:, start:stop],
        future=o.future[:, start:stop],
        elapsed=o.elapsed[:, start:stop],
    )
