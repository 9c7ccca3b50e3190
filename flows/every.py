"""When retrains are scheduled: the words for it, and the last moment that one should have begun.

Comes in: hour, day, week, or a cron expression. Goes out: the expression, and moments, UTC. Imported by the command
line and by what serves the schedule.
"""

from __future__ import annotations

from datetime import datetime

from cronsim import CronSim, CronSimError

from models.errors import ConfigError

WORDS = {"minute": "* * * * *", "hour": "0 * * * *", "day": "30 22 * * *", "week": "30 22 * * 5"}
"""What a word stands for: days end after the exchanges of America have closed, weeks on Friday."""


def cron_of(every: str) -> str:
    """Give the cron expression of a word, or the expression itself.

    Raises
    ------
    ConfigError
        It is neither.

    >>> cron_of("day"), cron_of("0 6 * * 1-5")
    ('30 22 * * *', '0 6 * * 1-5')
    """
    cron = WORDS.get(every, every)
    wrong = f"every: expected {', '.join(WORDS)}, or five fields of cron such as '30 22 * * 1-5', got {every!r}"
    if len(cron.split()) != 5:  # where there are six, programs do not agree on which are the seconds
        raise ConfigError(wrong)
    try:
        CronSim(cron, datetime.min)
    except CronSimError as error:
        raise ConfigError(wrong) from error
    return cron


def last_before(cron: str, moment: datetime) -> datetime:
    """Give the last scheduled moment before one."""
    return next(CronSim(cron, moment, reverse=True))
