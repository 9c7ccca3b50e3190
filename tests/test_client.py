"""A client loses no tick and repeats none, whatever happens to its connection."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hooked_stream import HookedStream
from serving import TOKEN, address, running, wait_ready

from models.errors import ConfigError, DataError, ModelError, TransientError
from pipeline.client import Client, ClientConfig

FAST = ClientConfig(first_wait_s=0.001, longest_wait_s=0.01, lines=10, attempts=50)
START = 1_704_067_200_000_000


def ticks(count: int, *names: str) -> list[tuple[str, int, float | None]]:
    """Make ticks of some series, a minute apart."""
    return [(name, START + i * 60_000_000, 1.5 + i) for i in range(count) for name in names]


@contextlib.contextmanager
def between(url: str, cuts: Callable[[int], int | None]) -> Iterator[str]:
    """Stand between a client and a server; `cuts(n)` is how many bytes of the n-th answer pass before the line is cut.

    None lets the whole connection pass; -1 cuts after the request has gone on, before any byte of the answer.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                data = data if left is None else data[: max(left, 0)]
                target.sendall(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def carry(client: socket.socket, number: int) -> None:
        with client, socket.create_connection(address(url)) as server:
            sender = threading.Thread(target=pump, args=(client, server, None))
            sender.start()
            pump(server, client, cuts(number))
            sender.join(20)

    def accept() -> None:
        with contextlib.suppress(OSError):
            for number in range(10**6):
                thread = threading.Thread(target=carry, args=(listener.accept()[0], number))
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(20)


def test_ticks_are_answered_in_their_order() -> None:
    """Requests of a bounded size give, put together, a forecast for each tick as one request does."""
    sent = ticks(25, "A", "B/C")
    with running() as one, running() as other:
        for server in (one, other):
            wait_ready(server.url)
        with Client(one.url, TOKEN, config=FAST) as small, Client(other.url, TOKEN) as large:
            parts, whole = list(small.send(sent)), list(large.send(sent))
    assert ([part.accepted for part in parts], [part.accepted for part in whole]) == ([10] * 5, [50])
    assert [line for part in parts for line in part.forecasts] == whole[0].forecasts
    assert {part.attempts for part in parts} == {1}


@pytest.mark.parametrize("seed", range(3))
def test_a_lost_reply_is_asked_for_again_and_nothing_is_taken_twice(seed: int) -> None:
    """With a line that is cut at random bytes of the answer, every tick is taken once and every answer arrives."""
    rng = random.Random(seed)
    sent, engine = ticks(50, "A", "B"), HookedStream()
    plan = [rng.choice([-1, 0, 1, rng.randint(1, 3000), None]) for _ in range(10_000)]
    with running(engine) as server:
        wait_ready(server.url)
        with between(server.url, plan.__getitem__) as url, Client(url, TOKEN, config=FAST) as client:
            answers = []
            for answer in client.send(sent):
                answers.append(answer)
                client.close()  # so that each request meets a line of its own
    expected = HookedStream()
    with running(expected) as server:
        wait_ready(server.url)
        with Client(server.url, TOKEN) as client:
            whole = next(client.send(sent))
    assert [line for answer in answers for line in answer.forecasts] == whole.forecasts
    assert engine.counts == expected.counts == {"accepted": 100}
    assert any(answer.repeated for answer in answers)
    assert any(answer.attempts > 1 for answer in answers)


def test_a_sender_that_starts_again_repeats_nothing() -> None:
    """After a crash the same ticks under the same id give the same answers, and go on where they were not taken."""
    engine = HookedStream()
    with running(engine) as server:
        wait_ready(server.url)
        with Client(server.url, TOKEN, config=FAST) as client:
            some = client.send(ticks(50, "A"), request="feed-7")
            before = [next(some), next(some)]
            after = list(client.send(ticks(50, "A"), request="feed-7"))
    assert [part.repeated for part in after] == [True, True, False, False, False]
    assert [part.forecasts for part in after[:2]] == [part.forecasts for part in before]
    assert engine.counts == {"accepted": 50}
    assert [part.request for part in after] == [f"feed-7-{i}" for i in range(5)]


def test_a_full_queue_is_waited_for() -> None:
    """Many senders into a short queue all get every tick in."""
    engine = HookedStream(before=lambda _: time.sleep(0.005))
    with running(engine, queue_requests=1) as server:
        wait_ready(server.url)
        attempts: list[int] = []

        def work(name: str) -> None:
            patient = ClientConfig(lines=10, attempts=1000, first_wait_s=0.001, longest_wait_s=0.01)
            with Client(server.url, TOKEN, config=patient) as client:
                attempts.extend(part.attempts for part in client.send(ticks(50, name)))

        threads = [threading.Thread(target=work, args=(f"S{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert engine.counts == {"accepted": 400}
    assert max(attempts) > 1


def test_a_server_that_starts_later_is_waited_for() -> None:
    """While nobody listens, and while the engine opens, the client tries again."""
    gate = threading.Event()

    def opened() -> HookedStream:
        assert gate.wait(20)
        return HookedStream()

    with running(opened) as server, Client(server.url, TOKEN, config=FAST) as client:
        threading.Timer(0.05, gate.set).start()
        assert next(client.send(ticks(1, "A"))).attempts > 1


@pytest.mark.parametrize(("asked", "least", "most"), [(0.0, 0.05, 0.1), (3.0, 3.0, 3.0), (99.0, 10.0, 10.0)])
def test_the_wait_is_what_the_server_asks_within_bounds(asked: float, least: float, most: float) -> None:
    """The own wait has chance in it, the server's is honoured, and none is longer than the longest."""
    client = Client("http://localhost", config=ClientConfig())
    waits = [client._wait(1, asked) for _ in range(100)]
    assert least <= min(waits) <= max(waits) <= most
    assert (len(set(waits)) > 1) == (asked == 0)
    assert max(client._wait(30, 0.0) for _ in range(100)) <= 10


def test_attempts_are_bounded() -> None:
    """Where nobody ever answers, the error says that trying again may help, and names the request."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    few = ClientConfig(attempts=3, first_wait_s=0.001)
    with Client(url, config=few) as client, pytest.raises(TransientError, match="POST /ticks job-0: no answer after 3"):
        list(client.send(ticks(1, "A"), request="job"))


def test_what_cannot_pass_is_not_tried_again() -> None:
    """A wrong token, a request that is refused and a broken model are errors of their kinds at the first attempt."""
    errors: list[Exception] = [ModelError("no model"), DataError("of others")]
    engine = HookedStream()

    def before(_: object) -> None:
        raise errors.pop()

    engine.before = before
    with running(engine) as server:
        wait_ready(server.url)
        with Client(server.url, "wrong" * 5) as client, pytest.raises(ConfigError, match="refused with 401"):
            client.status()
        with Client(server.url, TOKEN) as client:
            with pytest.raises(DataError, match=r"refused with 409: of others"):
                next(client.send(ticks(1, "A")))
            with pytest.raises(ModelError, match=r"refused with 500: no model"):
                next(client.send(ticks(1, "A")))
    assert errors == []


def test_a_refused_body_is_told_though_it_was_not_read() -> None:
    """A request that is too large gets the server's reason, not a broken pipe."""
    with running(body_bytes=2048) as server:
        wait_ready(server.url)
        large = ClientConfig(lines=200_000, attempts=1)
        with Client(server.url, TOKEN, config=large) as client, pytest.raises(DataError, match="413"):
            next(client.send(ticks(100_000, "A")))


def test_reads_give_what_the_server_has() -> None:
    """Forecasts by name, names with slashes and carets among them, pages of series, and the status."""
    names = sorted(["A", "BTC/USDT", "^GSPC", "EURUSD=X"])
    with running() as server:
        wait_ready(server.url)
        with Client(server.url, TOKEN) as client:
            sent = next(client.send(ticks(1, *names)))
            assert [client.forecast(name) for name in names] == sorted(sent.forecasts, key=lambda line: line["series"])
            assert client.forecast("none") is None
            assert client.forecast("../status") is None
            assert [entry["name"] for entry in client.series()] == names
            assert client.status()["engine"]["series"] == len(names)


def test_holes_and_dead_letters_come_back() -> None:
    """A tick without a price has no forecast, and one that is refused says why."""
    with running() as server:
        wait_ready(server.url)
        with Client(server.url, TOKEN) as client:
            sent = next(client.send([("A", START, None), ("A", START, 1.0), ("../x", START, 1.0)]))
    assert sent.counts == {"hole": 1, "accepted": 1, "name": 1}
    assert [(letter["line"], letter["reason"]) for letter in sent.refused] == [(3, "name")]


def test_a_stream_of_events_that_breaks_is_an_error_that_may_pass() -> None:
    """A line cut in the middle of an event is told, and one that the server ends is not."""
    with running() as server:
        wait_ready(server.url)
        for cut in (100, 200):
            with between(server.url, lambda _, cut=cut: cut) as url, Client(url, TOKEN) as client:
                heard = client.events(["A"])
                with pytest.raises(TransientError, match="Listen again"):
                    list(heard)
        with Client(server.url, TOKEN) as client:
            heard = client.events()
            threading.Timer(0.2, server.stop).start()
            assert [event.name for event in heard] == ["drain"]


@pytest.mark.parametrize("url", ["localhost:80", "ftp://a", "http://", "http://a/path", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """A url names a scheme and a host and no path."""
    with pytest.raises(ConfigError, match="no address of a service"):
        Client(url)


@pytest.mark.parametrize("changes", [{"lines": 0}, {"attempts": 0}, {"first_wait_s": -1}, {"timeout_s": 0}])
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigError, match=f"client.{next(iter(changes))}"):
        ClientConfig(**changes)
