"""The HTTP service: bind, let in, answer, and end without losing what was accepted.

Comes in: how to open an engine, and settings. Goes out: a server that runs until it is told to end. Knows uvicorn;
imported by the command line.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import uvicorn

from models.errors import ConfigError, StatecastError, TransientError
from pipeline.bodies import Held
from pipeline.connections import Crowd, Patient
from pipeline.desk import Answered, Desk, Engine
from pipeline.exposition import Exposition
from pipeline.gate import LOOPBACK, Gate, Rules, is_loopback
from pipeline.limits import ServeConfig
from pipeline.lines import Block
from pipeline.news import News
from pipeline.routes import Measured, Service, application
from pipeline.unread import Unread

BACKLOG = 1024


class Server:
    """A service that is bound to its address and not yet listening.

    Parameters
    ----------
    opened : callable
        Opens the engine; called in the thread that will own it.
    config : ServeConfig, optional

    Raises
    ------
    ConfigError
        When the address cannot be bound, or can be reached from other machines and no token is set.
    """

    def __init__(self, opened: Callable[[], Engine], config: ServeConfig | None = None) -> None:
        self.config = config = config or ServeConfig()
        self._socket = _bound(config)
        self.events = News(listeners=config.subscribers, each=config.subscriber_events)
        exposition = Exposition()
        self.desk = Desk(
            opened,
            batch=config.batch,
            queue_requests=config.queue_requests,
            queue_lines=config.queue_lines,
            watch=_Both(self.events, exposition),
        )
        crowd = Crowd(
            most=config.connections,
            head_s=config.head_s,
            body_s=config.body_s + 5,  # after the answer that says so
            rest_s=config.keep_alive_s + 1,
            send_s=config.send_s,
        )
        self._service = service = Service(
            desk=self.desk,
            events=self.events,
            exposition=exposition,
            limits=config,
            held=Held(config.held_bytes),
            connections=self._connections,
        )
        app = Measured(Unread(Gate(application(service), self._rules())), exposition)
        self._crowd = crowd
        self._server = _Draining(_uvicorn(app, crowd, config), self)

    @property
    def url(self) -> str:
        """Where the service is reached."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self, on_listening: Callable[[str], None] | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `stop`, then answer what was accepted and close the engine.

        Raises
        ------
        StatecastError
            When the engine failed, or has not ended within `drain_s`.
        """
        self._server.on_listening = lambda: on_listening(self.url) if on_listening else None
        self.desk.on_failure = self.stop
        self.desk.start()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self.desk.drain()
            left = self._server.deadline - time.monotonic()
            ended = self.desk.join(max(1.0, left))
        if isinstance(self.desk.failure, StatecastError):
            raise self.desk.failure
        if self.desk.failure is not None:
            raise TransientError(f"the engine failed: {self.desk.failure!r}. Start again") from self.desk.failure
        if not ended:
            raise TransientError(
                f"the engine has not ended within {self.config.drain_s} s; what was committed is safe. Start again"
            )

    def stop(self) -> None:
        """End as on SIGTERM; may be called from any thread."""
        self._server.should_exit = True

    def _rules(self) -> Rules:
        names = {*LOOPBACK, self.config.host, self._socket.getsockname()[0], *self.config.hosts}
        return Rules(
            token=None if self.config.token is None else self.config.token.encode(),
            hosts=frozenset(name.lower() for name in names),
            origins=frozenset(self.config.origins),
        )

    def _connections(self) -> dict[str, int]:
        return {
            "connections": len(self._server.server_state.connections),
            "connections_evicted": self._crowd.evicted,
            "connections_expired": self._crowd.expired,
        }


class _Both:
    """Two who look on."""

    def __init__(self, *watches: Any) -> None:
        self._watches = watches

    def took(self, blocks: Sequence[Block], answers: Sequence[Answered], seconds: float) -> None:
        for watch in self._watches:
            watch.took(blocks, answers, seconds)

    def saw(self, status: dict) -> None:
        for watch in self._watches:
            watch.saw(status)


class _Draining(uvicorn.Server):
    """uvicorn's server, which drains the desk before it waits, and ends with success when it was told to end."""

    def __init__(self, config: uvicorn.Config, service: Server) -> None:
        super().__init__(config)
        self.service = service
        self.on_listening: Callable[[], None] = lambda: None
        self.deadline = float("-inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.events.begin()
        await super().startup(sockets)
        self.on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.deadline = time.monotonic() + self.service.config.drain_s
        self.service.desk.drain()
        self.service.events.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the signals as uvicorn does, but do not raise them again at the end: draining is success."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def _uvicorn(app: Any, crowd: Crowd, config: ServeConfig) -> uvicorn.Config:
    protocol: Any = partial(Patient, crowd=crowd)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line of log for each bad byte would be a gift
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connections + 1,
        backlog=BACKLOG,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=config.drain_s,
        h11_max_incomplete_event_size=config.header_bytes,
    )


def _bound(config: ServeConfig) -> socket.socket:
    """Bind, and look at the address that came of it, before anything listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"serve.host {config.host}: is no address ({error.strerror}). Name another") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"serve {config.host}:{config.port}: cannot be bound ({error.strerror}). Name another port"
        ) from error
    if config.token is None and not is_loopback(opened.getsockname()[0]):
        opened.close()
        raise ConfigError(
            f"serve.host {config.host}: can be reached from other machines, and no token is set; whoever reaches it "
            "could move the states. Set a token, or bind to 127.0.0.1"
        )
    opened.setblocking(False)
    return opened
