"""Which pages of an arena differ from what is on disk, and which of them go there next.

Comes in: slots that changed. Goes out: pages. Knows numpy only; imported by stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.arena import PAGE, Arena


class Pages:
    """The changed pages of one arena, the longest changed first.

    Parameters
    ----------
    owner : int
        Number under which the journal keeps the arena.
    arena : Arena
    """

    def __init__(self, owner: int, arena: Arena) -> None:
        self.owner, self.arena = owner, arena
        self._since: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._since)

    def touch(self, slot: NDArray[np.int64], batch: int) -> None:
        """Note that a batch changed rows."""
        for number in np.unique(slot // PAGE).tolist():
            self._since.setdefault(number, batch)

    @property
    def oldest(self) -> int | None:
        """The first batch that is not in every page on disk; None where all are there."""
        return next(iter(self._since.values()), None)

    def fresh(self, slot: NDArray[np.int64]) -> list[tuple[int, int, bytes]]:
        """Give the pages of these rows to write, and count them as written."""
        numbers = np.unique(slot // PAGE).tolist()
        for number in numbers:
            self._since.pop(number, None)
        return [(self.owner, number, self.arena.page(number)) for number in numbers]

    def take(self, count: int) -> list[tuple[int, int, bytes]]:
        """Give pages to write, (owner, number, bytes), and count them as written."""
        numbers = [number for number, _ in zip(self._since, range(count), strict=False)]
        for number in numbers:
            del self._since[number]
        return [(self.owner, number, self.arena.page(number)) for number in numbers]
