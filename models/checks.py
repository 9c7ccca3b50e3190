"""The step contract as executable checks: a forecaster is done when all of them pass.

In the manner of river's `check_estimator`. Each check is a function of a fitted forecaster and a generator of
random numbers; it raises AssertionError with what it saw. `CHECKS` lists them all, so that a test runs every
check on every kind and an export can run them on the very model it writes.

Comes in: a forecaster. Goes out: nothing, or an AssertionError. Imported by tests and by whoever adds a kind.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from models.forecaster import Forecaster, observe
from models.observation import Forecast, Observation, State, at, between

Check = Callable[[Forecaster, np.random.Generator], None]
POISON = (float("nan"), float("inf"), float("-inf"), 1e30, -1e30)


def prices(forecaster: Forecaster, rng: np.random.Generator, batch: int = 3, time: int = 40) -> Observation:
    """Make observations [B, T, ...] of random prices around 100 with covariates, none missing."""
    moves = rng.standard_t(4, size=(batch, time, forecaster.block)) * 0.01
    f = forecaster
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
def _chain(forecaster: Forecaster, o: Observation, state: State) -> tuple[Forecast, State]:
    """Step through observations one at a time."""
    out = []
    for t in range(o.price.shape[1]):
        forecast, state = forecaster.step(at(o, t), state)
        out.append(forecast)
    return Forecast(**{f.name: torch.stack([getattr(x, f.name) for x in out], 1) for f in fields(Forecast)}), state


def _close(a: Tensor, b: Tensor, what: str, tolerance: float = 2e-6) -> None:
    gap = torch.nan_to_num((a - b).abs(), posinf=0.0).max().item() if a.numel() else 0.0
    size = torch.nan_to_num(a.abs(), posinf=0.0).max().item() if a.numel() else 1.0
    assert torch.equal(a.isnan(), b.isnan()), f"{what}: NaN in different places"
    assert gap <= tolerance * max(size, 1e-30), f"{what}: differs by {gap:.3g} at a size of {size:.3g}"


def _same_forecast(a: Forecast, b: Forecast, what: str) -> None:
    for f in fields(Forecast):
        _close(getattr(a, f.name), getattr(b, f.name), f"{what}, {f.name}")


def _same_state(a: State, b: State, what: str, tolerance: float = 2e-6) -> None:
    assert a.keys() == b.keys(), f"{what}: state tensors {sorted(a)} and {sorted(b)}"
    for name in a:
        _close(a[name], b[name], f"{what}, state {name}", tolerance)


def _bits(state: State) -> dict[str, bytes]:
    return {k: v.detach().contiguous().numpy().tobytes() for k, v in state.items()}


def check_shapes(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """Forecast and state have the shapes and number types of the contract."""
    o = prices(forecaster, rng)
    forecast, state = forecaster.step(at(o, 0), forecaster.init_state(3))
    lead = (3, forecaster.horizon, forecaster.block)
    assert forecast.quantile.shape == (*lead, len(forecaster.levels)), forecast.quantile.shape
    assert forecast.quantile.dtype == torch.float64, forecast.quantile.dtype
    assert forecast.loc.shape == forecast.scale.shape == lead, (forecast.loc.shape, forecast.scale.shape)
    assert forecast.df.shape == (3,), forecast.df.shape
    declared = {s.name: ((3, *s.shape), s.dtype) for s in forecaster.state_tensors()}
    found = {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state.items()}
    assert found == declared, f"declared {declared}, found {found}"


@torch.no_grad()
def check_step_chain_equals_forward(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A chain of steps gives what forward gives, holes included."""
    o = with_holes(prices(forecaster, rng), rng)
    stepped = _chain(forecaster, o, forecaster.init_state(3))
    whole = forecaster.forward(o)
    _same_forecast(stepped[0], whole[0], "step chain and forward")
    _same_state(stepped[1], whole[1], "step chain and forward")


@torch.no_grad()
def check_any_chunking(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """Forward in pieces of any length gives what one forward gives."""
    o = with_holes(prices(forecaster, rng), rng)
    whole, end = forecaster.forward(o)
    cuts = [0, *sorted(rng.choice(np.arange(1, 40), size=4, replace=False).tolist()), 40]
    state, pieces = forecaster.init_state(3), []
    for start, stop in pairwise(cuts):
        piece, state = forecaster.forward(between(o, start, stop), state)
        pieces.append(piece)
    joined = Forecast(**{f.name: torch.cat([getattr(p, f.name) for p in pieces], 1) for f in fields(Forecast)})
    _same_forecast(joined, whole, f"chunks cut at {cuts}")
    _same_state(state, end, f"chunks cut at {cuts}")


@torch.no_grad()
def check_future_never_changes_past(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """Garbage in the future leaves every earlier forecast bit for bit."""
    o = prices(forecaster, rng)
    price, past, future = o.price.clone(), o.past.clone(), o.future.clone()
    price[:, 20:] = torch.tensor(rng.uniform(1e-3, 1e9, size=price[:, 20:].shape))
    past[:, 20:] = 1e6
    future[:, 20:] = -1e6
    clean, _ = forecaster.forward(o)
    dirty, _ = forecaster.forward(replace(o, price=price, past=past, future=future))
    for f in fields(Forecast):
        a, b = getattr(clean, f.name)[:, :20], getattr(dirty, f.name)[:, :20]
        assert a.numpy().tobytes() == b.numpy().tobytes(), f"{f.name} before the garbage changed"


@torch.no_grad()
def check_a_later_start_shifts_the_forecasts(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A first observation that was not published leaves the state as it was made, and all forecasts one later."""
    o = prices(forecaster, rng)
    hole = replace(between(o, 0, 1), price=torch.full_like(o.price[:, :1], float("nan")))
    hole = replace(hole, mask=torch.zeros_like(hole.mask))
    start = forecaster.init_state(3)
    _, held = forecaster.forward(hole, start)
    assert _bits(held) == _bits(start), "a hole before the first price changed the state"
    joined = {
        k: torch.cat([getattr(hole, k), getattr(o, k)], 1) for k in ("price", "mask", "past", "future", "elapsed")
    }
    later, _ = forecaster.forward(replace(o, **joined))
    shifted = Forecast(**{f.name: getattr(later, f.name)[:, 1:] for f in fields(Forecast)})
    _same_forecast(shifted, forecaster.forward(o)[0], "one observation later")


@torch.no_grad()
def check_rows_are_independent(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A row's forecast does not depend on the other rows of the batch."""
    o = prices(forecaster, rng)
    together, _ = forecaster.forward(o)
    one = Observation(**{f.name: getattr(o, f.name)[1:2] for f in fields(Observation)})
    alone, _ = forecaster.forward(one)
    mine = Forecast(**{f.name: getattr(together, f.name)[1:2] for f in fields(Forecast)})
    _same_forecast(mine, alone, "row alone and in a batch")


@torch.no_grad()
def check_poison_leaves_the_state(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A poisoned observation leaves the state bit for bit, at the first step and later, and the forecast too."""
    o = prices(forecaster, rng)
    _, warm = forecaster.forward(o)
    forecast = before = forecaster.step(at(o, 39), warm)[0]
    for state in (forecaster.init_state(3), warm):
        for value in POISON:
            bad = replace(at(o, 0), price=torch.full_like(at(o, 0).price, value))
            bad = replace(bad, mask=torch.ones_like(bad.mask))
            forecast, after = forecaster.step(bad, state)
            assert _bits(after) == _bits(state), f"a price of {value} changed the state"
    if not forecaster.future:
        assert torch.isfinite(forecast.quantile).all(), "a poisoned tick left a forecast that is not finite"
    assert torch.isfinite(before.quantile).all(), "a warm forecast is not finite"


@torch.no_grad()
def check_poison_beside_the_price_leaves_the_state(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A covariate or an elapsed time that is no number, where it is read, leaves the state bit for bit."""
    o = prices(forecaster, rng)
    _, state = forecaster.forward(between(o, 0, 10))
    bad = {"past": POISON[:3], "future": POISON[:3], "elapsed": (*POISON[:3], 0.0, -1.0)}
    for name, values in bad.items():
        clean = getattr(at(o, 10), name)
        for value in values if getattr(forecaster.core, name) else ():
            poisoned = replace(at(o, 10), **{name: torch.full_like(clean, value)})
            _, after = forecaster.step(poisoned, state)
            assert _bits(after) == _bits(state), f"{name} of {value} changed the state"


@torch.no_grad()
def check_state_is_a_value(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A step changes neither the state it was given nor anything in the model."""
    o = prices(forecaster, rng)
    _, state = forecaster.forward(between(o, 0, 10))
    kept, model = _bits(state), {k: v.clone() for k, v in forecaster.state_dict().items()}
    forecaster.step(at(o, 10), state)
    forecaster.forward(between(o, 10, 20), state)
    assert _bits(state) == kept, "the state given was changed in place"
    for k, v in forecaster.state_dict().items():
        assert torch.equal(torch.nan_to_num(v), torch.nan_to_num(model[k])), f"{k} of the model changed"


@torch.no_grad()
def check_quantiles_are_ordered(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """Quantiles rise with their level, and are finite from the first price on."""
    forecast, _ = forecaster.forward(prices(forecaster, rng))
    assert torch.isfinite(forecast.quantile).all(), "a quantile is not finite"
    assert (forecast.quantile.diff(dim=-1) > 0).all(), "quantiles cross"


@torch.no_grad()
def check_standing_still(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """A series that does not move for 3000 steps, then jumps, has finite forecasts throughout."""
    o = prices(forecaster, rng, batch=1, time=3002)
    price = o.price.clone()
    price[:, 1:3000] = price[:, :1]
    forecast, state = forecaster.forward(replace(o, price=price))
    assert torch.isfinite(forecast.quantile).all(), "a forecast is not finite"
    assert all(torch.isfinite(v).all() for v in state.values()), "the state is not finite"


@torch.no_grad()
def check_memory_is_flat(forecaster: Forecaster, rng: np.random.Generator) -> None:
    """Carrying the state over 1000 chunks leaves no more tensors alive than 100 do."""
    o = between(prices(forecaster, rng, batch=2, time=4), 0, 2)

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    _, state = forecaster.forward(o)
    counts = []
    for chunk in range(1000):
        _, state = forecaster.forward(o, state)
        if chunk in (99, 999):
            counts.append(alive())
    assert counts[1] <= counts[0], f"{counts[0]} tensors alive after 100 chunks, {counts[1]} after 1000"


CHECKS: tuple[Check, ...] = (
    check_shapes,
    check_step_chain_equals_forward,
    check_any_chunking,
    check_future_never_changes_past,
    check_a_later_start_shifts_the_forecasts,
    check_rows_are_independent,
    check_poison_leaves_the_state,
    check_poison_beside_the_price_leaves_the_state,
    check_state_is_a_value,
    check_quantiles_are_ordered,
    check_standing_still,
    check_memory_is_flat,
)
