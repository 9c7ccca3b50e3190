"""S7: what a walk of 1,000 origins costs against one pass of the recurrent nodes over the same prices.

One series, one step, one fit: the whole walk, raw prices in and a table of forecasts with their outcomes out, from the
fitted forecaster and with the exported file in its session. The floors have only the recurrent nodes of that very file,
with their weights: one call over the whole sequence, and one call an origin with the state carried, which is what the
file has to do. All run interleaved in one process on one thread.

    python benchmarks/walkforward.py [--cells gru lstm] [--origins 1000] [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from record import Call, Case, Target, interleaved, options, tell, timed_case
from step import bare, feeds, forecaster, session

from models.graph import trace
from models.transforms import LogReturn
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.export import ungated
from pipeline.windows import Panel, panel

DAY = 86_400_000_000
TARGETS = (
    Target(of="walk", over="one pass", most=2),
    Target(of="walk of the file", over="nodes, step by step"),
)


def prices(count: int) -> Panel:
    """Draw a random walk of daily prices."""
    moves = np.random.default_rng(0).normal(scale=0.01, size=count)
    return panel(["S"] * count, np.arange(count) * DAY, 100 * np.exp(np.cumsum(moves)))


def carried(model: onnx.ModelProto, count: int) -> Call:
    """Give a function that calls the recurrent nodes so many times, their states carried."""
    runtime = session(model)
    inputs = feeds(model, 1)
    states = [i.name for i in model.graph.input][1:]
    outputs = [o.name for o in model.graph.output]
    following = [outputs[k] for k in states_of(model)]

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


def over_time(model: onnx.ModelProto, count: int) -> Call:
    """Give a function that runs the recurrent nodes of a model once over so many steps, from a zero state."""
    weights = {i.name: i for i in model.graph.initializer}
    axis = helper.make_tensor("direction", TensorProto.INT64, [1], [1])
    nodes, width = [], weights[model.graph.node[0].input[1]].dims[2]
    for k, node in enumerate(model.graph.node):
        chained = onnx.NodeProto.FromString(node.SerializeToString())
        chained.ClearField("input")
        chained.ClearField("output")
        chained.input.extend([f"x{k}", *node.input[1:4]])
        chained.output.append(f"y{k}")
        nodes += [chained, helper.make_node("Squeeze", [f"y{k}", "direction"], [f"x{k + 1}"])]
    given = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["T", 1, width])
    made = helper.make_tensor_value_info(f"x{len(nodes) // 2}", TensorProto.FLOAT, ["T", 1, "H"])
    graph = helper.make_graph(nodes, "pass", [given], [made], [*weights.values(), axis])
    proto = helper.make_model(graph, opset_imports=model.opset_import)
    proto.ir_version = model.ir_version
    runtime, x = session(proto), np.random.default_rng(0).normal(size=(count, 1, width)).astype(np.float32)
    return lambda: runtime.run(None, {"x0": x})


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure each cell."""
    data = prices(given.origins + 1)
    origins = data.published
    origins[:, -1] = False
    for cell in given.cells:
        network = forecaster(cell, 64, 2)
        file = ungated(network)
        nodes = bare(trace(network))
        calls: dict[str, Call] = {
            "one pass": over_time(nodes, given.origins),
            "walk": lambda n=network: walk_forward(n, data, origins),
            "nodes, step by step": carried(nodes, given.origins),
            "walk of the file": lambda f=file, c=cell: walk_session_forward(f, c, LogReturn(), data, origins),
        }
        seconds = interleaved(calls, rounds=given.rounds, clock=time.process_time)
        yield timed_case("walkforward", f"{cell} 64x2, {given.origins:,} origins", seconds, unit="ms", targets=TARGETS)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="*", choices=["rnn", "lstm", "gru"], default=["gru", "lstm"])
    parser.add_argument("--origins", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)


if __name__ == "__main__":
    given = options(__doc__, arguments)
    torch.set_num_threads(1)
    tell(cases(given), given.json)
