"""Fits of one series each, on as many cores as there are: the result is what one after the other gives.

Each process needs some seconds to import what a fit needs, so that it must have enough to do to be worth it.
Nothing runs beside where a fit runs inside of a worker already, or where joblib is not installed.

Legend: N series, T time.

Comes in: a fit of one series, and the series. Goes out: what the fits gave, in order. Knows joblib, imported when
there is something to spread. Imported by garch and egarch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing import current_process
from typing import Any

from models.fittable import Vector

MOVES_A_PROCESS = 50_000
"""Fewest moves that a process of its own is worth: some three seconds of fits by maximum likelihood."""

MOST = 32
"""Most processes, each of some 300 MB."""

Fit = Callable[[Vector, int], list[float]]


def each(fit: Fit, series: Sequence[Vector]) -> list[list[float]]:
    """Fit every series.

    Parameters
    ----------
    fit : function of a module
        From moves float64 [T] and the parameter row of the series, 1 to N, to parameters.
    series : N of float64 [T]

    Raises
    ------
    FitError
        As the fit of the first series at fault raised it.
    """
    rows = list(enumerate(series, 1))
    jobs = processes(len(rows), sum(map(len, series)))
    if jobs == 1:
        return [fit(r, row) for row, r in rows]
    from joblib import Parallel, delayed

    made: Any = Parallel(n_jobs=jobs)(delayed(fit)(r, row) for row, r in rows)
    return made


def processes(series: int, moves: int) -> int:
    """Say over how many processes so many series with so many moves in all are spread; 1 is this one."""
    if current_process().daemon or find_spec("joblib") is None:
        return 1
    return max(1, min(_cores(), series, moves // MOVES_A_PROCESS, MOST))


def _cores() -> int:
    """Count the cores that this process may use; all, where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
