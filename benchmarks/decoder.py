"""An encoder with a decoder, part by part: attention, teacher forcing, both directions over what is known ahead.

Every arm is fitted with every seed and forecasts the last fifth. Printed are the CRPS on the transformed scale (the
mean over all steps, each seed's in brackets), what is saved against the first arm with the p-value of the
Diebold-Mariano test on the means over the seeds by origin time, the best validation loss, and the CPU seconds of an
epoch. The first arm is the same recurrent network with one linear output for all steps.

    python benchmarks/decoder.py [--seeds 2] [--epochs 12] [--electricity EPF.parquet] [--prices FX.parquet]

Generated prices copy moves of 15 steps before (`pipeline/study/echo.py`), at horizon 5. EPF.parquet has the columns
series_id, timestamp, price, exog_1 and exog_2; of NP a day is a block of 24 hours, forecast from the day before with
the covariates of the target day. FX.parquet has series_id, timestamp and price; its horizon is 5.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from models.decoder import DecoderConfig
from models.network import NetworkConfig
from models.transforms import Transform, TransformKind, fit_transform
from pipeline.backtest import walk_forward
from pipeline.metrics import by_origin, crps
from pipeline.significance import diebold_mariano
from pipeline.study.echo import echo
from pipeline.training import Training
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split, SplitConfig, panel, split


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prices, and how they are forecast."""

    name: str
    panel: Panel
    horizon: int
    transform: TransformKind
    training: TrainingConfig


def arms(covariates: bool) -> dict[str, tuple[str, DecoderConfig]]:
    """List what is compared: kind and settings by label."""
    dot, falling = DecoderConfig(), {"teacher_forcing": 1.0}
    listed = {
        "gru, one linear output": ("gru", dot),
        "no attention": ("seq2seq", replace(dot, attention="none")),
        "dot": ("seq2seq", dot),
        "additive": ("seq2seq", replace(dot, attention="additive")),
        "dot, forcing 0.5": ("seq2seq", replace(dot, teacher_forcing=0.5)),
        "dot, forcing 1": ("seq2seq", replace(dot, **falling)),
        "dot, forcing 1 to 0, linear": ("seq2seq", replace(dot, schedule="linear", **falling)),
        "dot, forcing 1 to 0, inverse sigmoid": ("seq2seq", replace(dot, schedule="inverse_sigmoid", **falling)),
    }
    if covariates:
        listed["no attention, bidirectional"] = ("seq2seq", replace(dot, attention="none", ahead="bidirectional"))
        listed["dot, bidirectional"] = ("seq2seq", replace(dot, ahead="bidirectional"))
    return listed


def electricity(path: Path) -> Panel:
    """Read NP as days of 24 hours, the covariates of the next day beside each."""
    rows = pl.read_parquet(path).filter(pl.col("series_id") == "NP").sort("timestamp")
    days = panel(
        rows["series_id"].to_numpy(), rows["timestamp"].to_physical().to_numpy(), rows["price"].to_numpy(), block=24
    )
    columns = ("exog_1", "exog_2")
    wide = np.concatenate([rows[c].to_numpy().reshape(-1, 24) for c in columns], axis=1).astype(np.float32)
    ahead = np.concatenate([wide[1:], wide[-1:]])[None, :, None]
    return replace(days, future=ahead, future_names=tuple(f"{c}.{m:02}" for c in columns for m in range(24)))


def prices(path: Path, latest: int) -> Panel:
    """Read the latest rows of each series."""
    rows = pl.read_parquet(path).sort("series_id", "timestamp").group_by("series_id", maintain_order=True).tail(latest)
    return panel(rows["series_id"].to_numpy(), rows["timestamp"].to_physical().to_numpy(), rows["price"].to_numpy())


def scored(task: Task, kind: str, decoder: DecoderConfig, seed: int) -> tuple[np.ndarray, float, float]:
    """Fit and walk; give the CRPS by origin time, the best validation loss and the seconds of an epoch."""
    cut = split(task.panel, SplitConfig())
    config = replace(task.training, seed=seed, device="cpu")
    shape = {"network": NetworkConfig(decoder=decoder), "config": config, "horizon": task.horizon}
    training = Training(kind, task.panel, cut, transform_of(task, cut), **shape)
    began = time.process_time()
    records = list(training)
    seconds = (time.process_time() - began) / len(records)
    rows = walk_forward(training.model, task.panel, cut.origins(task.panel, "test"))
    return by_origin(rows, crps(rows))[1], min(r.validation_loss for r in records), seconds


def transform_of(task: Task, cut: Split) -> Transform:
    """Fit the transform on the train split."""
    train = task.panel.before(cut.train_end_time)
    return fit_transform(task.transform, [p[m] for p, m in zip(train.price, train.mask, strict=True)])


def judge(task: Task, seeds: int) -> None:
    """Print a line an arm."""
    print(f"\n{task.name}: {task.panel.price.shape} prices, horizon {task.horizon}", flush=True)
    base = None
    for label, (kind, decoder) in arms(bool(task.panel.future_names)).items():
        runs = [scored(task, kind, decoder, seed) for seed in range(seeds)]
        mean = np.mean([losses for losses, _, _ in runs], axis=0)
        base = mean if base is None else base
        p = "" if mean is base else f"p {diebold_mariano(mean, base)[1]:.2g}"
        each = " ".join(f"{losses.mean():.5g}" for losses, _, _ in runs)
        validation, seconds = np.mean([measured for _, *measured in runs], axis=0)
        print(
            f"| {label} | {mean.mean():.5g} [{each}] | {100 * (1 - mean.mean() / base.mean()):+.2f} % | {p} | "
            f"{validation:.4f} | {seconds:.2f} |",
            flush=True,
        )


def main() -> None:
    """Judge every set of prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--no-echo", action="store_true", help="judge the files only")
    parser.add_argument("--electricity", type=Path)
    parser.add_argument("--prices", type=Path)
    parser.add_argument("--latest", type=int, default=8000, help="prices of a series that are read of --prices")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"{options.seeds} seeds, {options.epochs} epochs (electricity five times as many)")
    print("| arm | CRPS [seeds] | saved | p | validation loss | s an epoch |\n|---|---|---|---|---|---|")
    fast = TrainingConfig(epochs=options.epochs, lanes=24, learning_rate=1e-2)
    tasks = [] if options.no_echo else [Task(name="echo", panel=echo(1500), horizon=5, transform="log", training=fast)]
    if options.electricity:
        few = TrainingConfig(epochs=5 * options.epochs, lanes=8, chunk=16)
        days = electricity(options.electricity)
        tasks.append(Task(name="NP", panel=days, horizon=1, transform="asinh", training=few))
    if options.prices:
        config = TrainingConfig(epochs=options.epochs)
        latest = prices(options.prices, options.latest)
        tasks.append(Task(name=options.prices.stem, panel=latest, horizon=5, transform="log", training=config))
    for task in tasks:
        judge(task, options.seeds)


if __name__ == "__main__":
    main()
