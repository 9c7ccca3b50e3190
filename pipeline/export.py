"""Export a forecaster as one self-contained ONNX step, through a parity gate that cannot be skipped.

The gate runs the file's own bytes in onnxruntime against the forecaster in torch, in float32 and in float64, over
2,000 carried steps from the zero state, at batch 1 and 64, with holes, poison of every kind and rows of unseen
series. Each tensor's error is relative to its own size, and the runtime may be no further from the float64
reference than four times torch's own float32 is. A file that fails is not written.

Legend: B batch, T time, M prices of one moment.

Comes in: a fitted forecaster and where it comes from. Goes out: a file. Knows torch, and onnx through
`models/graph.py`; imported by the commands and flows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checks import POISON
from models.errors import ParityError
from models.forecaster import Forecaster, observe
from models.graph import annotate, inputs, trace
from models.observation import Forecast, Observation, State, at, between
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


def export(forecaster: Forecaster, provenance: Provenance, path: Path) -> Session:
    """Write the forecaster's step into `path` and return the session of the very bytes written.

    Raises
    ------
    ParityError
        The file does not reproduce the forecaster; the message names the worst element. Nothing is written.
    """
    data = exported(forecaster, provenance)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)
    return Session(data)


def exported(forecaster: Forecaster, provenance: Provenance) -> bytes:
    """Give the bytes of the file, after the parity gate."""
    forecaster = copy.deepcopy(forecaster).cpu().eval()
    proto, metadata = _described(forecaster, provenance)
    with cpu_threads(1):
        parity = check_parity(forecaster, Session(annotate(proto, KEY, metadata.to_json())))
    parity |= {"nodes": len(proto.graph.node), "parameters": parameters(forecaster)}
    return annotate(proto, KEY, replace(metadata, parity=parity).to_json())


def ungated(forecaster: Forecaster) -> Session:
    """Give the session of a forecaster, on the CPU and in eval mode, without the gate: to measure, never to serve."""
    nowhere = Provenance(
        series=tuple(f"series {row}" for row in range(1, _rows(forecaster))),
        grid="tick",
        cutoff_time="1970-01-01T00:00:00Z",
        data_sha256="0" * 64,
        commit="none",
        config={},
    )
    proto, metadata = _described(forecaster, nowhere)
    return Session(annotate(proto, KEY, metadata.to_json()))


def parameters(forecaster: Forecaster) -> int:
    """Count the numbers that a fit has set, buffers such as scales among them."""
    return sum(p.numel() for p in forecaster.state_dict().values())


def _described(forecaster: Forecaster, provenance: Provenance) -> tuple[ModelProto, Metadata]:
    """Trace the step, and say of it what a file says before the gate."""
    proto = trace(forecaster)
    return proto, _metadata(forecaster, provenance, tuple(n for n in inputs(proto) if not n.startswith("state.")))


def _metadata(f: Forecaster, provenance: Provenance, read: tuple[str, ...]) -> Metadata:
    return Metadata(
        name=f.name,
        kind=f.kind,
        transform=f.transform.describe(),
        block=f.block,
        horizon=f.horizon,
        levels=f.levels,
        df=tuple(f.core.df.tolist()),
        state=f.state_tensors(),
        inputs=read,
        past=f.past_names,
        future=f.future_names,
        parity={},
        **vars(provenance),
    )


def check_parity(forecaster: Forecaster, session: Session) -> dict[str, Any]:
    """Compare the session with the forecaster; give the largest errors found, by tensor.

    Raises
    ------
    ParityError
        A tensor of the runtime is NaN where the forecaster's is not, or too far from the float64 reference.
    """
    worst: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        o = scenario(forecaster, batch)
        paths = [
            _torch_path(forecaster, o),
            _torch_path(copy.deepcopy(forecaster).double(), o),
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


def scenario(forecaster: Forecaster, batch: int) -> Observation:
    """Make observations [B, 2000, ...] as hard as a stream's: clustered moves, holes, poison, unseen series.

    Moves are sized by the forecaster's own first forecast of each row.
    """
    rng = np.random.default_rng(20)
    rows = torch.tensor(rng.integers(0, max(_rows(forecaster), 1), size=batch))
    first = torch.full((batch, forecaster.block), 100.0, dtype=torch.float64)
    now, _ = forecaster.step(_dress(forecaster, first, rows), forecaster.init_state(batch))
    size = now.scale[:, :1].detach().double().numpy()
    shape = (batch, STEPS, forecaster.block)
    clusters = np.exp(np.cumsum(rng.normal(size=shape) * 0.1, 1).clip(-2, 2))
    path = torch.tensor(np.cumsum(size * clusters * rng.standard_t(4, size=shape) * 0.5, 1))
    start, flat = first[:, None, None], path.reshape(batch, STEPS, forecaster.block, 1)
    price = forecaster.transform.invert(start.transpose(2, 3), flat, rows, (STEPS, forecaster.block))[..., 0]
    price = torch.where(torch.tensor(rng.random(shape) < 0.02), torch.tensor(rng.choice(POISON, size=shape)), price)
    mask = torch.tensor(rng.random(shape) > 0.05)
    o = _dress(forecaster, price, rows)
    beside = {f: getattr(o, f) for f in ("past", "future", "elapsed")}
    spoiled = {f: torch.where(torch.tensor(rng.random(x.shape) < 0.01), float("nan"), x) for f, x in beside.items()}
    return replace(o, mask=mask, **spoiled)


def _rows(forecaster: Forecaster) -> int:
    """Count the parameter rows: one where all series share them."""
    return len(forecaster.core.df)


def _dress(f: Forecaster, price: Tensor, rows: Tensor) -> Observation:
    """Put covariates beside prices: those of the calendar of real times, others random and as large as in its fit."""
    lead = price.shape[:-1]
    time = SPACING * np.arange(np.prod(lead)).reshape(lead)
    rng = torch.Generator().manual_seed(21)
    fitted = {name.rpartition(".")[2]: x for name, x in f.named_buffers()}

    def drawn(side: str, names: tuple[str, ...], at_time: Callable[[list[str]], NDArray], *steps: int) -> Tensor:
        standard = torch.randn((*lead, *steps, len(names)), generator=rng)
        raw = (standard * fitted.get(f"{side}_unit", 1.0) + fitted.get(f"{side}_center", 0.0)).float()
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
def _torch_path(forecaster: Forecaster, o: Observation) -> Iterator[dict[str, NDArray]]:
    """Give forecast and state in torch after each step of `LOOK_AT`."""
    state, done = forecaster.init_state(len(o.series)), 0
    for step in LOOK_AT:
        forecast, state = forecaster.forward(between(o, done, step), state)
        done = step
        last = {k: getattr(forecast, k)[:, -1] for k in ("quantile", "loc", "scale")}
        yield {k: v.double().numpy() for k, v in {**last, **_named(state)}.items()}


def _session_path(session: Session, o: Observation) -> Iterator[dict[str, NDArray]]:
    """Give forecast and state in the runtime after each step of `LOOK_AT`."""
    state = session.initial(len(o.series))
    for t in range(STEPS):
        now = at(o, t)
        arrays = Observation(**{f: getattr(now, f).numpy() for f in Observation.__dataclass_fields__})
        forecast, state = session.step(arrays, state)
        if t + 1 in LOOK_AT:
            yield {k: np.asarray(v, np.float64) for k, v in {**_parts(forecast), **_named(state)}.items()}


def _parts(forecast: Forecast) -> dict[str, Any]:
    return {k: getattr(forecast, k) for k in ("quantile", "loc", "scale")}


def _named(state: State) -> dict[str, Any]:
    return {f"state.{k}": v for k, v in state.items()}
