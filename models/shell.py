"""What all models share that take in prices, whatever they answer: a forecast or a label.

    init_state(batch) -> state
    step(observation, state) -> (answer, state)
    forward(observations, state) -> (answers, state)      a step chain, in one call

Here stand validity (poison leaves the state bit for bit as it was), the last known price, and the way to the
transformed scale.

Legend: B batch, T time, M prices of one moment.

Comes in: observations. Goes out: answers. Imported by forecaster, classifier, and what treats both alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.core import Core, Tick, initial_state
from models.errors import DataError, ModelError
from models.observation import Array, Forecast, Label, Observation, State, StateTensor
from models.operations import namespace
from models.transforms import Transform

Answer = TypeVar("Answer", Forecast, Label)

PRICE = StateTensor("price", (1,), "float64", float("nan"), "price", "last known price; NaN before the first")


class Shell(nn.Module, ABC, Generic[Answer]):
    """A transform and a core: abstract in what the core's outputs are turned into.

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
        core: Core[Any],
        past_names: tuple[str, ...] = (),
        future_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.transform = transform
        self.core = core
        self.kind, self.block, self.horizon = core.kind, core.block, core.horizon
        self.past, self.future = core.past, core.future
        self.past_names = _named(name, "past", past_names, core.past)
        self.future_names = _named(name, "future", future_names, core.future)

    @abstractmethod
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """List what a file of this model gives beside the state: parts of the answer, shapes without the batch axis."""

    @abstractmethod
    def answer(self, output: Any, price: Array, series: Array) -> Answer:
        """Turn what the core gives, [B, ...], into the answer, with the last known prices [B, M] at hand."""

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the last known price and the core's own tensors."""
        price = StateTensor(PRICE.name, (self.block,), PRICE.dtype, PRICE.initial, PRICE.unit, PRICE.meaning)
        return price, *self.core.state_tensors()

    def init_state(self, batch: int) -> State:
        """Build the state of `batch` series that have shown nothing yet."""
        return initial_state(self.state_tensors(), batch, self.core.df)

    def step(self, observation: Observation, state: State) -> tuple[Answer, State]:
        """Take in one observation.

        The answer was made from data up to and including it: a forecast's value at step s is for the s-th observation
        after this one. Where the observation is not valid the state comes back bit for bit, and the answer is that of
        the last valid one.

        Parameters
        ----------
        observation : Observation
            Without a time axis.
        state : State
            As `init_state` or the last step gave it; it is not changed.
        """
        xp = namespace(observation.price)
        valid, change = self._move(observation, state["price"])
        output, following = self.core.step(_tick(observation, change), {k: v for k, v in state.items() if k != "price"})
        price = xp.where(valid, observation.price, state["price"])
        return self.answer(output, price, observation.series), {"price": price, **following}

    def forward(self, observations: Observation, state: State | None = None) -> tuple[Answer, State]:
        """Take in observations with a time axis; equal to a chain of steps, in any chunking.

        The answer at t was made from data up to and including t: a forecast's value at origin t, step s is for
        observation t + s.

        Returns
        -------
        answer
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
        if not len(o.price) == len(o.series) == len(state["price"]):
            raise DataError(
                f"forward of {self.name}: expected prices [B, T, {self.block}] with the B of the series and of the "
                f"state, got prices {tuple(o.price.shape)}, {len(o.series)} series and the state of "
                f"{len(state['price'])}. Where time comes first, swap the axes: price.transpose(0, 1)"
            )
        output, price, following = self.unroll(o, state)
        batch, time = o.price.shape[:2]
        flat = type(output)(**{f.name: getattr(output, f.name).flatten(0, 1) for f in fields(output)})
        answer = self.answer(flat, price.flatten(0, 1), o.series.repeat_interleave(time))
        shaped = {f.name: getattr(answer, f.name).unflatten(0, (batch, time)) for f in fields(answer)}
        return type(answer)(**shaped), following

    def unroll(self, observations: Observation, state: State) -> tuple[Any, Tensor, State]:
        """Give the core's outputs, the last known prices [B, T, M], and the state after."""
        ticks, price = self.ticks(observations, state["price"])
        output, following = self.core.unroll(ticks, {k: v for k, v in state.items() if k != "price"})
        return output, price, {"price": price[:, -1], **following}

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
