"""A traced step is one node an operation, with torch's values, and nothing that nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from test_contract import KINDS, recurrent

from models.forecaster import Forecaster
from models.graph import IR_VERSION, OPSET, Graph, Symbol, annotate, inputs, trace
from models.operations import TorchOperations
from models.transforms import AsinhDifference, LogReturn

RNG = np.random.default_rng(1)
FLOAT32 = np.float32
Arrays = dict[str, NDArray[Any]]


def run(build: Callable[[Any, Any], Any], given: Arrays) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[str]]:
    """Do the same on symbols and on tensors: what the runtime gives, what torch gives, and the nodes emitted."""
    graph = Graph()
    symbols = {k: Symbol(graph, k, str(v.dtype)) for k, v in given.items()}
    traced = _flat(build(graph, symbols))
    eager = _flat(build(TorchOperations, {k: torch.from_numpy(v) for k, v in given.items()}))
    kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in given.items()}
    declared = [helper.make_tensor_value_info(k, kinds[k], v.shape) for k, v in given.items()]
    out = [
        helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype)), None) for s in traced
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "one", declared, out, list(graph.initializers.values())),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    proto.ir_version = IR_VERSION
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return (
        list(session.run([s.name for s in traced], given)),
        [x.numpy() for x in eager],
        [n.op_type for n in graph.nodes],
    )


def _flat(x: Any) -> list[Any]:
    return [z for y in x for z in _flat(y)] if isinstance(x, list | tuple) else [x]


def normal(*shape: int) -> NDArray[np.float32]:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(FLOAT32)


HARD = np.array([[0.5, -2.0, np.nan, np.inf, -np.inf, 0.0]], FLOAT32)
FLAGS = np.array([[True, False], [False, False], [True, True]])
OPERATIONS: dict[str, tuple[Callable[[Any, Any], Any], Arrays]] = {
    "where": (lambda xp, x: xp.where(x["c"], x["a"], 0.0), {"c": FLAGS, "a": normal(3, 2)}),
    "isnan": (lambda xp, x: xp.isnan(x["a"]), {"a": HARD}),
    "log": (lambda xp, x: xp.log(x["a"]), {"a": np.exp(RNG.normal(size=(3, 2)))}),
    "exp": (lambda xp, x: xp.exp(x["a"]), {"a": HARD}),
    "sqrt": (lambda xp, x: xp.sqrt(x["a"]), {"a": np.abs(normal(3, 2))}),
    "abs": (lambda xp, x: xp.abs(x["a"]), {"a": HARD}),
    "softplus": (lambda xp, x: xp.softplus(x["a"]), {"a": normal(3, 2) * 10}),
    "sigmoid": (lambda xp, x: xp.sigmoid(x["a"]), {"a": HARD}),
    "tanh": (lambda xp, x: xp.tanh(x["a"]), {"a": normal(3, 2)}),
    "relu": (lambda xp, x: xp.relu(x["a"]), {"a": normal(3, 2)}),
    "clip": (lambda xp, x: xp.clip(x["a"], -1.0, 0.25), {"a": np.array([[0.5, -2.0, 0.1, np.inf, -np.inf, 0.0]])}),
    "equal": (lambda xp, x: xp.equal(x["a"], x["b"]), {"a": HARD, "b": HARD[:, ::-1].copy()}),
    "minimum": (lambda xp, x: xp.minimum(x["a"], x["b"]), {"a": normal(3, 2), "b": normal(2)}),
    "sign": (lambda xp, x: xp.sign(x["a"]), {"a": HARD[:, [0, 1, 3, 4, 5]]}),
    "any": (lambda xp, x: xp.any(x["a"], 1), {"a": FLAGS}),
    "sum": (lambda xp, x: xp.sum(x["a"], 2), {"a": normal(3, 2, 4)}),
    "concat": (lambda xp, x: xp.concat([x["a"], x["b"]], 1), {"a": normal(3, 2), "b": normal(3, 1)}),
    "split": (lambda xp, x: xp.split(x["a"], [1, 3, 1], 1), {"a": normal(3, 5)}),
    "repeat": (lambda xp, x: xp.repeat(x["a"], 4), {"a": normal(3, 1)}),
    "outer": (
        lambda xp, x: xp.outer(x["a"], xp.constant(torch.tensor([2.0, 3.0])), x["b"]),
        {"a": normal(3, 1), "b": normal(3, 2)},
    ),
    "reshape": (lambda xp, x: xp.reshape(x["a"], (-1, 2, 2)), {"a": normal(3, 4)}),
    "unsqueeze": (lambda xp, x: xp.unsqueeze(x["a"], 1), {"a": normal(3, 4)}),
    "transpose": (lambda xp, x: xp.transpose(x["a"], (1, 0, 2)), {"a": normal(3, 2, 4)}),
    "sort": (lambda xp, x: xp.sort(x["a"], 11), {"a": normal(3, 2, 11)}),
    "take": (lambda xp, x: xp.take(x["a"], x["rows"]), {"a": normal(4, 3), "rows": np.array([3, 0, 3])}),
    "linear": (lambda xp, x: xp.linear(x["a"], x["w"], x["b"]), {"a": normal(3, 4), "w": normal(2, 4), "b": normal(2)}),
    "softmax": (lambda xp, x: xp.softmax(x["a"]), {"a": np.array([[0.5, -np.inf, 2.0], [9.0, 9.0, -80.0]], FLOAT32)}),
    "layer_norm": (
        lambda xp, x: xp.layer_norm(x["a"], x["w"], x["b"]),
        {"a": normal(3, 8), "w": normal(8), "b": normal(8)},
    ),
    "cast": (lambda xp, x: xp.cast(x["a"], x["b"]), {"a": normal(3, 2), "b": np.zeros(1)}),
    "constant": (lambda xp, x: x["a"] * xp.constant(torch.tensor([2.0, 3.0])), {"a": normal(3, 2)}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_one_node_with_torchs_value(name: str) -> None:
    """Each operation emits a single node, which gives what torch gives, at NaN and infinity too."""
    served, eager, nodes = run(*OPERATIONS[name])
    assert len(nodes) == 1, nodes
    for a, b in zip(served, eager, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_every_operation_is_proved_here() -> None:
    """Whoever adds an operation adds it to the table above, or to the cells below."""
    public = {k for k in vars(TorchOperations) if not k.startswith("_")}
    assert public == OPERATIONS.keys() | {"recurrent", "bidirectional"}
    assert all(hasattr(Graph, k) for k in public)


def test_both_ways_over_a_short_sequence_are_one_node_with_torchs_values() -> None:
    """A bidirectional GRU gives what `nn.GRU` gives, its outputs split by direction, and is one node."""
    torch.manual_seed(2)
    layer = torch.nn.GRU(3, 4, bidirectional=True)
    names = [[f"{n}_l0{way}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")] for way in ("", "_reverse")]
    given = {"x": normal(6, 5, 3)}

    def both(xp: Any, x: Any) -> Any:
        return xp.bidirectional(x["x"], [[xp.constant(getattr(layer, n).detach()) for n in way] for way in names])

    served, eager, nodes = run(both, given)
    assert nodes == ["GRU"]
    np.testing.assert_allclose(served[0], eager[0], rtol=1e-5, atol=1e-6)
    expected = layer(torch.from_numpy(given["x"]))[0].detach().numpy().reshape(6, 5, 2, 4).swapaxes(1, 2)
    np.testing.assert_allclose(eager[0], expected, rtol=1e-6, atol=1e-6)


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: [a + b, a + 2.0, 2.0 + a],
    "subtract": lambda a, b: [a - b, a - 2.0, 2.0 - a],
    "multiply": lambda a, b: [a * b, a * 2.0, 2.0 * a],
    "divide": lambda a, b: [a / b, a / 2.0, 2.0 / a],
    "matrix": lambda a, b: [a @ b],
    "order": lambda a, b: [a > b, a < b, a > 0.0, a < 0.0],
    "logic": lambda a, b: [(a > b) & (a > 0.0), (a > b) | (a > 0.0), ~(a > b)],
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_of_symbols_is_that_of_tensors(name: str) -> None:
    """Operators keep the order of their sides, with tensors and with numbers on either side."""
    given: Arrays = {"a": normal(3, 3), "b": normal(3, 3)}
    served, eager, _ = run(lambda _, x: ARITHMETIC[name](x["a"], x["b"]), given)
    for a, b in zip(served, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_a_recurrent_layer_is_one_fused_node_with_torchs_gates(cell: str, gates: int, layers: int) -> None:
    """With random weights the fused nodes give torch's next state: the order of the gates is right."""
    hidden, widths = 5, [3] + [5] * (layers - 1)
    parts = 2 if cell == "lstm" else 1
    weights = [
        [torch.from_numpy(normal(gates * hidden, n)) for n in (width, hidden)]
        + [torch.from_numpy(normal(gates * hidden)) for _ in range(2)]
        for width in widths
    ]
    given: Arrays = {"x": normal(4, 3)} | {f"s{k}{p}": normal(4, hidden) for k in range(layers) for p in range(parts)}

    def build(xp: Any, x: Any) -> Any:
        state = [[x[f"s{k}{p}"] for p in range(parts)] for k in range(layers)]
        return xp.recurrent(cell, x["x"], state, [[xp.constant(w) for w in layer] for layer in weights])

    served, eager, nodes = run(build, given)
    axes = {"Unsqueeze": 1 + layers * parts, "Squeeze": layers * parts}
    assert Counter(nodes) == {cell.upper(): layers, **axes}
    for a, b in zip(served, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_equal_constants_are_stored_once() -> None:
    """The same number of the same type and shape is one initializer, alone or in a vector of one; others are others."""
    graph = Graph()
    names = [graph.symbol(x, "float32").name for x in (1.0, 1, np.float64(1.0), torch.tensor(1.0), [1.0])]
    assert len(set(names)) == len(graph.initializers) == 1
    for x, dtype in ((1.0, "float64"), ([[1.0]], "float32"), (-1.0, "float32")):
        graph.symbol(x, dtype)
    assert len(graph.initializers) == 4
    assert graph.symbol(0.0, "float32").name != graph.symbol(-0.0, "float32").name


def test_a_cast_to_the_type_it_has_emits_nothing() -> None:
    """Casting float64 to float64 returns the symbol itself."""
    graph = Graph()
    x = Symbol(graph, "x", "float64")
    assert graph.cast(x, Symbol(graph, "y", "float64")) is x
    assert not graph.nodes


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_holds_nothing_that_nothing_reads(kind: str) -> None:
    """No Identity is left, every node, constant and input is read, and no constant is there twice."""
    graph = trace(Forecaster(kind, LogReturn(), KINDS[kind]())).graph
    outputs = {o.name for o in graph.output}
    read = {i for n in graph.node for i in n.input} | outputs
    assert not [n.name for n in graph.node if n.op_type == "Identity"]
    assert all(set(n.output) & read for n in graph.node)
    assert {i.name for i in graph.initializer} | {i.name for i in graph.input} <= read
    constants = [(i.data_type, tuple(i.dims), numpy_helper.to_array(i).tobytes()) for i in graph.initializer]
    assert len(set(constants)) == len(constants)
    made = [o for n in graph.node for o in n.output if o]
    assert len(set(made)) == len(made)
    assert outputs <= set(made)


def test_inputs_that_the_step_does_not_read_are_absent() -> None:
    """A network reads no parameter row, an AR no elapsed time; covariates and elapsed time appear where used."""
    read = {kind: set(inputs(trace(Forecaster(kind, LogReturn(), make())))) for kind, make in KINDS.items()}
    assert read["last_value"] == {"price", "mask", "series", "state.price"}
    assert read["ar"] == {"price", "mask", "series", "state.price", "state.moves"}
    scale = {"state.price", "state.variance", "state.count"}
    assert read["gru"] == {"price", "mask", "state.h0"} | scale
    assert read["stacked"] == {"price", "mask", "state.h0", "state.c0", "state.h1", "state.c1"} | scale
    assert read["covariates"] == {"price", "mask", "past", "future", "elapsed", "state.h0"} | scale
    asinh = AsinhDifference(torch.tensor([50.0]), torch.tensor([20.0]))
    assert "series" in inputs(trace(Forecaster("asinh", asinh, recurrent("gru"))))


def test_two_outputs_of_one_value_and_an_output_that_is_an_input_all_come_out() -> None:
    """A core that carries one value under two names, and another untouched, gives all three."""

    class Same(torch.nn.Module):
        kind, horizon, block, past, future, elapsed = "same", 1, 1, 0, 0, False

        def __init__(self) -> None:
            super().__init__()
            self.core = recurrent("lstm")
            self.df = self.core.df

        def state_tensors(self) -> Any:
            return self.core.state_tensors()

        def step(self, tick: Any, state: Any) -> Any:
            distribution, after = self.core.step(tick, state)
            return distribution, after | {"c0": after["h0"], "count": state["count"]}

    proto = trace(Forecaster("same", LogReturn(), Same()))  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    given: Arrays = {"price": np.full((2, 1), 9.0), "mask": np.ones((2, 1), np.bool_)}
    given |= {"state.price": np.full((2, 1), 8.0), "state.h0": normal(2, 8), "state.c0": normal(2, 8)}
    given |= {"state.variance": np.ones((2, 2), FLOAT32), "state.count": np.full((2, 2), 7, FLOAT32)}
    h, c, count = session.run(["next.h0", "next.c0", "next.count"], given)
    assert not np.array_equal(h, given["state.h0"])
    np.testing.assert_array_equal(h, c)
    np.testing.assert_array_equal(count, given["state.count"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_takes_any_number_of_rows(kind: str) -> None:
    """The batch axis, and it alone, is free in every input and output."""
    graph = trace(Forecaster(kind, LogReturn(), KINDS[kind]())).graph
    for value in (*graph.input, *graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param == "B"
        assert all(d.HasField("dim_value") for d in rest)


def test_a_note_changes_only_the_bytes_that_are_returned() -> None:
    """Metadata stand in the bytes; the model given and the graph stay, and the same note gives the same bytes."""
    proto = trace(Forecaster("gru", LogReturn(), recurrent("gru")))
    before = proto.SerializeToString(deterministic=True)
    data = annotate(proto, "statecast", "a note")
    assert proto.SerializeToString(deterministic=True) == before
    assert data == annotate(proto, "statecast", "a note")
    noted = onnx.load_from_string(data)
    assert {p.key: p.value for p in noted.metadata_props} == {"statecast": "a note"}
    assert noted.graph == proto.graph


def test_truths_are_repeated_as_truths() -> None:
    """Repeating a truth along an axis goes by way of numbers and comes back as truths."""
    served, eager, nodes = run(lambda xp, x: xp.repeat(x["a"], 3), {"a": FLAGS[:, :1].copy()})
    assert nodes == ["Cast", "MatMul", "Cast"]
    assert served[0].dtype == np.bool_
    np.testing.assert_array_equal(served[0], eager[0])


def test_the_same_node_is_emitted_once() -> None:
    """An operation on the same tensors with the same settings is one node; another setting is another node."""
    graph = Graph()
    x = Symbol(graph, "x", "float32")
    assert graph.exp(x) is graph.exp(x)
    assert graph.transpose(x, (0, 1)).name != graph.transpose(x, (1, 0)).name
    assert len(graph.nodes) == 3
