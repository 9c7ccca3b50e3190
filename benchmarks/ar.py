"""S6, autoregressions: 200 series of 2,000 moves, the order 0..20 by BIC and its coefficients, three ways in one run.

- statecast: all series at once (`models/least_squares.py`);
- statsmodels: `ar_select_order` and `AutoReg`, series by series, of which the first `--statsmodels` are timed;
- normal equations: one design and one solve a series at the fixed order 20, in plain numpy: no order is chosen.

The orders of statecast and statsmodels have to be the same first, and the coefficients to 1e-8. Then GARCH, which is
fitted series by series with the `arch` package: one after the other, and spread over the cores.

    python benchmarks/ar.py [--rounds 5] [--statsmodels 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from record import Case, Target, interleaved, options, tell, timed_case
from statsmodels.tsa.ar_model import AutoReg, ar_select_order

from models.garch import fit_one
from models.least_squares import Regressions, autoregressions
from models.series_by_series import each, processes

SERIES, MOVES, LAGS = 200, 2000, 20
EQUAL = 1e-8
TARGETS = (Target(of="statsmodels", over="statecast", least=50), Target(of="statecast", over="normal equations"))
Moves = NDArray[np.float64]


def simulated() -> list[Moves]:
    """Draw autoregressions of order 0 to 3 with t(4) innovations."""
    rng = np.random.default_rng(1)
    out = []
    for row in range(SERIES):
        r, phi = rng.standard_t(4, size=MOVES + 100) * 0.01, rng.uniform(-0.3, 0.3, size=row % 4)
        for t in range(len(phi), len(r)):
            r[t] += r[t - len(phi) : t][::-1] @ phi
        out.append(r[100:])
    return out


def by_statsmodels(r: Moves) -> Moves:
    """Choose the order and fit it."""
    lags = ar_select_order(r, LAGS, ic="bic", trend="c").ar_lags
    return np.asarray(AutoReg(r, lags=len(lags or ()), trend="c").fit().params)


def by_normal_equations(r: Moves) -> Moves:
    """Solve for the coefficients of order 20."""
    windows = np.lib.stride_tricks.sliding_window_view(r, LAGS + 1)
    design = np.column_stack([np.ones(len(windows)), windows[:, :-1]])
    return np.linalg.solve(design.T @ design, design.T @ windows[:, -1])


def worst(found: Regressions, params: list[Moves]) -> float:
    """Give the largest difference from statsmodels over its first series; infinite where an order differs."""
    gaps = []
    for row, theirs in enumerate(params):
        order = len(theirs) - 1
        if found.order[row] != order:
            return float("inf")
        gaps.append(np.abs(np.append(found.constant[row], found.phi[row, :order]) - theirs).max())
    return float(max(gaps))


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Compare the answers, then time all three in turn."""
    series = simulated()
    some = series[: given.statsmodels]
    gap = worst(autoregressions(series, LAGS), [by_statsmodels(r) for r in some])
    if gap > EQUAL:
        raise SystemExit(f"expected the orders and coefficients of statsmodels to {EQUAL}, differ by {gap}")
    calls = {
        "normal equations": lambda: [by_normal_equations(r) for r in some],
        "statecast": lambda: autoregressions(series, LAGS),
        "statsmodels": lambda: [by_statsmodels(r) for r in some],
    }
    seconds = interleaved(calls, rounds=given.rounds, clock=time.process_time)
    spent = {name: value / (len(series) if name == "statecast" else len(some)) for name, value in seconds.items()}
    case = f"{SERIES} series x {MOVES:,}, orders 0-{LAGS}, a series"
    yield timed_case("ar", case, spent, unit="us", targets=TARGETS)
    yield garch(given.garch)


def garch(count: int) -> Case:
    """Time GARCH of many series, one after the other and as they are spread over the cores, by the clock."""
    series = [np.tile(r, 2)[:MOVES] for r in simulated()[:count]]
    one_by_one, spread = np.array([fit_one(r, row) for row, r in enumerate(series, 1)]), each(fit_one, series)
    if not np.array_equal(one_by_one, spread):
        raise SystemExit("fits that are spread over processes differ from those one after the other")
    calls = {
        "one by one": lambda: [fit_one(r, row) for row, r in enumerate(series, 1)],
        "spread": lambda: each(fit_one, series),
    }
    case = f"GARCH-t, {count} series x {MOVES:,}, a series, {processes(count, count * MOVES)} processes"
    targets = (Target(of="spread", over="one by one"),)
    return timed_case("ar", case, interleaved(calls, rounds=2), unit="ms", targets=targets, each=count)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--statsmodels", type=int, default=20, help="series that statsmodels is given")
    parser.add_argument("--garch", type=int, default=100, help="series of the GARCH fits")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    warnings.simplefilter("ignore")
    tell(cases(given), given.json)
