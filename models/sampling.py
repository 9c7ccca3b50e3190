"""One state, many futures: paths of prices drawn from a forecaster's own one-step distribution, fed back step by step.

For path k of a series, from the state s_0 after its last price p_0, for h = 1..H

    p_h = G(y_h)        y_h = m + temperature · (F⁻¹(u_h) - m)        s_h = step(p_h, s_{h-1})

with G the inverse transform, F⁻¹ the quantile function and m the median of step 1 as *published* from s_{h-1} on the
transformed scale, hence calibrated, and u_h uniform. The first draw has the marginals of the forecast; what follows
hangs together, for each step is forecast from the prices drawn before it (ancestral sampling: Salinas et al. 2020,
DeepAR, Int. J. Forecasting 36(3), doi:10.1016/j.ijforecast.2019.07.001, section 3).

The prices of one block (M > 1) are drawn together by a Gaussian copula (Nelsen 2006, An Introduction to Copulas, 2nd
ed., 2.3) of a given correlation; without one they are independent within a step, which a forecast's marginals neither
say nor exclude.

Legend: B series, n paths a series, R = B·n rows, path by path within a series, H steps, M prices of one moment, S
horizon steps of the model, Q quantile levels, P and K covariates.

Comes in: a step on numpy arrays, a state, a start price. Goes out: paths float64 [B, n, H, M]. Knows numpy and scipy,
and torch in one function; imported by scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from models.core import student_quantiles
from models.errors import ConfigError, DataError, ModelError
from models.forecaster import Forecaster
from models.observation import MEDIAN, Forecast, Observation, State

Floats = NDArray[np.float64]

QUANTILES_ONLY_DF = 5.0
"""Degrees of freedom of the scores and tails where a model has quantiles and no density: a usual number for returns."""


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """A step on numpy arrays, of a forecaster in torch or of an exported file, and what a path must know of it.

    Attributes
    ----------
    name : str
    step : function
        From an observation and a state of R rows to a forecast and the next state.
    initial : function
        From a number of series to the state that has seen nothing.
    transform : mapping
        As `Transform.describe` and the metadata of a file give it.
    block, horizon : int
        M and S.
    past_names, future_names : tuple of str
        Covariates that the step reads.
    """

    name: str
    step: Callable[[Observation, State], tuple[Forecast, State]]
    initial: Callable[[int], State]
    transform: Mapping[str, Any]
    block: int
    horizon: int
    past_names: tuple[str, ...] = ()
    future_names: tuple[str, ...] = ()


Beside = Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""From h = 0 .. H - 1 to the covariates of the observation h bars after the start: past [B, P], future [B, S, K]."""


def in_torch(forecaster: Forecaster) -> Stepper:
    """Step a fitted forecaster on numpy arrays."""

    @torch.no_grad()
    def step(observation: Observation, state: State) -> tuple[Forecast, State]:
        fields = {name: torch.from_numpy(getattr(observation, name)) for name in Observation.__dataclass_fields__}
        carried = {name: torch.from_numpy(x) for name, x in state.items()}
        forecast, following = forecaster.step(Observation(**fields), carried)
        made = {name: getattr(forecast, name).numpy() for name in Forecast.__dataclass_fields__}
        return Forecast(**made), {name: x.numpy() for name, x in following.items()}

    return Stepper(
        name=forecaster.name,
        step=step,
        initial=lambda batch: {name: x.numpy() for name, x in forecaster.init_state(batch).items()},
        transform=forecaster.transform.describe(),
        block=forecaster.block,
        horizon=forecaster.horizon,
        past_names=forecaster.past_names,
        future_names=forecaster.future_names,
    )


def sample_paths(
    model: Stepper,
    state: State,
    price: Floats,
    *,
    n: int,
    horizon: int,
    seed: int,
    names: Sequence[str],
    temperature: float = 1.0,
    series: NDArray[np.int64] | None = None,
    correlation: Floats | None = None,
    beside: Beside | None = None,
) -> Floats:
    """Draw n paths of H future prices for each of B series.

    Element [b, k, h - 1] is the h-th observation after the start of series b, drawn from the state given and the prices
    that path k drew before it. Equal arguments give equal bits. Every series draws from a stream of its own, of the
    seed and its name: other series in the batch do not change it, and the first paths are the same however many follow,
    bit for bit as far as the step itself keeps the bits of a row in any batch (a file served in whole grains does,
    torch up to its last bit).

    Parameters
    ----------
    model : Stepper
    state : State
        After the last observation: B rows, each taken for all paths of its series, or B·n rows, a start for each path.
        It is not changed.
    price : float64 [B, M]
        Where the paths begin: takes the place of the state's last known price, so that a state of another time or
        series can be used.
    n, horizon : int
        Paths a series and H, at least 1.
    seed : int
        At least 0.
    names : sequence of B str
        All different.
    temperature : float
        Factor of the spread about the median, at least 0: 1 as calibrated, above 1 wider, 0 the path of medians.
    series : int64 [B], optional
        Rows of the per-series parameters; the pooled one by default.
    correlation : float64 [M, M], optional
        Of the normal scores of the prices of one block; independent by default. See `block_correlation`.
    beside : function, optional
        The covariates along the horizon, the same for all paths of a series.

    Raises
    ------
    ConfigError
        A number is outside its range.
    DataError
        A start price is not in the domain of the transform, or the shapes do not fit.
    ModelError
        The model reads covariates and none are given.
    """
    check_numbers(n, horizon, temperature, seed)
    price = np.asarray(price, np.float64)
    _check_start(model, price, names, beside)
    count, rows = len(price), np.repeat(np.zeros(len(price), np.int64) if series is None else series, n)
    last = np.repeat(price, n, axis=0)
    state = _rows_of(state, count, n) | {"price": last}
    normal = np.concatenate([_normals(seed, name, (n, horizon, model.block)) for name in names])
    normal = normal if correlation is None else normal @ _root(correlation, model.block)
    curve = _Curve.of(model.transform, rows)
    forecast, state = model.step(_observed(model, np.full_like(last, np.nan), rows, 0, beside), state)
    level = np.repeat(_known_df(forecast.df[::n]), n)
    score, knots = _scores(normal, level), np.repeat(student_quantiles(level[::n]), n, axis=0)
    paths = np.empty((count * n, horizon, model.block))
    for h in range(horizon):
        paths[:, h] = curve.price(drawn(curve.moved(forecast.quantile[:, 0]), score[:, h], knots, temperature))
        if h + 1 < horizon:
            forecast, state = model.step(_observed(model, paths[:, h], rows, h + 1, beside), state)
    return paths.reshape(count, n, horizon, model.block)


def drawn(quantile: Floats, score: Floats, knots: Floats, temperature: float) -> Floats:
    """Turn distributions into draws: the one place where that is done.

    The quantile function is linear between the levels in the score of the level, the quantile of the standard t at it;
    beyond the outermost it goes on along the line from the median through them, so that the tails are those of the t
    with that median and that outermost quantile. A t comes out as it is.

    Parameters
    ----------
    quantile : float64 [R, M, Q]
        On the transformed scale, at `LEVELS`.
    score : float64 [R, M]
        Draws of the standard t.
    knots : float64 [R, Q]
        Quantiles of that t at `LEVELS`.
    temperature : float

    Returns
    -------
    float64 [R, M]
        On the transformed scale.
    """
    middle = quantile[..., MEDIAN]
    away, along = _extended(quantile - middle[..., None]), _extended(knots)[:, None]
    left = (score[..., None] >= along[..., 1:-1]).sum(axis=-1, keepdims=True)
    pair = np.concatenate([left, left + 1], axis=-1)
    (low, high), (near, far) = (
        np.moveaxis(np.take_along_axis(np.broadcast_to(x, away.shape), pair, axis=-1), -1, 0) for x in (along, away)
    )
    return middle + temperature * (near + (far - near) * ((score - low) / (high - low)))


def block_correlation(pit: Floats) -> Floats:
    """Estimate the correlation [M, M] of the normal scores Φ⁻¹(PIT) of blocks, for `sample_paths`.

    Parameters
    ----------
    pit : float64 [n, M]
        Probability integral transforms F(outcome) of the M prices of n blocks at step 1, from the *validation split*;
        rows with one that is not known are left out.

    Raises
    ------
    DataError
        There are fewer than M + 2 whole rows, or a price has the same PIT in all of them.
    """
    pit = np.asarray(pit, np.float64)
    whole = pit[np.isfinite(pit).all(axis=1)]
    if len(whole) < pit.shape[1] + 2 or (np.ptp(whole, axis=0) == 0).any():
        raise DataError(
            f"the correlation of blocks of {pit.shape[1]} prices needs as many PITs and two more, and each varies; "
            f"came {len(whole)} whole rows. Give a longer validation split, or leave the correlation out"
        )
    edge = 0.5 / len(whole)
    return np.atleast_2d(np.corrcoef(special.ndtri(np.clip(whole, edge, 1 - edge)), rowvar=False))


def stream(seed: int, name: str) -> np.random.SeedSequence:
    """Give the stream of random numbers of a series: of the seed and its name, whatever other series there are."""
    return np.random.SeedSequence(seed, spawn_key=tuple(name.encode()))


def check_numbers(n: int, horizon: int, temperature: float, seed: int) -> None:
    """Refuse numbers of `sample_paths` outside their range, before anything is read or computed for them."""
    for name, value in {"n, paths a series": n, "horizon, steps of a path": horizon}.items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature: expected a finite number of at least 0 (1 as calibrated), got {temperature}")
    if seed < 0:
        raise ConfigError(f"seed: expected a whole number of at least 0, got {seed}")


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """Between prices and the transformed scale for R rows, on numpy arrays; prices stay in the domain."""

    center: Floats | None
    unit: Floats | None
    lower: float
    upper: float

    @classmethod
    def of(cls, transform: Mapping[str, Any], rows: NDArray[np.int64]) -> _Curve:
        """Take the numbers of each row; the log has none."""
        own = ("center", "unit") if transform["kind"] == "asinh" else ()
        taken = {name: np.asarray(transform[name], np.float64)[rows, None] for name in own}
        bounds = {"lower": transform["lower"], "upper": transform["upper"]}
        return cls(center=taken.get("center"), unit=taken.get("unit"), **bounds)

    def moved(self, price: Floats) -> Floats:
        """Put prices [R, M, Q] on the transformed scale."""
        if self.center is None or self.unit is None:
            return np.log(price)
        return np.arcsinh((price - self.center[..., None]) / self.unit[..., None])

    def price(self, y: Floats) -> Floats:
        """Give the prices of [R, M] on the transformed scale."""
        with np.errstate(over="ignore"):
            price = np.exp(y) if self.center is None or self.unit is None else self.center + self.unit * np.sinh(y)
        return np.clip(price, self.lower, self.upper)


def _extended(x: Floats) -> Floats:
    """Add to [..., Q] a point at each end that lies twice as far from zero as the outermost."""
    return np.concatenate([2 * x[..., :1], x, 2 * x[..., -1:]], axis=-1)


def _normals(seed: int, name: str, shape: tuple[int, ...]) -> Floats:
    return np.random.default_rng(stream(seed, name)).standard_normal(shape)


def _known_df(df: NDArray[np.floating]) -> Floats:
    return np.where(np.isnan(df), QUANTILES_ONLY_DF, df.astype(np.float64))


def _scores(normal: Floats, df: Floats) -> Floats:
    """Turn normal draws [R, H, M] into those of the standard t at the same probability, from the side of the tail."""
    tail = special.stdtrit(df[:, None, None], special.ndtr(-np.abs(normal)))
    return np.copysign(tail, normal)


def _root(correlation: Floats, block: int) -> Floats:
    """Give A [M, M] with A'A the correlation, so that z A is correlated where z is not."""
    given = np.asarray(correlation, np.float64)
    fits = given.shape == (block, block) and np.allclose(given, given.T) and np.allclose(np.diag(given), 1)
    value, vector = np.linalg.eigh(given) if fits else (np.array([-1.0]), np.empty((1, 1)))
    if value.min() < -1e-8:
        raise DataError(
            f"correlation within a block: expected [{block}, {block}], symmetric, ones on the diagonal, no negative "
            f"eigenvalue; came {list(given.shape)} with diagonal {np.diag(given)[:5]}. Take it from block_correlation"
        )
    return (vector * np.sqrt(np.maximum(value, 0))).T


def _rows_of(state: State, count: int, n: int) -> State:
    """Give a state of B·n rows from one of B or of B·n rows."""
    held = {len(x) for x in state.values()}
    if held == {count * n}:
        return dict(state)
    if held != {count}:
        raise DataError(
            f"state: expected {count} rows, one a series, or {count * n}, one a path; came tensors of {sorted(held)} "
            "rows. Take it from the step, or from the initial state"
        )
    return {name: np.repeat(x, n, axis=0) for name, x in state.items()}


def _observed(model: Stepper, price: Floats, rows: NDArray[np.int64], h: int, beside: Beside | None) -> Observation:
    """Build the observation of R rows, h bars after the start; NaN is no price, which leaves the state as it is."""
    past, future = np.zeros((1, 0), np.float32), np.zeros((1, model.horizon, 0), np.float32)
    if beside is not None:
        past, future = (np.asarray(x, np.float32) for x in beside(h))
    times = len(rows) // len(past)
    return Observation(
        price=price,
        mask=~np.isnan(price),
        series=rows,
        past=np.repeat(past, times, axis=0),
        future=np.repeat(future, times, axis=0),
        elapsed=np.ones(len(rows), np.float32),
    )


def _check_start(model: Stepper, price: Floats, names: Sequence[str], beside: Beside | None) -> None:
    read = (*model.past_names, *model.future_names)
    if read and beside is None:
        raise ModelError(
            f"paths of {model.name}: it reads {', '.join(read)}, whose future is not given. Pass `beside`, which gives "
            "them along the horizon, or sample a model without covariates"
        )
    if price.shape != (len(names), model.block) or not names or len(set(names)) < len(names):
        raise DataError(
            f"paths of {model.name}: expected start prices [{len(names)}, {model.block}] of series with different "
            f"names, came {list(price.shape)} of {list(names)[:5]}. Give one row a series"
        )
    inside = (price >= model.transform["lower"]) & (price <= model.transform["upper"])
    if not inside.all():
        row = int(np.flatnonzero(~inside.all(axis=1))[0])
        raise DataError(
            f"{names[row]}: a path of {model.name} cannot begin at {price[row].tolist()}; expected prices from "
            f"{model.transform['lower']:g} to {model.transform['upper']:g}. Give the last price that was published"
        )
