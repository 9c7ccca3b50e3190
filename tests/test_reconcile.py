"""Restated prices give the states of a stream that had seen them, and touch no other series."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from disk import Fault
from kills import child
from kills import ended as exit_code
from swapping import CONFIG, ORDINARY, died, flipped, lineup, notes, restate, restated, started, take, versions
from ticking import HOUR, US, split, tick
from variants import reading

from models.errors import DataError
from pipeline.lineup import Lineup
from pipeline.opening import Opening, notes_of, open_stream
from pipeline.restating import reconcile
from pipeline.stream import Stream

OTHER = [tick("A", (int(time) - US) // HOUR, float(price)) for time, price in zip(*restated(), strict=True)]
TRUE = [OTHER[k // 3] if k % 3 == 0 else line for k, line in enumerate(ORDINARY)]
"""The lines with the restated prices in their places."""
MORE = [tick(name, hour, 70.0 + hour % 3) for hour in range(40, 50) for name in ("A", "BB", "CCC")]


def rows(stream: Stream, slot: int) -> dict[str, bytes]:
    """Give all that the models carry of a series, and how many events it has shown."""
    given = {
        f"{role}.{name}": x[slot].tobytes()
        for role, states in stream.core.states.items()
        for name, x in states.arena.arrays().items()
    }
    return given | {"shown": stream.core.book.arena["shown"][slot].tobytes()}


def true(folder: Path, lines: list[bytes] = TRUE, first: Lineup | None = None) -> Stream:
    """Open a stream that saw the restated prices when they came."""
    folder.mkdir()
    stream = started(folder, first=first)
    take(stream, lines)
    return stream


@pytest.mark.parametrize("version", [1, 2])
def test_the_states_are_those_of_a_stream_that_had_seen_the_prices(version: int, tmp_path: Path) -> None:
    """Of the model that serves and of those beside it; other series keep every bit, and forecasts go on alike."""
    one, other = started(tmp_path, first=lineup(version)), true(tmp_path / "true", first=lineup(version))
    take(one, ORDINARY)
    before = [rows(one, slot) for slot in (1, 2)]
    assert rows(one, 0) != rows(other, 0)
    assert reconcile(one, {"A": restated()}) == {"A": 40}
    assert [rows(one, slot) for slot in (1, 2)] == before
    assert rows(one, 0) == rows(other, 0)
    lengths = [(tmp_path / name / "out.jsonl").stat().st_size for name in (".", "true")]
    for stream in (one, other):
        take(stream, MORE, 120)
        stream.close()
    given = [(tmp_path / name / "out.jsonl").read_bytes()[n:] for name, n in zip((".", "true"), lengths, strict=True)]
    assert given[0] == given[1]
    assert notes(tmp_path, "reconciled") == [{"kind": "reconciled", "series": {"A": 40}, "lines": 120}]


def test_prices_after_the_last_tick_and_holes_are_left_out(tmp_path: Path) -> None:
    """The store may know more than the stream has seen; the next ticks are taken as they come."""
    stream = started(tmp_path)
    take(stream, ORDINARY)
    time, price = restated()
    time, price = np.append(time, US + np.arange(40, 45) * HOUR), np.append(price, [1.0] * 5)
    price[3] = np.nan
    assert reconcile(stream, {"A": (time, price)}) == {"A": 39}
    take(stream, [tick("A", 40, 51.0)], 120)
    assert stream.head.counts["accepted"] == 121
    stream.close()


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_and_a_swap_go_on_from_the_restated_prices(kill: bool, tmp_path: Path) -> None:
    """The journal, and the history from which a new model is warmed, hold the restated prices; also after a kill."""
    one, other = started(tmp_path), true(tmp_path / "true")
    take(one, ORDINARY)
    reconcile(one, {"A": restated()})
    died(one) if kill else one.close()
    one = started(tmp_path)
    assert one.stepped == 0
    assert rows(one, 0) == rows(other, 0)
    for stream in (one, other):
        stream.announce(lineup(2))
        flipped(stream)
    for slot in range(3):
        assert rows(one, slot) == rows(other, slot)
    for stream in (one, other):
        take(stream, MORE, 120)
    died(one)
    one = started(tmp_path)
    for slot in range(3):
        assert rows(one, slot) == rows(other, slot)
    assert set(versions((tmp_path / "out.jsonl").read_bytes()).tolist()) == {1, 2}
    one.close()
    other.close()


def test_a_kill_in_the_midst_leaves_what_was_and_again_works(tmp_path: Path) -> None:
    """Dead before or within each call to the disk: all series as before or all as restated; the second try succeeds."""
    base, first = tmp_path / "base", tmp_path / "first"
    stream = true(base, ORDINARY)
    before = [rows(stream, slot) for slot in range(3)]
    died(stream)
    other = true(tmp_path / "true")
    after = [rows(other, 0), *before[1:]]
    other.close()
    shutil.copytree(base, first)
    assert exit_code(child(first, Fault(10**9, "kill"), be=restate)) == 0
    calls, met = int((first / "calls").read_text()), set()
    for at in range(calls):
        folder = tmp_path / str(at)
        shutil.copytree(base, folder)
        assert exit_code(child(folder, Fault(at, ("kill", "torn")[at % 2]), be=restate)) == -signal.SIGKILL
        stream = started(folder)
        found = [rows(stream, slot) for slot in range(3)]
        assert found in (before, after)
        met.add(found == after)
        reconcile(stream, {"A": restated()})
        stream.announce(lineup(2))
        flipped(stream)
        assert [rows(stream, slot)["shown"] for slot in range(3)] == [x["shown"] for x in after]
        stream.close()
        shutil.rmtree(folder)
    assert met == {False, True}


def test_an_output_that_lags_is_completed_afterwards(tmp_path: Path) -> None:
    """Reconciling opens no file of forecasts, and the journal keeps what that file may not have had yet."""
    stream = started(tmp_path)
    take(stream, ORDINARY[:100])
    take(stream, ORDINARY[100:], 100)
    died(stream)
    whole = (tmp_path / "out.jsonl").read_bytes()
    os.truncate(tmp_path / "out.jsonl", len(whole) - 5000)
    alone = open_stream(Opening(journal=tmp_path / "journal", told=notes_of(tmp_path / "journal")), CONFIG)
    reconcile(alone, {"A": restated()})
    alone.close()
    again = started(tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    again.close()


def test_adjustments_are_restated_with_the_prices(tmp_path: Path) -> None:
    """A series with a split in its past begins again from prices that are all of today's kind."""
    stream = started(tmp_path)
    take(stream, [tick("A", hour, 100.0) for hour in range(20)] + [split("A", 19.5)] + [tick("A", 20, 50.0)])
    assert reconcile(stream, {"A": (US + np.arange(21) * HOUR, np.full(21, 50.0))}) == {"A": 21}
    other = true(tmp_path / "true", [tick("A", hour, 50.0) for hour in range(21)])
    assert rows(stream, 0) == rows(other, 0)
    for one in (stream, other):
        one.close()


def test_what_cannot_be_restated_is_refused(tmp_path: Path) -> None:
    """Unknown series, series without prices, and ticks with more than a price are told, and nothing has changed."""
    stream = started(tmp_path)
    take(stream, ORDINARY)
    before = [rows(stream, slot) for slot in range(3)]
    none = np.empty(0, np.int64), np.empty(0)
    for wanted in ({"A": restated(), "never": restated()}, {"BB": none}):
        with pytest.raises(DataError, match="carries no such series, or the store has no prices"):
            reconcile(stream, wanted)
    assert [rows(stream, slot) for slot in range(3)] == before
    stream.close()
    beside = Stream(Lineup(serving=reading()), replace(CONFIG, history=0))
    with pytest.raises(DataError, match="hold blocks or covariates"):
        reconcile(beside, {"A": restated()})
