"""A consistent copy of a database that another process is writing.

The journal of a stream lets no second connection in, and none is needed. SQLite commits by appending to its log, moves
the log to the file from time to time, and begins the log anew only when all of it has been moved. Whatever is moved
while the file is copied therefore stands in the log that is copied after it, as long as that log was not begun anew in
between; then the copy is made again. The stream is neither asked nor held up. What was copied is opened as a stream
would open it, so that a copy that is given is one that was checked.

Comes in: databases. Goes out: copies, each one file. Knows sqlite3; imported by backup.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from models.errors import DataError, IntegrityError, StatecastError, TransientError
from pipeline.journal import FILE, Journal

TRIES = 20
"""How often the log may be begun anew while it is copied."""

_HEADER = 32
"""Bytes at the head of SQLite's log; two numbers in them change each time that it is begun anew."""


def of_journal(source: Path, target: Path) -> Path:
    """Copy the journal of a stream, as of one of the batches that were committed meanwhile.

    Parameters
    ----------
    source : Path
        Folder of the journal, whether a stream runs on it or not.
    target : Path
        A new folder.

    Returns
    -------
    Path
        The copy, with nothing beside it.

    Raises
    ------
    TransientError
        The stream writes faster than its journal can be copied.
    IntegrityError
        The journal is damaged.
    """
    for _ in range(TRIES):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        before = _generation(source / FILE)
        for path in (source / FILE, _log(source / FILE)):  # in this order
            with suppress(FileNotFoundError):
                shutil.copyfile(path, target / path.name)
        if _generation(source / FILE) == before:
            return _checked(source, target)
    raise TransientError(
        f"journal {source}: its log was begun anew in each of {TRIES} copies. Try again when fewer ticks come, or end "
        "the stream first"
    )


def of_database(source: Path, target: Path) -> Path:
    """Copy a database that any number of connections may have open.

    Raises
    ------
    DataError
        It is none, or is damaged.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as opened,
            closing(sqlite3.connect(target)) as copy,
        ):
            opened.backup(copy)
    except sqlite3.Error as error:
        raise DataError(f"database {source}: cannot be copied ({error}). Check the file and its rights") from error
    return target


def _checked(source: Path, target: Path) -> Path:
    """Open the copy, which checks it and moves the log into it."""
    try:
        Journal(target, "none").close()
    except StatecastError as error:
        raise IntegrityError(f"journal {source}: what was copied of it cannot be opened. {error}") from error
    return target / FILE


def _generation(path: Path) -> tuple[bytes, int, int]:
    """Name the log that is being written; where there is none, the file."""
    with suppress(FileNotFoundError), _log(path).open("rb") as file:
        if header := file.read(_HEADER):
            return header, 0, 0
    with suppress(FileNotFoundError):
        found = path.stat()
        return b"", found.st_mtime_ns, found.st_size
    return b"", 0, 0


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
