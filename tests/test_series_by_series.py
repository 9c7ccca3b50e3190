"""Fits of many series at once are those of one after the other."""

from __future__ import annotations

import os

import numpy as np
import pytest

from models import series_by_series
from models.errors import FitError
from models.fittable import Vector
from models.series_by_series import MOVES_A_PROCESS, each, processes


def where(r: Vector, row: int) -> list[float]:
    """Fit something that tells in which process; of a series that begins with a negative number nothing."""
    if r[0] < 0:
        raise FitError(f"series row {row}: nothing to fit", row=row)
    return [row, float(r.mean()), os.getpid()]


@pytest.fixture
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread over two processes whatever there is."""
    monkeypatch.setattr(series_by_series, "processes", lambda *_: 2)


@pytest.mark.usefixtures("_two")
def test_series_are_fitted_elsewhere_in_their_order() -> None:
    """The results are those of this process, in the order of the series, and were made in another."""
    series = list(np.random.default_rng(0).uniform(1, 2, (6, 5)))
    made = each(where, series)
    assert [found[:2] for found in made] == [where(r, row)[:2] for row, r in enumerate(series, 1)]
    assert os.getpid() not in {found[2] for found in made}


@pytest.mark.usefixtures("_two")
def test_a_series_at_fault_is_named_from_another_process() -> None:
    """The error of a fit comes back as it was raised, with the row of its series."""
    with pytest.raises(FitError, match="series row 3") as caught:
        each(where, [np.array([1.0]), np.array([2.0]), np.array([-1.0])])
    assert caught.value.row == 3


def test_little_work_stays_in_one_process() -> None:
    """A process must have enough to do, and there are no more of them than series or cores."""
    assert processes(1000, MOVES_A_PROCESS) == 1
    assert processes(1, 100 * MOVES_A_PROCESS) == 1
    assert processes(1000, 10**9) == min(len(os.sched_getaffinity(0)), series_by_series.MOST)
    assert each(where, [np.array([1.0])])[0][2] == os.getpid()
