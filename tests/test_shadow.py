"""The states of a new lineup depend on where it was announced, and on nothing of how they got to the present."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swapping import CONFIG, Ended, Move, W, died, ended, flipped, lineup, moves, quiet, started, take, with_history
from ticking import feed, split, tick
from variants import blocks, reading

from models.errors import IntegrityError, ModelError
from pipeline.events import Events
from pipeline.lineup import SERVING, Lineup
from pipeline.rules import RuleConfig
from pipeline.shadow import TOGETHER
from pipeline.stream import Stream
from pipeline.stream_core import Core
from pipeline.ticks import parser


def walks(count: int, seed: int = 0) -> list[bytes]:
    """Give lines with faults, splits and sequences, none of them blank."""
    return [line for line in feed(count, seed).split(b"\n") if line.strip()]


def portioned(folder: Path, lines: list[bytes], announced: int, rng: random.Random, most: int = 12) -> Ended:
    """Swap once so many lines are taken in, with batches and slices of warming as chance has it."""
    stream, at = started(folder), 0
    while at < len(lines) or stream.head.version == 1:
        if at >= announced and stream.head.version == 1:
            if stream.status()["swap"] is None:
                stream.announce(lineup(2))
            for _ in range(rng.choice([0, 1, 2, 20])):
                try:
                    if stream.warm(0.0) and rng.random() < 0.5:
                        stream.flip()
                        break
                except IntegrityError:  # ticks came faster than it was warmed
                    stream.announce(lineup(2))
        until = at + rng.randint(1, most)
        take(stream, lines[at:until], at)
        at = min(until, len(lines))
    return ended(stream, folder)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(0, 130))
def test_portions_of_warming_do_not_show(seed: int, announced: int) -> None:
    """Forecasts, states, book and scores are the bits of a run that warms at one go, however slices and ticks mix."""
    lines = walks(140, seed)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ended = portioned(Path(one), lines, announced, random.Random(seed))
        assert ended == quiet(Path(other), lines, moves(Path(one)))


def by_hand(lines: list[bytes], announced: int, served: int) -> dict[str, bytes]:
    """Step the new models over the last W events that each series had shown, and those after them."""
    lineup_ = lineup(2)
    core = Core(lineup(1).sessions[SERVING], max_series=64, rules=CONFIG.rules, burn_in=CONFIG.burn_in)
    before = core.apply(parser(b"{}")(lines[:announced])).events
    begin = Counter({slot: int(before.number[before.slot == slot].max()) - W for slot in set(before.slot.tolist())})
    after = core.apply(parser(b"{}")(lines[announced:served])).events
    events = Events.joined([before, after])
    events = events.take(events.number > np.array([max(begin[slot], 0) for slot in events.slot.tolist()], np.int64))
    fresh = Core(
        lineup_.sessions[SERVING], max_series=64, beside={"last": lineup_.sessions["last"]}, layout=core.layout
    )
    for states in fresh.states.values():
        states.seat(core.book.names)
        if len(events):
            fresh.replay(states, events)
    return {
        f"{role}.{name}": np.ascontiguousarray(x).tobytes()
        for role, states in fresh.states.items()
        for name, x in states.arena.arrays().items()
    }


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(0, 120), st.integers(0, 40))
def test_the_new_states_are_those_of_the_last_events(seed: int, announced: int, more: int) -> None:
    """They are what the new models give over each series' last W events and all after them, adjustments among them."""
    lines, served = walks(160, seed), announced + more
    with tempfile.TemporaryDirectory() as folder:
        left = quiet(Path(folder), lines[:served], [Move(version=2, announced=announced, served=served)])
    expected = by_hand(lines, announced, served)
    assert {name: data for name, data in left.kept.items() if name in expected} == expected


def test_several_groups_of_series_catch_up(tmp_path: Path) -> None:
    """With more series than are stepped together, and new ones while warming, all states are those of a quiet run."""
    rng = random.Random(3)
    names = [f"S{i}" for i in range(2600)]
    lines = [tick(name, hour) for hour in range(3) for name in names[:1500]]
    lines += [tick(rng.choice(names), 4 + i // 100, 100 + rng.random()) for i in range(3000)]
    ended = portioned(tmp_path, lines, 4600, rng, most=400)
    (move,) = moves(tmp_path)
    assert move.announced < move.served
    assert len(ended.kept["serving.row"]) > 8 * 2 * TOGETHER
    (tmp_path / "quiet").mkdir()
    assert ended == quiet(tmp_path / "quiet", lines, [move])


@pytest.fixture
def opened(tmp_path: Path) -> Stream:
    """A stream under version 1."""
    return started(tmp_path)


@pytest.mark.parametrize("shown", [0, 1, W - 1, W, W + 1, 3 * W])
def test_a_series_is_warmed_from_what_there_is(shown: int, opened: Stream) -> None:
    """From no tick to more than W: the new model has taken in so many, and W at most."""
    take(opened, [tick("A", i) for i in range(shown)] + [tick("B")])
    opened.announce(lineup(2))
    flipped(opened)
    assert opened.core.serving.arena["count"][: len(opened.core.book)].tolist() == (
        [min(shown, W)] if shown else []
    ) + [1]
    opened.close()


def test_a_series_that_appears_while_warming_is_warmed_from_its_first_tick(opened: Stream) -> None:
    """Its states hold all that it has shown, as if the new models had been there."""
    take(opened, [tick("A", i) for i in range(5)])
    opened.announce(lineup(2))
    opened.warm(0.0)
    take(opened, [tick("new", i) for i in range(3)])
    assert not opened.warm(0.0)
    flipped(opened)
    assert opened.core.serving.arena["count"][:2].tolist() == [5, 3]
    opened.close()


def test_a_flip_waits_for_every_series(opened: Stream) -> None:
    """A tick after the states had caught up puts them behind again, and the status says how far."""
    take(opened, [tick("A", i) for i in range(5)])
    opened.announce(lineup(2))
    assert opened.warm(10.0)
    assert opened.status()["swap"] == {"version": 2, "events_to_warm": 0}
    take(opened, [tick("A", 5)])
    assert opened.status()["swap"] == {"version": 2, "events_to_warm": 1}
    with pytest.raises(AssertionError):
        opened.flip()
    flipped(opened)
    assert opened.status()["swap"] is None
    opened.close()


def test_a_series_that_outruns_its_history_is_announced_again(opened: Stream) -> None:
    """More ticks than the ring holds before the warming began end it with an error; announced anew it succeeds."""
    take(opened, [tick("A", i) for i in range(W)])
    opened.announce(lineup(2))
    take(opened, [tick("A", i) for i in range(W, 4 * W)])
    with pytest.raises(IntegrityError, match="is not there or is damaged"):
        opened.warm(10.0)
    assert not opened.broken
    opened.announce(lineup(2))
    flipped(opened)
    assert opened.core.serving.arena["count"][0] == W
    opened.close()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("jumped", ["before", "while"])
def test_a_jump_that_waits_is_confirmed_after_the_flip(jumped: str, dies: bool, tmp_path: Path) -> None:
    """A refused tick is in no history, yet the next one is held against it, in memory as after a restart."""
    config = replace(CONFIG, rules=RuleConfig(jump="hold", jump_scales=5.0))
    stream = started(tmp_path, config)
    take(stream, [tick("A", hour, 100.0 + hour % 3) for hour in range(20)])
    jump = [tick("A", 20, 1000.0), split("A", 20.5)]
    take(stream, jump if jumped == "before" else [], 20)
    stream.announce(lineup(2))
    stream.warm(10.0)
    take(stream, jump[:1] if jumped == "while" else [], 20)
    flipped(stream)
    if dies:
        died(stream)
        stream = started(tmp_path, config)
    take(stream, [tick("A", 21, 501.0 if jumped == "before" else 1001.0)], 22)
    assert stream.head.counts == {"accepted": 21, "jump": 1} | ({"adjusted": 1} if jumped == "before" else {})
    stream.close()


def test_adjustments_in_the_history_move_the_new_states(tmp_path: Path) -> None:
    """After a split a model that sees returns, warmed over it, forecasts as if prices had always been the new ones."""
    given = []
    for name, lines in {
        "split": [tick("A", i, 100.0 + i) for i in range(4)] + [split("A", 3.5)] + [tick("A", 4, 52.0)],
        "plain": [tick("A", i, (100.0 + i) / 2) for i in range(4)] + [tick("A", 4, 52.0)],
    }.items():
        (tmp_path / name).mkdir()
        stream = started(tmp_path / name)
        take(stream, lines)
        stream.announce(lineup(2))
        flipped(stream)
        given.append(stream.core.serving.arena["quantile"][0].copy())
        stream.close()
    np.testing.assert_allclose(given[0], given[1], rtol=1e-12)


@pytest.mark.parametrize("between", [0, 3])
def test_without_a_history_the_new_states_begin_cold(between: int, tmp_path: Path) -> None:
    """Ticks before the flip leave no trace, also those of new series, and a restart gives the same states."""
    stream = started(tmp_path, with_history(0))
    take(stream, [tick("A", i) for i in range(5)])
    stream.announce(lineup(2))
    assert stream.warm(0.0)
    for i in range(between):
        take(stream, [tick("A", 5 + i), tick(f"new{i}", i)])
    flipped(stream)
    assert stream.core.serving.arena["count"][: 1 + between].tolist() == [0] * (1 + between)
    assert stream.latest("A") is None
    take(stream, [tick("A", 9)])
    before = dict(stream.core.serving.arena.arrays())
    died(stream)
    again = started(tmp_path, with_history(0))
    for name, x in again.core.serving.arena.arrays().items():
        assert x.tobytes() == before[name].tobytes(), name
    assert again.core.serving.arena["count"][0] == 1
    again.close()


@pytest.mark.parametrize("other", [reading, blocks, lambda: b"no model"])
def test_models_that_ticks_cannot_feed_are_refused(other: Callable[[], bytes], opened: Stream) -> None:
    """What lacks covariates, takes blocks, or is no model is refused at the announcement, and the old one goes on."""
    take(opened, [tick("A")])
    with pytest.raises(ModelError):
        opened.announce(Lineup(version=2, serving=other()))
    assert not opened.broken
    take(opened, [tick("A", 1)])
    assert opened.status()["swap"] is None
    assert opened.head.version == 1
    opened.close()
