"""Clients that are slow, silent, many or broken take nothing from the others."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hooked_stream import HookedStream, slow
from serving import BEARER, TOKEN, address, ask, ends, post, raw, running, tick, wait_ready

HEAD = (
    f"POST /ticks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: text/csv\r\n".encode()
)


def trickle(opened: socket.socket, data: bytes, seconds: float) -> bool:
    """Send byte after byte, for some seconds at most; True where the other side ended it."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < until:
            opened.sendall(data)
            time.sleep(0.05)
        return False
    return True


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b""),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nX: ", b"x"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (HEAD.replace(b"/ticks", b"/nothing") + b"Content-Length: 1000\r\n\r\n", b" "),
    ],
    ids=["silent", "head", "blank", "second head", "body", "chunks", "unread body"],
)
def test_a_request_that_never_ends_is_cut_off(begin: bytes, more: bytes) -> None:
    """A byte now and then keeps no connection: headers, rest and body each have their time."""
    with running(head_s=1, body_s=1, keep_alive_s=1) as server, raw(server.url, begin) as opened:
        wait_ready(server.url)
        opened.settimeout(15)
        assert trickle(opened, more, 15) if more else ends(opened)


def test_a_slow_body_is_told_so() -> None:
    """A body that takes too long gets 408 before the connection ends."""
    with running(body_s=1) as server:
        wait_ready(server.url)
        with raw(server.url, HEAD + b"Content-Length: 10\r\n\r\nx") as opened:
            assert opened.makefile("rb").readline().startswith(b"HTTP/1.1 408")


def test_the_time_of_the_engine_is_not_the_clients() -> None:
    """A request that has wholly come is answered, however long the engine takes."""
    with running(HookedStream(before=slow(2.5)), head_s=1, body_s=1, keep_alive_s=1) as server:
        wait_ready(server.url)
        assert post(server.url, tick("A", 0)).status == 200


def test_the_loop_is_free_while_the_engine_works() -> None:
    """Probes answer at once while a micro-batch takes long."""
    gate, busy = threading.Event(), threading.Event()
    with running(HookedStream(before=lambda _: busy.set() or gate.wait(20) or None)) as server:
        wait_ready(server.url)
        sender = threading.Thread(target=post, args=(server.url, tick("A", 0)))
        sender.start()
        assert busy.wait(20)
        assert [ask(server.url, "GET", "/healthz").status for _ in range(20)] == [200] * 20
        assert not gate.is_set()
        gate.set()
        sender.join(20)


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Let this process open files enough for both ends of the sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 6000:
        pytest.skip(f"the machine lets a process open {hard} files only, and 6000 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_idle_sockets_do_not_keep_others_out() -> None:
    """While 2000 sockets stand open and silent, another client is served, and the server holds no more than it may."""
    with running(connections=256, head_s=60) as server, contextlib.ExitStack() as stack:
        wait_ready(server.url)
        for i in range(2000):
            stack.enter_context(raw(server.url, b"GET /heal" if i % 2 else b""))
            if i % 100 == 0:
                assert post(server.url, tick("A", i)).status == 200
        status = ask(server.url, "GET", "/status", headers=BEARER).json
        assert status["connections"] <= 256
        assert status["connections_evicted"] >= 2000 - 256


def test_requests_beyond_the_connections_are_told_so() -> None:
    """Where every connection is being answered, one more is told 503, and those before it are answered."""
    gate, busy = threading.Event(), threading.Event()
    with running(HookedStream(before=lambda _: busy.set() or gate.wait(20) or None), connections=4) as server:
        wait_ready(server.url)
        replies: list[int] = []
        senders = [
            threading.Thread(target=lambda i=i: replies.append(post(server.url, tick(f"c{i}", 0)).status))
            for i in range(4)
        ]
        senders[0].start()
        assert busy.wait(20)
        for sender in senders[1:]:
            sender.start()
        while server.desk.waiting < 3:
            time.sleep(0.01)
        assert post(server.url, tick("A", 0)).status == 503
        gate.set()
        for sender in senders:
            sender.join(20)
    assert replies == [200] * 4


@pytest.mark.parametrize("seed", range(6))
def test_garbage_in_a_pipeline_hurts_nobody(seed: int) -> None:
    """Requests in one write, then random bytes: the first are answered, the rest is refused, others are served."""
    rng = random.Random(seed)
    good = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(head_s=1, keep_alive_s=1) as server:
        wait_ready(server.url)
        for _ in range(20):
            count = rng.randint(0, 4)
            junk = bytearray(
                rng.choice([rng.randbytes(200), good * 2 + HEAD + b"Content-Length: 5\r\n\r\n12345" + good])
            )
            for _ in range(rng.randint(1, 4)):
                junk[rng.randrange(len(junk))] = rng.randrange(256)
            with raw(server.url, good * count + bytes(junk)) as opened:
                opened.shutdown(socket.SHUT_WR)
                opened.settimeout(10)
                assert opened.makefile("rb").read().count(b"HTTP/1.1 200 OK") >= count
        assert post(server.url, tick("A", 0)).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"\0" * 1000,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_ended(data: bytes) -> None:
    """Oversized, malformed and foreign bytes end their connection, and nothing else."""
    with running(head_s=2, body_s=2, keep_alive_s=2) as server:
        wait_ready(server.url)
        with raw(server.url, data) as opened:
            assert ends(opened)
        assert ask(server.url, "GET", "/readyz").status == 200


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Answers that nobody reads do not pile up: their connection ends after its time."""
    with running(send_s=1, connections=32) as server:
        wait_ready(server.url)
        lines = b"".join(tick(f"A{i % 500}", i) + b"\n" for i in range(10_000))
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(address(server.url))
        with opened:
            opened.sendall(
                HEAD.replace(b"text/csv", b"application/x-ndjson") + b"Content-Length: %d\r\n\r\n" % len(lines)
            )
            opened.sendall(lines)
            for _ in range(1000):
                if ask(server.url, "GET", "/status", headers=BEARER).json["connections_expired"]:
                    break
                time.sleep(0.02)
            status = ask(server.url, "GET", "/status", headers=BEARER).json
            assert (status["connections_expired"], status["connections"]) == (1, 1)
