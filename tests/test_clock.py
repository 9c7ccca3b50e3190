"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from models.errors import ConfigError
from pipeline.clock import moment, utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-01-02", datetime(2019, 1, 2, tzinfo=UTC)),
        ("2019-01-02T16:30", datetime(2019, 1, 2, 16, 30, tzinfo=UTC)),
        ("2019-01-02T16:30:00+02:00", datetime(2019, 1, 2, 14, 30, tzinfo=UTC)),
        ("2019-01-02T16:30:00Z", datetime(2019, 1, 2, 16, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read_in_utc(text: str, expected: datetime) -> None:
    """Without an offset it is UTC, with one it is converted."""
    assert moment(text, "since") == expected


def test_what_is_no_moment_is_named() -> None:
    """The message has the option and the text."""
    with pytest.raises(ConfigError, match=r"--since: expected a time of ISO 8601, such as .*, got 'yesterday'"):
        moment("yesterday", "--since")


def test_microseconds_are_kept_exactly() -> None:
    """A moment far from 1970 keeps its last microsecond, which a float of seconds would lose."""
    assert utc(4_102_444_800_000_001).isoformat() == "2100-01-01T00:00:00.000001+00:00"
    assert utc(-1).isoformat() == "1969-12-31T23:59:59.999999+00:00"
