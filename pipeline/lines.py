"""Lines out of bytes: blocks of whole lines, each with the position after it, however the bytes arrive.

A byte order mark at the start is passed over; CR before LF stays with its line, and blank lines stay lines. Memory
is bounded: a line above the bound comes cut, always at the same byte.

Comes in: bytes of a partition, in pieces. Goes out: `Block`. Imported by files, pipes and intake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from models.errors import ConfigError, DataError

SPAN = 4096
"""Bytes at either end of what has been read by which a file is known again; the longest `Position.head`."""

MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where the next lines of a partition begin; `asdict` of it is JSON, and `Position(**...)` reads that back.

    Attributes
    ----------
    offset : int
        Bytes read.
    lines : int
        Lines read.
    head : str
        First line that is not blank, latin-1 of its first `SPAN` bytes: a CSV header is known after a resume.
    head_sum, tail_sum : int
        CRC-32 of the first and of the last `SPAN` bytes before `offset`, of all where there are fewer.
    size : int, optional
        Bytes of the whole file where it was complete when it appeared; None where it may grow.
    """

    offset: int = 0
    lines: int = 0
    head: str = ""
    head_sum: int = 0
    tail_sum: int = 0
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Lines that were waiting; none when nothing was.

    Attributes
    ----------
    partition : str
        Name of the file; "-" standard input; "http" requests; "" when no partition is read now.
    lines : list of bytes
        Whole lines without LF, each cut to one byte more than the longest that is allowed.
    head : bytes
        First line of this partition that is not blank, as in `Position`: it decides between CSV and JSON.
    first : int
        Number of the first of these lines in its partition, from 0.
    position : Position, optional
        After these lines; None where the source cannot be read again.
    request : str, optional
        Name that a sender gave to these lines, so that it can send them twice and have them taken once.
    """

    partition: str
    lines: list[bytes]
    head: bytes
    first: int
    position: Position | None
    request: str | None = None


@dataclass(frozen=True, kw_only=True)
class IntakeConfig:
    """Settings of every source. None of them changes a line, but for the longest.

    Attributes
    ----------
    batch : int
        Most lines of a block, 1 to 100,000.
    max_line_bytes : int
        Longest line, 64 bytes to 16 MiB; a longer one comes cut, and one byte longer than that.
    wait_ms : int
        Longest wait for bytes before an empty block is given, 1 to 10,000.
    """

    batch: int = 1000
    max_line_bytes: int = 65_536
    wait_ms: int = 50

    def __post_init__(self) -> None:
        ranges = {"batch": (1, 100_000), "max_line_bytes": (64, 2**24), "wait_ms": (1, 10_000)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"intake.{name} is {value!r}; expected a whole number from {least} to {most}")


Stop = Callable[[], bool]
"""Asked at least every `wait_ms`; when it is true, reads end, and what has not been given waits for the next run."""


def unstopped() -> bool:
    """Go on to the end."""
    return False


@dataclass(kw_only=True)
class Past:
    """The bytes by which what was read is known again."""

    offset: int = 0
    first: bytes = b""
    """The first `SPAN` bytes before `offset`."""
    last: bytes = b""
    """The last `SPAN` bytes before `offset`."""

    def add(self, chunk: bytes) -> None:
        """Move on over a chunk."""
        self.first, self.last = self._ends(chunk, len(chunk))
        self.offset += len(chunk)

    def sums(self, chunk: bytes, end: int) -> tuple[int, int]:
        """Give the sums of `Position` at byte `end` of the chunk that comes next."""
        first, last = self._ends(chunk, end)
        return crc32(first), crc32(last)

    def _ends(self, chunk: bytes, end: int) -> tuple[bytes, bytes]:
        first = self.first + chunk[: min(end, SPAN - len(self.first))]
        return first, chunk[end - SPAN : end] if end >= SPAN else (self.last + chunk[:end])[-SPAN:]

    def check(self, path: Path | str, position: Position) -> None:
        """Raise an error unless these bytes are those before the position."""
        if self.offset < position.offset:
            raise DataError(
                f"ticks {path}: it ends after {self.offset} bytes, but {position.offset} were read before: it was cut "
                "or replaced. Put the file back, or start a new stream"
            )
        if self.sums(b"", 0) != (position.head_sum, position.tail_sum):
            raise DataError(
                f"ticks {path}: the bytes before byte {position.offset} are not those that were read: it was replaced "
                "or rewritten. Put the file back, or start a new stream"
            )


class Cutter:
    """Cuts the bytes of a partition into blocks; the bytes may come in any pieces, the lines are the same."""

    def __init__(self, path: Path | str, partition: str, position: Position, past: Past, config: IntakeConfig) -> None:
        self.position = position
        self.past = past
        self._path = path
        self._partition = partition
        self._batch = config.batch
        self._most = config.max_line_bytes + 1
        self._mark = b"" if position.offset else MARK
        self._piece = bytearray()
        self._unended = bool(past.last) and not past.last.endswith(b"\n")

    def cut(self, chunk: bytes) -> Iterator[Block]:
        """Give the lines that end in a chunk, or an empty block; what comes after the last LF waits."""
        *whole, rest = chunk.split(b"\n")
        if not whole:
            yield self.nothing()
        end = 0
        for i in range(0, len(whole), self._batch):
            lines = whole[i : i + self._batch]
            sizes = list(map(len, lines))
            end += sum(sizes) + len(sizes)
            if i == 0:
                lines = self._completed(lines)
            if max(sizes) >= self._most or i == 0:
                lines = [line[: self._most] for line in lines]
            if lines:
                yield self._block(lines, self.past.offset + end, self.past.sums(chunk, end))
        self._piece += rest[: max(self._most + len(MARK) - len(self._piece), 0)]
        self.past.add(chunk)

    def rest(self) -> Iterator[Block]:
        """Give the last line when it has no LF and none will come."""
        lines = [line[: self._most] for line in self._completed([b""]) if line]
        # a complete file that holds a mark and no line is finished too
        if lines or self.position.size == self.past.offset > self.position.offset:
            yield self._block(lines, self.past.offset, self.past.sums(b"", 0))

    def nothing(self) -> Block:
        """Give an empty block."""
        return self._given([], self.position.lines)

    @property
    def waiting(self) -> int:
        """Bytes of a line that has not ended."""
        return self.past.offset - self.position.offset

    def _completed(self, lines: list[bytes]) -> list[bytes]:
        """Join what waited to the first line, without the mark."""
        line = (bytes(self._piece) + lines[0]).removeprefix(self._mark)
        self._mark, self._piece = b"", bytearray()
        if not self._unended:
            return [line, *lines[1:]]
        self._unended = False
        if line.strip(b"\r"):
            raise DataError(
                f"ticks {self._path}: line {self.position.lines} was read without LF at the end of the file, and has "
                f"grown since by {line[:40]!r}. Write whole lines, or follow the file so that the last one waits"
            )
        return lines[1:]

    def _block(self, lines: list[bytes], offset: int, sums: tuple[int, int]) -> Block:
        before = self.position
        head = before.head or next((line for line in lines if line.strip()), b"")[:SPAN].decode("latin-1")
        self.position = replace(
            before, offset=offset, lines=before.lines + len(lines), head=head, head_sum=sums[0], tail_sum=sums[1]
        )
        return self._given(lines, before.lines)

    def _given(self, lines: list[bytes], first: int) -> Block:
        head = self.position.head.encode("latin-1")
        return Block(partition=self._partition, lines=lines, head=head, first=first, position=self.position)


def cut(data: bytes, partition: str = "-", config: IntakeConfig | None = None) -> Iterator[Block]:
    """Give the lines of bytes that are all there."""
    cutter = Cutter(partition, partition, Position(), Past(), config or IntakeConfig())
    yield from cutter.cut(data)
    yield from cutter.rest()
