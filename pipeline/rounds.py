"""The order of a micro-batch: which ticks come too late, and which can be taken in together.

A round holds each series at most once; the ticks of one series keep their order. With the busiest series first,
every round is a prefix of the same list of series, so that a state is gathered once and scattered once.

Legend: k ticks, a of them accepted, u series with an accepted tick.

Comes in: columns of ticks. Goes out: `Rounds`. Knows numpy only; imported by states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.ticks import Reason

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What to take in, and when.

    Attributes
    ----------
    reason : uint8 [k]
        0, or LATE, DUPLICATE or CONFLICT against the last accepted tick of the series.
    tick : int64 [a]
        The accepted ticks, round after round.
    gap : int64 [a]
        Microseconds since the last accepted tick of the series.
    slot : int64 [u]
        The series, the busiest first.
    width : int64 [rounds]
        How many of `slot`, from its start, have a tick in each round; falling.
    """

    reason: NDArray[np.uint8]
    tick: Ints
    gap: Ints
    slot: Ints
    width: Ints


def rounds(
    slot: Ints, time: Ints, price: NDArray[np.float64], last_time: Ints, last_price: NDArray[np.float64]
) -> Rounds:
    """Order the ticks of a batch.

    Parameters
    ----------
    slot, time, price : [k]
        Series, moment and price of each tick in the order of arrival; k is at least 1.
    last_time, last_price : [capacity]
        By slot, those of the last accepted tick.

    Notes
    -----
    The last accepted tick of a series opens its lane, and the lanes are laid end to end. A running maximum of
    (lane, time) along them gives at each place the tick that is the newest so far.
    """
    series, lane = np.unique(slot, return_inverse=True)
    known = len(series)
    lane = np.concatenate((np.arange(known), lane))
    order = np.argsort(lane, kind="stable")
    lane = lane[order]
    time = np.concatenate((last_time[series], time))[order]
    price = np.concatenate((last_price[series], price))[order]

    newer, newest = _newest(lane, time)
    verdict = np.where(price == price[newest], Reason.DUPLICATE, Reason.CONFLICT)
    verdict[time < time[newest]] = Reason.LATE
    verdict[newer] = Reason.ACCEPTED
    reason = np.empty(len(order), dtype=np.uint8)
    reason[order] = verdict

    opens = np.flatnonzero(order < known)
    turn = np.cumsum(newer, dtype=np.int64)
    turn = turn - turn[opens][lane]
    count = turn[np.append(opens[1:], len(turn)) - 1]
    busiest = np.argsort(-count, kind="stable")
    place = np.empty(known, dtype=np.int64)
    place[busiest] = np.arange(known)

    taken = np.flatnonzero(newer & (order >= known))
    taken = taken[np.lexsort((place[lane[taken]], turn[taken]))]
    return Rounds(
        reason=reason[known:],
        tick=order[taken] - known,
        gap=time[taken] - time[newest[taken - 1]],
        slot=series[busiest[: np.count_nonzero(count)]],
        width=np.bincount(turn[taken])[1:],
    )


def _newest(lane: Ints, time: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Tell which places are newer than all before in their lane, and where the newest so far stands."""
    places = np.arange(len(lane))
    rank = np.unique(time, return_inverse=True)[1]
    top = np.maximum.accumulate(lane * len(lane) + rank)
    newer = np.diff(top, prepend=-1) > 0
    return newer, np.maximum.accumulate(np.where(newer, places, 0))
