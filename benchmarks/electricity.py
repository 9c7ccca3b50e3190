"""The 24 prices of tomorrow under the protocol of the electricity benchmark, against its published forecasts.

At noon of D-1 the prices of the hours of D are forecast from the prices up to D-1 and the two forecasts published for
D; models are recalibrated on the way (Lago, Marcjasz, De Schutter & Weron 2021, Applied Energy 293, 116983).
`dayahead` takes a few updates each day, `lear` is fitted anew every so many days. A refit at a day sees the days before
it, so that each fit is one day older than in the paper. `mix` weighs the two by what was best on the days before.

Printed for each market: MAE, rMAE, the MAE over that of the published DNN ensemble, one-sided p-values of the
multivariate Diebold-Mariano test (norm 1) that ours is better than the published ensembles, the share of outcomes
inside the central intervals with Kupiec's p-value, and the seconds of all fits and forecasts.

    python benchmarks/electricity.py --prices EPF.parquet --forecasts PUBLISHED.parquet [--seeds 0 1] [--days 728]

EPF.parquet has the columns series_id, timestamp, price, exog_1, exog_2; PUBLISHED.parquet is that of
published_electricity.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from published_electricity import HOURS, errors, read, with_naive

from models.observation import MEDIAN
from pipeline import steps
from pipeline.backtest import BacktestConfig, Fold, joined, seen, walk
from pipeline.config import Config
from pipeline.dayahead_training import DayAheadTrainingConfig
from pipeline.faults import Policy
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.ingest import IngestConfig
from pipeline.metrics import scores
from pipeline.passes import in_torch, served
from pipeline.refit import RefitConfig, policy
from pipeline.significance import multivariate_diebold_mariano
from pipeline.steps import Data
from pipeline.windows import SplitConfig

ENSEMBLES = ("DNN Ensemble", "LEAR Ensemble")
GRID = np.linspace(0, 1, 21)


@dataclass(frozen=True, kw_only=True)
class Walked:
    """Medians [days, 24] of one model, its rows, and what it took."""

    median: NDArray[np.float64]
    rows: Forecasts | None
    seconds: float


def settings_of(path: Path, folder: Path, others: tuple[str, ...], share: float) -> Config:
    """Give the settings of one market: blocks of a day, what a bidder knows, the last share of the days as the test."""
    return Config(
        folder=folder,
        leave_out=others,
        block=HOURS,
        ahead=("exog_1", "exog_2"),
        due="target",
        transform="asinh",
        ingest=IngestConfig(paths=("epf", str(path)), policy=Policy(non_positive="keep")),
        split=SplitConfig(validation=0.16, test=share),
    )


def recalibrated(
    name: str, data: Data, config: Config, fitted: FitConfig, days: int, backtest: BacktestConfig
) -> Walked:
    """Walk over the first test days, refitted on the way."""
    started = time.perf_counter()
    origins = data.split.origins(data.panel, "test", 1)
    origins[0, np.flatnonzero(origins[0])[days:]] = False
    made = {}

    def serve(fold: Fold) -> Iterator[tuple[int, Forecasts]]:
        panel, parts, before = data.panel, data.split, made.get(fold.number - 1)
        if fold.cut_time is not None:
            panel, parts = seen(data.panel, fold.cut_time, backtest, config.split)
        warm = before if backtest.start == "warm" else None
        made[fold.number] = fit(name, panel, parts, data.transform, fitted, start=warm)
        made.pop(fold.number - 1, None)
        return served(in_torch(made[fold.number], data.panel), data.panel, origins, fold.start_time)

    rows = joined([block.rows for block in walk(data.panel, origins, serve, policy=policy(backtest.refit))])
    median = rows.quantile[:, MEDIAN].reshape(-1, HOURS)
    return Walked(median=median, rows=rows, seconds=time.perf_counter() - started)


def mixed(a: Walked, b: Walked, actual: NDArray[np.float64]) -> Walked:
    """Weigh two models on each day by the weight with the least absolute error over all days before."""
    lost = [np.abs(w * a.median + (1 - w) * b.median - actual).sum(1).cumsum() for w in GRID]
    best = np.argmin(np.stack(lost), 0)
    weight = np.concatenate([[0.5], GRID[best[:-1]]])[:, None]
    return Walked(median=weight * a.median + (1 - weight) * b.median, rows=None, seconds=a.seconds + b.seconds)


def walks(data: Data, config: Config, seeds: list[int], days: int, lear_every: int) -> dict[str, Walked]:
    """Walk `lear` once and `dayahead` with each seed, and mix them."""
    every = {"when": "every", "every": lear_every}
    found = {"lear": recalibrated("lear", data, config, config.fit, days, BacktestConfig(refit=RefitConfig(**every)))}
    rows = found["lear"].rows
    assert rows is not None
    actual = rows.actual.reshape(-1, HOURS)
    daily = BacktestConfig(start="warm", refit=RefitConfig(when="every", every=1))
    for seed in seeds:
        fitted = replace(config.fit, dayahead_training=DayAheadTrainingConfig(seed=seed))
        ours = recalibrated("dayahead", data, config, fitted, days, daily)
        found |= {f"dayahead, seed {seed}": ours, f"mix, seed {seed}": mixed(ours, found["lear"], actual)}
    return found


def line(name: str, walked: Walked, published: pl.DataFrame) -> str:
    """Print one model against the published ones over the same days."""
    theirs = {n: errors(published, n) for n in (*ENSEMBLES, "naive")}
    ours = published["Real price"].to_numpy().reshape(-1, HOURS) - walked.median
    mae, dnn, naive = (np.abs(e).mean() for e in (ours, theirs[ENSEMBLES[0]], theirs["naive"]))
    p = [multivariate_diebold_mariano(theirs[n], ours)[1] for n in ENSEMBLES]
    held = "| | " if walked.rows is None else "| " + " | ".join(coverage(walked.rows)) + " "
    return (
        f"| {name} | {mae:.3f} | {mae / naive:.3f} | {mae / dnn:.3f} | {p[0]:.4f} | {p[1]:.4f} {held}"
        f"| {walked.seconds:.0f} |"
    )


def coverage(rows: Forecasts) -> list[str]:
    """Give the share of outcomes in the intervals of 80 and 95 percent with Kupiec's p-value."""
    found = scores(rows, dict.fromkeys(rows.names, 1.0))
    return [f"{found[f'coverage_{p}']:.3f} ({found[f'kupiec_{p}']:.3f})" for p in (80, 95)]


def market(path: Path, name: str, others: tuple[str, ...], published: pl.DataFrame, chosen: argparse.Namespace) -> None:
    """Walk the models over one market and print its table."""
    test = len(published) // HOURS
    with TemporaryDirectory() as folder:
        total = pl.scan_parquet(path).filter(pl.col("series_id") == name).select(pl.len()).collect().item() // HOURS
        config = settings_of(path, Path(folder), others, test / total)
        steps.ingest(config)
        data = steps.load(config)
        days = min(chosen.days, test)
        shown = published.head(days * HOURS)
        print(f"{name}, {days} days from {shown['timestamp'].min():%Y-%m-%d}\n")
        print("| model | MAE | rMAE | of DNN | p DNN | p LEAR | in 80 % (Kupiec) | in 95 % | seconds |")
        print("|---|---|---|---|---|---|---|---|---|")
        for model in ENSEMBLES:
            median = shown[model].to_numpy().reshape(-1, HOURS)
            print(line(model, Walked(median=median, rows=None, seconds=0.0), shown))
        for model, walked in walks(data, config, chosen.seeds, days, chosen.lear_every).items():
            print(line(model, walked, shown), flush=True)
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prices", type=Path)
    parser.add_argument("--forecasts", type=Path)
    parser.add_argument("--markets", nargs="*", help="which of the markets in both files; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--days", type=int, default=728, help="first days of the test that are walked")
    parser.add_argument("--lear-every", type=int, default=7, help="days from one fit of lear to the next")
    chosen = parser.parse_args()
    if not (chosen.forecasts and chosen.prices):
        print("left out: needs the benchmark's files, see --help")
        return
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    table = read(chosen.forecasts).join(with_naive(read(chosen.prices)), on=["series_id", "timestamp"], how="left")
    names = pl.scan_parquet(chosen.prices).select(pl.col("series_id").unique().sort()).collect()["series_id"].to_list()
    for (name,), published in table.group_by("series_id", maintain_order=True):
        if chosen.markets is None or name in chosen.markets:
            market(chosen.prices, str(name), tuple(n for n in names if n != name), published, chosen)


if __name__ == "__main__":
    main()
