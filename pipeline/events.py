"""What moves the states of series: accepted ticks and adjustments, as columns that go to disk and come back.

    slot u4 | time i8 | sequence i8 | number i8 | refused u1 | flags u1 | price f8 [M] | factor f8
    past f4 [P] | future f4 [S, K]

An event that a check of the walk refused (off the grid, a jump, a factor too far) is among them, for it used
up its key.

Legend: a events in the order of arrival, M prices of a block, S horizon steps, P and K covariates.

Comes in: columns. Goes out: the same, and bytes. Knows numpy only; imported by book, states, journal and history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ticks import Layout, Ticks, whole

FALLBACK = 1
WARMING = 2
STALE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """Events as columns.

    Attributes
    ----------
    slot : int64 [a]
        Number of the series.
    time, sequence : int64 [a]
        Microseconds since 1970 UTC, and the order within one time; the key of a series only grows.
    refused : uint8 [a]
        0, or the `Reason` why the walk did not take it in.
    number : int64 [a]
        Ticks and adjustments that the series had shown by then, this one included; 0 where it was refused.
    flags : uint8 [a]
        `FALLBACK` where covariates were missing and the last ones of the series stand in their place; `WARMING` where
        the series had shown too little for its forecast to be relied on; `STALE` where the model was older than it may
        be.
    price : float64 [a, M]
    factor : float64 [a]
        Of an adjustment; NaN for ticks.
    past : float32 [a, P]
    future : float32 [a, S, K]
        Covariates beside those of the calendar.
    """

    slot: NDArray[np.int64]
    time: NDArray[np.int64]
    sequence: NDArray[np.int64]
    number: NDArray[np.int64]
    refused: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    price: NDArray[np.float64]
    factor: NDArray[np.float64]
    past: NDArray[np.float32]
    future: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which events are ticks that were taken in: those that have a forecast, [a]."""
        return (self.refused == 0) & np.isnan(self.factor)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Where all covariates are there, [a]."""
        return whole(self.past, self.future)

    @classmethod
    def of(cls, ticks: Ticks, slot: NDArray[np.int64]) -> Events:
        """Put slots in the place of the names."""
        unjudged, uncounted = np.zeros(len(ticks), np.uint8), np.zeros(len(ticks), np.int64)
        same = {name: getattr(ticks, name) for name in ("time", "sequence", "price", "factor", "past", "future")}
        return cls(slot=slot, number=uncounted, refused=unjudged, flags=unjudged, **same)

    @classmethod
    def of_series(cls, slot: int, time: NDArray[np.int64], price: NDArray[np.float64], layout: Layout) -> Events:
        """Put the prices [a] of one series in events, numbered from 1."""
        count = len(time)
        columns: dict[str, Any] = _zeros(count, layout)
        columns |= {"slot": np.full(count, slot), "time": time, "number": np.arange(1, count + 1)}
        columns |= {"price": price[:, None], "factor": np.full(count, np.nan)}
        return cls(**columns)

    @classmethod
    def blank(cls, slot: int, layout: Layout, key: tuple[int, int], flags: int) -> Events:
        """Give one event that holds a key (time, sequence) and flags alone."""
        columns: dict[str, Any] = _zeros(1, layout)
        columns |= {name: np.array([x]) for name, x in (("slot", slot), ("time", key[0]), ("sequence", key[1]))}
        columns["flags"] = np.array([flags], np.uint8)
        return cls(**columns)

    @classmethod
    def joined(cls, parts: Sequence[Events]) -> Events:
        """Put events one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _NAMES})

    def take(self, index: NDArray | slice) -> Events:
        """Choose events by index or mask."""
        return Events(**{name: getattr(self, name)[index] for name in _NAMES})

    def to_bytes(self) -> bytes:
        """Write the columns one after the other."""
        columns = (self.slot.astype("<u4"), *(getattr(self, name) for name in _NAMES[1:]))
        return b"".join([np.ascontiguousarray(c).tobytes() for c in columns])

    @classmethod
    def from_bytes(cls, data: bytes, count: int, layout: Layout) -> Events:
        """Read what `to_bytes` wrote; the arrays are views of `data`, but for `slot`.

        Raises
        ------
        ValueError
            The bytes are not those of so many events.
        """
        columns, start = {}, 0
        for name, (kind, shape) in _forms(layout).items():
            dtype, size = np.dtype(kind), count * int(np.prod(shape, dtype=np.int64))
            columns[name] = np.frombuffer(data, dtype, size, start).reshape(count, *shape)
            start += size * dtype.itemsize
        if start != len(data):
            raise ValueError(f"{len(data)} bytes instead of {start} for {count} events")
        columns["slot"] = columns["slot"].astype(np.int64)
        return cls(**columns)


_NAMES = tuple(f.name for f in fields(Events))


def _zeros(count: int, layout: Layout) -> dict[str, Any]:
    """Give columns of so many events in which nothing stands."""
    return {name: np.zeros((count, *shape), kind) for name, (kind, shape) in _forms(layout).items()}


def _forms(layout: Layout) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Give number type and shape, after the axis of events, of each column on disk."""
    return {
        "slot": ("<u4", ()),
        "time": ("<i8", ()),
        "sequence": ("<i8", ()),
        "number": ("<i8", ()),
        "refused": ("u1", ()),
        "flags": ("u1", ()),
        "price": ("<f8", (layout.block,)),
        "factor": ("<f8", ()),
        "past": ("<f4", (len(layout.past),)),
        "future": ("<f4", (layout.horizon, len(layout.future))),
    }
