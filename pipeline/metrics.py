"""Scores of forecasts against their outcomes: row by row, then as means under one set of names.

Legend: n rows, Q quantile levels. Losses are negatively oriented: smaller is better.

NaN policy, the same everywhere, and in `direction`, `risk` and `volatility`: a loss that is undefined for a row
(a quantile that is not known, no density) is NaN, and a mean over rows of which one is NaN is NaN. Nothing is
skipped, so that no model gains by not answering; to leave rows out, take them out of every model with
`Forecasts.where`.

Comes in: `Forecasts`, and one scale a series fitted on the train split. Goes out: arrays [n] and flat
mappings of metric names to numbers. Knows numpy and scipy; imported by compare, figures,
comparison_figures, page, judging, refit, slices, steps and tracking.

References
----------
Gneiting & Raftery (2007), Strictly proper scoring rules, prediction, and estimation, JASA 102, 359-378,
doi:10.1198/016214506000001437. Jordan, Krüger & Lerch (2019), Evaluating probabilistic forecasts with
scoringRules, Journal of Statistical Software 90(12), doi:10.18637/jss.v090.i12. Hyndman & Koehler (2006),
Another look at measures of forecast accuracy, International Journal of Forecasting 22, 679-688,
doi:10.1016/j.ijforecast.2006.03.001. Makridakis (1993), Accuracy measures: theoretical and practical concerns,
International Journal of Forecasting 9, 527-529, doi:10.1016/0169-2070(93)90079-3. Ferro (2014), Fair scores for
ensemble forecasts, Quarterly Journal of the Royal Meteorological Society 140, 1917-1923, doi:10.1002/qj.2270.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from models.errors import ComparisonError, DataError
from models.observation import LEVELS, MEDIAN
from pipeline.density import Vector, mean_difference, mean_distance, negative_log, probability_below
from pipeline.direction import direction_scores
from pipeline.forecasts import Forecasts
from pipeline.risk import coverage_scores, risk_scores
from pipeline.volatility import qlike, r2

Scores = dict[str, float]

POOLED = "pooled"
"""Where a name of a series is expected: all series together."""

INTERVALS: dict[int, tuple[int, int]] = {
    percent: (LEVELS.index(lower), LEVELS.index(upper))
    for percent, lower, upper in (
        (50, 0.25, 0.75),
        (80, 0.1, 0.9),
        (90, 0.05, 0.95),
        (95, 0.025, 0.975),
        (98, 0.01, 0.99),
    )
}
"""Central prediction intervals, in percent, as positions in `LEVELS`."""

JUDGED = (80, 95)
"""Of these, the ones whose interval score and whose misses are among the scores, in percent."""

DENSE = 200
"""Points of the integral over levels where a distribution is known by its quantiles only."""


# ----------------------------------------------------------------------------- the point forecast, in prices


def absolute_error(forecasts: Forecasts) -> Vector:
    """Take |actual - median|, [n], in price units."""
    return np.abs(forecasts.actual - forecasts.quantile[:, MEDIAN])


def squared_error(forecasts: Forecasts) -> Vector:
    """Take (actual - median)², [n], in squared price units."""
    return (forecasts.actual - forecasts.quantile[:, MEDIAN]) ** 2


def smape(forecasts: Forecasts) -> Vector:
    """Take the symmetric percentage error 2 |actual - median| / (actual + median), [n], 0 to 2, without unit.

    For comparison with what others publish; prefer `scaled_error`. It is not symmetric: of two medians equally far off,
    the high one costs less. It has no value at 0 and 0, and no meaning for prices that cross zero, where it is stuck at
    2: it is NaN where the actual or the median is not positive, so that the mean of such a series is NaN.
    """
    median = forecasts.quantile[:, MEDIAN]
    positive = (forecasts.actual > 0) & (median > 0)
    return 2 * absolute_error(forecasts) / np.where(positive, forecasts.actual + median, np.nan)


def naive_scale(prices: ArrayLike) -> float:
    """Fit the mean absolute one-step change of `prices` [T], or of blocks [T, M], the denominator of the MASE.

    Give it the train split of one series, never the test split. Prices that are not finite (gaps) are
    taken out first.

    Raises
    ------
    DataError
        There are fewer than two finite prices, or they never change: errors have no unit then.
    """
    columns = [column[np.isfinite(column)] for column in np.atleast_2d(np.asarray(prices, dtype=np.float64).T)]
    changes = np.concatenate([np.diff(column) for column in columns])
    scale = float(np.mean(np.abs(changes))) if len(changes) else 0.0
    if scale == 0.0:
        raise DataError(
            f"a naive scale needs prices that change on the train split; came {sum(map(len, columns))} finite prices "
            "without a change. Drop the series, or give it a longer train split"
        )
    return scale


def scaled_error(forecasts: Forecasts, naive_scale: Mapping[str, float]) -> Vector:
    """Take the absolute error over the naive scale of its series, [n], without unit. Its mean is the MASE.

    Parameters
    ----------
    naive_scale : mapping of series name to float
        `naive_scale` of the prices of the *train* split, in price units.

    Raises
    ------
    ComparisonError
        A series of the rows has no scale, or one that is not positive and finite.
    """
    return absolute_error(forecasts) / _scale_of_rows(forecasts, naive_scale)


def _scale_of_rows(forecasts: Forecasts, naive_scale: Mapping[str, float]) -> Vector:
    scale = np.array([naive_scale.get(name, np.nan) for name in forecasts.names])
    rows = scale[forecasts.series]
    if not np.all((rows > 0) & np.isfinite(rows)):
        bad = [forecasts.names[i] for i in np.unique(forecasts.series) if not 0 < scale[i] < np.inf]
        came = ", ".join(f"{name}: {naive_scale.get(name)}" for name in bad[:5])
        raise ComparisonError(
            f"every series needs a positive scale from its train split; {len(bad)} have none ({came})"
        )
    return rows


# -------------------------------------------------------------------------------------- quantiles, in prices


def pinball(actual: Vector, quantile: Vector, levels: Sequence[float] = LEVELS) -> Vector:
    """Take the quantile loss max(τ e, (τ - 1) e), e = actual - quantile.

    Parameters
    ----------
    actual : [n]
    quantile : [n, Q]
    levels : Q levels τ in (0, 1)

    Returns
    -------
    [n, Q]
        In the unit of `actual`.
    """
    error = actual[:, None] - quantile
    tau = np.asarray(levels)
    return np.maximum(tau * error, (tau - 1) * error)


def covered(forecasts: Forecasts, percent: int) -> Vector:
    """Say for each row, [n], whether the central interval holds the actual: 1 or 0; NaN without interval."""
    lower, upper = (forecasts.quantile[:, i] for i in INTERVALS[percent])
    inside = (lower <= forecasts.actual) & (forecasts.actual <= upper)
    return np.where(np.isnan(lower + upper), np.nan, inside)


def width(forecasts: Forecasts, percent: int) -> Vector:
    """Take the width of the central interval, [n], in price units."""
    lower, upper = INTERVALS[percent]
    return forecasts.quantile[:, upper] - forecasts.quantile[:, lower]


def interval_score(forecasts: Forecasts, percent: int) -> Vector:
    """Take the score of the central interval [l, u], [n], in price units: Gneiting & Raftery (2007), equation 43.

    (u - l) + 2/α · [(l - actual)⁺ + (actual - u)⁺], α = 1 - percent/100: the width, and a fine for each miss. Its mean
    is least for the true quantiles, so it settles what coverage and width leave open between them.
    """
    lower, upper = (forecasts.quantile[:, i] for i in INTERVALS[percent])
    outside = np.maximum(lower - forecasts.actual, 0) + np.maximum(forecasts.actual - upper, 0)
    return upper - lower + 2 / (1 - percent / 100) * outside


# ---------------------------------------------------------------- the distribution, on the transformed scale


def crps(forecasts: Forecasts) -> Vector:
    """Take the continuous ranked probability score E|X - outcome| - ½E|X - X'|, [n], on the transformed scale.

    With z = (outcome - loc) / scale, F and f the standard distribution and density, and B the beta function:

    - df = inf: scale · [z (2Φ(z) - 1) + 2φ(z) - 1/√π]
    - df > 1: scale · [z (2F(z) - 1) + 2f(z) (df + z²)/(df - 1) - 2√df/(df - 1) · B(½, df - ½)/B(½, df/2)²]
    - df ≤ 1, or a scale that is not positive: NaN.
    - df NaN, quantiles only: `quantile_crps` of the quantiles on the transformed scale. NaN where one has no place
      there, as a price below zero has no logarithm. This is an interpolation: read a difference to a closed form that
      is below half a percent with care.
    """
    score = mean_distance(forecasts, forecasts.outcome) - mean_difference(forecasts) / 2
    rows = np.isnan(forecasts.df)
    if rows.any():
        score[rows] = _crps_of_quantiles(forecasts.where(rows))
    return score


def scaled_crps(forecasts: Forecasts, scale: Mapping[str, float]) -> Vector:
    """Take the CRPS over the scale of the moves of its series, [n], without unit.

    Parameters
    ----------
    scale : mapping of series name to float
        Mean absolute move on the transformed scale, of a time before all rows.

    Raises
    ------
    ComparisonError
        A series of the rows has no scale, or one that is not positive and finite.
    """
    return crps(forecasts) / _scale_of_rows(forecasts, scale)


def quantile_crps(outcome: Vector, quantile: Vector, levels: tuple[float, ...] = LEVELS) -> Vector:
    """Approximate the CRPS, 2 ∫ pinball(τ) dτ, from quantiles [n, Q] at `levels`, increasing; [n].

    The quantile function is taken as linear between the levels and beyond them *in normal scores* Φ⁻¹(τ), exact
    for a normal, and the integral by `DENSE` midpoints. The plain mean of the pinball losses at uneven levels
    would come out too small by a third and more, and let a model win by hiding its density.
    """
    tau = (np.arange(DENSE) + 0.5) / DENSE
    total = np.zeros(len(outcome))
    for level, weight in zip(tau, _interpolation(levels, tau), strict=True):
        error = outcome - quantile @ weight
        total += np.maximum(level * error, (level - 1) * error)
    return 2 * total / DENSE


def _interpolation(levels: tuple[float, ...], tau: Vector) -> Vector:
    """Weights [len(tau), Q] that make quantiles at `tau` of those at `levels`, linear in normal scores."""
    known, asked = special.ndtri(levels), special.ndtri(tau)
    left = np.clip(np.searchsorted(known, asked) - 1, 0, len(levels) - 2)
    share = (asked - known[left]) / (known[left + 1] - known[left])
    weight = np.zeros((len(tau), len(levels)))
    rows = np.arange(len(tau))
    weight[rows, left] = 1 - share
    weight[rows, left + 1] = share
    return weight


def sample_crps(outcome: Vector, sample: Vector) -> Vector:
    """Estimate the CRPS from K draws of the forecast, E|X - outcome| - ½E|X - X'|, [n], in their unit.

    The second mean is over pairs of *different* draws, K(K - 1) of them: the fair form (Ferro 2014), unbiased for the
    CRPS of the distribution that was drawn from; one value can be negative. O(K log K): in order of size,
    Σ|x_i - x_j| = 2 Σ (2i - K - 1) x_(i).

    Parameters
    ----------
    outcome : [n]
    sample : [n, K], K ≥ 2
        Draws, exchangeable.
    """
    count = sample.shape[1]
    if count < 2:
        raise ComparisonError(f"the CRPS of a sample needs at least two draws a row; came {count}")
    distance = np.mean(np.abs(sample - outcome[:, None]), axis=1)
    weight = 2 * np.arange(1, count + 1) - count - 1
    return distance - np.sort(sample, axis=1) @ weight / (count * (count - 1))


def log_score(forecasts: Forecasts) -> Vector:
    """Take the negative log density of the outcome on the transformed scale, [n], in nats."""
    return negative_log(forecasts, forecasts.outcome)


def pit(forecasts: Forecasts) -> Vector:
    """Take the probability integral transform F(outcome), [n], in [0, 1]; NaN without density.

    It judges the density (loc, scale, df). The price quantiles may have been moved since, by a conformal
    offset: `covered` judges those.
    """
    return probability_below(forecasts, forecasts.outcome)


def pit_uniformity(values: Vector) -> tuple[float, float]:
    """Test PIT values [n] for uniformity by Kolmogorov and Smirnov: (distance, p-value).

    The distance is the largest gap between the empirical distribution and the uniform, 0 to 1: read it first.
    The p-value takes the values as independent; those of one origin at several steps, or of series that move
    together, are not, and it is then too small. With many rows it rejects for gaps that cost nothing.
    NaN, NaN where a value is NaN or there is none.
    """
    if len(values) == 0 or np.isnan(values).any():
        return float("nan"), float("nan")
    result = stats.kstest(values, "uniform")
    return float(result.statistic), float(result.pvalue)


def _crps_of_quantiles(forecasts: Forecasts) -> Vector:
    move = quantile_moves(forecasts)
    known = np.isfinite(move).all(axis=1)
    score = np.full(len(forecasts), np.nan)
    score[known] = quantile_crps(forecasts.outcome[known], move[known])
    return score


def quantile_moves(forecasts: Forecasts) -> NDArray[np.float64]:
    """Bring the price quantiles to moves from the origin on the transformed scale, [n, Q]; NaN outside its domain."""
    f, on_asinh = forecasts, np.isfinite(forecasts.unit)
    center, unit = f.center[on_asinh, None], f.unit[on_asinh, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        move = np.log(f.quantile / f.origin[:, None])
    price = np.arcsinh((f.quantile[on_asinh] - center) / unit)
    move[on_asinh] = price - np.arcsinh((f.origin[on_asinh, None] - center) / unit)
    return move


# ----------------------------------------------------------------------------------------------------- means


def by_origin(forecasts: Forecasts, loss: Vector) -> tuple[NDArray[np.int64], Vector]:
    """Average a row loss [n] over the series and steps of each origin time: (times, means), in time order."""
    times, group, count = np.unique(forecasts.origin_time, return_inverse=True, return_counts=True)
    return times, np.bincount(group, weights=loss) / count


def scores(forecasts: Forecasts, naive_scale: Mapping[str, float]) -> Scores:
    """Score all rows together, under names that serve as metric keys.

    Parameters
    ----------
    naive_scale : mapping of series name to float
        Mean absolute one-step change of the *train* split, in price units (`naive_scale`).

    Returns
    -------
    dict
        - `mae`, `rmse` in price units: over several series the dear ones weigh most, read `mase` there
        - `mase`, mean scaled error, and `rmae`, the same over that of the naive forecast, which is the last value:
          the price at the origin (NaN where that never errs); `smape`, 0 to 2
        - `wql`, mean weighted quantile loss: mean over levels of 2 Σ pinball / Σ |actual|
        - `crps`, `log_score` on the transformed scale; `pit_distance` of `pit_uniformity`
        - `coverage_P`, 0 to 1, and `width_P`, in price units, of the central interval of P percent, and for those in
          `JUDGED` `interval_score_P`, in price units, and the p-values `kupiec_P` and `christoffersen_P` (conditional
          coverage) that its misses of step 1 come as often as promised, and as freely; over several series the
          smallest p-value, adjusted by Holm
        - `hit_rate`, the share of calls up or down that were right, its 95 % interval `hit_low` to `hit_high`, and of
          the probability of a rise `brier_up`, `log_loss_up`, `auc_up` (`pipeline.direction`)
        - `qlike`, and `r2_volatility`, the share of |outcome| explained, at most 1 (`pipeline.volatility`)
        - `fz0_L`, joint loss of value at risk and expected shortfall at L percent, and the p-values `var_L_kupiec`,
          `var_L_christoffersen` of the misses of the price quantile there (`pipeline.risk`)

    Raises
    ------
    ComparisonError
        There are no rows, or a series has no naive scale.
    """
    if len(forecasts) == 0:
        raise ComparisonError(f"scores need at least one row; {forecasts.model} has none")
    unit = _scale_of_rows(forecasts, naive_scale)
    scaled = absolute_error(forecasts) / unit
    naive = np.mean(np.abs(forecasts.actual - forecasts.origin) / unit)
    losses = pinball(forecasts.actual, forecasts.quantile)
    size = np.mean(np.abs(forecasts.actual))
    result = {
        "mae": np.mean(absolute_error(forecasts)),
        "rmse": np.sqrt(np.mean(squared_error(forecasts))),
        "mase": np.mean(scaled),
        "rmae": np.mean(scaled) / naive if naive > 0 else np.nan,
        "smape": np.mean(smape(forecasts)),
        "wql": 2 * np.mean(losses) / size if size > 0 else np.nan,
        "crps": np.mean(crps(forecasts)),
        "log_score": np.mean(log_score(forecasts)),
        "pit_distance": pit_uniformity(pit(forecasts))[0],
        "qlike": np.mean(qlike(forecasts)),
        "r2_volatility": r2(forecasts),
    }
    result |= _interval_scores(forecasts) | direction_scores(forecasts) | risk_scores(forecasts)
    return {name: float(value) for name, value in result.items()}


def _interval_scores(forecasts: Forecasts) -> Scores:
    result = {}
    for percent in INTERVALS:
        inside = covered(forecasts, percent)
        result[f"coverage_{percent}"] = np.mean(inside)
        result[f"width_{percent}"] = np.mean(width(forecasts, percent))
        if percent in JUDGED:
            share, free = coverage_scores(forecasts, 1 - inside, 1 - percent / 100)
            result[f"interval_score_{percent}"] = np.mean(interval_score(forecasts, percent))
            result[f"kupiec_{percent}"], result[f"christoffersen_{percent}"] = share, free
    return result


def by_model(forecasts: Sequence[Forecasts]) -> dict[str, Forecasts]:
    """Key forecasts by the name of their model; refuse (ComparisonError) two of one name."""
    models = {f.model: f for f in forecasts}
    if len(models) < len(forecasts):
        names = [f.model for f in forecasts]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ComparisonError(f"every model needs its own name; came twice or more: {', '.join(twice)}")
    return models
