"""S8: what lag windows cost: 1,000 series of 5,000 moves with 64 lags each, seconds and the peak of memory.

    data          the moves themselves, read once (their size is the base of the memory)
    view          numpy's sliding windows over them, and their mean: no copy
    regressions   the moments of all lags of every series, which is how autoregressions of order 64 are fitted here
    lanes         the prices laid out once in lanes for a network, which needs no lags, for it carries its state
    polars        a column a lag by `shift`, the rows with all lags kept
    pandas        the same in pandas

Each runs in a process of its own. The memory is the largest that it needed beyond the data.

    python benchmarks/windows.py [--series 1000] [--length 5000] [--lags 64] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from fresh import Spent, spent
from record import Case, Target, options, tell

DATA = """
import numpy as np
series, length, lags = map(int, sys.argv[1:])
moves = np.random.default_rng(0).standard_normal((series, length))
"""
WORK = {
    "data": "begin(); total = moves.sum()",
    "view": "begin(); w = np.lib.stride_tricks.sliding_window_view(moves, lags, axis=1); total = w.mean()",
    "regressions": """
from models.least_squares import autoregressions
rows = list(moves)
autoregressions(rows[:60], lags)  # what the libraries keep from their first call on
begin()
found = autoregressions(rows, lags)
""",
    "lanes": """
from pipeline.windows import lanes
laid = lanes(np.full(series, length), series)
begin()
table = laid.gather(moves)
""",
    "polars": """
import polars as pl
frame = pl.DataFrame({"id": np.repeat(np.arange(series), length), "y": moves.ravel()})
begin()
shifted = [pl.col("y").shift(k).over("id").alias(f"lag{k}") for k in range(1, lags + 1)]
table = frame.with_columns(shifted).drop_nulls()
""",
    "pandas": """
import pandas as pd
frame = pd.DataFrame({"id": np.repeat(np.arange(series), length), "y": moves.ravel()})
begin()
by = frame.groupby("id")["y"]
table = pd.concat([frame, *(by.shift(k).rename(f"lag{k}") for k in range(1, lags + 1))], axis=1).dropna()
""",
}


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure every way, and compare the memory with that of the data."""
    size = given.series * given.length * 8 / 2**20
    found: dict[str, Spent] = {
        n: spent(DATA + code, given.series, given.length, given.lags) for n, code in WORK.items()
    }
    case = f"{given.series:,} series x {given.length:,}, {given.lags} lags"
    yield Case(claim="windows", case=case, unit="ms", values={n: x.seconds * 1e3 for n, x in found.items()})
    memory = {"data": size} | {n: size + x.peak for n, x in found.items() if n != "data"}
    yield Case(
        claim="windows",
        case=f"{case}: data and peak",
        unit="MB",
        values=memory,
        targets=(
            Target(of="regressions", over="data", most=1.2),
            *(Target(of=name, over="data") for name in ("lanes", "polars", "pandas")),
        ),
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--length", type=int, default=5000)
    parser.add_argument("--lags", type=int, default=64)


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
