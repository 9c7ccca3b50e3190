r"""Evidence that one model forecasts better than another, which may be looked at after every origin.

A p-value holds for one look. Who looks every night, and promotes at the first p below 5 %, promotes an equal model
sooner or later. What is computed here is an e-value: the capital of somebody who began with 1 and bet, from wager to
wager, that the challenger gains on the model that serves. Where it gains nothing, the capital exceeds 1/α at any time,
ever, with a probability of at most α (Ville 1939), so nobody has to say beforehand how often or how long to look.

With x_i the gain of wager i (loss of the model that serves less that of the challenger), s_i its scale as known before
(a running root mean square of the gains before i), z_i = x_i / s_i, S = Σ z_i and V = max(Σ z_i², Σ (z_i² + 2) / 3),
the capital is

    E = ∫ exp(λ S - λ² V / 2) dF(λ) = 2 / √(1 + ρ² V) · exp(ρ² S² / (2 (1 + ρ² V))) · Φ(ρ S / √(1 + ρ² V))

for bets λ > 0 spread as half of a normal distribution of deviation ρ. It holds twice over. Since (e^y + e^-y) / 2 ≤
e^(y² / 2), each factor has a mean of at most 1 where z_i is symmetric about zero or less, however heavy its tails and
whatever its scale (de la Peña 1999). And where gains are skewed, by the second term of V, if s_i² is their mean square
(Delyon 2009): a challenger that wins a little each day and loses much at last is not taken for better in between,
as far as s_i is right, which `benchmarks/wager.py` puts into numbers.

Forecasts of more than one step overlap: the outcome of an origin is known when later origins have passed. A wager is
then the mean over a run of origins, and the next run begins when all its outcomes are known.

Comes in: gains of a challenger by origin. Goes out: wagers and e-values, by pure functions. Knows numpy and scipy;
imported by compare and the benchmarks.

References
----------
de la Peña (1999), A general class of exponential inequalities for martingales and ratios, Annals of Probability 27,
537-564, doi:10.1214/aop/1022677271. Delyon (2009), Exponential inequalities for sums of weakly dependent variables,
Electronic Journal of Probability 14, 752-779, doi:10.1214/EJP.v14-636. Robbins (1970), Statistical methods related to
the law of the iterated logarithm, Annals of Mathematical Statistics 41, 1397-1409, doi:10.1214/aoms/1177696786. Choe &
Ramdas (2024), Comparing sequential forecasters, Operations Research 72, 1368-1387, doi:10.1287/opre.2021.0792.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

Vector = NDArray[np.float64]

RUN_PER_STEP = 8
"""Origins in a wager for each step of a horizon above 1; one less than a horizon lies between two wagers."""

WARM_UP = 8
"""First wagers, which only measure the scale."""

MEMORY = 60.0
"""Wagers after which a gain counts 1/e of what it did in the running scale."""

BET = 0.25
"""ρ: where the bets are, in mean gains over their deviation; a gain that shows within a year of days has about that."""


def wagers(gains: Vector, horizon: int = 1) -> Vector:
    """Make gains by origin, [n] in time order, into wagers, [m].

    Parameters
    ----------
    horizon : int
        Longest step of the forecasts. At 1 every origin is a wager; above, the mean over 8 origins a step is one. The
        rest at the end, too few origins for a wager, waits.
    """
    if horizon == 1:
        return gains
    run = RUN_PER_STEP * horizon
    apart = run + horizon - 1
    count = (len(gains) + horizon - 1) // apart
    padded = np.append(gains, np.zeros(horizon - 1))[: count * apart]
    return padded.reshape(count, apart)[:, :run].mean(axis=1)


def capital(bets: Vector) -> Vector:
    """Give the e-value after each wager, [..., m]; 1 while only the scale is measured.

    The value after wager i depends on no later one.

    Parameters
    ----------
    bets : float64 [..., m]
        Gains of the challenger, see `wagers`; finite.
    """
    scale = _scale_before(bets)
    z = np.divide(bets, scale, out=np.zeros_like(bets), where=scale > 0)
    z[..., :WARM_UP] = 0
    total, square = np.cumsum(z, axis=-1), np.cumsum(z**2, axis=-1)
    expected = np.cumsum(np.arange(z.shape[-1]) >= WARM_UP)
    spread = 1 + BET**2 * np.maximum(square, (square + 2 * expected) / 3)
    place = BET * total / np.sqrt(spread)
    # in logs: Φ of a long series of losses is below what a float holds
    log = np.log(2) - np.log(spread) / 2 + place**2 / 2 + special.log_ndtr(place)
    return np.exp(np.minimum(log, 700.0))


def _scale_before(values: Vector) -> Vector:
    """Give at each value the running root mean square of those before it, [..., m]; 0 at the first."""
    before = ([0.0, 1.0], [1.0, -np.exp(-1 / MEMORY)])
    square, weight = (np.asarray(signal.lfilter(*before, x)) for x in (values**2, np.ones_like(values)))
    return np.sqrt(np.divide(square, weight, out=np.zeros_like(square), where=weight > 0))
