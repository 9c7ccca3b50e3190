"""One loaded model file: state in, forecast or label and state out.

Legend: B batch, M prices published at once, S horizon steps, Q quantile levels, C classes, P and K covariates,
R = 1 + N rows of per-series parameters.

A graph reads those of `price` float64 [B, M], `mask` bool [B, M], `series` int64 [B], `past` float32 [B, P],
`future` float32 [B, S, K], `elapsed` float32 [B] that its metadata names, and `state.<name>` [B, ...] for each
state tensor; it gives `quantile` float64 [B, S, M, Q], `loc` and `scale` float32 [B, S, M], or to classify
`probability` float32 [B, C], and `next.<name>`.

Comes in: the bytes of a file. Goes out: `Session`. The only file that imports onnxruntime; imported by stream,
champions and export.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# onnxruntime from 1.29 on sends events to its maker unless told not to, and can wait for ever while it stops doing so
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from models.errors import IntegrityError, ModelError
from models.observation import LEVELS, Forecast, Label, Observation, State
from pipeline.metadata import KEY, Metadata

RUNTIME_VERSION: str = onnxruntime.__version__
"""Version of the runtime that runs the files here."""

MAX_BYTES = 256 * 2**20
"""Largest file that is read."""

GRAIN = 16
"""Rows in whole multiples of which a batch keeps its bits.

The runtime computes most of an array in vector registers and what is left at its end one element at a time, with
another last bit: log of 37 float32 numbers and log of the last of them alone differ. Arrays of whole grains have
no such end: 16 float32 numbers fill the widest register."""

_EXTERNAL = b"\x0a\x08location"
"""How an ONNX file begins to name another file that holds its weights."""

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

Shape = tuple[int, ...]


class Session:
    """A model file in memory, checked against what it says about itself.

    Parameters
    ----------
    data : bytes
        The file. Nothing on disk is looked at again.

    Raises
    ------
    ModelError
        When the runtime refuses the file, when it points to data outside itself, has no metadata, or its
        inputs and outputs are not those that its metadata describes.
    """

    metadata: Metadata
    sha256: str

    def __init__(self, data: bytes) -> None:
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._runtime = opened(data)
        text = self._runtime.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ModelError(f"model file: no `{KEY}` entry in its metadata. Export it with statecast")
        self.metadata = Metadata.from_json(text)
        if self.metadata.levels != LEVELS:
            raise ModelError(f"model file: quantile levels {self.metadata.levels}; this version serves {LEVELS}")
        _check("inputs", self._runtime.get_inputs(), _inputs(self.metadata))
        _check("outputs", self._runtime.get_outputs(), _outputs(self.metadata))
        self._output_names = list(_outputs(self.metadata))
        self._row = {name: i + 1 for i, name in enumerate(self.metadata.series)}
        df = np.asarray(self.metadata.df, dtype=np.float32)
        self._df_R = np.resize(df, 1 + len(self._row))

    @classmethod
    def load(cls, path: Path, sha256: str | None = None) -> Session:
        """Read a file once and open what was read.

        Parameters
        ----------
        path : Path
        sha256 : str, optional
            The digest that the file must have.

        Raises
        ------
        IntegrityError
            When the file is not the one with this digest.
        ModelError
            When it cannot be read, is larger than `MAX_BYTES`, or is no model that can be served.
        """
        data = read(path, sha256)
        try:
            return cls(data)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error

    def initial(self, batch: int) -> State:
        """Build the state of `batch` series that have shown nothing yet; `batch` may be 0."""
        return {s.name: np.full((batch, *s.shape), s.initial, dtype=s.dtype) for s in self.metadata.state}

    def rows(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Give the parameter row of each named series; 0, the pooled row, for those that the fit never saw."""
        return np.array([self._row.get(name, 0) for name in names], dtype=np.int64)

    def df(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give the degrees of freedom of the densities of parameter rows, [B]; see `Forecast`."""
        return self._df_R[rows]

    def step(self, observation: Observation, state: State) -> tuple[Forecast, State]:
        """Take in one observation of each of B series.

        The forecast's value at step s is for the s-th observation after this one and was made from data up to
        and including it.

        Parameters
        ----------
        observation : Observation
            Numpy arrays. Fields that the graph does not read are not looked at, but for `series`.
        state : dict of ndarray
            As `initial` or the last step gave it; it is not changed.

        Raises
        ------
        ModelError
            When the file classifies, the batch is empty (the runtime would end the process), the arrays differ in
            length, or the runtime refuses them.
        """
        if self.metadata.task != "forecast":
            raise ModelError(
                f"step of {self.metadata.name}: expected a file that forecasts prices, got one that labels moments as "
                f"{list(self.metadata.classes)}. Step it with `label`"
            )
        given, following = self.run(observation, state)
        return Forecast(**given, df=self.df(observation.series)), following

    def label(self, observation: Observation, state: State) -> tuple[Label, State]:
        """Take in one observation of each of B series, as `step` does, with a file that classifies.

        The label at i is of what the model was taught at i, and was made from data up to and including it.
        """
        if self.metadata.task != "classify":
            raise ModelError(f"label of {self.metadata.name}: expected a file that classifies, got one that forecasts")
        given, following = self.run(observation, state)
        return Label(**given), following

    def run(self, observation: Observation, state: State) -> tuple[dict[str, NDArray], State]:
        """Give the outputs of one step by name, and the state after it; see `step`."""
        feeds = {name: getattr(observation, name) for name in self.metadata.inputs}
        feeds |= {f"state.{name}": x for name, x in state.items()}
        batch = len(observation.series)
        if batch == 0:
            raise ModelError("step: an empty batch; expected at least one series. Leave the call out")
        if {len(x) for x in feeds.values()} != {batch}:
            lengths = {name: len(x) for name, x in feeds.items()}
            raise ModelError(f"step: {batch} series, but arrays of length {lengths}; expected one row a series")
        try:
            given: dict[str, Any] = dict(
                zip(self._output_names, self._runtime.run(self._output_names, feeds), strict=True)
            )
        except Exception as error:
            raise ModelError(f"step: the runtime refused a batch of {batch}: {error}") from error
        following = {s.name: given.pop(f"next.{s.name}") for s in self.metadata.state}
        return given, following

    def bound(self, feeds: dict[str, NDArray], outputs: dict[str, NDArray]) -> Callable[[], None]:
        """Give a call that steps from arrays into arrays where they lie, as often as it is called; nothing is copied.

        Parameters
        ----------
        feeds, outputs : dict of ndarray
            All inputs and outputs of the graph under its own names, contiguous, of the number types and shapes that it
            has, each its own memory, which the call keeps.
        """
        binding = self._runtime.io_binding()
        lent = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in (feeds | outputs).items()}
        for name in feeds:
            binding.bind_ortvalue_input(name, lent[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, lent[name])

        def call() -> None:
            _ = lent  # each holds its array, of which the runtime has the bare address
            self._runtime.run_with_iobinding(binding)

        return call

    def self_test(self, batch: int) -> None:
        """Check on this machine that a row keeps its bits, whatever rows travel with it in whole grains.

        Parameters
        ----------
        batch : int
            Most rows that will travel together; rounded up to whole grains, and two at least.

        Raises
        ------
        ModelError
            When, within a few steps from the initial state, rows served together differ from the same rows
            served a grain at a time in the opposite order.
        """
        rows = max(2, -(-batch // GRAIN)) * GRAIN
        growth = np.random.default_rng(1).lognormal(sigma=0.01, size=(8, rows, self.metadata.block))
        order = np.arange(rows)
        pieces = order[::-1].reshape(-1, GRAIN)
        together = self._probe(growth, [order])
        apart = self._probe(growth, list(pieces))
        for name, x in together.items():
            if x.tobytes() != apart[name].tobytes():
                raise ModelError(
                    f"self-test of {self.metadata.name}: rows served together and in pieces of {GRAIN} gave different "
                    f"bits in {name} on this machine, so a replay would not be exact. Serve in batches of 1"
                )

    def _probe(self, growth: NDArray[np.float64], pieces: list[NDArray[np.int64]]) -> dict[str, NDArray]:
        """Step the rows of each piece from the initial state; the last forecast and state of every row."""
        m = self.metadata
        last: dict[str, NDArray] = {}
        for piece in pieces:
            state, batch = self.initial(len(piece)), len(piece)
            given: dict[str, NDArray] = {}
            for price in growth[:, piece].cumprod(0):
                observation = Observation(
                    price=price,
                    mask=np.ones((batch, m.block), dtype=bool),
                    series=np.zeros(batch, dtype=np.int64),
                    past=np.zeros((batch, len(m.past)), dtype=np.float32),
                    future=np.zeros((batch, m.horizon, len(m.future)), dtype=np.float32),
                    elapsed=np.ones(batch, dtype=np.float32),
                )
                given, state = self.run(observation, state)
                given |= state
            for name, x in given.items():
                last.setdefault(name, np.empty((growth.shape[1], *x.shape[1:]), x.dtype))[piece] = x
        return last


def read(path: Path, sha256: str | None = None) -> bytes:
    """Read a model file once; the errors are those of `Session.load`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"model file {path}: cannot be read ({error.strerror}). Check the path") from error
    if len(data) > MAX_BYTES:
        raise ModelError(f"model file {path}: more than {MAX_BYTES} bytes. A step graph is far smaller: check the path")
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise IntegrityError(f"model file {path}: expected sha256 {sha256}, got {digest}. Publish the model again")
    return data


def opened(data: bytes) -> onnxruntime.InferenceSession:
    """Hand the bytes to the runtime: one thread, nothing in parallel, nothing printed."""
    if _EXTERNAL in data:
        raise ModelError("model file: its weights lie in another file. Export it with everything inside")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"model file: the runtime refuses it ({str(error)[:300]}). Export the model again") from error


def _inputs(m: Metadata) -> dict[str, tuple[str, Shape]]:
    """List the inputs that the metadata describes: number type, and shape after the batch axis."""
    possible: dict[str, tuple[str, Shape]] = {
        "price": ("float64", (m.block,)),
        "mask": ("bool", (m.block,)),
        "series": ("int64", ()),
        "past": ("float32", (len(m.past),)),
        "future": ("float32", (m.horizon, len(m.future))),
        "elapsed": ("float32", ()),
    }
    return {name: possible[name] for name in m.inputs} | {f"state.{s.name}": (s.dtype, s.shape) for s in m.state}


def _outputs(m: Metadata) -> dict[str, tuple[str, Shape]]:
    """List the outputs that the metadata describes."""
    around, following = (m.horizon, m.block), {f"next.{s.name}": (s.dtype, s.shape) for s in m.state}
    if m.task == "classify":
        return {"probability": ("float32", (len(m.classes),)), **following}
    outputs: dict[str, tuple[str, Shape]] = {
        "quantile": ("float64", (*around, len(m.levels))),
        "loc": ("float32", around),
        "scale": ("float32", around),
    }
    return outputs | following


def _check(side: str, nodes: Iterable[onnxruntime.NodeArg], expected: dict[str, tuple[str, Shape]]) -> None:
    """Compare what the graph declares with what the metadata describes."""
    declared = {n.name: n for n in nodes}
    if declared.keys() != expected.keys():
        raise ModelError(f"model file: {side} are {sorted(declared)}; its metadata describes {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        node = declared[name]
        got = (_NUMPY.get(node.type, node.type), tuple(node.shape[1:]))
        if got != (dtype, shape) or not node.shape or isinstance(node.shape[0], int):
            raise ModelError(
                f"model file: {name} is {got[0]} {node.shape}; its metadata describes {dtype} {['batch', *shape]} "
                "with any number of rows"
            )
