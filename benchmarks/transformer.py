"""A transformer beside recurrent networks of as many weights: how well it forecasts, and what it costs.

For each size of LSTM a GRU and a transformer are made with about as many weights. On the bundled sample, and on each
file of prices, all are fitted with every seed and forecast the last fifth one step ahead: the CRPS in 1/10,000 of a log
return, each seed's and their mean, and the CRPS saved against the LSTM of that size with the p-value of the
Diebold-Mariano test on their means over the seeds by origin time. Targets a second are those of training, validation
included. What a tick costs is that of the exported file at batch 1 and 256, the networks timed in turn; the state is
that of a series. All times are CPU times of one thread, so that other work on the machine does not count.

    python benchmarks/transformer.py [--sizes 24 64] [--seeds 3] [--epochs 60] [--no-sample] [FILE ...]

The rate of the recurrent networks is the default one, that of the transformer was the best of 0.005, 0.002 and
0.001 on the validation split of the sample, by little and over two seeds.
Files are Parquet with the columns series_id, timestamp and price. Series of fewer than `--least` prices are left out
and named.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from models.conformal import ConformalConfig
from models.forecaster import Forecaster
from models.network import Network, NetworkConfig
from models.observation import Observation, at
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.cost import state_bytes
from pipeline.export import scenario, ungated
from pipeline.fitting import FitConfig, fit
from pipeline.metrics import by_origin, crps
from pipeline.session import RUNTIME_VERSION
from pipeline.significance import diebold_mariano
from pipeline.sources import sample
from pipeline.training import EpochRecord
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, SplitConfig, panel, split

WARM, TICKS = 50, 300


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One network of a comparison."""

    kind: str
    hidden: int
    layers: int = 1
    rate: float = TrainingConfig().learning_rate

    @property
    def label(self) -> str:
        """Its kind and size."""
        return f"{self.kind} {self.hidden}x{self.layers}"

    @property
    def config(self) -> NetworkConfig:
        """Its shape, the rest by default."""
        return NetworkConfig(hidden=self.hidden, layers=self.layers)

    def core(self) -> Network:
        """Make it with random weights."""
        torch.manual_seed(0)
        return Network(self.kind, self.config, unit=0.01)

    @property
    def weights(self) -> int:
        """Count the numbers that are trained."""
        return sum(p.numel() for p in self.core().parameters())


def rivals(hidden: int) -> list[Rival]:
    """Give an LSTM of a width, and the GRU and the transformer of two layers nearest to it in weights."""
    lstm = Rival(kind="lstm", hidden=hidden)
    grus = [Rival(kind="gru", hidden=h) for h in range(hidden, 2 * hidden)]
    stacks = [Rival(kind="transformer", hidden=h, layers=2, rate=0.002) for h in range(4, 2 * hidden, 4)]
    return [lstm, *(min(family, key=lambda r: abs(r.weights - lstm.weights)) for family in (grus, stacks))]


def read(path: Path, least: int) -> Panel:
    """Read the series of a file that are long enough, and name the others."""
    frame = pl.read_parquet(path).filter(pl.col("price") > 0).sort("series_id", "timestamp")
    length = frame.group_by("series_id").len()
    if left := length.filter(pl.col("len") < least)["series_id"].sort().to_list():
        print(f"{path.name}: left out {left}")
    frame = frame.join(length.filter(pl.col("len") >= least), on="series_id", how="semi", maintain_order="left")
    return arrays(frame.rename({"timestamp": "time"}))


def arrays(frame: pl.DataFrame) -> Panel:
    """Make a panel of rows."""
    moments = frame["time"].cast(pl.Datetime("us")).to_physical().to_numpy()
    return panel(frame["series_id"].to_numpy(), moments, frame["price"].to_numpy())


def fitted(rival: Rival, prices: Panel, config: TrainingConfig) -> tuple[Forecaster, list[EpochRecord]]:
    """Fit a network; give the record of each epoch too."""
    records: list[EpochRecord] = []
    settings = FitConfig(network=rival.config, training=config, conformal=ConformalConfig(track="off"))
    cut = split(prices, SplitConfig())
    return fit(rival.kind, prices, cut, LogReturn(), settings, on_epoch=records.append), records


def judge(name: str, prices: Panel, group: list[Rival], options: argparse.Namespace) -> None:
    """Fit a group with every seed, and print a line a network."""
    origins, base = split(prices, SplitConfig()).origins(prices, "test"), None
    for rival in group:
        losses, speed, epochs = [], [], []
        for seed in range(options.seeds):
            config = TrainingConfig(epochs=options.epochs, learning_rate=rival.rate, seed=seed, device="cpu")
            began = time.process_time()
            forecaster, records = fitted(rival, prices, config)
            speed.append(sum(r.targets for r in records) / (time.process_time() - began))
            rows = walk_forward(forecaster, prices, origins)
            losses.append(by_origin(rows, crps(rows))[1])
            epochs.append(len(records))
        mean = np.mean(losses, axis=0)
        base = mean if base is None else base
        saved = 100 * (1 - mean.mean() / base.mean())
        p = "" if mean is base else f"(p {diebold_mariano(mean, base)[1]:.2g})"
        seeds = " ".join(f"{1e4 * loss.mean():.3f}" for loss in losses)
        print(
            f"{name:16s} {rival.label:18s} {rival.weights:6d} weights  CRPS {1e4 * mean.mean():.3f} [{seeds}]  saved "
            f"{saved:+.2f} % {p:10s}  {np.median(speed):9,.0f} targets/s  {np.mean(epochs):4.1f} epochs",
            flush=True,
        )


def ticks(forecaster: Forecaster, batch: int) -> list[Observation]:
    """Make observations as hard as a stream's, as numpy arrays."""
    hard = scenario(forecaster, batch)
    fields = Observation.__dataclass_fields__
    return [Observation(**{f: getattr(at(hard, t), f).numpy() for f in fields}) for t in range(WARM + TICKS)]


def microseconds(group: list[Rival], batch: int) -> list[float]:
    """Give the median CPU time of a step of each, which runs in this thread, the networks timed in turn."""
    made = [Forecaster(r.kind, LogReturn(), r.core()).eval() for r in group]
    sessions, given = [ungated(f) for f in made], ticks(made[0], batch)
    states, taken = [s.initial(batch) for s in sessions], np.zeros((len(group), len(given)))
    for t, tick in enumerate(given):
        for k, session in enumerate(sessions):
            began = time.thread_time_ns()
            _, states[k] = session.step(tick, states[k])
            taken[k, t] = time.thread_time_ns() - began
    return list(np.median(taken[:, WARM:], axis=1) / 1000)


def cost(group: list[Rival]) -> None:
    """Print what a tick and a state cost."""
    one, many = microseconds(group, 1), microseconds(group, 256)
    for rival, first, batch in zip(group, one, many, strict=True):
        held = state_bytes(Forecaster(rival.kind, LogReturn(), rival.core()).state_tensors())
        print(
            f"{rival.label:18s} {rival.weights:6d} weights  tick {first:7.1f} us at batch 1, {batch:8.1f} us at batch "
            f"256  state {held:6d} bytes a series",
            flush=True,
        )


def main() -> None:
    """Measure costs, then judge every set of prices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[24, 64], help="widths of the LSTM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--no-sample", action="store_true", help="judge the files only")
    parser.add_argument("--least", type=int, default=2500, help="prices of a series that is judged")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {RUNTIME_VERSION}; {options.seeds} seeds, at most {options.epochs} epochs"
    )
    torch.set_num_threads(1)
    sets = {} if options.no_sample else {"sample": arrays(sample().drop_nulls())}
    sets |= {p.stem: read(p, options.least) for p in options.files}
    for hidden in options.sizes:
        cost(rivals(hidden))
    for name, prices in sets.items():
        for hidden in options.sizes:
            judge(name, prices, rivals(hidden), options)


if __name__ == "__main__":
    main()
