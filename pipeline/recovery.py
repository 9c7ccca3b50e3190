"""From a journal back to the moment of its last batch.

Pages of states are loaded, each exact as of a batch of its own; of every later batch only the events of pages that lie
before it are stepped again. What is computed again must be what was journaled, to the bit; elsewhere than where it was
made (`rebase`), the largest difference is told instead.

Comes in: an open journal and the models of its version. Goes out: the core as it was, and what the outputs lack.
Imported by stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError
from models.observation import LEVELS
from pipeline.arena import PAGE, Arena
from pipeline.book import NEVER
from pipeline.events import Events
from pipeline.head import Head
from pipeline.history import History
from pipeline.journal import Batch, Journal
from pipeline.lineup import SERVING
from pipeline.rendering import forecasts, notes
from pipeline.states import States
from pipeline.stream_core import Core

BOOK = 0
"""Number under which the journal keeps the arena of the book; models have numbers from 1."""

GREETING = 1
"""Number of the first batch, which holds the states that a stream began with."""

TOGETHER = 4096
"""Events that are stepped again together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovered:
    """Where a recovery ended.

    Attributes
    ----------
    head : Head
        Of the last batch.
    stepped : int
        Events that were stepped again.
    difference : float
        Largest relative difference between a quantile and its journaled value; 0 where every bit is the same.
    dirty : dict of (int to int)
        By owner, pages that differ from what is on disk, with the first batch that changed each.
    """

    head: Head
    stepped: int
    difference: float
    dirty: dict[int, dict[int, int]]


def recover(journal: Journal, core: Core, history: History, owners: dict[str, int], *, exact: bool) -> Recovered:
    """Bring a fresh core to the state of the journal's last batch.

    Parameters
    ----------
    journal : Journal
    core : Core
        Of the models of the journal's version, with no series yet.
    history : History
        Gets the events again that the journal still holds.
    owners : dict of int
        Number of each model by role.
    exact : bool
        Refuse other bits than those journaled.

    Raises
    ------
    IntegrityError
        Rows are damaged or missing, or the states do not give the forecasts that were journaled.
    ConfigError
        The journal carries more series than there is room for.
    """
    first, last = journal.span()
    if last == 0:
        raise IntegrityError(f"journal {journal.path}: it holds no batch. Restore it from a backup")
    series = journal.series()
    if len(series) > core.book.max_series:
        raise ConfigError(
            f"stream.max_series is {core.book.max_series}, but journal {journal.path} carries {len(series)} series. "
            "Set it to that or more"
        )
    core.book.add(name for name, _ in series)
    states = {owners[SERVING]: core.serving} | {owners[name]: s for name, s in core.beside.items()}
    for one in states.values():
        one.seat(core.book.names)
    pages = max(1, -(-len(series) // PAGE))
    as_of = {owner: np.zeros(pages, np.int64) for owner in (BOOK, *states)}
    for owner, arena in [(BOOK, core.book.arena), *((o, s.arena) for o, s in states.items())]:
        _load(journal, owner, arena, as_of[owner])
        _check_seen(journal, series, as_of[owner], first)
    redo = _Redo(core, history, states, as_of, owners[SERVING], Head(**journal.last().head))
    head = Head()
    for kept in journal.batches(first - 1):
        head = Head(**kept.head)
        redo.batch(kept, head, Events.from_bytes(kept.events, head.events, core.layout))
    redo.flush()
    core.book.newest = head.newest
    if exact and redo.difference > 0:
        raise IntegrityError(
            f"journal {journal.path}: its states do not give the forecasts again that were journaled (largest "
            f"relative difference {redo.difference:.3g}). It is damaged, or this machine rounds otherwise: restore a "
            "backup, or go on with --rebase"
        )
    if head.series != len(series):
        raise IntegrityError(f"journal {journal.path}: {len(series)} series instead of {head.series}. Restore a backup")
    return Recovered(head=head, stepped=redo.stepped, difference=redo.difference, dirty=redo.dirty)


def kept_output(journal: Journal, core: Core, which: str, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Give what the journal holds of an output (out, dead or note), (start, bytes) for each batch after one."""
    for batch in journal.batches(after):
        head = Head(**batch.head)
        if which == "dead":
            data = batch.dead
        elif which == "note":
            data = notes(head.notes)
        else:
            events = Events.from_bytes(batch.events, head.events, core.layout)
            rows = events.take(events.accepted)
            data = b"".join(forecasts(core.book.names, rows, _quantile(batch, events), head.label))
        yield getattr(head, f"{which}_bytes") - len(data), data


def _quantile(batch: Batch, events: Events) -> NDArray[np.float64]:
    """Give the journaled quantiles of the accepted ticks, [a, S, M, Q]."""
    count = int(events.accepted.sum())
    flat = np.frombuffer(batch.forecasts)
    block = events.price.shape[1]
    return flat.reshape(count, -1, block, len(LEVELS)) if count else np.empty((0, 1, block, len(LEVELS)))


def _load(journal: Journal, owner: int, arena: Arena, as_of: NDArray[np.int64]) -> None:
    """Read the pages of one owner."""
    for number, batch, data in journal.pages(owner):
        if number >= len(as_of):
            raise IntegrityError(
                f"journal {journal.path}: page {number} of series that are not there. Restore a backup"
            )
        arena.load(number, data)
        as_of[number] = batch


def _check_seen(journal: Journal, series: list[tuple[str, int]], as_of: NDArray[np.int64], first: int) -> None:
    """Refuse a journal that lacks the page of a series whose first batches are gone, or that began warm."""
    begun = np.array([batch for _, batch in series], np.int64)
    lost = np.flatnonzero((begun < max(first, GREETING + 1)) & (as_of[np.arange(len(begun)) // PAGE] == 0))
    if len(lost):
        raise IntegrityError(
            f"journal {journal.path}: the states of series {series[int(lost[0])][0]} are missing. Restore a backup"
        )


class _Redo:
    """Steps what is newer than the pages, some thousand events at a time."""

    def __init__(
        self,
        core: Core,
        history: History,
        states: dict[int, States],
        as_of: dict[int, NDArray[np.int64]],
        serving: int,
        last: Head,
    ) -> None:
        self.core, self.history, self.states, self.as_of, self.serving = core, history, states, as_of, serving
        self.stepped, self.difference = 0, 0.0
        self.dirty: dict[int, dict[int, int]] = {owner: {} for owner in as_of}
        self._last = last
        self._waiting: list[tuple[Events, NDArray[np.int64], NDArray[np.float64]]] = []
        self._newest = NEVER

    def batch(self, batch: Batch, head: Head, events: Events) -> None:
        """Take in the events of a batch wherever a page does not hold them yet."""
        self._newest = head.newest
        if len(events) == 0:
            return
        journaled = np.full((len(events), *self.core.serving.arena.columns["quantile"].shape), np.nan)
        if head.version == self._last.version:
            journaled[events.accepted] = _quantile(batch, events)
        self._waiting.append((events, np.full(len(events), batch.id), journaled))
        if sum(len(e) for e, _, _ in self._waiting) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Step what is waiting."""
        if not self._waiting:
            return
        events = Events.joined([e for e, _, _ in self._waiting])
        number = np.concatenate([n for _, n, _ in self._waiting])
        journaled = np.concatenate([q for _, _, q in self._waiting])
        self._waiting = []
        self.history.write(events.take(number >= self._last.ring))
        page = events.slot // PAGE
        for owner, as_of in self.as_of.items():
            newer = as_of[page] < number
            if not newer.any():
                continue
            sub = events.take(newer)
            for one, since in zip(page[newer].tolist(), number[newer].tolist(), strict=True):
                self.dirty[owner].setdefault(one, since)
            if owner == BOOK:
                self.core.book.note(sub, self._newest)
                continue
            walked = self.core.replay(self.states[owner], sub)
            if owner == self.serving:
                self.stepped += len(sub)
                self._compare(walked.quantile[sub.accepted], journaled[newer][sub.accepted])

    def _compare(self, again: NDArray[np.float64], journaled: NDArray[np.float64]) -> None:
        """Note how far two sets of quantiles are apart; rows that another model forecast are NaN and not compared."""
        mine = ~np.isnan(journaled).all((1, 2, 3)) | np.isnan(again).all((1, 2, 3))
        again, journaled = again[mine], journaled[mine]
        if again.tobytes() == journaled.tobytes():
            return
        distance = np.abs(again - journaled) / np.maximum(np.abs(journaled), np.finfo(float).tiny)
        worst = np.nanmax(np.where(np.isnan(again) == np.isnan(journaled), distance, np.inf), initial=0.0)
        self.difference = max(self.difference, float(worst), float(np.finfo(float).eps))
