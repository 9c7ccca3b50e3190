"""A small model file for tests of the serving rooms: the last value, with hidden state that shows every slip.

`trace` mixes each price into what is left of those before, so that a tick lost, repeated or out of order changes
every later forecast; `count` counts; the per-series drift shows a wrong parameter row. Poison leaves all of it as
it was. The float32 logarithm is one of those whose last bit, in onnxruntime, depends on the row's place in a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.observation import LEVELS, StateTensor
from pipeline.metadata import KEY, Metadata

HORIZON = 2
SERIES = ("AAA", "BBB")
_T = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def metadata(**changes: Any) -> Metadata:
    """Describe the model of `model_bytes`, with some fields changed."""
    fields: dict[str, Any] = {
        "name": "last",
        "kind": "naive",
        "transform": {"kind": "log", "lower": 1e-15, "upper": 1e15},
        "block": 1,
        "horizon": HORIZON,
        "series": SERIES,
        "df": (5.0, float("inf"), float("nan")),
        "state": (
            StateTensor("price", (1,), "float64", float("nan"), "price", "last known price"),
            StateTensor("trace", (2,), "float32", 0.0, "hidden", "halved and added prices"),
            StateTensor("count", (), "int64", 0, "count", "prices seen"),
        ),
        "inputs": ("price", "mask", "series", "elapsed"),
        "grid": "1h",
        "cutoff_time": "2024-01-31T00:00:00Z",
        "data_sha256": "0" * 64,
        "commit": "none",
        "config": {},
        "parity": {},
    }
    return Metadata(**(fields | changes))


def _nodes() -> list[onnx.NodeProto]:
    steps = [
        ("Greater price lower", "above"),
        ("Less price upper", "below"),
        ("And above below", "inside"),
        ("And inside mask", "valid"),
        ("Where valid price state.price", "next.price"),
        ("Cast price", "price32"),
        ("Where valid price32 zero32", "clean"),
        ("Unsqueeze elapsed last_axis", "elapsed2"),
        ("Concat clean elapsed2", "arrived"),
        ("Mul state.trace half", "faded"),
        ("Add faded arrived", "moved"),
        ("Mul moved moved", "square"),
        ("Add square one32", "square1"),
        ("Log square1", "settled"),
        ("Where valid settled state.trace", "next.trace"),
        ("Squeeze valid last_axis", "valid1"),
        ("Add state.count one", "counted"),
        ("Where valid1 counted state.count", "next.count"),
        ("Gather drift series", "own"),
        ("ReduceSum next.trace last_axis", "mood"),
        ("Add mood own", "shift"),
        ("Reshape shift four", "shift4"),
        ("Mul shift4 tiny", "loc4"),
        ("Add loc4 table", "move"),
        ("Exp move", "factor"),
        ("Cast factor", "factor64"),
        ("Reshape next.price four", "price4"),
        ("Mul price4 factor64", "quantile"),
        ("ReduceMax move q_axis", "scale"),
        ("ReduceMin move q_axis", "loc"),
    ]
    extra = {
        "price32": {"to": TensorProto.FLOAT},
        "factor64": {"to": TensorProto.DOUBLE},
        "arrived": {"axis": 1},
        "scale": {"keepdims": 0},
        "loc": {"keepdims": 0},
    }
    nodes = []
    for text, output in steps:
        op, *inputs = text.split()
        nodes.append(helper.make_node(op, inputs, [output], **extra.get(output, {})))
    return nodes


def _constants() -> list[onnx.TensorProto]:
    table = 0.01 * np.linspace(-2, 2, len(LEVELS)) * np.arange(1, HORIZON + 1)[:, None]
    values = {
        "lower": np.array(1e-15),
        "upper": np.array(1e15),
        "zero32": np.array(0, np.float32),
        "one32": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "tiny": np.array(1e-4, np.float32),
        "one": np.array(1, np.int64),
        "last_axis": np.array([1]),
        "q_axis": np.array([3]),
        "four": np.array([-1, 1, 1, 1]),
        "drift": np.array([[0.0], [1.0], [2.0]], np.float32),
        "table": table[None, :, None, :].astype(np.float32),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def proto(described: Metadata | None = None) -> onnx.ModelProto:
    """Build the model, with the metadata given in the place of its own."""
    own = metadata()
    around: list[int | str] = ["B", HORIZON, 1]
    inputs = {"price": ("float64", ["B", 1]), "mask": ("bool", ["B", 1]), "series": ("int64", ["B"])}
    inputs |= {"elapsed": ("float32", ["B"])} | {f"state.{s.name}": (s.dtype, ["B", *s.shape]) for s in own.state}
    outputs: dict[str, Any] = {"quantile": ("float64", [*around, len(LEVELS)])}
    outputs |= {"loc": ("float32", around), "scale": ("float32", around)}
    outputs |= {f"next.{s.name}": (s.dtype, ["B", *s.shape]) for s in own.state}
    declare = [
        [helper.make_tensor_value_info(name, _T[dtype], shape) for name, (dtype, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(_nodes(), "step", *declare, _constants())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    helper.set_model_props(model, {KEY: (described or own).to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def model_bytes(described: Metadata | None = None) -> bytes:
    """Serialise `proto`."""
    return proto(described).SerializeToString()
