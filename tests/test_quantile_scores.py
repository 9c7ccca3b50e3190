"""What quantiles alone say of an outcome is what the backtest says, without its loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.core import student_quantiles
from models.observation import LEVELS
from pipeline import metrics
from pipeline.quantile_scores import place, quantile_crps

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 2))
"""Rounded, so that equal quantiles and outcomes on a quantile are common."""


@given(
    hnp.arrays(np.float64, (7, len(LEVELS)), elements=NUMBERS).map(lambda x: np.sort(x, axis=1)),
    hnp.arrays(np.float64, 7, elements=NUMBERS),
)
def test_the_crps_is_that_of_the_backtest(quantile: np.ndarray, outcome: np.ndarray) -> None:
    """It equals the sum over dense levels, for outcomes inside, outside and on quantiles, equal ones too."""
    np.testing.assert_allclose(
        quantile_crps(outcome, quantile), metrics.quantile_crps(outcome, quantile), rtol=1e-12, atol=1e-12
    )


def test_places_of_right_quantiles_have_known_means() -> None:
    """Outcomes drawn from the distribution of the quantiles have mean place ½ and mean distance ¼ from it."""
    rng = np.random.default_rng(0)
    outcome = rng.standard_t(4, 100_000)
    middle, far = place(outcome, np.broadcast_to(student_quantiles(4.0), (len(outcome), len(LEVELS))))
    assert abs(middle.mean() - 0.5) < 4 * middle.std() / np.sqrt(len(outcome))
    assert abs(far.mean() - 0.25) < 4 * far.std() / np.sqrt(len(outcome))
    assert (middle.min(), middle.max()) == (0.005, 0.995)


def test_an_outcome_on_a_quantile_counts_half_on_either_side() -> None:
    """A price that stays where it was, on the median, lies in the middle; on all of them, far out on both sides."""
    ladder = np.arange(11.0)[None]
    middle, far = place(np.array([5.0]), ladder)
    assert (middle[0], far[0]) == (0.5, 0.125)
    middle, far = place(np.array([5.0]), np.full((1, 11), 5.0))
    assert (middle[0], far[0]) == (0.5, 0.495)


def test_what_is_not_a_number_gives_none() -> None:
    """A quantile or an outcome that is NaN gives a CRPS of NaN, and no warning."""
    quantile = np.broadcast_to(np.arange(11.0), (2, 11)).copy()
    quantile[0, 3] = np.nan
    assert np.isnan(quantile_crps(np.array([1.0, np.nan]), quantile)).all()
