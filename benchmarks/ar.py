"""S6, autoregressions: 200 series of 2,000 moves, the order 0..20 by BIC and its coefficients, three ways in one run.

- statecast: all series at once (`models/least_squares.py`);
- statsmodels: `ar_select_order` and `AutoReg`, series by series, of which the first `--statsmodels` are timed;
- normal equations: one design and one solve a series at the fixed order 20, in plain numpy: no order is chosen.

The answers of statecast and statsmodels are compared, and the worst difference printed.

    python benchmarks/ar.py [--rounds 5] [--statsmodels 20]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from statsmodels.tsa.ar_model import AutoReg, ar_select_order

from models.least_squares import Regressions, autoregressions

SERIES, MOVES, LAGS = 200, 2000, 20
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


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Give the median time of some rounds, after one that is not counted."""
    run()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def worst(found: Regressions, params: list[Moves]) -> float:
    """Give the largest difference from statsmodels over its first series; infinite where an order differs."""
    gaps = []
    for row, theirs in enumerate(params):
        order = len(theirs) - 1
        if found.order[row] != order:
            return float("inf")
        gaps.append(np.abs(np.append(found.constant[row], found.phi[row, :order]) - theirs).max())
    return float(max(gaps))


def main() -> None:
    """Time all three, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--statsmodels", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    series = simulated()
    some = series[: given.statsmodels]
    ours = seconds(lambda: autoregressions(series, LAGS), given.rounds)
    bare = seconds(lambda: [by_normal_equations(r) for r in series], given.rounds)
    theirs = seconds(lambda: [by_statsmodels(r) for r in some], 1) * SERIES / len(some)
    versions = " ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "statsmodels", "torch"))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {versions}, 1 thread")
    print(f"{SERIES} series of {MOVES} moves, orders 0..{LAGS}; ms for all series")
    print(f"  statecast          {ours * 1e3:9.1f}")
    print(f"  statsmodels        {theirs * 1e3:9.1f}   {theirs / ours:6.0f} x   (from {len(some)} series)")
    print(f"  normal equations   {bare * 1e3:9.1f}   {bare / ours:6.1f} x   (order {LAGS} alone)")
    gap = worst(autoregressions(series, LAGS), [by_statsmodels(r) for r in some])
    print(f"largest difference from statsmodels: {gap:.1e}")


if __name__ == "__main__":
    main()
