"""Ticks from a pipe: standard input, a FIFO, a terminal; bytes that cannot be read again.

Comes in: a file descriptor or a path. Goes out: `Block`. Imported by intake.
"""

from __future__ import annotations

import os
import select
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from models.errors import DataError
from pipeline.files import CHUNK, named, opened, reading
from pipeline.lines import Block, Cutter, IntakeConfig, Past, Position, Stop, unstopped


class Pipe:
    """Bytes that cannot be read again: standard input, a pipe, a terminal.

    Parameters
    ----------
    source : int or Path
        An open file descriptor, which stays open, or a FIFO or device.
    repeats : bool
        The input begins again from its start: what was read before is passed over. Otherwise all of it is new, and
        positions count from its start.
    config : IntakeConfig, optional
    stop : callable
        See `Stop`.
    """

    def __init__(
        self,
        source: int | Path = 0,
        *,
        repeats: bool = False,
        config: IntakeConfig | None = None,
        stop: Stop = unstopped,
    ) -> None:
        self.source = source
        self.repeats = repeats
        self.config = config or IntakeConfig()
        self._stop = stop
        self._name = "standard input" if source == 0 else str(source)
        self._given = False
        self._broken_off = False

    def on_assign(self, positions: Mapping[str, Position]) -> list[str] | None:  # noqa: ARG002  there is one only
        """Give "-" or the name of the FIFO, once."""
        if self._broken_off:
            raise DataError(
                f"ticks {self._name}: its reading was broken off, and what had left the pipe cannot be read again. "
                "Start the run again; when the input begins again too, say that it repeats"
            )
        if self._given or self._stop():
            return None
        self._given = True
        return [named(self.source) if isinstance(self.source, Path) else "-"]

    def on_revoke(self, partitions: Sequence[str]) -> None:  # noqa: ARG002  there is one only
        """Refuse to be read again: lines may have left the pipe that were not given."""
        self._broken_off = True

    def read(self, partition: str, position: Position | None) -> Generator[Block, None, None]:
        """Give the lines as they come, until all writers have closed the pipe; see `Source`.

        Raises
        ------
        DataError
            When the pipe cannot be read; when the input repeats, and ends before the position or has other bytes.
        """
        start = (self.repeats and position) or Position()
        past = Past()
        cutter = Cutter(self._name, partition, start, past, self.config) if start.offset == 0 else None
        head = start.head.encode("latin-1")
        skipped = Block(partition=partition, lines=[], head=head, first=start.lines, position=start)
        with opened(self.source) if isinstance(self.source, Path) else nullcontext(self.source) as fd:
            for arrived in self._arrivals(fd):
                chunk = arrived
                if cutter is None:
                    left = start.offset - past.offset
                    past.add(chunk[:left])
                    chunk = chunk[left:]
                    if past.offset == start.offset:
                        past.check(self._name, start)
                        cutter = Cutter(self._name, partition, start, past, self.config)
                if cutter is None:
                    yield skipped
                elif chunk:
                    yield from cutter.cut(chunk)  # all of it though a stop be asked for: it cannot be read again
                else:
                    yield cutter.nothing()
        if self._stop():
            return
        if cutter is None:
            past.check(self._name, start)
        else:
            yield from cutter.rest()

    def _arrivals(self, fd: int) -> Iterator[bytes]:
        """Give what is waiting, nothing when nothing is, until the pipe has been closed or a stop is asked for."""
        with reading(self._name):
            ready = select.poll()
            ready.register(fd, select.POLLIN)
            wait_ms = 0
            while not self._stop():
                if not ready.poll(wait_ms):
                    wait_ms = self.config.wait_ms
                    yield b""
                    continue
                try:
                    chunk = os.read(fd, CHUNK)
                except BlockingIOError:  # another reader of the same pipe was faster
                    continue
                if not chunk:
                    return
                wait_ms = 0
                yield chunk
