"""The pure core of a stream: (state, ticks) -> (state, forecasts), for a model and those that step beside it.

No clock, no randomness and no size of a batch enters: the same ticks give the same bits, so that a run can be
replayed.

Legend: n ticks of a batch, a of them with a forecast, S horizon steps, M prices of a block, Q quantile levels.

Comes in: sessions and ticks. Goes out: forecasts, and a reason for every tick without one. Knows numpy only;
imported by stream, scenarios and inspection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.book import NEVER, Book
from pipeline.events import STALE, WARMING, Events
from pipeline.lineup import SERVING
from pipeline.rounds import Rounds, rounds
from pipeline.rules import RuleConfig
from pipeline.session import Session
from pipeline.states import States, Walked, layout_of
from pipeline.ticks import Layout, Reason, Ticks

EVERY = RuleConfig(grid="accept", jump="accept")
"""Rules that hold nothing against a tick but its key and its domain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What a batch gave.

    Attributes
    ----------
    reason : uint8 [n]
        `Reason` of each tick; 0 where it was accepted.
    tick : int64 [a]
        The accepted ticks, ascending.
    quantile : float64 [a, S, M, Q]
        Row i was made right after tick `tick[i]`; its step s is for the s-th tick of that series after it.
    events : Events
        All that moved states or keys, in the order of arrival.
    new : list of str
        Series that appeared.
    walked : dict of Walked
        By role, a row for each event; the first is the model that serves.
    """

    reason: NDArray[np.uint8]
    tick: NDArray[np.int64]
    quantile: NDArray[np.float64]
    events: Events
    new: list[str]
    walked: dict[str, Walked]


class Core:
    """The states of many series under one model, and under others that step on the same ticks.

    Parameters
    ----------
    session : Session
        The model that serves.
    max_series : int
        Most series that are carried.
    rules : RuleConfig, optional
        Which ticks are taken; left out, every tick whose key and price are possible.
    layout : Layout, optional
        What ticks hold; left out, what the model reads.
    beside : mapping of Session
        Other models by name.
    burn_in : int
        Ticks of a series before its forecasts are no longer marked as warming.
    expires_us : int, optional
        Age of a model beyond which its forecasts are marked as stale, microseconds; left out, never.

    Raises
    ------
    ModelError
        When a model needs more than ticks hold.
    """

    def __init__(
        self,
        session: Session,
        *,
        max_series: int,
        rules: RuleConfig = EVERY,
        layout: Layout | None = None,
        beside: Mapping[str, Session] | None = None,
        burn_in: int = 0,
        expires_us: int | None = None,
    ) -> None:
        self.layout = layout or layout_of(session.metadata)
        self.burn_in, self.expires_us = burn_in, expires_us
        self.book = Book(self.layout, rules, max_series)
        self.serving = States(session, self.layout, max_series)
        self.beside = {name: States(other, self.layout, max_series) for name, other in (beside or {}).items()}

    @property
    def session(self) -> Session:
        """The model that serves."""
        return self.serving.session

    def apply(self, ticks: Ticks) -> Applied:
        """Take in a batch: refuse what cannot be a tick, then one call of each model for each round.

        Either the whole batch is taken in or, when a model fails, none of it. A tick that is refused leaves
        the state bit for bit as it was.
        """
        admitted = self.book.admit(ticks, self.session.metadata)
        reason, events, plan = admitted.reason, admitted.events, admitted.plan
        if plan is None or len(events) == 0:
            self.book.newest = admitted.newest
            return self._nothing(reason, events)
        for states in (self.serving, *self.beside.values()):
            states.seat(admitted.new, len(self.book))
        serving, rows = self.serving.walk(events, plan, self.book.rules)
        events = self._judged(events, serving)
        others = {name: states.walk(events, plan) for name, states in self.beside.items()}
        self.serving.keep(plan, rows)
        for name, (_, moved) in others.items():
            self.beside[name].keep(plan, moved)
        self.book.add(admitted.new)
        self.book.note(events, admitted.newest)
        reason[admitted.index] = np.where(
            (serving.refused == 0) & ~np.isnan(events.factor), Reason.ADJUSTED, serving.refused
        )
        shown = events.accepted
        return Applied(
            reason=reason,
            tick=admitted.index[shown],
            quantile=serving.quantile[shown],
            events=events,
            new=admitted.new,
            walked={SERVING: serving} | {name: walked for name, (walked, _) in others.items()},
        )

    @property
    def states(self) -> dict[str, States]:
        """The states of every model by its role."""
        return {SERVING: self.serving, **self.beside}

    def take_over(self, states: dict[str, States]) -> None:
        """Let other models serve, whose states have taken in all that these have."""
        self.serving = states[SERVING]
        self.beside = {role: one for role, one in states.items() if role != SERVING}

    def _judged(self, events: Events, serving: Walked) -> Events:
        """Note what the walk made of the events."""
        taken = serving.refused == 0
        number = np.zeros(len(events), np.int64)
        number[taken] = self.book.number(events.slot[taken])
        flags = events.flags | self.marks(events.time, serving.count)
        return replace(events, refused=serving.refused, number=number, flags=flags)

    @property
    def expiry_us(self) -> int | None:
        """Time after which the model that serves is stale, microseconds since 1970; None where it never is."""
        return None if self.expires_us is None else self.session.metadata.cutoff_us + self.expires_us

    def marks(self, time: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Give what forecasts are marked with, by origin time and the ticks that their series have shown, [a]."""
        flags = np.where(count < self.burn_in, WARMING, 0)
        if (expiry := self.expiry_us) is not None:
            flags |= np.where(time > expiry, STALE, 0)
        return flags.astype(np.uint8)

    def _nothing(self, reason: NDArray[np.uint8], events: Events) -> Applied:
        """Give what a batch without an event gave."""
        none = np.empty(0, np.int64)
        around = self.serving.arena.columns["quantile"].shape
        quantile = np.empty((0, *around))
        return Applied(reason=reason, tick=none, quantile=quantile, events=events, new=[], walked={})

    def replay(self, states: States, events: Events) -> Walked:
        """Take in events once more that were judged before; each is newer than what the states hold."""
        plan = chain(events)
        walked, rows = states.walk(events, plan)
        states.keep(plan, rows)
        return walked


def chain(events: Events) -> Rounds:
    """Put events that were admitted before in rounds again."""
    series, lane = np.unique(events.slot, return_inverse=True)
    never = np.full(len(series), NEVER, np.int64)
    unknown = np.full((len(series), events.price.shape[1]), np.nan)
    plan = rounds(lane, (events.time, events.sequence), events.price, (never, never), unknown)
    assert not plan.reason.any(), "an event that was admitted lies behind another of its series"
    return replace(plan, slot=series[plan.slot])
