"""The prices of a whole day at once: an ensemble of recurrent networks that share one step.

An observation is the block of M prices that an auction publishes together (24 hours); the next block is forecast from

- the blocks of D-1, D-2, D-3 and D-7 (D is the day that is forecast) relative to a *local level*, the mean of the last
  days plus the profile of the last four weeks; the forecast is relative to the same level, in which members differ;
- what is known ahead of D, of D-1 and of D-7, standardised;
- the weekday of D;
- the state of a GRU over days, one a member.

    q(D) = level + s · (A x + MLP([x, h]))        A linear in the features, the MLP without weights in common with it

so that the linear autoregression with covariates (LEAR) is a special case. The features, the relative levels and the
daily recalibration are those of Lago, Marcjasz, De Schutter & Weron (2021), Applied Energy 293, 116983,
doi:10.1016/j.apenergy.2021.116983; the linear path beside the network is that of Cheng et al. (2016),
arXiv:1606.07792. The members differ in their first weights and in what dropout hides from them; their quantiles are
averaged level by level (Vincentisation: Genest 1992, Annals of Statistics 20(2)).

The shell gives changes, so levels are carried relative to the last block: ring <- ring - change, and 0 in front.

Legend: B batch, T time, E members, M prices of a block, R days of the ring, K columns known ahead, F features,
H hidden, W width of the MLP, Q quantile levels, N rows of training.

Comes in: ticks. Goes out: distributions. Trained by `pipeline/dayahead_training.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.core import Distribution, Tick, over_time
from models.errors import ConfigError
from models.heads import IQR_OF_NORMAL, away_from_median
from models.observation import LEVELS, MEDIAN, Array, State, StateTensor
from models.operations import namespace

DAYS = 28
"""Days of the ring of relative levels, over which the profile is taken."""

KEPT = 1 - 1 / 182
"""Share of the slow level that is kept each day: a memory of half a year."""

PRICE_DAYS = (1, 2, 3, 7)
"""Which days before the one that is forecast show their prices."""

KNOWN_DAYS = (0, 1, 7)
"""Of which days, counted back from the one that is forecast, the covariates are features."""

FURTHEST = 8.0
"""Standard deviations beyond which a feature is cut off."""

WEEKDAY = "@weekday"
"""Covariate that stands last among those known ahead: 0 (Monday) to 6 on the day that is forecast."""


@dataclass(frozen=True, kw_only=True)
class DayAheadConfig:
    """Shape of the ensemble.

    Attributes
    ----------
    members : int
        Networks whose quantiles are averaged, 1 to 256.
    levels : tuple of int
        Days of the local level, which the members take in turn: 1 to 28, or 0 for a memory of half a year.
    hidden : int
        Units of each member's GRU, 1 to 4096.
    width : int
        Units of both layers of each member's MLP, 1 to 4096.
    dropout : float
        Share of inputs and units that is hidden while training, 0 to 0.9.
    state_dropout : float
        Share of what a GRU puts out that is hidden while training, 0 to 0.9.
    """

    members: int = 9
    levels: tuple[int, ...] = (7, 28, 0)
    hidden: int = 64
    width: int = 128
    dropout: float = 0.1
    state_dropout: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("members", 1, 256),
            ("hidden", 1, 4096),
            ("width", 1, 4096),
            ("dropout", 0, 0.9),
            ("state_dropout", 0, 0.9),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")
        if not self.levels or min(self.levels) < 0 or max(self.levels) > DAYS:
            raise ConfigError(f"levels: expected one or more of 0 to {DAYS} days, got {self.levels}")


class Dense(nn.Module):
    """A linear map for each member: [N, I] or [E, N, I] to [E, N, O].

    Weights begin uniform in ±gain/sqrt(I), biases at zero.
    """

    def __init__(self, members: int, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter((torch.rand(members, inputs, outputs) * 2 - 1) * (gain / inputs**0.5))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Array) -> Array:
        """Apply each member's map."""
        xp = namespace(x)
        return x @ xp.constant(self.weight) + xp.constant(self.bias)


class DayAhead(nn.Module):
    """The core.

    Parameters
    ----------
    config : DayAheadConfig
    block : int
        M, 2 or more.
    future : int
        K: the covariates of the day that is forecast, and last its weekday.
    series : int
        Number of series of the fit: rows of the units of covariates besides row 0.
    """

    kind = "dayahead"
    horizon = 1
    past = 0
    elapsed = False
    df: Tensor
    maps: Tensor
    center: Tensor
    unit: Tensor
    price_unit: Tensor
    target_unit: Tensor
    each: Tensor
    away: Tensor
    weekdays: Tensor

    def __init__(self, config: DayAheadConfig, *, block: int, future: int, series: int) -> None:
        super().__init__()
        if block < 2 or future < 1:
            raise ConfigError(
                f"dayahead: expected blocks of 2 prices or more and {WEEKDAY} known ahead, got blocks of {block} and "
                f"{future} columns known ahead. Set block to the number of prices that are published together"
            )
        self.config, self.block, self.future = config, block, future
        members, hidden, width = config.members, config.hidden, config.width
        features = len(PRICE_DAYS) * block + len(KNOWN_DAYS) * (future - 1) + 7
        self.linear = Dense(members, features, block, 0.1)
        self.gates_in = Dense(members, features, 3 * hidden)
        self.gates_carried = Dense(members, hidden, 3 * hidden)
        self.first_of_features = Dense(members, features, width)
        self.first_of_state = Dense(members, hidden, width)
        self.second = Dense(members, width, width)
        self.output = Dense(members, width, block * len(LEVELS), 0.1)
        with torch.no_grad():
            self.output.bias.unflatten(-1, (block, -1))[..., 1:] = -2.0
        for name, unit in self._units(series).items():
            self.register_buffer(name, unit)
        for name, fixed in self._constants().items():
            self.register_buffer(name, fixed, persistent=False)

    def _constants(self) -> dict[str, Tensor]:
        """Name what follows from the shape."""
        levels, members = self.config.levels, self.config.members
        return {
            "maps": torch.stack([_maps(levels[k % len(levels)], self.block) for k in range(members)]),
            "each": torch.ones(members, 1, 1),
            "away": away_from_median(),
            "weekdays": torch.arange(7.0),
        }

    def _units(self, series: int) -> dict[str, Tensor]:
        """Name what is fitted before training."""
        members = self.config.members
        return {
            "df": torch.full((1,), float("nan")),
            "center": torch.zeros(1 + series, self.future - 1),
            "unit": torch.ones(1 + series, self.future - 1),
            "price_unit": torch.ones(members, 1, 1),
            "target_unit": torch.ones(members, 1, 1),
        }

    def fit_covariates(self, of_series: list[Tensor]) -> None:
        """Take center and unit of what was known ahead [D, K] of each series: mean and standard deviation.

        Fitted on the *history of the first fit*. Row 0 is of all series, of which one must have shown a day; a series
        that has not is as all are. A column that does not vary has unit 1.
        """
        if self.future == 1:  # the weekday alone
            return
        together = torch.cat(of_series)
        for row, x in enumerate([together, *of_series]):
            shown = (x if len(x) else together)[:, :-1]
            self.center[row] = shown.mean(0)
            deviation = shown.std(0, correction=0)
            self.unit[row] = torch.where(deviation > 0, deviation, 1.0)

    def fit_scales(self, features: Tensor, target: Tensor) -> None:
        """Take the standard deviations of relative prices among features [E, D, F] and of targets [E, D, M]."""
        self.price_unit *= features[..., : len(PRICE_DAYS) * self.block].std((1, 2), keepdim=True)
        known = target[:, target.isfinite().all(2).all(0)]
        self.target_unit.copy_(known.std((1, 2), keepdim=True))

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: two rings and the hidden vector of each member."""
        ring, known = (DAYS, self.block), (max(KNOWN_DAYS) + 1, self.future)
        hidden = (self.config.members, self.config.hidden)
        return (
            StateTensor("levels", ring, "float32", 0.0, "return", "blocks of the last days relative to the last one"),
            StateTensor("slow", (1, self.block), "float32", 0.0, "return", "slow level relative to the last block"),
            StateTensor("known", known, "float32", 0.0, "hidden", "what was known ahead, of the newest day first"),
            StateTensor("hidden", hidden, "float32", 0.0, "hidden", "state of each member's GRU"),
        )

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one block; the distribution is of the moves to the next one, and only the state enters it."""
        xp = namespace(tick.change)
        still = xp.reshape(~xp.any(~tick.held, 1), (-1, 1, 1))
        rings = self._pushed(tick.change, tick.future, state)
        rings = {name: xp.where(still, state[name], ring) for name, ring in rings.items()}
        features, level = self.features(rings, tick.series)
        before = xp.transpose(state["hidden"], (1, 0, 2))
        after = xp.transpose(self.remember(self.gates_in(features), before), (1, 0, 2))
        hidden = xp.where(still, state["hidden"], after)
        distribution = self._distribution(features, level, xp.transpose(hidden, (1, 0, 2)))
        return distribution, {**rings, "hidden": hidden}

    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...]: the rings and the GRU step by step, the rest all at once."""
        batch, time = ticks.held.shape[:2]
        still = ticks.held.all(-1)
        features, level, rings = self.unrolled_features(ticks, state)
        gates = self.gates_in(features).unflatten(1, (batch, time))
        top, hidden = self.run(gates, state["hidden"].transpose(0, 1), still)
        distribution = self._distribution(features, level, top.flatten(1, 2))
        return over_time(distribution, time), {**rings, "hidden": hidden.transpose(0, 1).contiguous()}

    def unrolled_features(self, ticks: Tick, state: State) -> tuple[Tensor, Tensor, State]:
        """Give features [E, B*T, F] and local levels [E, B*T, M] after each tick, and the rings after the last."""
        still, time = ticks.held.all(-1), ticks.held.shape[1]
        order = still.to(torch.int8).argsort(dim=1, stable=True)[..., None]  # blocks that were held stand at the end
        change, known = (x.gather(1, order.expand_as(x)) for x in (ticks.change, ticks.future[:, :, 0]))
        seen = {
            "levels": _relative(state["levels"], change),
            "slow": _slow(state["slow"], change),
            "known": _windows(state["known"], known),
        }
        done, row = (~still).cumsum(1), torch.arange(len(still))
        every = {name: x[row[:, None], done].flatten(0, 1) for name, x in seen.items()}
        features, level = self.features(every, ticks.series.repeat_interleave(time))
        return features, level, {name: x[row, done[:, -1]] for name, x in seen.items()}

    def _pushed(self, change: Array, future: Array, state: State) -> State:
        """Put a block in front of the rings: change [B, M], what is known ahead [B, 1, K]."""
        xp = namespace(change)
        move = xp.unsqueeze(change, 1)
        levels, _ = xp.split(state["levels"], [DAYS - 1, 1], 1)
        known, _ = xp.split(state["known"], [max(KNOWN_DAYS), 1], 1)
        return {
            "levels": xp.concat([move * 0.0, levels - move], 1),
            "slow": (state["slow"] - move) * KEPT,
            "known": xp.concat([future, known], 1),
        }

    def features(self, rings: State, series: Array) -> tuple[Array, Array]:
        """Give the features [E, B, F] and the local level [E, B, M] relative to the last block, of each member."""
        xp, prices = namespace(series), len(PRICE_DAYS) * self.block
        flat = xp.reshape(xp.concat([rings["levels"], rings["slow"]], 1), (-1, (DAYS + 1) * self.block))
        lags, level = xp.split(flat @ xp.constant(self.maps), [prices, self.block], 2)
        known = xp.concat([self._covariates(rings["known"], series), self._weekday(rings["known"])], 1)
        parts = [lags / xp.constant(self.price_unit), xp.unsqueeze(known, 0) * xp.constant(self.each)]
        return xp.clip(xp.concat(parts, 2), -FURTHEST, FURTHEST), level

    def _covariates(self, known: Array, series: Array) -> Array:
        """Give the standardised covariates of `KNOWN_DAYS`, the columns of a day together."""
        xp, days = namespace(series), self._days(known)
        center, unit = (xp.take(xp.constant(x), series) for x in (self.center, self.unit))
        return xp.concat([(xp.split(days[k], [self.future - 1, 1], 1)[0] - center) / unit for k in KNOWN_DAYS], 1)

    def _weekday(self, known: Array) -> Array:
        """Give the weekday of the day that is forecast, one of seven."""
        xp = namespace(known)
        _, weekday = xp.split(self._days(known)[0], [self.future - 1, 1], 1)
        return xp.relu(1.0 - xp.abs(weekday - xp.constant(self.weekdays)))

    def _days(self, known: Array) -> list[Array]:
        """Cut the ring [B, days, K] into days [B, K]."""
        xp, days = namespace(known), max(KNOWN_DAYS) + 1
        return list(xp.split(xp.reshape(known, (-1, days * self.future)), [self.future] * days, 1))

    def remember(self, gates: Array, hidden: Array) -> Array:
        """Advance the GRUs: gates of the features [E, B, 3H] and hidden [E, B, H] give the next [E, B, H]."""
        xp, size = namespace(hidden), self.config.hidden
        reset, update, new = xp.split(gates, [size] * 3, 2)
        reset_h, update_h, new_h = xp.split(self.gates_carried(hidden), [size] * 3, 2)
        keep = xp.sigmoid(update + update_h)
        candidate = xp.tanh(new + xp.sigmoid(reset + reset_h) * new_h)
        return candidate + keep * (hidden - candidate)

    def run(self, gates: Tensor, hidden: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
        """Advance the GRUs over time: gates [E, B, T, 3H], held [B, T]; give the hidden [E, B, T, H] and the last."""
        top = []
        for t in range(gates.shape[2]):
            hidden = torch.where(still[:, t, None], hidden, self.remember(gates[:, :, t], hidden))
            top.append(hidden)
        return torch.stack(top, 2), hidden

    def quantiles(self, features: Array, hidden: Array, *, dropout: float = 0.0, state_dropout: float = 0.0) -> Array:
        """Give each member's quantiles [E, N, M, Q] of the next block over the local level, in target units."""
        xp, members = namespace(hidden), self.config.members
        remembered = self.first_of_state(_hide(hidden, state_dropout))
        inner = xp.relu(self.first_of_features(_hide(features, dropout)) + remembered)
        inner = xp.relu(self.second(_hide(inner, dropout)))
        raw = xp.reshape(self.output(_hide(inner, dropout)), (members, -1, self.block, len(LEVELS)))
        middle, steps = xp.split(raw, [1, len(LEVELS) - 1], 3)
        middle = middle + xp.unsqueeze(self.linear(features), 3)
        return middle + xp.softplus(steps) @ xp.constant(self.away)

    def loss(self, features: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
        """Give the mean pinball loss over the levels [E, N, M] of targets [E, N, M] over the level, in target units."""
        hide = {"dropout": self.config.dropout, "state_dropout": self.config.state_dropout}
        error = target[..., None] - self.quantiles(features, hidden, **hide)
        levels = error.new_tensor(LEVELS)
        return torch.maximum(levels * error, (levels - 1) * error).mean(-1)

    def _distribution(self, features: Array, level: Array, hidden: Array) -> Distribution:
        """Put the members' quantiles on their levels and average; loc is the median, scale the IQR over 1.349."""
        xp = namespace(features)
        unit = xp.unsqueeze(xp.constant(self.target_unit), 3)
        moves = self.quantiles(features, hidden) * unit + xp.unsqueeze(level, 3)
        mean = xp.unsqueeze(xp.sum(moves, 0) * (1.0 / self.config.members), 1)
        columns = xp.split(mean, [1] * len(LEVELS), 3)
        spread = (columns[LEVELS.index(0.75)] - columns[LEVELS.index(0.25)]) * (1.0 / IQR_OF_NORMAL)
        df = xp.sum(xp.sum(level * 0.0, 2), 0) + xp.constant(self.df)
        return Distribution(loc=columns[MEDIAN], scale=spread, quantile=mean, df=df)


def _hide(x: Array, share: float) -> Array:
    """Put zeros in the place of a share of the elements, and scale up the others."""
    return nn.functional.dropout(x, share) if share else x


def _maps(level_days: int, block: int) -> Tensor:
    """Build the map [(R+1)*M, (P+1)*M] from ring and slow level to the blocks of `PRICE_DAYS` over the level, and it.

    level[m] = recent level, mean over all hours + (profile[m] - its mean), the profile being the mean of each hour over
    the ring.
    """
    days = torch.arange(DAYS + 1)
    recent = (days < level_days) / level_days if level_days else days == DAYS
    everywhere = torch.full((block, block), 1.0 / block)
    profile = (days < DAYS).float()[:, None, None] / DAYS * (torch.eye(block) - everywhere)
    level = recent.float()[:, None, None] * everywhere + profile
    shown = [(days == day - 1).float()[:, None, None] * torch.eye(block) for day in PRICE_DAYS]
    return torch.cat([*(x - level for x in shown), level], 2).flatten(0, 1)


def _relative(ring: Tensor, change: Tensor) -> Tensor:
    """Give the ring of relative levels [B, 1+T, R, M] as it was and after each change [B, T, M]."""
    seen = _windows(ring.double(), change.double().cumsum(1))
    return (seen - seen[:, :, :1]).to(change.dtype)


def _slow(slow: Tensor, change: Tensor) -> Tensor:
    """Give the slow level [B, 1+T, 1, M] as it was and after each change [B, T, M]."""
    out = [slow]
    for t in range(change.shape[1]):
        out.append((out[-1] - change[:, t : t + 1]) * KEPT)
    return torch.stack(out, 1)


def _windows(ring: Tensor, following: Tensor) -> Tensor:
    """Give the ring [B, R, C] as it was and after each of the rows that followed [B, T, C]: [B, 1+T, R, C]."""
    line = torch.cat([ring.flip(1), following], 1)
    return line.unfold(1, ring.shape[1], 1).flip(-1).transpose(2, 3)
