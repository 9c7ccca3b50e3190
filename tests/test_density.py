import numpy as np
import pytest
from scipy import integrate, stats
from simulated import forecast_returns

from pipeline import density

LAWS = [(1.2, 0.0), (2.5, -0.04), (6.0, 0.1), (np.inf, 0.0), (np.inf, 0.05)]


@pytest.mark.parametrize(("df", "move"), LAWS)
def test_the_mean_distance_is_an_integral_of_both_tails(df, move):
    """E|X - m| equals ∫ F below m plus ∫ (1 - F) above it, and P(X ≤ m) is scipy's."""
    loc, scale = 0.01, 0.02
    law = stats.norm(loc, scale) if np.isinf(df) else stats.t(df, loc, scale)
    below = integrate.quad(lambda u: law.cdf(move - scale * u), 0, np.inf, limit=500)[0]
    above = integrate.quad(lambda u: law.sf(move + scale * u), 0, np.inf, limit=500)[0]
    forecasts = forecast_returns("m", np.zeros((1, 1)), loc=loc, scale=scale, df=df)
    assert density.mean_distance(forecasts, move)[0] == pytest.approx(scale * (below + above), rel=1e-6)
    assert density.probability_below(forecasts, move)[0] == pytest.approx(law.cdf(move), rel=1e-12)


@pytest.mark.parametrize("df", [1.2, 3.0, 30.0, np.inf])
def test_the_mean_difference_is_gini_of_the_law(df):
    """E|X - X'| equals 2 ∫ F (1 - F), integrated numerically."""
    law = stats.norm() if np.isinf(df) else stats.t(df)
    gini = 4 * integrate.quad(lambda x: law.cdf(x) * law.sf(x), 0, np.inf, limit=500)[0]
    forecasts = forecast_returns("m", np.zeros((1, 1)), loc=5.0, df=df)
    assert density.mean_difference(forecasts)[0] == pytest.approx(gini, rel=1e-6)


def test_rows_of_different_families_do_not_touch_each_other():
    """A normal, a t, a row without density and one without a scale each get their own value, or NaN."""
    forecasts = forecast_returns(
        "m", np.zeros((1, 4)), scale=[[1.0, 1.0, 1.0, 0.0]], df=[[np.inf, 3.0, np.nan, np.inf]]
    )
    expected = [stats.norm.cdf(0.5), stats.t.cdf(0.5, 3), np.nan, np.nan]
    np.testing.assert_allclose(density.probability_below(forecasts, 0.5), expected, rtol=1e-12)
    assert np.isnan(density.mean_difference(forecasts)[2:]).all()
