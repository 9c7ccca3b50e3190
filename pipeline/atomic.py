"""Replace a file as a whole: a reader, or a restart after a crash, sees the old bytes or the new ones.

Comes in: a path. Goes out: a file to write to. Knows the standard library only; imported by whoever writes
a file that others read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    The bytes are on disk before the name points at them, and the name is on disk when the block has ended. What
    a crash leaves behind is one file named `.<name>.new`, which the next call overwrites: one writer at a time.
    """
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
