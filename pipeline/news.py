"""What happens, told to those who listen: server-sent events over bounded queues.

`forecast` comes for the series that a listener names; `rejects`, `swap` and `drift` come to all. Events are news and
no record: who comes late or reads too slowly misses some, and the forecasts are in the journal all the same.

Comes in: micro-batches and the engine's status, from its thread. Goes out: bytes of an event stream. Imported by
routes and serve.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from pipeline.desk import Answered
from pipeline.lines import Block
from pipeline.refusals import RefusedError
from pipeline.ticks import DEAD, Reason

KEEP_ALIVE_S = 15.0
"""Seconds of silence after which a comment is sent, so that a connection that is gone is noticed."""

_DEAD = frozenset(reason.code for reason in Reason if reason >= DEAD)
_SERIES = b'{"series":"'
_MODEL = ("model", "sha256", "version")


class Listener:
    """One who listens.

    Parameters
    ----------
    series : frozenset of str
        Series whose forecasts are told.
    most : int
        Events that may wait; with one more the listener is cut off.
    """

    def __init__(self, series: frozenset[str], most: int) -> None:
        self.series = frozenset(name.encode() for name in series)
        self.ended = False
        self._most = most
        self._waiting: list[bytes] = []
        self._come = asyncio.Event()

    def hear(self, events: Sequence[bytes]) -> bool:
        """Take in events; False where they are too many."""
        self._waiting.extend(events)
        self._come.set()
        if len(self._waiting) > self._most:
            self._waiting = [event("cut", {"sentence": "events came faster than they were read. Connect again"})]
            self.ended = True
        return not self.ended

    def end(self) -> None:
        """Tell nothing more after what is waiting."""
        self.ended = True
        self._come.set()

    async def told(self) -> AsyncIterator[bytes]:
        """Give what is waiting, as it comes, until the end."""
        yield b"retry: 1000\n\n"
        while self._waiting or not self.ended:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._come.wait()
            except TimeoutError:
                yield b":\n\n"
                continue
            self._come.clear()
            waiting, self._waiting = self._waiting, []
            if waiting:
                yield b"".join(waiting)


class News:
    """Everybody who listens, and what they are told of.

    Parameters
    ----------
    listeners : int
        Most at a time.
    each : int
        Events that wait for one of them.
    """

    def __init__(self, *, listeners: int, each: int) -> None:
        self._most, self._each = listeners, each
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[Listener] = set()
        self._rejects: Counter[str] = Counter()
        self._known: dict[str, Any] = {}
        self._closed = False

    def begin(self) -> None:
        """Tie the events to the running loop."""
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, series: frozenset[str]) -> Listener:
        """Begin to listen.

        Raises
        ------
        RefusedError
            503 when there are as many as may be, or the server ends.
        """
        if self._closed or len(self._listeners) >= self._most:
            raise RefusedError(
                503, "listeners", f"expected at most {self._most} listeners. Connect again later", {"Retry-After": "5"}
            )
        listener = Listener(series, self._each)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Listen no more."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Tell everybody that the server ends, and nothing more."""
        self._closed = True
        self._spread([event("drain", {})], [])
        for listener in self._listeners:
            listener.end()

    def publish(self, name: str, data: dict) -> None:
        """Tell everybody of something, from any thread."""
        self._send([event(name, data)], [])

    def took(self, blocks: Sequence[Block], answers: Sequence[Answered], seconds: float) -> None:  # noqa: ARG002
        """Tell of the forecasts of a micro-batch, and count its dead letters."""
        for answer in answers:
            if not answer.repeated:
                self._rejects.update({code: n for code, n in answer.counts.items() if code in _DEAD and n})
        wanted: set[bytes] = set().union(*(listener.series for listener in tuple(self._listeners)))
        if not wanted:
            return
        lines = (line for answer in answers if not answer.repeated for line in answer.forecasts.splitlines())
        named = ((line[len(_SERIES) : line.find(b'"', len(_SERIES))], line) for line in lines)
        self._send([], [(name, line) for name, line in named if name in wanted])

    def saw(self, status: dict) -> None:
        """Tell of dead letters since the last look, of another model, and of drift where it has changed."""
        events = []
        if self._rejects:
            events.append(event("rejects", dict(self._rejects)))
            self._rejects.clear()
        now = {"swap": {key: status.get(key) for key in _MODEL}, "drift": status.get("drift")}
        events += [event(name, now[name]) for name in now if self._known and now[name] != self._known[name]]
        self._known = now
        if events:
            self._send(events, [])

    def _send(self, events: list[bytes], forecasts: list[tuple[bytes, bytes]]) -> None:
        if self._loop is not None and self._listeners and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._spread, events, forecasts)

    def _spread(self, events: list[bytes], forecasts: list[tuple[bytes, bytes]]) -> None:
        for listener in tuple(self._listeners):
            own = [b"event: forecast\ndata: %s\n\n" % line for name, line in forecasts if name in listener.series]
            if (events or own) and not listener.hear([*events, *own]):
                self._listeners.discard(listener)


def event(name: str, data: Any) -> bytes:
    """Write one event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
