"""Where lines of ticks come from: the contract of a source, and the choice of one.

A source has partitions, and each block of a partition comes with the position after it. A read that begins at a
position goes on where that block ended: nothing is lost, nothing comes twice, and nothing is read from the start
again.

Comes in: paths and positions. Goes out: `Block`. Knows the standard library only; imported by stream.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from models.errors import ConfigError
from pipeline.files import File, reading
from pipeline.folders import PATTERNS, Folder, matches
from pipeline.lines import Block, IntakeConfig, Position, Stop, unstopped
from pipeline.pipes import Pipe

NOTHING = Block(partition="", lines=[], head=b"", first=0, position=None)
"""What comes when there is no partition to read yet."""


class Source(Protocol):
    """What gives blocks: files here, a broker's consumer elsewhere."""

    def on_assign(self, positions: Mapping[str, Position]) -> list[str] | None:
        """List the partitions to read now, in order, given what has been read of each; None when none will come."""
        ...

    def on_revoke(self, partitions: Sequence[str]) -> None:
        """Let go of partitions before they have ended; their reads have been closed."""
        ...

    def read(self, partition: str, position: Position | None) -> Generator[Block, None, None]:
        """Give the lines after a position: an empty block whenever nothing waits, the end when the partition ends."""
        ...


def blocks(source: Source, positions: Mapping[str, Position]) -> Generator[Block, None, None]:
    """Read a source to its end: its partitions in order, the next one when nothing waits in this one.

    Parameters
    ----------
    source : Source
    positions : mapping of str to Position
        What has been read of each partition; those of other sources may be among them.

    Yields
    ------
    Block
        An empty one whenever nothing is waiting, so that the caller can do other work.

    Raises
    ------
    DataError
        When a partition cannot be read, or is not the one whose position was given.
    """
    known = dict(positions)
    while (partitions := source.on_assign(known)) is not None:
        if not partitions:
            yield NOTHING
        reads = deque((name, source.read(name, known.get(name))) for name in partitions)
        try:
            while reads:
                name, read = reads[0]
                for block in read:
                    if block.position is not None:
                        known[name] = block.position
                    yield block
                    if not block.lines:
                        reads.rotate(-1)
                        break
                else:
                    reads.popleft()
        finally:
            for _, read in reads:
                read.close()
            if reads:
                source.on_revoke([name for name, _ in reads])


def source_of(
    path: Path | str,
    *,
    follow: bool = False,
    patterns: Sequence[str] = PATTERNS,
    repeats: bool = False,
    config: IntakeConfig | None = None,
    stop: Stop = unstopped,
) -> Source:
    """Choose the source for a path by what is there: "-" is standard input.

    Raises
    ------
    DataError
        When there is nothing at the path, or a thing that has no lines.
    """
    if str(path) == "-":
        return Pipe(0, repeats=repeats, config=config, stop=stop)
    path = Path(path)
    with reading(path):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return Folder(path, follow=follow, patterns=patterns, config=config, stop=stop)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return Pipe(path, repeats=repeats, config=config, stop=stop)
    return File(path, follow=follow, config=config, stop=stop)


def apart(source: Path | str, outputs: Sequence[Path]) -> None:
    """See to it that no output would be written over the ticks, be read as ticks, or share its file with another.

    Parameters
    ----------
    source : Path or "-"
    outputs : sequence of Path
        Files that will be written; devices and pipes may be named more than once.

    Raises
    ------
    ConfigError
        Which names the output.
    """
    plain = [path for path in outputs if path.is_file() or not path.exists()]
    given = 0 if str(source) == "-" else source
    for i, path in enumerate(plain):
        if _one_file(given, path):
            raise ConfigError(f"output {path}: it is the file that the ticks come from. Name another path")
        if given and _one_file(given, path.parent) and matches(path.name):
            raise ConfigError(
                f"output {path}: it lies in the folder of ticks, and would be read as ticks. Name a path outside"
            )
        if any(_one_file(other, path) or other.resolve() == path.resolve() for other in plain[:i]):
            raise ConfigError(f"output {path}: it is named for two outputs. Name a file for each")


def _one_file(one: Path | str | int, other: Path) -> bool:
    """Tell whether two are the same file; one that is not there is none."""
    try:
        found = os.fstat(one) if isinstance(one, int) else os.stat(one)
        return os.path.samestat(found, other.stat())
    except OSError:
        return False
