"""How often a watch over live forecasts cries wolf, and how long it takes to see what is there, by simulation.

Series move together by one factor (a Gaussian copula of equal correlation), each with Student t moves whose scale goes
its own way: log scale is AR(1), 0.98, with a standard deviation of 0.35. The champion knows location, scale and df:
what it says is true, until a change. The reference knows the mean scale only. What is counted are events of
`pipeline.drift.Drift` at its default settings; a false alarm is one without a change.

    python benchmarks/drift.py [--moments 200000]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import special

from models.observation import LEVELS
from pipeline.drift import Drift, DriftConfig
from pipeline.quantile_scores import place
from pipeline.scoreboard import Moments
from pipeline.scoring import COLUMNS
from pipeline.student import Student, Vector

RUN = 5000
"""Moments of one run without a change."""

CALM, AFTER = 500, 1500
"""Moments before a change, and after it."""

PANELS = ((1, 0.0), (5, 0.3), (50, 0.0), (50, 0.3), (50, 0.8))
"""Series, and the correlation of their moves."""


def simulate(
    rng: np.random.Generator, moments: int, panel: tuple[int, float], df: float, change: tuple[float, float]
) -> Moments:
    """Draw moments; from CALM on moves are `change[0]` times as large and shifted by `change[1]` scales."""
    series, correlation = panel
    shape = (moments, series)
    factor = np.sqrt(correlation) * rng.normal(size=(moments, 1)) + np.sqrt(1 - correlation) * rng.normal(size=shape)
    tail = special.ndtr(-np.abs(factor))
    z = np.copysign(special.ndtri(tail) if np.isinf(df) else special.stdtrit(df, tail), factor)
    z[CALM:] = z[CALM:] * change[0] + change[1]
    scale = np.exp(autoregression(rng, shape))
    mean = np.full((moments, 2, len(COLUMNS)), np.nan)
    mean[:, 0] = published(df, z)
    mean[:, 0, 0], mean[:, 1, 0] = crps(df, z, scale), crps(df, z * scale, 1.0)
    return Moments(time=np.arange(moments), outcomes=np.full(moments, float(series)), mean=mean)


def autoregression(rng: np.random.Generator, shape: tuple[int, int]) -> Vector:
    """Draw log scales [moments, series]."""
    noise = 0.35 * np.sqrt(1 - 0.98**2) * rng.normal(size=shape)
    noise[0] = 0.35 * rng.normal(size=shape[1])
    for t in range(1, shape[0]):
        noise[t] += 0.98 * noise[t - 1]
    return noise


def crps(df: float, z: Vector, width: Vector | float) -> Vector:
    """Take mean CRPS a moment of standardised outcomes [moments, series] of scales `width`."""
    standard, _, _ = Student([df]).scores(np.zeros(z.size, np.int64), z.ravel())
    return np.mean(standard.reshape(z.shape) * width, axis=1)


def published(df: float, z: Vector) -> Vector:
    """Take the means [moments, C] of what the quantiles give; others are NaN."""
    levels = np.array(LEVELS)
    quantile = special.ndtri(levels) if np.isinf(df) else special.stdtrit(df, levels)
    middle, far = place(z.ravel(), np.broadcast_to(quantile, (z.size, len(levels))))
    low, high = quantile[LEVELS.index(0.1)], quantile[LEVELS.index(0.9)]
    found = {"covered_80": ((low <= z) & (z <= high)).astype(float), "place": middle, "far": far}
    none = np.full(len(z), np.nan)
    return np.stack([found[c].reshape(z.shape).mean(1) if c in found else none for c in COLUMNS], axis=1)


def events(moments: Moments, config: DriftConfig) -> list[dict]:
    """Watch over all of them."""
    return Drift(("champion", "constant"), config).take(moments)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=200_000, help="moments a cell of the first table")
    count = parser.parse_args().moments
    config, rng = DriftConfig(), np.random.default_rng(20_070_401)
    print(config)
    print(f"\nfalse alarms in {RUN} moments, all watches together\nseries correlation   df  alarms  of which")
    for panel in PANELS:
        for df in (3.0, 6.0, np.inf):
            runs = max(1, min(count, 4_000_000 // panel[0]) // RUN)
            found = [e["what"] for _ in range(runs) for e in events(simulate(rng, RUN, panel, df, (1, 0)), config)]
            which = {what: round(found.count(what) / runs, 3) for what in sorted(set(found))}
            print(f"{panel[0]:6} {panel[1]:11} {df:4} {len(found) / runs:7.3f}  {which}")
    print(
        f"\nmoments from a change to the first event, over 100 runs: median, 9 in 10, not within {AFTER}, by whom first"
    )
    for change, said in (
        ((2.0, 0.0), "twice as volatile"),
        ((0.5, 0.0), "half as volatile"),
        ((1.0, 0.5), "shifted by half a scale"),
    ):
        for panel in PANELS:
            delay, first = [], []
            for _ in range(100):
                moments = simulate(rng, CALM + AFTER, panel, 6.0, change)
                after = [e for e in events(moments, config) if e["time"] >= CALM]
                delay.append(after[0]["time"] - CALM + 1 if after else AFTER + 1)
                first += [after[0]["what"]] if after else []
            by = {what: first.count(what) for what in sorted(set(first))}
            middle, late = np.quantile(delay, (0.5, 0.9), method="inverted_cdf")
            print(f"{said:24} {panel[0]:4} {panel[1]:4} {middle:6} {late:6} {sum(d > AFTER for d in delay):4}  {by}")


if __name__ == "__main__":
    main()
