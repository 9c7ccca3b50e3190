"""S1: what a whole step costs against the bare recurrent nodes of the same file.

The whole step is raw price in, calibrated quantiles and state out, zero-state start included, as it is served. The
floor is a graph that has only the recurrent nodes of that very file, with their weights, fed from outside. Both run
interleaved in one process on one thread; medians of many rounds. Both are also run with their inputs and outputs
bound beforehand: the difference is what handing arrays in and out takes. Then onnxruntime's own profiler says where
the rest goes, operator by operator. With `--calendar` the network also reads four features of the calendar one bar
ahead; to compute them from the times of the ticks, as the stream does, is then part of the step.

    python benchmarks/step.py [--cell gru lstm] [--sizes 32x1 64x2 256x3] [--calendar] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from record import Case, Target, interleaved, options, tell, timed_case

from models.conformal import Conformal
from models.forecaster import Forecaster
from models.graph import trace
from models.network import Network, NetworkConfig
from models.observation import LEVELS
from models.transforms import LogReturn
from pipeline.calendar_features import ahead
from pipeline.session import onnxruntime

CALENDAR = ("@hour_sin", "@hour_cos", "@weekday_sin", "@weekday_cos")
HOUR = 3_600_000_000
RECURRENT = {"RNN", "LSTM", "GRU"}
NUMPY = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BOOL: np.bool_,
    TensorProto.INT64: np.int64,
}


def forecaster(cell: str, hidden: int, layers: int, reads: tuple[str, ...] = ()) -> Forecaster:
    """Make a network with random weights and calibrated quantiles, as fits give them by default."""
    torch.manual_seed(0)
    core = Network(cell, NetworkConfig(hidden=hidden, layers=layers), unit=0.01, future=len(reads))
    offsets = torch.zeros(1, 1, len(LEVELS))
    return Forecaster(cell, LogReturn(), Conformal(core, offsets, offsets + 0.01), future_names=reads).eval()


def session(model: onnx.ModelProto, *, profile: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = profile
    options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "statecast-step")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep only the recurrent nodes of a model, chained, their inputs fed from outside in the shapes they take."""
    nodes = [n for n in model.graph.node if n.op_type in RECURRENT]
    weights = {i.name: i for i in model.graph.initializer}
    hidden = next(a.i for a in nodes[0].attribute if a.name == "hidden_size")
    width = weights[nodes[0].input[1]].dims[2]
    inputs = [helper.make_tensor_value_info(nodes[0].input[0], TensorProto.FLOAT, [1, "B", width])]
    states = [name for n in nodes for name in n.input[5:] if name]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "B", hidden]) for name in states]
    made = [name for n in nodes for name in n.output if name]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "B", hidden]) for name in made]
    kept = [w for name, w in weights.items() if any(name in n.input for n in nodes)]
    proto = helper.make_model(helper.make_graph(nodes, "bare", inputs, outputs, kept), opset_imports=model.opset_import)
    proto.ir_version = model.ir_version
    return proto


def feeds(model: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    """Make inputs of a batch: prices around 100, states as after many steps."""
    rng = np.random.default_rng(0)
    out = {}
    for i in model.graph.input:
        shape = [batch if d.dim_param else d.dim_value for d in i.type.tensor_type.shape.dim]
        dtype = NUMPY[i.type.tensor_type.elem_type]
        if dtype == np.bool_:
            out[i.name] = np.ones(shape, dtype)
        elif i.name == "state.count":
            out[i.name] = np.full(shape, 10, dtype)
        elif i.name in ("price", "state.price"):
            out[i.name] = 100 * np.exp(rng.normal(size=shape) * 0.01)
        elif i.name == "state.variance":
            out[i.name] = rng.uniform(0.5, 2, size=shape).astype(dtype)
        else:
            out[i.name] = (rng.normal(size=shape) * 0.3).astype(dtype)
    return out


def call(model: onnx.ModelProto, batch: int, reads: tuple[str, ...] = ()) -> Callable[[], object]:
    """Give one call of a model; what it reads of the calendar is computed anew at each."""
    runtime, inputs = session(model), feeds(model, batch)
    if not reads:
        return lambda: runtime.run(None, inputs)
    times = HOUR * np.arange(batch)
    return lambda: runtime.run(None, inputs | {"future": ahead(reads, times, HOUR, 1)})


def bound(model: onnx.ModelProto, batch: int) -> Callable[[], object]:
    """Give one call of a model whose inputs and outputs lie where they are, so that no array goes in or out."""
    runtime, inputs = session(model), feeds(model, batch)
    binding = runtime.io_binding()
    for name, x in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    for output, x in zip(model.graph.output, runtime.run(None, inputs), strict=True):
        binding.bind_ortvalue_output(output.name, onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(x)))
    return lambda: runtime.run_with_iobinding(binding)


def account(model: onnx.ModelProto, batch: int, calls: int = 500) -> list[tuple[str, int, float]]:
    """Profile the step: (operator, nodes, sum of their median microseconds), the dearest first."""
    runtime = session(model, profile=True)
    inputs = feeds(model, batch)
    for _ in range(calls):
        runtime.run(None, inputs)
    path = Path(runtime.end_profiling())
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"], event["name"]].append(event["dur"])
    path.unlink()
    spent: dict[str, list[float]] = defaultdict(list)
    for (op, _), durations in taken.items():
        spent[op].append(float(np.median(durations)))
    return sorted(((op, len(each), sum(each)) for op, each in spent.items()), key=lambda row: -row[2])


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure every network at every batch, then tell where the time of the first one goes."""
    reads = CALENDAR if given.calendar else ()
    for cell, (hidden, layers) in itertools.product(given.cell, given.sizes):
        whole = trace(forecaster(cell, hidden, layers, reads))
        floor = bare(whole)
        for batch in given.batch:
            calls = {
                "nodes": call(floor, batch),
                "step": call(whole, batch, reads),
                "nodes, bound": bound(floor, batch),
                "step, bound": bound(whole, batch),
            }
            seconds = interleaved(calls, rounds=given.rounds, repeats=max(2, 400 // batch))
            case = f"{cell} {hidden}x{layers}, batch {batch:,}" + (", with the calendar" if reads else "")
            yield timed_case("step", case, seconds, unit="us", targets=aims(batch))
    for batch in (given.batch[0], given.batch[-1]):
        _print_account(given.cell[0], given.sizes[0], batch, reads)


def aims(batch: int) -> tuple[Target, ...]:
    """Say what the whole step is to be of its nodes at most."""
    most = 1.8 if batch == 1 else 1.15 if batch >= 256 else None
    return Target(of="step", over="nodes", most=most), Target(of="step, bound", over="nodes, bound")


def _size(text: str) -> tuple[int, int]:
    """Read units and layers: 64x2."""
    hidden, layers = text.split("x")
    return int(hidden), int(layers)


def _print_account(cell: str, size: tuple[int, int], batch: int, reads: tuple[str, ...]) -> None:
    """Print where the time of one step goes: the recurrent nodes, then the rest, the dearest first."""
    rows = account(trace(forecaster(cell, *size, reads)), batch)
    rest = [row for row in rows if row[0] not in RECURRENT]
    print(f"\nwhere the time of {cell} {size[0]}x{size[1]} goes at batch {batch} (kernels only, profiler on)")
    for name, part in (("recurrent", [row for row in rows if row[0] in RECURRENT]), ("the rest", rest)):
        print(f"  {name:12} {sum(row[1] for row in part):3} nodes {sum(row[2] for row in part):9.2f} us")
    for op, nodes, us in rest:
        print(f"    {op:10} {nodes:3} nodes {us:9.2f} us")


def arguments(parser: argparse.ArgumentParser) -> None:
    sizes = [(32, 1), (64, 2), (128, 2), (256, 3)]
    parser.add_argument("--cell", choices=["rnn", "lstm", "gru"], nargs="*", default=["gru", "lstm"])
    parser.add_argument("--sizes", type=_size, nargs="*", default=sizes, help="units x layers, as 64x2 256x3")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 256, 1024])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calendar", action="store_true", help="let the network read the calendar one bar ahead")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
