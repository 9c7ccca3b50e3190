"""S2, S3: what one new price costs until its one-step forecast is there, for one series and for many at once.

GRU and LSTM 64x2 and an autoregression of order 5, their states carried. From the least to the most:

    nodes      the recurrent nodes of the same file alone, states carried (onnxruntime)
    torch      a torch.nn.GRU or LSTM of the same size, eager, without gradients, states carried
    numpy      five lags times five weights, for the autoregression
    session    the whole file: price in, calibrated quantiles out, a state in and out
    carried    the same with the states held in place
    core       the states of many series: keys checked, rows gathered, the file, rows put back
    lines      the same from JSON lines, read and judged

All of one model run in turn in every round in one process on one thread; medians of the CPU seconds of a call.

    python benchmarks/one_price.py [--rows 1 1000] [--rounds 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from feeding import Market, model_file
from record import Call, Case, Target, interleaved, options, tell, timed_case
from step import bare, feeds, forecaster, session
from walkforward import states_of

from models.autoregressive import Autoregressive
from models.conformal import Conformal
from models.forecaster import Forecaster
from models.graph import trace
from models.observation import LEVELS, Observation
from models.shell import Shell
from models.transforms import LogReturn
from pipeline.carried import Carried
from pipeline.session import Session
from pipeline.stream_core import Core
from pipeline.ticks import parser

LAGS = 5


def autoregression() -> Forecaster:
    """Make an autoregression with given weights and calibrated quantiles."""
    weights = torch.tensor([0.2, -0.1, 0.05, 0.02, -0.01]).reshape(1, 1, 1, LAGS)
    one = torch.ones(1, 1, 1)
    core = Autoregressive("ar", weights, 0 * one, 0.01 * one, torch.full((1,), torch.inf))
    offsets = torch.zeros(1, 1, len(LEVELS))
    return Forecaster("ar", LogReturn(), Conformal(core, offsets, offsets + 0.01)).eval()


def nodes(model: Shell, rows: int) -> Call:
    """Step the recurrent nodes of a model alone."""
    floor = bare(trace(model))
    runtime, now = session(floor), feeds(floor, rows)
    outputs = [o.name for o in floor.graph.output]
    following = dict(zip([i.name for i in floor.graph.input][1:], [outputs[k] for k in states_of(floor)], strict=True))

    def step() -> None:
        made = dict(zip(outputs, runtime.run(outputs, now), strict=True))
        now.update({name: made[after] for name, after in following.items()})

    return step


def in_torch(cell: str, rows: int) -> Call:
    """Step a network of torch, which is given one number a row."""
    network = getattr(torch.nn, cell.upper())(1, 64, 2).eval()
    x, state = torch.randn(1, rows, 1), None

    def step() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = network(x, state)

    return step


def in_numpy(rows: int) -> Call:
    """Step an autoregression that is nothing but its lags and weights."""
    lags, weights, price = np.zeros((rows, LAGS)), np.array([0.2, -0.1, 0.05, 0.02, -0.01]), np.full(rows, 100.0)

    def step() -> object:
        nonlocal price
        following = price * 1.001
        lags[:, 1:], lags[:, 0], price = lags[:, :-1].copy(), np.log(following / price), following
        return lags @ weights

    return step


def in_session(file: bytes, rows: int) -> Call:
    """Step a whole file, whose states are carried by hand."""
    runtime = Session(file)
    state, price = runtime.initial(rows), np.full((rows, 1), 100.0)
    none = np.zeros((rows, 0), np.float32)

    def step() -> object:
        nonlocal state, price
        price = price * 1.001
        seen = Observation(
            price=price,
            mask=np.ones((rows, 1), bool),
            series=np.zeros(rows, np.int64),
            past=none,
            future=none[:, None],
            elapsed=np.ones(rows, np.float32),
        )
        forecast, state = runtime.step(seen, state)
        return forecast

    return step


def in_place(file: bytes, rows: int) -> Call:
    """Step a whole file, whose states are held where they are."""
    desk, price = Carried(Session(file), [f"S{k}" for k in range(rows)]), np.full(rows, 100.0)

    def step() -> object:
        nonlocal price
        price = price * 1.001
        return desk.step(price)

    return step


def in_core(file: bytes, rows: int, count: int, *, lines: bool) -> Call:
    """Step the core of a stream on so many ticks of each series, given as columns or as lines."""
    market, core, parse = Market(rows), Core(Session(file), max_series=rows), parser(b"{}")
    told = market.lines(rows * count)
    batches = [told[k : k + rows] for k in range(0, len(told), rows)]
    given = map(parse, batches) if lines else iter([parse(batch) for batch in batches])

    def step() -> object:
        applied = core.apply(next(given))
        assert len(applied.quantile) == rows
        return applied

    return step


def calls(kind: str, rows: int, count: int) -> dict[str, Call]:
    """Give the steps of one model by name, the floors first; each can be called `count` times."""
    model = autoregression() if kind == "ar" else forecaster(kind, 64, 2)
    file = model_file(model)
    if kind == "ar":
        floors: dict[str, Call] = {"numpy": in_numpy(rows)}
    else:
        floors = {"nodes": nodes(model, rows), "torch": in_torch(kind, rows)}
    return floors | {
        "session": in_session(file, rows),
        "carried": in_place(file, rows),
        "core": in_core(file, rows, count, lines=False),
        "lines": in_core(file, rows, count, lines=True),
    }


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure every kind at every number of series."""
    for rows in given.rows:
        repeats = max(2, 100 // rows)
        for kind in given.kinds:
            steps = calls(kind, rows, (given.rounds + 1) * repeats)
            seconds = interleaved(steps, rounds=given.rounds, repeats=repeats, clock=time.process_time)
            case = f"{kind}, {rows:,} series"
            yield timed_case("one_price", case, seconds, unit="us", each=rows, targets=aims(kind, rows))


def aims(kind: str, rows: int) -> list[Target]:
    """Say what the whole file is to be of the nodes alone in a batch, and of torch for one price."""
    floor = "numpy" if kind == "ar" else "nodes"
    found = [Target(of="carried", over=floor, most=1.25 if rows > 1 and kind != "ar" else None)]
    if kind != "ar":
        found.append(Target(of="carried", over="torch", most=1.0 if rows == 1 else None))
    return [*found, Target(of="session", over=floor), Target(of="core", over=floor)]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", nargs="*", choices=["gru", "lstm", "ar"], default=["gru", "lstm", "ar"])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 1000])
    parser.add_argument("--rounds", type=int, default=30)


if __name__ == "__main__":
    given = options(__doc__, arguments)
    torch.set_num_threads(1)
    tell(cases(given), given.json)
