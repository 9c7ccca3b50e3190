"""Rows by slot: fresh until they are written, and the same to the bit when a page is read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, IntegrityError
from pipeline.arena import PAGE, Arena, Column

COLUMNS = {
    "time": Column(dtype="int64", fresh=-7),
    "price": Column(dtype="float64", shape=(3,), fresh=np.nan),
    "hidden": Column(dtype="float32", shape=(2, 2)),
    "flag": Column(dtype="bool"),
    "none": Column(dtype="float32", shape=(0,)),
}
ROW = 8 + 3 * 8 + 4 * 4 + 1


def filled(count: int, seed: int = 0, capacity: int = 4 * PAGE) -> Arena:
    """Make an arena whose rows hold random bytes."""
    rng = np.random.default_rng(seed)
    arena = Arena(COLUMNS, capacity)
    arena.seat(count)
    for name, x in arena.arrays().items():
        if name != "flag":
            x[...] = rng.integers(0, 256, (*x.shape, x.itemsize), np.uint8).view(x.dtype)[..., 0]
        else:
            x[...] = rng.integers(0, 2, x.shape)
    return arena


def raw(arena: Arena) -> dict[str, bytes]:
    """Give the rows in use to the bit."""
    return {name: x.tobytes() for name, x in arena.arrays().items()}


@given(st.integers(1, 3 * PAGE), st.integers(0, 2**32))
def test_pages_that_are_read_back_are_the_same_bits(count: int, seed: int) -> None:
    """All pages, in any order, give an arena its rows; NaN payloads and all."""
    arena, again = filled(count, seed), Arena(COLUMNS, 4 * PAGE)
    pages = [arena.page(number) for number in range(-(-count // PAGE))]
    for number in np.random.default_rng(seed).permutation(len(pages)).tolist():
        again.load(number, pages[number])
    assert again.used == count
    assert raw(again) == raw(arena)


def test_rows_of_a_slot_are_fresh_until_they_are_written() -> None:
    """Seating again changes nothing of the rows in use."""
    arena = Arena(COLUMNS, 10)
    arena.seat(2)
    arena["time"][1] = 5
    arena.seat(4)
    arena.seat(3)
    assert arena["time"][:4].tolist() == [-7, 5, -7, -7]
    assert np.isnan(arena["price"][:4]).all()
    assert (arena.used, arena.row_bytes, len(arena.page(0))) == (4, ROW, 4 * ROW)


@pytest.mark.parametrize("size", [1, ROW - 1, ROW + 1, (PAGE + 1) * ROW])
def test_a_page_that_is_not_whole_rows_is_refused(size: int) -> None:
    """Bytes of another model or version do not become states."""
    with pytest.raises(IntegrityError, match=f"a page of {size} bytes"):
        Arena(COLUMNS, 4 * PAGE).load(0, bytes(size))


def test_a_page_beyond_the_largest_number_of_series_is_refused() -> None:
    """Rows beyond the capacity would be those of series that cannot be carried."""
    page = filled(20).page(0)
    Arena(COLUMNS, 20).load(0, page)
    with pytest.raises(IntegrityError):
        Arena(COLUMNS, 19).load(0, page)


def test_more_memory_than_there_is_asks_for_fewer_series() -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=r"stream\.max_series: room for .* cannot be set aside"):
        Arena(COLUMNS, 2**55)
