"""Features of the calendar: what a time says by itself, in UTC. Their names begin with "@".

| name | value | unit |
|---|---|---|
| `@hour` | hour of the day | 0 to 23 |
| `@weekday` | day of the week | 0 (Monday) to 6 |
| `@hour_of_week` | hours since Monday 00:00 | 0 to 167 |
| `@hour_sin`, `@hour_cos` | sin, cos of 2π m / 1440, m the minute of the day | -1 to 1 |
| `@weekday_sin`, `@weekday_cos` | sin, cos of 2π d / 7, d the day of the week | -1 to 1 |
| `@month_sin`, `@month_cos` | sin, cos of 2π k / 12, k the month (January 0) | -1 to 1 |

The pairs put time on a circle, so that 23:59 is next to 00:00 (Pewsey, Neuhäuser & Ruxton 2013, Circular Statistics in
R, 1.1). Places on the circle are found in whole numbers and looked up: a time has the same bits in a panel of a million
prices and in a tick that comes alone.

A feature known ahead is that of the time *origin + s bars*, never of the time at which the s-th observation will really
come: that is not known at the origin.

Legend: ... any axes of times, K features, S horizon steps.

Comes in: times in microseconds since 1970, UTC. Goes out: float32 arrays. Knows numpy only; imported by config,
covariates, moves, export and states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, unknown

MARK = "@"
"""How the names of these features begin; no column of a store does."""

_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_THURSDAY = 3
"""Day of the week of 1970-01-01, Monday being 0."""

Ints = NDArray[np.int64]


def _hour(time: Ints) -> Ints:
    return time // _HOUR % 24


def _weekday(time: Ints) -> Ints:
    return (time // _DAY + _THURSDAY) % 7


def _month(time: Ints) -> Ints:
    return time.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) % 12


def _minute_of_day(time: Ints) -> Ints:
    return time // _MINUTE % 1440


def _around(
    wave: Callable[[NDArray], NDArray], place: Callable[[Ints], Ints], places: int
) -> Callable[[Ints], NDArray]:
    """Look up a wave over a circle of so many places."""
    table = wave(2 * np.pi * np.arange(places) / places).astype(np.float32)
    return lambda time: table[place(time)]


FEATURES: dict[str, Callable[[Ints], NDArray]] = {
    "@hour": _hour,
    "@weekday": _weekday,
    "@hour_of_week": lambda time: 24 * _weekday(time) + _hour(time),
    "@hour_sin": _around(np.sin, _minute_of_day, 1440),
    "@hour_cos": _around(np.cos, _minute_of_day, 1440),
    "@weekday_sin": _around(np.sin, _weekday, 7),
    "@weekday_cos": _around(np.cos, _weekday, 7),
    "@month_sin": _around(np.sin, _month, 12),
    "@month_cos": _around(np.cos, _month, 12),
}
"""Every feature by its name, from times to values of the same shape."""


def of_calendar(name: str) -> bool:
    """Tell whether a covariate is of the calendar, by its name.

    Raises
    ------
    ConfigError
        The name begins with "@" and no feature is called so.
    """
    if name.startswith(MARK) and name not in FEATURES:
        raise ConfigError(unknown("calendar feature", name, FEATURES))
    return name.startswith(MARK)


def calendar(names: Sequence[str], time_us: Ints) -> NDArray[np.float32]:
    """Give the features of times [...] as [..., K].

    Parameters
    ----------
    names : sequence of str
        Of `FEATURES`; none of them gives K = 0.
    time_us : int64 [...]
        Microseconds since 1970, UTC; before 1970 below zero.

    Raises
    ------
    ConfigError
        There is no feature of a name.

    Examples
    --------
    >>> calendar(["@hour", "@weekday", "@month_cos"], np.array([-1])).tolist()  # the last moment of 1969, a Wednesday
    [[23.0, 2.0, 0.8660253882408142]]
    """
    features = np.empty((*np.shape(time_us), len(names)), np.float32)
    for k, name in enumerate(names):
        if not of_calendar(name):
            raise ConfigError(unknown("calendar feature", name, FEATURES))
        features[..., k] = FEATURES[name](time_us)
    return features


def ahead(names: Sequence[str], time_us: Ints, bar_us: Ints | int, horizon: int) -> NDArray[np.float32]:
    """Give the features of the times that lie 1 to `horizon` bars after origins [...], as [..., S, K].

    The value at origin t, step s is of the time t + s bars and was made from t alone.

    Parameters
    ----------
    names : sequence of str
        Of `FEATURES`.
    time_us : int64 [...]
        Times of the origins, microseconds since 1970, UTC.
    bar_us : int64, or an array that fits the times
        Length of a bar in microseconds.
    horizon : int
        S, at least 1.

    Raises
    ------
    ConfigError
        There is no feature of a name.
    """
    bars = np.arange(1, horizon + 1) * np.asarray(bar_us, np.int64)[..., None]
    return calendar(names, np.asarray(time_us)[..., None] + bars)
