import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from simulated import HOUR, START, forecast_returns, stretch_steps
from statsmodels.stats.multitest import multipletests

from models.errors import ComparisonError, ConfigError
from models.observation import MEDIAN
from pipeline import metrics
from pipeline.alignment import aligned
from pipeline.compare import CompareConfig, best_set, champion, compare, comparison_table, judge
from pipeline.verdicts import p_text

COUNT, LENGTH = 3, 400
SCALE = {f"S{i}": 0.5 for i in range(COUNT)}
ONLY_DIRECTION = CompareConfig(references=())


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
    with pytest.raises(ComparisonError, match="at least 240 origins for steps up to 30; came 50"):
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
    with pytest.raises(ComparisonError, match="Known: crps, scaled_crps, scaled_error"):
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


def against(verdict):
    """Give the comparisons of a verdict by the name of the reference."""
    return {test.reference: test for test in verdict.against}


def test_a_verdict_is_one_sentence_with_effect_interval_and_p(market):
    """Each clause follows from its test; without direction nobody has skill on the price."""
    models = metrics.by_model(rivals(market))
    said = {name: judge(models, name, SCALE) for name in models}
    for name, words in {
        "garch": ("beats ar by", "has no skill on the price (the last value)"),
        "gru": ("beats ar by", "is not distinguishable from garch (", "has no skill on the price"),
        "biased": (
            "loses to ar by",
            "loses to garch by",
            "has no skill on the price (-",
            "no skill on direction (hits",
        ),
        "last_value": ("loses to ar by", "loses to garch by"),
    }.items():
        clauses = said[name].text.removeprefix(f"{name} ").split("; ")
        assert len(clauses) == len(words)
        assert [c for c, w in zip(clauses, words, strict=True) if w not in c] == []
    test = against(said["garch"])["ar"]
    low, skill, high = (f"{100 * x:.1f}" for x in (test.low, test.skill, test.high))
    assert f"garch beats ar by {skill} % CRPS [{low}, {high}], p < 0.001" in said["garch"].text
    test = against(said["ar"])["garch"]
    low, skill, high = (f"{-100 * x:.1f}" for x in (test.high, test.skill, test.low))
    assert f"ar loses to garch by {skill} % CRPS [{low}, {high}], p < 0.001" in said["ar"].text
    assert set(against(said["ar"])) == {"garch"}
    assert said["biased"].price.verdict == "worse"


def test_p_values_are_told_to_the_digit_that_matters():
    """Two places, three where it is small, and never a zero."""
    assert [p_text(p) for p in (0.214, 0.0432, 1e-9)] == ["p 0.21", "p 0.043", "p < 0.001"]


def test_the_interval_holds_the_skill_and_agrees_with_the_verdict(market):
    """The effect lies inside its interval, which is above zero where the model is clearly better."""
    _, ar, garch, gru, biased = rivals(market)
    for model, reference in ((garch, ar), (gru, garch), (biased, ar)):
        found = compare(model, reference)
        assert found.low <= found.skill <= found.high
    assert compare(garch, ar).low > 0
    assert compare(biased, ar).high < 0


def test_skill_on_price_and_direction_is_said_where_there_is_some(rng):
    """A model that knows half of the return has skill on the price, and on its direction."""
    known = 0.01 * rng.normal(size=(1, 200))
    returns = known + 0.01 * rng.normal(size=(1, 200))
    models = [
        forecast_returns("last_value", returns, scale=0.014),
        forecast_returns("oracle", returns, loc=known, scale=0.01),
    ]
    verdict = judge(metrics.by_model(models), "oracle", SCALE)
    assert verdict.text.startswith("oracle has skill on the price (+")
    assert "has skill on direction (hits 7" in verdict.text
    assert "ar" not in {c.reference for c in verdict.against}, "a reference that is not among the models is no question"
    assert verdict.direction.low < verdict.direction.hit_rate < verdict.direction.high
    assert verdict.direction.n == 200


def test_calls_of_a_panel_that_moves_together_are_not_evidence_of_skill(rng):
    """Random calls, the same in twenty series that move as one: a 5 % test finds skill in 2 to 8 % of worlds."""
    found = []
    for _ in range(300):
        returns = np.repeat(0.01 * rng.normal(size=(1, 60)), 20, axis=0)
        loc = np.repeat(0.001 * rng.normal(size=(1, 60)), 20, axis=0)
        f = forecast_returns("caller", returns, loc=loc, scale=0.01)
        found.append(judge({"caller": f}, "caller", {}, config=ONLY_DIRECTION).direction.skill)
    assert 0.02 <= np.mean(found) <= 0.08


def test_calling_always_up_in_a_rising_market_is_no_skill(rng):
    """A hit rate far above a half, from a call that never changes, is not related to the outcome."""
    returns = 0.01 + 0.01 * rng.normal(size=(3, 300))
    drift = forecast_returns("drift", returns, loc=0.01, scale=0.01)
    verdict = judge({"drift": drift}, "drift", {}, config=ONLY_DIRECTION)
    assert verdict.direction.hit_rate > 0.8
    assert not verdict.direction.skill


def test_calling_later_steps_up_in_a_rising_market_is_no_skill(rng):
    """The same calls from every origin, down at early steps and up where more prices have risen, know nothing."""
    steps, rises = 8, 0.004 + 0.01 * rng.normal(size=407)
    moves = np.stack([np.cumsum(rises[k : k + steps]) for k in range(400)])
    loc = np.where(np.arange(steps) < 4, -0.001, 0.001) + np.zeros_like(moves)
    f = stretch_steps(forecast_returns("caller", rises[None, :400]), steps)
    median = np.full((len(f), 11), 100.0) * np.exp(loc.reshape(-1, 1) + np.linspace(-0.1, 0.1, 11))
    actual = 100 * np.exp(moves.ravel())
    f = replace(f, origin=np.full(len(f), 100.0), actual=actual, outcome=moves.ravel(), quantile=median)
    verdict = judge({"caller": f}, "caller", {}, config=ONLY_DIRECTION)
    assert verdict.direction.hit_rate > 0.5
    assert not verdict.direction.skill


def test_a_verdict_says_why_no_test_was_made(market):
    """Too few origins do not stop a table: the text says how many are needed, the scores are there."""
    early = [f.where(f.origin_time < START + 12 * HOUR) for f in rivals(market)]
    row = comparison_table(early, SCALE)[-2]
    assert row.verdict.against == ()
    assert row.verdict.text.count("needs at least 30 origins") == 1
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
        "model", "series", "rmae", "crps", "log_score", "coverage_80", "coverage_95",
        "skill_ar", "p_ar", "skill_garch", "p_garch", "verdict",
    ]  # fmt: skip
    raw = {f.model: compare(f, models[1]).p_value for f in models if f.model != "ar"}
    adjusted = dict(zip(raw, multipletests(list(raw.values()), method="fdr_bh")[1], strict=True))
    assert flat["p_ar"] == pytest.approx(adjusted["gru"]), "over the models of the question"
    assert flat["rmae"] == pytest.approx(1.0)
    assert json.loads(json.dumps(asdict(row)))["verdict"]["against"][1]["verdict"] == "indistinguishable"


def test_sets_are_judged_between_series_and_pooled(market):
    """A set is the rows of the series that its patterns match; its row names them, and the last line is pooled."""
    models = rivals(market)
    config = CompareConfig(sets={"ends": "S0 S2", "all": "S*"})
    table = {(row.series, row.model): row for row in comparison_table(models, SCALE, config)}
    assert list(dict.fromkeys(name for name, _ in table)) == ["S0", "S1", "S2", "ends", "all", "pooled"]
    ends, everything, pooled = (table[name, "garch"] for name in ("ends", "all", "pooled"))
    assert (ends.members, everything.members) == (("S0", "S2"), ("S0", "S1", "S2"))
    assert table["S0", "garch"].members == ()
    assert everything.scores["crps"] == pooled.scores["crps"]
    assert against(everything.verdict)["ar"].p_value == against(pooled.verdict)["ar"].p_value
    inside = np.isin(models[2].series, (0, 2))
    assert against(ends.verdict)["ar"].skill == compare(models[2].where(inside), models[1].where(inside)).skill


def test_sets_without_series_are_refused_with_the_series_there_are(market):
    """A pattern that matches nothing, and a set called like a series, are answered with the names."""
    for sets in ({"energy": "WTI*"}, {"S1": "S*"}):
        with pytest.raises(ConfigError, match="the series are S0, S1, S2"):
            comparison_table(rivals(market), SCALE, CompareConfig(sets=sets))


def test_verdicts_on_many_series_are_adjusted(rng):
    """Over the series by Benjamini-Hochberg, over the sets by Holm, one pooled test not at all; the verdict follows."""
    returns = 0.01 * rng.normal(size=(12, 120))
    scales = 0.01 * np.exp(0.06 * rng.normal(size=returns.shape))
    models = [forecast_returns("last_value", returns, scale=0.01), forecast_returns("gru", returns, scale=scales)]
    config = CompareConfig(references=("last_value",), alpha=0.1, sets={"a": "S1*", "b": "S2", "c": "S3 S4"})
    rows = [row for row in comparison_table(models, {f"S{i}": 1.0 for i in range(12)}, config) if row.model == "gru"]
    made = [against(row.verdict)["last_value"] for row in rows]
    for part, method in ((made[:12], "fdr_bh"), (made[12:15], "holm")):
        expected = multipletests([test.p_value for test in part], method=method)[1]
        assert [test.p_adjusted for test in part] == pytest.approx(expected)
    assert made[15].p_adjusted == made[15].p_value
    for row, test in zip(rows, made, strict=True):
        assert (test.verdict == "indistinguishable") == (test.p_adjusted >= 0.1)
        assert p_text(test.p_adjusted) in row.verdict.text
    assert any(test.p_value < 0.1 <= test.p_adjusted for test in made)


def test_claims_about_series_are_adjusted_over_the_models_too(rng):
    """All p-values of one question on all series and models are one family of Benjamini-Hochberg."""
    returns = 0.01 * rng.normal(size=(4, 120))
    models = [forecast_returns("last_value", returns, scale=0.01)]
    models += [
        forecast_returns(name, returns, scale=0.01 * np.exp(0.06 * rng.normal(size=returns.shape))) for name in "abc"
    ]
    rows = comparison_table(models, {f"S{i}": 1.0 for i in range(4)}, CompareConfig(references=("last_value",)))
    made = [row.verdict.against[0] for row in rows if row.verdict.against and row.series != "pooled"]
    expected = multipletests([test.p_value for test in made], method="fdr_bh")[1]
    assert len(made) == 12
    assert [test.p_adjusted for test in made] == pytest.approx(expected)


def test_a_series_called_pooled_is_refused(rng):
    """Its rows could not be told from those of all series."""
    with pytest.raises(ConfigError, match="called 'pooled'"):
        comparison_table([forecast_returns("last_value", rng.normal(size=(1, 60)), names=["pooled"])], {"pooled": 1.0})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda q: q[:, ::-1], "quantiles that cross in 2 of 1200 rows"),
        (lambda q: q * np.nan, "quantiles that are not finite in 2 of 1200 rows"),
        (lambda q: q * 0 + 5, "a distribution of zero width in 2 of 1200 rows"),
    ],
)
def test_rows_without_a_distribution_are_refused(change, what, market):
    """Crossing, missing and flat quantiles stop table, decision and best set; model, count and first row are named."""
    models = rivals(market)
    quantile = models[3].quantile.copy()
    quantile[[7, 9]] = change(quantile[[7, 9]])
    models[3] = replace(models[3], quantile=quantile)
    for judged in (lambda: comparison_table(models, SCALE), lambda: champion(models, "ar"), lambda: best_set(models)):
        with pytest.raises(ComparisonError, match=f"gru has {what}, first series S0, origin 2024-01-01T07:00 UTC"):
            judged()


def test_the_best_set_holds_the_best_and_what_cannot_be_told_from_it(market):
    """The two that know the scale are in the set, the biased one is not."""
    found = best_set(rivals(market))
    assert min(found["garch"], found["gru"]) >= 0.05
    assert max(found["biased"], found["ar"]) < 0.05


def test_a_best_set_of_too_few_origins_is_refused(market):
    """Two origins say how many are needed, as a test would."""
    few = [f.where(f.origin_time < START + 2 * HOUR) for f in rivals(market)]
    with pytest.raises(ComparisonError, match="at least 30 origins for steps up to 1; came 2"):
        best_set(few)


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
    assert after.price.statistic == pytest.approx(before.price.statistic)


# ------------------------------------------------------------------------------------------------------ promotion


def test_a_significantly_better_model_replaces_the_incumbent(market):
    """The candidate of lowest CRPS is promoted, the next best is the challenger, the reason has the numbers."""
    decision = champion(rivals(market)[:3], incumbent="ar")
    assert (decision.model, decision.challenger) == ("garch", "ar")
    assert "significantly better than ar" in decision.reason
    assert decision.numbers["p_value"] < 0.01
    assert decision.numbers["p_adjusted"] == pytest.approx(2 * decision.numbers["p_value"])
    assert "adjusted for 2 candidates" in decision.reason
    assert decision.numbers["crps_garch"] < decision.numbers["crps_ar"] < decision.numbers["crps_last_value"]


def test_the_best_of_many_needs_more_than_the_best_of_one(rng):
    """An advantage that suffices for a single candidate does not for the best of nine: choosing has its price."""
    returns = 0.01 * rng.normal(size=(1, 300))
    old = forecast_returns("old", returns, scale=0.0155 + 0.003 * rng.normal(size=returns.shape))
    good = forecast_returns("good", returns, scale=0.01)
    worse = [forecast_returns(f"worse{i}", returns, scale=0.02) for i in range(8)]
    p_value = champion([old, good], "old").numbers["p_value"]
    config = CompareConfig(alpha=min(0.4, 3 * p_value))
    assert champion([old, good], "old", config).model == "good"
    assert champion([old, good, *worse], "old", config).model == "old"


def test_decisions_that_come_back_every_night_hold_their_level(rng):
    """Of 60 incumbents and equal models, looked at every tenth of 200 nights, no more are replaced than 5 % allow."""
    replaced = 0
    for _ in range(60):
        returns = 0.01 * rng.normal(size=(1, 230))
        loc = 0.003 * rng.normal(size=(2, *returns.shape))
        models = [
            forecast_returns(name, returns, loc=x, scale=0.01) for name, x in zip(("old", "new"), loc, strict=True)
        ]
        nights = ([f.where(f.origin_time <= t) for f in models] for t in np.unique(models[0].origin_time)[30::10])
        replaced += any(champion(known, "old").model == "new" for known in nights)
    assert replaced <= 7  # of 60 at 5 %, more than 7 come in 1 of 100


def test_evidence_goes_with_the_decision(market):
    """The p-value against an incumbent is one over the evidence; without one there is a single look and no evidence."""
    numbers = champion(rivals(market)[:3], incumbent="ar").numbers
    assert numbers["p_value"] == pytest.approx(1 / numbers["evidence"])
    assert "evidence" not in champion(rivals(market)[:3]).numbers


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
    assert judge(models, "gru", SCALE).price.verdict == "identical"


@pytest.mark.parametrize(
    "setting", [{"alpha": 0.0}, {"alpha": 0.7}, {"min_origins": 3}, {"sets": {"pooled": "S*"}}, {"sets": {"a": " "}}]
)
def test_settings_out_of_range_are_refused(setting):
    """A level outside (0, 0.5), a test of a handful of origins and a set of nothing are refused on construction."""
    with pytest.raises(ConfigError, match="came"):
        CompareConfig(**setting)
