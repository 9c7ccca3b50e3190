"""A new champion takes over while the stream runs: seen, tried, read, warmed, and let serve.

Each turn does a little: one look at the champions folder, one question to the process that tries the files, or some
milliseconds of warming. A champion that cannot serve is told of and the old one goes on.

Comes in: a champions folder. Goes out: a stream under a new lineup. Imported by opening.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import IntegrityError, StatecastError
from pipeline.calendar_features import FEATURES
from pipeline.champions import Published
from pipeline.lineup import published
from pipeline.recovery import TOGETHER
from pipeline.trial import Terms
from pipeline.vetting import Vetting
from pipeline.watching import Watcher

if TYPE_CHECKING:
    from pipeline.stream import Stream

SLICES_S = (0.004, 0.032, 0.256, 2.048)
"""Seconds of warming between two batches: the later ones where ticks came too fast for the one before."""

LOOK_S = 0.5
"""Seconds between two looks at the folder."""


class Swap:
    """Follows the champion of a name.

    Parameters
    ----------
    folder : Path
        Champions folder.
    name : str
    stream : Stream
        What takes over.
    """

    def __init__(self, folder: Path, name: str, stream: Stream) -> None:
        self._folder, self._stream = folder, stream
        self._watcher = Watcher(folder, name, version=stream.lineup.version)
        self._looked = float("-inf")
        self._work: Iterator[None] | None = None
        self._version = stream.lineup.version
        self._vetting: Vetting | None = None

    def tend(self) -> bool:
        """Do one turn; True while there is something to do."""
        if self._work is None:
            champion = self._look()
            if champion is None:
                return False
            self._version, self._work = champion.version, self._take_over(champion)
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            return False
        except StatecastError as error:
            if self._stream.broken:
                raise
            self._work = None
            self._stream.withdraw()  # what is not warmed to the end would keep the journal from forgetting
            self._stream.note({"kind": "swap_refused", "version": self._version, "why": str(error)})
            return False
        return self._vetting is None  # a process that tries a file is waited for, not urged

    def close(self) -> None:
        """End what is under way."""
        if self._vetting is not None:
            self._vetting.kill()

    def _look(self) -> Published | None:
        if time.monotonic() < self._looked + LOOK_S:
            return None
        self._looked = time.monotonic()
        try:
            return self._watcher.changed()
        except StatecastError as error:
            self._stream.note({"kind": "swap_refused", "why": str(error)})
            return None

    def _take_over(self, champion: Published) -> Iterator[None]:
        """Try, read, warm and flip, a turn at a time."""
        layout = self._stream.core.layout
        terms = Terms(
            past=(*FEATURES, *layout.past),
            future=(*FEATURES, *layout.future),
            block=layout.block,
            batch=max(self._stream.config.batch, TOGETHER),
        )
        files: dict[str, Any] = {champion.file: champion.sha256}
        files |= {one.file: one.sha256 for one in champion.beside.values()}
        for file, sha256 in files.items():
            self._vetting = Vetting.start(self._folder / file, sha256, terms=terms)
            while (verdict := self._vetting.poll()) is None:
                yield
            self._vetting = None
            if not verdict.ok:
                self._stream.note({"kind": "swap_refused", "version": champion.version, "why": verdict.why})
                return
        lineup = published(self._folder, champion)
        for slice_s in SLICES_S:
            self._stream.announce(lineup)
            try:
                while not self._stream.warm(slice_s):
                    yield
                break
            except IntegrityError:  # a series moved on faster than its history reaches
                if self._stream.broken or slice_s == SLICES_S[-1]:
                    raise
        self._stream.flip()
