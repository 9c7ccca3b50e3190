from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from models.errors import ConfigError
from pipeline.calendars import WHEN, Calendars, closed, currencies, explaining, follow

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONDAY = datetime(2020, 1, 6, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")


def span(number: int, step: timedelta = DAY, start: datetime = MONDAY) -> list[datetime]:
    """Give moments one step apart."""
    return [start + k * step for k in range(number)]


def frame(moments: list[datetime], name: str = "S") -> pl.DataFrame:
    """Make the times of a series."""
    return pl.DataFrame({"series_id": name, "time": sorted(moments)}, schema=WHEN)


def learned(moments: list[datetime], calendars: Calendars | None = None) -> tuple[str, list[datetime]]:
    """Give the calendar of a series in words, and what is missing."""
    followed = follow(frame(moments), calendars or Calendars())
    return followed.words["S"], followed.missing["time"].to_list()


def sessions(days: int, zone: ZoneInfo) -> list[datetime]:
    """Give the hours from 9:30 to 15:30 of working days on the clock of a zone, in UTC."""
    start = datetime(2020, 1, 6, 9, 30)
    local = [start + k * DAY + h * HOUR for k in range(days) if k % 7 < 5 for h in range(7)]
    return [moment.replace(tzinfo=zone).astimezone(UTC) for moment in local]


def fx(days: int) -> list[datetime]:
    """Give the hours at which currencies trade, from Sunday 17:00 to Friday 17:00 in New York, in UTC."""
    hours = span(24 * days, HOUR)
    local = [(hour, hour.astimezone(NEW_YORK)) for hour in hours]
    return [hour for hour, at in local if (at.weekday() * 24 + at.hour + 7) % 168 < 120]


def test_a_missing_working_day_is_a_gap_and_a_weekend_is_none() -> None:
    """Of daily prices from Monday to Friday only the days taken out are missing, also five weeks of them."""
    days = [day for day in span(700) if day.weekday() < 5]
    assert learned(days) == ("Mon-Fri", [])
    gone = [days[100], *days[200:225]]
    assert learned([day for day in days if day not in gone]) == ("Mon-Fri", gone)


def test_what_never_closes_is_always_expected() -> None:
    """Hours of every day are 24/7, and each that is taken out is a gap."""
    hours = span(2000, HOUR)
    gone = [hours[3], *hours[900:930]]
    assert learned([hour for hour in hours if hour not in gone]) == ("24/7", gone)


def test_summer_time_makes_no_gaps_in_currencies() -> None:
    """Over two years in UTC, with the market's hours moving twice a year, only the hours taken out are missing."""
    hours = fx(730)
    assert learned(hours)[1] == []
    gone = [hours[1000], hours[5000]]
    assert learned([hour for hour in hours if hour not in gone])[1] == gone


def test_hours_on_the_clock_of_the_exchange_are_said_as_such() -> None:
    """With the time zone of the exchange the calendar is in its hours, and a missing bar comes back in UTC."""
    bars = sessions(400, NEW_YORK)
    words, missing = learned([bar for bar in bars if bar != bars[1000]], Calendars(time_zone="America/New_York"))
    assert (words, missing) == ("Mon-Fri 09:30 - 15:30 America/New_York", [bars[1000]])
    assert learned(bars)[1] == []


def test_the_hour_that_the_clocks_skip_is_not_missing() -> None:
    """A market that never closes has no gap in the night of March in which an hour does not exist."""
    assert learned(span(4000, HOUR), Calendars(time_zone="Europe/Berlin")) == ("24/7", [])


def test_slower_series_miss_weeks_months_and_quarters() -> None:
    """Of weekly, monthly and quarterly prices the one taken out is missing, at its date."""
    weeks = span(60, 7 * DAY)
    assert learned(weeks[:20] + weeks[21:]) == ("weekly", [weeks[20]])
    months = [datetime(2000 + k // 12, 1 + k % 12, 1, tzinfo=UTC) for k in range(60)]
    assert learned(months[:13] + months[14:]) == ("monthly", [months[13]])
    assert learned([m for m in months[::3] if m < months[45]]) == ("too few rows", [])
    quarters = [datetime(1980 + k // 4, 1 + 3 * (k % 4), 1, tzinfo=UTC) for k in range(60)]
    assert learned(quarters[:30] + quarters[31:]) == ("quarterly", [quarters[30]])


def test_ticks_have_no_calendar() -> None:
    """Times off any grid, or on one that is nearly empty, are irregular and miss nothing."""
    assert learned([MONDAY + timedelta(milliseconds=997 * k * k) for k in range(500)]) == ("irregular", [])
    assert learned([MONDAY + timedelta(seconds=k + 100_000 * (k // 3)) for k in range(500)]) == ("irregular", [])


def test_calendars_are_of_each_series_alone() -> None:
    """Series of different calendars in one frame have each its own."""
    days = span(100)
    both = pl.concat([frame(days, "all"), frame([d for d in days if d.weekday() < 5], "work")])
    followed = follow(both, Calendars())
    assert followed.words == {"all": "24/7", "work": "Mon-Fri"}
    assert followed.missing.is_empty()


def test_a_named_exchange_knows_its_holidays() -> None:
    """In New York, Independence Day of 2019 is closed, and the day after is missing if it is not there."""
    days = [day for day in span(90, start=datetime(2019, 6, 3, tzinfo=UTC)) if day.weekday() < 5]
    holiday, after = datetime(2019, 7, 4, tzinfo=UTC), datetime(2019, 7, 5, tzinfo=UTC)
    named = Calendars(name="XNYS")
    assert frame(days).filter(closed(frame(days), named))["time"].to_list() == [holiday]
    assert learned([day for day in days if day not in (holiday, after)], named) == ("XNYS", [after])


@pytest.mark.parametrize("label", [timedelta(0), timedelta(minutes=30)])
def test_a_named_exchange_knows_its_hours(label: timedelta) -> None:
    """Half hours of trading, named by start or end, are open and none is missing; one at night is closed."""
    opening = datetime(2020, 3, 2, 9, 30)
    local = [opening + label + k * DAY + h * HOUR / 2 for k in range(26) if k % 7 < 5 for h in range(13)]
    bars = [moment.replace(tzinfo=NEW_YORK).astimezone(UTC) for moment in local]
    named = Calendars(name="XNYS")
    assert not closed(frame(bars), named).any()
    assert learned(bars, named)[1] == []
    assert learned([bar for bar in bars if bar != bars[5]], named)[1] == [bars[5]]
    night = [*bars, datetime(2020, 3, 4, 3, tzinfo=UTC)]
    assert closed(frame(night), named).sum() == 1


def test_the_lunch_of_tokyo_is_closed() -> None:
    """A moment within the break of a session is closed, and no bar is missing in it."""
    moments = [
        datetime(2022, 3, day, 0, minute, tzinfo=UTC) + h * HOUR
        for day in (1, 2, 3)
        for h in range(6)
        for minute in (0, 30)
    ]
    tokyo = Calendars(name="XTKS")
    shut = frame(moments).filter(closed(frame(moments), tokyo))["time"].to_list()
    assert shut == [datetime(2022, 3, day, 3, 0, tzinfo=UTC) for day in (1, 2, 3)]
    assert learned([m for m in moments if m not in shut], tokyo)[1] == []


def test_currencies_are_known_by_their_names() -> None:
    """Codes and pairs of currencies are, whatever stands between; words, coins and shares are not."""
    names = pl.Series(["EUR", "EURUSD", "gbp/jpy", "AUD-NZD", "EURUSD=X", "Euro", "BTC", "BTCUSD", "CADENCE", "USDX"])
    assert currencies(names).to_list() == ["AUD-NZD", "EUR", "EURUSD", "EURUSD=X", "gbp/jpy"]


def test_only_daily_currencies_are_closed_at_weekends() -> None:
    """Hourly prices of a currency on Sunday evening are not called closed."""
    assert closed(frame(span(14), "EUR"), Calendars()).sum() == 4
    assert closed(frame(span(14 * 24, HOUR), "EUR"), Calendars()).sum() == 0


def test_a_stray_day_of_the_week_is_closed() -> None:
    """Saturdays among a year of working days are, up to five; of a short series, or as a habit, they are not."""
    working = [day for day in span(700) if day.weekday() < 5]
    saturdays = [day for day in span(700) if day.weekday() == 5]
    stray = frame([*working, *saturdays[20:23]])
    assert stray.filter(closed(stray, Calendars()))["time"].to_list() == saturdays[20:23]
    assert not closed(frame([*working, *saturdays[20:26]]), Calendars()).any()
    assert not closed(frame([*working[:98], saturdays[2]]), Calendars()).any()
    weeks = frame([*span(200, 7 * DAY), MONDAY + 1401 * DAY])
    assert not closed(weeks, Calendars()).any()


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XTKS"])
def test_holidays_tell_the_exchange(name: str) -> None:
    """Three years of working days without an exchange's holidays are explained by it, a few gaps more or less."""
    working = frame([day for day in span(1100, start=datetime(2016, 1, 4, tzinfo=UTC)) if day.weekday() < 5])
    held = working.filter(~closed(working, Calendars(name=name)))
    assert explaining(held) == name
    assert explaining(held.filter(pl.int_range(pl.len()).is_in([100, 300]).not_())) == name


def test_other_gaps_are_not_explained() -> None:
    """Neither gaps at random, nor none at all, nor those of a market that never closes name an exchange."""
    working = frame([day for day in span(1100) if day.weekday() < 5])
    assert explaining(working) is None
    assert explaining(working.filter(pl.int_range(pl.len()) % 29 != 7)) is None
    assert explaining(frame([day for k, day in enumerate(span(1100)) if k % 50 != 7])) is None


@pytest.mark.parametrize("wrong", [{"name": "XNYZ"}, {"time_zone": "Europe/Berlino"}])
def test_unknown_calendars_and_zones_are_refused(wrong: dict[str, str]) -> None:
    """The error names the nearest that there is."""
    with pytest.raises(ConfigError, match="did you mean"):
        Calendars(**wrong)  # type: ignore[arg-type]
