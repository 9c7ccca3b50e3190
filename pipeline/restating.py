"""States of restated series, computed anew from their prices.

Comes in: a stream that rests, and prices as they are known now. Goes out: its states and history as if it had seen
those. Imported by the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from pipeline.events import Events
from pipeline.stream import Stream

Prices = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Times in microseconds since 1970, ascending, and prices."""


def reconcile(stream: Stream, restated: Mapping[str, Prices]) -> dict[str, int]:
    """Compute the states of series anew, up to the last tick of each; other series keep every bit.

    Parameters
    ----------
    stream : Stream
    restated : mapping of (int64 [n], float64 [n])
        By series.

    Returns
    -------
    dict of int
        Prices that each series' states have taken in.

    Raises
    ------
    DataError
        A series is not carried or has no prices, or ticks hold more than a price each.
    """
    if stream.core.layout.block > 1 or stream.core.layout.beside:
        raise DataError("reconcile: expected ticks of one price alone, but these hold blocks or covariates")
    for name, (_, price) in restated.items():
        if stream.core.book.slot(name) is None or len(price) == 0:
            raise DataError(f"reconcile {name}: the stream carries no such series, or the store has no prices of it")
    # nothing that the journal would step again, or write to the history again, may lie before the new states; it stays
    # there for the sake of outputs, which may not have had it yet and are not open now
    stream.rest(forget=False)
    taken = {name: _renewed(stream, name, prices) for name, prices in restated.items()}
    stream.history.flush()
    stream.head = replace(stream.head, ring=stream.head.batch + 1)
    stream.note({"kind": "reconciled", "series": taken}, everything=True)
    return taken


def _renewed(stream: Stream, name: str, prices: Prices) -> int:
    """Let a series begin again and take in its prices; gives how many."""
    core, (time, price) = stream.core, prices
    slot = core.book.slot(name)
    assert slot is not None
    known = (time <= core.book.arena["time"][slot]) & np.isfinite(price)
    events = Events.of_series(slot, time[known], price[known], core.layout)
    for states in core.states.values():
        states.renew(slot, name)
        for start in range(0, len(events), stream.config.batch):
            core.replay(states, events.take(slice(start, start + stream.config.batch)))
    core.book.arena["shown"][slot] = len(events)
    core.book.arena["accepted_sequence"][slot] = core.book.arena["fallback"][slot] = 0
    stream.history.write(events)
    stream.ledger.touch(np.array([slot]), stream.head.batch + 1)
    return len(events)
