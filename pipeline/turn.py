"""One retrain of a data folder at a time: a lock that the system lets go when its holder ends, however it ends.

    retrain.lock    the number of the process that holds it, then the names of the holders that died with it

Comes in: a data folder. Goes out: the turn, and who had it and died. Imported by the flows and the command line.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import TransientError


class BusyError(TransientError):
    """Another process retrains this data folder now."""


@contextmanager
def turn(folder: Path, holder: str = "") -> Iterator[list[str]]:
    """Hold the turn of a data folder, and give the names of earlier holders that died while they held it.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    holder : str
        Name that is left there if this process dies. A holder without a name leaves those that are there.

    Raises
    ------
    BusyError
        Another process has it. Nobody waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "retrain.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        process, *died = os.read(handle, 65_536).decode("ascii", "replace").split("\n")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"data folder {folder}: process {process or 'unknown'} retrains it now. Let it end, or end it first"
            ) from None
        _note(handle, [str(os.getpid()), *died, *([holder] if holder else [])])
        try:
            yield died
        finally:
            _note(handle, [] if holder else ["", *died])
    finally:
        os.close(handle)


def _note(handle: int, lines: list[str]) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, "\n".join(lines).encode(), 0)
