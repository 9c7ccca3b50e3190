from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulated import forecast_returns

from pipeline import volatility


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260103)


@pytest.mark.parametrize("df", [2.2, 5.0, np.inf])
def test_the_expected_square_is_the_second_moment(df):
    """It equals scipy's variance plus the squared mean."""
    law = stats.norm(0.01, 0.02) if np.isinf(df) else stats.t(df, 0.01, 0.02)
    forecasts = forecast_returns("m", np.zeros((1, 1)), loc=0.01, scale=0.02, df=df)
    assert volatility.expected_square(forecasts)[0] == pytest.approx(law.var() + law.mean() ** 2, rel=1e-12)


@pytest.mark.parametrize(("scale", "df"), [(1.0, 2.0), (1.0, 0.5), (1.0, np.nan), (0.0, np.inf)])
def test_an_infinite_variance_has_no_loss(scale, df):
    """Degrees of freedom of 2 and less, no density, or no scale give NaN, without a warning."""
    forecasts = forecast_returns("m", np.array([[0.3]]))
    assert np.isnan(volatility.qlike(replace(forecasts, scale=np.array([scale]), df=np.array([df]))))


def test_qlike_is_least_for_the_true_variance_though_it_sees_single_squares(rng):
    """Seen through one squared return a row, the true variance still beats any other (Patton 2011)."""
    scale = 0.01 * np.exp(0.4 * rng.normal(size=(1, 40_000)))
    returns = 0.002 + scale * rng.standard_t(6, size=scale.shape)
    truth = {"loc": 0.002, "scale": scale, "df": 6.0}
    best = volatility.qlike(forecast_returns("true", returns, **truth))
    for wrong in ({"scale": 1.1 * scale}, {"scale": 0.9 * scale}, {"scale": 0.011}, {"df": np.inf}):
        extra = volatility.qlike(forecast_returns("wrong", returns, **(truth | wrong))) - best
        assert extra.mean() > 3 * extra.std() / np.sqrt(extra.size), wrong


def test_qlike_exceeds_its_least_value_by_the_loss_without_unit(rng):
    """Less log outcome² + 1 it is y²/h - log(y²/h) - 1, the form without unit, at least zero."""
    forecasts = forecast_returns("m", 0.02 * rng.normal(size=(1, 30)), scale=0.01, df=5.0)
    ratio = forecasts.outcome**2 / (0.01**2 * 5 / 3)
    unitless = volatility.qlike(forecasts) - np.log(forecasts.outcome**2) - 1
    np.testing.assert_allclose(unitless, ratio - np.log(ratio) - 1, rtol=1e-9, atol=1e-12)
    assert (unitless >= 0).all()


def test_r2_equals_a_plain_loop_over_series(rng):
    """Squared errors of |y| over those of the mean |y| of the series, in units of that mean."""
    scale = np.array([[0.01], [0.2]]) * np.exp(0.5 * rng.normal(size=(2, 60)))
    forecasts = forecast_returns("m", scale * rng.normal(size=(2, 60)), scale=scale)
    error = spread = 0.0
    for row in range(2):
        here = forecasts.series == row
        size = abs(forecasts.outcome[here])
        for y, s in zip(size, forecasts.scale[here], strict=True):
            error += (y - s * np.sqrt(2 / np.pi)) ** 2 / size.mean() ** 2
            spread += (y - size.mean()) ** 2 / size.mean() ** 2
    assert volatility.r2(forecasts) == pytest.approx(1 - error / spread, rel=1e-12)


def test_r2_is_what_the_volatility_explains(rng):
    """The true volatility explains Var(E|y|) / Var|y|, a constant nothing, and a biased scale less than nothing."""
    scale = 0.01 * np.exp(0.5 * rng.normal(size=(1, 100_000)))
    returns = scale * rng.normal(size=scale.shape)
    explained = np.var(np.sqrt(2 / np.pi) * scale) / np.var(np.abs(returns))
    assert volatility.r2(forecast_returns("true", returns, scale=scale)) == pytest.approx(explained, abs=0.01)
    constant = np.sqrt(np.pi / 2) * np.abs(returns).mean()
    assert volatility.r2(forecast_returns("constant", returns, scale=constant)) == pytest.approx(0, abs=1e-9)
    assert volatility.r2(forecast_returns("wide", returns, scale=2 * scale)) < 0


def test_knowing_that_one_series_moves_more_than_another_explains_nothing(rng):
    """Constants that fit calm and wild series have an R² of zero together, as they have one by one."""
    returns = np.array([[0.01], [0.5]]) * rng.normal(size=(2, 500))
    constant = np.sqrt(np.pi / 2) * np.abs(returns).mean(axis=1, keepdims=True)
    assert volatility.r2(forecast_returns("m", returns, scale=constant)) == pytest.approx(0, abs=1e-9)


def test_r2_without_anything_to_explain_is_nan(rng):
    """Moves of one size, a series that never moves, one row, or no density have no R²."""
    still = forecast_returns("m", np.full((1, 9), 0.01), scale=0.01)
    assert np.isnan(volatility.r2(still))
    assert np.isnan(volatility.r2(still.where(np.arange(9) == 0)))
    dead = np.vstack([0.01 * rng.normal(size=9), np.zeros(9)])
    assert np.isnan(volatility.r2(forecast_returns("m", dead, scale=0.01)))
    assert np.isnan(volatility.r2(forecast_returns("m", rng.normal(size=(1, 9)), df=np.nan)))
