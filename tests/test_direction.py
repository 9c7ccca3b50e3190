from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulated import forecast_returns
from statsmodels.stats.proportion import proportion_confint

from models.observation import LEVELS, MEDIAN
from pipeline import direction


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260102)


def without_density(forecasts):
    """Keep the quantiles only."""
    return replace(forecasts, df=np.full(len(forecasts), np.nan))


@pytest.mark.parametrize("df", [0.8, 4.0, np.inf])
def test_the_probability_of_a_rise_is_the_mass_above_zero(df, rng):
    """With a density it is scipy's survival function of the move at zero."""
    loc, scale = 0.01 * rng.normal(size=(1, 60)), 0.005 + 0.02 * rng.random((1, 60))
    forecasts = forecast_returns("m", 0.01 * rng.normal(size=(1, 60)), loc=loc, scale=scale, df=df)
    law = stats.norm(loc[0], scale[0]) if np.isinf(df) else stats.t(df, loc[0], scale[0])
    np.testing.assert_allclose(direction.probability_up(forecasts), law.sf(0), rtol=1e-10)


def test_normal_quantiles_tell_the_probability_exactly(rng):
    """Between the levels and far beyond them, normal price quantiles give the normal probability."""
    forecasts = without_density(forecast_returns("m", 0.01 * rng.normal(size=(1, 50))))
    shift = np.linspace(-4, 4, 50)
    quantile = forecasts.origin[:, None] + shift[:, None] + stats.norm.ppf(LEVELS)
    up = direction.probability_up(replace(forecasts, quantile=quantile))
    np.testing.assert_allclose(up, stats.norm.cdf(shift), rtol=1e-9)


@pytest.mark.parametrize("df", [4.0, np.inf])
def test_quantiles_alone_tell_almost_what_the_density_tells(df, rng):
    """Without its density a model of returns keeps its probability of a rise within one point in a hundred."""
    loc = 0.01 * np.linspace(-2, 2, 80)[None]
    forecasts = forecast_returns("m", 0.01 * rng.normal(size=(1, 80)), loc=loc, scale=0.01, df=df)
    bare = direction.probability_up(without_density(forecasts))
    np.testing.assert_allclose(bare, direction.probability_up(forecasts), atol=0.01)


def test_quantiles_that_do_not_tell_give_no_probability(rng):
    """Quantiles all at the origin, or not known, give NaN; all above or below it give certainty."""
    forecasts = without_density(forecast_returns("m", 0.01 * rng.normal(size=(1, 4))))
    quantile = np.repeat(forecasts.origin[:, None] + np.array([[0.0], [1.0], [-1.0], [np.nan]]), len(LEVELS), axis=1)
    up = direction.probability_up(replace(forecasts, quantile=quantile))
    np.testing.assert_array_equal(up, [np.nan, 1.0, 0.0, np.nan])


def test_the_last_value_calls_nothing(rng):
    """A median at the origin, up to rounding, is no call: no hit rate, and the scores of a coin."""
    forecasts = forecast_returns("last", 0.01 * rng.normal(size=(2, 100)), scale=0.01)
    forecasts.quantile[:, MEDIAN] *= 1 + rng.uniform(-1e-14, 1e-14, len(forecasts))
    assert not direction.calls(forecasts)[2].any()
    scores = direction.direction_scores(forecasts)
    assert np.isnan([scores[name] for name in ("hit_rate", "hit_low", "hit_high")]).all()
    assert scores["brier_up"] == pytest.approx(0.25)
    assert scores["log_loss_up"] == pytest.approx(np.log(2))
    assert scores["auc_up"] == 0.5


def test_the_hit_rate_counts_calls_on_prices_that_changed(rng):
    """Rate and interval equal a plain loop over calls, and the Wilson interval of statsmodels."""
    returns = rng.choice([-0.01, 0.0, 0.02], size=(2, 150))
    forecasts = forecast_returns("m", returns, loc=rng.choice([-0.003, 0.0, 0.002], size=(2, 150)), scale=0.01)
    hits = calls = 0
    for k in range(len(forecasts)):
        call, change = np.sign(forecasts.loc[k]), np.sign(forecasts.actual[k] - forecasts.origin[k])
        if call and change:
            calls += 1
            hits += call == change
    assert 50 < calls < 250
    rate, *interval = direction.hit_rate(forecasts)
    assert rate == hits / calls
    np.testing.assert_allclose(interval, proportion_confint(hits, calls, method="wilson"), rtol=1e-9)


def test_a_median_that_is_not_known_leaves_no_hit_rate(rng):
    """No model gains by leaving a hard row without an answer."""
    forecasts = forecast_returns("m", 0.01 * rng.normal(size=(1, 20)), loc=0.01, scale=0.01)
    assert np.isfinite(direction.hit_rate(forecasts)).all()
    forecasts.quantile[3] = np.nan
    assert np.isnan(direction.hit_rate(forecasts)).all()


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(rng):
    """The rank form equals the count over all pairs of a rise and a fall, ties half."""
    up, rose = rng.integers(0, 8, 120) / 8, rng.random(120) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in up[rose] for b in up[~rose]]
    assert direction.auc(up, rose) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert direction.auc(np.where(rose, 0.6, 0.5), rose) == 1.0


def test_a_score_of_nothing_is_nan():
    """Without rows, or with rises only, what has no value is NaN and nothing warns."""
    nothing, flags = np.empty(0), np.empty(0, dtype=bool)
    assert np.isnan([direction.brier(nothing, flags), direction.log_loss(nothing, flags)]).all()
    assert np.isnan(direction.auc(nothing, flags))
    assert np.isnan(direction.auc(np.array([0.2, 0.9]), np.array([True, True])))


def test_brier_and_log_loss_equal_plain_loops(rng):
    """Both equal their definitions, and a wrong certainty costs a finite 36 nats."""
    up, rose = rng.random(40), rng.random(40) < 0.5
    given = [p if r else 1 - p for p, r in zip(up, rose, strict=True)]
    assert direction.brier(up, rose) == pytest.approx(sum((1 - g) ** 2 for g in given) / 40)
    assert direction.log_loss(up, rose) == pytest.approx(-sum(np.log(g) for g in given) / 40)
    assert direction.log_loss(np.array([0.0]), np.array([True])) == pytest.approx(52 * np.log(2))


@pytest.mark.parametrize("score", [direction.brier, direction.log_loss])
def test_the_true_probability_costs_least(score, rng):
    """Both losses are proper: whoever shades or shouts the true probability loses."""
    up = rng.uniform(0.3, 0.7, 50_000)
    rose = rng.random(50_000) < up
    best = score(up, rose)
    assert best < score(0.5 + 0.5 * (up - 0.5), rose)
    assert best < score(0.5 + 1.5 * (up - 0.5), rose)
    assert best < score(np.clip(up + 0.05, 0, 1), rose)


def test_prices_that_stay_are_in_no_score(rng):
    """A price that did not change is neither rise nor fall: scores are those of the other rows."""
    returns = 0.01 * rng.normal(size=(1, 200))
    returns[:, ::4] = 0
    forecasts = forecast_returns("m", returns, loc=0.002 * rng.normal(size=(1, 200)), scale=0.01)
    changed = forecasts.where(forecasts.actual != forecasts.origin)
    assert len(changed) == 150
    assert direction.direction_scores(forecasts) == direction.direction_scores(changed)
