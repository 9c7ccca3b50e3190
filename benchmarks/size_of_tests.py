"""How often tests of equal accuracy reject what is true, and find what is not: size and power by simulation.

Loss differences are AR(1) with normal noise, or sums over overlapping horizon steps. Candidates: the cosine estimator
with Student t that verdicts use (`pipeline.significance.zero_mean`); Newey and West with the small-sample factor of
Harvey, Leybourne and Newbold, as statsmodels has it; Newey and West with fixed-b critical values (Kiefer & Vogelsang
2005, Econometric Theory 21, table 1) at the bandwidth of Lazarus et al. (2018), 1.3 √n.

    python benchmarks/size_of_tests.py [--trials 10000]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats
from statsmodels.tsa.stattools import diebold_mariano_test

from pipeline.significance import Vector, block_bootstrap_skill, giacomini_white, zero_mean

LEVEL = 0.05


def autoregressive(rng: np.random.Generator, rho: float, n: int, trials: int) -> Vector:
    """Simulate [trials, n] of an AR(1) of mean 0."""
    noise = rng.normal(size=(trials, n + 100))
    for t in range(1, n + 100):
        noise[:, t] += rho * noise[:, t - 1]
    return noise[:, 100:]


def overlapping(rng: np.random.Generator, steps: int, n: int, trials: int) -> Vector:
    """Simulate [trials, n] sums of the next `steps` moves."""
    total = np.cumsum(rng.normal(size=(trials, n + steps)), axis=1)
    return total[:, steps:] - total[:, :-steps]


def newey_west(d: Vector, lags: int) -> Vector:
    """Give the t-ratio of the means [trials] with Bartlett weights."""
    n = d.shape[1]
    centred = d - d.mean(axis=1, keepdims=True)
    variance = np.mean(centred**2, axis=1)
    for k in range(1, lags + 1):
        variance = variance + 2 * (1 - k / (lags + 1)) * np.sum(centred[:, k:] * centred[:, :-k], axis=1) / n
    return d.mean(axis=1) / np.sqrt(variance / n)


def hln(d: Vector, horizon: int) -> Vector:
    """Say which trials are rejected by the small-sample test of Harvey, Leybourne and Newbold."""
    n = d.shape[1]
    factor = (n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n
    statistic = newey_west(d, max(horizon - 1, int(np.ceil(n ** (1 / 3))))) * np.sqrt(factor)
    return 2 * stats.t.sf(np.abs(statistic), n - 1) < LEVEL


def fixed_b(d: Vector, _horizon: int) -> Vector:
    """Say which trials are rejected with fixed-b critical values."""
    n = d.shape[1]
    width = int(np.ceil(1.3 * np.sqrt(n)))
    b = width / n
    return np.abs(newey_west(d, width - 1)) > 1.9600 + 2.9694 * b + 0.4160 * b**2 - 0.5324 * b**3


def cosine(d: Vector, horizon: int) -> Vector:
    """Say which trials are rejected by the test of the verdicts."""
    return zero_mean(d, horizon)[1] < LEVEL


def as_statsmodels_has_it(d: Vector) -> None:
    """Stop if the vectorised test is not that of statsmodels."""
    found = diebold_mariano_test(
        np.zeros_like(d), d + 9, np.full_like(d, 9.0), criterion=lambda _, x: x, harvey_adj=True
    )
    lags = int(np.ceil(len(d) ** (1 / 3)))
    expected = newey_west(d[None], lags)[0] * np.sqrt((len(d) - 1) / len(d))
    assert np.isclose(found.statistic, expected), (found.statistic, expected)


def row(name: str, n: int, d: Vector, horizon: int) -> None:
    shares = [np.mean(test(d, horizon)) for test in (cosine, hln, fixed_b)]
    print(f"| {name} | {n} | {' | '.join(f'{share:.3f}' for share in shares)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(1)
    as_statsmodels_has_it(autoregressive(rng, 0.5, 300, 1)[0])
    head = "| loss differences | n | cosine | HLN, Newey-West | fixed-b |\n|---|---|---|---|---|"
    print(f"Size of 5 % tests, {trials} trials\n\n{head}")
    for n in (50, 100, 400, 1000):
        for rho in (0.0, 0.3, 0.7):
            row(f"AR {rho}", n, autoregressive(rng, rho, n, trials), 1)
        for steps in (5, 12, 24):
            if n >= 8 * steps:
                row(f"{steps} overlapping steps", n, overlapping(rng, steps, n, trials), steps)
    print(f"\nPower of the same at three standard errors (0.851 if the variance were known)\n\n{head}")
    for n in (100, 400, 1000):
        for rho in (0.0, 0.3, 0.7):
            shift = 3 / np.sqrt(n) / (1 - rho)
            row(f"AR {rho}", n, shift + autoregressive(rng, rho, n, trials), 1)
    print("\nSize of the conditional test (Giacomini & White)\n\n| horizon | n | size |\n|---|---|---|")
    for steps, n in ((1, 100), (1, 400), (1, 1000), (5, 100), (5, 400), (5, 1000), (12, 400), (12, 1000)):
        differences = overlapping(rng, steps, n, trials // 5)
        level = np.full(n, 100.0)
        rejected = np.mean([giacomini_white(level + d, level, steps)[1] < LEVEL for d in differences])
        print(f"| {steps} | {n} | {rejected:.3f} |")
    print("\nShare of worlds in which the 95 % bootstrap interval of the skill holds the truth")
    print("\n| loss differences | n | coverage |\n|---|---|---|")
    for n in (100, 400, 2000):
        for rho in (0.0, 0.5, 0.8):
            losses, level = 50 + autoregressive(rng, rho, n, trials // 10), np.full(n, 50.0)
            low, high = np.transpose([block_bootstrap_skill(loss, level) for loss in losses])
            print(f"| AR {rho} | {n} | {np.mean((low < 0) & (high > 0)):.3f} |")


if __name__ == "__main__":
    main()
