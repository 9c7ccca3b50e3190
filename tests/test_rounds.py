"""The order of a batch is that of a plain loop over its ticks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rounds import rounds
from pipeline.ticks import Reason

NEVER = -(2**62)
TICKS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([1.0, 2.0])), min_size=1, max_size=40)
LAST = st.lists(st.tuples(st.sampled_from([NEVER, 0, 2, 3]), st.sampled_from([1.0, 2.0])), min_size=5, max_size=5)


def loop(ticks: list[tuple[int, int, float]], last: list[tuple[int, float]]) -> tuple[list, dict, dict]:
    """Judge tick after tick: reasons, round of each accepted tick, gap of each accepted tick."""
    newest, turns = list(last), [0] * len(last)
    reasons, turn, gap = [], {}, {}
    for i, (slot, time, price) in enumerate(ticks):
        before, known = newest[slot]
        if time > before:
            reasons.append(Reason.ACCEPTED)
            turn[i], gap[i] = turns[slot], time - before
            turns[slot] += 1
            newest[slot] = (time, price)
        elif time < before:
            reasons.append(Reason.LATE)
        else:
            reasons.append(Reason.DUPLICATE if price == known else Reason.CONFLICT)
    return reasons, turn, gap


@given(TICKS, LAST)
def test_rounds_equal_a_loop_over_the_ticks(ticks: list[tuple[int, int, float]], last: list[tuple[int, float]]) -> None:
    """Reasons, rounds, gaps and the order within a series are those of a loop; a round is a prefix of the slots."""
    slot, time, price = (np.array(x) for x in zip(*ticks, strict=True))
    last_time, last_price = (np.array(x) for x in zip(*last, strict=True))
    plan = rounds(slot, time, price, last_time, last_price)
    reasons, turn, gap = loop(ticks, last)
    assert plan.reason.tolist() == reasons
    assert dict(zip(plan.tick.tolist(), plan.gap.tolist(), strict=True)) == gap
    assert list(plan.width) == sorted(plan.width, reverse=True)
    start = 0
    for k, width in enumerate(plan.width.tolist()):
        now = plan.tick[start : start + width]
        assert [turn[i] for i in now.tolist()] == [k] * width
        assert slot[now].tolist() == plan.slot[:width].tolist()
        start += width
    assert start == len(plan.tick) == len(turn)
    assert sorted(plan.slot.tolist()) == sorted({int(slot[i]) for i in turn})
