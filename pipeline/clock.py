"""Moments as people write them, and as they are kept.

Comes in: ISO 8601 text, microseconds since 1970. Goes out: datetimes in UTC. Knows the standard library only; imported
by settings of time, by whatever tells a time, and by the command line.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from models.errors import ConfigError

_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}


def moment(text: str, what: str) -> datetime:
    """Read a date or a time of ISO 8601, in UTC where it has no offset.

    Raises
    ------
    ConfigError
        The text is no such time; `what` says which setting or option it is of.

    >>> moment("2019-01-02", "since").isoformat()
    '2019-01-02T00:00:00+00:00'
    """
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{what}: expected a time of ISO 8601, such as 2019-01-02T16:00, got {text!r}") from error
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


def utc(microseconds: int) -> datetime:
    """Give the moment so many microseconds after 1970, UTC, exactly."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def span(text: str, what: str) -> int:
    """Read a length of time such as 730d, in microseconds.

    Raises
    ------
    ConfigError
        The text is none; `what` says which setting it is of.

    >>> span("2h", "history")
    7200000000
    """
    if not re.fullmatch(r"[1-9]\d*[wdhms]", text):
        raise ConfigError(f"{what}: expected a number and w, d, h, m or s, such as '730d', got {text!r}")
    return int(text[:-1]) * _SECONDS[text[-1]] * 1_000_000
