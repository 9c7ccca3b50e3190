"""The order of a batch is that of a plain loop over its events."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rounds import rounds
from pipeline.ticks import Reason

NEVER = -(2**62)
SEQUENCES = st.sampled_from([-1, 0, 0, 1, 2**62 - 1])
PRICES = st.sampled_from([(1.0, 2.0), (1.0, 2.5), (1.0, math.nan), (math.nan, math.nan)])
Event = tuple[int, int, int, tuple[float, float]]
Key = tuple[int, int, tuple[float, float]]
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), SEQUENCES, PRICES), min_size=1, max_size=40)
LAST = st.lists(st.tuples(st.sampled_from([NEVER, 0, 2, 3]), SEQUENCES, PRICES), min_size=5, max_size=5)


def loop(events: list[Event], last: list[Key]) -> tuple[list[Reason], dict[int, int]]:
    """Judge event after event: reasons, and the round of each newer one."""
    newest, turns = list(last), [0] * len(last)
    reasons, turn = [], {}
    for i, (slot, time, sequence, price) in enumerate(events):
        then, before, known = newest[slot]
        if (time, sequence) > (then, before):
            reasons.append(Reason.ACCEPTED)
            turn[i] = turns[slot]
            turns[slot] += 1
            newest[slot] = (time, sequence, price)
        elif time < then:
            reasons.append(Reason.LATE)
        elif sequence < before:
            reasons.append(Reason.OUT_OF_ORDER)
        else:
            alike = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(price, known, strict=True))
            reasons.append(Reason.DUPLICATE if alike else Reason.CONFLICT)
    return reasons, turn


@given(EVENTS, LAST)
def test_rounds_equal_a_loop_over_the_events(events: list[Event], last: list[Key]) -> None:
    """Reasons, rounds and the order within a series are those of a loop; a round is a prefix of the slots."""
    slot, time, sequence, price = (np.array(x) for x in zip(*events, strict=True))
    last_time, last_sequence, last_price = (np.array(x) for x in zip(*last, strict=True))
    plan = rounds(slot, (time, sequence), price, (last_time, last_sequence), last_price)
    reasons, turn = loop(events, last)
    assert plan.reason.tolist() == reasons
    assert list(plan.width) == sorted(plan.width, reverse=True)
    start = 0
    for k, width in enumerate(plan.width.tolist()):
        now = plan.event[start : start + width]
        assert [turn[i] for i in now.tolist()] == [k] * width
        assert slot[now].tolist() == plan.slot[:width].tolist()
        start += width
    assert start == len(plan.event) == len(turn)
    assert sorted(plan.slot.tolist()) == sorted({int(slot[i]) for i in turn})


@given(EVENTS, LAST, st.integers(1, 39))
def test_a_batch_that_is_cut_gives_the_same_reasons(events: list[Event], last: list[Key], cut: int) -> None:
    """Where the second part is held against the last keys of the first, nothing is judged otherwise."""
    whole, _ = loop(events, last)
    newest, reasons = list(last), []
    for part in (events[:cut], events[cut:]):
        if part:
            slot, time, sequence, price = (np.array(x) for x in zip(*part, strict=True))
            last_time, last_sequence, last_price = (np.array(x) for x in zip(*newest, strict=True))
            plan = rounds(slot, (time, sequence), price, (last_time, last_sequence), last_price)
            reasons += plan.reason.tolist()
            for i in plan.event.tolist():
                newest[part[i][0]] = part[i][1:]
    assert reasons == whole
