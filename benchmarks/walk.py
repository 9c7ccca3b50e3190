"""S7: what a walk of 1,000 origins costs against the recurrent nodes alone.

One series, one step, one fit: the whole walk, raw prices in and a table of forecasts with their outcomes out, in torch
and with the exported file in its session. The floor is a graph that has only the recurrent nodes of that very file,
with their weights, called once an origin with the state carried. All run interleaved in one process on one thread;
medians of many rounds.

    python benchmarks/walk.py [--cell gru] [--hidden 64] [--layers 2] [--origins 1000]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import onnx
import torch
from step import bare, feeds, forecaster, session

from models.graph import trace
from models.transforms import LogReturn
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.export import ungated
from pipeline.session import RUNTIME_VERSION
from pipeline.windows import Panel, panel

DAY = 86_400_000_000


def prices(count: int) -> Panel:
    """Draw a random walk of daily prices."""
    moves = np.random.default_rng(0).normal(scale=0.01, size=count)
    return panel(["S"] * count, np.arange(count) * DAY, 100 * np.exp(np.cumsum(moves)))


def carried(model: onnx.ModelProto, count: int) -> Callable[[], None]:
    """Give a function that calls the recurrent nodes so many times, their states carried."""
    runtime = session(model)
    inputs = feeds(model, 1)
    states = [i.name for i in model.graph.input][1:]
    outputs = [o.name for o in model.graph.output]
    following = [outputs[k] for k in states_of(model)]
    assert len(following) == len(states)

    def run() -> None:
        now = dict(inputs)
        for _ in range(count):
            out = dict(zip(outputs, runtime.run(outputs, now), strict=True))
            now |= {name: out[after] for name, after in zip(states, following, strict=True)}

    return run


def states_of(model: onnx.ModelProto) -> list[int]:
    """Find the outputs that are the states after the step: Y_h, and for an LSTM Y_c."""
    made = [o.name for o in model.graph.output]
    return [made.index(name) for node in model.graph.node for name in node.output[1:] if name]


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Give the median seconds of each, all run in turn in every round."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - start)
    return {name: float(np.median(s)) for name, s in samples.items()}


def told(seconds: dict[str, float]) -> None:
    """Print each median, and how many times that of the first it is."""
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"{name:16} {value * 1e3:8.1f} ms {value / first:6.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=["rnn", "lstm", "gru"], default="gru")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--origins", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = forecaster(options.cell, options.hidden, options.layers)
    data, file = prices(options.origins + 1), ungated(network)
    origins = data.published
    origins[:, -1] = False
    runs: dict[str, Callable[[], object]] = {
        "recurrent nodes": carried(bare(trace(network)), options.origins),
        "walk, torch": lambda: walk_forward(network, data, origins),
        "walk, session": lambda: walk_session_forward(file, options.cell, LogReturn(), data, origins),
    }
    interleaved(runs, 2)
    seconds = interleaved(runs, options.rounds)
    versions = f"torch {torch.__version__}, onnxruntime {RUNTIME_VERSION}, numpy {np.__version__}"
    print(f"{options.origins} origins of one series, {options.cell} {options.hidden}x{options.layers}, one thread")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    told(seconds)


if __name__ == "__main__":
    main()
