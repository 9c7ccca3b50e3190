"""The Student t and the normal without scipy: what a forecast that has them scores, from one table a df.

Legend: n outcomes, R rows of per-series parameters, D different degrees of freedom, K cells of a table.

With s² = (df + 1) log(1 + z²/df), for the normal s = z, the density is c · exp(-s²/2) whatever the df, and
P(0 < Z < |z|) is a smooth function of s alone: the integral of g(s) = c · exp(-s²/2) · dz/ds. A table holds it as one
polynomial a cell of s, which integrates the one that goes through g at the Gauss-Legendre points of the cell. At s = 12
the tail of every df above 1 is below 1e-15. Against scipy it is at most 1e-12 off for df 1.01 to 1e6 and the
normal.

Comes in: degrees of freedom, then standardised outcomes. Goes out: scores on the standard scale, float64 [n]. Every
element is computed by itself, so that no bit depends on how many travel together. Knows numpy only; imported by
scoring.

References
----------
Jordan, Krüger & Lerch (2019), Evaluating probabilistic forecasts with scoringRules, Journal of Statistical Software
90(12), doi:10.18637/jss.v090.i12, appendix A.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

STEP = 0.125
"""Width of a cell of s."""

CELLS = 96
"""Cells of a table."""

NODES = 6
"""Points of a cell through which its polynomial goes."""

LEAST_DF = 1.0
"""Only above it a CRPS exists."""

_STIRLING = 20.0
"""From here on a ratio of two Gamma functions is taken by its asymptotic series: their logarithms would cancel."""


class Student:
    """Standard Student t distributions, one for each row of parameters.

    Parameters
    ----------
    df : [R]
        Degrees of freedom; inf is the normal. Rows of NaN, and of 1 or less, have no scores.
    """

    def __init__(self, df: ArrayLike) -> None:
        given = np.atleast_1d(np.asarray(df, np.float64))
        known = np.where(given > LEAST_DF, given, np.nan)
        distinct, self._kind = np.unique(known, return_inverse=True)
        finite = np.where(np.isfinite(distinct), distinct, 1.0)
        normal, none = np.isposinf(distinct), np.isnan(distinct)
        constant = np.array([_log_constant(x) for x in distinct])
        self._normal = normal
        self._inverse = np.where(normal, 0.0, 1 / finite)
        self._above = np.where(normal, 1.0, finite + 1)
        self._constant = constant
        self._share = np.where(normal, 1.0, (finite - 1) / (finite + 1))
        self._peak = np.where(normal, 1.0, finite / np.where(finite > 1, finite - 1, np.nan)) * np.exp(constant)
        self._spread = np.array([_half_difference(x) for x in distinct])
        self._table = np.where(none[:, None, None], np.nan, _tables(distinct, constant)).reshape(-1, NODES + 1)

    def scores(self, row: NDArray[np.int64], z: Vector) -> tuple[Vector, Vector, Vector]:
        """Give CRPS, negative log density and P(Z ≤ z) of standardised outcomes.

        Parameters
        ----------
        row : [n]
            Row of parameters of each outcome.
        z : [n]
            (outcome - loc) / scale.

        Returns
        -------
        crps, log_score, pit : [n]
            CRPS in units of the scale; log score in nats, to which log(scale) is to be added; pit in [0, 1]. NaN where
            z is, and in rows without a density.
        """
        kind = self._kind[row] if len(self._inverse) > 1 else 0
        size = np.abs(z)
        square = self._square(kind, size)
        inside = self._inside(kind, np.sqrt(square))
        beyond = self._peak[kind] * np.exp(square * self._share[kind] * -0.5)
        crps = 2 * (size * inside + beyond) - self._spread[kind]
        return crps, square * 0.5 - self._constant[kind], 0.5 + np.copysign(inside, z)

    def _square(self, kind: NDArray[np.int64] | int, size: Vector) -> Vector:
        """Give s² of |z|."""
        square = size * size
        if self._normal.all():
            return square
        student = np.log1p(square * self._inverse[kind]) * self._above[kind]
        return np.where(self._normal[kind], square, student) if self._normal.any() else student

    def _inside(self, kind: NDArray[np.int64] | int, s: Vector) -> Vector:
        """Give P(0 < Z < |z|), [n], by the polynomial of the cell in which s lies."""
        at = np.minimum(s * (1 / STEP), CELLS)
        cell = np.fmin(at, CELLS - 1).astype(np.int64)
        along = at - cell
        terms = self._table[kind * CELLS + cell]
        value = np.zeros_like(s)
        for k in range(NODES, 0, -1):
            value = (value + terms[:, k]) * along
        return value + terms[:, 0]


def _tables(df: Vector, constant: Vector) -> Vector:
    """Build the polynomials of P(0 < Z < |z|) in the share of the cell that is passed, lowest power first.

    [D, K, NODES + 1]; rows of NaN where df is.
    """
    points, weights = np.polynomial.legendre.leggauss(NODES)
    points, weights = (points + 1) / 2, weights / 2
    s = STEP * (np.arange(CELLS)[:, None] + points)
    slope = np.exp(constant[:, None, None] - s * s / 2) * np.stack([_stretch(x, s) for x in df])
    through = np.linalg.inv(np.vander(points, increasing=True))
    table = np.zeros((len(df), CELLS, NODES + 1))
    for k in range(NODES):
        table[..., k + 1] = STEP / (k + 1) * _weighted(slope, through[k])
    table[:, 1:, 0] = np.cumsum(STEP * _weighted(slope, weights), axis=1)[:, :-1]
    return table


def _weighted(values: Vector, weights: Vector) -> Vector:
    """Sum over the last axis, in its order."""
    total = np.zeros(values.shape[:-1])
    for j in range(NODES):
        total = total + values[..., j] * weights[j]
    return total


def _stretch(df: float, s: Vector) -> Vector:
    """Give dz/ds."""
    if math.isinf(df):
        return np.ones_like(s)
    x = s * s / (df + 1)
    return np.exp(x) * s * math.sqrt(df) / ((df + 1) * np.sqrt(np.expm1(x)))


def _log_constant(df: float) -> float:
    """Give log c, c = 1 / (√df · B(½, df/2)), B the beta function; for the normal 1 / √(2π)."""
    return -math.log(2 * math.pi) / 2 if math.isinf(df) else -math.log(df) / 2 - _log_beta_half(df / 2)


def _half_difference(df: float) -> float:
    """Give ½ E|Z - Z'|: 2√df/(df - 1) · B(½, df - ½)/B(½, df/2)²; for the normal 1/√π."""
    if math.isinf(df):
        return 1 / math.sqrt(math.pi)
    return 2 * math.sqrt(df) / (df - 1) * math.exp(_log_beta_half(df - 0.5) - 2 * _log_beta_half(df / 2))


def _log_beta_half(x: float) -> float:
    """Give log B(½, x) = log Γ(½) + log Γ(x) - log Γ(x + ½)."""
    if not x >= _STIRLING:
        return math.lgamma(0.5) + math.lgamma(x) - math.lgamma(x + 0.5)
    y = 1 / (x * x)
    ratio = math.log(x) / 2 - (1 / 8 - y * (1 / 192 - y * (1 / 640 - y * 17 / 14336))) / x
    return math.lgamma(0.5) - ratio
