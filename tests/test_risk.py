from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats
from simulated import forecast_returns, stretch_steps
from statsmodels.stats.multitest import multipletests

from models.observation import LEVELS
from pipeline import risk


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260104)


def chain(rng, after_hit, after_miss, length):
    """Draw misses of a two-state Markov chain, from its stationary state."""
    draws, misses = rng.random(length), np.zeros(length, dtype=bool)
    misses[0] = draws[0] < after_hit / (1 + after_hit - after_miss)
    for t in range(1, length):
        misses[t] = draws[t] < (after_miss if misses[t - 1] else after_hit)
    return misses


@pytest.mark.parametrize("df", [1.5, 4.0, np.inf])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.25])
def test_var_and_es_are_those_of_the_law(df, level):
    """VaR is scipy's quantile and ES the mean below it, by numerical integration of the quantile function."""
    law = stats.norm(0.01, 0.02) if np.isinf(df) else stats.t(df, 0.01, 0.02)
    forecasts = forecast_returns("m", np.zeros((1, 3)), loc=0.01, scale=0.02, df=df)
    mean = integrate.quad(lambda x: x * law.pdf(x), -np.inf, law.ppf(level), limit=500)[0] / level
    np.testing.assert_allclose(risk.value_at_risk(forecasts, level), law.ppf(level), rtol=1e-10)
    np.testing.assert_allclose(risk.expected_shortfall(forecasts, level), mean, rtol=1e-5)


@pytest.mark.parametrize("df", [3.0, 8.0, np.inf])
def test_es_is_the_textbook_formula(df):
    """ES equals loc - scale · f(q)/level · (df + q²)/(df - 1), whose factor is 1 for the normal."""
    law = stats.norm() if np.isinf(df) else stats.t(df)
    q = law.ppf(0.01)
    factor = 1.0 if np.isinf(df) else (df + q**2) / (df - 1)
    forecasts = forecast_returns("m", np.zeros((1, 1)), loc=0.3, scale=2.0, df=df)
    expected = 0.3 - 2.0 * law.pdf(q) / 0.01 * factor
    assert risk.expected_shortfall(forecasts, 0.01)[0] == pytest.approx(expected, rel=1e-9)


def test_var_and_es_are_nan_where_they_do_not_exist():
    """No density or no scale has neither; a t of one degree of freedom has a VaR and no ES."""
    forecasts = forecast_returns("m", np.zeros((1, 3)), scale=[[1.0, 0.0, 1.0]], df=[[np.nan, np.inf, 1.0]])
    np.testing.assert_allclose(risk.value_at_risk(forecasts, 0.05), [np.nan, np.nan, stats.cauchy.ppf(0.05)])
    assert np.isnan(risk.expected_shortfall(forecasts, 0.05)).all()


def test_fz0_equals_its_definition(rng):
    """Row by row it is equation 6 of Patton, Ziegel & Chen (2019) with its indicator; no loss where ES is a gain."""
    y, v, e = rng.normal(size=50), np.full(50, -1.6), np.full(50, -2.1)
    expected = [(yi <= -1.6) * (-1.6 - yi) / (0.05 * 2.1) + -1.6 / -2.1 + np.log(2.1) - 1 for yi in y]
    np.testing.assert_allclose(risk.fissler_ziegel(y, v, e, 0.05), expected, rtol=1e-12)
    assert np.isnan(risk.fissler_ziegel(y, v, -e, 0.05)).all()


def test_fz0_is_least_for_the_true_pair_and_has_no_unit(rng):
    """Any other VaR or ES costs more in the mean, and differences stay the same in another unit."""
    y = rng.standard_t(5, 400_000)
    var = stats.t.ppf(0.05, 5)
    es = y[y <= var].mean()

    def loss(v, e, unit=1.0):
        return risk.fissler_ziegel(unit * y, np.full_like(y, unit * v), np.full_like(y, unit * e), 0.05).mean()

    best = loss(var, es)
    assert all(loss(v, e) > best for v, e in ((1.15 * var, es), (0.85 * var, es), (var, 1.15 * es), (var, 0.85 * es)))
    assert loss(0.9 * var, es, 100.0) - loss(var, es, 100.0) == pytest.approx(loss(0.9 * var, es) - best, rel=1e-9)


@pytest.mark.parametrize(("k", "n", "level"), [(7, 250, 0.01), (0, 250, 0.01), (60, 400, 0.2), (400, 400, 0.5)])
def test_kupiec_is_the_likelihood_ratio_of_a_binomial(k, n, level):
    """Statistic and p-value are those of scipy's G-test on hits and misses."""
    statistic, p = risk.kupiec(np.arange(n) < k, level)
    oracle = stats.power_divergence([k, n - k], [n * level, n - n * level], lambda_="log-likelihood")
    assert statistic == pytest.approx(oracle.statistic, rel=1e-9)
    assert p == pytest.approx(oracle.pvalue, rel=1e-7)


@pytest.mark.parametrize(
    ("n", "level", "accepted"),
    [(510, 0.01, (2, 10)), (1000, 0.01, (5, 16)), (255, 0.05, (7, 20)), (510, 0.05, (17, 35)), (1000, 0.05, (38, 64))],
)
def test_kupiec_accepts_the_counts_of_the_published_table(n, level, accepted):
    """Not rejected at 5 % are the counts in the table of Kupiec (1995), as Jorion, Value at Risk, prints it."""
    kept = [k for k in range(n // 5) if risk.kupiec(np.arange(n) < k, level)[1] > 0.05]
    assert (kept[0], kept[-1]) == accepted


def test_christoffersen_is_the_likelihood_ratio_of_a_contingency_table(rng):
    """Independence is scipy's G-test of the table of transitions; with the level it adds the ratio of Kupiec."""
    misses = chain(rng, 0.1, 0.3, 600)
    table = [[np.sum((misses[:-1] == a) & (misses[1:] == b)) for b in (False, True)] for a in (False, True)]
    oracle = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    share = risk.kupiec(misses[1:], 0.1)[0]
    independence, conditional = risk.christoffersen(misses, 0.1)
    assert independence == pytest.approx(oracle.pvalue, rel=1e-7)
    assert conditional == pytest.approx(stats.chi2.sf(oracle.statistic + share, 2), rel=1e-7)


def test_the_tests_hold_their_size(rng):
    """On independent misses of the promised share each rejects at 5 % in about 5 % of 2000 histories."""
    draws = rng.random((2000, 1000)) < 0.2
    p = np.array([(risk.kupiec(m, 0.2)[1], *risk.christoffersen(m, 0.2)) for m in draws])
    error = np.sqrt(0.05 * 0.95 / len(draws))
    np.testing.assert_allclose((p < 0.05).mean(axis=0), 0.05, atol=4 * error)


def test_clustered_misses_of_the_right_share_are_found_by_christoffersen_only(rng):
    """A chain that misses in 20 %, but in clusters, passes Kupiec far more often than Christoffersen."""
    histories = [chain(rng, 0.16, 0.36, 1000) for _ in range(100)]
    p = np.array([(risk.kupiec(m, 0.2)[1], *risk.christoffersen(m, 0.2)) for m in histories])
    accepted = (p > 0.05).mean(axis=0)
    assert accepted[0] > 0.7
    assert accepted[1] < 0.01
    assert accepted[2] < 0.01


def test_a_forecast_that_never_misses_is_judged_by_its_share_alone():
    """Without a miss nothing speaks against independence, while the share may be far off."""
    never = np.zeros(500, dtype=bool)
    independence, conditional = risk.christoffersen(never, 0.05)
    assert independence == 1.0
    assert conditional < 1e-6
    assert risk.kupiec(never, 0.05)[1] < 1e-6


def test_no_misses_to_look_at_have_no_test():
    """Without rows, and for a chain with one row only, p-values are NaN."""
    assert np.isnan(risk.kupiec(np.zeros(0, dtype=bool), 0.1)).all()
    assert np.isnan(risk.christoffersen(np.zeros(1, dtype=bool), 0.1)).all()


def test_each_series_is_tested_on_its_own_first_steps(rng):
    """A panel of several steps gives each series the test of its step 1, in the order of time."""
    forecasts = stretch_steps(forecast_returns("m", rng.normal(size=(3, 200)), scale=0.8), 2)
    missed = risk.below(forecasts, 0.1)
    missed[forecasts.step == 2] = 1.0
    tests = risk.coverage_tests(forecasts, missed, 0.1)
    assert list(tests) == ["S0", "S1", "S2"]
    for name, (share, free) in tests.items():
        rows = (forecasts.series == forecasts.names.index(name)) & (forecasts.step == 1)
        flags = missed[rows].astype(bool)
        assert len(flags) == 200
        assert (share, free) == (risk.kupiec(flags, 0.1)[1], risk.christoffersen(flags, 0.1)[1])
    later = forecasts.step == 2
    assert np.isnan(list(risk.coverage_tests(forecasts.where(later), missed[later], 0.1).values())).all()


def test_an_unknown_miss_leaves_its_series_without_a_test(rng):
    """A NaN quantile gives NaN for that series and for all together; the others keep their tests."""
    forecasts = forecast_returns("m", rng.normal(size=(2, 100)))
    forecasts.quantile[3] = np.nan
    missed = risk.below(forecasts, 0.05)
    tests = risk.coverage_tests(forecasts, missed, 0.05)
    assert np.isnan(tests["S0"]).all()
    assert np.isfinite(tests["S1"]).all()
    assert np.isnan(risk.coverage_scores(forecasts, missed, 0.05)).all()


def test_the_worst_p_value_is_the_least_of_holm(rng):
    """It equals the smallest p-value that statsmodels adjusts by Holm; one NaN makes it NaN."""
    for p in (rng.random(7), rng.random(1), np.array([0.004, 0.3, 0.9])):
        assert risk.worst(p) == pytest.approx(multipletests(p, method="holm")[1].min())
    assert np.isnan(risk.worst([0.1, np.nan]))
    assert np.isnan(risk.worst([]))


def test_series_that_miss_together_raise_no_false_alarm(rng):
    """For a true forecast of series that all move as one, the combined tests reject no more often than 5 %."""
    rejected = []
    for _ in range(300):
        returns = np.repeat(rng.normal(size=(1, 400)), 5, axis=0)
        forecasts = forecast_returns("m", 0.01 * returns, scale=0.01)
        rejected.append([p < 0.05 for p in risk.coverage_scores(forecasts, risk.below(forecasts, 0.1), 0.1)])
    assert np.mean(rejected, axis=0).max() < 0.05


def test_misses_are_of_the_price_quantile_and_losses_of_the_density(rng):
    """Quantiles moved by an offset change the tests of the misses, not the joint loss of VaR and ES."""
    forecasts = forecast_returns("m", 0.01 * rng.normal(size=(1, 1000)), scale=0.01)
    before = risk.risk_scores(forecasts)
    after = risk.risk_scores(replace(forecasts, quantile=forecasts.quantile * 0.99))
    for level in (1, 5):
        assert after[f"fz0_{level}"] == before[f"fz0_{level}"]
        assert after[f"var_{level}_kupiec"] < 0.01 < before[f"var_{level}_kupiec"]
    assert set(risk.VAR_LEVELS) <= set(LEVELS)
