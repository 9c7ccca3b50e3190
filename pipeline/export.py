"""Export a forecaster or classifier as one self-contained ONNX step, through a parity gate that cannot be skipped.

The gate runs the file's own bytes in onnxruntime against the forecaster in torch, in float32 and in float64, over
2,000 carried steps from the zero state, at batch 1 and 64, with holes, poison of every kind and rows of unseen
series. Each tensor's error is relative to its own size, and the runtime may be no further from the float64
reference than four times torch's own float32 is. A file that fails is not written.

Legend: B batch, T time, M prices of one moment.

Comes in: a fitted model and where it comes from. Goes out: a file. Knows torch, and onnx through
`models/graph.py`; imported by the commands and flows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checks import POISON
from models.classifier import Classifier
from models.errors import ParityError
from models.forecaster import observe
from models.graph import annotate, inputs, trace
from models.network import Network
from models.observation import Observation, State, at, between
from models.shell import Shell
from pipeline.atomic import replacing
from pipeline.calendar_features import ahead, calendar, of_calendar
from pipeline.metadata import KEY, Metadata
from pipeline.session import RUNTIME_VERSION, Session
from pipeline.threads import cpu_threads

if TYPE_CHECKING:
    from onnx import ModelProto

STEPS = 2000
BATCHES = (1, 64)
LOOK_AT = (1, 2, 500, STEPS)
"""Steps after which the carried state is compared."""

SPACING = 37 * 3_600_000_000
"""Microseconds between the observations of the gate: they meet every hour, weekday and month."""

TIMES_TORCH = 4.0
ROUNDING = 1e-6
"""Errors below this share of a tensor's size are rounding, whatever torch's own error is."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a fitted forecaster comes from; see `Metadata` for the fields."""

    series: tuple[str, ...]
    grid: str
    cutoff_time: str
    data_sha256: str
    commit: str
    config: dict[str, Any]


def export(model: Shell[Any], provenance: Provenance, path: Path) -> Session:
    """Write the model's step into `path` and return the session of the very bytes written.

    Raises
    ------
    ParityError
        The file does not reproduce the model; the message names the worst element. Nothing is written.
    """
    data = exported(model, provenance)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)
    return Session(data)


def exported(model: Shell[Any], provenance: Provenance) -> bytes:
    """Give the bytes of the file, after the parity gate."""
    model = copy.deepcopy(model).cpu().eval()
    proto, metadata = _described(model, provenance)
    with cpu_threads(1):
        parity = check_parity(model, Session(annotate(proto, KEY, metadata.to_json())))
    parity |= {"nodes": len(proto.graph.node), "parameters": parameters(model)}
    return annotate(proto, KEY, replace(metadata, parity=parity).to_json())


def ungated(model: Shell[Any]) -> Session:
    """Give the session of a model, on the CPU and in eval mode, without the gate: to measure, never to serve."""
    nowhere = Provenance(
        series=tuple(f"series {row}" for row in range(1, _rows(model))),
        grid="tick",
        cutoff_time="1970-01-01T00:00:00Z",
        data_sha256="0" * 64,
        commit="none",
        config={},
    )
    proto, metadata = _described(model, nowhere)
    return Session(annotate(proto, KEY, metadata.to_json()))


def parameters(model: Shell[Any]) -> int:
    """Count the numbers that a fit has set, buffers such as scales among them."""
    return sum(p.numel() for p in model.state_dict().values())


def _described(model: Shell[Any], provenance: Provenance) -> tuple[ModelProto, Metadata]:
    """Trace the step, and say of it what a file says before the gate."""
    proto = trace(model)
    return proto, _metadata(model, provenance, tuple(n for n in inputs(proto) if not n.startswith("state.")))


def _metadata(m: Shell[Any], provenance: Provenance, read: tuple[str, ...]) -> Metadata:
    task = {"task": "classify", "classes": m.classes} if isinstance(m, Classifier) else {}
    return Metadata(
        name=m.name,
        kind=m.kind,
        transform=m.transform.describe(),
        block=m.block,
        horizon=m.horizon,
        df=tuple(m.core.df.tolist()),
        state=m.state_tensors(),
        inputs=read,
        past=m.past_names,
        future=m.future_names,
        parity={},
        **task,
        **vars(provenance),
    )


def check_parity(model: Shell[Any], session: Session) -> dict[str, Any]:
    """Compare the session with the model; give the largest errors found, by tensor.

    Raises
    ------
    ParityError
        A tensor of the runtime is NaN where the model's is not, or too far from the float64 reference.
    """
    worst: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        o = scenario(model, batch)
        paths = [
            _torch_path(model, o),
            _torch_path(copy.deepcopy(model).double(), o),
            _session_path(session, o),
        ]
        for step, in_torch, exact, served in zip(LOOK_AT, *paths, strict=True):
            for name, reference in exact.items():
                errors = _errors(name, reference, in_torch[name], served[name], exact)
                _judge(session.metadata.name, f"{name} after step {step} at batch {batch}", *errors)
                seen = worst.setdefault(name, {"runtime": 0.0, "torch": 0.0})
                seen["runtime"] = max(seen["runtime"], float(errors[0].max()))
                seen["torch"] = max(seen["torch"], float(errors[1].max()))
    return {"steps": STEPS, "batches": list(BATCHES), "onnxruntime": RUNTIME_VERSION, "errors": worst}


def _errors(
    name: str, exact: NDArray, in_torch: NDArray, served: NDArray, everything: dict[str, NDArray]
) -> tuple[NDArray, NDArray]:
    """Give the errors of the runtime and of torch, relative to the size of the tensor; NaN must be in one place."""
    if name == "quantile":
        size = np.abs(exact)
    elif name == "loc":
        size = everything["scale"]
    else:
        size = np.full(exact.shape, max(np.nanmax(np.abs(exact), initial=0.0), 1e-30))
    gaps = [np.where(np.isnan(exact) & np.isnan(x), 0.0, np.abs(x - exact) / size) for x in (served, in_torch)]
    return np.where(np.isnan(gaps[0]), np.inf, gaps[0]), np.nan_to_num(gaps[1], nan=0.0)


def _judge(model: str, what: str, runtime: NDArray, in_torch: NDArray) -> None:
    allowed = max(ROUNDING, TIMES_TORCH * float(in_torch.max()))
    if float(runtime.max()) > allowed:
        where = np.unravel_index(int(runtime.argmax()), runtime.shape)
        raise ParityError(
            f"export of {model}: {what}, element {[int(k) for k in where]} is off by {runtime.max():.3g} of its size; "
            f"expected at most {allowed:.3g} (torch's own float32 is off by {in_torch.max():.3g}). The graph does not "
            "reproduce the model: nothing was written"
        )


def scenario(model: Shell[Any], batch: int) -> Observation:
    """Make observations [B, 2000, ...] as hard as a stream's: clustered moves, holes, poison, unseen series.

    Moves are sized by a forecaster's own first forecast of each row, and by the typical move of a classifier's fit.
    """
    rng = np.random.default_rng(20)
    rows = torch.tensor(rng.integers(0, max(_rows(model), 1), size=batch))
    first = torch.full((batch, model.block), 100.0, dtype=torch.float64)
    size = _size(model, first, rows)
    shape = (batch, STEPS, model.block)
    clusters = np.exp(np.cumsum(rng.normal(size=shape) * 0.1, 1).clip(-2, 2))
    path = torch.tensor(np.cumsum(size * clusters * rng.standard_t(4, size=shape) * 0.5, 1))
    start, flat = first[:, None, None], path.reshape(batch, STEPS, model.block, 1)
    price = model.transform.invert(start.transpose(2, 3), flat, rows, (STEPS, model.block))[..., 0]
    price = torch.where(torch.tensor(rng.random(shape) < 0.02), torch.tensor(rng.choice(POISON, size=shape)), price)
    mask = torch.tensor(rng.random(shape) > 0.05)
    o = _dress(model, price, rows)
    beside = {f: getattr(o, f) for f in ("past", "future", "elapsed")}
    spoiled = {f: torch.where(torch.tensor(rng.random(x.shape) < 0.01), float("nan"), x) for f, x in beside.items()}
    return replace(o, mask=mask, **spoiled)


def _size(model: Shell[Any], first: Tensor, rows: Tensor) -> NDArray:
    """Give the size of a usual move on the transformed scale, [B, 1, M] or one for all."""
    if isinstance(model, Classifier):
        return cast("Network", model.core).inputs.get_buffer("unit").double().numpy()
    now, _ = model.step(_dress(model, first, rows), model.init_state(len(rows)))
    return now.scale[:, :1].detach().double().numpy()


def _rows(model: Shell[Any]) -> int:
    """Count the parameter rows: one where all series share them."""
    return len(model.core.df)


def _dress(f: Shell[Any], price: Tensor, rows: Tensor) -> Observation:
    """Put covariates beside prices: those of the calendar of real times, others random and as large as in its fit."""
    lead = price.shape[:-1]
    time = SPACING * np.arange(np.prod(lead)).reshape(lead)
    rng = torch.Generator().manual_seed(21)
    fitted = {name.rpartition(".")[2]: x for name, x in f.named_buffers()}

    def drawn(side: str, names: tuple[str, ...], at_time: Callable[[list[str]], NDArray], *steps: int) -> Tensor:
        unit, center = torch.ones(len(names)), torch.zeros(len(names))
        for constant, name in ((unit, f"{side}_unit"), (center, f"{side}_center")):
            if name in fitted:  # what stands behind the fitted ones is of the calendar
                constant[: len(fitted[name])] = fitted[name]
        raw = torch.randn((*lead, *steps, len(names)), generator=rng) * unit + center
        told = [k for k, name in enumerate(names) if of_calendar(name)]
        raw[..., told] = torch.from_numpy(at_time([names[k] for k in told]))
        return raw

    return observe(
        price,
        series=rows,
        past=drawn("past", f.past_names, lambda names: calendar(names, time)),
        future=drawn("future", f.future_names, lambda names: ahead(names, time, SPACING, f.horizon), f.horizon),
        elapsed=torch.rand(lead, generator=rng) + 0.5,
        horizon=f.horizon,
    )


@torch.no_grad()
def _torch_path(model: Shell[Any], o: Observation) -> Iterator[dict[str, NDArray]]:
    """Give answer and state in torch after each step of `LOOK_AT`."""
    state, done = model.init_state(len(o.series)), 0
    for step in LOOK_AT:
        answer, state = model.forward(between(o, done, step), state)
        done = step
        last = {k: getattr(answer, k)[:, -1] for k in model.outputs()}
        yield {k: v.double().numpy() for k, v in {**last, **_named(state)}.items()}


def _session_path(session: Session, o: Observation) -> Iterator[dict[str, NDArray]]:
    """Give answer and state in the runtime after each step of `LOOK_AT`."""
    state = session.initial(len(o.series))
    for t in range(STEPS):
        now = at(o, t)
        arrays = Observation(**{f: getattr(now, f).numpy() for f in Observation.__dataclass_fields__})
        given, state = session.run(arrays, state)
        if t + 1 in LOOK_AT:
            yield {k: np.asarray(v, np.float64) for k, v in {**given, **_named(state)}.items()}


def _named(state: State) -> dict[str, Any]:
    return {f"state.{k}": v for k, v in state.items()}
