"""Weights of a mix are those of the least pinball loss on the simplex."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from models.observation import LEVELS
from pipeline.weighting import LEAST_WEIGHT, simplex_weights

RNG = np.random.default_rng(1)
Z = stats.norm.ppf(LEVELS)


def pinball(weights: np.ndarray, quantile: np.ndarray, target: np.ndarray) -> float:
    """Give the mean pinball loss of averaged quantiles, the slow way."""
    error = target[:, None] - np.einsum("k,knq->nq", weights, quantile)
    return float(np.maximum(np.asarray(LEVELS) * error, (np.asarray(LEVELS) - 1) * error).mean())


def test_two_halves_of_the_truth_share_the_weight() -> None:
    """Of outcomes around (a + b) / 2, who knows a and who knows b get a half each, who knows nothing none."""
    a, b = RNG.normal(size=(2, 20_000)) * 2
    target = (a + b) / 2 + RNG.normal(size=20_000)
    quantile = np.stack([a[:, None] + Z, b[:, None] + Z, np.zeros((20_000, 1)) + 30 + Z])
    assert simplex_weights(quantile, target) == pytest.approx([0.5, 0.5, 0.0], abs=0.03)


def test_no_weights_on_a_grid_are_better() -> None:
    """The loss found is the least of a grid over the simplex, up to what the least weight costs."""
    size = np.exp(RNG.normal(size=5_000) * 0.5)
    target = size * RNG.standard_t(5, size=5_000)
    quantile = np.stack([size[:, None] * Z * 1.6, Z * np.ones((5_000, 1)), size[:, None] * Z * 0.5])
    found = simplex_weights(quantile, target)
    assert found.sum() == pytest.approx(1.0)
    assert all(w == 0 or w >= LEAST_WEIGHT for w in found)
    grid = [np.array([i, j, 20 - i - j]) / 20 for i in range(21) for j in range(21 - i)]
    assert pinball(found, quantile, target) <= min(pinball(w, quantile, target) for w in grid) + 1e-4


def test_the_better_of_two_alike_takes_all() -> None:
    """Where one is the truth and the other the same but far too wide, the truth gets the whole weight."""
    target = RNG.normal(size=20_000)
    quantile = np.stack([np.tile(Z, (20_000, 1)), np.tile(4 * Z, (20_000, 1))])
    assert simplex_weights(quantile, target)[0] > 0.97
