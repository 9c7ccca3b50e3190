"""Scores of sampled paths: whole scenarios over the horizon, with how the steps hang together.

Legend: n origins, K sampled paths, S horizon steps. Losses are negatively oriented: smaller is better. A path or an
outcome that is not known makes the loss of its origin NaN. Paths and outcomes are in one unit, such as log returns from
the origin; over steps of different size the large ones weigh most.

Comes in: arrays of paths and of what came. Goes out: losses [n]. Knows numpy.

References
----------
Gneiting & Raftery (2007), Strictly proper scoring rules, prediction, and estimation, JASA 102, 359-378,
doi:10.1198/016214506000001437. Ferro (2014), Fair scores for ensemble forecasts, Quarterly Journal of the Royal
Meteorological Society 140, 1917-1923, doi:10.1002/qj.2270. Scheuerer & Hamill (2015), Variogram-based proper scoring
rules for probabilistic forecasts of multivariate quantities, Monthly Weather Review 143, 1321-1334,
doi:10.1175/MWR-D-14-00269.1.
"""

from __future__ import annotations

import numpy as np

from models.errors import ComparisonError
from pipeline.density import Vector


def energy_score(actual: Vector, sample: Vector) -> Vector:
    """Take the energy score E‖X - y‖ - ½E‖X - X'‖ (Gneiting & Raftery 2007, equation 22), [n], in their unit.

    The second mean is over pairs of *different* paths, K(K - 1) of them: the fair form (Ferro 2014), whose expectation
    does not depend on K. At S = 1 it is the CRPS of the sample. O(n K² S). It sees the marginals well and dependence
    poorly: read `variogram_score` beside it.

    Parameters
    ----------
    actual : [n, S]
    sample : [n, K, S], K ≥ 2
        Paths drawn from the forecast, exchangeable.

    Raises
    ------
    ComparisonError
        Shapes do not fit, or there are fewer than two paths.
    """
    _check(actual, sample)
    count = sample.shape[1]
    distance = np.linalg.norm(sample - actual[:, None], axis=2).mean(axis=1)
    pairs = np.zeros(len(actual))
    for k in range(count - 1):
        pairs += np.linalg.norm(sample[:, k + 1 :] - sample[:, k : k + 1], axis=2).sum(axis=1)
    return distance - pairs / (count * (count - 1))


def variogram_score(actual: Vector, sample: Vector, power: float = 0.5) -> Vector:
    """Take Σ_{s,r} (|y_s - y_r|^p - E|X_s - X_r|^p)² (Scheuerer & Hamill 2015), [n], all weights one.

    It sees how steps depend on one another, and does not see a bias common to all steps: read it beside
    `energy_score`. Every pair of steps is there twice, as in the source.

    Parameters
    ----------
    actual : [n, S]
    sample : [n, K, S], K ≥ 2
        Paths drawn from the forecast.
    power : float
        p > 0; 0.5 for heavy tails, as in the source.

    Raises
    ------
    ComparisonError
        Shapes do not fit, or there are fewer than two paths.
    """
    _check(actual, sample)
    total = np.zeros(len(actual))
    for lag in range(1, actual.shape[1]):
        came = np.abs(actual[:, lag:] - actual[:, :-lag]) ** power
        said = (np.abs(sample[:, :, lag:] - sample[:, :, :-lag]) ** power).mean(axis=1)
        total += 2 * ((came - said) ** 2).sum(axis=1)
    return total


def _check(actual: Vector, sample: Vector) -> None:
    fits = actual.ndim == 2 and sample.ndim == 3 and (sample.shape[0], sample.shape[2]) == actual.shape
    if not fits or sample.shape[1] < 2:
        raise ComparisonError(
            "paths are scored as actual [n, S] against sample [n, K, S] with K of at least 2; came"
            f" {list(actual.shape)} and {list(sample.shape)}"
        )
