"""What a served model file says about itself, and what a series leaves in its state.

Comes in: a session. Goes out: `Inspection`, for a table or for JSON, and `StatePath`, for the figure of hidden states.
Knows numpy only; imported by steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import DataError
from models.observation import StateTensor
from pipeline.metadata import Metadata
from pipeline.session import RUNTIME_VERSION, Session
from pipeline.stream_core import Core
from pipeline.ticks import SENTENCES, Reason, Ticks

_NAMED = 8
_REFUSED = (Reason.TIME, Reason.FUTURE, Reason.NAME, Reason.LATE, Reason.DUPLICATE, Reason.CONFLICT)


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A model file, seen from outside: everything comes from its own bytes.

    Attributes
    ----------
    metadata : Metadata
        What the file says about itself; the runtime has found its inputs and outputs to agree with it.
    sha256 : str
        Digest of the file.
    """

    metadata: Metadata
    sha256: str

    @property
    def bytes_per_series(self) -> int:
        """What one series keeps in memory between its ticks, without its name."""
        return sum(_bytes(tensor) for tensor in self.metadata.state)

    def to_dict(self) -> dict[str, Any]:
        """Give the metadata as plain values for JSON, with the digest and the bytes a series."""
        return orjson.loads(self.metadata.to_json()) | {
            "sha256": self.sha256,
            "bytes_per_series": self.bytes_per_series,
        }

    def rows(self) -> list[tuple[str, str]]:
        """Give a table for a reader: what, and its value; without a header."""
        m = self.metadata
        lower, upper = m.domain
        return [
            ("model", f"{m.name}, kind {m.kind}"),
            ("transform", f"{m.transform['kind']}, prices between {lower:g} and {upper:g}"),
            ("grid", f"{m.grid}, {m.block} price{'s' * (m.block > 1)} a moment"),
            ("horizon", f"{m.horizon} step{'s' * (m.horizon > 1)} ahead"),
            ("quantile levels", ", ".join(f"{level:g}" for level in m.levels)),
            ("density", _density(m.df)),
            ("size", _size(m.parity)),
            ("reads", ", ".join((*m.inputs, *m.past, *m.future))),
            *((f"state {s.name}", _described(s)) for s in m.state),
            ("state of a series", f"{self.bytes_per_series} bytes"),
            ("series of the fit", _named(m.series)),
            ("cut-off", m.cutoff_time),
            ("data", m.data_sha256),
            ("commit", m.commit),
            ("parity", _parity(m.parity)),
            ("file", f"{self.sha256}, here run by onnxruntime {RUNTIME_VERSION}"),
        ]


@dataclass(frozen=True, kw_only=True)
class StatePath:
    """The state of one series after each of T prices.

    Attributes
    ----------
    model, series : str
    time : int64 [T]
        Microseconds since 1970, UTC.
    price : float64 [T]
        NaN where none was published.
    tensors : dict of ndarray [T, ...]
        By name: row t was made with the prices up to and including `time[t]`.
    described : tuple of StateTensor
        Unit and meaning of each tensor, in the order of the file.
    """

    model: str
    series: str
    time: NDArray[np.int64]
    price: NDArray[np.float64]
    tensors: dict[str, NDArray]
    described: tuple[StateTensor, ...]


def inspect(session: Session) -> Inspection:
    """Tell what a loaded file says about itself."""
    return Inspection(metadata=session.metadata, sha256=session.sha256)


def state_path(session: Session, series: str, time: NDArray[np.int64], price: NDArray[np.float64]) -> StatePath:
    """Carry one series over its prices, as the stream does, and keep the state after each.

    The state begins as that of a series that has shown nothing; give prices from its beginning to see what is served.

    Parameters
    ----------
    session : Session
    series : str
        Its name; one that the fit did not see runs on the pooled row of the parameters.
    time : int64 [T]
        Microseconds since 1970, UTC, ascending.
    price : float64 [T]
        NaN, or a price outside the transform's domain, leaves the state as it was.

    Raises
    ------
    DataError
        When there are no prices, the arrays differ in length, times do not ascend, or the name is none.
    ModelError
        When the model needs more than a price a moment.
    """
    if len(time) == 0 or len(time) != len(price):
        raise DataError(f"{series}: expected times and prices, as many of each, got {len(time)} and {len(price)}")
    stream = Core(session, max_series=1)
    steps = [_stepped(stream, series, time[t : t + 1], price[t : t + 1]) for t in range(len(time))]
    return StatePath(
        model=session.metadata.name,
        series=series,
        time=time,
        price=price,
        tensors={s.name: np.stack([step[f"state.{s.name}"] for step in steps]) for s in session.metadata.state},
        described=session.metadata.state,
    )


def _stepped(stream: Core, series: str, time: NDArray[np.int64], price: NDArray[np.float64]) -> dict[str, NDArray]:
    """Take in one price and copy the state."""
    tick = Ticks.of([(series, int(time[0]), float(price[0]))])
    reason = Reason(int(stream.apply(tick).reason[0]))
    if reason in _REFUSED:
        moment = np.datetime64(int(time[0]), "us")
        raise DataError(f"{series} at {moment}: the tick was refused, {SENTENCES[reason]}")
    if not len(stream.book):
        return {f"state.{name}": x[0] for name, x in stream.session.initial(1).items()}
    return {name: x[0].copy() for name, x in stream.serving.arena.arrays().items()}


def _bytes(tensor: StateTensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _described(tensor: StateTensor) -> str:
    shape = " x ".join(map(str, tensor.shape)) or "one number"
    return f"{tensor.meaning} ({tensor.unit}; {tensor.dtype}, {shape}, {_bytes(tensor)} bytes, from {tensor.initial:g})"


def _size(parity: dict[str, Any]) -> str:
    if "nodes" not in parity:
        return "not told"
    return f"{parity['parameters']:,} parameters, {parity['nodes']} nodes"


def _density(df: tuple[float, ...]) -> str:
    """Name the distribution on the transformed scale, or its range over the rows of the parameters."""
    if all(math.isnan(x) for x in df):
        return "none, quantiles only"
    low, high = np.nanmin(df), np.nanmax(df)
    if math.isinf(low):
        return "normal"
    span = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return f"Student t, {span} degrees of freedom"


def _named(series: tuple[str, ...]) -> str:
    """Count the series and name the first few."""
    names = ", ".join(series[:_NAMED]) + (", ..." if len(series) > _NAMED else "")
    return f"{len(series)}: {names}" if series else "none: every series runs on the pooled row"


def _parity(parity: dict[str, Any]) -> str:
    """Give the tensor in which the file was furthest from its model, relative to the tensor's size."""
    if not parity.get("errors"):
        return "not measured"
    name, worst = max(parity["errors"].items(), key=lambda item: item[1]["runtime"])
    return (
        f"{worst['runtime']:.1e} in {name} after up to {parity['steps']} carried steps, where torch itself in float32 "
        f"is {worst['torch']:.1e} from float64"
    )
