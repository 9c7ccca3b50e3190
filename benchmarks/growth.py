"""How each cost grows with what drives it, on logarithmic axes: linear where it must be, level where it must not grow.

    series      one tick of every series through the core of a stream, GRU 64x2, 1 to 100,000 series: linear
    history     one tick more of 100 series that have shown 10 to 10,000 ticks: level, for the state is carried
    horizon     one step of the whole file, 1 to 1,000 steps ahead: linear at most
    units       one step of 256 series, 2 to 2,000 units in one layer: the square of the units at most
    ar length   orders 0 to 20 of 20 series and their coefficients, 1,000 to 1,000,000 moves each: linear
    walk        a walk over one series, GRU 16x1, 100 to 100,000 origins: linear
    training    an epoch, GRU 16x1 in 64 lanes, 6,400 to 6,400,000 targets: linear

The slope is that of the straight line through the larger half of the sizes, in decades of both axes; seconds of the
CPU, the least of a few rounds. `growth_figure.py` draws them.

    python benchmarks/growth.py [--drivers series ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from feeding import Market, model_file
from record import Call, Case, Target, options, tell
from step import feeds, session
from train import LANES
from train import prices as lanes_of_prices
from walkforward import prices

from models.conformal import Conformal
from models.forecaster import Forecaster
from models.graph import trace
from models.least_squares import autoregressions
from models.network import Network, NetworkConfig
from models.observation import LEVELS
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.session import Session
from pipeline.stream_core import Core
from pipeline.ticks import parser
from pipeline.training import Training
from pipeline.training_config import TrainingConfig
from pipeline.windows import SplitConfig, split

DECADES = (1, 10, 100, 1_000, 10_000, 100_000)


def network(hidden: int = 64, layers: int = 2, horizon: int = 1) -> Forecaster:
    """Make a GRU with random weights and calibrated quantiles, of which those of the next step are tracked."""
    torch.manual_seed(0)
    core = Network("gru", NetworkConfig(hidden=hidden, layers=layers), unit=0.01, horizon=horizon)
    offsets = torch.zeros(horizon, 1, len(LEVELS))
    return Forecaster("gru", LogReturn(), Conformal(core, offsets, offsets[:1] + 0.01)).eval()


def rounds_of(series: int, before: int = 0) -> Call:
    """Give one round of ticks of every series through a core that has seen so many rounds."""
    market, core, parse = Market(series), Core(Session(model_file(network())), max_series=series), parser(b"{}")

    def step(count: int = 1) -> float:
        lines = market.lines(count * series)
        batches = [parse(lines[k : k + 4000]) for k in range(0, len(lines), 4000)]
        began = time.process_time()
        for batch in batches:
            core.apply(batch)
        return time.process_time() - began

    for start in range(0, before, 1000):
        step(min(1000, before - start))
    return step


def stepped(hidden: int = 64, layers: int = 2, horizon: int = 1, rows: int = 1) -> Call:
    """Give one step of a whole file."""
    proto = trace(network(hidden, layers, horizon))
    runtime, inputs = session(proto), feeds(proto, rows)
    return lambda: runtime.run(None, inputs)


def regressed(length: int) -> Call:
    """Give autoregressions of 20 series."""
    series = list(np.random.default_rng(0).standard_normal((20, length)))
    return lambda: autoregressions(series, 20)


def walked(count: int) -> Call:
    """Give a walk over one series."""
    model, data = network(16, 1), prices(count + 1)
    origins = data.published
    origins[:, -1] = False
    return lambda: walk_forward(model, data, origins)


def trained(targets: int) -> Call:
    """Give one epoch over so many targets in lanes of equal length."""
    data = lanes_of_prices(targets // LANES, SplitConfig())
    config = TrainingConfig(lanes=LANES, chunk=64, epochs=10_000, patience=10_000, device="cpu")
    shape = NetworkConfig(hidden=16, layers=1)
    epochs = iter(Training("gru", data, split(data, SplitConfig()), LogReturn(), network=shape, config=config))
    return lambda: next(epochs)


DRIVERS: dict[str, tuple[Callable[[int], Call], tuple[int, ...], float]] = {
    "series": (rounds_of, DECADES, 1.05),
    "history": (lambda ticks: rounds_of(100, ticks), DECADES[1:5], 0.05),
    "horizon": (lambda steps: stepped(horizon=steps), DECADES[:4], 1.05),
    "units": (lambda units: stepped(units, 1, rows=256), (2, 20, 200, 2_000), 2.05),
    "ar length": (regressed, (1_000, 10_000, 100_000, 1_000_000), 1.05),
    "walk": (walked, DECADES[2:], 1.05),
    "training": (trained, (6_400, 64_000, 640_000, 6_400_000), 1.05),
}
"""What is called at each size, the sizes, and the slope that is to be stayed under."""


def least(call: Call, most: float = 2.0) -> float:
    """Give the least seconds of the CPU of a call, over seven or as many as fit into a time, after one that warms up.

    A call that measures itself gives its seconds.
    """
    taken: list[float] = []
    first = time.perf_counter()
    call()
    once = time.perf_counter() - first
    for _ in range(7 if once < most / 7 else max(1, int(most / once))):
        began = time.process_time()
        own = call()
        taken.append(own if isinstance(own, float) else time.process_time() - began)
    return min(taken)


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Give the slope in decades over the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log10(sizes[-half - 1 :]), np.log10(seconds[-half - 1 :]), 1)[0])


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure each driver at its sizes: a case a size, and then the slopes of all."""
    measured: dict[str, list[float]] = {}
    for name in given.drivers:
        make, sizes, _ = DRIVERS[name]
        measured[name] = []
        for size in sizes:
            measured[name].append(least(make(size)))
            yield Case(claim="growth", case=f"{name} {size:,}", unit="ms", values={"cost": measured[name][-1] * 1e3})
    for name, seconds in measured.items():
        _, sizes, most = DRIVERS[name]
        values = {"slope": slope(sizes, seconds)}
        case = f"{name}, {sizes[0]:,} to {sizes[-1]:,}"
        yield Case(claim="growth", case=case, unit="decades", values=values, targets=(Target(of="slope", most=most),))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drivers", nargs="*", choices=list(DRIVERS), default=list(DRIVERS))


if __name__ == "__main__":
    given = options(__doc__, arguments)
    torch.set_num_threads(1)
    tell(cases(given), given.json)
