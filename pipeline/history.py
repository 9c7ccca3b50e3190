"""The last events of every series, in a ring on disk: what a new model's states are warmed from.

An entry is a row of 64-bit words: number of the event in its series, from 1; time; prices; factor; covariates; and a
sum of all of them, so that an entry that was never written, is older than asked for, or was damaged shows itself.
Where an entry lies depends on its number alone: writing it again after a crash writes the same bytes to the same place.
The journal forgets the events of a batch only when the ring is on disk.

Legend: a events, W entries of a series, M prices of a block, S horizon steps, P and K covariates.

Comes in: events and their numbers. Goes out: events. Knows numpy only; imported by stream and shadow.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, DataError, IntegrityError
from pipeline.arena import PAGE
from pipeline.events import Events
from pipeline.ticks import Layout

SLACK = 4
"""The ring holds a share 1 / SLACK more than `length`, for what arrives while states are warmed."""

_ODD = 0x9E3779B97F4A7C15


class History:
    """The ring of the last events of every series.

    Parameters
    ----------
    path : Path
    layout : Layout
        What ticks hold.
    length : int
        W, events that can be asked for; 0 keeps nothing.

    Raises
    ------
    ConfigError
        The file cannot be opened.
    """

    def __init__(self, path: Path, layout: Layout, length: int) -> None:
        self.path, self.layout, self.length = path, layout, length
        self.rows = length + -(-length // SLACK)
        beside = len(layout.past) + layout.horizon * len(layout.future)
        self._beside = beside
        self.words = 4 + layout.block + -(-beside // 2)
        self._weights = (np.arange(1, self.words, dtype=np.uint64) * np.uint64(_ODD)) | np.uint64(1)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if length else -1
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be written ({error.strerror}). Check the folder and its rights"
            ) from error
        self._map: mmap.mmap | None = None
        self._ring = np.empty((0, self.rows, self.words), np.uint64)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            self._ring = np.empty((0, self.rows, self.words), np.uint64)
            if self._map is not None:
                self._map.close()
            os.close(self._file)
            self._file = -1

    def flush(self) -> None:
        """Bring the ring to disk.

        Raises
        ------
        DataError
            The disk fails.
        """
        if self._map is None:
            return
        try:
            self._map.flush()
        except OSError as error:
            raise DataError(f"{self.path}: the disk fails ({error.strerror}). Start again") from error

    def write(self, events: Events) -> None:
        """Keep events under their numbers in their series; those that were refused have none.

        Raises
        ------
        DataError
            The disk is full.
        """
        events = events.take(events.number > 0)
        if not self.length or len(events) == 0:
            return
        self._reach(int(events.slot.max()) + 1)
        entry = np.zeros((len(events), self.words), np.uint64)
        m = self.layout.block
        entry[:, 0] = events.number
        entry[:, 1] = events.time.view(np.uint64)
        entry[:, 2 : 2 + m] = np.ascontiguousarray(events.price).view(np.uint64)
        entry[:, 2 + m] = np.ascontiguousarray(events.factor).view(np.uint64)
        if self._beside:
            flat = np.concatenate((events.past, events.future.reshape(len(events), -1)), 1)
            entry[:, 3 + m : -1].view(np.float32)[:, : self._beside] = flat
        entry[:, -1] = self._sums(entry)
        self._ring[events.slot, events.number % self.rows] = entry

    def read(self, slot: NDArray[np.int64], number: NDArray[np.int64]) -> Events:
        """Give the events of these numbers, one a row.

        Raises
        ------
        IntegrityError
            One of them is not there any more, or is damaged.
        """
        if len(slot) and int(slot.max()) >= len(self._ring):
            self._reach(int(slot.max()) + 1)
        entry = self._ring[slot, number % self.rows]
        wrong = (entry[:, 0] != number.astype(np.uint64)) | (entry[:, -1] != self._sums(entry))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise IntegrityError(
                f"{self.path}: event {number[at]} of series {slot[at]} is not there or is damaged. States can only be "
                "warmed from the price store"
            )
        m, count = self.layout.block, len(slot)
        flat = np.ascontiguousarray(entry[:, 3 + m : -1]).view(np.float32)[:, : self._beside]
        past, future = flat[:, : len(self.layout.past)], flat[:, len(self.layout.past) :]
        return Events(
            slot=slot,
            time=entry[:, 1].view(np.int64),
            sequence=np.zeros(count, np.int64),
            number=number,
            refused=np.zeros(count, np.uint8),
            flags=np.zeros(count, np.uint8),
            price=np.ascontiguousarray(entry[:, 2 : 2 + m]).view(np.float64),
            factor=np.ascontiguousarray(entry[:, 2 + m]).view(np.float64),
            past=past,
            future=future.reshape(count, self.layout.horizon, len(self.layout.future)),
        )

    def _sums(self, entry: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Sum up each entry; one flipped bit changes it."""
        return (entry[:, :-1] * self._weights).sum(1, dtype=np.uint64) + np.uint64(_ODD)

    def _reach(self, slots: int) -> None:
        """Map room for so many series, set aside on disk so that writing it cannot fail later."""
        if slots <= len(self._ring):
            return
        pages = -(-slots // PAGE)
        pages = max(pages, len(self._ring) // PAGE + len(self._ring) // PAGE // 4)  # fewer, larger steps
        size = pages * PAGE * self.rows * self.words * 8
        try:
            os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            raise DataError(
                f"{self.path}: {size:,} bytes for the last {self.length} ticks of {slots:,} series cannot be set aside "
                f"({error.strerror}). Make room, or begin a journal with a smaller stream.history"
            ) from error
        self.flush()
        self._map = mmap.mmap(self._file, size)
        self._ring = np.frombuffer(self._map, np.uint64).reshape(pages * PAGE, self.rows, self.words)
