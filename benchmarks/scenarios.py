"""Q6: whether paths sampled step by step from a one-step model are as good as forecasts of all steps at once.

The same network is fitted twice on each file of prices (the last fifth is forecast): with the horizon H, the quantiles
of each step calibrated on the validation split (direct), and with the horizon 1, from whose state paths of H steps are
sampled (recursive). At the same origins, on log returns from the origin:

    by step     CRPS of draws (fair), and the share that the central 80 and 95 % hold
    as paths    energy and variogram score of sampled paths, of independent draws from the direct marginals, and of the
                sampled paths with their steps shuffled among paths: the same marginals without their dependence

and the test of Diebold and Mariano on the means by origin, two-sided.

    python benchmarks/scenarios.py [--model lstm] [--horizon 10] [--every 5] [--paths 300] [--series 8] FILE [FILE ...]

Files are Parquet with the columns series_id, timestamp and price; of each the longest series are taken.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy import special

from models.core import student_quantiles
from models.forecaster import Forecaster
from models.observation import LEVELS, State, between
from models.sampling import drawn, in_torch, sample_paths
from models.transforms import LogReturn
from pipeline.fitting import NETWORKS, FitConfig, fit
from pipeline.metrics import sample_crps
from pipeline.moves import observed_by
from pipeline.paths import energy_score, variogram_score
from pipeline.significance import diebold_mariano
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, panel, split

PERCENTS = (80, 95)


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What was forecast at n origins, in order of time: log returns from the origin.

    Attributes
    ----------
    time : int64 [n]
    actual : float64 [n, H]
    recursive, independent : float64 [n, K, H]
        Sampled paths, and independent draws from the direct marginals.
    interval : dict of float64 [n, H, 2]
        Direct central intervals by percent.
    """

    time: np.ndarray
    actual: np.ndarray
    recursive: np.ndarray
    independent: np.ndarray
    interval: dict[int, np.ndarray]


def read(path: Path, count: int) -> Panel:
    """Read the longest series."""
    frame = pl.read_parquet(path).filter(pl.col("price") > 0)
    longest = frame.group_by("series_id").len().sort("len", "series_id", descending=[True, False]).head(count)
    frame = frame.join(longest, on="series_id", how="semi").sort("series_id", "timestamp")
    time = frame["timestamp"].cast(pl.Datetime("us")).to_physical().to_numpy()
    return panel(frame["series_id"].to_numpy(), time, frame["price"].to_numpy())


def marched(
    forecaster: Forecaster, prices: Panel, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, State]]:
    """Carry a forecaster from column to column: log quantiles [N, H, Q] and df [N] made there, and the state after."""
    seen, state, first = observed_by(forecaster, prices), forecaster.init_state(len(prices.names)), 0
    for column in columns:
        for start in range(first, column + 1, 2048):
            with torch.no_grad():
                made, state = forecaster.forward(between(seen, start, min(start + 2048, column + 1)), state)
        first = column + 1
        quantile = np.log(made.quantile[:, -1, :, 0].numpy() / state["price"].numpy()[:, :, None])
        yield quantile, made.df[:, -1].numpy(), {name: x.numpy() for name, x in state.items()}


def forecast(
    direct: Forecaster, one: Forecaster, prices: Panel, wanted: np.ndarray, asked: argparse.Namespace
) -> Origins:
    """Forecast in both ways at every so many columns of the panel, and keep the wanted origins."""
    price, horizon, rng = prices.price.reshape(len(prices.names), -1), asked.horizon, np.random.default_rng(1)
    columns = np.flatnonzero(wanted.any(axis=0))[:: asked.every]
    at_once, stepwise, kept = marched(direct, prices, columns), marched(one, prices, columns), []
    for column, (quantile, df, _), (_, _, state) in zip(columns, at_once, stepwise, strict=True):
        rows, last = np.flatnonzero(wanted[:, column]), state["price"]
        names = [f"{name} {column}" for name in prices.names]
        series, n = np.arange(1, len(names) + 1), asked.paths
        paths = sample_paths(in_torch(one), state, last, n=n, horizon=horizon, seed=0, names=names, series=series)
        level = np.repeat(df.astype(np.float64), n)
        score = special.stdtrit(level[:, None], rng.random((len(level), horizon)))
        alone = drawn(np.repeat(quantile, n, axis=0), score, student_quantiles(level), 1.0)
        actual = np.log(price[rows, column + 1 : column + 1 + horizon] / price[rows, column, None])
        recursive = np.log(paths[..., 0] / last[:, None])[rows]
        kept.append((prices.time[rows, column], actual, recursive, alone.reshape(-1, n, horizon)[rows], quantile[rows]))
    time, actual, recursive, independent, quantile = (np.concatenate(x) for x in zip(*kept, strict=True))
    ends = {p: [LEVELS.index(round(0.5 + sign * p / 200, 4)) for sign in (-1, 1)] for p in PERCENTS}
    interval = {p: quantile[:, :, pair] for p, pair in ends.items()}
    order = np.argsort(time, kind="stable")
    arrays = {"time": time, "actual": actual, "recursive": recursive, "independent": independent}
    return Origins(**{k: x[order] for k, x in arrays.items()}, interval={p: x[order] for p, x in interval.items()})


def held(actual: np.ndarray, interval: np.ndarray) -> np.ndarray:
    """Give the share of outcomes inside the interval by step, in percent."""
    return 100 * np.mean((interval[..., 0] <= actual) & (actual <= interval[..., 1]), axis=0)


def by_time(time: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Average losses over the series of an origin time."""
    _, group, count = np.unique(time, return_inverse=True, return_counts=True)
    return np.bincount(group, weights=loss) / count


def told_steps(o: Origins, overlap: int) -> None:
    """Print a line a step: CRPS in 1/10,000 of both, their test, and what their intervals hold."""
    print("  step   direct  recursive   ratio       p     80 % held      95 % held   (direct, recursive)")
    inside = {}
    for p in PERCENTS:
        sampled = np.moveaxis(np.percentile(o.recursive, [50 - p / 2, 50 + p / 2], axis=1), 0, -1)
        inside[p] = held(o.actual, o.interval[p]), held(o.actual, sampled)
    for s in sorted({0, 1, 2, 4, 9, 11, 23, o.actual.shape[1] - 1}):
        if s >= o.actual.shape[1]:
            continue
        ours, base = (by_time(o.time, sample_crps(o.actual[:, s], x[:, :, s])) for x in (o.recursive, o.independent))
        p_value = diebold_mariano(ours, base, overlap)[1]
        shares = "   ".join(f"{inside[p][0][s]:5.1f} {inside[p][1][s]:5.1f}" for p in PERCENTS)
        means = f"{1e4 * base.mean():7.2f}    {1e4 * ours.mean():7.2f}  {ours.mean() / base.mean():.4f}"
        print(f"  {s + 1:4d}  {means}  {p_value:6.3f}   {shares}")


def told_paths(o: Origins, overlap: int) -> None:
    """Print energy and variogram scores of recursive paths over those without dependence."""
    rng = np.random.default_rng(2)
    shuffled = np.stack([rng.permuted(o.recursive[..., s], axis=1) for s in range(o.actual.shape[1])], axis=-1)
    for name, score in (("energy", energy_score), ("variogram", variogram_score)):
        ours = by_time(o.time, score(o.actual, o.recursive))
        for other, sample in (("independent draws of direct", o.independent), ("its own steps shuffled", shuffled)):
            base = by_time(o.time, score(o.actual, sample))
            statistic, p = diebold_mariano(ours, base, overlap)
            ratio = ours.mean() / base.mean()
            print(f"  {name:9s} recursive over {other:28s} {ratio:.4f}  DM {statistic:+6.2f}  p {p:.2g}")


def judge(path: Path, asked: argparse.Namespace) -> None:
    """Fit both on one file and print the scores."""
    prices = read(path, asked.series)
    parts, config = split(prices, SplitConfig()), FitConfig(training=TrainingConfig(epochs=asked.epochs))
    direct, one = (fit(asked.model, prices, parts, LogReturn(), replace(config, horizon=h)) for h in (asked.horizon, 1))
    wanted = np.logical_and.reduce([parts.origins(prices, "test", h) for h in range(1, asked.horizon + 1)])
    o = forecast(direct, one, prices, wanted.reshape(len(prices.names), -1), asked)
    times = len(np.unique(o.time))
    print(f"\n{path.name}: {len(prices.names)} series, {len(o.time):,} origins at {times:,} times, {asked.paths} paths")
    overlap = -(-asked.horizon // asked.every)
    told_steps(o, overlap)
    told_paths(o, overlap)


def main() -> None:
    """Judge every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model", choices=tuple(NETWORKS), default="lstm")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--horizon", type=int, default=10, help="H, steps of a path")
    parser.add_argument("--every", type=int, default=5, help="observations from origin to origin")
    parser.add_argument("--paths", type=int, default=300)
    parser.add_argument("--series", type=int, default=8, help="most series of a file")
    asked = parser.parse_args()
    if not asked.files:
        print("left out: needs files of prices, see --help")
        return
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}; {asked.model}")
    for path in asked.files:
        judge(path, asked)


if __name__ == "__main__":
    main()
