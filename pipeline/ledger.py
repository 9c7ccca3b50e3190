"""What of a stream goes to disk, and when: batches at once, states page by page, outputs after both.

Comes in: batches. Goes out: a journal and outputs that follow it. Imported by stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from models.errors import ConfigError
from pipeline.arena import PAGE
from pipeline.events import Events
from pipeline.head import Head
from pipeline.history import History
from pipeline.journal import Batch, Journal, ModelRow
from pipeline.outputs import FileOutput, Sink
from pipeline.pages import Pages
from pipeline.recovery import BOOK, kept_output
from pipeline.stream_core import Core

BITES = 16
"""How often the journal forgets in the span of `replay` events: a little at a time, for ticks wait meanwhile."""


class Ledger:
    """The disk side of a stream.

    Parameters
    ----------
    journal : Journal or None
        None keeps nothing.
    history : History
    sinks : mapping of Sink
        Outputs by name: out, dead, note.
    replay : int
        About how many events may lie beyond the oldest page.
    """

    def __init__(self, journal: Journal | None, history: History, sinks: Mapping[str, Sink], replay: int) -> None:
        self.journal, self.history = journal, history
        self.pages: list[Pages] = []
        self.warming: list[Pages] = []
        """Pages of states that lag behind the batches: their owner says when one is exact and to be written."""
        self.broken = False
        self._sinks, self._replay = sinks, replay
        self._credit, self._since_settled = 0.0, 0

    def commit(
        self, batch: Batch, events: Events | None = None, *, everything: bool = False, models: Iterable[ModelRow] = ()
    ) -> None:
        """Bring a batch to disk, with the pages whose turn it is, or with every page.

        Raises
        ------
        DataError
            It cannot be written. What is in memory is of no use then: `broken`.
        """
        if self.journal is None:
            return
        self.broken = True
        count = 0 if events is None else len(events)
        if events is not None:
            self.history.write(events)
            self.touch(events.slot, batch.id)
        due = self.everything() if everything else self._due(count)
        self.journal.commit(replace(batch, pages=_chained(batch.pages, due)), models)
        self._since_settled += count
        if self._since_settled > self._replay / BITES:
            self.settle(batch.id)
        self.broken = False

    def touch(self, slot: np.ndarray, batch: int) -> None:
        """Note that a batch changed rows of every arena."""
        for pages in (*self.pages, *self.warming):
            pages.touch(slot, batch)

    def publish(self, head: Head, data: Mapping[str, bytes]) -> None:
        """Give out what was committed; each output ends where the head says."""
        for name, sink in self._sinks.items():
            if data.get(name):
                self.broken = True
                sink.publish(getattr(head, f"{name}_bytes") - len(data[name]), data[name])
                self.broken = False

    def settle(self, last: int) -> None:
        """Bring outputs and history to disk, and let the journal forget what nothing needs any more.

        The last batch stays: its head is how far the run is, and its outputs may still be on their way.
        """
        if self.journal is None:
            return
        for sink in self._sinks.values():
            sink.settle()
        self.history.flush()
        kept = (*self.pages, *self.warming)
        needed = [pages.oldest for pages in kept if pages.oldest is not None]
        self.journal.forget(min([*needed, last]), [BOOK, *(p.owner for p in kept)])
        self._since_settled = 0

    def begin_outputs(self) -> None:
        """Refuse files that hold something already: a new journal would cut it off.

        Raises
        ------
        ConfigError
            Which names the file.
        """
        for sink in self._sinks.values():
            if isinstance(sink, FileOutput) and sink.length:
                raise ConfigError(
                    f"output {sink.path}: it holds {sink.length} bytes, and a new journal would begin it anew. Move "
                    "the file away, or name the journal that it belongs to"
                )

    def recover_outputs(self, head: Head, core: Core) -> None:
        """Bring files to what was committed; what is no file gets the last batch again, for it may not have had it."""
        assert self.journal is not None
        for name, sink in self._sinks.items():
            if isinstance(sink, FileOutput):
                sink.recover(getattr(head, f"{name}_bytes"), kept_output(self.journal, core, name))
                continue
            for start, data in kept_output(self.journal, core, name, head.batch - 1):
                if data:
                    sink.publish(start, data)

    def close(self) -> None:
        """Close all files."""
        for part in (self.journal, self.history, *self._sinks.values()):
            if part is not None:
                part.close()

    def restore(self, dirty: Mapping[int, Mapping[int, int]]) -> None:
        """Count pages as changed: by owner, number of the page and the first batch that changed it."""
        for pages in self.pages:
            for number, since in dirty[pages.owner].items():
                pages.touch(np.array([number * PAGE]), since)

    @property
    def dirty(self) -> int:
        """Pages that differ from what is on disk."""
        return sum(map(len, self.pages))

    def _due(self, events: int) -> Sequence[tuple[int, int, bytes]]:
        """Choose the pages to write: all of them once in `replay` events, the longest changed first."""
        dirty = self.dirty
        self._credit = min(self._credit + dirty * events / self._replay, dirty)
        due: list[tuple[int, int, bytes]] = []
        while self._credit >= 1 and self.dirty:
            oldest = min((p for p in self.pages if len(p)), key=lambda p: p.oldest or 0)
            due += oldest.take(1)
            self._credit -= 1
        return due

    def everything(self) -> Iterator[tuple[int, int, bytes]]:
        """Give every changed page, one after the other: all states together may be larger than memory has room for."""
        for pages in self.pages:
            while len(pages):
                yield from pages.take(1)


def _chained(*parts: Iterable[tuple[int, int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    for part in parts:
        yield from part
