"""Variants of the small model of `served`: one that reads covariates, one that knows returns only, one of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from served import HORIZON, metadata, proto

from models.observation import LEVELS, StateTensor
from pipeline.metadata import KEY

BLOCK = 3
"""Prices of a block of `blocks`."""

_FLOAT, _DOUBLE, _BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL


def _put_behind(model: onnx.ModelProto, at: str, steps: list[tuple[str, str]], **attributes: dict[str, Any]) -> None:
    """Put nodes, written "Op inputs" and output, behind the tensor `at`, which they read as `<at>_before`."""
    graph = model.graph
    place, node = next((i, n) for i, n in enumerate(graph.node) if at in n.output)
    node.output[list(node.output).index(at)] = f"{at}_before"
    nodes = []
    for text, output in steps:
        op, *inputs = text.split()
        nodes.append(helper.make_node(op, inputs, [output], **attributes.get(output, {})))
    behind = [*graph.node[: place + 1], *nodes, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(behind)


def _written(model: onnx.ModelProto, **constants: np.ndarray) -> bytes:
    """Add constants, check the graph and serialise it."""
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def reading(**changes: Any) -> bytes:
    """Build the small model so that `load` beside the price and `wind` some steps ahead move its trace.

    As with every model of statecast, a row whose covariates are missing leaves the state as it was.
    """
    inputs = ("price", "mask", "series", "past", "future", "elapsed")
    model = proto(metadata(inputs=inputs, past=("load",), future=("wind",), **changes))
    model.graph.input.append(helper.make_tensor_value_info("past", _FLOAT, ["B", 1]))
    model.graph.input.append(helper.make_tensor_value_info("future", _FLOAT, ["B", HORIZON, 1]))
    steps = [
        ("ReduceSum future last_axis", "winds"),
        ("Add past winds", "beside"),
        ("IsNaN beside", "lacking"),
        ("Not lacking", "told"),
        ("And valid_before told", "valid"),
    ]
    _put_behind(model, "valid", steps, winds={"keepdims": 0})
    known = [("Where lacking zero32 beside", "known"), ("Mul known small", "push"), ("Add moved_before push", "moved")]
    _put_behind(model, "moved", known)
    return _written(model, small=np.array(0.01, np.float32))


def returning(**changes: Any) -> bytes:
    """Build the small model so that its trace sees log returns, and its forecasts scale with the price."""
    model = proto(metadata(**changes))
    steps = [
        ("Div price state.price", "ratio"),
        ("Cast ratio", "ratio32"),
        ("IsNaN ratio32", "unknown"),
        ("Not unknown", "known"),
        ("And valid known", "moves"),
        ("Log ratio32", "change"),
        ("Where moves change zero32", "clean"),
    ]
    _put_behind(model, "clean", steps, ratio32={"to": _FLOAT})
    return _written(model)


def blocks(**changes: Any) -> bytes:
    """Build a model of three prices at once: the last known price of each, with the price before it mixed in."""
    described = metadata(
        name="three",
        block=BLOCK,
        inputs=("price", "mask", "series"),
        state=(
            StateTensor("price", (BLOCK,), "float64", float("nan"), "price", "last known prices"),
            StateTensor("trace", (BLOCK,), "float32", 0.0, "hidden", "halved and added prices"),
        ),
        **changes,
    )
    steps = [
        ("Where mask price state.price", "next.price"),
        ("Cast price", "price32"),
        ("Where mask price32 zero32", "clean"),
        ("Mul state.trace half", "faded"),
        ("Add faded clean", "moved"),
        ("Where mask moved state.trace", "next.trace"),
        ("Mul next.trace tiny", "mood"),
        ("Unsqueeze mood mood_axes", "mood4"),
        ("Add mood4 table", "move"),
        ("Exp move", "factor"),
        ("Cast factor", "factor64"),
        ("Unsqueeze next.price mood_axes", "price4"),
        ("Mul price4 factor64", "quantile"),
        ("ReduceMax move q_axis", "scale"),
        ("ReduceMin move q_axis", "loc"),
    ]
    extra: dict[str, dict[str, Any]] = {
        "price32": {"to": _FLOAT},
        "factor64": {"to": _DOUBLE},
        "scale": {"keepdims": 0},
        "loc": {"keepdims": 0},
    }
    nodes = []
    for text, output in steps:
        op, *inputs = text.split()
        nodes.append(helper.make_node(op, inputs, [output], **extra.get(output, {})))
    table = 0.01 * np.linspace(-2, 2, len(LEVELS)) * np.arange(1, HORIZON + 1)[:, None]
    constants = {
        "zero32": np.array(0, np.float32),
        "half": np.array(0.5, np.float32),
        "tiny": np.array(1e-4, np.float32),
        "mood_axes": np.array([1, 3]),
        "q_axis": np.array([3]),
        "table": table[None, :, None, :].astype(np.float32),
        "unread": np.array(0, np.int64),
    }
    state = {"price": _DOUBLE, "trace": _FLOAT}
    given: dict[str, tuple[int, list[Any]]] = {
        "price": (_DOUBLE, ["B", BLOCK]),
        "mask": (_BOOL, ["B", BLOCK]),
        "series": (TensorProto.INT64, ["B"]),
        **{f"state.{name}": (kind, ["B", BLOCK]) for name, kind in state.items()},
    }
    around: list[Any] = ["B", HORIZON, BLOCK]
    told: dict[str, tuple[int, list[Any]]] = {
        "quantile": (_DOUBLE, [*around, len(LEVELS)]),
        "loc": (_FLOAT, around),
        "scale": (_FLOAT, around),
        **{f"next.{name}": (kind, ["B", BLOCK]) for name, kind in state.items()},
    }
    sides = [[helper.make_tensor_value_info(n, *form) for n, form in side.items()] for side in (given, told)]
    graph = helper.make_graph(nodes, "step", *sides)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    helper.set_model_props(model, {KEY: described.to_json()})
    return _written(model, **constants)
