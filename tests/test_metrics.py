import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats
from simulated import forecast_returns

from models.errors import ComparisonError, DataError
from models.observation import LEVELS
from pipeline import metrics

T_CASES = [(1.2, -3.0), (2.0, 0.0), (3.7, 0.4), (5.0, 12.0), (30.0, -1.5), (np.inf, 0.0), (np.inf, -2.5)]


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260101)


def one_row(outcome, loc, scale, df):
    """Forecast a single return."""
    return forecast_returns("m", np.array([[outcome]]), loc=loc, scale=scale, df=df)


@pytest.mark.parametrize(("df", "z"), T_CASES)
def test_crps_is_the_integral_of_the_squared_distance_to_the_step(df, z):
    """The closed form equals ∫ (F(x) - 1{x ≥ y})² dx, integrated numerically."""
    loc, scale = 0.01, 0.02
    law = stats.norm(loc, scale) if np.isinf(df) else stats.t(df, loc, scale)
    y = loc + scale * z
    below = integrate.quad(lambda u: law.cdf(y - scale * u) ** 2, 0, np.inf, limit=500)[0]
    above = integrate.quad(lambda u: law.sf(y + scale * u) ** 2, 0, np.inf, limit=500)[0]
    assert metrics.crps(one_row(y, loc, scale, df))[0] == pytest.approx(scale * (below + above), rel=1e-6)


@pytest.mark.parametrize(("df", "z"), T_CASES[2:])
def test_crps_is_the_energy_form_on_samples(df, z, rng):
    """The closed form equals E|X - y| - E|X - X'|/2 within five standard errors of a sample."""
    law = stats.norm() if np.isinf(df) else stats.t(df)
    x, other = law.rvs((2, 200_000), random_state=rng)
    sampled = np.abs(x - z) - np.abs(x - other) / 2
    error = sampled.std() / np.sqrt(len(sampled))
    assert metrics.crps(one_row(z, 0, 1, df))[0] == pytest.approx(sampled.mean(), abs=5 * error)


def test_the_student_scores_approach_the_normal_as_df_grows():
    """CRPS and log score of t are continuous up to df = inf: no cancellation at large df."""
    z = np.linspace(-6, 6, 41)[None, :]
    normal = forecast_returns("m", z)
    for df in (1e6, 1e8, 1e12):
        student = replace(normal, df=np.full(len(normal), df))
        np.testing.assert_allclose(metrics.crps(student), metrics.crps(normal), rtol=0, atol=100 / df + 1e-9)
        np.testing.assert_allclose(metrics.log_score(student), metrics.log_score(normal), rtol=0, atol=1e3 / df + 1e-9)


@pytest.mark.parametrize("df", [0.7, 2.5, 8.0, np.inf])
def test_log_score_and_pit_are_those_of_scipy(df, rng):
    """The log score is minus scipy's log density and the PIT scipy's distribution function."""
    y, loc, scale = rng.normal(size=(3, 50)) * [[0.05], [0.01], [0.0]] + [[0], [0], [0.02]]
    f = forecast_returns("m", y[None], loc=loc, scale=scale, df=df)
    law = stats.norm(loc, scale) if np.isinf(df) else stats.t(df, loc, scale)
    np.testing.assert_allclose(metrics.log_score(f), -law.logpdf(y), rtol=1e-10)
    np.testing.assert_allclose(metrics.pit(f), law.cdf(y), rtol=1e-10)


def test_twice_the_mean_pinball_approaches_crps_as_levels_get_dense(rng):
    """The mean quantile loss at evenly spread levels tends to half the closed CRPS, below 0.1 % at a thousand."""
    y = rng.normal(size=500)
    exact = metrics.crps(forecast_returns("m", y[None])).mean()
    error = []
    for count in (10, 100, 1000):
        tau = (np.arange(count) + 0.5) / count
        quantile = np.broadcast_to(stats.norm.ppf(tau), (len(y), count))
        error.append(abs(2 * metrics.pinball(y, quantile, tau).mean() / exact - 1))
    assert error[0] > error[1] > error[2]
    assert error[2] < 1e-3


@pytest.mark.parametrize("df", [3.0, 5.0, np.inf])
@pytest.mark.parametrize("truth", [4.0, np.inf])
def test_hiding_the_density_does_not_pay(df, truth, rng):
    """From its eleven quantiles a model gets the CRPS of its density within 0.3 %, and no gain above 0.05 %."""
    noise = rng.standard_t(truth, (1, 10_000)) if np.isfinite(truth) else rng.normal(size=(1, 10_000))
    dense = forecast_returns("m", 0.01 * noise, scale=0.01, df=df)
    bare = replace(dense, df=np.full(len(dense), np.nan))
    ratio = metrics.crps(bare).mean() / metrics.crps(dense).mean()
    assert 0.9995 < ratio < 1.003


def test_without_density_the_crps_is_on_the_scale_of_the_outcome(rng):
    """On the asinh scale of prices that cross zero eleven quantiles give the CRPS of the density within 0.3 %."""
    moves, center, unit = 0.5 * rng.standard_normal(4_000), 3.0, 2.0
    origin = center + unit * np.sinh(rng.standard_normal(len(moves)))
    assert origin.min() < 0 < origin.max()
    level = np.arcsinh((origin - center) / unit)[:, None]
    dense = replace(
        forecast_returns("m", moves[None], scale=0.5),
        origin=origin,
        actual=center + unit * np.sinh(level[:, 0] + moves),
        quantile=center + unit * np.sinh(level + 0.5 * stats.norm.ppf(LEVELS)),
        center=np.full(len(moves), center),
        unit=np.full(len(moves), unit),
    )
    bare = replace(dense, df=np.full(len(moves), np.nan))
    np.testing.assert_allclose(metrics.quantile_moves(bare), np.tile(0.5 * stats.norm.ppf(LEVELS), (len(moves), 1)))
    assert metrics.crps(bare).mean() == pytest.approx(metrics.crps(dense).mean(), rel=0.003)


def test_without_density_a_price_below_zero_has_no_crps_on_the_log_scale(rng):
    """A row one of whose quantiles has no logarithm is NaN, the others have their score."""
    bare = forecast_returns("m", rng.normal(size=(1, 3)), df=np.nan)
    quantile = bare.origin[:, None] * np.exp(stats.norm.ppf(LEVELS))[None]
    quantile[1, 0] = -5.0
    np.testing.assert_array_equal(np.isnan(metrics.crps(replace(bare, quantile=quantile))), [False, True, False])


def test_a_row_without_density_has_no_log_score_and_a_mean_says_so(rng):
    """One undefined row makes the mean NaN: nothing is skipped; metrics of the quantiles remain."""
    f = forecast_returns("m", 0.01 * rng.normal(size=(1, 20)), scale=0.01)
    df = f.df.copy()
    df[3] = np.nan
    result = metrics.scores(replace(f, df=df), {"S0": 1.0})
    assert np.isnan(result["log_score"])
    assert np.isnan(result["pit_distance"])
    assert np.isfinite([result["crps"], result["mae"], result["coverage_80"]]).all()


def test_an_unknown_quantile_is_not_counted_as_a_miss(rng):
    """A forecast that does not exist yet has NaN coverage, not zero."""
    f = forecast_returns("m", 0.01 * rng.normal(size=(1, 4)), scale=0.01)
    f.quantile[2] = np.nan
    np.testing.assert_array_equal(np.isnan(metrics.covered(f, 95)), [False, False, True, False])


@pytest.mark.parametrize(("scale", "df"), [(0.0, 5.0), (-1.0, np.inf), (1.0, 1.0), (1.0, -3.0)])
def test_crps_is_nan_outside_the_domain_of_its_formula(scale, df):
    """A scale that is not positive or df ≤ 1 gives NaN, without a warning."""
    f = forecast_returns("m", np.array([[0.3]]))
    assert np.isnan(metrics.crps(replace(f, scale=np.array([scale]), df=np.array([df]))))


@pytest.mark.parametrize("score", [metrics.crps, metrics.log_score])
def test_nothing_beats_the_true_distribution(score, rng):
    """Expected CRPS and log score are least for the law that made the data (strict propriety)."""
    truth = {"loc": 0.001, "scale": 0.01, "df": 4.0}
    returns = truth["loc"] + truth["scale"] * rng.standard_t(truth["df"], size=(1, 40_000))
    best = score(forecast_returns("true", returns, **truth))
    for wrong in ({"loc": 0.003}, {"scale": 0.012}, {"scale": 0.0083}, {"df": np.inf}, {"df": 2.0}):
        gain = score(forecast_returns("wrong", returns, **(truth | wrong))) - best
        assert gain.mean() > 3 * gain.std() / np.sqrt(gain.size), wrong


def test_coverage_of_the_true_distribution_is_nominal(rng):
    """Each central interval holds its share of the truth, within 4 binomial standard errors."""
    n = 20_000
    f = forecast_returns("m", 0.02 * rng.standard_t(5, size=(1, n)), scale=0.02, df=5)
    result = metrics.scores(f, {"S0": 1.0})
    for percent in metrics.INTERVALS:
        share = percent / 100
        assert result[f"coverage_{percent}"] == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))
    widths = [result[f"width_{percent}"] for percent in sorted(metrics.INTERVALS)]
    assert widths == sorted(widths)


def test_the_interval_score_is_the_pinball_loss_of_both_ends(rng):
    """Gneiting & Raftery's interval score is 2/α times the summed pinball losses of the two quantiles."""
    f = forecast_returns("m", 0.02 * rng.normal(size=(1, 200)), scale=0.01)
    for percent in metrics.INTERVALS:
        alpha = 1 - percent / 100
        ends = f.quantile[:, list(metrics.INTERVALS[percent])]
        loss = metrics.pinball(f.actual, ends, [alpha / 2, 1 - alpha / 2]).sum(axis=1)
        np.testing.assert_allclose(metrics.interval_score(f, percent), 2 / alpha * loss, rtol=1e-9)
        assert 0 < np.nanmean(metrics.covered(f, percent)) < 1


def test_the_interval_score_is_least_for_the_true_interval(rng):
    """Wider and narrower intervals than the true one cost more in the mean."""
    returns = 0.01 * rng.normal(size=(1, 40_000))
    best, *others = (forecast_returns("m", returns, scale=0.01 * factor) for factor in (1.0, 0.8, 1.25))
    for other in others:
        extra = (metrics.interval_score(other, 80) - metrics.interval_score(best, 80)) / best.origin
        assert extra.mean() > 3 * extra.std() / np.sqrt(extra.size)


def test_smape_is_its_formula_and_not_symmetric(rng):
    """It equals 2|e| / (actual + median); of two medians equally far off the high one costs less."""
    f = forecast_returns("m", 0.02 * rng.normal(size=(1, 50)), loc=0.01, scale=0.01)
    median = f.quantile[:, LEVELS.index(0.5)]
    expected = [2 * abs(a - m) / (abs(a) + abs(m)) for a, m in zip(f.actual, median, strict=True)]
    np.testing.assert_allclose(metrics.smape(f), expected, rtol=1e-12)
    low, high = (replace(f, quantile=np.outer(f.actual * factor, np.ones(len(LEVELS)))) for factor in (0.9, 1.1))
    assert (metrics.smape(high) < metrics.smape(low)).all()


@pytest.mark.parametrize(("actual", "median"), [(0.0, 0.0), (-3.0, 2.0), (3.0, -2.0), (-3.0, -2.0), (0.0, 1.0)])
def test_prices_that_cross_zero_have_no_smape(actual, median):
    """Where the actual or the median is not positive a percentage means nothing: NaN, without a warning."""
    f = one_row(0.1, 0.0, 1.0, np.inf)
    f = replace(f, actual=np.array([actual]), quantile=np.full((1, len(LEVELS)), median))
    assert np.isnan(metrics.smape(f)[0])


def test_the_crps_of_a_sample_equals_plain_loops(rng):
    """It is the mean distance to the outcome less half that of all pairs of different draws, ties included."""
    outcome, sample = rng.normal(size=4), rng.integers(-3, 4, (4, 7)) / 2
    for n in range(4):
        pairs = [abs(sample[n, i] - sample[n, j]) for i in range(7) for j in range(7) if i != j]
        expected = np.mean(np.abs(sample[n] - outcome[n])) - np.mean(pairs) / 2
        assert metrics.sample_crps(outcome, sample)[n] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    with pytest.raises(ComparisonError, match="at least two draws"):
        metrics.sample_crps(outcome, sample[:, :1])


@pytest.mark.parametrize("df", [4.0, np.inf])
def test_three_forms_of_the_crps_agree(df, rng):
    """Closed form, quantiles and draws of one distribution give one CRPS; the draws do so from three on."""
    law = stats.norm(0.001, 0.01) if np.isinf(df) else stats.t(df, 0.001, 0.01)
    outcome = law.rvs(20_000, random_state=rng)
    closed = forecast_returns("m", outcome[None], loc=0.001, scale=0.01, df=df)
    exact = metrics.crps(closed)
    bare = metrics.crps(replace(closed, df=np.full(len(closed), np.nan)))
    assert bare.mean() == pytest.approx(exact.mean(), rel=3e-3)
    for count in (3, 50):
        drawn = metrics.sample_crps(outcome, law.rvs((len(outcome), count), random_state=rng)) - exact
        assert drawn.mean() == pytest.approx(0, abs=4 * drawn.std() / np.sqrt(len(drawn)))


def test_coverage_tests_pass_the_truth_and_fail_a_wrong_width(rng):
    """P-values of misses by interval are those of each series, the worst of them by Holm; a wrong scale fails."""
    returns = 0.01 * rng.normal(size=(3, 1500))
    unit = {f"S{i}": 1.0 for i in range(3)}
    true = metrics.scores(forecast_returns("m", returns, scale=0.01), unit)
    wide = metrics.scores(forecast_returns("m", returns, scale=0.013), unit)
    for percent in metrics.JUDGED:
        assert min(true[f"kupiec_{percent}"], true[f"christoffersen_{percent}"]) > 0.01
        assert max(wide[f"kupiec_{percent}"], wide[f"christoffersen_{percent}"]) < 1e-4
    rows = forecast_returns("m", returns, scale=0.01)
    smallest = min(metrics.scores(rows.of(name), unit)["kupiec_80"] for name in unit)
    assert true["kupiec_80"] == pytest.approx(min(1.0, 3 * smallest))


def test_names_of_scores_are_metric_keys(rng):
    """Every name is a word of letters, digits and underscores, and the promised ones are there."""
    result = metrics.scores(forecast_returns("m", 0.01 * rng.normal(size=(1, 50)), loc=1e-3, scale=0.01), {"S0": 1.0})
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in result)
    promised = "smape interval_score_80 interval_score_95 kupiec_80 christoffersen_95 hit_rate hit_low hit_high"
    promised += " brier_up log_loss_up auc_up qlike r2_volatility fz0_1 fz0_5 var_1_kupiec var_5_christoffersen"
    assert set(promised.split()) < set(result)
    assert np.isfinite(list(result.values())).all()


def test_pit_uniformity_accepts_the_truth_and_finds_a_wrong_scale(rng):
    """The distance is small and the test quiet for the true law; both speak for a scale 20 % too wide."""
    returns = rng.normal(size=(1, 5000))
    distance, p = metrics.pit_uniformity(metrics.pit(forecast_returns("m", returns)))
    wide_distance, wide_p = metrics.pit_uniformity(metrics.pit(forecast_returns("m", returns, scale=1.2)))
    assert distance < 0.02
    assert p > 0.01
    assert wide_distance > 2 * distance
    assert wide_p < 1e-6


def test_pinball_is_minimal_in_mean_at_the_quantile(rng):
    """The constant that minimises mean pinball at τ is the empirical quantile."""
    y = rng.normal(size=2001)
    grid = np.linspace(-3, 3, 1201)
    for tau in (0.05, 0.5, 0.9):
        means = metrics.pinball(y, np.broadcast_to(grid, (len(y), len(grid))), [tau] * len(grid)).mean(axis=0)
        assert grid[np.argmin(means)] == pytest.approx(np.quantile(y, tau), abs=0.01)


def test_scores_equal_plain_loops(rng):
    """Every mean of the point forecast and of the quantiles equals its definition written as a loop."""
    f = forecast_returns("m", 0.01 * rng.normal(size=(2, 15)), loc=0.002, scale=0.01, names=("A", "B"))
    scale = {"A": 0.5, "B": 2.0}
    result = metrics.scores(f, scale)
    n, middle = len(f), LEVELS.index(0.5)
    error = [abs(f.actual[k] - f.quantile[k, middle]) for k in range(n)]
    unit = [scale[f.names[f.series[k]]] for k in range(n)]
    naive = [abs(f.actual[k] - f.origin[k]) / unit[k] for k in range(n)]
    wql = 0.0
    for q, tau in enumerate(LEVELS):
        total = 0.0
        for k in range(n):
            e = f.actual[k] - f.quantile[k, q]
            total += tau * e if e >= 0 else (tau - 1) * e
        wql += 2 * total / sum(abs(f.actual)) / len(LEVELS)
    assert result["mae"] == pytest.approx(sum(error) / n)
    assert result["rmse"] == pytest.approx((sum(e * e for e in error) / n) ** 0.5)
    assert result["mase"] == pytest.approx(sum(e / u for e, u in zip(error, unit, strict=True)) / n)
    assert result["rmae"] == pytest.approx(sum(e / u for e, u in zip(error, unit, strict=True)) / sum(naive))
    assert result["wql"] == pytest.approx(wql)


def test_the_last_value_has_a_ratio_of_one(rng):
    """A median equal to the price at the origin gives rMAE exactly 1."""
    f = forecast_returns("last", 0.01 * rng.normal(size=(3, 40)), scale=0.01)
    scale = dict.fromkeys(f.names, 1.0)
    assert metrics.scores(f, scale)["rmae"] == pytest.approx(1.0, abs=1e-12)


def test_naive_scale_skips_gaps_and_refuses_prices_that_never_change():
    """The scale is the mean absolute change of the finite prices; a dead series has none."""
    assert metrics.naive_scale([1.0, 3.0, np.nan, 2.0]) == pytest.approx(1.5)
    with pytest.raises(DataError, match="3 finite prices"):
        metrics.naive_scale([5.0, 5.0, 5.0])


@pytest.mark.parametrize("scale", [{"S0": 1.0}, {"S0": 1.0, "S1": 0.0}, {"S0": 1.0, "S1": np.nan}])
def test_a_series_without_a_usable_scale_is_named(scale, rng):
    """A missing, zero or NaN naive scale is refused with the name of its series."""
    f = forecast_returns("m", rng.normal(size=(2, 5)))
    with pytest.raises(ComparisonError, match="1 have none \\(S1"):
        metrics.scores(f, scale)


def test_every_model_has_the_same_scores(rng):
    """A normal, a t and quantiles alone have the same names; those of all series are means over the rows."""
    returns, unit = 0.01 * rng.normal(size=(2, 30)), {"S0": 1.0, "S1": 1.0}
    normal = forecast_returns("a", returns, scale=0.01)
    student = forecast_returns("b", returns, scale=0.02, df=5)
    bare = replace(student, df=np.full(60, np.nan))
    assert len({tuple(metrics.scores(f, unit)) for f in (normal, student, bare, normal.of("S0"))}) == 1
    halves = [metrics.scores(normal.of(name), unit)["crps"] for name in unit]
    assert metrics.scores(normal, unit)["crps"] == pytest.approx(np.mean(halves))


def test_two_models_of_one_name_are_refused(rng):
    """A table never drops a model because another has its name."""
    f = forecast_returns("twin", rng.normal(size=(1, 5)))
    with pytest.raises(ComparisonError, match="twin"):
        metrics.by_model([f, f])


def test_no_rows_have_no_scores(rng):
    """A mean over nothing is refused, not NaN."""
    f = forecast_returns("empty", rng.normal(size=(1, 5)))
    with pytest.raises(ComparisonError, match="empty has none"):
        metrics.scores(f.where(np.zeros(5, dtype=bool)), {"S0": 1.0})


def test_origins_are_averaged_over_series_and_put_in_time_order(rng):
    """Rows of one origin time are averaged whatever their series; times come sorted."""
    f = forecast_returns("m", rng.normal(size=(3, 4)))
    times, mean = metrics.by_origin(f, np.arange(12.0))
    np.testing.assert_array_equal(times, f.origin_time[:4])
    np.testing.assert_allclose(mean, [4, 5, 6, 7])
