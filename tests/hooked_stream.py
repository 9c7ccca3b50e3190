"""The durable stream as the service has it, in a folder of its own, with hooks to be slow, to fail and to look on."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from served import model_bytes

from pipeline.lines import Block
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream
from pipeline.rules import RuleConfig
from pipeline.stream import Answer, Stream
from pipeline.stream_config import StreamConfig

CONFIG = StreamConfig(
    rules=RuleConfig(grid="accept", jump="accept"),
    batch=64,
    max_series=1000,
    history=16,
    burn_in=0,
    durability="none",
)


@dataclass(kw_only=True)
class HookedStream:
    """A stream over a journal that is gone when it is closed; `before` runs before each micro-batch.

    What `before` raises is raised in the place of the batch, of which nothing is taken in then.
    """

    before: Callable[[Sequence[Block]], None] = lambda _: None
    model: bytes = field(default_factory=model_bytes)
    batches: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    tended: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="statecast-")
        wanted = Opening(lineup=Lineup(version=1, serving=self.model), journal=Path(self._folder.name) / "journal")
        self.stream: Stream = open_stream(wanted, CONFIG)

    @property
    def broken(self) -> bool:
        """Whether the stream is of no use any more."""
        return self.stream.broken

    @property
    def counts(self) -> Counter[str]:
        """Lines by reason code; also after the end."""
        return Counter({code: count for code, count in self.stream.head.counts.items() if count})

    @property
    def names(self) -> list[str]:
        """Series that there are; also after the end."""
        return self.stream.core.book.names

    def take(self, blocks: Sequence[Block]) -> list[Answer]:
        """Take in a micro-batch."""
        self.threads.add(threading.get_ident())
        self.before(blocks)
        self.batches.append(sum(len(block.lines) for block in blocks))
        return self.stream.take(blocks)

    def tend(self) -> bool:
        """Count how often it is asked."""
        self.threads.add(threading.get_ident())
        self.tended += 1
        return self.stream.tend()

    def latest(self, series: str) -> bytes | None:
        """Give the last forecast line."""
        self.threads.add(threading.get_ident())
        return self.stream.latest(series)

    def listed(self, after: str, limit: int) -> list[dict]:
        """List series."""
        return self.stream.listed(after, limit)

    def status(self) -> dict:
        """Tell how things are."""
        return self.stream.status()

    def flip_to(self, model: bytes, version: int) -> None:
        """Let another model serve."""
        self.stream.announce(Lineup(version=version, serving=model))
        while not self.stream.warm(1.0):
            pass
        self.stream.flip()

    def close(self) -> None:
        """Close the stream and remove its folder."""
        if not self.closed:
            self.closed = True
            self.stream.close()
            self._folder.cleanup()


def slow(seconds: float) -> Callable[[Sequence[Block]], None]:
    """Make an engine that needs `seconds` for a micro-batch."""
    return lambda _: time.sleep(seconds)
