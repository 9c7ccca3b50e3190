"""Which ticks a stream takes: the settings of every rule, in one place.

Rules that look at a tick alone or at its key are applied by book, those that look at what the series showed last by
states. No rule looks at a clock: the same lines are judged alike whenever they come.

Comes in: nothing. Goes out: `RuleConfig`. Imported by book, states and stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """Which ticks are taken.

    Attributes
    ----------
    series : {"open", "closed"}
        open: a new name becomes a new series, from an honest prior state. closed: only series of the model's fit.
    future_days : int
        How far a time may lie beyond every one before it, or beyond the model's training cut-off; 1 to 100000 days.
    grid : {"reject", "accept"}
        What is done about a time off the model's bars, counted from the last accepted tick of the series: not whole
        bars later, or for bars above an hour not whole hours or less than half a bar (days change length with the
        clocks).
    jump : {"hold", "accept", "reject"}
        What is done about a price beyond `jump_scales`: refused until the next tick confirms the new level, taken, or
        refused. Blocks are not judged.
    jump_scales : float
        Largest distance from the median in scales of the forecast, a scale being the interquartile range / 1.349;
        above 1.
    covariates : {"reject", "last", "hold"}
        What is done about a tick without a covariate that the stream's first model reads: refused; filled with the last
        value of the series, the forecast being marked as a fallback; or taken without moving the state.
    """

    series: Literal["open", "closed"] = "open"
    future_days: int = 3653
    grid: Literal["reject", "accept"] = "reject"
    jump: Literal["hold", "accept", "reject"] = "hold"
    jump_scales: float = 50.0
    covariates: Literal["reject", "last", "hold"] = "reject"

    def __post_init__(self) -> None:
        if not 1 <= self.future_days <= 100_000:
            raise ConfigError(f"stream.rules.future_days is {self.future_days}; expected 1 to 100000")
        if not self.jump_scales > 1:
            raise ConfigError(f"stream.rules.jump_scales is {self.jump_scales}; expected a number above 1")
