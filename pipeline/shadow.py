"""The states of a new lineup, warmed from the history of every series while another one serves.

Where each series begins is fixed when the shadow is made: at the last W of the events that it had shown by then. What
the states are when all of them have caught up does not depend on when or in what portions that was done.

Comes in: a lineup, the core that serves, the history. Goes out: states of the new models. Imported by stream.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from pipeline.arena import PAGE
from pipeline.events import Events
from pipeline.history import History
from pipeline.lineup import Lineup
from pipeline.rounds import Rounds
from pipeline.states import States
from pipeline.stream_core import Core

TOGETHER = 4 * PAGE
"""Series that are stepped together."""

_UNBEGUN = -1
"""Events in the states of a series whose page has not been given yet."""


class Shadow:
    """States of a lineup on their way to the present.

    Parameters
    ----------
    lineup : Lineup
    core : Core
        What serves; its book says what each series has shown.
    history : History

    Raises
    ------
    ModelError
        A model needs more than ticks hold.
    """

    def __init__(self, lineup: Lineup, core: Core, history: History) -> None:
        self.lineup, self._core, self._history = lineup, core, history
        self.states = {
            role: States(session, core.layout, core.book.max_series) for role, session in lineup.sessions.items()
        }
        self._seat()
        shown = self._shown()
        self._done = np.where((history.length > 0) & (history.length < shown), shown - history.length, _UNBEGUN)
        self._first = 0

    @property
    def lag(self) -> int:
        """Events that are still to be taken in; 0 when every series has caught up."""
        return int((self._shown() - self._caught()).sum())

    def advance(self, seconds: float) -> NDArray[np.int64]:
        """Step on for about so long, group after group of series.

        Returns
        -------
        slot : int64
            Series of the groups that have caught up on the way.

        Raises
        ------
        IntegrityError
            A series has moved on faster than its history reaches, or the history is damaged.
        """
        until = time.perf_counter() + seconds
        ready: list[NDArray[np.int64]] = []
        shown, count = self._shown(), len(self._core.book)
        for _ in range(-(-count // TOGETHER)):
            group = np.arange(self._first, min(self._first + TOGETHER, count))
            if (self._caught()[group] < shown[group]).any():
                if not self._catch_up(group, shown, until):
                    break
                self.hold(group)
                ready.append(group)
            self._first = (self._first + TOGETHER) % max(count, 1) if self._first + TOGETHER < count else 0
        return np.concatenate(ready) if ready else np.empty(0, np.int64)

    def hold(self, slot: NDArray[np.int64] | slice) -> None:
        """Let the new states hold the prices that wait to be confirmed: refused events, which the history has not."""
        for states in self.states.values():
            states.arena["held"][slot] = self._core.serving.arena["held"][slot]

    def _catch_up(self, group: NDArray[np.int64], shown: NDArray[np.int64], until: float) -> bool:
        """Step a group on, an event of each series at a time and one at least; False where the time is over first."""
        if not self._history.length:  # nothing to warm from: the states begin with the first tick after the flip
            self._done[group] = shown[group]
            return True
        self._done[group] = np.maximum(self._done[group], 0)
        behind = group[self._done[group] < shown[group]]
        while len(behind):
            self._step(self._history.read(behind, self._done[behind] + 1))
            self._done[behind] += 1
            behind = group[self._done[group] < shown[group]]
            if len(behind) and time.perf_counter() > until:
                return False
        return True

    def _step(self, events: Events) -> None:
        """Take in one event of each series."""
        order = np.arange(len(events))
        plan = Rounds(
            reason=np.zeros(len(events), np.uint8), event=order, slot=events.slot, width=np.array([len(events)])
        )
        for states in self.states.values():
            _, rows = states.walk(events, plan)
            states.keep(plan, rows)

    def _seat(self) -> None:
        """Give rows to series that have appeared."""
        names = self._core.book.names
        for states in self.states.values():
            states.seat(names[states.arena.used :], states.arena.used)

    def _shown(self) -> NDArray[np.int64]:
        return self._core.book.arena["shown"][: len(self._core.book)]

    def _caught(self) -> NDArray[np.int64]:
        """How many events of each series are in the states."""
        count = len(self._core.book)
        if len(self._done) < count:
            self._seat()
            self._done = np.append(self._done, np.full(count - len(self._done), _UNBEGUN))
        return self._done
