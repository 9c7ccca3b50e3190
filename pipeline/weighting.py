"""Fit the weights of a mix of forecasters: those of the least pinball loss on the validation origins.

The mean pinball loss over the levels is half the CRPS of the averaged quantiles, up to the levels that there are; it is
convex in the weights. Losses are in mean forecast scales of the members at the same origin, so that a series counts by
its origins and not by the size of its prices.

Legend: K members, n rows, Q quantile levels.

Comes in: forecasters, a panel and its split. Goes out: weights on the simplex. Knows numpy, scipy and torch; imported
by fitting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.forecaster import Forecaster
from models.observation import LEVELS
from pipeline.calibration import on_validation
from pipeline.threads import cpu_threads
from pipeline.windows import Panel, Split

MOST_ROWS = 50_000
"""Rows that weights are fitted on; of more, every so many-th is taken."""

LEAST_WEIGHT = 0.01
"""A member that would count less is left out: it would cost a tick its whole step."""


def weights_of(forecasters: Sequence[Forecaster], panel: Panel, split: Split) -> NDArray[np.float64]:
    """Give weights [K] of forecasters, fitted on the *validation* origins; nothing from the test split on is read."""
    seen = panel.before(split.validation_end_time)
    with cpu_threads(1):
        told = [_rows(forecaster, seen, split) for forecaster in forecasters]
    pick = np.s_[:: -(-len(told[0][2]) // MOST_ROWS)]
    scale = np.mean([s[pick] for _, s, _ in told], axis=0)
    quantile = np.stack([q[pick] / scale for q, _, _ in told])
    return simplex_weights(quantile, (told[0][2][pick] / scale)[:, 0])


def _rows(forecaster: Forecaster, seen: Panel, split: Split) -> list[NDArray[np.float64]]:
    """Gather quantiles [n, Q], scales [n, 1] and outcomes [n, 1] over the validation origins."""
    parts = [
        [x[wanted].double().numpy() for x in (quantile, scale, target)]
        for quantile, scale, target, wanted in on_validation(forecaster, seen, split)
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def simplex_weights(quantile: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise the mean pinball loss of Σ_k w_k q_k over w_k ≥ 0 that add up to 1.

    Parameters
    ----------
    quantile : float64 [K, n, Q]
        Quantiles at `LEVELS` of each member.
    target : float64 [n]

    Returns
    -------
    float64 [K]
        None is between 0 and `LEAST_WEIGHT`.
    """
    level, count = np.asarray(LEVELS), len(quantile)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        error = target[:, None] - np.tensordot(weights, quantile, 1)
        slope = level - (error < 0)
        return float((slope * error).mean()), -np.tensordot(quantile, slope, 2) / error.size

    one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    begin = np.full(count, 1 / count)
    how = {"bounds": [(0, 1)] * count, "constraints": [one], "method": "SLSQP", "options": {"ftol": 1e-12}}
    found = minimize(loss, begin, jac=True, **how).x
    kept = np.where(found < LEAST_WEIGHT, 0.0, found)
    return kept / kept.sum()
