"""Which series a stream carries, and the last key of each: what may become an event, and in which slot.

Legend: n ticks of a batch, a of them admitted, M prices of a block.

Comes in: ticks. Goes out: `Events` and a reason for every other tick. Knows numpy only; imported by states.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.arena import Arena, Column
from pipeline.events import FALLBACK, Events
from pipeline.metadata import Metadata
from pipeline.rounds import Rounds, rounds
from pipeline.rules import RuleConfig
from pipeline.ticks import Layout, Reason, Ticks

NAME = re.compile(r"(?=.{1,64}$)\^?[A-Za-z0-9][A-Za-z0-9._:=~^-]*(?:/[A-Za-z0-9][A-Za-z0-9._:=~^-]*)*")
"""Names of series: EURUSD=X, ^GSPC, BTC/USDT, NASDAQ:AAPL. No part begins with a dot, so none is a path upwards."""

FIRST_US = -2_208_988_800_000_000
"""1900-01-01, the earliest time that is taken."""

LAST_US = 7_258_118_400_000_000
"""2200-01-01; times before it are taken."""

NEVER = -(2**62)
"""Time of a series that has shown nothing."""

_DAY_US = 86_400_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """What the book says of a batch.

    Attributes
    ----------
    reason : uint8 [n]
        `Reason`; 0 where the tick was admitted.
    index : int64 [a]
        The admitted ticks, ascending.
    events : Events
        Those, in the same order.
    plan : Rounds or None
        The order in which to take them; None where there are none.
    new : list of str
        Series among them that have no slot yet; they are to get the next ones.
    newest : int
        Latest time that passed.
    """

    reason: NDArray[np.uint8]
    index: NDArray[np.int64]
    events: Events
    plan: Rounds | None
    new: list[str]
    newest: int


class Book:
    """Names, slots and last keys of series.

    Parameters
    ----------
    layout : Layout
        What ticks hold.
    rules : RuleConfig
    max_series : int
        Most series that are carried.
    """

    def __init__(self, layout: Layout, rules: RuleConfig, max_series: int) -> None:
        self.layout, self.rules, self.max_series = layout, rules, max_series
        self.newest = NEVER
        self._slot: dict[str, int] = {}
        self._names: list[str] = []
        self.arena = Arena(
            {
                "time": Column(dtype="int64", fresh=NEVER),
                "sequence": Column(dtype="int64"),
                "shown": Column(dtype="int64"),
                "accepted_sequence": Column(dtype="int64"),
                "fallback": Column(dtype="uint8"),
                "price": Column(dtype="float64", shape=(layout.block,), fresh=np.nan),
                "past": Column(dtype="float32", shape=(len(layout.past),), fresh=np.nan),
                "future": Column(dtype="float32", shape=(layout.horizon, len(layout.future)), fresh=np.nan),
            },
            max_series,
        )

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """The series in the order of their first event; the place is the slot."""
        return self._names

    def named(self, first: int) -> list[tuple[int, str]]:
        """Give slot and name of the series from a slot on."""
        return list(enumerate(self._names[first:], start=first))

    def slot(self, name: str) -> int | None:
        """Give the slot of a series, None where it has shown nothing."""
        return self._slot.get(name)

    def add(self, names: Iterable[str]) -> None:
        """Give slots to new series."""
        for name in names:
            self._slot[name] = len(self._names)
            self._names.append(name)
        self.arena.seat(len(self._names))

    def admit(self, ticks: Ticks, model: Metadata) -> Admission:
        """Judge ticks by themselves, by their names and by their keys; `add` and `note` keep what was admitted."""
        reason = self._screen(ticks, model)
        newest = self._too_far(ticks, reason, model)
        slot, new = self._slots(ticks, reason, model)
        events = Events.of(ticks, slot)
        self.arena.seat(len(self._names) + len(new))
        kept = np.flatnonzero(reason == 0)
        events, plan = events.take(kept), None
        if len(kept):
            plan = self.order(events)
            reason[kept] = plan.reason
            if plan.reason.any():
                fine = plan.reason == 0
                kept, events = kept[fine], events.take(fine)
                # the plan counts admitted ticks, as the events that it orders do
                plan = replace(plan, event=(np.cumsum(fine) - 1)[plan.event])
        if self.rules.covariates == "last" and self.layout.beside:
            events = self._filled(events)
        return Admission(reason=reason, index=kept, events=events, plan=plan, new=list(new), newest=newest)

    def order(self, events: Events) -> Rounds:
        """Put events in rounds, each held against the last key of its series."""
        a = self.arena
        last = a["time"], a["sequence"]
        return rounds(events.slot, (events.time, events.sequence), _shown(events), last, a["price"])

    def note(self, events: Events, newest: int) -> None:
        """Keep the last key of each series, what marks its last forecast, and the latest covariates that were whole."""
        a, slot = self.arena, events.slot
        a["time"][slot], a["sequence"][slot], a["price"][slot] = events.time, events.sequence, _shown(events)
        shown, accepted = events.number > 0, events.accepted
        a["shown"][slot[shown]] = events.number[shown]
        a["accepted_sequence"][slot[accepted]] = events.sequence[accepted]
        a["fallback"][slot[accepted]] = events.flags[accepted] & FALLBACK
        self.newest = newest
        if self.layout.beside:
            whole = events.whole
            a["past"][slot[whole]], a["future"][slot[whole]] = events.past[whole], events.future[whole]

    def number(self, slot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count what each series will have shown, event after event in the order of arrival."""
        order = np.argsort(slot, kind="stable")
        ranked = slot[order]
        place, goes_on = np.arange(len(slot)), np.zeros(len(slot), bool)
        goes_on[1:] = ranked[1:] == ranked[:-1]
        turn = np.empty(len(slot), np.int64)
        turn[order] = place - np.maximum.accumulate(np.where(goes_on, 0, place))
        return self.arena["shown"][slot] + turn + 1

    def _filled(self, events: Events) -> Events:
        """Give ticks without all covariates the last ones of their series, and mark them."""
        lacking = np.isnan(events.factor) & ~events.whole
        if not lacking.any():
            return events
        past, future, flags = events.past.copy(), events.future.copy(), events.flags.copy()
        latest = {}
        for i in range(len(events)):
            slot = int(events.slot[i])
            if lacking[i]:
                before = latest.get(slot, (self.arena["past"][slot], self.arena["future"][slot]))
                past[i], future[i] = before
                flags[i] |= FALLBACK
            elif np.isnan(events.factor[i]):
                latest[slot] = past[i], future[i]
        return replace(events, past=past, future=future, flags=flags)

    def _screen(self, ticks: Ticks, model: Metadata) -> NDArray[np.uint8]:
        """Find what is wrong with a tick by itself."""
        lower, upper = model.domain
        reason = ticks.reason.copy()
        tick, price = np.isnan(ticks.factor), ticks.price
        finite = np.isfinite(price) | (np.isnan(price) if self.layout.block > 1 else False)
        faults = {
            Reason.TIME: (ticks.time < FIRST_US) | (ticks.time >= LAST_US),
            Reason.NOT_FINITE: tick & ~finite.all(1),
            Reason.DOMAIN: tick & ((price <= lower) | (price >= upper)).any(1),
        }
        if self.rules.covariates == "reject" and self.layout.beside:
            faults[Reason.COVARIATE] = tick & ~ticks.whole
        for fault, found in faults.items():
            reason[(reason == 0) & found] = fault
        return reason

    def _too_far(self, ticks: Ticks, reason: NDArray[np.uint8], model: Metadata) -> int:
        """Refuse times too far beyond every one before; each that passes moves the bound, which is given back."""
        kept = np.flatnonzero(reason == 0)
        reach = self.rules.future_days * _DAY_US
        cutoff, newest = model.cutoff_us, self.newest
        if len(kept) == 0:
            return newest
        latest = int(ticks.time[kept].max())
        if latest <= max(newest, cutoff) + reach:
            return max(newest, latest)
        for i in kept.tolist():
            moment = int(ticks.time[i])
            if moment > max(newest, cutoff) + reach:
                reason[i] = Reason.FUTURE
            else:
                newest = max(newest, moment)
        return newest

    def _slots(
        self, ticks: Ticks, reason: NDArray[np.uint8], model: Metadata
    ) -> tuple[NDArray[np.int64], dict[str, int]]:
        """Find the slot of each tick, and choose slots for new series while there are some left."""
        find = self._slot.get
        slot = np.array([find(name, -1) for name in ticks.name], dtype=np.int64)
        new: dict[str, int] = {}
        known = set(model.series) if self.rules.series == "closed" else None
        for i in np.flatnonzero((slot < 0) & (reason == 0)).tolist():
            name = ticks.name[i]
            if name in new:
                slot[i] = new[name]
                continue
            free = len(self._names) + len(new)
            if not NAME.fullmatch(name):
                reason[i] = Reason.NAME
            elif (known is not None and name not in known) or not np.isnan(ticks.factor[i]):
                reason[i] = Reason.UNKNOWN
            elif free >= self.max_series:
                reason[i] = Reason.LIMIT
            else:
                slot[i] = new.setdefault(name, free)
        return slot, new


def _shown(events: Events) -> NDArray[np.float64]:
    """Give what an event shows, by which the same one is known again: its prices, or the factor of an adjustment."""
    adjusts = ~np.isnan(events.factor)
    return np.where(adjusts[:, None], events.factor[:, None], events.price) if adjusts.any() else events.price
