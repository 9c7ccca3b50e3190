"""Features of the calendar are what Python's own calendar says, of the origin's time and of nothing later."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from pipeline.calendar_features import FEATURES, ahead, calendar, of_calendar
from pipeline.config import Config
from pipeline.moves import known_ahead, known_beside
from pipeline.windows import Panel, panel

HOUR = 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = (int((datetime(year, 1, 1, tzinfo=UTC) - EPOCH) / timedelta(microseconds=1)) for year in (1900, 2200))
NAMES = tuple(FEATURES)


def by_datetime(time: int) -> dict[str, float]:
    """Compute every feature of one moment with Python's datetime."""
    moment = EPOCH + timedelta(microseconds=time)
    turns = {
        "hour": (60 * moment.hour + moment.minute) / 1440,
        "weekday": moment.weekday() / 7,
        "month": (moment.month - 1) / 12,
    }
    waves = {f"@{name}_sin": math.sin(2 * math.pi * turn) for name, turn in turns.items()}
    waves |= {f"@{name}_cos": math.cos(2 * math.pi * turn) for name, turn in turns.items()}
    raw = {"@hour": moment.hour, "@weekday": moment.weekday(), "@hour_of_week": 24 * moment.weekday() + moment.hour}
    return {**raw, **waves}


@given(st.integers(FIRST, LAST - 1))
def test_every_feature_of_any_moment_is_that_of_python(time: int) -> None:
    """Over three centuries, before 1970 too, raw indices are equal and waves are equal to float32."""
    got = dict(zip(NAMES, calendar(NAMES, np.array(time)).tolist(), strict=True))
    expected = by_datetime(time)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-7), name
    assert all(got[name] == expected[name] for name in ("@hour", "@weekday", "@hour_of_week"))


@pytest.mark.parametrize(
    ("moment", "hour", "weekday", "month"),
    [
        ("1969-12-31T23:59:59.999999", 23, 2, 12),
        ("1970-01-01T00:00:00", 0, 3, 1),
        ("1900-02-28T23:00:00", 23, 2, 2),
        ("2000-02-29T12:30:00", 12, 1, 2),
        ("2024-02-29T23:59:59.999999", 23, 3, 2),
        ("2024-03-01T00:00:00", 0, 4, 3),
        ("2100-02-28T23:59:00", 23, 6, 2),
        ("2100-03-01T00:00:00", 0, 0, 3),
    ],
)
def test_days_that_are_easily_wrong(moment: str, hour: int, weekday: int, month: int) -> None:
    """The last moment before 1970, leap days, and centuries without one: hour, day of the week and month."""
    time = np.array(moment, "datetime64[us]").astype(np.int64)
    got = calendar(("@hour", "@weekday", "@hour_of_week", "@month_cos", "@month_sin"), time)
    turn = 2 * math.pi * (month - 1) / 12
    np.testing.assert_allclose(got, [hour, weekday, 24 * weekday + hour, math.cos(turn), math.sin(turn)], atol=1e-7)


def test_many_moments_at_once_are_those_of_pandas() -> None:
    """On 100,000 moments from 1900 to 2200 the whole numbers are those of pandas, in the shape of the times."""
    time = np.random.default_rng(0).integers(FIRST, LAST, size=(1000, 100))
    stamps = pd.DatetimeIndex(time.ravel().astype("datetime64[us]"))
    got = calendar(("@hour", "@weekday"), time)
    assert got.shape == (1000, 100, 2)
    np.testing.assert_array_equal(got.reshape(-1, 2), np.stack([stamps.hour, stamps.day_of_week], 1))


@pytest.mark.parametrize("count", [1, 3, 16, 37, 4096])
def test_a_moment_has_the_same_bits_in_any_company(count: int) -> None:
    """Alone, in a column of a larger array or from its end: no bit depends on the place of a time in an array."""
    time = np.random.default_rng(1).integers(FIRST, LAST, size=(count, 2))
    together = calendar(NAMES, time[:, 1])
    alone = np.stack([calendar(NAMES, t) for t in time[:, 1]])
    assert together.tobytes() == alone.tobytes() == calendar(NAMES, time[::-1])[::-1, 1].tobytes()


@given(st.integers(FIRST, LAST - 1), st.integers(1, 10**12), st.integers(1, 30))
def test_ahead_is_the_calendar_of_origin_plus_bars(time: int, bar: int, horizon: int) -> None:
    """Element s is that of the time s + 1 bars later, for one length of a bar and for one a series."""
    got = ahead(NAMES, np.array([time, time]), bar, horizon)
    assert got.shape == (2, horizon, len(NAMES))
    for s in range(horizon):
        assert got[0, s].tobytes() == calendar(NAMES, np.array(time + (s + 1) * bar)).tobytes()
    apart = ahead(NAMES, np.array([[time], [time]]), np.array([[bar], [2 * bar]]), horizon)
    assert apart[0, 0].tobytes() == got[0].tobytes()
    assert apart[1, 0].tobytes() == ahead(NAMES, np.array(time), 2 * bar, horizon).tobytes()


def hourly(*spacings: int) -> Panel:
    """Make a panel of 200 prices a series, each series with a spacing in hours of its own."""
    names = np.repeat([f"S{k}" for k in range(len(spacings))], 200)
    time = np.concatenate([np.arange(200) * HOUR * every for every in spacings])
    return panel(names, time, np.linspace(1.0, 2.0, len(time)))


def test_bars_ahead_are_those_of_the_grid_in_every_series() -> None:
    """A series of every second hour in an hourly panel looks one hour ahead, as the served file does."""
    prices = hourly(1, 1, 2)
    assert prices.grid == "1h"
    hour = known_ahead(prices, ("@hour",), 3)[..., 0]
    np.testing.assert_array_equal(hour[2, :4], [[1, 2, 3], [3, 4, 5], [5, 6, 7], [7, 8, 9]])
    np.testing.assert_array_equal(known_beside(prices, ("@hour",))[2, :4, 0], [0, 2, 4, 6])
    own = hourly(1, 2, 3)
    assert own.grid == "tick"
    np.testing.assert_array_equal(known_ahead(own, ("@hour",), 1)[:, 0, 0, 0], [1, 2, 3])


def test_no_feature_knows_when_the_next_price_comes() -> None:
    """After a gap of a weekend the origin before it has the features that it would have without the gap."""
    prices = hourly(1)
    late = replace(prices, time=prices.time + np.where(np.arange(200) > 50, 48 * HOUR, 0))
    names = ("@hour_of_week", "@hour_sin", "@month_cos")
    before = np.s_[:, :51]
    assert known_ahead(prices, names, 4)[before].tobytes() == known_ahead(late, names, 4)[before].tobytes()
    assert known_ahead(late, names, 4)[0, 50, 0, 0] == 72 + 51


def test_columns_of_the_panel_and_of_the_calendar_stand_in_the_order_asked_for() -> None:
    """A column, a feature and a column: each in its place, and the columns as they were."""
    prices = hourly(1, 1)
    beside = np.random.default_rng(2).normal(size=(2, 200, 2)).astype(np.float32)
    held = replace(prices, past_names=("x", "y"), past=beside)
    got = known_beside(held, ("y", "@weekday", "x"))
    np.testing.assert_array_equal(got[..., [2, 0]], beside)
    np.testing.assert_array_equal(got[..., 1], (prices.time // (24 * HOUR) + 3) % 7)


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    """In the settings and wherever a feature is computed, the message says what was meant and what there is."""
    assert of_calendar("@hour")
    assert not of_calendar("hour")
    said = "unknown calendar feature '@huor_sin': did you mean '@hour_sin'"
    for refused in (
        lambda: of_calendar("@huor_sin"),
        lambda: calendar(("@huor_sin",), np.array([0])),
        lambda: ahead(("@huor_sin",), np.array([0]), HOUR, 1),
        lambda: Config(ahead=("@huor_sin",)),
        lambda: Config(past=("@huor_sin",)),
    ):
        with pytest.raises(ConfigError, match=said):
            refused()
    with pytest.raises(ConfigError, match="unknown calendar feature 'load'"):
        calendar(("load",), np.array([0]))
