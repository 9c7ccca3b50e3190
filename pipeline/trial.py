"""What a model file must show before it may serve: a few hundred steps over prices made up for it.

Legend: T steps, B rows, M prices published at once, S horizon steps, Q quantile levels, R = 1 + N rows of
per-series parameters, of which row 0 is for all series that the fit never saw.

The prices walk by about 1 % a step from levels inside the model's domain; a row stands still; about one price in ten
is missing, the first of some rows among them; once in a while each row meets poison. The same session gives the same
findings each time, but for how long a step took.

Comes in: a session, and what its caller can give a model. Goes out: seconds a step, or a ModelError that says what the
model did. Knows numpy only; imported by vetting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.observation import Forecast, Observation, State
from pipeline.calendar_features import FEATURES, ahead, calendar
from pipeline.metadata import Metadata
from pipeline.session import GRAIN, Session

STEPS = 300
"""Steps of the long walk, over one grain of rows."""

FIRST_STEPS = 8
"""Steps of the short walk, over every row of parameters."""

WIDTH = 256
"""Most rows of the short walk that travel together."""

POISONED = (0, 1, 50, STEPS - 1)
"""Steps before which poison is tried."""

_LEVELS = (100.0, 1.0, 10_000.0)
_START_US = 1_704_067_200_000_000
"""2024-01-01, a Monday."""

_HOUR_US = 3_600_000_000
"""Length of a bar where the model's bars have none."""

Times = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the caller can give a model, and how it will step it."""

    past: tuple[str, ...] = tuple(FEATURES)
    """Names of the covariates that are known with the price."""
    future: tuple[str, ...] = tuple(FEATURES)
    """Names of the covariates that are known ahead."""
    block: int = 1
    """M: prices published at once."""
    batch: int = 256
    """Most rows that will travel together; 1 leaves out the self-test of the session."""


def trial(session: Session, terms: Terms) -> float:
    """Let a model show that it can serve on these terms.

    Returns
    -------
    float
        Seconds that a step of one grain of rows takes, the median over the long walk.

    Raises
    ------
    ModelError
        When the model does not forecast, needs what the caller does not give, keeps no bits on this machine, gives
        numbers that are not finite after a first price or quantiles that fall, or when a price that is no price
        changes the state.
    """
    check_terms(session.metadata, terms)
    if terms.batch > 1:
        session.self_test(terms.batch)
    parameter_rows = np.arange(1 + len(session.metadata.series))
    for start in range(0, len(parameter_rows), WIDTH):
        _walk(session, parameter_rows[start : start + WIDTH], FIRST_STEPS)
    return float(np.median(_walk(session, np.arange(GRAIN) % len(parameter_rows), STEPS)))


def check_terms(m: Metadata, terms: Terms) -> None:
    """Refuse a model that does something else than forecast, or needs more than the caller gives."""
    if m.task != "forecast":
        raise ModelError(
            f"model {m.name}: expected one that forecasts prices, got one that labels moments as {list(m.classes)}. "
            "Publish a forecaster"
        )
    if m.block != terms.block:
        raise ModelError(
            f"model {m.name}: takes {m.block} prices at once; here {terms.block} comes at a time. Publish another model"
        )
    lacking = [name for name in m.past if name not in terms.past]
    lacking += [f"{name} ahead" for name in m.future if name not in terms.future]
    if lacking:
        raise ModelError(
            f"model {m.name}: needs {', '.join(lacking)}; known with a price are {', '.join(terms.past) or 'none'}, "
            f"known ahead {', '.join(terms.future) or 'none'}. Publish a model without them"
        )
    if m.bar_us is None and ("elapsed" in m.inputs or m.future):
        raise ModelError(
            f"model {m.name}: counts in bars, but its grid {m.grid!r} gives them no length. Export it with a bar grid"
        )


def _walk(session: Session, series: NDArray[np.int64], steps: int) -> list[float]:
    """Step one row for each of `series` from the initial state, look at all that comes out; seconds of each step."""
    m = session.metadata
    price, mask = _prices(m, len(series), steps)
    state, shown = session.initial(len(series)), np.zeros(len(series), dtype=bool)
    poison, spent, moment = _poison(m), [], np.full(len(series), _START_US)
    for t in range(steps):
        elapsed = 3 if t % 50 == 49 else 1
        moment = moment + elapsed * (m.bar_us or _HOUR_US)
        observation = _observe(m, series, moment, elapsed, price[t], mask[t])
        if t in POISONED:
            _check_poison(session, observation, state, np.resize(np.roll(poison, t), len(series)))
        begun = perf_counter()
        forecast, following = session.step(observation, state)
        spent.append(perf_counter() - begun)
        shown |= mask[t].any(axis=1)
        _check_unmoved(m, state, following, ~shown, f"step {t}: a price that was not published, before the first one,")
        _check_forecast(m, forecast, shown, series, t)
        state = following
    return spent


def _prices(m: Metadata, batch: int, steps: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Make prices [T, B, M] and say which of them are published; none is outside the model's domain."""
    rng = np.random.default_rng(1)
    lower, upper = m.domain
    growth = rng.lognormal(sigma=0.01, size=(steps, batch, m.block))
    growth[:, 1 % batch] = 1.0
    price = np.resize([x for x in _LEVELS if lower < x < upper] or _middle(lower, upper), (batch, 1)) * growth.cumprod(
        0
    )
    mask = np.repeat(rng.random((steps, batch, 1)) > 0.1, m.block, axis=2)
    mask[0], mask[0, ::5], mask[1] = True, False, True
    return price, mask & (price > lower) & (price < upper)


def _middle(lower: float, upper: float) -> float:
    """Give a price inside an open interval that may have no end on one side."""
    if math.isinf(lower) or math.isinf(upper):
        return upper - 1 if math.isinf(lower) else lower + 1
    return lower + (upper - lower) / 2


def _poison(m: Metadata) -> NDArray[np.float64]:
    """List what is no price: no number, infinite, or well outside the domain."""
    lower, upper = m.domain
    beyond = [lower - max(abs(lower), 1.0), upper + max(abs(upper), 1.0)]
    return np.array([math.nan, math.inf, -math.inf, *(x for x in beyond if math.isfinite(x))])


def _observe(
    m: Metadata,
    series: NDArray[np.int64],
    moment: Times,
    elapsed: float,
    price: NDArray[np.float64],
    mask: NDArray[np.bool_],
) -> Observation:
    """Lay out what is known at one moment; a covariate that is not of the calendar is 1."""
    past, future = np.ones((len(series), len(m.past))), np.ones((len(series), m.horizon, len(m.future)))
    for k, name in enumerate(m.past):
        if name in FEATURES:
            past[:, k] = calendar([name], moment)[:, 0]
    for k, name in enumerate(m.future):
        if name in FEATURES:
            future[:, :, k] = ahead([name], moment, m.bar_us or _HOUR_US, m.horizon)[:, :, 0]
    return Observation(
        price=price,
        mask=mask,
        series=series,
        past=past.astype(np.float32),
        future=future.astype(np.float32),
        elapsed=np.full(len(series), elapsed, dtype=np.float32),
    )


def _check_poison(session: Session, observation: Observation, state: State, poison: NDArray[np.float64]) -> None:
    """Step with poison [B] in the place of the prices; nothing may have changed, and the step is forgotten."""
    price = np.repeat(poison[:, None], observation.price.shape[1], axis=1)
    poisoned = Observation(
        price=price,
        mask=np.ones_like(observation.mask),
        series=observation.series,
        past=observation.past,
        future=observation.future,
        elapsed=observation.elapsed,
    )
    _, after = session.step(poisoned, state)
    every = np.ones(len(poison), dtype=bool)
    _check_unmoved(session.metadata, state, after, every, f"a price of {sorted(set(poison.tolist()))}")


def _check_unmoved(m: Metadata, state: State, after: State, rows: NDArray[np.bool_], what: str) -> None:
    """Compare the state of some rows number by number; a zero may change its sign."""
    for name, x in state.items():
        if not np.array_equal(x[rows], after[name][rows], equal_nan=True):
            raise ModelError(f"model {m.name}: {what} changed the state {name}. Fit and export the model again")


def _check_forecast(m: Metadata, given: Forecast, shown: NDArray[np.bool_], series: NDArray[np.int64], t: int) -> None:
    """Check the forecasts of the rows that have shown a price: finite, and quantiles that do not fall."""
    for name in ("quantile", "loc", "scale"):
        bad = shown & ~np.isfinite(getattr(given, name)).reshape(len(series), -1).all(axis=1)
        if bad.any():
            raise ModelError(
                f"model {m.name}: {name} is not finite at step {t} for {_who(m, series, bad)}. Fit and export "
                "the model again"
            )
    with np.errstate(invalid="ignore"):  # rows that have shown nothing may hold anything
        bad = shown & (np.diff(given.quantile, axis=-1) < 0).any(axis=(1, 2, 3))
    if bad.any():
        raise ModelError(
            f"model {m.name}: quantiles fall as their level rises, at step {t} for {_who(m, series, bad)}. Fit and "
            "export the model again"
        )


def _who(m: Metadata, series: NDArray[np.int64], bad: NDArray[np.bool_]) -> str:
    """Name the first row at fault."""
    row = int(series[np.flatnonzero(bad)[0]])
    return f"series {m.series[row - 1]}" if row else "a series that the fit never saw"
