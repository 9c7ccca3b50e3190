"""What an LSTM is taught to say: a Student t, quantiles, a point with a normal, or probabilities of bins.

On the bundled sample, and on each file of prices, each head is fitted with every seed and forecasts the last fifth one
step ahead. Printed are the CRPS in 1/10,000 of a log return, the mean and each seed's; the rMAE, the mean absolute
error of log returns over that of no move, with its 95 % interval; and the CRPS saved against the Student t with its
interval and the p-value of the Diebold-Mariano test, on means over the seeds by origin time. The CRPS of every head is
taken from its 11 quantiles by one rule, calibration off, so that a closed formula has no advantage.

    python benchmarks/heads.py [--seeds 2] [--epochs 30] [--no-sample] [FILE ...]

Files are Parquet with the columns series_id, timestamp and price.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from models.conformal import ConformalConfig
from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.metrics import by_origin, quantile_crps
from pipeline.significance import block_bootstrap_skill, diebold_mariano
from pipeline.sources import sample
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, panel, split

ARMS: dict[str, tuple[str, NetworkConfig]] = {
    "t": ("lstm", NetworkConfig()),
    "quantile": ("lstm", NetworkConfig(head="quantile")),
    "point": ("point", NetworkConfig()),
    "categorical": ("categorical", NetworkConfig()),
}
"""Model and settings of each head; the first is what the others are compared with."""


def arrays(frame: pl.DataFrame) -> Panel:
    """Make a panel of rows."""
    frame = frame.filter(pl.col("price") > 0).sort("series_id", "time")
    moments = frame["time"].cast(pl.Datetime("us")).to_physical().to_numpy()
    return panel(frame["series_id"].to_numpy(), moments, frame["price"].to_numpy())


def losses(rows: Forecasts) -> dict[str, NDArray[np.float64]]:
    """Give CRPS, absolute error and that of no move, the mean at each origin time."""
    log_quantile = np.log(rows.quantile / rows.origin[:, None])
    of_rows = {
        "crps": quantile_crps(rows.outcome, log_quantile),
        "error": np.abs(rows.outcome - rows.loc),
        "still": np.abs(rows.outcome),
    }
    return {name: by_origin(rows, loss)[1] for name, loss in of_rows.items()}


def fitted(arm: str, prices: Panel, seed: int, epochs: int) -> dict[str, NDArray[np.float64]]:
    """Fit a head with a seed and walk it forward over the test origins."""
    kind, shape = ARMS[arm]
    training = TrainingConfig(epochs=epochs, seed=seed, device="cpu")
    settings = FitConfig(network=shape, training=training, conformal=ConformalConfig(track="off"))
    cut = split(prices, SplitConfig())
    forecaster = fit(kind, prices, cut, LogReturn(), settings)
    return losses(walk_forward(forecaster, prices, cut.origins(prices, "test", 1)))


def judge(name: str, prices: Panel, seeds: int, epochs: int) -> None:
    """Print a line a head."""
    base = np.empty(0)
    for arm in ARMS:
        runs = [fitted(arm, prices, seed, epochs) for seed in range(seeds)]
        mean = {key: np.mean([run[key] for run in runs], axis=0) for key in runs[0]}
        base = base if base.size else mean["crps"]
        each = " ".join(f"{1e4 * run['crps'].mean():.3f}" for run in runs)
        low, high = (1 - x for x in block_bootstrap_skill(mean["error"], mean["still"])[::-1])
        line = f"{name:14s} {arm:12s} CRPS {1e4 * mean['crps'].mean():.3f} [{each}]"
        line += f"  rMAE {mean['error'].mean() / mean['still'].mean():.4f} ({low:.4f} to {high:.4f})"
        if mean["crps"] is not base:
            worst, best = (100 * x for x in block_bootstrap_skill(mean["crps"], base))
            saved, p = 100 * (1 - mean["crps"].mean() / base.mean()), diebold_mariano(mean["crps"], base)[1]
            line += f"  saved {saved:+.2f} % ({worst:+.2f} to {best:+.2f}, p {p:.2g})"
        print(line, flush=True)


def main() -> None:
    """Judge the heads on every set of prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--no-sample", action="store_true", help="judge the files only")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, at most {options.epochs} epochs")
    sets = {} if options.no_sample else {"sample": arrays(sample().drop_nulls())}
    sets |= {p.stem: arrays(pl.read_parquet(p).rename({"timestamp": "time"})) for p in options.files}
    for name, prices in sets.items():
        judge(name, prices, options.seeds, options.epochs)


if __name__ == "__main__":
    main()
