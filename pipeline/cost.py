"""What a model costs: time to fit, time of one tick in the runtime, memory a series.

Comes in: a fitted forecaster, and how long its fits took. Goes out: `Cost`. Knows torch through the export; imported
by page and judging.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.forecaster import Forecaster
from models.observation import Observation, StateTensor, at
from pipeline.export import parameters, scenario, ungated
from pipeline.session import Session

TICKS = 600
"""Ticks that are timed; the median is taken."""

WARM = 100
"""Ticks before these, in which the runtime plans its memory."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one model costs.

    Attributes
    ----------
    seconds : float
        Wall time of all fits together, the first and the refits.
    refits : int
        Fits after the first.
    microseconds : float
        Median wall time of one tick of one series in the runtime: one call on one thread, batch 1.
    state_bytes : int
        Memory of the carried state, bytes a series.
    parameters : int
        Numbers that the fit has set, buffers such as scales among them.
    """

    seconds: float
    refits: int
    microseconds: float
    state_bytes: int
    parameters: int


def measure(forecaster: Forecaster, seconds: float, refits: int) -> Cost:
    """Measure a fitted forecaster on this machine, as it would be served.

    Parameters
    ----------
    forecaster : Forecaster
        It is not changed.
    seconds : float
        Wall time of all its fits, at least 0.
    refits : int
        Fits after the first, at least 0.
    """
    forecaster = copy.deepcopy(forecaster).cpu().eval()
    return Cost(
        seconds=seconds,
        refits=refits,
        microseconds=_microseconds(ungated(forecaster), _ticks(forecaster)),
        state_bytes=state_bytes(forecaster.state_tensors()),
        parameters=parameters(forecaster),
    )


def state_bytes(tensors: Sequence[StateTensor]) -> int:
    """Count the bytes of the state of one series."""
    return sum(int(np.prod(t.shape, dtype=np.int64)) * np.dtype(t.dtype).itemsize for t in tensors)


def _ticks(forecaster: Forecaster) -> list[Observation]:
    """Make the observations of the parity gate for one series, holes and poison among them, as numpy arrays."""
    hard = scenario(forecaster, 1)
    moments = [at(hard, t) for t in range(WARM + TICKS)]
    return [Observation(**{f: getattr(o, f).numpy() for f in Observation.__dataclass_fields__}) for o in moments]


def _microseconds(session: Session, ticks: Sequence[Observation]) -> float:
    """Take the median wall time of a step, the state carried, the first `WARM` left out."""
    state, taken = session.initial(1), []
    for tick in ticks:
        began = time.perf_counter_ns()
        _, state = session.step(tick, state)
        taken.append(time.perf_counter_ns() - began)
    return float(np.median(taken[WARM:])) / 1000
