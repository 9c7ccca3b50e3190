"""An ensemble of networks from several seeds against each of them alone, and a mix with another kind.

On the bundled sample, and on each file of prices, networks are fitted from every seed and forecast the last fifth one
step ahead, quantiles as the models give them: the CRPS in 1/10,000 of a log return, of each seed, of their ensemble,
and the CRPS saved against the mean of the seeds with the p-value of the Diebold-Mariano test by origin time. Then a mix
of the first network with another kind, its weights fitted on the validation split.

    python benchmarks/ensemble.py [--of lstm] [--seeds 5] [--with garch] [--epochs 60] [--no-sample] [FILE ...]

Files are Parquet with the columns series_id, timestamp and price. Series of fewer than `--least` prices are left out
and named.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import torch
from transformer import arrays, read

from models.conformal import ConformalConfig
from models.ensemble import Ensemble, EnsembleConfig
from models.forecaster import Forecaster
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.metrics import by_origin, crps
from pipeline.significance import diebold_mariano
from pipeline.sources import sample
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, split


def losses(forecaster: Forecaster, prices: Panel) -> np.ndarray:
    """Give the mean CRPS of each origin time of the test split."""
    rows = walk_forward(forecaster, prices, split(prices, SplitConfig()).origins(prices, "test"))
    return by_origin(rows, crps(rows))[1]


def told(name: str, what: str, loss: np.ndarray, base: np.ndarray) -> None:
    """Print the CRPS of one forecaster, and what it saves."""
    saved, p = 100 * (1 - loss.mean() / base.mean()), diebold_mariano(loss, base)[1]
    print(f"{name:14s} {what:34s} CRPS {1e4 * loss.mean():.3f}  saved {saved:+.2f} % (p {p:.2g})", flush=True)


def judge(name: str, prices: Panel, options: argparse.Namespace) -> None:
    """Fit on one set of prices, and print a line a forecaster."""
    cut, members, alone = split(prices, SplitConfig()), [], []

    def fitted(kind: str, seed: int = 0) -> Forecaster:
        config = FitConfig(
            training=TrainingConfig(epochs=options.epochs, seed=seed, device="cpu"),
            ensemble=EnsembleConfig(mix=(options.of, options.beside)),
            conformal=ConformalConfig(track="off"),
        )
        return fit(kind, prices, cut, LogReturn(), config)

    for seed in range(options.seeds):
        members.append(fitted(options.of, seed))
        alone.append(losses(members[-1], prices))
    base = np.mean(alone, axis=0)
    seeds = " ".join(f"{1e4 * loss.mean():.3f}" for loss in alone)
    print(f"{name:14s} {options.of} alone, mean of {len(alone)} seeds      CRPS {1e4 * base.mean():.3f}  [{seeds}]")
    whole = Ensemble("ensemble", [m.core for m in members], torch.ones(len(members)))
    told(name, f"ensemble of {len(members)}", losses(Forecaster("ensemble", LogReturn(), whole), prices), base)
    told(name, options.beside, losses(fitted(options.beside), prices), base)
    mix = fitted("mix")
    weights = " ".join(f"{w:.2f} {c.kind}" for w, c in zip(mix.core.weights, mix.core.members, strict=True))
    told(name, f"mix: {weights}", losses(mix, prices), base)


def main() -> None:
    """Judge every set of prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--of", default="lstm", help="kind of the network")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--with", dest="beside", default="garch", help="kind that is mixed with it")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--no-sample", action="store_true", help="judge the files only")
    parser.add_argument("--least", type=int, default=2500, help="prices of a series that is judged")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}; "
        f"at most {options.epochs} epochs"
    )
    torch.set_num_threads(1)
    sets = {} if options.no_sample else {"sample": arrays(sample().drop_nulls())}
    for name, prices in (sets | {p.stem: read(p, options.least) for p in options.files}).items():
        judge(name, prices, options)


if __name__ == "__main__":
    main()
