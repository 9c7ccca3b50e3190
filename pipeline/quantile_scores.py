"""What quantiles alone say of an outcome: the CRPS between them, and the place of the outcome among them.

Legend: n outcomes, Q quantile levels.

The same quantile function as in `pipeline.metrics.quantile_crps`: linear between the levels and beyond them in normal
scores, integrated by `DENSE` midpoints τ_j. The sum over them needs no loop: with k of the dense quantiles at or below
the outcome y, Σ_j pinball_j = Σ_q A[k, q] (x_q - y), and A is known beforehand.

Comes in: quantiles in ascending order at `models.observation.LEVELS`, and outcomes. Goes out: float64 [n]. Every
element is computed by itself, so that no bit depends on how many travel together. Knows numpy only; imported by
scoring.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from models.observation import LEVELS

Vector = NDArray[np.float64]

DENSE = 200
"""Points of the integral over levels."""

_BELOW, _ABOVE = -4.0, 5.0
"""Shares of a segment that lie before and behind every dense quantile."""

_APART = 10.0
"""Distance between the keys of segments, more than the length of the longest."""


def quantile_crps(outcome: Vector, quantile: Vector) -> Vector:
    """Take the CRPS 2 ∫ pinball(τ) dτ of quantiles [n, Q] and outcomes [n], in their unit; NaN where one is NaN."""
    weight = _WEIGHT[_passed(outcome, quantile)] * (quantile - outcome[:, None])
    total = weight[:, 0]
    for q in range(1, len(LEVELS)):
        total = total + weight[:, q]
    return total * (2 / DENSE)


def place(outcome: Vector, quantile: Vector) -> tuple[Vector, Vector]:
    """Say where among quantiles [n, Q] outcomes [n] lie: the PIT as far as quantiles tell it, and how far out.

    Returns
    -------
    place, far : [n]
        The middle of the levels on either side, 0.005 to 0.995, and its distance from ½. If the quantiles are those of
        the outcome their means are exactly ½ and ¼. An outcome that equals quantiles counts half on either side of
        them.
    """
    low = np.count_nonzero(quantile < outcome[:, None], axis=1)
    high = np.count_nonzero(quantile <= outcome[:, None], axis=1)
    return (_MIDDLE[low] + _MIDDLE[high]) / 2, (_FAR[low] + _FAR[high]) / 2


def _passed(outcome: Vector, quantile: Vector) -> NDArray[np.int64]:
    """Count the dense quantiles at or below the outcome, [n]."""
    rows = np.arange(len(outcome))
    left = np.clip(np.count_nonzero(quantile <= outcome[:, None], axis=1) - 1, 0, len(LEVELS) - 2)
    start = quantile[rows, left]
    width, beyond = quantile[rows, left + 1] - start, outcome - start
    point = np.where(beyond >= 0, _ABOVE, _BELOW)  # the share where quantiles are equal
    share = np.divide(beyond, width, out=point, where=width > 0)
    return np.searchsorted(_KEY, left * _APART + np.clip(share, _BELOW, _ABOVE), side="right").clip(0, DENSE)


def _prepared() -> tuple[Vector, Vector]:
    """Give the key of each dense point, segment and share in it, and A of the module's docstring, [DENSE + 1, Q]."""
    tau = (np.arange(DENSE) + 0.5) / DENSE
    normal = NormalDist().inv_cdf
    known, asked = np.array([normal(p) for p in LEVELS]), np.array([normal(p) for p in tau])
    left = np.clip(np.searchsorted(known, asked) - 1, 0, len(LEVELS) - 2)
    share = (asked - known[left]) / (known[left + 1] - known[left])
    dense = np.zeros((DENSE, len(LEVELS)))
    dense[np.arange(DENSE), left], dense[np.arange(DENSE), left + 1] = 1 - share, share
    above = np.zeros((DENSE + 1, len(LEVELS)))
    above[:-1] = np.cumsum(dense[::-1], axis=0)[::-1]
    return left * _APART + share, above - np.cumsum(tau[:, None] * dense, axis=0)[-1]


_KEY, _WEIGHT = _prepared()
_MIDDLE = (np.array([0.0, *LEVELS]) + np.array([*LEVELS, 1.0])) / 2
_FAR = np.abs(_MIDDLE - 0.5)
