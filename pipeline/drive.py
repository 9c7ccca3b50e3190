"""Run a stream over a source, until it ends or is told to stop.

Comes in: a stream and blocks of lines. Goes out: what was done. Imported by replay and the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from pipeline.head import Head
from pipeline.lines import Block, Position
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig
from pipeline.ticks import DEAD, Layout, Reason, Ticks, parser

IDLE_S = 0.05
"""Seconds for which the stream does its own work before it looks again whether a line has come, where none waited."""


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What a run did; with a journal the counts are those of all its runs, the seconds those of this one."""

    ticks: int
    """Lines that held something: forecasts + holes + adjusted + rejected."""
    forecasts: int
    holes: int
    """Ticks whose price was null."""
    adjusted: int
    """Adjustments, such as splits."""
    rejected: dict[str, int]
    """Dead letters by reason; reasons that did not occur are left out."""
    dropped: int
    """Dead letters that were counted and not written, for their file is full."""
    seconds: float
    ticks_per_second: float


def run(stream: Stream, blocks: Iterable[Block], *, on_progress: Callable[[int], None] | None = None) -> StreamReport:
    """Take in every block; between them the stream does its own work.

    Parameters
    ----------
    stream : Stream
    blocks : iterable of Block
        An empty one says that nothing is waiting.
    on_progress : callable, optional
        Called after each batch with the number of lines taken in.
    """
    started, begun, lines = time.perf_counter(), stream.head, 0
    known: dict[str, Position | None] = {}
    for block in blocks:
        moved = block.position is not None and block.position != known.get(block.partition, Position())
        if block.lines or moved:
            stream.take([block])
            known[block.partition] = block.position
            lines += len(block.lines)
            if on_progress is not None:
                on_progress(lines)
        _tend(stream, IDLE_S if not block.lines else 0.0)
    return _report(begun, stream.head, time.perf_counter() - started)


def _tend(stream: Stream, seconds: float) -> None:
    """Let the stream do its own work: a slice, and more while more is waiting and there is time."""
    until = time.monotonic() + seconds
    while stream.tend() and time.monotonic() < until:
        pass


def positions(stream: Stream) -> Mapping[str, Position]:
    """Give how far a stream has read each partition."""
    if stream.journal is None:
        return {}
    known = {f.name for f in fields(Position)}
    return {
        name: Position(**{k: v for k, v in value.items() if k in known})
        for name, value in stream.journal.positions().items()
    }


def parsed(blocks: Iterable[Block], config: StreamConfig, layout: Layout) -> Iterator[Ticks]:
    """Read blocks as ticks alone, to warm a stream with."""
    for block in blocks:
        if block.lines:
            lines = [line for line in block.lines if len(line) <= config.max_line_bytes]
            yield parser(block.head, layout)(lines)


def _report(begun: Head, done: Head, seconds: float) -> StreamReport:
    counts = done.counts
    ticks = sum(counts.values())
    return StreamReport(
        ticks=ticks,
        forecasts=counts.get(Reason.ACCEPTED.code, 0),
        holes=counts.get(Reason.HOLE.code, 0),
        adjusted=counts.get(Reason.ADJUSTED.code, 0),
        rejected={r.code: counts[r.code] for r in Reason if r >= DEAD and counts.get(r.code)},
        dropped=done.dropped,
        seconds=seconds,
        ticks_per_second=(ticks - sum(begun.counts.values())) / seconds,
    )
