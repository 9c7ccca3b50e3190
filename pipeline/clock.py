"""Moments as people write them.

Comes in: ISO 8601 text. Goes out: datetimes in UTC. Knows the standard library only; imported by settings of time and
by the command line.
"""

from __future__ import annotations

from datetime import UTC, datetime

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
