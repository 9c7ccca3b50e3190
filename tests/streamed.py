"""Streams over lines, with a journal and without, stopped and gone on with; for the tests of the stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from served import model_bytes
from variants import reading

from pipeline import drive
from pipeline.drive import StreamReport
from pipeline.intake import blocks, source_of
from pipeline.lines import Block, IntakeConfig, cut
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream, opened
from pipeline.outputs import FileOutput, PipeOutput
from pipeline.rules import RuleConfig
from pipeline.stream import Past, Stream
from pipeline.stream_config import StreamConfig

LINEUP = Lineup(serving=model_bytes())
"""The small model alone."""

PAIR = Lineup(version=3, serving=reading(), beside={"plain": model_bytes()})
"""The model that reads covariates, and the small one beside it."""

QUICK = StreamConfig(
    batch=20, durability="none", burn_in=5, history=8, replay=1000, max_series=1000, rules=RuleConfig(jump_scales=20.0)
)
"""Settings under which every rule finds something and nothing waits for a disk."""


def given(source: bytes, batch: int = 1000, first: int = 0) -> Iterator[Block]:
    """Cut bytes into blocks; those with fewer lines before them than `first` are passed over."""
    return (block for block in cut(source, "-", IntakeConfig(batch=batch)) if block.first >= first)


def full(
    source: bytes, config: StreamConfig = QUICK, *, lineup: Lineup = LINEUP, history: Past | None = None
) -> tuple[bytes, bytes, StreamReport]:
    """Run without a journal and without interruption: forecasts, dead letters, report."""
    out, dead = io.BytesIO(), io.BytesIO()
    stream = Stream(lineup, config, out=PipeOutput(out), dead=PipeOutput(dead), history=history)
    report = drive.run(stream, cut(source, "-", IntakeConfig(batch=config.batch, max_line_bytes=config.max_line_bytes)))
    stream.close()
    return out.getvalue(), dead.getvalue(), report


def wanted(folder: Path, *, lineup: Lineup = LINEUP, **changes: Any) -> Opening:
    """Say what belongs to a stream whose journal and outputs lie in a folder."""
    opening = Opening(
        lineup=lineup,
        journal=folder / "journal",
        out=FileOutput(folder / "out.jsonl"),
        dead=FileOutput(folder / "dead.jsonl"),
    )
    return replace(opening, **changes)


def begin(folder: Path, config: StreamConfig = QUICK, *, lineup: Lineup = LINEUP, **changes: Any) -> Stream:
    """Open a stream whose journal and outputs lie in a folder; `leave` or `close` it."""
    return open_stream(wanted(folder, lineup=lineup, **changes), config)


def leave(stream: Stream) -> None:
    """Let go of the files of a stream as they are, without the end that `close` writes: as a kill would."""
    stream.ledger.close()


class StoppedError(Exception):
    """A run was stopped between two batches."""


def run_file(
    folder: Path, config: StreamConfig = QUICK, *, lineup: Lineup = LINEUP, stop_at: int | None = None, **changes: Any
) -> StreamReport:
    """Run over the folder's `in.jsonl` from where its journal ends; leave it as it is once `stop_at` lines are read."""

    def read(lines: int) -> None:
        if stop_at is not None and lines >= stop_at:
            raise StoppedError

    stream = begin(folder, config, lineup=lineup, **changes)
    try:
        source = source_of(folder / "in.jsonl", config=IntakeConfig(batch=config.batch))
        report = drive.run(stream, blocks(source, drive.positions(stream)), on_progress=read)
    except BaseException:
        leave(stream)
        raise
    stream.close()
    return report


@contextmanager
def going_on(folder: Path, config: StreamConfig = QUICK, *, lineup: Lineup = LINEUP) -> Iterator[Stream]:
    """Open a stream on a folder and close it in the end."""
    with opened(wanted(folder, lineup=lineup), config) as stream:
        yield stream


def read_files(folder: Path) -> tuple[bytes, bytes]:
    """Read forecasts and dead letters."""
    return (folder / "out.jsonl").read_bytes(), (folder / "dead.jsonl").read_bytes()


def carried(stream: Stream) -> object:
    """Give all that a stream carries, to the bit, and how far it is, but for the number of batches."""
    core = stream.core
    arenas = [core.book.arena, core.serving.arena, *(states.arena for states in core.beside.values())]
    head = {k: v for k, v in asdict(stream.head).items() if k not in ("batch", "events", "notes")}
    return core.book.names, [{k: x.tobytes() for k, x in a.arrays().items()} for a in arenas], head
