"""Connections that run out of time, and which of them goes when there are too many.

uvicorn's protocol has a limit for the rest between two requests and none for the time a request takes to arrive: a
byte a second keeps a connection for ever. Here each phase of a request has its time, and one connection too many
closes the one whose request has been on its way for longest.

Comes in: bytes of sockets. Goes out: requests, to uvicorn. The only file that knows uvicorn's protocol; imported by
serve.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

READ_BYTES = 65_536
"""How much of an answer a client must read within its time, while more than that is waiting for it."""


class Phase(Enum):
    """What a connection waits for."""

    OPENED = "its first request"
    RESTING = "a further request"
    HEAD = "the rest of the headers"
    BODY = "the rest of the body"
    ANSWER = "the answer"
    CLOSING = "the client to read what was sent last"


@dataclass(kw_only=True, slots=True)
class Crowd:
    """The connections of a server, and how long each phase may take."""

    most: int
    """Connections at a time."""
    head_s: float
    body_s: float
    rest_s: float
    """Seconds between two requests; bytes that begin none do not prolong them."""
    send_s: float
    """Seconds in which some of a waiting answer must be read."""
    arriving: dict[Patient, None] = field(default_factory=dict)
    """Connections whose request has not wholly come, the longest first."""
    evicted: int = 0
    """Connections closed for there were too many."""
    expired: int = 0
    """Connections closed for they took too long."""

    def seconds(self, phase: Phase) -> float | None:
        """Give the time of a phase; None while the answer is made, which is no fault of the client."""
        return {
            Phase.OPENED: self.head_s,
            Phase.RESTING: self.rest_s,
            Phase.HEAD: self.head_s,
            Phase.BODY: self.body_s,
            Phase.CLOSING: self.send_s,
        }.get(phase)


class Patient(H11Protocol):
    """uvicorn's protocol with a time for each phase."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._phase = Phase.ANSWER
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and make room."""
        super().connection_made(transport)
        self._enter(Phase.OPENED)
        if len(self.connections) > self._crowd.most:
            longest = next(iter(self._crowd.arriving))
            if longest is not self:  # where all others are being answered, uvicorn tells this one with a 503
                self._crowd.evicted += 1
                longest.give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and leave no timer."""
        super().connection_lost(exc)
        self._enter(Phase.ANSWER)
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Go on with a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on with what has come after the request that is answered."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Begin to count: the client does not read."""
        super().pause_writing()
        if self._unread is None:
            self._count_unread()

    def resume_writing(self) -> None:
        """Stop counting: it reads."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def give_up(self) -> None:
        """End at once; many may come in one turn of the loop, so it counts as gone before the loop tells it."""
        self._enter(Phase.CLOSING)
        self.connections.discard(self)
        self.transport.abort()

    def _look(self) -> None:
        """Find what the connection waits for now."""
        if self.transport.is_closing():
            self._enter(Phase.CLOSING)
        elif self.conn.their_state is h11.SEND_BODY:
            self._enter(Phase.BODY)
        elif self.conn.their_state is h11.IDLE:
            if self._phase is not Phase.OPENED:
                self._enter(Phase.HEAD if self.conn.trailing_data[0] else Phase.RESTING)
        else:
            self._enter(Phase.ANSWER)

    def _enter(self, phase: Phase) -> None:
        """Begin a phase with its time; one that goes on keeps the time it has left."""
        if phase is self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._crowd.arriving.pop(self, None)
        if phase not in {Phase.ANSWER, Phase.CLOSING}:
            self._crowd.arriving[self] = None
        if (seconds := self._crowd.seconds(phase)) is not None:
            self._deadline = self.loop.call_later(seconds, self._expire)

    def _count_unread(self) -> None:
        """See after its time whether the client has read enough of a large answer."""
        size = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self._crowd.send_s, self._judge_unread, size)

    def _judge_unread(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < READ_BYTES:
            self._expire()
        else:
            self._count_unread()

    def _expire(self) -> None:
        self._crowd.expired += 1
        self.transport.abort()
