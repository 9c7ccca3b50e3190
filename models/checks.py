"""The step contract as executable checks: a forecaster or classifier is done when all of them pass.

In the manner of river's `check_estimator`. Each check is a function of a fitted model and a generator of
random numbers; it raises AssertionError with what it saw. `CHECKS` lists them all, so that a test runs every
check on every kind and an export can run them on the very model it writes.

Comes in: a model. Goes out: nothing, or an AssertionError. Imported by tests and by whoever adds a kind.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.forecaster import observe
from models.observation import Forecast, Observation, State, at, between
from models.shell import Shell

Check = Callable[[Shell[Any], np.random.Generator], None]
POISON = (float("nan"), float("inf"), float("-inf"), 1e30, -1e30)


def prices(model: Shell[Any], rng: np.random.Generator, batch: int = 3, time: int = 40) -> Observation:
    """Make observations [B, T, ...] of random prices around 100 with covariates, none missing."""
    moves = rng.standard_t(4, size=(batch, time, model.block)) * 0.01
    f = model
    return observe(
        torch.tensor(100.0 * np.exp(np.cumsum(moves, 1))),
        past=torch.tensor(rng.normal(size=(batch, time, f.past)), dtype=torch.float32),
        future=torch.tensor(rng.normal(size=(batch, time, f.horizon, f.future)), dtype=torch.float32),
        horizon=f.horizon,
    )


def with_holes(observations: Observation, rng: np.random.Generator) -> Observation:
    """Leave out about a fifth of the moments, the first one of the first row among them."""
    keep = torch.tensor(rng.random(observations.mask.shape[:2]) > 0.2)
    keep[0, 0] = False
    return replace(observations, mask=observations.mask & keep[..., None])


@torch.no_grad()
def _chain(model: Shell[Any], o: Observation, state: State) -> tuple[Any, State]:
    """Step through observations one at a time."""
    out = []
    for t in range(o.price.shape[1]):
        answer, state = model.step(at(o, t), state)
        out.append(answer)
    return _each(lambda *parts: torch.stack(parts, 1), *out), state


def _each(change: Callable[..., Tensor], *answers: Any) -> Any:
    """Make one answer of several, part by part."""
    made = {f.name: change(*(getattr(a, f.name) for a in answers)) for f in fields(answers[0])}
    return type(answers[0])(**made)


def _finite(answer: Any) -> bool:
    """Tell whether all of an answer is finite, but for the degrees of freedom, which may be none."""
    return all(bool(torch.isfinite(getattr(answer, f.name)).all()) for f in fields(answer) if f.name != "df")


def _close(a: Tensor, b: Tensor, what: str, tolerance: float = 2e-6, unit: Tensor | None = None) -> None:
    """Compare in units of the largest value, or of the largest of another tensor where that is larger."""
    gap, *sizes = (_largest(x) for x in (a - b, a, *(() if unit is None else (unit,))))
    size = max(sizes)
    assert torch.equal(a.isnan(), b.isnan()), f"{what}: NaN in different places"
    assert gap <= tolerance * max(size, 1e-30), f"{what}: differs by {gap:.3g} at a size of {size:.3g}"


def _largest(x: Tensor) -> float:
    return torch.nan_to_num(x.abs(), posinf=0.0).max().item() if x.numel() else 0.0


def _same_answer(a: Any, b: Any, what: str) -> None:
    for f in fields(a):
        # without a density the location is a quantile: what is left of shares of bins whose widths are of the scale
        unit = a.scale if f.name == "loc" and bool(a.df.isnan().all()) else None
        _close(getattr(a, f.name), getattr(b, f.name), f"{what}, {f.name}", unit=unit)


def _same_state(a: State, b: State, what: str, tolerance: float = 2e-6) -> None:
    assert a.keys() == b.keys(), f"{what}: state tensors {sorted(a)} and {sorted(b)}"
    for name in a:
        _close(a[name], b[name], f"{what}, state {name}", tolerance)


def _bits(state: State) -> dict[str, bytes]:
    return {k: v.detach().contiguous().numpy().tobytes() for k, v in state.items()}


def check_shapes(model: Shell[Any], rng: np.random.Generator) -> None:
    """Answer and state have the shapes and number types of the contract."""
    o = prices(model, rng)
    answer, state = model.step(at(o, 0), model.init_state(3))
    expected = {
        name: ((3, *shape), "float64" if name == "quantile" else "float32") for name, shape in model.outputs().items()
    }
    expected |= {"df": ((3,), "float32")} if isinstance(answer, Forecast) else {}
    parts = {f.name: getattr(answer, f.name) for f in fields(answer)}
    found = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in parts.items()}
    assert found == expected, f"expected {expected}, found {found}"
    declared = {s.name: ((3, *s.shape), s.dtype) for s in model.state_tensors()}
    found = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state.items()}
    assert found == declared, f"declared {declared}, found {found}"


@torch.no_grad()
def check_step_chain_equals_forward(model: Shell[Any], rng: np.random.Generator) -> None:
    """A chain of steps gives what forward gives, holes included."""
    o = with_holes(prices(model, rng), rng)
    stepped = _chain(model, o, model.init_state(3))
    whole = model.forward(o)
    _same_answer(stepped[0], whole[0], "step chain and forward")
    _same_state(stepped[1], whole[1], "step chain and forward")


@torch.no_grad()
def check_any_chunking(model: Shell[Any], rng: np.random.Generator) -> None:
    """Forward in pieces of any length gives what one forward gives."""
    o = with_holes(prices(model, rng), rng)
    whole, end = model.forward(o)
    cuts = [0, *sorted(rng.choice(np.arange(1, 40), size=4, replace=False).tolist()), 40]
    state, pieces = model.init_state(3), []
    for start, stop in pairwise(cuts):
        piece, state = model.forward(between(o, start, stop), state)
        pieces.append(piece)
    joined = _each(lambda *parts: torch.cat(parts, 1), *pieces)
    _same_answer(joined, whole, f"chunks cut at {cuts}")
    _same_state(state, end, f"chunks cut at {cuts}")


@torch.no_grad()
def check_future_never_changes_past(model: Shell[Any], rng: np.random.Generator) -> None:
    """Garbage in the future leaves every earlier forecast bit for bit."""
    o = prices(model, rng)
    price, past, future = o.price.clone(), o.past.clone(), o.future.clone()
    price[:, 20:] = torch.tensor(rng.uniform(1e-3, 1e9, size=price[:, 20:].shape))
    past[:, 20:] = 1e6
    future[:, 20:] = -1e6
    clean, _ = model.forward(o)
    dirty, _ = model.forward(replace(o, price=price, past=past, future=future))
    for f in fields(clean):
        a, b = getattr(clean, f.name)[:, :20], getattr(dirty, f.name)[:, :20]
        assert a.numpy().tobytes() == b.numpy().tobytes(), f"{f.name} before the garbage changed"


@torch.no_grad()
def check_a_later_start_shifts_the_forecasts(model: Shell[Any], rng: np.random.Generator) -> None:
    """A first observation that was not published leaves the state as it was made, and all forecasts one later."""
    o = prices(model, rng)
    hole = replace(between(o, 0, 1), price=torch.full_like(o.price[:, :1], float("nan")))
    hole = replace(hole, mask=torch.zeros_like(hole.mask))
    start = model.init_state(3)
    _, held = model.forward(hole, start)
    assert _bits(held) == _bits(start), "a hole before the first price changed the state"
    joined = {
        k: torch.cat([getattr(hole, k), getattr(o, k)], 1) for k in ("price", "mask", "past", "future", "elapsed")
    }
    later, _ = model.forward(replace(o, **joined))
    shifted = _each(lambda x: x[:, 1:], later)
    _same_answer(shifted, model.forward(o)[0], "one observation later")


@torch.no_grad()
def check_rows_are_independent(model: Shell[Any], rng: np.random.Generator) -> None:
    """A row's forecast does not depend on the other rows of the batch."""
    o = prices(model, rng)
    together, _ = model.forward(o)
    one = Observation(**{f.name: getattr(o, f.name)[1:2] for f in fields(Observation)})
    alone, _ = model.forward(one)
    mine = _each(lambda x: x[1:2], together)
    _same_answer(mine, alone, "row alone and in a batch")


@torch.no_grad()
def check_poison_leaves_the_state(model: Shell[Any], rng: np.random.Generator) -> None:
    """A poisoned observation leaves the state bit for bit, at the first step and later, and the forecast too."""
    o = prices(model, rng)
    _, warm = model.forward(o)
    forecast = before = model.step(at(o, 39), warm)[0]
    for state in (model.init_state(3), warm):
        for value in POISON:
            bad = replace(at(o, 0), price=torch.full_like(at(o, 0).price, value))
            bad = replace(bad, mask=torch.ones_like(bad.mask))
            forecast, after = model.step(bad, state)
            assert _bits(after) == _bits(state), f"a price of {value} changed the state"
    if not model.future:
        assert _finite(forecast), "a poisoned tick left an answer that is not finite"
    assert _finite(before), "a warm answer is not finite"


@torch.no_grad()
def check_poison_beside_the_price_leaves_the_state(model: Shell[Any], rng: np.random.Generator) -> None:
    """A covariate or an elapsed time that is no number, where it is read, leaves the state bit for bit."""
    o = prices(model, rng)
    _, state = model.forward(between(o, 0, 10))
    bad = {"past": POISON[:3], "future": POISON[:3], "elapsed": (*POISON[:3], 0.0, -1.0)}
    for name, values in bad.items():
        clean = getattr(at(o, 10), name)
        for value in values if getattr(model.core, name) else ():
            poisoned = replace(at(o, 10), **{name: torch.full_like(clean, value)})
            _, after = model.step(poisoned, state)
            assert _bits(after) == _bits(state), f"{name} of {value} changed the state"


@torch.no_grad()
def check_state_is_a_value(model: Shell[Any], rng: np.random.Generator) -> None:
    """A step changes neither the state it was given nor anything in the model."""
    o = prices(model, rng)
    _, state = model.forward(between(o, 0, 10))
    kept, weights = _bits(state), {k: v.clone() for k, v in model.state_dict().items()}
    model.step(at(o, 10), state)
    model.forward(between(o, 10, 20), state)
    assert _bits(state) == kept, "the state given was changed in place"
    for k, v in model.state_dict().items():
        assert torch.equal(torch.nan_to_num(v), torch.nan_to_num(weights[k])), f"{k} of the model changed"


@torch.no_grad()
def check_quantiles_are_ordered(model: Shell[Any], rng: np.random.Generator) -> None:
    """Quantiles rise with their level, and are finite from the first price on."""
    forecast, _ = model.forward(prices(model, rng))
    assert torch.isfinite(forecast.quantile).all(), "a quantile is not finite"
    assert (forecast.quantile.diff(dim=-1) > 0).all(), "quantiles cross"


@torch.no_grad()
def check_probabilities_add_up(model: Shell[Any], rng: np.random.Generator) -> None:
    """The probabilities of a label are in [0, 1] and add up to 1, before the first price too."""
    o = with_holes(prices(model, rng), rng)
    probability = model.forward(o)[0].probability
    assert bool((probability >= 0).all()), "a probability is below zero"
    _close(probability.sum(-1), torch.ones(probability.shape[:2]), "the sum of the probabilities")


@torch.no_grad()
def check_standing_still(model: Shell[Any], rng: np.random.Generator) -> None:
    """A series that does not move for 3000 steps, then jumps, has finite answers throughout."""
    o = prices(model, rng, batch=1, time=3002)
    price = o.price.clone()
    price[:, 1:3000] = price[:, :1]
    answer, state = model.forward(replace(o, price=price))
    assert _finite(answer), "an answer is not finite"
    assert all(torch.isfinite(v).all() for v in state.values()), "the state is not finite"


@torch.no_grad()
def check_memory_is_flat(model: Shell[Any], rng: np.random.Generator) -> None:
    """Carrying the state over 1000 chunks leaves no more tensors alive than 100 do."""
    o = between(prices(model, rng, batch=2, time=4), 0, 2)

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    _, state = model.forward(o)
    counts = []
    for chunk in range(1000):
        _, state = model.forward(o, state)
        if chunk in (99, 999):
            counts.append(alive())
    assert counts[1] <= counts[0], f"{counts[0]} tensors alive after 100 chunks, {counts[1]} after 1000"


_SHARED: tuple[Check, ...] = (
    check_shapes,
    check_step_chain_equals_forward,
    check_any_chunking,
    check_future_never_changes_past,
    check_a_later_start_shifts_the_forecasts,
    check_rows_are_independent,
    check_poison_leaves_the_state,
    check_poison_beside_the_price_leaves_the_state,
    check_state_is_a_value,
    check_standing_still,
    check_memory_is_flat,
)
CHECKS: tuple[Check, ...] = (*_SHARED, check_quantiles_are_ordered)
"""What every forecaster keeps."""

LABEL_CHECKS: tuple[Check, ...] = (*_SHARED, check_probabilities_add_up)
"""What every classifier keeps."""
