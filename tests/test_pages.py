"""What changed goes to disk page by page, the longest changed first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arena import PAGE, Arena, Column
from pipeline.pages import Pages

COLUMNS = {"x": Column(dtype="int64", fresh=-1)}
SERIES = 5 * PAGE
CHANGES = st.lists(
    st.tuples(st.lists(st.integers(0, SERIES - 1), min_size=1, max_size=4), st.integers(0, 3)), max_size=20
)


@given(CHANGES)
def test_what_was_not_taken_is_on_disk_but_for_what_changed_since(changes: list[tuple[list[int], int]]) -> None:
    """At any time the pages taken so far, and the batches from `oldest` on, give every row."""
    arena, disk = Arena(COLUMNS, SERIES), Arena(COLUMNS, SERIES)
    arena.seat(SERIES)
    disk.seat(SERIES)
    pages, log = Pages(7, arena), []
    for batch, (slots, count) in enumerate(changes, start=1):
        arena["x"][slots] = batch
        log.append((batch, slots))
        pages.touch(np.array(slots), batch)
        before = len(pages)
        taken = pages.take(count)
        assert len(taken) == min(count, before)
        assert len(pages) == before - len(taken)
        for owner, number, data in taken:
            assert owner == 7
            disk.load(number, data)
        again = disk["x"].copy()
        for number, of in log:
            if pages.oldest is not None and number >= pages.oldest:
                again[of] = number
        np.testing.assert_array_equal(again, arena["x"])


def test_the_longest_changed_page_comes_first() -> None:
    """A page that changes again keeps its place, and has none once it is taken."""
    arena = Arena(COLUMNS, SERIES)
    arena.seat(SERIES)
    pages = Pages(1, arena)
    assert (pages.oldest, len(pages), pages.take(3)) == (None, 0, [])
    pages.touch(np.array([2 * PAGE]), 4)
    pages.touch(np.array([0, 2 * PAGE + 1, PAGE]), 5)
    assert (pages.oldest, len(pages)) == (4, 3)
    assert [number for _, number, _ in pages.take(1)] == [2]
    pages.touch(np.array([2 * PAGE]), 6)
    assert [number for _, number, _ in pages.take(9)] == [0, 1, 2]
    assert pages.oldest is None
