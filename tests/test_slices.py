from dataclasses import replace

import numpy as np
import pytest
from panels import DAY, garbage_from, market, panel_of
from simulated import forecast_returns, stretch_steps

from models.errors import ComparisonError, ConfigError, DataError
from pipeline import slices
from pipeline.forecasts import Forecasts
from pipeline.metrics import scores
from pipeline.windows import Panel, panel


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260106)


def at_origins(prices: Panel) -> Forecasts:
    """Forecast a price from each published one after the first: only names and times of the rows matter."""
    series, time = np.nonzero(prices.published & (prices.published.cumsum(axis=1) > 1))
    rows = forecast_returns("m", np.zeros((1, len(series))))
    moment = prices.time[series, time]
    return replace(rows, names=prices.names, series=series.astype(np.int32), origin_time=moment)


def test_a_regime_never_sees_the_future():
    """Garbage from any moment after the train split on leaves every regime before it as it was."""
    prices, cut = market(400, 300)
    moment = cut.validation_end_time
    before = slices.regimes(prices, cut.train_end_time)
    after = slices.regimes(garbage_from(prices, moment), cut.train_end_time)
    for name in prices.names:
        past = before.time[name] < moment
        assert 100 < past.sum() < len(past)
        kept = after.time[name] < moment
        np.testing.assert_array_equal(before.time[name][past], after.time[name][kept])
        np.testing.assert_array_equal(before.label[name][past], after.label[name][kept])


def test_regimes_are_thirds_of_the_train_split_of_each_series():
    """On the train split each regime holds a third of a series' moments, whatever its volatility."""
    prices, cut = market(900, 700, holes=0.1)
    known = slices.regimes(prices, cut.train_end_time)
    for name in prices.names:
        train = known.label[name][known.time[name] < cut.train_end_time]
        shares = [(train == regime).mean() for regime in slices.NAMES]
        np.testing.assert_allclose(shares, 1 / 3, atol=2 / len(train))


def test_the_running_volatility_is_a_weighted_mean_of_past_moves(rng):
    """Regimes equal those of a plain loop of weights (1 - 1/30)^age, summing to one, on log moves."""
    moves = 0.01 * rng.standard_t(4, 120)
    prices, until = panel_of([moves]), 80 * DAY
    running = []
    for t in range(120):
        weight = (1 - 1 / 30) ** np.arange(t, -1, -1.0)
        running.append(np.sum(weight * np.abs(moves[: t + 1])) / weight.sum())
    low, high = np.quantile(running[:79], [1 / 3, 2 / 3])
    expected = ["calm" if v <= low else "wild" if v > high else "usual" for v in running]
    known = slices.regimes(prices, until)
    np.testing.assert_array_equal(known.label["S0"], expected)
    np.testing.assert_array_equal(known.time["S0"], np.arange(1, 121) * DAY)


def test_a_storm_is_wild_and_a_lull_is_calm(rng):
    """Thirty moves of four times the usual size make it wild, many of a tenth calm, in prices of any sign."""
    size = np.concatenate([np.ones(300), np.full(60, 4.0), np.full(200, 0.1)])
    price = np.cumsum(size * rng.normal(size=560))
    prices = panel(np.repeat("S0", 560), DAY * np.arange(560), price)
    assert price[:300].min() < 0 < price[:300].max()
    known = slices.regimes(prices, 300 * DAY)
    assert (known.at("S0", DAY * np.arange(330, 360)) == "wild").all()
    assert (known.at("S0", DAY * np.arange(500, 560)) == "calm").all()


def test_a_price_below_zero_among_positive_ones_holds_the_regime(rng):
    """Where log prices are used, a later price without a logarithm leaves the regime as it was."""
    prices = panel_of([0.01 * rng.normal(size=200)])
    broken = prices.price.copy()
    broken[0, 150] = -5.0
    known = slices.regimes(replace(prices, price=broken), 100 * DAY)
    assert known.at("S0", np.array([150 * DAY])) == known.at("S0", np.array([149 * DAY]))
    held = slices.regimes(prices, 100 * DAY)
    np.testing.assert_array_equal(known.label["S0"][:149], held.label["S0"][:149])


def test_every_row_has_the_regime_of_its_series_at_its_origin():
    """Labels of rows are those of the moments of the panel, series by series."""
    prices, cut = market(200, 150)
    known = slices.regimes(prices, cut.train_end_time)
    forecasts = at_origins(prices)
    labels = slices.label(forecasts, "regime", known)
    for k in range(0, len(forecasts), 7):
        name = forecasts.names[forecasts.series[k]]
        at = known.time[name].tolist().index(forecasts.origin_time[k])
        assert labels[k] == known.label[name][at]


def test_labels_are_names_steps_and_hours(rng):
    """Rows are named by their series, by their step with as many digits as the longest, by the hour of the target."""
    forecasts = stretch_steps(forecast_returns("m", rng.normal(size=(2, 30)), names=("A", "B")), 12)
    assert slices.label(forecasts, "series").tolist() == ["A"] * 360 + ["B"] * 360
    assert slices.label(forecasts, "step")[:12].tolist() == [f"{s:02d}" for s in range(1, 13)]
    assert set(slices.label(forecasts.where(forecasts.step < 4), "step")) == {"1", "2", "3"}
    expected = [str(np.datetime64(int(t), "us"))[11:13] for t in forecasts.target_time]
    assert slices.label(forecasts, "hour").tolist() == expected


def test_a_slice_has_the_scores_of_its_rows(rng):
    """By series and by step, each holds the scores of its rows, in order."""
    forecasts = forecast_returns("m", 0.01 * rng.normal(size=(2, 60)), loc=0.001, scale=0.01, names=("A", "B"))
    unit = {"A": 1.0, "B": 2.0}
    by_series = slices.sliced(forecasts, slices.label(forecasts, "series"), unit)
    assert by_series == {name: scores(forecasts.of(name), unit) for name in ("A", "B")}

    stretched = stretch_steps(forecasts, 10)
    by_step = slices.sliced(stretched, slices.label(stretched, "step"), unit)
    assert list(by_step) == [f"{s:02d}" for s in range(1, 11)]
    np.testing.assert_equal(by_step["10"], scores(stretched.where(stretched.step == 10), unit))


def test_what_has_no_label_is_refused(rng):
    """An unknown slice, regimes that were not given, a series or a time without a regime: an error that names it."""
    forecasts = forecast_returns("m", rng.normal(size=(1, 5)))
    with pytest.raises(ConfigError, match="did you mean 'hour'"):
        slices.label(forecasts, "hours")
    with pytest.raises(ConfigError, match="need the regimes"):
        slices.label(forecasts, "regime")
    known = slices.regimes(panel_of([0.01 * rng.normal(size=40)]), 30 * DAY)
    with pytest.raises(ComparisonError, match="Known: S0"):
        known.at("S7", np.array([DAY]))
    with pytest.raises(ComparisonError, match=r"needs two prices of S0 .* at 1970-01-01"):
        known.at("S0", np.array([0, 5 * DAY]))
    with pytest.raises(DataError, match="four published prices of S0"):
        slices.regimes(panel_of([0.01 * rng.normal(size=40)]), 3 * DAY)
