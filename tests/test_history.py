"""The ring gives back the last events of every series, and nothing that it does not hold."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ticking import HOUR, US

from models.errors import DataError, IntegrityError
from pipeline.arena import PAGE
from pipeline.events import Events
from pipeline.history import SLACK, History
from pipeline.ticks import PLAIN, Layout

BESIDE = Layout(block=3, horizon=2, past=("load",), future=("wind", "sun"))
LENGTH = 8


def events(slots: list[int], numbers: list[int], layout: Layout = PLAIN) -> Events:
    """Make events that tell their slot and number in every field."""
    slot, number = np.array(slots, np.int64), np.array(numbers, np.int64)
    told = slot * 1000.0 + number
    rows = len(slots)
    future = np.ones((rows, layout.horizon, len(layout.future)), np.float32) * told[:, None, None]
    return Events(
        slot=slot,
        time=US + number * HOUR,
        sequence=np.zeros(rows, np.int64),
        number=number,
        refused=np.zeros(rows, np.uint8),
        flags=np.zeros(rows, np.uint8),
        price=np.stack([np.where(number % 3 == k, np.nan, told + k) for k in range(layout.block)], 1),
        factor=np.where(number % 5 == 0, 0.5, np.nan),
        past=np.full((rows, len(layout.past)), told[:, None], np.float32),
        future=future.astype(np.float32),
    )


@pytest.mark.parametrize("layout", [PLAIN, BESIDE])
@settings(max_examples=30)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5), size=st.integers(1, 9))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, layout: Layout, counts: list[int], size: int
) -> None:
    """The last events of every series, to the bit, in this process and a later one, however they were cut."""
    path = tmp_path_factory.mktemp("ring") / "ring"
    ring = History(path, layout, LENGTH)
    keys = [(slot, k) for k in range(1, 31) for slot, count in enumerate(counts) if k <= count]
    for start in range(0, len(keys), size):
        slots, numbers = zip(*keys[start : start + size], strict=True)
        ring.write(events(list(slots), list(numbers), layout))
    for _ in range(2):
        for slot, count in enumerate(counts):
            numbers = list(range(max(1, count - LENGTH + 1), count + 1))
            read = ring.read(np.full(len(numbers), slot), np.array(numbers, np.int64))
            assert read.to_bytes() == events([slot] * len(numbers), numbers, layout).to_bytes()
        ring.flush()
        ring.close()
        ring = History(path, layout, LENGTH)
    ring.close()


@pytest.mark.parametrize("number", [0, 1, 9, 21])
def test_an_event_that_is_not_there_is_an_error(tmp_path: Path, number: int) -> None:
    """Overwritten ones, later ones, and those of series that have shown nothing; the message names both numbers."""
    ring = History(tmp_path / "ring", PLAIN, LENGTH)
    ring.write(events([0] * 20, list(range(1, 21))))
    for slot in (0, 1, 2 * PAGE):
        with pytest.raises(IntegrityError, match=f"event {number} of series {slot} is not there or is damaged"):
            ring.read(np.array([slot]), np.array([number]))
    ring.close()


def test_the_ring_holds_more_than_can_be_asked_for(tmp_path: Path) -> None:
    """What arrives while states are warmed overwrites only the slack."""
    ring = History(tmp_path / "ring", PLAIN, LENGTH)
    ring.write(events([0] * 20, list(range(1, 21))))
    first = 20 - LENGTH - LENGTH // SLACK + 1
    assert ring.read(np.array([0]), np.array([first])).number.tolist() == [first]
    with pytest.raises(IntegrityError):
        ring.read(np.array([0]), np.array([first - 1]))
    ring.close()


def test_every_flipped_bit_of_an_entry_is_noticed(tmp_path: Path) -> None:
    """Wherever it lies in the entry: number, time, prices, factor, covariates or sum."""
    path = tmp_path / "ring"
    ring = History(path, BESIDE, LENGTH)
    ring.write(events([0], [1], BESIDE))
    start, size = 1 * ring.words * 8, ring.words * 8
    ring.close()
    content = path.read_bytes()
    for bit in range(size * 8):
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        ring = History(path, BESIDE, LENGTH)
        with pytest.raises(IntegrityError, match="event 1 of series 0"):
            ring.read(np.array([0]), np.array([1]))
        ring.close()


def test_writing_again_writes_the_same_bytes(tmp_path: Path) -> None:
    """After a crash the same events go to the same places, whatever was there by then."""
    path = tmp_path / "ring"
    ring = History(path, PLAIN, LENGTH)
    ring.write(events([0] * 15 + [1], [*range(1, 16), 1]))
    ring.flush()
    content = path.read_bytes()
    ring.write(events([0] * 5, list(range(11, 16))))
    ring.flush()
    assert path.read_bytes() == content
    ring.close()


def test_refused_events_are_not_kept(tmp_path: Path) -> None:
    """They have no number; a ring of length 0 keeps nothing at all and makes no file."""
    path = tmp_path / "ring"
    ring = History(path, PLAIN, LENGTH)
    ring.write(replace(events([0], [1]), number=np.array([0])))
    assert path.read_bytes() == b""
    ring.close()
    none = History(tmp_path / "none", PLAIN, 0)
    none.write(events([0], [1]))
    none.flush()
    none.close()
    assert not (tmp_path / "none").exists()


def test_room_is_set_aside_or_asked_for(tmp_path: Path) -> None:
    """A disk without room is met before anything is written, and the message names the setting."""
    ring = History(tmp_path / "ring", PLAIN, LENGTH)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(DataError, match=r"cannot be set aside \(File too large\).*stream\.history"):
            ring.write(events([0], [1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ring.write(events([0], [1]))
    size = os.stat(tmp_path / "ring")
    assert size.st_blocks * 512 >= size.st_size > 0
    ring.close()
