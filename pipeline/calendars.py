"""Calendars: when the market of a series is open, so that a row that is missing or should not be there can be told.

Comes in: the times of series, and perhaps the name of an exchange. Goes out: missing moments, rows at closed times and
a calendar in words. Imported by faults and due.

A calendar that is learned is a grid, its spacing the median one, and the slots of the week that are in use: a moment is
expected if its slot has a row in four weeks of five, or in most of the nine weeks around. So it follows daylight
saving, and holidays are missing moments. Slower than a day, every step of the grid is expected, a month being a month.
Times off any grid, such as ticks, have no calendar. A named calendar is an exchange's own, with its holidays and hours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import ConfigError, unknown
from pipeline.rows import UTC_TIME

Moments = NDArray[np.int64]
Mask = NDArray[np.bool_]

WHEN = pl.Schema({"series_id": pl.String, "time": UTC_TIME})
"""Columns that name a moment of a series."""

_HOUR = 3_600_000_000
_DAY, _WEEK = 24 * _HOUR, 168 * _HOUR
_MONTH = 30.44 * _DAY
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHORTEST = 20
"""Rows from which a calendar is learned."""
_AROUND = 4
"""Weeks before and after a week that tell what is expected in it."""
_ALWAYS = 0.8
"""Share of the weeks from which a slot is expected in every week."""
_FULL = 0.95
"""Share of all moments from which every one is expected."""
_SPARSE = 50
"""Steps of a grid for each row from which it is no grid."""
_SETTLED = 100
"""Rows from which a daily series shows on which days of the week it has none."""
_STRAY, _HANDFUL = 0.05, 5
"""Share of the rows of the busiest day of the week, and number of rows, up to which those of a day are stray."""
_UNEXPLAINED = 0.2
"""Share of the gaps that may be left, or come anew as closed days, where an exchange explains them."""
_NONE = np.zeros(0, np.int64)
_FIAT = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNH|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|ISK|JPY|KRW|KWD|KZT|LKR|MAD"
    "|MXN|MYR|NGN|NOK|NZD|PEN|PHP|PKR|PLN|QAR|RON|RSD|RUB|SAR|SEK|SGD|THB|TND|TRY|TWD|UAH|USD|UYU|VND|ZAR"
)
"""Codes of ISO 4217 of the currencies that are traded."""
_CURRENCY = rf"^(?:{_FIAT})(?:[/_.-]?(?:{_FIAT}))?(?:=X)?$"
"""Names of series that are currencies: EUR, EURUSD, EUR/USD, EURUSD=X."""


@dataclass(frozen=True, kw_only=True)
class Calendars:
    """Which calendar the series follow.

    Attributes
    ----------
    name : str or None
        A calendar of the package exchange_calendars, such as "XNYS", "24/5" or "24/7"; by default it is learned from
        the times of each series, and daily series named like currencies are closed at weekends.
    time_zone : str
        Zone of the clock that the market goes by, such as "Europe/Berlin"; it decides on which day a moment falls.
    """

    name: str | None = None
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.time_zone not in available_timezones():
            raise ConfigError(unknown("time zone", self.time_zone, available_timezones()))
        if self.name is not None:
            from exchange_calendars import get_calendar_names

            if self.name not in get_calendar_names():
                raise ConfigError(unknown("calendar", self.name, get_calendar_names()))


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What series make of their calendars.

    Attributes
    ----------
    missing : DataFrame
        `WHEN` of the moments expected between a series' first and last row at which it has none.
    words : dict of str to str
        The calendar of each series in words, such as "Mon-Fri", "24/7", "irregular" or "XNYS".
    """

    missing: pl.DataFrame
    words: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Series:
    """Times of one series [n], microseconds, in UTC and on the clock of its zone; `spacing` is their median one."""

    utc: Moments
    local: Moments
    spacing: int

    @property
    def daily(self) -> bool:
        return self.spacing >= 20 * _HOUR


@dataclass(frozen=True, kw_only=True)
class _Hours:
    """Opening hours of an exchange: its days, and its intervals of trading [k] in microseconds UTC."""

    days: Moments
    opens: Moments
    closes: Moments


def follow(times: pl.DataFrame, calendars: Calendars) -> Followed:
    """Find the missing moments of series, and say what calendar each follows.

    Parameters
    ----------
    times : DataFrame
        Columns of `WHEN`, sorted by both and unique.
    calendars : Calendars
        Which calendar to use.
    """
    missing, words = [WHEN.to_frame()], {}
    for name, series in _each(times, calendars.time_zone):
        if calendars.name is None:
            said, lacking = _learned(series)
            words[name] = f"{said} {calendars.time_zone}" if ":" in said else said
        else:
            words[name], lacking = calendars.name, _absent(series, calendars.name)
        if len(lacking):
            local = calendars.name is None or series.daily
            missing.append(_named(name, lacking, calendars.time_zone if local else "UTC"))
    return Followed(missing=pl.concat(missing), words=words)


def closed(times: pl.DataFrame, calendars: Calendars) -> pl.Series:
    """Say at which rows the market is closed: by the named calendar, or else by the one that is learned.

    Daily rows are of a day; of other rows those are open that lie between the opening and the close of a session, both
    included, as a bar may be named by either end. What is learned closes daily series only: currencies at weekends, and
    from 100 rows on any series on a day of the week with at most 5 rows, fewer than 5 % of those of its busiest day.

    Parameters
    ----------
    times : DataFrame
        Columns of `WHEN`, sorted by both.
    calendars : Calendars
        Which calendar to use.

    Returns
    -------
    Series of bool
        One for each row.
    """
    spacing = pl.col("time").diff().median().over("series_id")
    daily, weekly = times.select(
        (spacing >= pl.duration(hours=20)).fill_null(False).alias("closed"),
        (spacing > pl.duration(hours=28)).fill_null(False).alias("weekly"),
    )
    local = times["time"].dt.convert_time_zone(calendars.time_zone)
    if calendars.name is None:
        weekend = (local.dt.weekday() > 5) & _currency(times["series_id"])
        return daily & (weekend | (~weekly & _stray(times["series_id"], local.dt.weekday())))
    utc = times["time"].to_physical().to_numpy()
    hours = _hours(calendars.name, *_years(utc))
    days = local.dt.date().cast(pl.Datetime("us")).to_physical().to_numpy()
    place = np.searchsorted(hours.opens, utc, side="right") - 1
    shut = np.where(daily.to_numpy(), ~np.isin(days, hours.days), (place >= 0) & (utc > hours.closes[place]))
    return pl.Series("closed", shut & (utc >= hours.days[0]))


def explaining(
    times: pl.DataFrame, names: Sequence[str] = ("XNYS", "XLON", "XETR", "XPAR", "XTKS", "XHKG")
) -> str | None:
    """Find the exchange whose holidays explain the gaps of daily series that are learned as Mon-Fri.

    Parameters
    ----------
    times : DataFrame
        Columns of `WHEN`, sorted by both and unique; a few series are enough.
    names : sequence of str
        Calendars to try; of equal ones the first is taken.

    Returns
    -------
    str or None
        The calendar under which at most a fifth of the gaps of all those series is left, rows at closed days counted
        as gaps; None if there is none, or no gap.
    """
    followed = follow(times, Calendars())
    working = [name for name, said in followed.words.items() if said == "Mon-Fri"]
    gaps = followed.missing.filter(pl.col("series_id").is_in(working)).height
    if not gaps:
        return None
    times = times.filter(pl.col("series_id").is_in(working))
    left = {name: _misfits(times, Calendars(name=name)) for name in names}
    best = min(left, key=left.__getitem__)
    return best if left[best] <= _UNEXPLAINED * gaps else None


def _misfits(times: pl.DataFrame, calendars: Calendars) -> int:
    """Count the moments that are missing or closed by a calendar."""
    return follow(times, calendars).missing.height + int(closed(times, calendars).sum())


def currencies(names: pl.Series) -> pl.Series:
    """Take those of the names of series that are currencies, sorted."""
    return names.filter(_currency(names)).unique().sort()


def _currency(names: pl.Series) -> pl.Series:
    return names.str.to_uppercase().str.contains(_CURRENCY)


def _stray(names: pl.Series, weekday: pl.Series) -> pl.Series:
    """Say which rows are on a day of the week that their series hardly uses."""
    number = pl.len().over("series_id", "weekday")
    few = (number <= _HANDFUL) & (number < _STRAY * number.max().over("series_id"))
    return pl.DataFrame({"series_id": names, "weekday": weekday}).select(
        stray=few & (pl.len().over("series_id") >= _SETTLED)
    )["stray"]


def _each(times: pl.DataFrame, zone: str) -> Iterator[tuple[str, _Series]]:
    """Give the name and the times of one series after the other."""
    local = pl.col("time").dt.convert_time_zone(zone).dt.replace_time_zone(None).alias("local")
    for (name,), rows in times.with_columns(local).group_by("series_id", maintain_order=True):
        utc = rows["time"].to_physical().to_numpy()
        spacing = int(np.median(np.diff(utc))) if len(utc) > 1 else 0
        yield str(name), _Series(utc=utc, local=rows["local"].to_physical().to_numpy(), spacing=spacing)


def _learned(series: _Series) -> tuple[str, Moments]:
    """Learn a calendar: in words, and what is missing by it, on the clock of the zone."""
    if len(series.local) < _SHORTEST:
        return "too few rows", _NONE
    if series.spacing >= 27 * _DAY:
        return _by_months(series)
    step = _DAY if 20 * _HOUR <= series.spacing <= 28 * _HOUR else series.spacing
    step = _WEEK if 6 * _DAY <= step <= 8 * _DAY else step
    if not _regular(series.local, step):
        return "irregular", _NONE
    start = series.local[0]
    present = _present(np.rint((series.local - start) / step).astype(np.int64))
    slots = _WEEK // step
    expected, used = _expected(present, slots)
    words = "weekly" if step == _WEEK else _in_words((start + np.flatnonzero(used) * step) % _WEEK, step, slots)
    return words, start + np.flatnonzero(expected & ~present) * step


def _regular(local: Moments, step: int) -> bool:
    """Say whether most times follow each other by `step`, and nearly all by some steps of a grid that fits a week."""
    steps = np.diff(local) / step
    span = (local[-1] - local[0]) / step
    fits = step > 0 and _WEEK % step == 0 and span < _SPARSE * len(local)
    even = np.abs(steps - np.rint(steps)) < 0.1
    return bool(fits and even.mean() >= _ALWAYS and (np.rint(steps) == 1).mean() >= 0.5)


def _by_months(series: _Series) -> tuple[str, Moments]:
    """Do the same for steps of whole months."""
    local = pl.from_numpy(series.local, ["time"]).select(pl.col("time").cast(pl.Datetime("us")))["time"]
    months = (local.dt.year().cast(pl.Int64) * 12 + local.dt.month()).to_numpy()
    step = round(series.spacing / _MONTH)
    gone = np.flatnonzero(~_present((months - months[0]) // step)) * step
    moments = pl.DataFrame({"time": local.head(1), "by": [[f"{m}mo" for m in gone]]}).explode("by").drop_nulls()
    words = {1: "monthly", 3: "quarterly", 12: "yearly"}.get(step, f"every {step} months")
    return words, moments.select(pl.col("time").dt.offset_by(pl.col("by")))["time"].to_physical().to_numpy()


def _present(positions: Moments) -> Mask:
    present = np.zeros(positions[-1] + 1, bool)
    present[positions] = True
    return present


def _expected(present: Mask, slots: int) -> tuple[Mask, Mask]:
    """Say at which positions a row is expected, and which of the slots of the week are in use."""
    slot = np.arange(len(present)) % slots
    share = np.bincount(slot, present, slots) / np.maximum(np.bincount(slot, minlength=slots), 1)
    if present.mean() >= _FULL:
        return np.ones(len(present), bool), np.ones(slots, bool)
    if len(present) < 3 * slots:
        return np.zeros(len(present), bool), share > 0
    there, weeks = np.zeros(len(present)), np.zeros(len(present))
    for shift in range(-_AROUND * slots, (_AROUND + 1) * slots, slots):
        to, of = slice(max(0, -shift), len(present) - max(0, shift)), slice(max(0, shift), len(present) + min(0, shift))
        there[to] += present[of]
        weeks[to] += 1
    return (share[slot] >= _ALWAYS) | (there > weeks / 2), share >= 0.5


def _in_words(used: Moments, step: int, slots: int) -> str:
    """Describe the slots of the week in use, given as microseconds after Thursday 0:00, on the clock of the zone."""
    if len(used) == slots:
        return "24/7"
    used = np.sort((used + 3 * _DAY) % _WEEK)  # after Monday 0:00: the epoch was a Thursday
    days = np.unique(used // _DAY)
    if step == _DAY:
        return _days(days)
    after = np.diff(np.append(used, used[0] + _WEEK))
    if (after > step).sum() == 1:
        last = int(after.argmax())
        return f"{_moment(used[(last + 1) % len(used)])} - {_moment(used[last])}"
    clocks = [used[used // _DAY == day] % _DAY for day in days]
    if all(np.array_equal(clock, clocks[0]) for clock in clocks):
        return f"{_days(days)} {_clock(clocks[0][0])} - {_clock(clocks[0][-1])}"
    return f"{len(used)} of {slots} moments of the week"


def _days(days: Moments) -> str:
    run = len(days) > 2 and days[-1] - days[0] == len(days) - 1
    return f"{_DAYS[days[0]]}-{_DAYS[days[-1]]}" if run else ", ".join(_DAYS[day] for day in days)


def _moment(after_monday: int) -> str:
    return f"{_DAYS[after_monday // _DAY]} {_clock(after_monday % _DAY)}"


def _clock(after_midnight: int) -> str:
    return f"{after_midnight // _HOUR:02}:{after_midnight % _HOUR // (_HOUR // 60):02}"


def trades(name: str, since: int, until: int) -> bool:
    """Say whether an exchange is open at any moment between two, microseconds since 1970, UTC.

    >>> from datetime import datetime, UTC
    >>> friday, monday = (round(datetime(2019, 1, day, 22, tzinfo=UTC).timestamp() * 1e6) for day in (4, 7))
    >>> trades("XNYS", friday, friday + 2 * 86_400_000_000), trades("XNYS", friday, monday)
    (False, True)
    """
    hours = _hours(name, *_years(np.array([since, until])))
    return bool(((hours.closes > since) & (hours.opens < until)).any())


def _absent(series: _Series, name: str) -> Moments:
    """Give what is missing by a named calendar: on the clock of the zone if daily, else in UTC."""
    hours = _hours(name, *_years(series.utc))
    if series.spacing <= 0:
        return _NONE
    if series.daily:
        days, clock = series.local // _DAY * _DAY, series.local[0] % _DAY
        asked = hours.days[(hours.days > days[0]) & (hours.days < days[-1])]
        return np.setdiff1d(asked, days) + clock if series.spacing <= 4 * _DAY else _NONE
    place = np.maximum(np.searchsorted(hours.opens, series.utc, side="right") - 1, 0)
    phases, number = np.unique((series.utc - hours.opens[place]) % series.spacing, return_counts=True)
    first = hours.opens + phases[number.argmax()]
    steps = np.maximum(-((first - hours.closes) // series.spacing), 0)  # up to the close, which is left out below
    interval = np.repeat(np.arange(len(first)), steps)
    nth = np.arange(len(interval)) - np.repeat(np.cumsum(steps) - steps, steps)
    grid = first[interval] + nth * series.spacing
    inner = (grid > hours.opens[interval]) & (grid < hours.closes[interval])
    inner &= (grid > series.utc[0]) & (grid < series.utc[-1])
    return np.setdiff1d(grid[inner], series.utc)


def _years(utc: Moments) -> tuple[int, int]:
    """Give the years of the first and last of some times."""
    years = pl.Series([utc.min(), utc.max()]).cast(pl.Datetime("us")).dt.year().to_list()
    return years[0], years[1]


@lru_cache(maxsize=8)
def _hours(name: str, first_year: int, last_year: int) -> _Hours:
    """Look up the opening hours of an exchange over some years, as far as they are known."""
    from exchange_calendars import get_calendar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exchange_calendars uses what the pandas of today will drop
        schedule = _schedule(get_calendar, name, first_year, last_year)
    breaks = schedule["break_start"].notna().to_numpy()
    opens = np.sort(np.concatenate([_micros(schedule["open"]), _micros(schedule["break_end"][breaks])]))
    closes = np.sort(np.concatenate([_micros(schedule["close"]), _micros(schedule["break_start"][breaks])]))
    joined = np.append(False, opens[1:] == closes[:-1])
    return _Hours(days=_micros(schedule.index), opens=opens[~joined], closes=closes[~np.append(joined[1:], False)])


def _schedule(get_calendar: Any, name: str, first_year: int, last_year: int) -> Any:
    known = get_calendar(name)
    start = max(filter(None, [f"{first_year}-01-01", known.bound_min() and f"{known.bound_min():%Y-%m-%d}"]))
    end = min(filter(None, [f"{last_year}-12-31", known.bound_max() and f"{known.bound_max():%Y-%m-%d}"]))
    return get_calendar(name, start=start, end=end).schedule


def _micros(times: Any) -> Moments:
    return times.to_numpy(dtype="datetime64[us]").astype(np.int64)


def _named(name: str, moments: Moments, zone: str) -> pl.DataFrame:
    """Put moments on the clock of a zone into a frame of `WHEN`; those that the clock skips are none."""
    time = pl.Series("time", moments).cast(pl.Datetime("us"))
    utc = time.dt.replace_time_zone(zone, non_existent="null", ambiguous="earliest").dt.convert_time_zone("UTC")
    frame = pl.DataFrame({"time": utc}).drop_nulls()
    return frame.select(pl.lit(name).alias("series_id"), "time")
