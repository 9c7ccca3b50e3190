"""Rows by slot of named arrays: gathered for a step, scattered after it, cut into pages for the disk.

Room for all series is set aside at once and touched only where a series has a row, so that nothing is ever copied to
grow and memory is that of the series there are.

Comes in: what a fresh row holds. Goes out: arrays and bytes. Knows numpy only; imported by book, states and pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError, IntegrityError

PAGE = 256
"""Slots of a page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One array: its number type, the shape of a row, and what a fresh row is filled with."""

    dtype: str
    shape: tuple[int, ...] = ()
    fresh: Any = 0


class Arena:
    """Named arrays with a row for each slot.

    Parameters
    ----------
    columns : dict of Column
    capacity : int
        Most slots.

    Raises
    ------
    ConfigError
        The machine cannot set aside so much memory.
    """

    def __init__(self, columns: dict[str, Column], capacity: int) -> None:
        self.columns = columns
        self.capacity = capacity
        self.used = 0
        try:
            # zeros are mapped by the system when they are first touched
            self._arrays = {name: np.zeros((capacity, *c.shape), c.dtype) for name, c in columns.items()}
        except MemoryError as error:
            raise ConfigError(
                f"stream.max_series: room for {capacity:,} series of {self.row_bytes:,} bytes cannot be set aside on "
                "this machine. Lower it"
            ) from error

    def __getitem__(self, name: str) -> NDArray:
        """Give one array, with rows beyond `used` that mean nothing."""
        return self._arrays[name]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(int(np.prod(c.shape, dtype=np.int64)) * np.dtype(c.dtype).itemsize for c in self.columns.values())

    def seat(self, used: int) -> None:
        """Make the rows up to `used` fresh ones where they are not in use yet."""
        if used <= self.used:
            return
        for name, column in self.columns.items():
            self._arrays[name][self.used : used] = column.fresh
        self.used = used

    def clear(self, slot: int) -> None:
        """Make one row a fresh one."""
        for name, column in self.columns.items():
            self._arrays[name][slot] = column.fresh

    def arrays(self) -> dict[str, NDArray]:
        """Give the rows in use."""
        return {name: x[: self.used] for name, x in self._arrays.items()}

    def page(self, number: int) -> bytes:
        """Write the rows in use of one page."""
        rows = slice(number * PAGE, min((number + 1) * PAGE, self.used))
        return b"".join([np.ascontiguousarray(x[rows]).tobytes() for x in self._arrays.values()])

    def load(self, number: int, data: bytes) -> None:
        """Read what `page` wrote: as many rows as it held; those after them in the page stay.

        Raises
        ------
        IntegrityError
            The bytes are not whole rows of this arena.
        """
        count, odd = divmod(len(data), self.row_bytes)
        first = number * PAGE
        if odd or count > PAGE or first + count > self.capacity:
            raise IntegrityError(
                f"journal: a page of {len(data)} bytes; expected up to {PAGE} rows of {self.row_bytes}. Its states are "
                "of another model or version"
            )
        self.seat(first + count)
        start = 0
        for name, column in self.columns.items():
            x = self._arrays[name]
            size = count * int(np.prod(column.shape, dtype=np.int64))
            x[first : first + count] = np.frombuffer(data, x.dtype, size, start).reshape(count, *column.shape)
            start += size * x.itemsize
