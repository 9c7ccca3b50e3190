"""The service end to end: a real server, real sockets, real forecasts."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hooked_stream import HookedStream
from served import model_bytes
from serving import BEARER, TOKEN, address, ask, post, raw, running, status_line, tick, wait_ready

from models.errors import ConfigError, DataError, ModelError, TransientError
from models.observation import MEDIAN
from pipeline.limits import ServeConfig
from pipeline.serve import Server
from pipeline.session import Session
from pipeline.stream_core import Core
from pipeline.ticks import Ticks


@pytest.fixture(scope="module")
def url() -> Any:
    """A server that several tests speak to."""
    with running() as server:
        wait_ready(server.url)
        yield server.url


def test_a_forecast_over_http_is_the_one_of_the_model(url: str) -> None:
    """The numbers that come back are the bits of the model's forecast."""
    line = orjson.loads(post(url, tick("bits", 0, 2.5)).body)["forecasts"][0]
    core = Core(Session(model_bytes()), max_series=1)
    quantile = core.apply(Ticks.of([("bits", 1_704_067_200_000_000, 2.5)])).quantile
    assert line["median"] == quantile[0, :, 0, MEDIAN].tolist()
    assert line["quantiles"] == quantile[0, :, 0].tolist()
    assert ask(url, "GET", "/forecasts/bits", headers=BEARER).json == line


def test_three_content_types_give_the_same_forecasts() -> None:
    """Lines, an array, and CSV with a byte order mark hold the same ticks."""
    rows = [("A", i, 1.5 + i) for i in range(3)]
    values = [orjson.loads(tick(*row)) for row in rows]
    csv = "\ufeffseries,time,price\r\n" + "".join(f"{v['series']},{v['time']},{v['price']}\r\n" for v in values)
    bodies = {
        "application/x-ndjson": b"\n".join(tick(*row) for row in rows),
        "application/json; charset=utf-8": orjson.dumps(values, option=orjson.OPT_INDENT_2),
        "text/csv": csv.encode(),
    }
    given = []
    for kind, body in bodies.items():
        with running() as server:
            wait_ready(server.url)
            answer = ask(server.url, "POST", "/ticks", body, BEARER | {"Content-Type": kind})
            assert (answer.status, answer.json["accepted"]) == (200, 3)
            given.append(answer.json["forecasts"])
    assert given[0] == given[1] == given[2]


def test_one_object_is_one_tick(url: str) -> None:
    """A single JSON object, over several lines of text, is taken as one tick."""
    body = orjson.dumps(orjson.loads(tick("one", 0)), option=orjson.OPT_INDENT_2)
    answer = ask(url, "POST", "/ticks", body, BEARER | {"Content-Type": "application/json"})
    assert answer.json["counts"] == {"accepted": 1}


def test_lines_come_back_as_lines_where_they_are_asked_for(url: str) -> None:
    """With Accept, each forecast, each dead letter and the counts are a line of their own."""
    reply = post(url, tick("acc", 0) + b"\nxx\n" + tick("acc", 1), accept="application/x-ndjson")
    first, second, letter, counts = map(orjson.loads, reply.body.splitlines())
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert (first["series"], second["series"], letter["line"]) == ("acc", "acc", 2)
    assert counts == {"accepted": 2, "counts": {"accepted": 2, "malformed": 1}}


@pytest.mark.parametrize("seed", range(5))
def test_no_line_is_an_error(seed: int, url: str) -> None:
    """Random bytes between ticks are dead letters inside a 200, and every line is counted once."""
    rng = random.Random(seed)
    lines = [rng.choice([rng.randbytes(40).replace(b"\n", b""), tick(f"r{seed}", i)]) for i in range(200)]
    answer = post(url, b"\n".join(lines) + b"\n")
    assert answer.status == 200
    assert sum(answer.json["counts"].values()) == len(lines)
    assert (
        len(answer.json["forecasts"]) == answer.json["accepted"] == sum(line.startswith(b'{"series"') for line in lines)
    )


@pytest.mark.parametrize("body", [b'[null, 5, [], {}, "x", {"series": 1, "time": [], "price": {}}]', b"7", b"[]"])
def test_json_values_that_are_no_ticks_are_dead_letters(body: bytes, url: str) -> None:
    """Whatever stands in the array, each value is a line."""
    answer = ask(url, "POST", "/ticks", body, BEARER | {"Content-Type": "application/json"})
    values = orjson.loads(body) if body.startswith(b"[") else [7]
    assert answer.status == 200
    assert len(answer.json["refused"]) == len(values)


def test_the_same_id_gets_the_same_answer(url: str) -> None:
    """Sent again, a request gives the same bytes, says so, and moves nothing."""
    first = post(url, tick("again", 0), idempotency_key="k-1")
    second = post(url, tick("again", 0), idempotency_key="k-1")
    assert first.body == second.body
    assert (first.headers.get("idempotency-replayed"), second.headers.get("idempotency-replayed")) == (None, "true")
    assert post(url, tick("again", 0)).json["counts"] == {"duplicate": 1}


def test_series_are_listed_in_pages(url: str) -> None:
    """Pages come in the order of first ticks, names hold slashes, and the last page says that it is the last."""
    post(url, b"\n".join(tick(f"page/{i}", 0) for i in (3, 1, 4, 0, 2)))
    names, after = [], ""
    while after is not None:
        page = ask(url, "GET", f"/series?after={after}&limit=2", headers=BEARER).json
        names += [entry["name"] for entry in page["series"]]
        after = page["next"]
    assert names[-5:] == [f"page/{i}" for i in (3, 1, 4, 0, 2)]
    assert len(names) == len(set(names))
    assert ask(url, "GET", "/series?after=never&limit=2", headers=BEARER).json == {"series": [], "next": None}
    assert ask(url, "GET", "/forecasts/page%2F3", headers=BEARER).json["series"] == "page/3"
    assert ask(url, "GET", "/forecasts/page/3", headers=BEARER).json["series"] == "page/3"
    assert ask(url, "GET", "/forecasts/page", headers=BEARER).status == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", f"after={'x' * 65}"])
def test_parameters_out_of_range_are_refused(query: str, url: str) -> None:
    """The answer names the parameter."""
    answer = ask(url, "GET", f"/series?{query}", headers=BEARER)
    assert answer.status == 400
    assert query.split("=", maxsplit=1)[0] in answer.json["sentence"]


@pytest.mark.parametrize("key", ["", "x" * 129, "caf\u00e9", "tab\tx"])
def test_an_id_that_does_not_fit_is_refused(key: str, url: str) -> None:
    """An id is 1 to 128 printable ASCII characters."""
    assert post(url, tick("key", 0), idempotency_key=key).status == 400


REFUSED = {
    415: [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}, {"Content-Type": "text/csv; charset=latin-1"}],
    413: [{"Content-Length": str(10**12)}],
    400: [{"Transfer-Encoding": "chunked", "Content-Length": "1"}, {"Content-Length": "-1"}, {"Content-Length": "x"}],
    411: [{}],
}


@pytest.mark.parametrize(("status", "extra"), [(s, extra) for s, extras in REFUSED.items() for extra in extras])
def test_bodies_that_cannot_be_taken_are_refused_before_they_are_read(status: int, extra: dict, url: str) -> None:
    """Type, compression and announced length are looked at first; no byte of a body is waited for."""
    headers = {"Host": "localhost", **BEARER, "Content-Type": "application/x-ndjson"}
    if status in {415}:
        headers["Content-Length"] = "100"
    head = "".join(f"{name}: {value}\r\n" for name, value in (headers | extra).items())
    assert status_line(f"POST /ticks HTTP/1.1\r\n{head}\r\n".encode(), url).split()[1] == str(status).encode()


def test_json_that_breaks_off_takes_nothing(url: str) -> None:
    """An array cut in the middle is refused as a whole, and its first tick was not taken."""
    kind = BEARER | {"Content-Type": "application/json"}
    assert ask(url, "POST", "/ticks", b"[" + tick("broken", 0) + b",", kind).status == 400
    assert ask(url, "GET", "/forecasts/broken", headers=BEARER).status == 404


def test_csv_without_a_header_is_refused(url: str) -> None:
    """Rows whose columns are not named are not guessed at."""
    assert ask(url, "POST", "/ticks", "A,2024-01-01,1\n", BEARER | {"Content-Type": "text/csv"}).status == 400


def test_a_body_without_end_is_cut_early() -> None:
    """A gigabyte in chunks is refused after about the bound, and the sender can read why."""
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with running(body_bytes=2**20) as server:
        wait_ready(server.url)
        head = f"POST /ticks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        sent = 0
        opened = raw(server.url, f"{head}Content-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        with opened, contextlib.suppress(ConnectionError):
            for _ in range(2**14):
                opened.sendall(chunk)
                sent += 65_536
        assert sent < 64 * 2**20
        whole = ask(server.url, "POST", "/ticks", iter([b" " * 65_536] * 20), BEARER | {"Content-Type": "text/csv"})
        assert (whole.status, whole.json["error"]) == (413, "body")


def test_lines_of_a_request_are_bounded() -> None:
    """A body of short lines within the bound of bytes has a bound of lines."""
    with running(request_lines=10) as server:
        wait_ready(server.url)
        assert post(server.url, b"x\n" * 10).status == 200
        assert post(server.url, b"x\n" * 11).status == 413
        array = orjson.dumps([0] * 11)
        kind = BEARER | {"Content-Type": "application/json"}
        assert ask(server.url, "POST", "/ticks", array, kind).json["error"] == "lines"


def test_all_bodies_together_are_bounded() -> None:
    """While bodies that are held fill the memory, a further one is told to come again; afterwards it is taken."""
    with running(held_bytes=100_000, body_bytes=100_000) as server:
        wait_ready(server.url)
        head = f"POST /ticks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: text/csv\r\n"
        with raw(server.url, f"{head}Content-Length: 90001\r\n\r\n".encode() + b" " * 90_000) as opened:
            while server._service.held.bytes < 90_000:
                time.sleep(0.001)
            refused = post(server.url, b" " * 20_000)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            opened.sendall(b" ")
            assert opened.recv(12) == b"HTTP/1.1 200"
        assert post(server.url, b" " * 20_000).status == 200


def test_more_than_the_queue_holds_is_told_to_come_again() -> None:
    """Requests above the bound get 429 with a time, none is lost, and none is taken that was refused."""
    gate, busy, engine = threading.Event(), threading.Event(), HookedStream()
    engine.before = lambda _: busy.set() or assert_set(gate)
    with running(engine, queue_requests=3) as server:
        wait_ready(server.url)
        replies: list[Any] = []
        senders = [
            threading.Thread(target=lambda i=i: replies.append(post(server.url, tick(f"q{i}", 0)))) for i in range(12)
        ]
        senders[0].start()
        assert_set(busy)
        for sender in senders[1:]:
            sender.start()
        while len(replies) < 8:
            time.sleep(0.005)
        assert {reply.status for reply in replies} == {429}
        assert all(reply.headers["retry-after"] == "1" for reply in replies)
        assert ask(server.url, "GET", "/healthz").status == 200
        gate.set()
        for sender in senders:
            sender.join(20)
    assert sorted(reply.status for reply in replies) == [200] * 4 + [429] * 8
    assert len(engine.names) == 4


def assert_set(gate: threading.Event) -> None:
    """Wait for an event."""
    assert gate.wait(20)


def test_an_engine_that_opens_slowly_is_said_to_start() -> None:
    """Until the engine is open the process is alive and not ready, and ticks are told to come again."""
    gate = threading.Event()

    def opened() -> HookedStream:
        assert gate.wait(20)
        return HookedStream()

    with running(opened) as server:
        assert ask(server.url, "GET", "/healthz").json == {"standing": "starting"}
        assert ask(server.url, "GET", "/readyz").status == 503
        early = post(server.url, tick("A", 0))
        assert (early.status, early.headers["retry-after"]) == (503, "1")
        assert ask(server.url, "GET", "/status", headers=BEARER).json["engine"] is None
        assert b"statecast_ready 0.0" in ask(server.url, "GET", "/metrics", headers=BEARER).body
        gate.set()
        wait_ready(server.url)
        assert post(server.url, tick("A", 0)).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(TransientError("disk full"), 503), (DataError("the id is of others"), 409), (ModelError("no model"), 500)],
)
def test_what_the_engine_refuses_has_a_status(error: Exception, status: int) -> None:
    """A refusal that may pass is 503, one of the data 409, one of the model 500; the engine goes on."""
    errors = [error]

    def before(_: Any) -> None:
        if errors:
            raise errors.pop()

    with running(HookedStream(before=before)) as server:
        wait_ready(server.url)
        refused = post(server.url, tick("A", 0))
        assert (refused.status, refused.json["sentence"]) == (status, str(error))
        assert post(server.url, tick("A", 0)).json["counts"] == {"accepted": 1}


def test_an_engine_that_fails_ends_the_server() -> None:
    """After an error that nobody raised on purpose nothing more is taken: the server ends and says why."""
    engine = HookedStream()

    def before(_: Any) -> None:
        raise ZeroDivisionError("a bug")

    engine.before = before

    def serve() -> None:
        with running(engine) as server:
            wait_ready(server.url)
            assert post(server.url, tick("A", 0)).status == 503
            assert server.desk.join(20)

    with pytest.raises(TransientError, match="a bug"):
        serve()
    assert engine.closed


def test_every_call_of_the_engine_comes_from_its_thread() -> None:
    """Requests, reads and background work of many clients reach the engine from one thread."""
    engine = HookedStream()
    with running(engine) as server:
        wait_ready(server.url)

        def work(i: int) -> None:
            post(server.url, tick(f"t{i}", 0))
            ask(server.url, "GET", f"/forecasts/t{i}", headers=BEARER)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(engine.threads) == 1
    assert engine.tended > 0
    assert engine.closed


def test_an_address_that_others_can_reach_needs_a_token() -> None:
    """Without a token only a loopback address is bound, and nothing listens when it is refused."""
    with pytest.raises(ConfigError, match="no token is set"):
        Server(HookedStream, ServeConfig(host="0.0.0.0", port=0))  # noqa: S104  refused, which is the point
    with pytest.raises(ConfigError, match="no token is set"):
        Server(HookedStream, ServeConfig(host="::", port=0))
    with running(host="0.0.0.0", token=TOKEN) as server:  # noqa: S104
        assert ask(f"http://127.0.0.1:{address(server.url)[1]}", "GET", "/healthz").status == 200


def test_an_address_in_use_is_refused() -> None:
    """Two servers do not share a port, and the message names it."""
    with running() as server:
        port = address(server.url)[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            Server(HookedStream, ServeConfig(port=port))


def test_loopback_without_a_token_is_served_and_guarded_from_pages() -> None:
    """Where no token is set, a local program may post, and a page of another site may not."""
    with running(token=None) as server:
        wait_ready(server.url)
        assert ask(server.url, "POST", "/ticks", tick("A", 0), {"Content-Type": "application/x-ndjson"}).status == 200
        for extra in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            headers = {"Content-Type": "application/x-ndjson"} | extra
            assert ask(server.url, "POST", "/ticks", tick("A", 1), headers).status == 403
        assert ask(server.url, "GET", "/status", headers={"Host": "rebound.example"}).status == 400


_CHILD = """
import sys
from hooked_stream import HookedStream, slow
from pipeline.limits import ServeConfig, find_token
from pipeline.serve import Server
engine = HookedStream(before=lambda _: print("busy", flush=True) or slow(float(sys.argv[1]))(_))
try:
    Server(lambda: engine, ServeConfig(port=0, token=find_token(None), drain_s=int(sys.argv[2]))).run(
        lambda url: print(url, flush=True)
    )
finally:
    print(engine.counts.total(), engine.closed, flush=True)
"""


@contextlib.contextmanager
def child(seconds: float, drain_s: int, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve in a process of its own, which is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(seconds), str(drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}",
            "STATECAST_TOKEN": TOKEN,
            "TMPDIR": str(folder),
        },
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        wait_ready(url)
        yield process, url
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals, tmp_path: Path) -> None:
    """What was accepted before the signal is answered, what comes after is not taken, and the process ends with 0."""
    replies: list[int] = []
    with child(0.3, 20, tmp_path) as (process, url):

        def send(i: int) -> None:
            try:
                replies.append(post(url, tick(f"s{i}", 0)).status)
            except OSError:
                replies.append(0)

        senders = [threading.Thread(target=send, args=(i,)) for i in range(10)]
        for sender in senders:
            sender.start()
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        time.sleep(0.1)
        process.send_signal(number)
        for sender in senders:
            sender.join(20)
        out, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
    assert out.split()[-2:] == [str(replies.count(200)).encode(), b"True"]
    assert replies.count(200) > 1
    assert TOKEN.encode() not in log + out
    with pytest.raises(ConnectionRefusedError):
        ask(url, "GET", "/healthz")


def test_an_engine_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    """Where draining takes longer than it may, the process ends all the same, and not with 0."""
    with child(30, 1, tmp_path) as (process, url):
        head = f"POST /ticks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n"
        with raw(url, f"{head}Content-Type: text/csv\r\n\r\n".encode()):
            time.sleep(0.2)
            begun = time.monotonic()
            process.terminate()
            _, log = process.communicate(timeout=20)
        assert process.returncode not in {0, None}
    assert time.monotonic() - begun < 15
    assert b"has not ended within 1 s" in log
