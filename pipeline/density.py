"""The density of a forecast in closed form: a Student t, or a normal, on the transformed scale.

Legend: n rows. df inf is the normal. A value is NaN where a row has no density (df NaN), where its scale is not
positive, and where the formula has no finite value for its df.

Comes in: `Forecasts`. Goes out: probabilities, mean distances and log densities, arrays [n]. Knows numpy and scipy;
imported by the files of scores.

References
----------
Jordan, Krüger & Lerch (2019), Evaluating probabilistic forecasts with scoringRules, Journal of Statistical Software
90(12), doi:10.18637/jss.v090.i12, appendix A.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pipeline.forecasts import Forecasts

Vector = NDArray[np.float64]


def probability_below(forecasts: Forecasts, move: Vector | float) -> Vector:
    """Take P(X ≤ move) of the forecast move X, [n], in [0, 1]; df > 0."""
    return by_family(forecasts, move, special.ndtr, special.stdtr, df_above=0.0)


def mean_distance(forecasts: Forecasts, move: Vector | float) -> Vector:
    """Take E|X - move| of the forecast move X, [n], on the transformed scale; df > 1.

    With z = (move - loc) / scale, F and f the standard distribution and density:
    scale · [z (2F(z) - 1) + 2f(z) (df + z²)/(df - 1)], for the normal scale · [z (2Φ(z) - 1) + 2φ(z)].
    """
    return forecasts.scale * by_family(forecasts, move, _normal_distance, _student_distance, df_above=1.0)


def mean_difference(forecasts: Forecasts) -> Vector:
    """Take E|X - X'| of two independent draws of the forecast move, [n], on the transformed scale; df > 1.

    scale · 4√df/(df - 1) · B(½, df - ½)/B(½, df/2)², B the beta function; for the normal scale · 2/√π.
    """
    return forecasts.scale * by_family(forecasts, 0.0, _normal_difference, _student_difference, df_above=1.0)


def negative_log(forecasts: Forecasts, move: Vector) -> Vector:
    """Take -log of the density at `move`, [n], in nats; df > 0."""
    standard = by_family(forecasts, move, _normal_log, _student_log, df_above=0.0)
    return standard + np.log(np.where(forecasts.scale > 0, forecasts.scale, np.nan))


def by_family(
    forecasts: Forecasts,
    move: Vector | float,
    normal: Callable[[Vector], Vector],
    student: Callable[[Vector, Vector], Vector],
    df_above: float,
) -> Vector:
    """Apply the formula of each row's family to z = (move - loc) / scale, [n]; NaN where there is none.

    Parameters
    ----------
    move : [n] or one for all, on the transformed scale
    normal : formula of z
    student : formula of (df, z), for `df_above` < df < inf
    """
    df, value = forecasts.df, np.full(len(forecasts), np.nan)
    z = (move - forecasts.loc) / np.where(forecasts.scale > 0, forecasts.scale, np.nan)
    gaussian, heavy = np.isposinf(df), (df > df_above) & np.isfinite(df)
    value[gaussian] = normal(z[gaussian])
    value[heavy] = student(df[heavy], z[heavy])
    return value


def _normal_distance(z: Vector) -> Vector:
    return z * (2 * special.ndtr(z) - 1) + 2 * np.exp(-_normal_log(z))


def _student_distance(df: Vector, z: Vector) -> Vector:
    return z * (2 * special.stdtr(df, z) - 1) + 2 * np.exp(-_student_log(df, z)) * (df + z**2) / (df - 1)


def _normal_difference(z: Vector) -> Vector:
    return np.where(np.isnan(z), np.nan, 2 / np.sqrt(np.pi))


def _student_difference(df: Vector, z: Vector) -> Vector:
    spread = np.exp(special.betaln(0.5, df - 0.5) - 2 * special.betaln(0.5, df / 2))
    return np.where(np.isnan(z), np.nan, 4 * np.sqrt(df) * spread / (df - 1))


def _normal_log(z: Vector) -> Vector:
    return (z**2 + np.log(2 * np.pi)) / 2


def _student_log(df: Vector, z: Vector) -> Vector:
    return special.betaln(0.5, df / 2) + np.log(df) / 2 + (df + 1) / 2 * np.log1p(z**2 / df)
