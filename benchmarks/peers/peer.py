"""What a library is asked for beside statecast, and what its answers must be before they are timed.

One module a library, `by_NAME.py`, gives one `Peer`: the same four calls of each, on the same prices.

Comes in: prices, a row a series, and how far a forecast may be from the last price. Goes out: calls whose answers were
looked at. Imported by `compare.py` and by every module of a library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import Call

CONTEXT, HIDDEN, LAYERS = 256, 64, 2
"""Prices that a library without a state reads for each forecast, and the size of every network."""

DEEP = {"one": 300.0, "many": 200.0, "walk": 150.0}
"""How many times as dear as statecast a library of networks is to be at least."""

LANES = CHUNK = 64
"""Series that are trained on at once, and steps through which the gradient goes back."""

FARTHEST = 0.5
"""How far the logarithm of a forecast may be from that of the last price: moves are of .01, series up to 6.9 apart."""

Prices = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One-step forecasts: `price[n]` is for index `target[n]` of its series, and was made from the prices before it."""

    target: NDArray[np.int64]
    price: Prices


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to time, and how to read what it gives."""

    call: Call
    answer: Callable[[Any], Answer]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A whole fit to time.

    Attributes
    ----------
    call : callable
    targets : callable
        Gives the targets that went into the losses of the last call, each as often as it did.
    """

    call: Call
    targets: Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library beside which statecast is measured.

    Attributes
    ----------
    name : str
        As it is installed.
    kinds : tuple of str
        Which of its models are of the same kind as ours: `gru`, `lstm`, `ar`.
    differs : str
        What its work is that ours is not, in a sentence or two.
    parameters : callable
        Counts the weights of a kind.
    forecast : callable
        Of a kind and prices [N, T], gives the work of forecasting price T of every series.
    walk : callable
        Of a kind, prices [T] and a count, gives the work of forecasting the last `count` prices one step ahead each,
        by one fit.
    least : dict of float
        How many times as dear as statecast it is to be at least: in `one` price, in `many` prices, in a `walk`.
    train : callable, optional
        Of a kind, prices [N, T] and epochs, gives a fit.
    """

    name: str
    kinds: tuple[str, ...]
    differs: str
    parameters: Callable[[str], int]
    forecast: Callable[[str, Prices], Work]
    walk: Callable[[str, Prices, int], Work]
    least: dict[str, float]
    train: Callable[[str, Prices, int], Training] | None = None


def walks(series: int, count: int) -> Prices:
    """Draw random walks [N, T] with moves of .01, which begin at levels from 1 to 1,000."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0, np.log(1000), (series, 1))
    return np.exp(level + np.cumsum(rng.normal(scale=0.01, size=(series, count)), 1))


def checked(name: str, work: Work, target: NDArray[np.int64], last: Prices) -> Call:
    """Give the call of a work that answers what is asked.

    Parameters
    ----------
    name : str
        Whose work it is.
    work : Work
        It is called once.
    target : int64 [N]
        The index of which each forecast is to be.
    last : float64 [N]
        The price before each.

    Raises
    ------
    SystemExit
        When there are more or fewer forecasts, or one is of another time, not finite, or so far from the last price of
        its series that it may be of another series or another scale.
    """
    found = work.answer(work.call())
    if found.target.shape != target.shape or found.price.shape != target.shape:
        raise SystemExit(
            f"{name}: expected {target.size:,} forecasts, came {found.price.shape} at {found.target.shape}"
        )
    if (wrong := found.target != target).any():
        row = int(wrong.argmax())
        raise SystemExit(f"{name}: forecast {row} is of index {found.target[row]}, expected {target[row]}")
    if not np.isfinite(found.price).all():
        raise SystemExit(f"{name}: {np.sum(~np.isfinite(found.price)):,} of {target.size:,} forecasts are not finite")
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(np.log(found.price / last)), nan=np.inf)
    if (row := int(apart.argmax())) >= 0 and apart[row] > FARTHEST:
        raise SystemExit(
            f"{name}: forecast {row} is {found.price[row]:g} after a price of {last[row]:g}, farther than a one-step "
            f"forecast can be; it is of another series or not of prices"
        )
    return work.call
