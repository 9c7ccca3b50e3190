"""The states of many series, and the step that moves them on: (state, tick) -> (state, forecast).

Nothing else decides the result: no clock and no randomness enter, and the size of the micro-batches does not
change a bit (`Session.self_test` checks that of the runtime).

Legend: n ticks of a batch, a of them accepted, S horizon steps, Q quantile levels; M = 1: a tick is one price.

Comes in: a session and ticks. Goes out: forecasts, and a reason for every tick without one. Knows numpy only;
imported by stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import IntegrityError, ModelError
from models.observation import Forecast, Observation, State
from pipeline.calendar_features import FEATURES, ahead, calendar
from pipeline.rounds import Rounds, rounds
from pipeline.session import GRAIN, Session
from pipeline.ticks import Reason, Ticks

NAME = re.compile(r"(?=.{1,64}$)\^?[A-Za-z0-9][A-Za-z0-9._:=~^-]*(?:/[A-Za-z0-9][A-Za-z0-9._:=~^-]*)*")
"""Names of series: EURUSD=X, ^GSPC, BTC/USDT, NASDAQ:AAPL. No part begins with a dot, so none is a path upwards."""

FIRST_US = -2_208_988_800_000_000
"""1900-01-01, the earliest time that is taken."""

LAST_US = 7_258_118_400_000_000
"""2200-01-01; times before it are taken."""

_NEVER = -(2**62)
_FORECAST = tuple(Forecast.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What a batch gave.

    Attributes
    ----------
    reason : uint8 [n]
        `Reason` of each tick; 0 where it was accepted.
    tick : int64 [a]
        The accepted ticks, ascending.
    forecast : Forecast
        Row i was made right after tick `tick[i]`; its step s is for the s-th tick of that series after it.
    """

    reason: NDArray[np.uint8]
    tick: NDArray[np.int64]
    forecast: Forecast


class Stream:
    """The states of many series, one contiguous array a tensor, and the step that moves them on.

    Parameters
    ----------
    session : Session
    max_series : int
        Most series that are carried.

    Raises
    ------
    ModelError
        When the model needs more than a price and its time: covariates that are not of the calendar, or several prices
        at once.
    """

    def __init__(self, session: Session, *, max_series: int) -> None:
        _servable(session)
        self.session = session
        self.max_series = max_series
        self._slot: dict[str, int] = {}
        self._arena = self._fresh(0)

    def apply(self, ticks: Ticks) -> Applied:
        """Take in a batch: refuse what cannot be a tick, then one call of the model for each round.

        Either the whole batch is taken in or, when the model fails, none of it. A tick that is refused leaves
        the state bit for bit as it was and does not reach the model.
        """
        reason = self._screen(ticks)
        slot, new = self._seats(ticks.name, reason)
        kept = np.flatnonzero(reason == 0)
        if len(kept) == 0:
            return Applied(reason=reason, tick=kept, forecast=self._blank(0))
        self._seat(new)
        moment, price = ticks.time[kept], ticks.price[kept]
        plan = rounds(slot[kept], moment, price, self._arena["time"], self._arena["price"])
        reason[kept] = plan.reason
        if len(plan.tick) == 0:
            return Applied(reason=reason, tick=plan.tick, forecast=self._blank(0))
        forecast, state = self._walk(plan, moment[plan.tick], price[plan.tick])
        self._keep(plan, state, slot[kept][plan.tick], moment[plan.tick], price[plan.tick])
        self._slot |= new
        arrival = np.argsort(plan.tick)
        rows = {name: getattr(forecast, name)[arrival] for name in _FORECAST}
        return Applied(reason=reason, tick=kept[plan.tick[arrival]], forecast=Forecast(**rows))

    def names(self) -> list[str]:
        """List the series in the order of their first tick."""
        return list(self._slot)

    def arrays(self) -> dict[str, NDArray]:
        """Give everything that is carried, a row for each of `names`: time, price, row and `state.<name>`."""
        return {key: x[: len(self._slot)] for key, x in self._arena.items()}

    def restore(self, names: list[str], arrays: dict[str, NDArray]) -> None:
        """Go on from what `names` and `arrays` gave."""
        expected = {key: (x.dtype, (len(names), *x.shape[1:])) for key, x in self._arena.items()}
        if expected != {key: (x.dtype, x.shape) for key, x in arrays.items()}:
            raise IntegrityError(f"snapshot: its arrays do not fit the {len(names)} series of this model. Start again")
        self._slot = {name: i for i, name in enumerate(names)}
        self._arena = dict(arrays)

    def _screen(self, ticks: Ticks) -> NDArray[np.uint8]:
        """Find what is wrong with a tick by itself."""
        lower, upper = self.session.metadata.domain
        reason = ticks.reason.copy()
        faults = {
            Reason.TIME: (ticks.time < FIRST_US) | (ticks.time >= LAST_US),
            Reason.NOT_FINITE: ~np.isfinite(ticks.price),
            Reason.DOMAIN: (ticks.price <= lower) | (ticks.price >= upper),
        }
        for fault, found in faults.items():
            reason[(reason == 0) & found] = fault
        return reason

    def _seats(self, names: list[str], reason: NDArray[np.uint8]) -> tuple[NDArray[np.int64], dict[str, int]]:
        """Find the slot of each tick, and give slots to new series while there are some left."""
        find = self._slot.get
        slot = np.array([find(name, -1) for name in names], dtype=np.int64)
        new: dict[str, int] = {}
        for i in np.flatnonzero((slot < 0) & (reason == 0)).tolist():
            name, free = names[i], len(self._slot) + len(new)
            if name not in new and not NAME.fullmatch(name):
                reason[i] = Reason.NAME
            elif name not in new and free >= self.max_series:
                reason[i] = Reason.LIMIT
            else:
                slot[i] = new.setdefault(name, free)
        return slot, new

    def _seat(self, new: dict[str, int]) -> None:
        """Make room for new series; they count as carried only when the batch is done."""
        used, capacity = len(self._slot), len(self._arena["row"])
        if used + len(new) > capacity:
            grown = self._fresh(max(used + len(new), min(2 * capacity, self.max_series)))
            for key, x in self._arena.items():
                grown[key][:used] = x[:used]
            self._arena = grown
        self._arena["row"][used : used + len(new)] = self.session.rows(new)

    def _fresh(self, capacity: int) -> dict[str, NDArray]:
        """Build the arrays of series that have shown nothing yet."""
        return {
            "time": np.full(capacity, _NEVER, dtype=np.int64),
            "price": np.full(capacity, np.nan),
            "row": np.zeros(capacity, dtype=np.int64),
            **{f"state.{name}": x for name, x in self.session.initial(capacity).items()},
        }

    def _walk(self, plan: Rounds, moment: NDArray[np.int64], price: NDArray[np.float64]) -> tuple[Forecast, State]:
        """Take the rounds one after the other; each is a prefix of the series gathered at the start.

        Rounds are filled up to whole grains with rows that have no price, so that bits do not depend on how
        many series tick together.
        """
        full = -(-plan.width // GRAIN) * GRAIN
        where = np.arange(len(price)) + np.repeat(np.cumsum(full - plan.width) - (full - plan.width), plan.width)
        slot = np.concatenate((plan.slot, np.repeat(plan.slot[:1], full[0] - len(plan.slot))))
        state = {s.name: self._arena[f"state.{s.name}"][slot] for s in self.session.metadata.state}
        observation = self._observe(slot, where, int(full.sum()), moment, price, plan.gap)
        forecast = self._blank(len(observation.price))
        start = 0
        for width, rows in zip(plan.width.tolist(), full.tolist(), strict=True):
            now = slice(start, start + rows)
            given, following = self.session.step(
                Observation(
                    price=observation.price[now],
                    mask=observation.mask[now],
                    series=observation.series[:rows],
                    past=observation.past[now],
                    future=observation.future[now],
                    elapsed=observation.elapsed[now],
                ),
                {name: x[:rows] for name, x in state.items()},
            )
            for name in _FORECAST:
                getattr(forecast, name)[now] = getattr(given, name)
            for name, x in following.items():
                state[name][:width] = x[:width]
            start += rows
        kept = {name: getattr(forecast, name)[where] for name in _FORECAST}
        return Forecast(**kept), {name: x[: len(plan.slot)] for name, x in state.items()}

    def _observe(
        self,
        slot: NDArray[np.int64],
        where: NDArray[np.int64],
        total: int,
        moment: NDArray[np.int64],
        price: NDArray[np.float64],
        gap: NDArray[np.int64],
    ) -> Observation:
        """Lay the ticks of all rounds out in rows, with rows between them that have no price."""
        m = self.session.metadata
        prices, elapsed, mask = np.full((total, 1), np.nan), np.ones(total, np.float32), np.zeros((total, 1), bool)
        prices[where, 0], elapsed[where], mask[where] = price, self._elapsed(gap), True
        times = np.zeros(total, np.int64)
        times[where] = moment
        return Observation(
            price=prices,
            mask=mask,
            series=self._arena["row"][slot],
            past=calendar(m.past, times),
            future=ahead(m.future, times, m.bar_us or 0, m.horizon),
            elapsed=elapsed,
        )

    def _keep(
        self,
        plan: Rounds,
        state: State,
        slot: NDArray[np.int64],
        moment: NDArray[np.int64],
        price: NDArray[np.float64],
    ) -> None:
        """Store the states, and of each series the time and price of its last tick, which stands last."""
        for name, x in state.items():
            self._arena[f"state.{name}"][plan.slot] = x
        self._arena["time"][slot] = moment
        self._arena["price"][slot] = price

    def _elapsed(self, gap: NDArray[np.int64]) -> NDArray[np.float32]:
        """Turn gaps in microseconds into bars; 1 at the first tick of a series."""
        bar = self.session.metadata.bar_us
        return np.where(gap > LAST_US - FIRST_US, 1.0, gap / bar if bar else 1.0).astype(np.float32)

    def _blank(self, batch: int) -> Forecast:
        """Make room for `batch` forecasts."""
        around = (batch, self.session.metadata.horizon, 1)
        return Forecast(
            quantile=np.empty((*around, len(self.session.metadata.levels))),
            loc=np.empty(around, dtype=np.float32),
            scale=np.empty(around, dtype=np.float32),
            df=np.empty(batch, dtype=np.float32),
        )


def _servable(session: Session) -> None:
    """Refuse a model that needs more than a tick has: one price, and what its time says."""
    m = session.metadata
    beside = [name for name in (*m.past, *m.future) if name not in FEATURES]
    if beside or m.block != 1:
        needs = ", ".join(beside) or f"{m.block} prices at once"
        raise ModelError(
            f"model {m.name} needs {needs}; a tick has one price and a time, which gives {', '.join(FEATURES)} and no "
            "other covariates. Serve another model"
        )
    counts = {"elapsed bars": "elapsed" in m.inputs, f"{', '.join(m.future)} some bars ahead": bool(m.future)}
    if m.bar_us is None and (reads := [what for what, read in counts.items() if read]):
        raise ModelError(
            f"model {m.name} reads {' and '.join(reads)} but has grid {m.grid!r}: its bars have no length. Export it "
            "with a bar grid"
        )
