"""Does the price rise: how probable a forecast calls it, and how good those calls and probabilities were.

Legend: n rows, m of them whose price changed. Only these are judged: a price that stayed neither rose nor fell, and it
is the same rows for every model. Where a median or a probability is not known, the score is NaN: nothing is skipped.
Intervals take rows as independent; those of one time in several series, or of several steps, are not.

Comes in: `Forecasts`. Goes out: probabilities [n], calls [n], and their scores. Knows numpy and scipy; imported by
metrics and by the tests of significance.

References
----------
Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212,
doi:10.1080/01621459.1927.10502953. Brier (1950), Verification of forecasts expressed in terms of probability, Monthly
Weather Review 78, 1-3. Hanley & McNeil (1982), The meaning and use of the area under a receiver operating
characteristic curve, Radiology 143, 29-36, doi:10.1148/radiology.143.1.7063747.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from models.observation import LEVELS, MEDIAN
from pipeline.density import Vector, probability_below
from pipeline.forecasts import Forecasts

Flags = NDArray[np.bool_]

EQUAL = 1e-9
"""A median nearer to the origin than this share of the widest interval calls nothing: it is rounding."""

CERTAIN = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1 in the logarithmic loss, so that it is finite."""


def probability_up(forecasts: Forecasts) -> Vector:
    """Give the probability, [n], that the price at the target is above the one at the origin.

    From the density, 1 - F(-loc / scale); without one from the price quantiles, linear in normal scores Φ⁻¹(τ)
    between the levels and beyond them. NaN where neither tells. The value at origin i, step s is for i + s and was made
    with data up to and including i.
    """
    up = 1 - probability_below(forecasts, 0.0)
    bare = np.isnan(forecasts.df)
    up[bare] = 1 - _level(forecasts.quantile[bare], forecasts.origin[bare])
    return up


def _level(quantile: Vector, price: Vector) -> Vector:
    """Give the level, [n], at which `price` [n] stands among the quantiles [n, Q] at `LEVELS`."""
    score, row = special.ndtri(LEVELS), np.arange(len(price))
    left = np.clip((quantile < price[:, None]).sum(axis=1) - 1, 0, len(LEVELS) - 2)
    low, high = quantile[row, left], quantile[row, left + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (price - low) / (high - low)
    return special.ndtr(score[left] + share * (score[left + 1] - score[left]))


def calls(forecasts: Forecasts) -> tuple[Flags, Flags, Flags]:
    """Give (called up, went up, counts), each [n]: the median is above the origin, the actual is, and both differ.

    A row counts where the price changed and the median calls a direction. The last value calls none.
    """
    call = forecasts.quantile[:, MEDIAN] - forecasts.origin
    change = forecasts.actual - forecasts.origin
    widest = forecasts.quantile[:, -1] - forecasts.quantile[:, 0]
    counts = (np.abs(call) > EQUAL * widest) & (change != 0)
    return call > 0, change > 0, counts


def hit_rate(forecasts: Forecasts, confidence: float = 0.95) -> tuple[float, float, float]:
    """Give the share of calls that were right, and its interval by Wilson (1927): (rate, low, high), in [0, 1].

    NaN where a median is not known, or where nothing was called.
    """
    called, went, counts = calls(forecasts)
    n = int(counts.sum())
    if n == 0 or np.isnan(forecasts.quantile[:, MEDIAN]).any():
        return float("nan"), float("nan"), float("nan")
    result = stats.binomtest(int((called == went)[counts].sum()), n)
    interval = result.proportion_ci(confidence, method="wilson")
    return float(result.statistic), float(interval.low), float(interval.high)


def brier(up: Vector, rose: Flags) -> float:
    """Take the mean of (up - rose)², in [0, 1]; a coin gives 0.25. NaN over no rows."""
    return float(np.mean((up - rose) ** 2)) if len(up) else float("nan")


def log_loss(up: Vector, rose: Flags) -> float:
    """Take the mean of -log of the probability given to what happened, in nats; a coin gives 0.693. NaN over no rows.

    Probabilities nearer than `CERTAIN` to 0 or 1 are taken as that.
    """
    given = np.clip(np.where(rose, up, 1 - up), CERTAIN, 1.0)
    return float(-np.mean(np.log(given))) if len(up) else float("nan")


def auc(up: Vector, rose: Flags) -> float:
    """Take the area under the ROC curve: the probability that `up` is larger on a rise than on a fall, ties half.

    From ranks R, with m₁ rises and m₀ falls: (Σ_rises R - m₁(m₁ + 1)/2) / (m₁ m₀). A coin gives 0.5. It sees the order
    only, not whether the probabilities are right. NaN where one of the two never happened, or where one is NaN.
    """
    rises, falls = int(rose.sum()), int((~rose).sum())
    if rises * falls == 0 or np.isnan(up).any():
        return float("nan")
    return float((stats.rankdata(up)[rose].sum() - rises * (rises + 1) / 2) / (rises * falls))


def direction_scores(forecasts: Forecasts) -> dict[str, float]:
    """Score calls and probabilities, under names that serve as metric keys (see `metrics.scores`)."""
    changed = forecasts.actual != forecasts.origin
    up, rose = probability_up(forecasts)[changed], (forecasts.actual > forecasts.origin)[changed]
    rate, low, high = hit_rate(forecasts)
    return {
        "hit_rate": rate,
        "hit_low": low,
        "hit_high": high,
        "brier_up": brier(up, rose),
        "log_loss_up": log_loss(up, rose),
        "auc_up": auc(up, rose),
    }
