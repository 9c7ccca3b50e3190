"""How often equal models are promoted by decisions that come back every night, and how soon better ones, by simulation.

A year has 252 nights with one fresh origin each. From the thirtieth origin on, every night the candidate of lowest mean
loss is held against the model that serves, at 5 % with the p-value multiplied by the number of candidates: by the
pooled test of `pipeline.significance`, as if it were the only look, and by the evidence of `pipeline.wager`. Counted
are years in which any night would have promoted. Gains of equal models have mean zero: normal; Student t with 3 df;
with a volatility that goes its own way (log AR(1), .98, standard deviation .7); skewed to either side (a centred
exponential); autocorrelated (AR(1), .2), and one year that is the fifth since the last promotion.

    python benchmarks/wager.py [--runs 2000]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import signal

from pipeline.significance import zero_mean
from pipeline.wager import Vector, capital

YEAR = 252
LEAST = 30
ALPHA = 0.05


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    return rng.normal(size=shape)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    return rng.standard_t(3, size=shape)


def wild(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    noise = 0.7 * np.sqrt(1 - 0.98**2) * rng.normal(size=(*shape[:-1], shape[-1] + 200))
    return rng.normal(size=shape) * np.exp(signal.lfilter([1], [1, -0.98], noise)[..., 200:])


def rare_gains(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    return rng.exponential(size=shape) - 1


def rare_losses(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    return 1 - rng.exponential(size=shape)


def autocorrelated(rng: np.random.Generator, shape: tuple[int, ...]) -> Vector:
    noise = rng.normal(size=(*shape[:-1], shape[-1] + 50))
    return signal.lfilter([1], [1, -0.2], noise)[..., 50:]


EQUAL = {f.__name__: f for f in (normal, heavy, wild, rare_gains, rare_losses, autocorrelated)}


def promoted(gains: Vector) -> tuple[Vector, Vector]:
    """Say on which nights the best candidate would be promoted, gains [R, K, n]: by the test, by evidence: [R, n]."""
    runs, candidates, nights = gains.shape
    best = np.argmax(np.cumsum(gains, axis=-1), axis=1)
    by_wager = np.take_along_axis(capital(gains), best[:, None], axis=1)[:, 0] * ALPHA > candidates
    by_test = np.zeros((runs, nights), bool)
    for n in range(LEAST, nights + 1):
        chosen = np.take_along_axis(gains[:, :, :n], best[:, None, n - 1 : n], axis=1)[:, 0]
        statistic, p_value = zero_mean(chosen)
        by_test[:, n - 1] = (statistic > 0) & (p_value * candidates < ALPHA)
    by_wager[:, : LEAST - 1] = False
    return by_test, by_wager


def false_promotions(rng: np.random.Generator, runs: int) -> None:
    print(f"{'equal models':>15} candidates   first year: test  evidence   fifth year: test  evidence")
    for name, draw in EQUAL.items():
        for candidates in (1, 8):
            count = runs if candidates == 1 else runs // 4
            by_test, by_wager = promoted(draw(rng, (count, candidates, 5 * YEAR)))
            rates = [share(nights, year) for year in (0, 4) for nights in (by_test, by_wager)]
            print(f"{name:>15} {candidates:10}" + "".join(f"{100 * rate:15.1f} %" for rate in rates))


def share(nights: Vector, year: int) -> float:
    """Give the share of runs with a promotion in one year that had none before."""
    here = nights[:, year * YEAR : (year + 1) * YEAR].any(axis=1)
    return float((here & ~nights[:, : year * YEAR].any(axis=1)).mean())


def delays(rng: np.random.Generator, runs: int) -> None:
    print("\nbetter models, one candidate, heavy gains: share promoted within a year, median nights until then")
    print("mean gain over its deviation      test once, at the end     evidence, every night")
    for strength in (0.1, 0.2, 0.3, 0.5, 1.0):
        gains = heavy(rng, (runs, 1, YEAR)) / np.sqrt(3) + strength
        by_test, by_wager = promoted(gains)
        found = by_wager.any(axis=1)
        median = np.median(by_wager[found].argmax(axis=1) + 1) if found.any() else float("nan")
        print(f"{strength:28.1f} {100 * by_test[:, -1].mean():22.1f} % {100 * found.mean():18.1f} %, {median:4.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    generator = np.random.default_rng(1936)
    false_promotions(generator, options.runs)
    delays(generator, options.runs)
