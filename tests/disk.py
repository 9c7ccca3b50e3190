"""Every call by which a process touches the disk, watched from within: what SQLite writes, and what Python writes.

A watcher sees each call before it happens and may let the process die there, tear the write, or answer with an error
of the disk. The program under test knows nothing of it: SQLite's calls are met in its own table of methods, those of
Python where the modules `os` and `mmap` keep them.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE = 13, 778, 1034, 1546
ERRORS = {"full": errno.ENOSPC, "fail": errno.EIO}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call: what it does, to which file, where, and with which bytes."""

    kind: str
    """write, truncate, sync, delete, allocate, or map (the whole of a mapped file is made safe)."""
    file: str
    """Name of the file, as "out.jsonl" or "journal.sqlite-wal"."""
    start: int = 0
    data: bytes = b""


class Watcher:
    """Sees calls; this one lets them all pass."""

    def before(self, call: Call) -> str:  # noqa: ARG002  for those that want to know
        """Say what is to happen: "" the call; "torn" half of it and death; "full" or "fail" an error of the disk."""
        return ""

    def after(self, call: Call) -> None:
        """Learn that a call has been made."""


class Record(Watcher):
    """Keeps every call in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def before(self, call: Call) -> str:
        """Note it."""
        self.calls.append(call)
        return ""


class Fault(Watcher):
    """Strikes at one call of those that `where` chooses, counted from 0; or, lasting, at every one from there on.

    Parameters
    ----------
    at : int
    what : {"kill", "torn", "full", "fail"}
        Death before the call, death in the midst of it, no space, or a failing disk.
    where : str
        Calls whose "kind file" begins so.
    lasting : bool
    """

    def __init__(self, at: int, what: str, where: str = "", *, lasting: bool = False) -> None:
        self.at, self.what, self.where, self.lasting = at, what, where, lasting
        self.seen = 0
        self.struck: list[str] = []

    def before(self, call: Call) -> str:
        """Strike when it is time."""
        if not f"{call.kind} {call.file}".startswith(self.where):
            return ""
        self.seen += 1
        if self.seen - 1 < self.at or (self.seen - 1 > self.at and not self.lasting):
            return ""
        if self.what == "kill":
            die()
        self.struck.append(f"{call.kind} {call.file}")
        return self.what


def die() -> None:
    """End this process as SIGKILL does: by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Methods(Structure):
    """sqlite3_io_methods of SQLite 3.7.17 and later: method pointers, of which three are replaced."""

    names = "Close Read Write Truncate Sync FileSize Lock Unlock CheckReservedLock FileControl SectorSize"
    names += " DeviceCharacteristics ShmMap ShmLock ShmBarrier ShmUnmap Fetch Unfetch"
    _fields_ = [("version", c_int), *((name, c_void_p) for name in names.split())]


class _File(Structure):
    _fields_ = [("methods", POINTER(_Methods))]


class _System(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        *(
            (name, c_void_p)
            for name in [
                "Open",
                "Delete",
                "Access",
                "FullPathname",
                "DlOpen",
                "DlError",
                "DlSym",
                "DlClose",
                "Randomness",
                "Sleep",
                "CurrentTime",
                "GetLastError",
                "CurrentTimeInt64",
                "SetSystemCall",
                "GetSystemCall",
                "NextSystemCall",
            ]
        ),
    ]


_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_KEPT: list[Any] = []
"""What C holds pointers to must stay."""


def watch(watcher: Watcher) -> None:
    """Show every call of this process from here on to a watcher; once in a process, before its first connection."""
    _watch_sqlite(watcher)
    _watch_python(watcher)


def _watch_sqlite(watcher: Watcher) -> None:
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = POINTER(_System)
    library.sqlite3_vfs_find.argtypes = [c_char_p]
    library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
    own = library.sqlite3_vfs_find(None)
    shim = _System.from_buffer_copy(own.contents)
    shim.name, shim.next = b"watched", None
    open_file, delete = _OPEN(own.contents.Open), _DELETE(own.contents.Delete)

    def opened(_: Any, path: int | None, file: int, flags: int, out: Any) -> int:
        code = open_file(ctypes.addressof(own.contents), path, file, flags, out)
        if code == 0 and path is not None:
            handle = _File.from_address(file)
            handle.methods = ctypes.pointer(_methods(handle.methods.contents, _name(path), watcher))
        return code

    def deleted(_: Any, path: int, sync: int) -> int:
        call = Call(kind="delete", file=_name(path))
        code = _asked(watcher, call, SQLITE_IOERR_WRITE)
        code = code or delete(ctypes.addressof(own.contents), path, sync)
        watcher.after(call)
        return code

    callbacks = _OPEN(opened), _DELETE(deleted)
    shim.Open, shim.Delete = (ctypes.cast(c, c_void_p) for c in callbacks)
    _KEPT.extend([library, own, shim, *callbacks])
    assert library.sqlite3_vfs_register(ctypes.addressof(shim), 1) == 0


def _name(path: int) -> str:
    """Read the name of a file; SQLite goes on using the very bytes, so that they must not be copied on their way."""
    return Path(ctypes.string_at(path).decode()).name


def _methods(own: _Methods, name: str, watcher: Watcher) -> _Methods:
    """Give the methods of a file of SQLite with those that change the disk watched."""
    shim = _Methods.from_buffer_copy(own)
    write, truncate, sync = _WRITE(own.Write), _TRUNCATE(own.Truncate), _SYNC(own.Sync)

    def written(file: int, data: int, count: int, start: int) -> int:
        call = Call(kind="write", file=name, start=start, data=ctypes.string_at(data, count))
        verdict = watcher.before(call)
        if verdict == "torn":
            write(file, data, count // 2, start)
            die()
        if verdict:
            return SQLITE_FULL if verdict == "full" else SQLITE_IOERR_WRITE
        code = write(file, data, count, start)
        watcher.after(call)
        return code

    def truncated(file: int, size: int) -> int:
        call = Call(kind="truncate", file=name, start=size)
        code = _asked(watcher, call, SQLITE_IOERR_TRUNCATE) or truncate(file, size)
        watcher.after(call)
        return code

    def synced(file: int, flags: int) -> int:
        call = Call(kind="sync", file=name)
        code = _asked(watcher, call, SQLITE_IOERR_FSYNC) or sync(file, flags)
        watcher.after(call)
        return code

    callbacks = _WRITE(written), _TRUNCATE(truncated), _SYNC(synced)
    shim.Write, shim.Truncate, shim.Sync = (ctypes.cast(c, c_void_p) for c in callbacks)
    _KEPT.extend([shim, *callbacks])
    return shim


def _asked(watcher: Watcher, call: Call, error: int) -> int:
    """Give the error of SQLite that a call is answered with, 0 where it is made."""
    verdict = watcher.before(call)
    if verdict == "torn":
        die()
    return error if verdict else 0


def _watch_python(watcher: Watcher) -> None:
    def named(fd: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).name

    def through(make: Callable[[], Any], call: Call, half: Callable[[], Any] = lambda: None) -> Any:
        verdict = watcher.before(call)
        if verdict == "torn":
            half()
            die()
        if verdict:
            raise OSError(ERRORS[verdict], os.strerror(ERRORS[verdict]))
        result = make()
        watcher.after(call)
        return result

    pwrite, fsync, ftruncate, allocate = os.pwrite, os.fsync, os.ftruncate, os.posix_fallocate

    def written(fd: int, data: Any, start: int) -> int:
        whole = bytes(data)
        call = Call(kind="write", file=named(fd), start=start, data=whole)
        return through(lambda: pwrite(fd, whole, start), call, lambda: pwrite(fd, whole[: len(whole) // 2], start))

    def synced(fd: int) -> None:
        through(lambda: fsync(fd), Call(kind="sync", file=named(fd)))

    def truncated(fd: int, size: int) -> None:
        through(lambda: ftruncate(fd, size), Call(kind="truncate", file=named(fd), start=size))

    def allocated(fd: int, start: int, size: int) -> None:
        through(lambda: allocate(fd, start, size), Call(kind="allocate", file=named(fd), start=start + size))

    class Mapped(mmap.mmap):
        """A mapped file whose flushes are watched."""

        def __new__(cls, fd: int, size: int) -> Mapped:
            made = super().__new__(cls, fd, size)
            made.file = named(fd)
            return made

        def flush(self, *around: int) -> None:  # type: ignore[override]
            call = Call(kind="map", file=self.file, data=self[:])
            through(lambda: super(Mapped, self).flush(*around), call)

    os.pwrite, os.fsync, os.ftruncate, os.posix_fallocate = written, synced, truncated, allocated
    mmap.mmap = Mapped  # type: ignore[misc]
