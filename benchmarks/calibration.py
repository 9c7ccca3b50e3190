"""Q2: whether intervals hold what they promise, before and after calibration, in calm years and in 2008 and 2020.

One model is fitted once on each file of prices (defaults, the last fifth is forecast), and calibrated in three ways:
not at all, with offsets fixed on the validation split, and with offsets that follow the outcomes (of each memory). For
the central 50, 80 and 95 % intervals of the next price: coverage, the number of series on which Kupiec's test (count)
and Christoffersen's (independence) reject at 1 % by themselves, the smallest p-value over the series as Holm adjusts
it, and the mean interval score over that without calibration, with the p-value of their difference by origin. With a
horizon every step is judged by itself, offsets of all are tracked, and of step s every s-th origin is taken: forecasts
that overlap are wrong together.

    python benchmarks/calibration.py [--model lstm] [--horizon 1] [--test 0.2] [--memory 1000 ...] FILE [FILE ...]

Files are Parquet with the columns series_id, timestamp and price. Series of fewer than 2,500 prices, and those that
stand still more often than `--still`, are left out and named.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from models.conformal import ConformalConfig
from models.forecaster import Forecaster
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.calibration import calibrated
from pipeline.fitting import MODELS, FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.metrics import by_origin, covered, interval_score
from pipeline.risk import christoffersen, kupiec, worst
from pipeline.significance import diebold_mariano
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, panel, split

PERCENTS = (50, 80, 95)
LEAST = 2500
YEARS = (2008, 2020)


def read(path: Path, still: float) -> Panel:
    """Read the series that can be judged, and name the others."""
    frame = pl.read_parquet(path).filter(pl.col("price") > 0).sort("series_id", "timestamp")
    same = (pl.col("price").diff() == 0).mean().alias("same")
    judged = (
        frame.group_by("series_id")
        .agg(pl.len(), same)
        .with_columns(kept=(pl.col("len") >= LEAST) & (pl.col("same") <= still))
    )
    left = judged.filter(~pl.col("kept"))["series_id"].sort().to_list()
    print(f"\n{path.name}: {judged['kept'].sum()} series" + (f", left out {left}" if left else ""))
    frame = frame.join(judged.filter("kept"), on="series_id", how="semi", maintain_order="left")
    time = frame["timestamp"].cast(pl.Datetime("us")).to_physical().to_numpy()
    return panel(frame["series_id"].to_numpy(), time, frame["price"].to_numpy())


def told(name: str, rows: Forecasts, raw: Forecasts) -> None:
    """Print a line an interval."""
    for percent in PERCENTS:
        inside = covered(rows, percent)
        missed = [inside[rows.series == k] == 0 for k in np.unique(rows.series)]
        counts = [kupiec(m, 1 - percent / 100)[1] for m in missed]
        free = [christoffersen(m, 1 - percent / 100)[0] for m in missed]
        ours, base = (by_origin(f, interval_score(f, percent) / f.origin)[1] for f in (rows, raw))
        p = diebold_mariano(ours, base)[1]
        print(
            f"  {name:16s} {percent:3d} %  held {inside.mean():6.2%}  Kupiec {sum(x < 0.01 for x in counts):2d}/"
            f"{len(counts):<2d} Holm p {worst(counts):7.1e}  Christoffersen {sum(x < 0.01 for x in free):2d}/"
            f"{len(free):<2d} Holm p {worst(free):7.1e}  interval score x{ours.mean() / base.mean():.4f} (p {p:.2g})"
        )


def in_year(rows: Forecasts, year: int) -> np.ndarray:
    """Mark the rows whose target lies in a year."""
    return rows.target_time.astype("datetime64[us]").astype("datetime64[Y]").astype(int) + 1970 == year


def of_step(rows: Forecasts, step: int) -> Forecasts:
    """Take the forecasts of one step that do not overlap: every step-th origin of each series."""
    rows = rows.where(rows.step == step)
    begins = np.searchsorted(rows.series, rows.series)  # rows are in the order of series and origins
    return rows.where((np.arange(len(rows)) - begins) % step == 0)


def judge(path: Path, model: str, config: FitConfig, shares: SplitConfig, still: float, memories: list[int]) -> None:
    """Fit once, calibrate in each way, and print how intervals held."""
    prices = read(path, still)
    cut = split(prices, shares)
    fitted: Forecaster = fit(model, prices, cut, LogReturn(), replace(config, conformal=ConformalConfig(track="off")))
    origins = cut.origins(prices, "test", config.horizon)
    raw = walk_forward(fitted, prices, origins)
    print(f"  {len(raw):,} forecasts from {raw.origin_time.min().astype('datetime64[us]').astype('datetime64[D]')} on")
    ways = {"as fitted": raw}
    for memory in (None, *memories):
        track = "all" if config.horizon > 1 else "first"
        way = ConformalConfig(track=track, memory=memory) if memory else ConformalConfig(track="split")
        rows = walk_forward(calibrated(fitted, prices, cut, way), prices, origins)
        ways[f"memory {memory}" if memory else "split"] = rows
    for step in range(1, config.horizon + 1):
        for name, rows in ways.items():
            told(f"step {step} " * (config.horizon > 1) + name, of_step(rows, step), of_step(raw, step))
    for year in YEARS if config.horizon == 1 else ():
        if (then := in_year(raw, year)).sum() >= 250:
            for name, rows in ways.items():
                told(f"{year} {name}", rows.where(then), raw.where(then))


def main() -> None:
    """Judge every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model", choices=MODELS, default="lstm")
    parser.add_argument("--horizon", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--test", type=float, default=0.2, help="share of the prices that is forecast")
    parser.add_argument("--still", type=float, default=0.3, help="largest share of prices equal to the one before")
    parser.add_argument("--memory", type=int, nargs="+", default=[ConformalConfig().memory], help="outcomes")
    asked = parser.parse_args()
    if not asked.files:
        print("left out: needs files of prices, see --help")
        return
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}; {asked.model}, Holm over the series of a set"
    )
    config = FitConfig(horizon=asked.horizon, training=TrainingConfig(epochs=asked.epochs))
    for path in asked.files:
        judge(path, asked.model, config, SplitConfig(test=asked.test), asked.still, asked.memory)


if __name__ == "__main__":
    main()
