"""Events go to disk as columns and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticking import HOUR, US

from pipeline.events import Events
from pipeline.ticks import PLAIN, Layout

BESIDE = Layout(block=3, horizon=2, past=("load.00", "load.01", "load.02"), future=("wind",))


def some(count: int, seed: int, layout: Layout) -> Events:
    """Make events whose columns hold random values of every kind."""
    rng = np.random.default_rng(seed)
    holes = rng.random((count, layout.block)) < 0.2
    return Events(
        slot=rng.integers(0, 2**32, count),
        time=US + rng.integers(0, 10**6, count) * HOUR,
        sequence=rng.integers(-1, 2**62, count),
        number=rng.integers(0, 2**40, count),
        refused=rng.integers(0, 20, count).astype(np.uint8),
        flags=rng.integers(0, 4, count).astype(np.uint8),
        price=np.where(holes, np.nan, rng.lognormal(size=(count, layout.block))),
        factor=np.where(rng.random(count) < 0.5, np.nan, 0.5),
        past=rng.standard_normal((count, len(layout.past))).astype(np.float32),
        future=rng.standard_normal((count, layout.horizon, len(layout.future))).astype(np.float32),
    )


@pytest.mark.parametrize("layout", [PLAIN, BESIDE])
@given(count=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_events_come_back_from_bytes_as_they_were(layout: Layout, count: int, seed: int) -> None:
    """Every column, its type and its bits; the bytes of parts are those that the whole has of them."""
    events = some(count, seed, layout)
    again = Events.from_bytes(events.to_bytes(), count, layout)
    for name in Events.__slots__:
        x, y = getattr(events, name), getattr(again, name)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


@pytest.mark.parametrize("layout", [PLAIN, BESIDE])
def test_bytes_of_another_number_of_events_are_refused(layout: Layout) -> None:
    """One event more or less, or one byte, does not fit."""
    data = some(5, 1, layout).to_bytes()
    for count, given_bytes in ((4, data), (6, data), (5, data[:-1]), (5, data + b"\0")):
        with pytest.raises(ValueError, match=r"bytes|buffer"):
            Events.from_bytes(given_bytes, count, layout)


def test_parts_joined_are_the_whole() -> None:
    """Taken apart by index or mask and put together again, events are what they were."""
    events = some(9, 2, BESIDE)
    parts = [events.take(slice(0, 4)), events.take(np.arange(9) == 4), events.take(np.array([5, 6, 7, 8]))]
    assert Events.joined(parts).to_bytes() == events.to_bytes()


def test_only_ticks_that_were_taken_in_have_a_forecast() -> None:
    """A refused event and an adjustment have none."""
    events = some(200, 3, PLAIN)
    expected = [not r and np.isnan(f) for r, f in zip(events.refused.tolist(), events.factor.tolist(), strict=True)]
    assert events.accepted.tolist() == expected
    assert 0 < sum(expected) < 200
