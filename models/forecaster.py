"""The step contract: price in, forecast in price units out, state carried. Written once for every kind.

    init_state(batch) -> state
    step(observation, state) -> (forecast, state)
    forward(observations, state) -> (forecasts, state)      a step chain, in one call

A forecaster is a transform and a core. What all kinds share stands here: validity (poison leaves the state bit
for bit as it was), the last known price, the way to the transformed scale and back.

Legend: B batch, T time, M prices of one moment, S horizon steps, Q quantile levels.

Comes in: observations. Goes out: forecasts. Imported by graph, checks, checkpoint, training, backtest, export.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from models.core import Core, Distribution, Tick, initial_state
from models.errors import DataError, ModelError
from models.observation import LEVELS, Array, Forecast, Observation, State, StateTensor
from models.operations import namespace, per_price
from models.transforms import Transform

PRICE = StateTensor("price", (1,), "float64", float("nan"), "price", "last known price; NaN before the first")


class Forecaster(nn.Module):
    """One forecaster of any kind.

    Parameters
    ----------
    name : str
        Name under which it is compared and published.
    transform : Transform
        Between prices and the scale on which the core works.
    core : Core
        What is its own: an `nn.Module` with the `Core` methods.
    past_names, future_names : tuple of str
        Names of the covariates that the core reads, in its order. Left out, they are past0, past1 and on, which no
        panel has: enough to step it with covariates at hand.

    Raises
    ------
    ModelError
        There are not as many names as the core reads covariates, or one stands twice.
    """

    def __init__(
        self,
        name: str,
        transform: Transform,
        core: Core,
        past_names: tuple[str, ...] = (),
        future_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.transform = transform
        self.core = core
        self.kind, self.block, self.horizon = core.kind, core.block, core.horizon
        self.past, self.future, self.levels = core.past, core.future, LEVELS
        self.past_names = _named(name, "past", past_names, core.past)
        self.future_names = _named(name, "future", future_names, core.future)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the last known price and the core's own tensors."""
        price = StateTensor(PRICE.name, (self.block,), PRICE.dtype, PRICE.initial, PRICE.unit, PRICE.meaning)
        return price, *self.core.state_tensors()

    def init_state(self, batch: int) -> State:
        """Build the state of `batch` series that have shown nothing yet."""
        return initial_state(self.state_tensors(), batch, self.core.df)

    def step(self, observation: Observation, state: State) -> tuple[Forecast, State]:
        """Take in one observation.

        The forecast's value at step s is for the s-th observation after this one and was made from data up to
        and including it. Where the observation is not valid the state comes back bit for bit, and the forecast
        is that of the last valid one.

        Parameters
        ----------
        observation : Observation
            Without a time axis.
        state : State
            As `init_state` or the last step gave it; it is not changed.
        """
        xp = namespace(observation.price)
        valid, change = self._move(observation, state["price"])
        distribution, following = self.core.step(
            _tick(observation, change), {k: v for k, v in state.items() if k != "price"}
        )
        price = xp.where(valid, observation.price, state["price"])
        return self._in_prices(distribution, price, observation.series), {"price": price, **following}

    def forward(self, observations: Observation, state: State | None = None) -> tuple[Forecast, State]:
        """Take in observations with a time axis; equal to a chain of steps, in any chunking.

        The value at origin t, step s is for observation t + s and was made from data up to and including t.

        Returns
        -------
        forecast : Forecast
            With a time axis after the batch axis.
        state : State
            After the last observation.
        """
        o = observations
        if o.price.ndim != 3 or o.price.shape[2] != self.block:
            raise DataError(
                f"forward of {self.name}: expected prices [B, T, {self.block}] (series, time, prices of one moment), "
                f"got {tuple(o.price.shape)}. A single moment goes to step"
            )
        state = self.init_state(len(o.price)) if state is None else state
        distribution, price, following = self.unroll(o, state)
        batch, time = o.price.shape[:2]
        flat = Distribution(**{f.name: getattr(distribution, f.name).flatten(0, 1) for f in fields(Distribution)})
        forecast = self._in_prices(flat, price.flatten(0, 1), o.series.repeat_interleave(time))
        shaped = {f.name: getattr(forecast, f.name).unflatten(0, (batch, time)) for f in fields(Forecast)}
        return Forecast(**shaped), following

    def unroll(self, observations: Observation, state: State) -> tuple[Distribution, Tensor, State]:
        """Give what `forward` does on the transformed scale, the last known prices [B, T, M], and the state after."""
        ticks, price = self.ticks(observations, state["price"])
        distribution, following = self.core.unroll(ticks, {k: v for k, v in state.items() if k != "price"})
        return distribution, price, {"price": price[:, -1], **following}

    def ticks(self, observations: Observation, last: Tensor) -> tuple[Tick, Tensor]:
        """Put observations [B, T, ...] on the transformed scale, all at once.

        Returns
        -------
        ticks : Tick
            With a time axis.
        price : float64 [B, T, M]
            Last known price at each moment.
        """
        o = observations
        batch, time = o.price.shape[:2]
        valid = self._valid(_flat(o)).unflatten(0, (batch, time))
        shown = torch.cat([last[:, None], o.price], 1)
        index = torch.arange(time + 1, device=o.price.device)[None, :, None]
        known = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
        price = shown.gather(1, torch.where(known, index, 0).cummax(1).values)
        series = o.series.repeat_interleave(time)
        now = torch.where(valid, o.price, float("nan")).flatten(0, 1)
        change = self.transform.difference(now, price[:, :-1].flatten(0, 1), series).to(self.core.df.dtype)
        change = change.unflatten(0, (batch, time))
        return _tick(o, change), price[:, 1:]

    def _move(self, o: Observation, last: Array) -> tuple[Array, Array]:
        """Tell which prices count, and the move to them from the last known ones: NaN where there is none."""
        xp = namespace(o.price)
        valid = self._valid(o)
        now = xp.where(valid, o.price, float("nan"))
        return valid, xp.cast(self.transform.difference(now, last, o.series), xp.constant(self.core.df))

    def _valid(self, o: Observation) -> Array:
        """Tell which prices [B, M] count: published, in the domain, and no poison anywhere in the row."""
        xp = namespace(o.price)
        admitted = self.transform.admits(o.price)
        valid = o.mask & admitted
        if self.block > 1:
            valid = valid & ~xp.any(o.mask & ~admitted, 1)
        beside = [(o.past, self.past), (o.future, self.horizon * self.future)]
        if self.core.elapsed:
            beside.append((xp.log(o.elapsed), 1))
        for covariate, width in beside:
            if width:
                flat = xp.reshape(covariate, (-1, width))
                valid = valid & ~xp.any(xp.isnan(flat - flat), 1)
        return valid

    def _in_prices(self, distribution: Distribution, price: Array, series: Array) -> Forecast:
        """Turn moves into prices around the last known price [B, M]."""
        xp, shape = namespace(price), (self.horizon, self.block)
        last = per_price(price, shape, (1, self.block, 1))
        quantile = self.transform.invert(last, distribution.quantile, series, shape)
        loc, scale = (xp.reshape(x, (-1, *shape)) for x in (distribution.loc, distribution.scale))
        return Forecast(
            quantile=xp.reshape(quantile, (-1, *shape, len(self.levels))), loc=loc, scale=scale, df=distribution.df
        )


def _named(model: str, side: str, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Give the names of covariates, one each."""
    names = tuple(names) or tuple(f"{side}{k}" for k in range(count))
    if len(names) != count or len(set(names)) != count:
        raise ModelError(
            f"{model}: its core reads {count} {side} covariates, but was given the names {list(names)}; expected one "
            "for each, all different"
        )
    return names


def _tick(o: Observation, change: Array) -> Tick:
    """Put the moves in the place of the prices; NaN is where none arrived."""
    xp = namespace(change)
    held = xp.isnan(change)
    beside = {f: getattr(o, f) for f in ("series", "past", "future", "elapsed")}
    return Tick(change=xp.where(held, 0.0, change), held=held, **beside)


def _flat(o: Observation) -> Observation:
    """Join the batch and time axes."""
    joined = {f: getattr(o, f).flatten(0, 1) for f in ("price", "mask", "past", "future", "elapsed")}
    return Observation(series=o.series.repeat_interleave(o.price.shape[1]), **joined)


def observe(
    price: Tensor,
    *,
    series: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    future: Tensor | None = None,
    elapsed: Tensor | None = None,
    horizon: int = 1,
) -> Observation:
    """Build an observation from prices [B, M] (one moment) or [B, T, M], the rest filled with its default.

    Defaults: every price that is not NaN was published, the pooled row, no covariates, one bar elapsed.
    """
    if price.ndim not in (2, 3):
        raise DataError(
            f"observe: expected prices [B, M] of one moment or [B, T, M] over time, got {tuple(price.shape)}. One "
            "price a moment has M = 1: add an axis at the end"
        )
    lead = price.shape[:-1]
    return Observation(
        price=price.double(),
        mask=~price.isnan() if mask is None else mask,
        series=price.new_zeros(lead[0], dtype=torch.int64) if series is None else series,
        past=price.new_zeros((*lead, 0), dtype=torch.float32) if past is None else past,
        future=price.new_zeros((*lead, horizon, 0), dtype=torch.float32) if future is None else future,
        elapsed=price.new_ones(lead, dtype=torch.float32) if elapsed is None else elapsed,
    )
