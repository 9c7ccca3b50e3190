"""Words and cron expressions of a schedule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.every import WORDS, cron_of, last_before
from models.errors import ConfigError


@pytest.mark.parametrize(
    ("every", "last"),
    [
        ("hour", "2026-11-29T08:00"),
        ("day", "2026-11-28T22:30"),
        ("week", "2026-11-27T22:30"),
        ("0 6 1 * *", "2026-11-01T06:00"),
    ],
)
def test_the_last_moment_is_the_one_before_now(every: str, last: str) -> None:
    """A word or an expression gives the moment at which a run should have begun last."""
    now = datetime(2026, 11, 29, 8, 48, tzinfo=UTC)
    assert last_before(cron_of(every), now).isoformat() == f"{last}:00+00:00"
    assert cron_of(every) == WORDS.get(every, every)


@pytest.mark.parametrize("every", ["daily", "61 * * * *", "0 0 31 2 *", "@daily", "* * * * * */15"])
def test_what_is_no_schedule_is_refused(every: str) -> None:
    """Unknown words, impossible times and fields of seconds are named, with what is expected."""
    with pytest.raises(ConfigError, match="every: expected minute, hour, day, week, or five fields"):
        cron_of(every)
