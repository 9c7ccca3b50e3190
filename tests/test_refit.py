"""A policy decides by what is known at its moment: counts, the calendar, or forecasts that have become wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from simulated import forecast_returns

from models.errors import ConfigError
from pipeline.forecasts import Forecasts
from pipeline.refit import RefitConfig, Signals, never, policy

DAY = 86_400_000_000


def rows(spread: float, count: int = 500) -> Forecasts:
    """Forecast normal moves of standard deviation `spread` as if it were 1 %."""
    returns = np.random.default_rng(1).normal(scale=0.01 * spread, size=(1, count))
    return forecast_returns("gru", returns, scale=0.01)


def signals(time: int = 0, *, fitted: int = 0, since: int = 0, latest: Forecasts | None = None) -> Signals:
    """Make the signals of a moment; without rows none are known yet."""
    known = rows(1.0).where(np.zeros(500, bool)) if latest is None else latest
    return Signals(time=time, fitted_time=fitted, since=since, latest=lambda: known)


def test_the_fit_stays_where_nothing_asks_for_another() -> None:
    """By default there is no refit, whatever is known."""
    assert policy(RefitConfig()) is never
    assert not never(signals(10**15, since=10**6, latest=rows(5.0)))


def test_every_k_origin_times_is_counted_from_the_last_fit() -> None:
    """The policy says yes at k origin times after the last fit and not before."""
    every = policy(RefitConfig(when="every", every=7))
    assert [every(signals(since=k)) for k in (0, 6, 7, 8)] == [False, False, True, True]


def test_a_schedule_is_met_by_the_first_origin_after_it() -> None:
    """Saturdays at 0:00 UTC: from a fit on Thursday, nothing on Friday, yes on Saturday at 0:00 and on Monday."""
    weekly = policy(RefitConfig(when="schedule", cron="0 0 * * 6"))  # 1970-01-01 was a Thursday
    asked = [weekly(signals(int(days * DAY), fitted=0)) for days in (0, 1, 1.99, 2, 4)]
    assert asked == [False, False, False, True, True]
    assert not weekly(signals(8 * DAY, fitted=4 * DAY))
    assert weekly(signals(9 * DAY, fitted=4 * DAY))


@pytest.mark.parametrize(("spread", "drifted"), [(1.0, False), (2.0, True), (0.5, True)])
def test_drift_is_seen_in_intervals_too_narrow_or_too_wide(spread: float, drifted: bool) -> None:
    """Forecasts of the right spread stay, those that are half or twice as wide ask for a refit."""
    assert policy(RefitConfig(when="drift"))(signals(since=100, latest=rows(spread))) is drifted


def test_a_shifted_distribution_drifts_by_its_distance() -> None:
    """With the tolerance of coverage wide open, a location off by one deviation is seen in the PIT values."""
    config = RefitConfig(when="drift", coverage=0.8)
    shifted = rows(1.0)
    shifted = replace(shifted, loc=shifted.loc + 0.01)
    assert policy(config)(signals(since=100, latest=shifted))
    assert not policy(config)(signals(since=100, latest=rows(1.0)))


def test_drift_waits_for_enough_origins_and_enough_rows() -> None:
    """Before the least number of origin times, and before the window is full, there is no refit."""
    drift = policy(RefitConfig(when="drift", least=50))
    wrong = rows(3.0)
    assert [drift(signals(since=k, latest=wrong)) for k in (49, 50)] == [False, True]
    assert not drift(signals(since=50))


def test_signals_are_the_share_inside_and_the_distance_of_kolmogorov() -> None:
    """Coverage is the share of outcomes between the 10 % and 90 % quantiles, drift is scipy's statistic."""
    known = rows(1.3)
    asked = signals(latest=known)
    inside = np.abs(known.outcome / 0.01) <= stats.norm.ppf(0.9)
    assert asked.coverage == pytest.approx(inside.mean())
    assert asked.drift == pytest.approx(stats.kstest(known.outcome / 0.01, "norm").statistic)
    assert str(asked) == f"0 origin times after the last fit, coverage {asked.coverage:.3f}, drift {asked.drift:.3f}"


def test_forecasts_without_a_density_drift_by_coverage_alone() -> None:
    """Quantiles only: the distance is NaN and never the reason."""
    known = replace(rows(1.0), df=np.full(500, np.nan))
    assert np.isnan(signals(latest=known).drift)
    drift = policy(RefitConfig(when="drift"))
    assert not drift(signals(since=100, latest=known))
    assert drift(signals(since=100, latest=replace(rows(3.0), df=np.full(500, np.nan))))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"cron": "every week"}, r"cron: expected minute, hour.*'0 0 \* \* 6' for Saturday.*got 'every week'"),
        ({"cron": "0 0 31 2 *"}, "cron: expected"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"least": 0}, "least: expected 1 or more"),
        ({"window": 9}, "window: expected 10 or more"),
        ({"coverage": 0.0}, "coverage: expected above 0 and up to 0.8"),
        ({"distance": 1.5}, "distance: expected above 0 and up to 1.0, got 1.5"),
    ],
)
def test_a_setting_out_of_range_is_told_with_an_example(setting: dict[str, Any], says: str) -> None:
    """The message has the range or an example, and what came."""
    with pytest.raises(ConfigError, match=says):
        RefitConfig(**setting)
