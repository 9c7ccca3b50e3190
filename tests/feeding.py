"""Sources that fill while a stream reads them: a file that grows, a folder that receives files, a pipe.

Everything is written in pieces of any size, so that lines, characters and CR LF are torn at any place.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from poison import Story


def pieces(data: bytes, rng: random.Random, seconds: float) -> Iterator[bytes]:
    """Cut data at any place, and wait between the pieces so that the last comes after about so many seconds."""
    begun, given = time.monotonic(), 0
    while given < len(data):
        size = int(10 ** rng.uniform(0, 4))
        yield data[given : given + size]
        given = min(given + size, len(data))
        ahead = seconds * given / len(data) - (time.monotonic() - begun)
        if ahead > 0:
            time.sleep(ahead)


class Feeder:
    """Writes in a thread of its own until all is written or it is told to stop."""

    def __init__(self, feed: Callable[[Callable[[], bool]], None]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=feed, args=(self._stopped.is_set,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until all is written."""
        self._thread.join()

    def stop(self) -> None:
        """Write no more."""
        self._stopped.set()
        self._thread.join()


def growing(path: Path, told: Story, rng: random.Random, seconds: float) -> Feeder:
    """Let a file grow."""
    path.touch()

    def feed(stopped: Callable[[], bool]) -> None:
        with path.open("ab", buffering=0) as file:
            for piece in pieces(told.data, rng, seconds):
                if stopped():
                    return
                file.write(piece)

    return Feeder(feed)


def receiving(folder: Path, told: Story, rng: random.Random, seconds: float) -> Feeder:
    """Let a folder receive files, each renamed into it when it is whole."""
    folder.mkdir()
    files = told.files()

    def feed(stopped: Callable[[], bool]) -> None:
        for name, data in files.items():
            with (folder / f"{name}.part").open("wb", buffering=0) as file:
                for piece in pieces(data, rng, seconds / len(files)):
                    if stopped():
                        return
                    file.write(piece)
            (folder / f"{name}.part").rename(folder / name)

    return Feeder(feed)


def pouring(fifo: Path, told: Story, rng: random.Random, seconds: float) -> Feeder:
    """Pour a story into a pipe from its start, until it is through or its reader is gone."""
    if not fifo.exists():
        os.mkfifo(fifo)

    def feed(stopped: Callable[[], bool]) -> None:
        handle = -1
        while handle < 0:
            try:
                handle = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                if stopped():
                    return
                time.sleep(0.001)
        os.set_blocking(handle, True)
        try:
            for piece in pieces(told.data, rng, seconds):
                view = memoryview(piece)
                while view:
                    view = view[os.write(handle, view) :]
        except BrokenPipeError:
            pass
        finally:
            os.close(handle)

    return Feeder(feed)
