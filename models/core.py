"""What distinguishes one forecaster from another: how moves become a distribution of the next moves.

The shell in `shell.py` does what all share (prices in, validity, prices out); a `Core` does the rest.

Legend: B batch, T time, S horizon steps, M prices of one moment, Q quantile levels.

Comes in: `Tick`. Goes out: `Distribution`. Imported by every kind of core.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from models.observation import LEVELS, Array, Label, State, StateTensor
from models.operations import per_price

LEAST_DF = 2.1
"""Fewest degrees of freedom that are fitted: the variance stays finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """An observation on the transformed scale; with a time axis after the batch axis when unrolled.

    Attributes
    ----------
    change : float32 [B, M]
        Move since the last known price; 0 where held.
    held : bool [B, M]
        True where no move arrived (no price, poison, or the first price): the state must not change.
    series, past, future, elapsed
        As in `Observation`.
    """

    change: Array
    held: Array
    series: Array
    past: Array
    future: Array
    elapsed: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Distribution of the move from the origin to each horizon step, on the transformed scale.

    loc, scale : float32 [B, S, M, 1]; quantile : float32 [B, S, M, Q]; df : float32 [B]. Where S and M are 1 these
    two axes are left out.
    """

    loc: Array
    scale: Array
    quantile: Array
    df: Array


Output_co = TypeVar("Output_co", covariant=True)
Parts = TypeVar("Parts", Distribution, Label)


class Core(Protocol[Output_co]):
    """The part of a forecaster that is its own; that of a classifier gives labels in the place of distributions."""

    kind: str
    horizon: int
    block: int
    past: int
    future: int
    elapsed: bool

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of each row of parameters, or of all; float32."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Name the fitted tensors."""
        ...

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List the tensors carried from step to step."""
        ...

    def step(self, tick: Tick, state: State) -> tuple[Output_co, State]:
        """Take in one tick; the distribution is of the moves after it."""
        ...

    def unroll(self, ticks: Tick, state: State) -> tuple[Output_co, State]:
        """Take in many ticks [B, T, ...]; element [:, t] equals what `step` gives after tick t."""
        ...


def over_time(output: Parts, time: int) -> Parts:
    """Put the time axis back after the batch axis, of a distribution or a label: [B*T, ...] to [B, T, ...]."""
    parts = {f.name: getattr(output, f.name).unflatten(0, (-1, time)) for f in fields(output)}
    return type(output)(**parts)


def scan(core: Core[Distribution], ticks: Tick, state: State) -> tuple[Distribution, State]:
    """Unroll a core by stepping it, for kinds without a faster way."""
    out: list[Distribution] = []
    for t in range(ticks.change.shape[1]):
        tick = Tick(**{f.name: _moment(f.name, getattr(ticks, f.name), t) for f in fields(Tick)})
        distribution, state = core.step(tick, state)
        out.append(distribution)
    joined = {f.name: torch.stack([getattr(d, f.name) for d in out], 1) for f in fields(Distribution)}
    return Distribution(**joined), state


def _moment(name: str, x: Tensor, t: int) -> Tensor:
    return x if name == "series" else x[:, t]


def initial_state(tensors: Iterable[StateTensor], batch: int, like: Tensor) -> State:
    """Build the state that has seen nothing; float32 tensors take the number type and device of `like`."""
    kinds: dict[str, Any] = {"float32": like.dtype, "float64": torch.float64}
    return {s.name: torch.full((batch, *s.shape), s.initial, dtype=kinds[s.dtype], device=like.device) for s in tensors}


def student_quantiles(df: ArrayLike, levels: Iterable[float] = LEVELS) -> NDArray[np.float64]:
    """Quantiles of the standard Student t: df [...] gives [..., Q]; df = inf is the normal.

    >>> student_quantiles([5.0, np.inf], [0.975]).round(3).tolist()
    [[2.571], [1.96]]
    """
    return stats.t.ppf(np.asarray(list(levels)), np.asarray(df)[..., None])


def student(loc: Array, scale: Array, standard: Array, df: Array, shape: tuple[int, int]) -> Distribution:
    """Build the distribution of a Student t.

    Parameters
    ----------
    loc, scale : float32
        Per price, see `operations.per_price`.
    standard : float32 [Q], or [B, Q] where degrees of freedom differ by series
        Quantiles of the standard t.
    df : float32 [B]
    shape : (S, M)
    """
    around = per_price(standard, shape, (1, 1, len(LEVELS)))
    return Distribution(loc=loc, scale=scale, quantile=loc + scale * around, df=df)
