"""Listeners hear what they asked for, and none of them holds up the engine or the others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import orjson
from hooked_stream import HookedStream
from served import metadata, model_bytes
from serving import BEARER, TOKEN, ask, post, raw, running, tick, wait_ready

from pipeline.client import Client, Event


@contextlib.contextmanager
def listening(url: str, *series: str, end: str = "drain") -> Iterator[list[Event]]:
    """Listen from a thread until an event of the name `end`."""
    heard: list[Event] = []

    def work() -> None:
        with Client(url, TOKEN) as client:
            for event in client.events(series):
                heard.append(event)
                if event.name == end:
                    return

    thread = threading.Thread(target=work)
    before = listeners(url)
    thread.start()
    while listeners(url) == before:
        time.sleep(0.005)
    yield heard
    thread.join(20)
    assert not thread.is_alive()


def listeners(url: str) -> int:
    """Count those who listen."""
    return ask(url, "GET", "/status", headers=BEARER).json["listeners"]


def test_a_listener_hears_the_forecasts_of_its_series() -> None:
    """Forecasts of the named series come, in order and as they were answered, none of others, and then the end."""
    with running() as server:
        wait_ready(server.url)
        with listening(server.url, "A", "B/C") as heard:
            lines = [tick(name, i) for i in range(20) for name in ("A", "AA", "B/C", "B")]
            answer = post(server.url, b"\n".join(lines)).json
            server.stop()
    given = [event.data for event in heard if event.name == "forecast"]
    assert given == [line for line in answer["forecasts"] if line["series"] in {"A", "B/C"}]
    assert heard[-1].name == "drain"


def test_a_repeated_request_is_no_news() -> None:
    """An answer that is given again is told once."""
    with running() as server:
        wait_ready(server.url)
        with listening(server.url, "A") as heard:
            for _ in range(3):
                post(server.url, tick("A", 0), idempotency_key="x")
            server.stop()
    assert [event.name for event in heard].count("forecast") == 1


def test_dead_letters_and_another_model_are_news() -> None:
    """Within seconds all listeners hear how many lines were refused for what, and that another model serves."""
    engine = HookedStream()
    with running(engine) as server:
        wait_ready(server.url)
        with listening(server.url, end="rejects") as heard:
            post(server.url, b"xx\nyy\n" + tick("A", 0) + b"\n" + tick("A", 0))
        assert heard[-1].data == {"malformed": 2, "duplicate": 1}
        with listening(server.url, end="swap") as heard:
            server.desk.ask(lambda _: engine.flip_to(model_bytes(metadata(name="next")), 2)).result(20)
        assert (heard[-1].data["model"], heard[-1].data["version"]) == ("next", 2)


def test_what_is_published_reaches_everybody() -> None:
    """News of other parts go to all who listen."""
    with running() as server:
        wait_ready(server.url)
        with listening(server.url, end="drift") as one, listening(server.url, end="drift") as other:
            server.events.publish("drift", {"series": "A"})
        assert one == other == [Event(name="drift", data={"series": "A"})]


def test_listeners_are_bounded() -> None:
    """One more than may be is told to come later, and a place that is left can be taken."""
    with running(subscribers=1) as server:
        wait_ready(server.url)
        with listening(server.url, end="go"):
            refused = ask(server.url, "GET", "/events", headers=BEARER)
            assert (refused.status, refused.json["error"]) == (503, "listeners")
            server.events.publish("go", {})
        while listeners(server.url):
            time.sleep(0.01)
        with listening(server.url, end="go"):
            server.events.publish("go", {})


def test_who_does_not_read_is_cut_off() -> None:
    """A listener that never reads loses its place, and ticks are answered meanwhile."""
    with running(subscriber_events=1000, send_s=1) as server:
        wait_ready(server.url)
        with raw(
            server.url,
            f"GET /events?series=A HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode(),
        ):
            while not listeners(server.url):
                time.sleep(0.005)
            minute = 0
            while listeners(server.url):
                assert minute < 200_000, "a listener that does not read is kept"
                assert post(server.url, b"\n".join(tick("A", minute + i) for i in range(500))).status == 200
                minute += 500
            for _ in range(1000):
                if ask(server.url, "GET", "/status", headers=BEARER).json["connections"] == 1:
                    break
                time.sleep(0.01)
            assert ask(server.url, "GET", "/status", headers=BEARER).json["connections"] == 1


def test_a_listener_that_leaves_is_noticed() -> None:
    """A connection closed by the client gives its place back."""
    with running() as server:
        wait_ready(server.url)
        with raw(
            server.url, f"GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        ) as opened:
            assert opened.recv(4096).startswith(b"HTTP/1.1 200")
            assert listeners(server.url) == 1
        for _ in range(500):
            if not listeners(server.url):
                break
            time.sleep(0.01)
        assert listeners(server.url) == 0


def test_a_stream_of_events_is_in_the_standard_form() -> None:
    """The answer is an event stream whose events have a name, one line of JSON and a blank line."""
    with running() as server:
        wait_ready(server.url)
        with raw(
            server.url,
            f"GET /events?series=A HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode(),
        ) as opened:
            while not listeners(server.url):
                time.sleep(0.005)
            line = post(server.url, tick("A", 0), accept="application/x-ndjson").body.splitlines()[0]
            server.stop()
            head, _, body = opened.makefile("rb").read().partition(b"\r\n\r\n")
    assert b"text/event-stream" in head
    assert b"event: forecast\ndata: %s\n\n" % line in body
    assert orjson.loads(line)["series"] == "A"


def test_events_can_be_turned_off() -> None:
    """With no place for listeners the route says so; the others work."""
    with running(subscribers=0) as server:
        wait_ready(server.url)
        assert ask(server.url, "GET", "/events", headers=BEARER).status == 503
        assert post(server.url, tick("A", 0)).status == 200
