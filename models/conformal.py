"""Calibration that is carried: every quantile gets an offset, moved by each outcome (online conformal).

With z = (outcome - loc) / scale and q̃_τ = (quantile - loc) / scale of the forecast that it belongs to, per level τ:

    start      a_τ = the τ-quantile of z - q̃_τ on the validation split        split conformal, asymmetric
    published  Q_τ = sorted(quantile + scale (a_τ + b_τ))
    outcome    b_τ ← b_τ + g_τ (τ - ramp((q̃_τ + a_τ + b_τ - z) / w))          quantile tracking

ramp(x) = min(max(x + ½, 0), 1) is the indicator of z below the quantile with a soft edge of width w scales, so that
b is continuous in what it is made of: two machines whose last bits differ do not drift apart by whole steps. The
gain g_τ = (slope of the quantile function of z - q̃_τ at τ) / memory makes every level forget as a running empirical
quantile of that many outcomes does. In the long run a share τ of outcomes lies below Q_τ whatever the prices do, for
b stays bounded. Each level is tracked for itself; only what is published is sorted (Chernozhukov, Fernández-Val &
Galichon 2010, Econometrica 78(3)). The median, which is the point forecast, has offset and gain zero. What waits ages
with every price that arrives, not with holes, which leave the state as it is: after a hole the outcome of a step is a
move over one observation more.

Sources: Romano, Patterson & Candès 2019 (NeurIPS), conformalized quantile regression, for the start; Gibbs & Candès
2021 (NeurIPS) and Angelopoulos, Candès & Tibshirani 2023 (NeurIPS), quantile tracking. The density (loc, scale, df)
is left as it is.

Legend: B batch, T time, S horizon steps, M prices of one moment, Q quantile levels, K tracked steps.

Comes in: a core and its calibration. Goes out: a core with calibrated quantiles. Fitted by `pipeline/calibration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.core import Core, Distribution, Tick, scan
from models.errors import ConfigError
from models.observation import LEVELS, Array, State, StateTensor
from models.operations import namespace

WIDTH = 0.2
"""Width of the ramp in forecast scales: the coverage of a normal changes by less than 0.0005."""

Track = Literal["off", "split", "first", "all"]
OWN = ("offset", "pending", "sharpness")
"""Names of the state tensors that tracking carries."""


@dataclass(frozen=True, kw_only=True)
class ConformalConfig:
    """How quantiles are calibrated.

    Attributes
    ----------
    track : {"off", "split", "first", "all"}
        off: quantiles as the model gives them. split: offsets fixed on the validation split. first: those, and the
        offsets of the next step tracked tick by tick. all: of every step, at 48·horizon² bytes a series for the
        forecasts that wait for their outcome.
    memory : int
        Outcomes after which tracking has largely forgotten, 20 to 100000.
    """

    track: Track = "first"
    memory: int = 1000

    def __post_init__(self) -> None:
        if not 20 <= self.memory <= 100_000:
            raise ConfigError(f"memory: expected 20 to 100000 outcomes, got {self.memory}")


class Conformal(nn.Module):
    """A core with calibrated quantiles.

    Parameters
    ----------
    core : Core
        What forecasts.
    start : float [S, M, Q]
        Offsets a, in forecast scales, fitted on the *validation split*.
    gain : float [K, M, Q]
        Gains g in forecast scales; K = 0 tracks nothing, 1 the next step, S every step.
    """

    start: Tensor
    gain: Tensor
    levels: Tensor
    minus: Tensor
    diagonal: Tensor

    def __init__(self, core: Core, start: Tensor, gain: Tensor) -> None:
        super().__init__()
        self.core = core
        self.kind, self.horizon, self.block = core.kind, core.horizon, core.block
        self.past, self.future, self.elapsed = core.past, core.future, core.elapsed
        self.tracked = len(gain)
        self.register_buffer("start", start.float())
        self.register_buffer("gain", gain.float())
        self.register_buffer("levels", torch.tensor(LEVELS), persistent=False)
        self.register_buffer("minus", -torch.ones(len(LEVELS)), persistent=False)
        self.register_buffer("diagonal", torch.eye(self.tracked, dtype=torch.bool)[..., None, None], persistent=False)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of the density, which stays that of the core."""
        return self.core.df

    @property
    def _plain(self) -> bool:
        """Whether the axes of step and price are left out, see `Distribution`."""
        return (self.horizon, self.block) == (1, 1)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: the core's own, the offsets, and the forecasts that wait for their outcome."""
        if not self.tracked:
            return self.core.state_tensors()
        wide = (len(LEVELS),) if self._plain else (self.tracked, self.block, len(LEVELS))
        one = (1,) if self._plain else (self.tracked, self.block, 1)
        ring = (self.tracked,) if self.tracked > 1 else ()
        nan = float("nan")
        return (
            *self.core.state_tensors(),
            StateTensor("offset", wide, "float32", 0.0, "scale", "offset of each quantile, in forecast scales"),
            StateTensor("pending", (*ring, *wide), "float32", nan, "return", "quantiles that wait for an outcome"),
            StateTensor("sharpness", (*ring, *one), "float32", nan, "1/return", "one over ramp width of those"),
        )

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        xp = namespace(tick.change)
        raw, following = self.core.step(tick, {k: v for k, v in state.items() if k not in OWN})
        quantile = self._plus(raw.quantile, raw.scale, self._shaped(self.start))
        if not self.tracked:
            return self._published(raw, quantile), following
        change, held = (self._beside(x) for x in (tick.change, tick.held))
        due = self._plus(state["pending"], change * state["sharpness"], self.minus)
        offset = self._learned(self._diagonal(due), state["offset"], tick.held)
        quantile = quantile + self._wide(raw.scale) * self._padded(offset)
        fresh, sharpness = self._waiting(raw)
        following["offset"] = offset
        following["pending"] = xp.where(self._wide(held), state["pending"], self._pushed(fresh, due))
        following["sharpness"] = xp.where(held, state["sharpness"], self._pushed(sharpness, state["sharpness"]))
        return self._published(raw, quantile), following

    def _published(self, raw: Distribution, quantile: Array) -> Distribution:
        """Put the quantiles in order, beside the density as it was."""
        ordered = namespace(quantile).sort(quantile, len(LEVELS))
        return Distribution(loc=raw.loc, scale=raw.scale, quantile=ordered, df=raw.df)

    def _shaped(self, x: Tensor) -> Tensor:
        """Leave out the axes of step and price where both are one."""
        return x[0, 0] if self._plain else x

    def _beside(self, x: Array) -> Array:
        """Put [B, M] beside what waits for its outcome."""
        ring = (1,) if self.tracked > 1 else ()
        return x if self._plain else namespace(x).reshape(x, (-1, *ring, 1, self.block, 1))

    def _wide(self, x: Array) -> Array:
        """Repeat [B, 1] for every level; where there are the axes of step and price, broadcasting does it."""
        return namespace(x).repeat(x, len(LEVELS)) if self._plain else x

    def _plus(self, base: Array, x: Array, row: Tensor) -> Array:
        """Give base + x row."""
        xp = namespace(x)
        return xp.outer(x, xp.constant(row), base) if self._plain else base + x * xp.constant(row)

    def _diagonal(self, due: Array) -> Array:
        """Take from the ring [B, age, step, M, Q] the forecast of each step that is as old as its step."""
        if self.tracked == 1:
            return due
        xp = namespace(due)
        return xp.sum(xp.where(xp.constant(self.diagonal), due, 0.0), 1)

    def _learned(self, due: Array, offset: Array, held: Array) -> Array:
        """Move the offsets by outcomes; where none came, or nothing waited for it, they stay bit for bit."""
        xp = namespace(due)
        held = self._wide(held) if self._plain else xp.reshape(held, (-1, 1, self.block, 1))
        below = xp.clip(due + offset * (1.0 / WIDTH), 0.0, 1.0)
        moved = offset + self._steps(below)
        return xp.where(held | xp.isnan(moved), offset, moved)

    def _steps(self, below: Array) -> Array:
        """Give by how much the offsets move, g (τ - ramp)."""
        xp, gain = namespace(below), self._shaped(self.gain)
        if self._plain:
            return xp.linear(below, xp.constant(-gain.diag()), xp.constant(gain * self.levels))
        return xp.constant(gain) * (xp.constant(self.levels) - below)

    def _padded(self, offset: Array) -> Array:
        """Give the steps that are not tracked the offset zero."""
        if self.tracked == self.horizon:
            return offset
        first = torch.zeros(self.horizon, 1, 1, dtype=self.start.dtype)
        first[0] = 1.0
        return offset * namespace(offset).constant(first)

    def _waiting(self, raw: Distribution) -> tuple[Array, Array]:
        """Give what is kept of a forecast of the tracked steps: (q + s (a + w/2)) / (w s), and 1 / (w s)."""
        xp = namespace(raw.scale)
        quantile, scale = raw.quantile, raw.scale
        if self.tracked < self.horizon:
            quantile, scale = (xp.split(x, [1, self.horizon - 1], 1)[0] for x in (quantile, scale))
        sharpness = (1.0 / WIDTH) / scale
        middle = self._shaped(self.start[: self.tracked] + 0.5 * WIDTH)
        return self._plus(quantile, scale, middle) * ((1.0 / WIDTH) / self._wide(scale)), sharpness

    def _pushed(self, fresh: Array, ring: Array) -> Array:
        """Put what was just forecast first in the ring, and let the oldest go."""
        if self.tracked == 1:
            return fresh
        xp = namespace(fresh)
        older, _ = xp.split(ring, [self.tracked - 1, 1], 1)
        return xp.concat([xp.unsqueeze(fresh, 1), older], 1)

    @torch.no_grad()
    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the core all at once, then the offsets of the next step in order of time."""
        if self.tracked > 1:
            return scan(self, ticks, state)
        raw, following = self.core.unroll(ticks, {k: v for k, v in state.items() if k not in OWN})
        if not self.tracked:
            return self._published(raw, self._plus(raw.quantile, raw.scale, self._shaped(self.start))), following
        batch, time = ticks.change.shape[:2]
        flat = Distribution(**{f.name: getattr(raw, f.name).flatten(0, 1) for f in fields(Distribution)})
        waiting = {k: x.unflatten(0, (batch, time)) for k, x in zip(OWN[1:], self._waiting(flat), strict=True)}
        before, waiting = self._before_each(ticks.held, state, waiting)
        change, held = (self._beside(x.flatten(0, 1)).unflatten(0, (batch, time)) for x in (ticks.change, ticks.held))
        due = before["pending"] - change * before["sharpness"]
        offset = _tracked(due, held, state["offset"], self._shaped(self.gain), self.levels)
        padded = self._padded(offset.flatten(0, 1)).unflatten(0, (batch, time))
        quantile = raw.quantile + raw.scale * self._shaped(self.start) + raw.scale * padded
        return self._published(raw, quantile), {**following, **waiting, "offset": offset[:, -1]}

    def _before_each(self, held: Tensor, state: State, waiting: State) -> tuple[State, State]:
        """Give what waited before each tick [B, T, ...], and what waits after the last."""
        batch, time = held.shape[:2]
        index = torch.arange(1, time + 1, device=held.device)[None, :, None]
        latest = torch.cat([torch.zeros_like(held[:, :1], dtype=torch.int64), torch.where(held, 0, index)], 1)
        latest = latest.cummax(1).values
        latest = latest if self._plain else latest.reshape(batch, time + 1, 1, self.block, 1)
        all_of = {k: torch.cat([state[k][:, None], x], 1) for k, x in waiting.items()}
        taken = {k: x.gather(1, latest.expand(*latest.shape[:-1], x.shape[-1])) for k, x in all_of.items()}
        return {k: x[:, :-1] for k, x in taken.items()}, {k: x[:, -1] for k, x in taken.items()}


def _tracked(due: Tensor, held: Tensor, offset: Tensor, gain: Tensor, level: Tensor) -> Tensor:
    """Move the offsets by outcome after outcome; give them after each tick, [B, T, ...].

    Plain arrays, since a step is a few numbers: what `Conformal._learned` does, in the same order of arithmetic. They
    are of one shape, for to broadcast a number costs numpy as much as three operations.
    """
    still = held | due.isnan()
    shape = due.shape
    rate = torch.where(still, 0.0, gain).expand(shape)
    x, step, share, now = (
        np.ascontiguousarray(t.cpu().numpy())
        for t in (due.nan_to_num().transpose(0, 1), rate.transpose(0, 1), level.expand(shape[:1] + shape[2:]), offset)
    )
    out, below = np.empty_like(x), np.empty_like(now)
    steep, nothing, all_of_it = (np.full_like(now, value) for value in (1.0 / WIDTH, 0.0, 1.0))
    for due_t, step_t, out_t in zip(x, step, out, strict=True):
        np.multiply(now, steep, below)
        np.add(below, due_t, below)
        np.maximum(below, nothing, out=below)
        np.minimum(below, all_of_it, out=below)
        np.subtract(share, below, below)
        np.multiply(below, step_t, below)
        now = np.add(now, below, out_t)
    return torch.from_numpy(out).to(due.device).transpose(0, 1)
