from dataclasses import asdict, replace

import numpy as np
import pytest
from simulated import HOUR, START, forecast_returns, stretch_steps

from models.errors import ComparisonError, ConfigError
from models.observation import MEDIAN
from pipeline import metrics
from pipeline.compare import (
    CompareConfig,
    aligned,
    champion,
    compare,
    comparison_table,
    diebold_mariano,
    judge,
)

COUNT, LENGTH = 3, 400
SCALE = {f"S{i}": 0.5 for i in range(COUNT)}


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260102)


@pytest.fixture
def market(rng):
    """Give returns [series, T] without direction whose scale doubles and halves, and that scale."""
    volatility = 0.01 * np.exp(0.7 * np.sin(np.arange(LENGTH) / 15) + np.zeros((COUNT, 1)))
    return volatility * rng.normal(size=(COUNT, LENGTH)), volatility


def rivals(market):
    """Give five models: three references, one that knows the scale, one that is blind and biased."""
    returns, volatility = market
    return [
        forecast_returns("last_value", returns, scale=0.02),
        forecast_returns("ar", returns, scale=0.013),
        forecast_returns("garch", returns, scale=volatility),
        forecast_returns("gru", returns, scale=volatility * 1.001),
        forecast_returns("biased", returns, loc=0.03, scale=0.013),
    ]


# ---------------------------------------------------------------------------------------------- the test itself


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_the_test_has_its_size(memory, rng):
    """Of equally good forecasts a 5 % test rejects 3 to 7 %, with independent and autocorrelated differences."""
    trials, n, warm_up = 600, 400, 50
    noise = rng.normal(size=(trials, n + warm_up))
    difference = np.zeros_like(noise)
    for t in range(1, n + warm_up):
        difference[:, t] = memory * difference[:, t - 1] + noise[:, t]
    p = [diebold_mariano(10 + d, np.full(n, 10.0))[1] for d in difference[:, warm_up:]]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_without_its_variance_estimate_the_test_would_lose_its_size(rng):
    """The autocorrelation of the size test is enough to fool a plain t-test, so that the test above can fail."""
    noise = rng.normal(size=(600, 450))
    difference = np.zeros_like(noise)
    for t in range(1, 450):
        difference[:, t] = 0.3 * difference[:, t - 1] + noise[:, t]
    d = difference[:, 50:]
    plain = d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(400))
    assert np.mean(np.abs(plain) > 1.96) > 0.1


def test_swapping_the_models_turns_the_sign(rng):
    """The statistic is antisymmetric, the p-value symmetric, and negative favours the first."""
    a, b = rng.exponential(size=100), 1 + rng.exponential(size=100)
    forward, backward = diebold_mariano(a, b), diebold_mariano(b, a)
    assert forward[0] == pytest.approx(-backward[0])
    assert forward[0] < 0
    assert forward[1] == pytest.approx(backward[1])


def test_a_constant_difference_is_decisive_and_silent():
    """Losses that always differ by the same amount give p = 0, not NaN and no warning."""
    statistic, p_value = diebold_mariano(np.full(50, 1.0), np.full(50, 2.0))
    assert statistic < -1e6
    assert p_value == 0


# ------------------------------------------------------------------------------------------------- comparisons


def test_the_same_forecasts_are_identical(market):
    """Identical losses, up to rounding, give the verdict "identical", p = 1 and no skill; dead series too."""
    f = forecast_returns("a", market[0], scale=market[1])
    rounded = replace(f, model="b", scale=f.scale * (1 + 1e-14), quantile=f.quantile * (1 + 1e-15))
    for loss in ("crps", "scaled_error"):
        found = compare(rounded, f, loss=loss, naive_scale=SCALE)
        assert (found.verdict, found.p_value, found.statistic, found.skill) == ("identical", 1.0, 0.0, 0.0)
    dead = forecast_returns("dead", np.zeros((1, 40)))
    assert compare(dead, dead, loss="scaled_error", naive_scale=SCALE).verdict == "identical"


def test_losses_that_only_average_out_are_not_identical():
    """A mean difference of zero between different losses is "indistinguishable"."""
    up = forecast_returns("up", np.zeros((1, 40)), loc=np.resize([0.1, 0.2], (1, 40)))
    down = forecast_returns("down", np.zeros((1, 40)), loc=np.resize([0.2, 0.1], (1, 40)))
    assert compare(up, down).verdict == "indistinguishable"
    assert compare(up, down).skill == pytest.approx(0, abs=1e-12)


def test_a_clearly_better_model_is_found_on_every_series_and_pooled(market):
    """A model that knows the scale beats one that does not; the skill is 1 minus the ratio of mean losses."""
    _, ar, garch, *_ = rivals(market)
    for series in (*ar.names, "pooled"):
        found = compare(garch, ar, series=series)
        assert (found.verdict, found.n, found.series) == ("better", LENGTH, series)
        assert compare(ar, garch, series=series).verdict == "worse"
    ratio = metrics.crps(garch).mean() / metrics.crps(ar).mean()
    assert compare(garch, ar).skill == pytest.approx(1 - ratio)


def test_pooling_counts_origin_times_not_rows(market):
    """Copies of one series add rows but no evidence: the pooled test equals that of the single series."""
    returns, volatility = (np.repeat(x[:1], 5, axis=0) for x in market)
    a = forecast_returns("a", returns, scale=volatility)
    b = forecast_returns("b", returns, scale=0.013)
    pooled, single = compare(a, b), compare(a, b, series="S0")
    assert pooled.n == single.n == LENGTH
    assert pooled.p_value == pytest.approx(single.p_value)


def test_steps_of_one_origin_count_once(market):
    """Several horizon steps are averaged at their origin, and lengthen the lags of the test."""
    _, ar, garch, *_ = rivals(market)
    found = compare(stretch_steps(garch, 12), stretch_steps(ar, 12))
    assert found.n == LENGTH
    assert found.statistic != compare(garch, ar).statistic


def test_too_few_origins_say_how_many_are_needed(market):
    """A short comparison is refused with the number it needs; long horizons need more."""
    _, ar, garch, *_ = rivals(market)
    early = ar.origin_time < START + 12 * HOUR
    with pytest.raises(ComparisonError, match="at least 30 origins for steps up to 1; came 12"):
        compare(garch.where(early), ar.where(early))
    early = ar.origin_time < START + 50 * HOUR
    with pytest.raises(ComparisonError, match="at least 60 origins for steps up to 30; came 50"):
        compare(stretch_steps(garch.where(early), 30), stretch_steps(ar.where(early), 30))


def test_an_undefined_loss_is_refused_not_skipped(market):
    """A model that did not answer somewhere cannot be compared; the message names the first such row."""
    _, ar, garch, *_ = rivals(market)
    scale = garch.scale.copy()
    scale[[7, 9]] = np.nan
    with pytest.raises(ComparisonError, match=r"2 of 1200 rows, first series S0, origin 2024-01-01T07:00 UTC"):
        compare(replace(garch, scale=scale), ar)


def test_an_unknown_series_or_loss_gets_the_list_of_known_ones(market):
    """A misspelt name is answered with the choices."""
    _, ar, garch, *_ = rivals(market)
    with pytest.raises(ComparisonError, match="Known: S0, S1, S2"):
        compare(garch, ar, series="S9")
    with pytest.raises(ComparisonError, match="Known: crps, scaled_error"):
        compare(garch, ar, loss="mse")  # pyright: ignore[reportArgumentType]: the point of the test


# ---------------------------------------------------------------------------------------------- identical origins


def test_rows_of_other_origins_are_refused_with_counts_and_the_first_difference(market):
    """Missing rows, shifted times, other steps and other series are refused in words."""
    f = forecast_returns("a", market[0])
    shorter = replace(f.where(np.arange(len(f)) != 5), model="b")
    with pytest.raises(
        ComparisonError,
        match=r"a has 1200 rows and b 1199\. First difference in row 5: "
        r"a has series S0, origin 2024-01-01T05:00 UTC, step 1; b has series S0, origin 2024-01-01T06:00 UTC",
    ):
        aligned(f, shorter)
    with pytest.raises(ComparisonError, match=r"row 1199: .*; b has no such row"):
        aligned(f, replace(f.where(np.arange(len(f)) < 1199), model="b"))
    for other in (
        replace(f, origin_time=f.origin_time + 1),
        replace(f, target_time=f.target_time + 1),
        replace(f, step=f.step + np.int16(1)),
        replace(f, names=("S0", "S1", "S7")),
    ):
        with pytest.raises(ComparisonError, match="First difference in row"):
            aligned(f, other)


def test_other_outcomes_are_refused(market):
    """Forecasts scored against other prices or another transform are not comparable."""
    f = forecast_returns("a", market[0])
    for other in (replace(f, actual=f.actual * 1.001), replace(f, outcome=f.outcome * 0.5)):
        with pytest.raises(ComparisonError, match=r"same outcomes; 1\d+ of 1200 rows differ, first series S0"):
            aligned(f, other)


def test_series_are_known_by_name_not_by_number(market):
    """Two models may number their series differently."""
    f = forecast_returns("a", market[0])
    renumbered = replace(f, model="b", names=("unused", *f.names), series=f.series + np.int32(1))
    aligned(f, renumbered)
    assert compare(f, renumbered, series="S2").verdict == "identical"


# ------------------------------------------------------------------------------------------------------ verdicts


def test_verdicts_say_in_words_what_the_three_tests_found(market):
    """Each verdict follows from its comparisons; without direction nobody has skill on the price."""
    models = metrics.by_model(rivals(market))
    said = {name: judge(models, name, SCALE) for name in models}
    assert said["garch"].text == "better than ar, no skill on the price"
    assert said["gru"].text == "better than ar, indistinguishable from garch, no skill on the price"
    assert said["ar"].text == "worse than garch, no skill on the price"
    assert said["biased"].text == "worse than ar, worse than garch, no skill on the price"
    assert said["last_value"].text == "worse than ar, worse than garch"
    assert said["ar"].against_ar is None
    assert said["biased"].against_last_value.verdict == "worse"


def test_skill_on_the_price_is_said_where_there_is_some(rng):
    """A model that knows half of the return has skill on the price."""
    known = 0.01 * rng.normal(size=(1, 200))
    returns = known + 0.01 * rng.normal(size=(1, 200))
    models = [
        forecast_returns("last_value", returns, scale=0.014),
        forecast_returns("oracle", returns, loc=known, scale=0.01),
    ]
    verdict = judge(metrics.by_model(models), "oracle", SCALE)
    assert verdict.text == "skill on the price, not tested against ar, garch (no forecasts)"


def test_a_verdict_says_why_no_test_was_made(market):
    """Too few origins do not stop a table: the text says how many are needed, the scores are there."""
    early = [f.where(f.origin_time < START + 12 * HOUR) for f in rivals(market)]
    row = comparison_table(early, SCALE)[-2]
    assert row.verdict.against_ar is None
    assert row.verdict.text.count("needs at least 30 origins") == 1
    assert row.to_dict()["p_ar"] is None
    assert np.isfinite(row.scores["crps"])


def test_the_table_has_a_row_for_each_model_and_series(market):
    """Series by series and pooled last, models in the given order; a row flattens to plain columns."""
    models = rivals(market)
    table = comparison_table(models, SCALE)
    assert [(r.series, r.model) for r in table] == [
        (series, f.model) for series in ("S0", "S1", "S2", "pooled") for f in models
    ]
    row = next(r for r in table if r.series == "pooled" and r.model == "gru")
    flat = row.to_dict()
    assert list(flat) == [
        "model", "series", "rmae", "crps", "log_score", "coverage_80", "coverage_95", "p_ar", "verdict",
    ]  # fmt: skip
    assert flat["p_ar"] == compare(models[3], models[1]).p_value
    assert flat["rmae"] == pytest.approx(1.0)
    assert asdict(row)["verdict"]["against_garch"]["verdict"] == "indistinguishable"


def test_a_table_of_different_rows_is_refused(market):
    """One model with other rows stops the table."""
    models = rivals(market)
    models[3] = models[3].where(models[3].step == 2)
    with pytest.raises(ComparisonError, match="gru 0"):
        comparison_table(models, SCALE)
    with pytest.raises(ComparisonError, match="at least one model"):
        comparison_table([], SCALE)


def test_pooled_errors_do_not_depend_on_the_currency(market):
    """Prices in cents instead of dollars, with their train scale, change no verdict and no statistic."""
    models = metrics.by_model(rivals(market))
    cents = {
        name: replace(
            f,
            origin=np.where(f.series == 1, 100, 1) * f.origin,
            actual=np.where(f.series == 1, 100, 1) * f.actual,
            quantile=np.where(f.series == 1, 100, 1)[:, None] * f.quantile,
        )
        for name, f in models.items()
    }
    before = judge(models, "biased", SCALE)
    after = judge(cents, "biased", SCALE | {"S1": 100 * SCALE["S1"]})
    assert after.text == before.text
    assert after.against_last_value.statistic == pytest.approx(before.against_last_value.statistic)


# ------------------------------------------------------------------------------------------------------ promotion


def test_a_significantly_better_model_replaces_the_incumbent(market):
    """The candidate of lowest CRPS is promoted, the next best is the challenger, the reason has the numbers."""
    decision = champion(rivals(market)[:3], incumbent="ar")
    assert (decision.model, decision.challenger) == ("garch", "ar")
    assert "significantly better than ar" in decision.reason
    assert decision.numbers["p_value"] < 0.01
    assert decision.numbers["crps_garch"] < decision.numbers["crps_ar"] < decision.numbers["crps_last_value"]


def test_an_indistinguishable_model_does_not_replace_the_incumbent(market):
    """A lower CRPS that may be luck changes nothing: the better of two equals stays the challenger."""
    models = [f for f in rivals(market) if f.model != "biased"]
    lucky, incumbent = sorted(("garch", "gru"), key=lambda name: champion(models, "ar").numbers[f"crps_{name}"])
    decision = champion(models, incumbent=incumbent)
    assert (decision.model, decision.challenger) == (incumbent, lucky)
    assert f"{lucky} has the lowest pooled CRPS and is not significantly better than {incumbent}" in decision.reason
    assert decision.numbers["skill"] > 0


def test_without_incumbent_the_last_value_must_be_beaten(rng):
    """Where nothing beats the last value it serves, and the reason says "no skill"; where one does, that serves."""
    returns = 0.01 * rng.normal(size=(2, 300))
    last = forecast_returns("last_value", returns, scale=0.01)
    noisy = forecast_returns("gru", returns, loc=1e-4 * rng.normal(size=returns.shape), scale=0.01)
    decision = champion([last, noisy])
    assert (decision.model, decision.challenger) == ("last_value", "gru")
    assert decision.reason.startswith("no skill")
    sighted = forecast_returns("oracle", returns, loc=returns / 2, scale=0.005)
    assert champion([last, sighted]).model == "oracle"


def test_the_best_incumbent_stays(market):
    """An incumbent of lowest CRPS needs no test."""
    decision = champion(rivals(market)[:3], incumbent="garch")
    assert decision.model == "garch"
    assert decision.reason == "garch has the lowest pooled CRPS"
    assert "p_value" not in decision.numbers


def test_promotion_needs_forecasts_of_the_incumbent(market):
    """A decision against a model that made no forecasts here is refused with the list of those that did."""
    with pytest.raises(ComparisonError, match=r"unknown model 'old'.*Known: ar"):
        champion(rivals(market)[1:2], incumbent="old")
    with pytest.raises(ComparisonError, match="'last_value'"):
        champion(rivals(market)[1:2])


def test_the_order_of_models_does_not_matter(market):
    """The decision is the same whichever way the models are listed."""
    models = rivals(market)
    assert champion(models[::-1], "ar") == champion(models, "ar")


def test_the_median_is_what_the_price_is_judged_by(market):
    """Skill on the price comes from the median alone: another density with the same median is no better."""
    models = metrics.by_model(rivals(market))
    models["gru"].quantile[:, MEDIAN] = models["last_value"].quantile[:, MEDIAN]
    assert judge(models, "gru", SCALE).against_last_value.verdict == "identical"


@pytest.mark.parametrize("setting", [{"alpha": 0.0}, {"alpha": 0.7}, {"min_origins": 3}])
def test_settings_out_of_range_are_refused(setting):
    """A level outside (0, 0.5) and a test of a handful of origins are refused on construction."""
    with pytest.raises(ConfigError, match="came"):
        CompareConfig(**setting)
