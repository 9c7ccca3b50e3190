"""Figures that set models beside each other show the numbers they were given, and say what they leave out."""

import numpy as np
import pytest
from simulated import HOUR, START, forecast_returns, stretch_steps

from models.errors import ComparisonError
from models.observation import MEDIAN
from pipeline.comparison_figures import episodes, origin_fan, ranking, skill_by_slice
from pipeline.metrics import crps
from pipeline.verdicts import Comparison, Verdict


def verdict(model, **skills):
    """Make a pooled verdict from (skill, outcome) by reference."""
    tests = tuple(
        Comparison(
            model=model,
            reference=reference,
            series="pooled",
            loss="crps",
            skill=skill,
            low=skill - 0.01,
            high=skill + 0.01,
            statistic=0.0,
            p_value=0.5,
            p_adjusted=0.5,
            n=100,
            verdict=outcome,
        )
        for reference, (skill, outcome) in skills.items()
    )
    return Verdict(model=model, series="pooled", against=tests, price=None, direction=None, text="")


VERDICTS = [
    verdict("gru", ar=(0.05, "better"), garch=(0.002, "indistinguishable")),
    verdict("garch", ar=(0.048, "better")),
    verdict("ar", garch=(-0.05, "worse")),
    verdict("hopeless", ar=(-4.0, "worse"), garch=(-np.inf, "worse")),
]


def drawn(ax):
    """Give the places of the dots of a ranking, by row."""
    dots = [line for line in ax.get_lines() if line.get_linestyle() == "None" and len(line.get_xdata())]
    return {int(line.get_ydata()[0]): (float(line.get_xdata()[0]), line.get_marker()) for line in dots}


def test_a_ranking_has_a_dot_for_every_test():
    """Each reference has its panel, each test a dot at its skill in percent; shape tells better from worse."""
    figure = ranking(VERDICTS, {"gru", "garch"}, 0.05)
    ar, garch = figure.axes
    assert {row: dot for row, dot in drawn(ar).items() if row < 3} == {0: (5.0, "o"), 1: (pytest.approx(4.8), "o")}
    assert {row: dot for row, dot in drawn(garch).items() if row < 3} == {0: (0.2, "D"), 2: (-5.0, "s")}
    assert [label.get_text() for label in ar.get_yticklabels()] == ["★ gru", "★ garch", "ar", "hopeless"]
    assert "95 % interval" in figure.get_suptitle()


def test_a_hopeless_model_is_an_arrow_with_its_number():
    """What lies far below the others stands at the edge, and the others keep most of the width."""
    for ax, number in zip(ranking(VERDICTS, set(), 0.05).axes, ("-400%", "-inf%"), strict=True):
        place, marker = drawn(ax)[3]
        assert marker == "<"
        assert -100 < place < -1
        assert number in [text.get_text() for text in ax.texts]


def test_a_ranking_without_tests_is_refused():
    """No comparison by CRPS is an error that says what is missing."""
    with pytest.raises(ComparisonError, match="at least one reference"):
        ranking([verdict("ar")], set(), 0.05)


def scored(**values):
    """Make the CRPS of a model by label."""
    return {label: {"crps": value} for label, value in values.items()}


def test_skill_within_a_slice_is_that_of_its_own_rows():
    """A line is 1 - CRPS / CRPS of the reference, label by label; labels that are numbers are in their order."""
    slices = {"last": {str(k): {"crps": 2.0} for k in (10, 9, 1)}, "gru": {"10": {"crps": 1.0}, "9": {"crps": 2.0}}}
    slices["gru"]["1"] = {"crps": 1.5}
    ax = skill_by_slice(slices, "step", "last").axes[0]
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), [25.0, 0.0, 50.0])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "9", "10"]
    assert skill_by_slice(slices, "hour", "last").axes[0].get_xlabel() == "hour of the target (UTC)"
    words = {"last": scored(calm=1.0, wild=2.0), "gru": scored(calm=1.0, wild=1.0)}
    ax = skill_by_slice(words, "regime", "last").axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["calm", "wild"]


def test_what_slices_leave_out_is_said():
    """A model below the picture is named as such, more labels than are drawn are counted, a reference must be there."""
    many = {m: {str(k): {"crps": loss} for k in range(60)} for m, loss in (("last", 1.0), ("gru", 0.9), ("bad", 99.0))}
    many |= {"lstm": many["gru"]}
    ax = skill_by_slice(many, "series", "last").axes[0]
    assert "the first 40 of 60" in ax.get_xlabel()
    assert [line.get_label() for line in ax.get_lines()[1:]] == ["gru", "bad (below what is drawn)", "lstm"]
    with pytest.raises(ComparisonError, match="unknown reference 'garch'"):
        skill_by_slice(many, "series", "garch")


@pytest.fixture
def forecasts():
    """Forecast two series with three shocks planted, two of them close together."""
    returns = 0.004 * np.random.default_rng(2).standard_normal((2, 300))
    returns[0, 100], returns[0, 110], returns[1, 200] = 0.2, 0.15, -0.1
    return forecast_returns("gru", returns, scale=0.004, names=("A", "B"))


def test_the_worst_origins_are_found_once_each(forecasts):
    """Planted shocks come out in order of size; one near another of the same series is the same episode."""
    worst, usual = episodes(forecasts, 2)
    assert worst == [("A", START + 100 * HOUR), ("B", START + 200 * HOUR)]
    median = np.median(crps(forecasts))
    for name, time in usual:
        rows = forecasts.of(name)
        assert crps(rows.where(rows.origin_time == time))[0] == pytest.approx(median, rel=0.05)


def test_an_undefined_crps_is_no_episode(forecasts):
    """Origins whose CRPS is NaN are neither worst nor usual; with none defined there are none."""
    forecasts.scale[forecasts.origin_time == START + 100 * HOUR] = -1.0
    assert episodes(forecasts, 1)[0] == [("A", START + 110 * HOUR)]
    forecasts.scale[:] = -1.0
    assert episodes(forecasts, 3) == ([], [])


def test_a_fan_is_the_forecast_of_its_origin_among_the_prices(forecasts):
    """Prices are those around; of many steps the fan is the origin's own, of one step that of the origins around."""
    at = START + 100 * HOUR
    for rows, fans in ((forecasts, 61), (stretch_steps(forecasts, 8), 8)):
        ax = origin_fan(rows, "A", at).axes[0]
        actual, median, first = ax.get_lines()
        one = forecasts.of("A")
        np.testing.assert_array_equal(actual.get_ydata(), one.actual[70:131])
        assert len(median.get_ydata()) == fans
        if fans == 8:
            np.testing.assert_array_equal(median.get_ydata(), np.repeat(one.quantile[100, MEDIAN], 8))
        assert first.get_xdata()[0] == np.datetime64(at + HOUR, "us")
        assert "A, made 2024-01-05 04:00" in ax.get_title()
