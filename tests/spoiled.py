"""Model files that do harm or wrong, made from the small one of `served`."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from served import metadata, proto


def grafted(at: str, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """Put nodes behind the tensor `at`, which they read as `<at>_before` and must give again."""
    model = proto()
    graph = model.graph
    place, node = next((i, n) for i, n in enumerate(graph.node) if at in n.output)
    node.output[list(node.output).index(at)] = f"{at}_before"
    behind = [*graph.node[: place + 1], *nodes, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(behind)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    return model.SerializeToString()


def hungry(count: int) -> bytes:
    """Build a model that makes an array of so many float32 numbers at every step."""
    nodes = [
        helper.make_node("ReduceMean", ["moved_before"], ["seed"], keepdims=0),
        helper.make_node("Expand", ["seed", "count"], ["field"]),
        helper.make_node("ReduceMax", ["field"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["added"]),
        helper.make_node("Add", ["moved_before", "added"], ["moved"]),
    ]
    return grafted("moved", nodes, count=np.array([count]), nothing=np.array(0, np.float32))


def endless() -> bytes:
    """Build a model whose step is a loop of 2^62 rounds."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Cos", ["x"], ["y"])],
        "round",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, None)],
        [value("go_on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["rounds", "", "moved_before"], ["moved"], body=body)
    return grafted("moved", [loop], rounds=np.array(2**62))


def with_covariates(*names: str) -> bytes:
    """Build a model that reads covariates known with the price."""
    model = proto(metadata(inputs=("price", "mask", "series", "elapsed", "past"), past=names))
    model.graph.input.append(helper.make_tensor_value_info("past", TensorProto.FLOAT, ["B", len(names)]))
    return model.SerializeToString()


def classifier() -> bytes:
    """Build a file that labels moments as up or down."""
    model = proto(metadata(task="classify", classes=("up", "down")))
    model.graph.node.append(helper.make_node("Identity", ["next.trace"], ["probability"]))
    outputs = [o for o in model.graph.output if o.name.startswith("next.")]
    outputs.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["B", 2]))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model.SerializeToString()
