"""The order of a micro-batch: which events come too late, and which can be taken in together.

A round holds each series at most once; the events of one series keep their order. With the busiest series first,
every round is a prefix of the same list of series, so that a state is gathered once and scattered once.

Legend: k events, a of them newer than all before in their series, u series with such an event.

Comes in: columns of events. Goes out: `Rounds`. Knows numpy only; imported by book and states.
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
        0, or LATE, OUT_OF_ORDER, DUPLICATE or CONFLICT against the last key (time, sequence) of the series.
    event : int64 [a]
        The newer events, round after round.
    slot : int64 [u]
        The series, the busiest first.
    width : int64 [rounds]
        How many of `slot`, from its start, have an event in each round; falling.
    """

    reason: NDArray[np.uint8]
    event: Ints
    slot: Ints
    width: Ints


def rounds(
    slot: Ints,
    key: tuple[Ints, Ints],
    price: NDArray[np.float64],
    last_key: tuple[Ints, Ints],
    last_price: NDArray[np.float64],
) -> Rounds:
    """Order the events of a batch.

    Parameters
    ----------
    slot : int64 [k]
        Series of each event in the order of arrival; k is at least 1.
    key : int64 [k], int64 [k]
        Time and sequence.
    price : float64 [k, M]
    last_key, last_price : [capacity], [capacity, M]
        By slot, those of the last event.

    Notes
    -----
    The last event of a series opens its lane, and the lanes are laid end to end. A running maximum of (lane, key) along
    them gives at each place the event that is the newest so far.
    """
    if (once := _one_round(slot, key, last_key)) is not None:
        return once
    series, lane = np.unique(slot, return_inverse=True)
    known = len(series)
    lane = np.concatenate((np.arange(known), lane))
    order = np.argsort(lane, kind="stable")
    lane = lane[order]
    time, sequence = (np.concatenate((last[series], x))[order] for last, x in zip(last_key, key, strict=True))
    price = np.concatenate((last_price[series], price))[order]

    newer, newest = _newest(lane, _rank(time, sequence))
    reason = np.empty(len(order), dtype=np.uint8)
    reason[order] = _verdict(newer, newest, time, sequence, price)

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
        event=order[taken] - known,
        slot=series[busiest[: np.count_nonzero(count)]],
        width=np.bincount(turn[taken])[1:],
    )


def _one_round(slot: Ints, key: tuple[Ints, Ints], last_key: tuple[Ints, Ints]) -> Rounds | None:
    """Give what the lanes would come to where each series has one event and all are newer, None elsewhere."""
    order = np.argsort(slot, kind="stable")
    series = slot[order]
    (time, sequence), (last_time, last_sequence) = key, (last[slot] for last in last_key)
    newer = (time > last_time) | ((time == last_time) & (sequence > last_sequence))
    if not newer.all() or (series[1:] == series[:-1]).any():
        return None
    return Rounds(reason=np.zeros(len(slot), np.uint8), event=order, slot=series, width=np.array([len(slot)]))


def _verdict(
    newer: NDArray[np.bool_], newest: Ints, time: Ints, sequence: Ints, price: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Say what each event is against the newest before it."""
    before = price[newest]
    same = ((price == before) | (np.isnan(price) & np.isnan(before))).all(1)
    verdict = np.where(same, Reason.DUPLICATE, Reason.CONFLICT).astype(np.uint8)
    verdict[sequence < sequence[newest]] = Reason.OUT_OF_ORDER
    verdict[time < time[newest]] = Reason.LATE
    verdict[newer] = Reason.ACCEPTED
    return verdict


def _rank(time: Ints, sequence: Ints) -> Ints:
    """Rank the keys in their order, equal ones alike."""
    if not sequence.any():
        return np.unique(time, return_inverse=True)[1]
    order = np.lexsort((sequence, time))
    changes = (np.diff(time[order], prepend=time[order[0]]) != 0) | (
        np.diff(sequence[order], prepend=sequence[order[0]]) != 0
    )
    rank = np.empty(len(time), np.int64)
    rank[order] = np.cumsum(changes)
    return rank


def _newest(lane: Ints, rank: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """Tell which places are newer than all before in their lane, and where the newest so far stands."""
    places = np.arange(len(lane))
    top = np.maximum.accumulate(lane * len(lane) + rank)
    newer = np.diff(top, prepend=-1) > 0
    return newer, np.maximum.accumulate(np.where(newer, places, 0))
