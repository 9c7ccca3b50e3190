"""S5 on a GPU: epochs over 1,000 series of 10,000 steps, against the bare loop of cuDNN with its data on the device.

In turn, on one device, the same number of epochs each:

- bare: the loop of `train.py`, all inputs and targets resident
- bare, bf16: the same under autocast to bfloat16
- bare, graph: the same, the work of a chunk captured once as a CUDA graph and replayed
- training: the epochs of a fit by this project whose validation split is next to nothing, the first left out
- epochs: those of a fit with the validation split that is the default

Printed for each are nanoseconds a loss target and what that is of the bare loop; then for the fit without validation
the seconds of an epoch, the series-steps a second, the share of that time in which the device computed by torch's
profiler, how often an epoch makes the host wait for the device, and, where `--hourly` says what an hour of the device
costs, what a thousand epochs cost. Without a GPU only `--device cpu` runs, to try the script out: the second and third
loop are then left out, and so is the profile.

    python benchmarks/gpu.py [--cells lstm gru] [--series 1000] [--steps 10000] [--hourly 2.50] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from record import Case, Target, options, tell, timed_case
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from train import CHUNK, OF_BARE, UNVALIDATED, Bare, bare, prices

from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline.training import EpochRecord, Training
from pipeline.training_config import TrainingConfig
from pipeline.windows import SplitConfig, split

Rate = Callable[[], float]


def training(cell: str, given: argparse.Namespace, shares: SplitConfig) -> Training:
    """Begin a fit, one lane a series."""
    data = prices(given.steps, shares, given.series)
    epochs = given.epochs + 3
    config = TrainingConfig(lanes=given.series, chunk=CHUNK, epochs=epochs, patience=epochs, device=given.device)
    network = NetworkConfig(hidden=given.hidden, layers=given.layers)
    return Training(cell, data, split(data, shares), LogReturn(), network=network, config=config)


def timed(records: Iterator[EpochRecord], epochs: int) -> float:
    """Train so many epochs; give loss targets a second. Each epoch ends with its record on the host."""
    began = time.perf_counter()
    return sum(next(records).targets for _ in range(epochs)) / (time.perf_counter() - began)


def in_bf16(cell: str, inputs: Tensor, targets: Tensor, given: argparse.Namespace) -> float:
    """Run the bare loop under autocast; give loss targets a second."""
    with torch.autocast(inputs.device.type, torch.bfloat16):
        return bare(cell, inputs, targets, given)


def captured(cell: str, inputs: Tensor, targets: Tensor, given: argparse.Namespace) -> float:
    """Run the bare loop over whole chunks, each a replay of one CUDA graph; give loss targets a second."""
    torch.manual_seed(0)
    network = Bare(cell, inputs.shape[2], given.hidden, given.layers).to(inputs.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-3, capturable=True)
    whole = inputs.shape[1] // CHUNK * CHUNK
    chunks = list(zip(inputs[:, :whole].split(CHUNK, 1), targets[:, :whole].split(CHUNK, 1), strict=True))
    x, y = (part.clone() for part in chunks[0])
    state = torch.zeros(2 if cell == "lstm" else 1, given.layers, len(x), given.hidden, device=x.device).unbind()
    total = torch.zeros((), device=x.device)

    def step() -> None:
        loss, after = network(x, y, state if cell == "lstm" else state[0])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for held, new in zip(state, after if cell == "lstm" else (after,), strict=True):
            held.copy_(new)
        total.add_(loss.detach())

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):  # what is allocated on first use must be there before the capture
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(given.epochs):
        for held in (*state, total):
            held.zero_()
        for next_x, next_y in chunks:
            x.copy_(next_x)
            y.copy_(next_y)
            graph.replay()
        total.item()
    return targets[:, :whole].numel() * given.epochs / (time.perf_counter() - began)


def busy(records: Iterator[EpochRecord]) -> float:
    """Train an epoch under the profiler; give the share of it in which the device computed."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        seconds = next(records).seconds
    return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / seconds


def waits(records: Iterator[EpochRecord]) -> int:
    """Train an epoch; count the operations in it that made the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            next(records)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in told)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Let all take their turn, for each cell."""
    on_gpu = given.device == "cuda"
    for cell in given.cells:
        fit, validated = (training(cell, given, shares) for shares in (UNVALIDATED, SplitConfig()))
        records, also = iter(fit), iter(validated)
        inputs, targets = fit.train.inputs, fit.train.targets[..., 0, 0]
        calls: dict[str, Rate] = {"bare": lambda c=cell, x=inputs, y=targets: bare(c, x, y, given)}
        if on_gpu:
            calls["bare, bf16"] = lambda c=cell, x=inputs, y=targets: in_bf16(c, x, y, given)
            calls["bare, graph"] = lambda c=cell, x=inputs, y=targets: captured(c, x, y, given)
        calls["training"] = lambda r=records: timed(r, given.epochs)
        calls["epochs"] = lambda r=also: timed(r, given.epochs)
        for first in (records, also):
            next(first)
        rate = {name: call() for name, call in calls.items()}
        seconds = {name: 1 / each for name, each in rate.items()}
        most = {"training": round(1 / OF_BARE[given.device], 3)}
        aims = [Target(of=name, over="bare", most=most.get(name)) for name in seconds if name != "bare"]
        size = f"{given.hidden}x{given.layers}, {given.series:,} series of {given.steps:,}, a target"
        yield timed_case("gpu", f"{cell} {size}, {_device(given.device)}", seconds, unit="ns", targets=aims)
        _tell_epoch(rate["training"], fit, given)
        if on_gpu:
            print(f"  the device computes {busy(records):.0%} of an epoch; the host waits {waits(records)} times")


def _tell_epoch(rate: float, fit: Training, given: argparse.Namespace) -> None:
    """Print what an epoch takes, and costs."""
    epoch = fit.targets / rate
    print(f"  {epoch:.2f} s an epoch, {rate:,.0f} series-steps a second")
    if given.hourly:
        print(f"  1,000 epochs: {epoch / 3.6:.2f} h, {epoch / 3.6 * given.hourly:.2f} at {given.hourly:.2f} an hour")


def _device(kind: str) -> str:
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="*", choices=["lstm", "gru"], default=["lstm", "gru"])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10_000, help="of the train split of each series")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--hourly", type=float, default=0.0, help="what an hour of the device costs, in any currency")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: torch sees no GPU here; nothing was measured. --device cpu tries the script out")
    torch.set_num_threads(1)
    tell(cases(given), given.json)
