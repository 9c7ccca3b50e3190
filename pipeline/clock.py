"""Moments as people write them, and as they are kept.

Comes in: ISO 8601 text, microseconds since 1970. Goes out: datetimes in UTC. Knows the standard library only; imported
by settings of time, by whatever tells a time, and by the command line.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from models.errors import ConfigError


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
