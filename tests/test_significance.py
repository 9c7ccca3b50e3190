from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from models.errors import ComparisonError
from pipeline.significance import (
    adjusted,
    block_bootstrap_skill,
    diebold_mariano,
    giacomini_white,
    model_confidence_set,
    multivariate_diebold_mariano,
    zero_mean,
)

TRIALS = 3000
SIZE = (0.03, 0.07)
"""Where the share of rejections of a true hypothesis by a 5 % test has to lie; sampling error is 0.004."""


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260103)


def autoregressive(rng, rho, n, trials=TRIALS):
    """Simulate a stationary AR(1) of mean 0, [trials, n]."""
    noise = rng.normal(size=(trials, n + 100))
    for t in range(1, n + 100):
        noise[:, t] += rho * noise[:, t - 1]
    return noise[:, 100:]


def overlapping(rng, steps, n, trials=TRIALS):
    """Simulate sums of the next `steps` independent moves from each origin, [trials, n]."""
    total = np.cumsum(rng.normal(size=(trials, n + steps)), axis=1)
    return total[:, steps:] - total[:, :-steps]


# ------------------------------------------------------------------------------------------ Diebold and Mariano


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("n", [100, 400, 1000])
def test_the_test_has_its_size_on_autocorrelated_losses(rho, n, rng):
    """Of equally good forecasts a 5 % test rejects 3 to 7 %, however strongly their differences hang together."""
    _, p_value = zero_mean(autoregressive(rng, rho, n))
    assert SIZE[0] <= np.mean(p_value < 0.05) <= SIZE[1]


@pytest.mark.parametrize(("steps", "n"), [(5, 100), (12, 100), (12, 400), (24, 400), (24, 1000)])
def test_the_test_has_its_size_on_overlapping_horizons(steps, n, rng):
    """The same holds where each outcome is shared by as many origins as there are steps."""
    _, p_value = zero_mean(overlapping(rng, steps, n), steps)
    assert SIZE[0] <= np.mean(p_value < 0.05) <= SIZE[1]


def test_a_plain_t_test_would_lose_its_size(rng):
    """The autocorrelation of the size test fools a test that takes origins as independent, so that it can fail."""
    d = autoregressive(rng, 0.3, 400)
    assert np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05) > 0.1


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_test_finds_what_is_there(rho, rng):
    """At three standard errors it rejects about as often as the normal test that knows the variance: 0.85."""
    shift = 3 / np.sqrt(400) / (1 - rho)
    _, p_value = zero_mean(shift + autoregressive(rng, rho, 400))
    assert np.mean(p_value < 0.05) > 0.78


def test_the_statistic_is_its_formula(rng):
    """Cosine by cosine, as the equation is printed."""
    loss, reference = rng.exponential(size=200), rng.exponential(size=200)
    d, t, b = loss - reference, np.arange(1, 201), int(0.4 * 200 ** (2 / 3))
    weights = [np.sqrt(2 / 200) * np.sum(d * np.cos(np.pi * j * (t - 0.5) / 200)) for j in range(1, b + 1)]
    expected = d.mean() / np.sqrt(np.mean(np.square(weights)) / 200)
    statistic, p_value = diebold_mariano(loss, reference)
    assert statistic == pytest.approx(expected)
    assert p_value == pytest.approx(2 * stats.t.sf(abs(expected), b))


def test_swapping_the_models_turns_the_sign(rng):
    """The statistic is antisymmetric, the p-value symmetric, and negative favours the first."""
    a, b = rng.exponential(size=100), 1 + rng.exponential(size=100)
    forward, backward = diebold_mariano(a, b), diebold_mariano(b, a)
    assert forward[0] == pytest.approx(-backward[0])
    assert forward[0] < 0
    assert forward[1] == pytest.approx(backward[1])


def test_differences_without_variance_are_decided_without_nan():
    """Losses that differ by a constant give p = 0, the same losses 0 and 1, and no warning."""
    ones = np.ones(50)
    for test in (diebold_mariano, giacomini_white):
        assert test(ones, 2 * ones)[1] == 0
        assert test(ones, ones) == (0.0, 1.0)
    assert diebold_mariano(ones, 2 * ones)[0] == -np.inf
    assert multivariate_diebold_mariano(np.ones((9, 24)), np.ones((9, 24))) == (0.0, 0.5)


# -------------------------------------------------------------------------------------------- Giacomini and White


@pytest.mark.parametrize("n", [100, 400])
def test_the_conditional_test_has_its_size(n, rng):
    """Where nothing tells which model will lose less, 3 to 7 % of 5 % tests reject."""
    p_values = [giacomini_white(10 + d, np.full(n, 10.0))[1] for d in rng.normal(size=(1500, n))]
    assert SIZE[0] <= np.mean(np.array(p_values) < 0.05) <= SIZE[1]


def test_the_conditional_test_stays_near_its_size_on_overlapping_horizons(rng):
    """With five overlapping steps it rejects at most twice as often as it should."""
    differences = overlapping(rng, 5, 400, 1000)
    p_values = [giacomini_white(100 + d, np.full(400, 100.0), 5)[1] for d in differences]
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.1


def test_who_wins_can_be_foretold_though_none_is_better(rng):
    """Differences of mean zero that hang together are seen by the conditional test, not by the other."""
    found = [giacomini_white(50 + d, np.full(400, 50.0))[1] for d in autoregressive(rng, 0.4, 400, 50)]
    assert np.mean(np.array(found) < 0.05) > 0.95


def test_the_conditional_statistic_is_n_times_the_uncentred_r_squared(rng):
    """With one step the statistic is that of the regression of 1 on the instruments times the difference."""
    d = rng.normal(0.1, 1, size=300)
    z = np.column_stack((d[1:], d[:-1] * d[1:]))
    fitted = z @ np.linalg.lstsq(z, np.ones(299), rcond=None)[0]
    statistic, p_value = giacomini_white(10 + d, np.full(300, 10.0))
    assert statistic == pytest.approx(299 * np.sum(fitted**2) / 299)
    assert p_value == pytest.approx(stats.chi2.sf(statistic, 2))


def test_the_conditional_test_says_how_many_origins_it_needs():
    """Fewer origins than nine for each step are refused with the number."""
    with pytest.raises(ComparisonError, match="at least 108 origins for steps up to 12; came 100"):
        giacomini_white(np.arange(100.0), np.ones(100), 12)


# ---------------------------------------------------------------------------------------------------- whole days


@pytest.mark.parametrize("norm", [1, 2])
def test_whole_days_are_tested_by_their_norm(norm, rng):
    """The statistic is the t-ratio of the daily norms, large p for the better one, 1 - p when swapped."""
    good, bad = rng.normal(size=(300, 24)), 1.05 * rng.normal(size=(300, 24))
    d = (np.abs(good) ** norm).sum(axis=1) ** (1 / norm) - (np.abs(bad) ** norm).sum(axis=1) ** (1 / norm)
    statistic, p_value = multivariate_diebold_mariano(good, bad, norm)
    assert statistic == pytest.approx(d.mean() / (d.std() / np.sqrt(300)))
    assert p_value > 0.99
    assert multivariate_diebold_mariano(bad, good, norm)[1] == pytest.approx(1 - p_value)


# ----------------------------------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_interval_of_the_skill_holds_the_truth(rho, rng):
    """A 95 % interval holds a true skill of 10 % in 91 to 98 of 100 worlds, autocorrelated ones too."""
    ours = 9 + autoregressive(rng, rho, 1000, 300)
    theirs = 10 + autoregressive(rng, rho, 1000, 300)
    intervals = np.array([block_bootstrap_skill(a, b) for a, b in zip(ours, theirs, strict=True)])
    assert 0.91 <= np.mean((intervals[:, 0] < 0.1) & (intervals[:, 1] > 0.1)) <= 0.98


def test_the_interval_is_that_of_the_delta_method(rng):
    """For independent losses it is 1 - r -+ 1.96 standard errors of the ratio r, and the same each time."""
    a, b = rng.exponential(0.9, size=5000), rng.exponential(1.0, size=5000)
    ratio = a.mean() / b.mean()
    error = np.std(a - ratio * b) / b.mean() / np.sqrt(5000)
    low, high = block_bootstrap_skill(a, b)
    assert (low, high) == pytest.approx((1 - ratio - 1.96 * error, 1 - ratio + 1.96 * error), abs=0.2 * error)
    assert block_bootstrap_skill(a, b) == (low, high)
    narrow = block_bootstrap_skill(a, b, alpha=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_blocks_are_wide_where_losses_hang_together(rng):
    """The interval of strongly autocorrelated losses is as much wider as their mean is less certain."""
    width = {}
    for rho in (0.0, 0.8):
        d = autoregressive(rng, rho, 4000, 1)[0] / 100
        low, high = block_bootstrap_skill(1 + d, np.ones(4000))
        width[rho] = (high - low) / np.std(d)
    assert width[0.8] / width[0.0] == pytest.approx(3.0, rel=0.2)  # √((1 + 0.8) / (1 - 0.8))


def test_losses_that_are_mostly_zero_have_an_interval():
    """A resample in which neither model lost anything has skill zero, and is not unknown."""
    loss = np.zeros(60)
    loss[5] = 1.0
    assert block_bootstrap_skill(loss, 2 * loss) == (0.0, 0.5)


@pytest.mark.parametrize("rounding", [0.0, 1e-16, 1e-11])
def test_losses_whose_difference_hardly_varies_have_an_interval(rounding):
    """A difference that is one number but for rounding, as of a series that stands still, is that one, unwarned."""
    ours, theirs = np.full(60, 0.1), np.full(60, 0.2)
    ours[0] += rounding
    assert block_bootstrap_skill(ours, theirs) == pytest.approx((0.5, 0.5), abs=1e-9)


@pytest.mark.parametrize("n", [8, 9])
def test_the_fewest_origins_have_an_interval_and_a_best_set(rng, n):
    """Eight origins, the fewest that settings allow, give numbers and no warning."""
    a, b = rng.exponential(size=(2, n))
    assert np.isfinite(block_bootstrap_skill(a, b)).all()
    assert max(model_confidence_set({"a": a, "b": b}).values()) == 1.0


def test_the_set_of_the_best_leaves_out_what_is_worse(rng):
    """Two equals stay, one of them alone is not named the best; a much worse one is out; copies share a p-value."""
    good = rng.exponential(size=500)
    losses = {
        "a": good,
        "b": good + 0.1 * rng.normal(size=500),
        "copy": good.copy(),
        "bad": good + rng.exponential(size=500),
    }
    found = model_confidence_set(losses)
    assert min(found["a"], found["b"]) > 0.05
    assert found["copy"] == found["a"]
    assert found["bad"] < 0.05
    assert model_confidence_set({"a": good, "copy": good.copy()}) == {"a": 1.0, "copy": 1.0}


def test_the_set_of_the_best_takes_losses_that_never_vary(rng):
    """Of models that always lose the same, as on a series that stands still, the best is the set, without a warning."""
    ones, noise = np.ones(60), rng.exponential(size=60)
    assert model_confidence_set({"a": ones, "b": 2 * ones, "c": 3 * ones, "copy": 1 * ones}) == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "copy": 1.0,
    }
    found = model_confidence_set({"a": noise, "b": noise + 0.1, "c": noise[::-1]})
    assert found == model_confidence_set({"a": noise, "c": noise[::-1]}) | {"b": 0.0}


# -------------------------------------------------------------------------------------------------- many at once


@pytest.mark.parametrize("method", ["fdr_bh", "holm"])
def test_adjusted_p_values_are_those_of_statsmodels(method, rng):
    """Ties, ones, any order, a single one and none."""
    for p in (rng.uniform(size=30) ** 3, np.array([0.04, 0.01, 0.04, 1.0]), np.array([0.03])):
        assert adjusted(list(p), method) == pytest.approx(multipletests(p, method=method)[1])
    assert adjusted([], method) == []


def test_of_many_true_hypotheses_few_are_rejected(rng):
    """With thirty series of equal models, hardly ever is one called different after Benjamini and Hochberg."""
    p_values = zero_mean(autoregressive(rng, 0.3, 200, 30 * 200))[1].reshape(200, 30)
    assert np.mean([min(adjusted(list(p), "fdr_bh")) < 0.05 for p in p_values]) < 0.1
    assert np.mean(p_values.min(axis=1) < 0.05) > 0.6
