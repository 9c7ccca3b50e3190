"""A file that follows the journal: it never holds more than was committed, and a crash is mended from there.

Comes in: bytes that were committed. Goes out: a file. Knows the standard library only; imported by stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from models.errors import ConfigError, DataError, IntegrityError


class Sink(Protocol):
    """Where what was committed goes."""

    def publish(self, start: int, data: bytes) -> None:
        """Take bytes that begin at a place of the whole output; the same ones may come again."""
        ...

    def settle(self) -> None:
        """Return when all that was published is safe."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class PipeOutput:
    """A pipe or terminal: what was committed goes out once.

    What a crash keeps from it is in the journal and does not come again: a file or HTTP has it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def publish(self, start: int, data: bytes) -> None:  # noqa: ARG002  a pipe has no places
        """Write and flush."""
        view = memoryview(data)
        while view:  # a file without a buffer (PYTHONUNBUFFERED) writes less when a signal comes or the reader goes
            view = view[self._file.write(view) :]
        self._file.flush()

    def settle(self) -> None:
        """Nothing waits in a pipe."""

    def close(self) -> None:
        """Leave the pipe open: it belongs to the caller."""


class FileOutput:
    """A file whose bytes are exactly those committed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ConfigError
        It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self.length = os.fstat(self._file).st_size
        except OSError as error:
            raise ConfigError(f"output {path}: cannot be written ({error.strerror}). Name another path") from error

    def recover(self, committed: int, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Cut what was not committed, and write again what did not arrive or is not what was committed.

        A file that has its length need not have its bytes: after a loss of power those that were not on disk are zeros.

        Parameters
        ----------
        committed : int
            Bytes that were committed.
        pieces : iterable of (start, bytes)
            What the journal still holds, ascending and without a gap up to `committed`.

        Raises
        ------
        IntegrityError
            Bytes are missing that the journal does not hold any more.
        DataError
            The disk is full or fails.
        """
        if self.length > committed:
            with self._writing():
                os.ftruncate(self._file, committed)
            self.length = committed
        for start, data in pieces:
            if start <= self.length and os.pread(self._file, len(data), start) != data:
                self._write(start, data)
        if self.length < committed:
            raise IntegrityError(
                f"{self.path}: {self.length} bytes, but the journal had committed {committed} and holds only the last "
                "of them. Put the file back, or begin a new journal"
            )

    def publish(self, start: int, data: bytes) -> None:
        """Write at the end, which lies at `start`."""
        assert start == self.length, (start, self.length)
        self._write(start, data)

    def _write(self, start: int, data: bytes) -> None:
        view = memoryview(data)
        with self._writing():
            while view:
                written = os.pwrite(self._file, view, start)
                start += written
                self.length = max(self.length, start)
                view = view[written:]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say of an error that the file cannot be written."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"output {self.path}: cannot be written ({error.strerror}). What is missing is in the journal: make "
                "room, and start again"
            ) from error

    def settle(self) -> None:
        """Bring the file to disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise DataError(f"output {self.path}: the disk fails ({error.strerror}). Start again") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
