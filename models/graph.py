"""Trace a step into a lean ONNX graph: one node an operation, nothing that the step does not say.

`Symbol` stands for a tensor while a model's own `step` runs; `Graph` has the operations of
`operations.py`, each of which emits one ONNX node (a recurrent stack: one fused node a layer and the axes
that onnxruntime wants around it). There is no second description of a model that could drift from the first.

Comes in: a forecaster or classifier. Goes out: an onnx ModelProto without metadata. The only file of `models` that
knows onnx; imported by `pipeline/export.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.observation import Forecast, Label, Observation, State
from models.shell import Shell

OPSET = 20
IR_VERSION = 10

_ELEMENT = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
_GATES = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
"""ONNX gate order in terms of torch's: lstm i f g o -> i o f c, gru r z n -> z r h."""


@dataclass(frozen=True, eq=False)
class Symbol:
    """A tensor of the graph: its name and number type."""

    graph: Graph
    name: str
    dtype: str

    def _binary(self, op: str, other: Any, *, swap: bool = False, dtype: str | None = None) -> Symbol:
        pair = (self, self.graph.symbol(other, self.dtype))
        a, b = reversed(pair) if swap else pair
        return self.graph.node(op, [a, b], dtype=dtype or self.dtype)

    def __add__(self, other: Any) -> Symbol:
        return self._binary("Add", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._binary("Add", other, swap=True)

    def __sub__(self, other: Any) -> Symbol:
        return self._binary("Sub", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._binary("Sub", other, swap=True)

    def __mul__(self, other: Any) -> Symbol:
        return self._binary("Mul", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._binary("Mul", other, swap=True)

    def __truediv__(self, other: Any) -> Symbol:
        return self._binary("Div", other)

    def __matmul__(self, other: Any) -> Symbol:
        return self._binary("MatMul", other)

    def __gt__(self, other: Any) -> Symbol:
        return self._binary("Greater", other, dtype="bool")

    def __lt__(self, other: Any) -> Symbol:
        return self._binary("Less", other, dtype="bool")

    def __and__(self, other: Any) -> Symbol:
        return self._binary("And", other)

    def __or__(self, other: Any) -> Symbol:
        return self._binary("Or", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._binary("Div", other, swap=True)

    def __invert__(self) -> Symbol:
        return self.graph.node("Not", [self])


class Graph:
    """The nodes emitted so far, and the operations that emit them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.emitted: dict[tuple[Any, ...], list[Symbol]] = {}
        self.initializers: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}

    def node(self, op: str, inputs: Sequence[Symbol], *, dtype: str | None = None, **attributes: Any) -> Symbol:
        """Emit one node with one output of the first input's number type, unless another is named."""
        return self.nodes_out(op, inputs, 1, dtype=dtype, **attributes)[0]

    def nodes_out(
        self,
        op: str,
        inputs: Sequence[Symbol | None],
        outputs: int,
        *,
        dtype: str | None = None,
        **attributes: Any,
    ) -> list[Symbol]:
        """Emit one node with several outputs; the same node a second time is the one that is there already."""
        key = (op, tuple("" if x is None else x.name for x in inputs), outputs, repr(sorted(attributes.items())))
        if key in self.emitted:
            return self.emitted[key]
        names = [f"{op.lower()}_{len(self.nodes)}" + (f"_{k}" if outputs > 1 else "") for k in range(outputs)]
        given = ["" if x is None else x.name for x in inputs]
        self.nodes.append(helper.make_node(op, given, names, name=f"{op}_{len(self.nodes)}", **attributes))
        kind = dtype or next(x.dtype for x in inputs if x is not None)
        self.emitted[key] = [Symbol(self, name, kind) for name in names]
        return self.emitted[key]

    def symbol(self, x: Any, dtype: str) -> Symbol:
        """Return `x` itself, or a number or array as a constant of the given type; equal constants are one."""
        if isinstance(x, Symbol):
            return x
        array = np.ascontiguousarray(x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x, dtype=dtype)
        key = (dtype, array.shape, array.tobytes())
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, f"c{len(self.initializers)}")
        return Symbol(self, self.initializers[key].name, dtype)

    def constant(self, x: torch.Tensor) -> Symbol:
        """Bring a parameter of the model into the graph."""
        return self.symbol(x, str(x.dtype).removeprefix("torch."))

    def cast(self, x: Symbol, like: Symbol) -> Symbol:
        """Convert to the number type of `like`; nothing is emitted where it is the same already."""
        if x.dtype == like.dtype:
            return x
        return self.node("Cast", [x], dtype=like.dtype, to=_ELEMENT[like.dtype])

    def where(self, condition: Symbol, a: Any, b: Any) -> Symbol:
        """Choose `a` where the condition holds, else `b`; one of the two may be a number."""
        dtype = next((x.dtype for x in (a, b) if isinstance(x, Symbol)), "float32")
        return self.node("Where", [condition, self.symbol(a, dtype), self.symbol(b, dtype)], dtype=dtype)

    def isnan(self, x: Symbol) -> Symbol:
        """Tell which elements are NaN."""
        return self.node("IsNaN", [x], dtype="bool")

    def log(self, x: Symbol) -> Symbol:
        """Take the natural logarithm."""
        return self.node("Log", [x])

    def exp(self, x: Symbol) -> Symbol:
        """Take the exponential."""
        return self.node("Exp", [x])

    def sqrt(self, x: Symbol) -> Symbol:
        """Take the square root."""
        return self.node("Sqrt", [x])

    def abs(self, x: Symbol) -> Symbol:
        """Take the absolute value."""
        return self.node("Abs", [x])

    def sign(self, x: Symbol) -> Symbol:
        """Give -1, 0 or 1."""
        return self.node("Sign", [x])

    def softplus(self, x: Symbol) -> Symbol:
        """Take log(1 + exp(x))."""
        return self.node("Softplus", [x])

    def sigmoid(self, x: Symbol) -> Symbol:
        """Take 1 / (1 + exp(-x))."""
        return self.node("Sigmoid", [x])

    def tanh(self, x: Symbol) -> Symbol:
        """Take the hyperbolic tangent."""
        return self.node("Tanh", [x])

    def relu(self, x: Symbol) -> Symbol:
        """Put 0 in the place of what is negative."""
        return self.node("Relu", [x])

    def clip(self, x: Symbol, low: float, high: float) -> Symbol:
        """Bring into [low, high]; NaN stays."""
        return self.node("Clip", [x, self.symbol(low, x.dtype), self.symbol(high, x.dtype)])

    def equal(self, x: Symbol, other: Symbol) -> Symbol:
        """Tell which elements are the same number; NaN is none."""
        return self.node("Equal", [x, other], dtype="bool")

    def minimum(self, x: Symbol, other: Any) -> Symbol:
        """Take the smaller, element by element."""
        return self.node("Min", [x, self.symbol(other, x.dtype)])

    def any(self, x: Symbol, axis: int) -> Symbol:
        """Tell whether any element along an axis holds; the axis stays, with length 1."""
        return self.node("ReduceMax", [x, self.symbol([axis], "int64")], keepdims=1)

    def sum(self, x: Symbol, axis: int) -> Symbol:
        """Add up along an axis, which goes."""
        return self.node("ReduceSum", [x, self.symbol([axis], "int64")], keepdims=0)

    def concat(self, xs: Sequence[Symbol], axis: int) -> Symbol:
        """Join along an axis."""
        return self.node("Concat", list(xs), axis=axis)

    def split(self, x: Symbol, sizes: Sequence[int], axis: int) -> tuple[Symbol, ...]:
        """Cut into pieces of the given sizes along an axis."""
        return tuple(
            self.nodes_out("Split", [x, self.symbol(list(sizes), "int64")], len(sizes), dtype=x.dtype, axis=axis)
        )

    def repeat(self, x: Symbol, width: int) -> Symbol:
        """Repeat the last axis, of length 1, `width` times.

        A matrix product: the runtime broadcasts [B, 1] to [B, N] row by row, which at 256 rows takes ten times as long.
        Truths go by way of numbers.
        """
        if x.dtype == "bool":
            number = self.node("Cast", [x], dtype="float32", to=TensorProto.FLOAT)
            return self.node("Cast", [self.repeat(number, width)], dtype="bool", to=TensorProto.BOOL)
        return self.node("MatMul", [x, self.symbol(np.ones((1, width)), x.dtype)])

    def outer(self, x: Symbol, row: Symbol, base: Symbol) -> Symbol:
        """Give base + x row: [B, 1], [N], and [B, 1] or [B, N] give [B, N]."""
        return self.node("Gemm", [x, self.symbol(self._array(row)[None], row.dtype), base])

    def reshape(self, x: Symbol, shape: Sequence[int]) -> Symbol:
        """Give another shape; -1 stands for the batch axis."""
        return self.node("Reshape", [x, self.symbol(list(shape), "int64")])

    def unsqueeze(self, x: Symbol, axis: int) -> Symbol:
        """Add an axis of length 1."""
        return self.node("Unsqueeze", [x, self.symbol([axis], "int64")])

    def transpose(self, x: Symbol, axes: Sequence[int]) -> Symbol:
        """Put the axes in another order."""
        return self.node("Transpose", [x], perm=list(axes))

    def sort(self, x: Symbol, size: int) -> Symbol:
        """Sort along the last axis, which has `size` elements, the smallest first."""
        return self.nodes_out("TopK", [x, self.symbol([size], "int64")], 2, dtype=x.dtype, largest=0)[0]

    def take(self, table: Symbol, rows: Symbol) -> Symbol:
        """Gather rows of a table: [R, ...] and [B] give [B, ...]."""
        return self.node("Gather", [table, rows], axis=0)

    def linear(self, x: Symbol, weight: Any, bias: Any) -> Symbol:
        """Apply x Wᵀ + b in one node."""
        return self.node("Gemm", [x, weight, bias], transB=1)

    def softmax(self, x: Symbol) -> Symbol:
        """Give shares that add up to 1 along the last axis; one of -inf is 0."""
        return self.node("Softmax", [x], axis=-1)

    def layer_norm(self, x: Symbol, weight: Symbol, bias: Symbol) -> Symbol:
        """Bring the last axis to mean 0 and variance 1, then times weight plus bias."""
        return self.node("LayerNormalization", [x, weight, bias], axis=-1, epsilon=1e-5)

    def recurrent(
        self, cell: str, x: Symbol, state: list[list[Symbol]], weights: list[list[Symbol]]
    ) -> list[list[Symbol]]:
        """Advance a stack of recurrent layers: one fused node a layer, which reads the one before directly."""
        time_first = self.symbol([0], "int64")
        below = self.node("Unsqueeze", [x, time_first])
        following = []
        for layer_state, layer in zip(state, weights, strict=True):
            carried = [self.node("Unsqueeze", [s, time_first]) for s in layer_state]
            out = self._fused(cell, below, carried, [self._array(w) for w in layer])
            following.append([self.node("Squeeze", [y, time_first]) for y in out])
            below = out[0]
        return following

    def _fused(self, cell: str, x: Symbol, carried: list[Symbol], weights: list[np.ndarray]) -> list[Symbol]:
        """Emit one RNN, LSTM or GRU node; x and states are [1, B, ·]."""
        w, r, b = _onnx_order(cell, weights)
        fixed = [self.symbol(a, "float32") for a in (w, r, b)]
        extra = {"linear_before_reset": 1} if cell == "gru" else {}
        inputs: list[Symbol | None] = [x, *fixed, None, *carried]
        outputs = self.nodes_out(
            cell.upper(), inputs, 1 + len(carried), dtype="float32", hidden_size=r.shape[-1], **extra
        )
        next(n for n in self.nodes if n.output[-1] == outputs[-1].name).output[0] = ""
        return outputs[1:]

    def bidirectional(self, x: Symbol, weights: list[list[Symbol]]) -> Symbol:
        """Read a short sequence [N, B, F] by a GRU forwards and by one backwards, from zero: [N, 2, B, H]."""
        ways = [_onnx_order("gru", [self._array(w) for w in way]) for way in weights]
        fixed = [self.symbol(np.concatenate(both), "float32") for both in zip(*ways, strict=True)]
        named = {"direction": "bidirectional", "linear_before_reset": 1, "hidden_size": ways[0][1].shape[-1]}
        return self.node("GRU", [x, *fixed], **named)

    def _array(self, constant: Symbol) -> np.ndarray:
        """Read back the values of a constant."""
        return next(numpy_helper.to_array(i) for i in self.initializers.values() if i.name == constant.name)


def _onnx_order(cell: str, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reorder torch's gates to ONNX's: w [1, G*H, F], r [1, G*H, H], b [1, 2*G*H]."""
    order = _GATES[cell]
    w, r, b_ih, b_hh = (a.reshape(len(order), -1, *a.shape[1:])[order].reshape(a.shape) for a in weights)
    return w[None], r[None], np.concatenate([b_ih, b_hh])[None]


def trace(model: Shell[Any]) -> onnx.ModelProto:
    """Run the model's step on symbols and return the graph that it drew.

    Inputs: those of `price mask series past future elapsed` that the step reads, and `state.<name>`; outputs: those
    that the model lists (`quantile`, `loc`, `scale` of a forecaster, `probability` of a classifier) and `next.<name>`.
    The batch axis is dynamic.

    Raises
    ------
    ModelError
        The model has no step, because it reads the future.
    """
    graph = Graph()
    shapes = _input_shapes(model)
    inputs = {name: Symbol(graph, name, dtype) for name, (dtype, _) in shapes.items()}
    observation = Observation(**{f: inputs[f] for f in Observation.__dataclass_fields__})
    state = {s.name: inputs[f"state.{s.name}"] for s in model.state_tensors()}
    answer, following = model.step(observation, state)
    return _assemble(graph, model, shapes, answer, following)


def over_time(cell: str, weights: Sequence[Sequence[Tensor]]) -> onnx.ModelProto:
    """Draw a stack of recurrent layers over whole sequences: the nodes of the step, the time axis left long.

    Inputs: `x` float32 [T, B, F], `lengths` int32 [B], how many steps of each row count, and the layers' states
    `h0`, for an LSTM `c0`, `h1`, … [1, B, H]. Outputs: `top` [T, B, H], zero beyond a row's length, and the states
    after, `next.h0`, … [1, B, H].

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    weights : for each layer weight_ih, weight_hh, bias_ih, bias_hh as torch has them
    """
    nodes, fixed = [], [numpy_helper.from_array(np.array([1]), "direction")]
    carried = ["h", "c"] if cell == "lstm" else ["h"]
    below, hidden = "x", weights[0][1].shape[1]
    states: list[str] = []
    for k, layer in enumerate(weights):
        named = [f"{name}{k}" for name in ("w", "r", "b")]
        arrays = _onnx_order(cell, [x.detach().cpu().numpy() for x in layer])
        fixed += [numpy_helper.from_array(a, name) for a, name in zip(arrays, named, strict=True)]
        before = [f"{part}{k}" for part in carried]
        extra: dict[str, Any] = {"linear_before_reset": 1} if cell == "gru" else {}
        outputs = [f"y{k}", *(f"next.{name}" for name in before)]
        inputs = [below, *named, "lengths", *before]
        nodes.append(helper.make_node(cell.upper(), inputs, outputs, hidden_size=hidden, **extra))
        below = "top" if k == len(weights) - 1 else f"below{k}"
        nodes.append(helper.make_node("Squeeze", [f"y{k}", "direction"], [below]))
        states += before
    given = [_value("x", "float32", ["T", "B", weights[0][0].shape[1]])]
    given.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
    given += [_value(name, "float32", [1, "B", hidden]) for name in states]
    made = [_value("top", "float32", ["T", "B", hidden])]
    made += [_value(f"next.{name}", "float32", [1, "B", hidden]) for name in states]
    graph = helper.make_graph(nodes, "over time", given, made, fixed)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="statecast")
    proto.ir_version = IR_VERSION
    return proto


def _input_shapes(m: Shell[Any]) -> dict[str, tuple[str, list[int | str]]]:
    """List every possible input with its number type and shape."""
    shapes: dict[str, tuple[str, list[int | str]]] = {
        "price": ("float64", ["B", m.block]),
        "mask": ("bool", ["B", m.block]),
        "series": ("int64", ["B"]),
        "past": ("float32", ["B", m.past]),
        "future": ("float32", ["B", m.horizon, m.future]),
        "elapsed": ("float32", ["B"]),
    }
    return shapes | {f"state.{s.name}": (s.dtype, ["B", *s.shape]) for s in m.state_tensors()}


def _assemble(
    graph: Graph,
    m: Shell[Any],
    shapes: dict[str, tuple[str, list[int | str]]],
    answer: Forecast | Label,
    following: State,
) -> onnx.ModelProto:
    """Name the outputs, keep the inputs that are read, drop what nothing reads, and check the model."""
    outputs: dict[str, tuple[Symbol, list[int | str]]] = {
        name: (getattr(answer, name), ["B", *shape]) for name, shape in m.outputs().items()
    }
    outputs |= {f"next.{s.name}": (following[s.name], ["B", *s.shape]) for s in m.state_tensors()}
    for name, (symbol, _) in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [symbol.name], [name], name=f"out.{name}"))
    _rename_outputs(graph)
    nodes = _reached(graph.nodes, set(outputs))
    read = {i for n in nodes for i in n.input}
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "step",
            [_value(k, *v) for k, v in shapes.items() if k in read],
            [_value(k, s.dtype, shape) for k, (s, shape) in outputs.items()],
            [i for i in graph.initializers.values() if i.name in read],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="statecast",
    )
    proto.ir_version = IR_VERSION
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _value(name: str, dtype: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT[dtype], shape)


def _rename_outputs(graph: Graph) -> None:
    """Let the node that makes an output carry the output's name, so that no Identity node is left for it."""
    copies = [n for n in graph.nodes if n.op_type == "Identity"]
    made = {name for node in graph.nodes if node.op_type != "Identity" for name in node.output}
    for copy in copies:
        old, new = copy.input[0], copy.output[0]
        if old not in made:  # an input, or an output already
            continue
        graph.nodes.remove(copy)
        for node in graph.nodes:
            for slot in (node.input, node.output):
                for k, name in enumerate(slot):
                    if name == old:
                        slot[k] = new
        made.remove(old)


def _reached(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Keep the nodes on which a wanted tensor depends, in their order."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def inputs(proto: onnx.ModelProto) -> tuple[str, ...]:
    """List the inputs that the graph reads."""
    return tuple(i.name for i in proto.graph.input)


def annotate(proto: onnx.ModelProto, key: str, text: str) -> bytes:
    """Give the bytes of the model with one text in its metadata; the model given is not changed."""
    noted = onnx.ModelProto()
    noted.CopyFrom(proto)
    helper.set_model_props(noted, {key: text})
    return noted.SerializeToString(deterministic=True)
