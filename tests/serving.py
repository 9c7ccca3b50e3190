"""Real servers on loopback ports, and ways to speak to them byte by byte."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from hooked_stream import HookedStream

from pipeline.limits import ServeConfig
from pipeline.serve import Server

TOKEN = "correct-horse-battery-staple"  # noqa: S105  it opens nothing but the servers of these tests
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return orjson.loads(self.body)


@contextmanager
def running(engine: Callable[[], HookedStream] | HookedStream | None = None, **limits: Any) -> Iterator[Server]:
    """Serve from a thread; at the end the server has ended, and what it raised is raised here."""
    opened = engine if callable(engine) else lambda: engine or HookedStream()
    server = Server(opened, ServeConfig(**{"port": 0, "token": TOKEN} | limits))
    listening, raised = threading.Event(), []

    def work() -> None:
        try:
            server.run(lambda _: listening.set())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert listening.wait(20)
    try:
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def wait_ready(url: str) -> None:
    """Wait until ticks are taken."""
    for _ in range(2000):
        if ask(url, "GET", "/readyz").status == 200:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the server is not ready after 20 s")


def address(url: str) -> tuple[str, int]:
    """Give host and port of a url."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def ask(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection(*address(url), timeout=30)
    try:
        connection.request(method, path, body, headers=headers or {})
        answer = connection.getresponse()
        return Reply(status=answer.status, headers=dict(answer.headers), body=answer.read())
    finally:
        connection.close()


def post(url: str, body: Any, **headers: str) -> Reply:
    """Send JSON lines with the token; `idempotency_key="x"` gives a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(url, "POST", "/ticks", body, BEARER | NDJSON | named)


def raw(url: str, data: bytes) -> socket.socket:
    """Open a socket and send bytes as they are."""
    opened = socket.create_connection(address(url), timeout=30)
    opened.sendall(data)
    return opened


def status_line(data: bytes, url: str) -> bytes:
    """Send bytes as they are and read the first line of the answer."""
    with raw(url, data) as opened, opened.makefile("rb") as reader:
        return reader.readline()


def ends(opened: socket.socket) -> bool:
    """Wait until the other side has closed a socket; False where it has not."""
    try:
        while opened.recv(65_536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def tick(series: str, minute: int, price: float | None = 1.5) -> bytes:
    """Write a line that is a tick, or a hole."""
    return orjson.dumps({"series": series, "time": 1_704_067_200_000_000 + minute * 60_000_000, "price": price})
