"""Ticks from a file, read to its end or followed while it grows.

A line without LF at the end of a file counts when the file is complete; while a file is followed it waits. When the
bytes before a position are no longer those that were read, it says so and gives nothing.

Comes in: paths and positions. Goes out: `Block`. Imported by folders, pipes and intake.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from models.errors import DataError
from pipeline.lines import SPAN, Block, Cutter, IntakeConfig, Past, Position, Stop, unstopped

CHUNK = 1 << 18
"""Bytes asked for in one read; what is waiting is taken."""


class File:
    """A file read to its end, or followed while it grows.

    Parameters
    ----------
    path : Path
    follow : bool
        Wait for more at the end. The file may not be cut or replaced meanwhile, but for the torn end of a line that a
        writer takes back.
    sealed : bool
        The file is complete: its size belongs to its position, and may not change.
    config : IntakeConfig, optional
    stop : callable
        See `Stop`.
    """

    def __init__(
        self,
        path: Path,
        *,
        follow: bool = False,
        sealed: bool = False,
        config: IntakeConfig | None = None,
        stop: Stop = unstopped,
    ) -> None:
        self.path = path
        self.follow = follow
        self.sealed = sealed
        self.config = config or IntakeConfig()
        self._stop = stop
        self._given = False

    def on_assign(self, positions: Mapping[str, Position]) -> list[str] | None:  # noqa: ARG002  there is one only
        """Give the file's name, once."""
        if self._given or self._stop():
            return None
        self._given = True
        return [named(self.path)]

    def on_revoke(self, partitions: Sequence[str]) -> None:  # noqa: ARG002  there is one only
        """Let the file be read again."""
        self._given = False

    def read(self, partition: str, position: Position | None) -> Generator[Block, None, None]:
        """Give the lines after a position; see `Source`.

        Raises
        ------
        DataError
            When the path is no regular file that can be read; when the file is shorter than the position or its bytes
            are others, before or while it is read; when it is followed and another file takes its place.
        """
        with opened(self.path) as fd:
            cutter = self.begin(fd, partition, position)
            while not self._stop():
                chunk = _next(fd, cutter.past)
                if chunk is None:
                    # what has been given must still be there; what has not may have been taken back
                    cutter = self.begin(fd, partition, cutter.position)
                elif chunk:
                    for block in cutter.cut(chunk):
                        yield block
                        if self._stop():
                            return
                elif not self.follow:
                    self._unchanged(os.fstat(fd).st_size, cutter.position)
                    yield from cutter.rest()
                    return
                else:
                    self._in_place(fd, cutter)
                    yield cutter.nothing()
                    time.sleep(self.config.wait_ms / 1000)

    def begin(self, fd: int, partition: str, position: Position | None) -> Cutter:
        """Look whether the bytes before the position are those that were read."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"ticks {self.path}: expected a file, but it is none. Name a file of lines")
        position = position or Position()
        self._unchanged(found.st_size, position)
        past = Past(offset=min(position.offset, found.st_size))
        if past.offset == position.offset:
            width = min(SPAN, position.offset)
            past.first, past.last = os.pread(fd, width, 0), os.pread(fd, width, position.offset - width)
        past.check(self.path, position)
        position = replace(position, size=found.st_size if self.sealed else None)
        return Cutter(self.path, partition, position, past, self.config)

    def _unchanged(self, size: int, position: Position) -> None:
        """Refuse a file whose size has changed though it was complete."""
        if self.sealed and position.size not in (None, size):
            raise DataError(
                f"ticks {self.path}: it had {position.size} bytes and now has {size}; a file must be complete when it "
                "appears, and stay as it is. Write under another name, rename the file into the folder, and use a "
                "name once"
            )

    def _in_place(self, fd: int, cutter: Cutter) -> None:
        """Refuse to wait at the end of a file when its path leads elsewhere."""
        opened = os.fstat(fd)
        try:
            now = self.path.stat()
            replaced = (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino)
        except FileNotFoundError:
            replaced = True
        # its writer may have written once more before it was replaced
        if replaced and not _next(fd, cutter.past):
            torn = f", but for {cutter.waiting} bytes of a line without LF" if cutter.waiting else ""
            raise DataError(
                f"ticks {self.path}: the file was removed or another has taken its place; the old one has been read "
                f"to its end, {cutter.position.offset} bytes{torn}. Follow a folder that receives whole files, or "
                "start a new stream"
            )


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Tell of a path that cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"ticks {path}: cannot be read ({error.strerror}). Check the path and its permissions"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a path for reading, without waiting for a writer of a FIFO."""
    with reading(path):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def named(path: Path) -> str:
    """Give the name of a partition, which has to be text."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"ticks {path!r}: expected a name in UTF-8, as positions keep it. Rename the file") from error
    return path.name


def _next(fd: int, past: Past) -> bytes | None:
    """Read on; None when the bytes just before are no longer those that were read."""
    width = len(past.last)
    data = os.pread(fd, width + CHUNK, past.offset - width)
    return data[width:] if data.startswith(past.last) else None
