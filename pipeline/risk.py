"""Risk of the next move: value at risk and expected shortfall, and whether misses come as often and as freely as said.

Legend: n rows. A miss is an outcome outside an interval, or below a quantile. VaR and ES are *moves* on the transformed
scale, so they are negative for a loss, and they are of the density; misses are judged on the price quantiles, which are
what a reader is given and what a conformal offset moves.

The tests are of one series in the order of time. Series that move together miss together, so misses of several series
are never put in one row: each series has its test, and `worst` combines the p-values under any dependence. Misses of
step s > 1 overlap, and follow one another even for the true distribution: only step 1 is tested.

Comes in: `Forecasts`, misses. Goes out: moves [n], losses [n], test statistics and p-values. Knows numpy and scipy;
imported by metrics.

References
----------
Kupiec (1995), Techniques for verifying the accuracy of risk measurement models, Journal of Derivatives 3, 73-84,
doi:10.3905/jod.1995.407942. Christoffersen (1998), Evaluating interval forecasts, International Economic Review 39,
841-862, doi:10.2307/2527341. Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal
of Statistics 6, 65-70. Fissler & Ziegel (2016), Higher order elicitability and Osband's principle, Annals of Statistics
44, 1680-1707, doi:10.1214/16-AOS1439. Patton, Ziegel & Chen (2019), Dynamic semiparametric models for expected
shortfall (and value-at-risk), Journal of Econometrics 211, 388-413, doi:10.1016/j.jeconom.2018.10.008.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from models.observation import LEVELS
from pipeline.density import Vector, by_family, mean_distance
from pipeline.forecasts import Forecasts

VAR_LEVELS = (0.01, 0.05)
"""Levels of the value at risk that are scored; both are in `LEVELS`."""


# ------------------------------------------------------------------------------------------ of the density


def value_at_risk(forecasts: Forecasts, level: float) -> Vector:
    """Give the quantile of the move at `level` in (0, 1), [n], on the transformed scale: loc + scale · F⁻¹(level).

    NaN without density. The value at origin i, step s is for i + s and was made with data up to and including i.
    """
    quantile = by_family(
        forecasts,
        0.0,
        lambda z: np.where(np.isnan(z), np.nan, special.ndtri(level)),
        lambda df, z: np.where(np.isnan(z), np.nan, _student_quantile(df, level)),
        df_above=0.0,
    )
    return forecasts.loc + forecasts.scale * quantile


def expected_shortfall(forecasts: Forecasts, level: float) -> Vector:
    """Give the mean of the moves below the value at risk at `level`, [n], on the transformed scale.

    With v the value at risk and E(v - X)⁺ = (E|X - v| - loc + v)/2: v - E(v - X)⁺/level. It equals the closed form
    loc - scale · f(q)/level · (df + q²)/(df - 1), q = F⁻¹(level), for the normal loc - scale · φ(q)/level. NaN without
    density and where df ≤ 1.
    """
    var = value_at_risk(forecasts, level)
    return var - (mean_distance(forecasts, var) - forecasts.loc + var) / (2 * level)


def fissler_ziegel(outcome: Vector, var: Vector, es: Vector, level: float) -> Vector:
    """Take the joint loss FZ0 of (VaR, ES) [n]: Patton, Ziegel & Chen (2019), equation 6.

    L = -1[y ≤ v] (v - y) / (level · e) + v/e + log(-e) - 1. Its mean is least for the true pair, and its differences do
    not depend on the unit. NaN where e is not negative: the loss exists for losses only.

    Parameters
    ----------
    outcome, var, es : [n], moves
    level : in (0, 1), of both
    """
    e = np.where(es < 0, es, np.nan)
    return -np.maximum(var - outcome, 0) / (level * e) + var / e + np.log(-e) - 1


def _student_quantile(df: Vector, level: float) -> Vector:
    """Invert the distribution once for each different df: a model has few."""
    different, row = np.unique(df, return_inverse=True)
    return special.stdtrit(different, level)[row]


# --------------------------------------------------------------------------------- tests of one series' misses


def kupiec(misses: NDArray[np.bool_], level: float) -> tuple[float, float]:
    """Test whether the share of misses is `level`: the likelihood ratio of Kupiec (1995) and its p-value.

    2 [ℓ(k/n) - ℓ(level)], ℓ(p) = k log p + (n - k) log(1 - p), against χ² with 1 degree of freedom, two-sided: too few
    misses speak against the forecast as well. The law holds for many misses; with `level` · n below five or so the test
    rejects at other rates than it says. NaN, NaN without rows.

    Parameters
    ----------
    misses : bool [n]
        In the order of time.
    level : float
        Share of misses that the forecast promises, in (0, 1): 0.2 for the 80 % interval.
    """
    n, k = len(misses), int(misses.sum())
    if n == 0:
        return float("nan"), float("nan")
    ratio = max(2 * (_likelihood(k, n, k / n) - _likelihood(k, n, level)), 0.0)
    return ratio, float(special.chdtrc(1, ratio))


def christoffersen(misses: NDArray[np.bool_], level: float) -> tuple[float, float]:
    """Test whether misses follow misses: p-values of independence, and of it and the level together.

    Likelihood ratios of Christoffersen (1998) on the n - 1 transitions: a first-order Markov chain against one share of
    misses (χ², 1 degree of freedom), and against `level` (2 degrees). What a chain says about a state that it never
    left costs nothing: without a miss independence has p = 1. For few misses see `kupiec`. NaN, NaN below two rows.

    Parameters
    ----------
    misses : bool [n]
        In the order of time.
    level : float
        Share of misses that the forecast promises, in (0, 1).
    """
    if len(misses) < 2:
        return float("nan"), float("nan")
    before, after = misses[:-1], misses[1:]
    n, k = len(after), int(after.sum())
    chain = 0.0
    for state in (before, ~before):
        stays, missed = int(state.sum()), int((state & after).sum())
        chain += _likelihood(missed, stays, missed / max(stays, 1))
    independence = max(2 * (chain - _likelihood(k, n, k / n)), 0.0)
    conditional = max(2 * (chain - _likelihood(k, n, level)), 0.0)
    return float(special.chdtrc(1, independence)), float(special.chdtrc(2, conditional))


def _likelihood(k: int, n: int, share: float) -> float:
    """Give the log likelihood of k misses in n, each with probability `share`; 0 log 0 is 0."""
    return float(special.xlogy(k, share) + special.xlog1py(n - k, -share))


# ------------------------------------------------------------------------------------------- of many series


def below(forecasts: Forecasts, level: float) -> Vector:
    """Say for each row, [n], whether the actual is below the price quantile at `level` of `LEVELS`: 1, 0 or NaN."""
    quantile = forecasts.quantile[:, LEVELS.index(level)]
    return np.where(np.isnan(quantile), np.nan, forecasts.actual < quantile)


def coverage_tests(forecasts: Forecasts, missed: Vector, level: float) -> dict[str, tuple[float, float]]:
    """Test the misses of step 1 of each series: (p of `kupiec`, conditional p of `christoffersen`) by its name.

    These are p-values of one test each: where many are looked at, adjust them, for instance with `worst`.

    Parameters
    ----------
    missed : [n]
        1 for a miss, 0 for none; a series of which one is NaN has NaN, NaN.
    level : float
        Share of misses that the forecast promises, in (0, 1).
    """
    result = {}
    for row in np.unique(forecasts.series):
        misses = missed[(forecasts.series == row) & (forecasts.step == 1)]
        if np.isnan(misses).any():
            misses = misses[:0]
        flags = misses.astype(bool)
        result[forecasts.names[row]] = (kupiec(flags, level)[1], christoffersen(flags, level)[1])
    return result


def worst(p_values: Iterable[float]) -> float:
    """Give the smallest p-value as Holm (1979) adjusts it: min(1, count · smallest), for any dependence.

    Below alpha, at least one of the series fails its test, with at most alpha of a false alarm over all of them. NaN
    where one is NaN or there is none.
    """
    p = np.fromiter(p_values, np.float64)
    return float(min(1.0, len(p) * p.min())) if len(p) and not np.isnan(p).any() else float("nan")


def coverage_scores(forecasts: Forecasts, missed: Vector, level: float) -> tuple[float, float]:
    """Test the misses of every series and combine each test by `worst`: p of (`kupiec`, `christoffersen`)."""
    tests = coverage_tests(forecasts, missed, level)
    return worst(p for p, _ in tests.values()), worst(p for _, p in tests.values())


def risk_scores(forecasts: Forecasts) -> dict[str, float]:
    """Score value at risk and expected shortfall, under names that serve as metric keys (see `metrics.scores`)."""
    result = {}
    for level in VAR_LEVELS:
        var, es = value_at_risk(forecasts, level), expected_shortfall(forecasts, level)
        share, free = coverage_scores(forecasts, below(forecasts, level), level)
        result[f"var_{100 * level:g}_kupiec"] = share
        result[f"var_{100 * level:g}_christoffersen"] = free
        result[f"fz0_{100 * level:g}"] = float(np.mean(fissler_ziegel(forecasts.outcome, var, es, level)))
    return result
