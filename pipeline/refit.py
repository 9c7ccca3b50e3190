"""When a forecaster is fitted again: never, every so many origin times, on a schedule, or when it drifts.

A policy is a function of what is known at one origin time: `Policy(Signals) -> bool`. The four of the settings are
made by `policy`; from Python any function will do, as long as it depends on nothing but its signals (a walk that was
killed asks it again).

Comes in: the signals of a moment. Goes out: yes or no. Knows numpy and cronsim; imported by backtest and steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from cronsim import CronSim, CronSimError

from models.errors import ConfigError
from pipeline.clock import utc
from pipeline.forecasts import Forecasts
from pipeline.metrics import covered, pit

PERCENT = 80
"""The central interval whose coverage is watched."""


@dataclass(frozen=True, kw_only=True)
class RefitConfig:
    """When a model is fitted again along the backtest.

    Attributes
    ----------
    when : {"never", "every", "schedule", "drift"}
        What decides: nothing, the number of origin times, the calendar, or forecasts that have become wrong.
    every : int
        Origin times from one fit to the next, 1 or more (when = "every").
    cron : str
        Minute, hour, day, month, weekday in market time, UTC (when = "schedule"): "0 0 * * 6" is Saturday at 0:00. The
        first origin time at or after such a moment refits.
    coverage : float
        Largest distance of the share of outcomes inside the 80 % interval from 0.8, 0 to 0.8 (when = "drift").
    distance : float
        Largest Kolmogorov-Smirnov distance of the PIT values from the uniform, 0 to 1 (when = "drift"); it judges
        forecasts that have a density.
    window : int
        Latest forecasts of the next step whose outcome is known, over which both are taken, 10 or more (when =
        "drift").
    least : int
        Least origin times from one fit to the next, 1 or more (when = "drift").
    """

    when: Literal["never", "every", "schedule", "drift"] = "never"
    every: int = 250
    cron: str = "0 0 * * 6"
    coverage: float = 0.08
    distance: float = 0.12
    window: int = 500
    least: int = 100

    def __post_init__(self) -> None:
        for name, low in (("every", 1), ("window", 10), ("least", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: expected {low} or more, got {getattr(self, name)}")
        for name, high in (("coverage", 0.8), ("distance", 1.0)):
            if not 0 < getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected above 0 and up to {high}, got {getattr(self, name)}")
        _next(self.cron, 0)


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known at one origin time, to decide on a refit.

    Attributes
    ----------
    time : int
        The origin time, microseconds since 1970, UTC.
    fitted_time : int
        Origin time of the last refit; before any, the first of the walk.
    since : int
        Origin times from that one to this one.
    latest : function
        Gives the latest rows of step 1 whose target is not after `time`: the forecasts that served, with their
        outcomes, in the order of their targets. As many as the walk's `window`, or none before there are so many.
    """

    time: int
    fitted_time: int
    since: int
    latest: Callable[[], Forecasts]

    @property
    def coverage(self) -> float:
        """Share of the latest outcomes inside the 80 % interval; NaN before there are enough."""
        rows = self.latest()
        return float(covered(rows, PERCENT).mean()) if len(rows) else float("nan")

    @property
    def drift(self) -> float:
        """Kolmogorov-Smirnov distance of the latest PIT values from the uniform; NaN before there are enough."""
        values = np.sort(pit(self.latest()))
        n = len(values)
        if not n or np.isnan(values).any():
            return float("nan")
        steps = np.arange(n + 1) / n
        return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()))

    def __str__(self) -> str:
        known = {"coverage": self.coverage, "drift": self.drift}
        said = [f"{name} {value:.3f}" for name, value in known.items() if not np.isnan(value)]
        return ", ".join([f"{self.since} origin times after the last fit", *said])


Policy = Callable[[Signals], bool]
"""Says at an origin time whether to fit again."""


def policy(config: RefitConfig) -> Policy:
    """Make the policy of the settings."""
    return {
        "never": never,
        "every": lambda signals: signals.since >= config.every,
        "schedule": lambda signals: signals.time >= _next(config.cron, signals.fitted_time),
        "drift": lambda signals: signals.since >= config.least and _drifted(config, signals),
    }[config.when]


def never(signals: Signals) -> bool:  # noqa: ARG001  one signature for all
    """Keep the first fit."""
    return False


def _drifted(config: RefitConfig, signals: Signals) -> bool:
    """Compare with the thresholds; what is NaN is not beyond them."""
    return abs(signals.coverage - PERCENT / 100) > config.coverage or signals.drift > config.distance


@lru_cache(maxsize=64)
def _next(cron: str, after: int) -> int:
    """Give the first moment of a schedule after a moment, both in microseconds since 1970, UTC."""
    try:
        found = next(CronSim(cron, utc(after)))
    except (CronSimError, StopIteration) as error:
        raise ConfigError(
            f"cron: expected minute, hour, day, month, weekday, such as '0 0 * * 6' for Saturday at 0:00 UTC, got "
            f"{cron!r} ({error or 'it never comes'})"
        ) from error
    return int(found.timestamp()) * 1_000_000
