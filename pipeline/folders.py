"""Ticks from a folder that receives whole files.

Comes in: a path and positions. Goes out: `Block`. Imported by intake.
"""

from __future__ import annotations

import fnmatch
import os
import stat
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from models.errors import DataError
from pipeline.files import File, named, opened, reading
from pipeline.lines import Block, IntakeConfig, Position, Stop, unstopped

PATTERNS = ("*.jsonl", "*.ndjson", "*.csv")
"""Files of a folder that are read."""

UNREADY = (".tmp", ".part")
"""Endings of files that are still being written."""

RESCAN = 1.0
"""Least seconds until a folder is listed again though its time has not moved: clocks of file systems are coarse."""

Key = tuple[int, int, int]
"""Inode, size and time of change: a finished file is looked into again when one of them moves."""


class Folder:
    """A folder that receives files: each is a partition, read from its first line to its last, in order of name.

    A file is complete when it appears: its writer renames it into the folder. It may be removed once it has been
    read. Empty files, names that begin with a dot, and those that end in `UNREADY` are passed over.

    Parameters
    ----------
    path : Path
    follow : bool
        Watch for further files; otherwise the folder ends after those that are there.
    patterns : sequence of str
        Names that are read, as in a shell.
    config : IntakeConfig, optional
    stop : callable
        See `Stop`.
    """

    def __init__(
        self,
        path: Path,
        *,
        follow: bool = False,
        patterns: Sequence[str] = PATTERNS,
        config: IntakeConfig | None = None,
        stop: Stop = unstopped,
    ) -> None:
        self.path = path
        self.follow = follow
        self.patterns = tuple(patterns)
        self.config = config or IntakeConfig()
        self._stop = stop
        self._pending: deque[str] = deque()
        self._finished: dict[str, Key] = {}
        self._listed: tuple[int, float] | None = None
        """The folder's time when it was listed, and when that is due again."""

    def on_assign(self, positions: Mapping[str, Position]) -> list[str] | None:
        """Give the first file that has not been read: one, so that one that comes meanwhile can be the next.

        Raises
        ------
        DataError
            When the folder or a file of it cannot be read, when one that was read has changed, and when one that was
            half read is gone.
        """
        if self._stop():
            return None
        self._refresh(positions)
        if not self._pending and self.follow:
            time.sleep(self.config.wait_ms / 1000)
            self._refresh(positions)
        elif not self._pending:
            self._listed = None
            self._refresh(positions)
        return [self._pending[0]] if self._pending else [] if self.follow else None

    def on_revoke(self, partitions: Sequence[str]) -> None:  # noqa: ARG002  all are found again
        """Look at the folder anew when it is next asked for."""
        self._listed = None

    def read(self, partition: str, position: Position | None) -> Generator[Block, None, None]:
        """Give the lines of a file after a position; see `File.read`."""
        return File(self.path / partition, sealed=True, config=self.config, stop=self._stop).read(partition, position)

    def _refresh(self, positions: Mapping[str, Position]) -> None:
        """List the folder when it has changed or some time has passed, and drop the files that have been read."""
        with reading(self.path):
            changed, now = self.path.stat().st_mtime_ns, time.monotonic()
            if self._listed is None or changed != self._listed[0] or now > self._listed[1]:
                self._pending = deque(self._unread(positions))
                self._listed = (changed, now + max(RESCAN, 20 * (time.monotonic() - now)))
        while self._pending and _is_finished(positions.get(self._pending[0])):
            self._pending.popleft()

    def _unread(self, positions: Mapping[str, Position]) -> list[str]:
        """List the files that have not been read to their end."""
        names = [named(self.path / name) for name in os.listdir(self.path) if matches(name, self.patterns)]
        unread = [name for name in sorted(names) if not self._is_read(name, positions.get(name))]
        missing = {name for name, p in positions.items() if 0 < p.offset < (p.size or 0)}.difference(names)
        if missing:
            name = min(missing)
            raise DataError(
                f"ticks {self.path / name}: {positions[name].offset} of its {positions[name].size} bytes were read, "
                "but the file is gone. Put it back, or start a new stream"
            )
        return unread

    def _is_read(self, name: str, position: Position | None) -> bool:
        """Tell whether a file has been read to its end, and look whether it still is what was read."""
        path = self.path / name
        try:
            found = path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise
            return position is None or _is_finished(position)  # removed since the folder was listed
        if position is None or position.offset == 0:
            return found.st_size == 0 and stat.S_ISREG(found.st_mode)
        key = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._finished.get(name) != key:
            file = File(path, sealed=True, config=self.config)
            with opened(path) as fd:
                file.begin(fd, name, position)
            if position.offset < found.st_size:
                return False
            self._finished[name] = key
        return True


def matches(name: str, patterns: Sequence[str] = PATTERNS) -> bool:
    """Tell whether a file of this name is read."""
    ready = not name.startswith(".") and not name.endswith(UNREADY)
    return ready and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_finished(position: Position | None) -> bool:
    return position is not None and position.offset == position.size
