"""S5: how fast a network is trained, against the bare loop of torch and as a whole fit.

Random walks of equal length are trained on in 64 lanes and chunks of 64. Four things run in turn, the same number of
epochs each, on the CPU on one thread or on a GPU:

- bare: what anybody would write, `nn.LSTM` or `nn.GRU` and one linear layer over inputs that lie ready, the likelihood
  of a Student t, gradients clipped, AdamW, the state carried from chunk to chunk and detached; no validation
- training: the epochs of a fit by this project whose validation split is next to nothing, the first left out
- epochs: those of a fit with the validation split that is the default, a quarter of the train split
- whole fit: the same, prices in, forecaster out; inputs, scales and lanes are made, the best epoch is kept, nothing is
  calibrated

Both cells take turns as well, for memory and other jobs let a machine be fast for a while and slow for another. Printed
for each are microseconds a loss target, of the time that the process had (on a GPU, of the clock), median of the
rounds, and what that is of the bare loop; then GRU beside LSTM.

    python benchmarks/train.py [--hidden 64] [--layers 2] [--epochs 5] [--device cpu] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from record import Case, Target, options, tell, timed_case
from torch import Tensor, nn

from models.conformal import ConformalConfig
from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline.fitting import FitConfig, fit
from pipeline.training import EpochRecord, Training
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split, SplitConfig, panel, split

DAY = 86_400_000_000
LANES = CHUNK = 64
CELLS = ("lstm", "gru")
UNVALIDATED = SplitConfig(validation=0.004)
"""A validation split of some twenty steps a lane: what is left of an epoch is training."""
OF_BARE = {"cpu": 0.95, "cuda": 0.9}
"""What the rate of a whole fit is to be of the bare loop at least."""

RATES = ("bare", "training", "epochs", "whole fit")


def prices(length: int, shares: SplitConfig, series: int = LANES) -> Panel:
    """Draw random walks, one a lane, of so many prices before the end of train."""
    rng, each = np.random.default_rng(0), round(length / (1 - shares.validation - shares.test))
    moves = rng.standard_t(5, size=(series, each)) * 0.01
    names = np.repeat([f"S{k:05d}" for k in range(series)], each)
    return panel(names, np.tile(np.arange(each) * DAY, series), 100 * np.exp(np.cumsum(moves, 1)).ravel())


class Bare(nn.Module):
    """The network, and nothing around it."""

    def __init__(self, cell: str, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = getattr(nn, cell.upper())(inputs, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, 2)
        self.log_df = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, y: Tensor, state: tuple[Tensor, ...] | Tensor | None) -> tuple[Tensor, object]:
        """Give the mean loss over a chunk, and the state after it without its history."""
        top, state = self.layers(x, state)
        loc, log_scale = self.output(top).unbind(-1)
        df = 2.1 + self.log_df.exp()  # torch.distributions would make the host wait for a GPU
        norm = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - (df * torch.pi).log() / 2
        tail = (df + 1) / 2 * torch.log1p(((y - loc) / log_scale.exp()).square() / df)
        loss = (tail + log_scale - norm).mean()
        return loss, tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


def bare(cell: str, inputs: Tensor, targets: Tensor, options: argparse.Namespace) -> float:
    """Train the bare loop; give loss targets a second."""
    torch.manual_seed(0)
    network = Bare(cell, inputs.shape[2], options.hidden, options.layers).to(inputs.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-3)
    _wait(inputs.device)
    clock = _clock(inputs.device.type)
    began = clock()
    for _ in range(options.epochs):
        state, total = None, torch.zeros((), device=inputs.device)
        for x, y in zip(inputs.split(CHUNK, 1), targets.split(CHUNK, 1), strict=True):
            loss, state = network(x, y, state)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            total += loss.detach()
        total.item()
    return targets.numel() * options.epochs / (clock() - began)


def ours(cell: str, data: Panel, cut: Split, config: FitConfig) -> tuple[float, float]:
    """Fit by this project; give loss targets a second in its epochs after the first, and in the whole fit."""
    told: list[tuple[float, EpochRecord]] = []
    clock, began = _clock(config.training.device), _clock(config.training.device)()
    fit(cell, data, cut, LogReturn(), config, on_epoch=lambda record: told.append((clock(), record)))
    whole = clock() - began
    (first, _), *rest = told
    targets = sum(record.targets for _, record in rest)
    return targets / (rest[-1][0] - first), sum(record.targets for _, record in told) / whole


def _clock(device: str) -> Callable[[], float]:
    """On the CPU, where one thread works, time is counted that the process had: other jobs take some of the other."""
    return time.process_time if device == "cpu" else time.perf_counter


def one_round(cell: str, made: Training, config: FitConfig, options: argparse.Namespace) -> tuple[float, ...]:
    """Let the four take their turn; give their rates in the order of `RATES`."""
    inputs, targets = made.train.inputs, made.train.targets[..., 0, 0]
    floor = bare(cell, inputs, targets, options)
    rates = []
    for shares in (UNVALIDATED, SplitConfig()):
        data = prices(options.length, shares)
        rates.append(ours(cell, data, split(data, shares), config))
    without, whole = rates
    return floor, without[0], *whole


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Let all take turns, round by round; give a case a cell, and one a row of GRU beside LSTM."""
    network = NetworkConfig(hidden=given.hidden, layers=given.layers)
    training = TrainingConfig(lanes=LANES, chunk=CHUNK, epochs=given.epochs, patience=given.epochs, device=given.device)
    config = FitConfig(network=network, training=training, conformal=ConformalConfig(track="off"))
    data = prices(given.length, SplitConfig())
    cut = split(data, SplitConfig())
    made = {cell: Training(cell, data, cut, LogReturn(), network=network, config=training) for cell in CELLS}
    rounds = [[one_round(cell, made[cell], config, given) for cell in CELLS] for _ in range(given.rounds)]
    seconds = 1 / np.median(rounds, 0)  # cell, rate
    size = f"{given.hidden}x{given.layers}, {LANES} lanes of {given.length:,}, a target"
    size += "" if given.device == "cpu" else f", {given.device}"
    most = round(1 / OF_BARE[given.device], 3)
    for cell, each in zip(CELLS, seconds.tolist(), strict=True):
        aims = [Target(of=name, over="bare", most=most if name == "whole fit" else None) for name in RATES[1:]]
        yield timed_case("train", f"{cell} {size}", dict(zip(RATES, each, strict=True)), unit="us", targets=aims)
    for name, each in zip(RATES, seconds.T.tolist(), strict=True):
        aims = [Target(of="gru", over="lstm", most=1.0 if name != "bare" and given.device == "cpu" else None)]
        yield timed_case("train", f"{name}, {size}", dict(zip(CELLS, each, strict=True)), unit="us", targets=aims)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=4096, help="steps of a lane")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    torch.set_num_threads(1)
    tell(cases(given), given.json)
