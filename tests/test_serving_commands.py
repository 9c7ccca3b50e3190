"""`statecast serve` and `statecast reconcile` as real processes: killed, drained, out of disk, with a new champion."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from serving import NDJSON, Reply, ask, wait_ready
from swapping import lineup, moves, notes, quiet, take, versions
from ticking import feed, split, tick

from pipeline import champions
from pipeline.lineup import Lineup, published
from pipeline.prices import PriceStore
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig

LINES = [line for line in feed(120, 9).split(b"\n") if line.strip()]


@dataclass(kw_only=True)
class Desk:
    """A data folder with a champion, and what is asked of it."""

    folder: Path
    settings: tuple[str, ...] = ()

    def command(self, verb: str, *given: object) -> list[str]:
        """Give the command of a verb in this folder."""
        start = [sys.executable, "-c", "from flows.cli import main; main()", verb]
        return [*start, *map(str, given), "--folder", str(self.folder), *self.settings]

    def call(self, verb: str, *given: object) -> tuple[int, str, str]:
        """Run a verb to its end: exit code, output, errors."""
        done = subprocess.run(self.command(verb, *given), capture_output=True, timeout=60, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    @contextlib.contextmanager
    def serving(self, *given: object, limit: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        """Serve; the process is gone at the end. `limit` is the largest file that it may write."""

        def bound() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        out = ("--out", self.folder / "out.jsonl")
        process = subprocess.Popen(
            self.command("serve", "--port", 0, *out, *given),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={name: x for name, x in os.environ.items() if name != "STATECAST_TOKEN"},
            preexec_fn=bound,  # noqa: PLW1509  this process has no other thread yet
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline().decode()
            assert line.startswith("serving at http://127.0.0.1:"), line
            url = line.split()[2].rstrip(",")
            wait_ready(url)
            yield process, url
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A data folder whose champion is version 1."""
    publish(tmp_path, 1)
    settings = (
        "-s",
        "champion=fx",
        "-s",
        "stream.rules.jump=accept",
        "-s",
        "stream.burn_in=3",
        "-s",
        "stream.history=8",
    )
    return Desk(folder=tmp_path, settings=settings)


def publish(folder: Path, version: int) -> Lineup:
    """Publish what `swapping.lineup` has under a version."""
    chosen = lineup(version)
    return published(
        folder / "champions", champions.publish(folder / "champions", "fx", chosen.serving, beside=chosen.beside)
    )


def post(url: str, lines: list[bytes], key: str) -> Reply:
    """Send lines under an id, and ask for lines."""
    headers = {"Accept": "application/x-ndjson", "Idempotency-Key": key}
    return ask(url, "POST", "/ticks", b"\n".join(lines), NDJSON | headers)


def forecasts(reply: Reply) -> bytes:
    """Give the forecasts of an answer in lines."""
    return b"".join(line for line in reply.body.splitlines(keepends=True) if line.startswith(b'{"series"'))


def alone(lines: list[bytes], folder: Path) -> bytes:
    """Give the forecasts of a quiet run."""
    folder.mkdir()
    return quiet(folder, lines, ()).out


def test_a_killed_server_answers_the_same_again(desk: Desk) -> None:
    """After kill -9 an id has its answer, other lines under it are refused, and forecasts go on as if undisturbed."""
    given = b""
    with desk.serving() as (process, url):
        for i in range(0, 60, 20):
            reply = post(url, LINES[i : i + 20], f"job-{i}")
            assert reply.status == 200
            given += forecasts(reply)
        latest = ask(url, "GET", "/forecasts/AAA").body
        process.kill()
        assert process.wait() == -signal.SIGKILL
    with desk.serving() as (process, url):
        again = post(url, LINES[40:60], "job-40")
        assert (again.body, again.headers["idempotency-replayed"]) == (reply.body, "true")
        assert ask(url, "GET", "/forecasts/AAA").body == latest
        other = post(url, LINES[60:80], "job-40")
        assert (other.status, other.json["error"]) == (409, "conflict")
        given += forecasts(post(url, LINES[60:], "job-60"))
        process.terminate()
        assert process.wait(20) == 0
    assert given == (desk.folder / "out.jsonl").read_bytes() == alone(LINES, desk.folder / "quiet")


def test_sigterm_answers_what_was_accepted(desk: Desk) -> None:
    """While clients post, a signal ends the server with 0: what was answered is in the file, and nothing else is."""
    replies: dict[str, Reply] = {}

    def work(name: str) -> None:
        with contextlib.suppress(OSError):
            for hour in range(10_000):
                reply = post(url, [tick(name, hour)], f"{name}-{hour}")
                if reply.status != 200:
                    return
                replies[f"{name}-{hour}"] = reply

    with desk.serving() as (process, url):
        threads = [threading.Thread(target=work, args=(f"T{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        while len(replies) < 20:
            time.sleep(0.01)
        process.terminate()
        for thread in threads:
            thread.join(20)
        assert process.wait(20) == 0
    answered = b"".join(forecasts(reply) for reply in replies.values())
    written = (desk.folder / "out.jsonl").read_bytes()
    assert sorted(answered.splitlines()) == sorted(written.splitlines())


def test_a_full_disk_ends_the_server(desk: Desk) -> None:
    """The request that cannot be committed is told so, the process ends with an error, and the next one goes on."""
    with desk.serving() as (process, url):
        assert post(url, LINES[:20], "a").status == 200
        process.terminate()
        assert process.wait(20) == 0
    size = (desk.folder / "journal" / "journal.sqlite").stat().st_size
    with desk.serving(limit=size + 100_000) as (process, url):
        for i in range(10_000):
            reply = post(url, [tick(f"S{i}-{k}") for k in range(50)], f"more-{i}")
            if reply.status != 200:
                break
        assert (reply.status, reply.json["error"]) == (503, "engine")
        assert process.wait(20) not in {0, -signal.SIGKILL}
        assert process.stderr is not None
        assert b"cannot be written" in process.stderr.read()
    with desk.serving() as (process, url):
        again = post(url, [tick(f"S{i}-{k}") for k in range(50)], f"more-{i}")
        assert again.body.endswith(b'{"accepted":50,"counts":{"accepted":50}}\n')
        process.terminate()
        assert process.wait(20) == 0
    lines = LINES[:20] + [tick(f"S{n}-{k}") for n in range(i + 1) for k in range(50)]
    assert (desk.folder / "out.jsonl").read_bytes() == alone(lines, desk.folder / "quiet")


def test_a_champion_takes_over_and_a_kill_only_delays_it(desk: Desk) -> None:
    """Killed when the new version is announced, and when it serves: the next server serves it; bits of a quiet run."""
    at = 20
    with desk.serving() as (process, url):
        post(url, LINES[:at], "begin")
        kept = {1: lineup(1), 2: publish(desk.folder, 2)}
        while not notes(desk.folder, "announced"):
            post(url, LINES[at : at + 1], f"line-{at}")
            at += 1
            time.sleep(0.03)
        process.kill()
        process.wait()
    with desk.serving() as (process, url):
        while ask(url, "GET", "/status").json["engine"]["version"] != 2:
            time.sleep(0.02)
        process.kill()
        process.wait()
    with desk.serving() as (process, url):
        status = ask(url, "GET", "/status").json["engine"]
        assert (status["version"], status["model"], status["beside"]) == (2, "even-2", ["last"])
        post(url, LINES[at:], "rest")
        process.terminate()
        assert process.wait(20) == 0
    out = (desk.folder / "out.jsonl").read_bytes()
    (desk.folder / "quiet").mkdir()
    assert quiet(desk.folder / "quiet", LINES, moves(desk.folder), of=kept.__getitem__).out == out
    assert (np.diff(versions(out)) >= 0).all()
    assert set(versions(out).tolist()) == {1, 2}


def stored(folder: Path, prices: dict[int, float]) -> None:
    """Write prices of series A by hour to the price store."""
    moments = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in prices]
    columns = {"series_id": ["A"] * len(prices), "time": moments, "available_time": moments}
    form = dict.fromkeys(("time", "available_time"), pl.Datetime("us", "UTC"))
    frame = pl.DataFrame(columns | {"price": list(prices.values())}, schema_overrides=form)
    PriceStore(folder / "prices").write(frame)


def latest(desk: Desk, *given: object) -> bytes:
    """Serve, and give the last forecast of series A."""
    with desk.serving(*given) as (process, url):
        body = ask(url, "GET", "/forecasts/A").body
        process.terminate()
        assert process.wait(20) == 0
    return body


def test_restated_prices_are_taken_over_by_command(desk: Desk) -> None:
    """The verb waits for no running server, says how many ticks it took, and leaves the states of those prices."""
    lines = [tick(name, hour, 100.0 + hour % 5) for hour in range(30) for name in ("A", "B")]
    stored(desk.folder, {hour: 50.0 + hour % 7 for hour in range(40)})
    with desk.serving() as (process, url):
        assert post(url, lines, "all").status == 200
        code, _, said = desk.call("reconcile", "A")
        assert (code, f"process {process.pid} has it open" in said) == (4, True)
        process.terminate()
        assert process.wait(20) == 0
    before = (desk.folder / "out.jsonl").read_bytes()
    code, out, said = desk.call("reconcile", "A", "--json")
    assert (code, orjson.loads(out or "null")) == (0, {"A": 30}), said
    code, _, said = desk.call("reconcile", "never")
    assert (code, "never" in said) == (3, True)
    true = Stream(lineup(1), StreamConfig(burn_in=3))
    told = [tick("A", hour, 50.0 + hour % 7) for hour in range(30)]
    take(true, told)
    assert latest(desk) == true.latest("A")
    assert (desk.folder / "out.jsonl").read_bytes() == before


def test_a_warm_server_begins_with_the_store(desk: Desk) -> None:
    """A new journal with --warm has a forecast before the first tick: that of a stream that took the store in."""
    prices = {hour: 50.0 + hour % 7 for hour in range(40)}
    stored(desk.folder, prices)
    true = Stream(publish(desk.folder, 1), StreamConfig(burn_in=3))
    take(true, [tick("A", hour, price) for hour, price in prices.items()])
    expected = orjson.loads(true.latest("A") or b"null")
    told = orjson.loads(latest(desk, "--warm"))
    assert {k: v for k, v in told.items() if k != "version"} == {k: v for k, v in expected.items() if k != "version"}


def test_adjustments_come_by_request_and_by_file(desk: Desk) -> None:
    """A split moves the states alike from both, counts as adjusted, and gives no forecast of its own."""
    lines = [tick("A", hour, 100.0 + hour % 3) for hour in range(10)] + [
        split("A", 9.5),
        split("A", 9.5),
        split("no", 1),
    ]
    lines += [tick("A", hour, (100.0 + hour % 3) / 2) for hour in range(10, 14)]
    with desk.serving() as (process, url):
        reply = post(url, lines, "all")
        process.terminate()
        assert process.wait(20) == 0
    counts: dict[str, Any] = orjson.loads(reply.body.splitlines()[-1])["counts"]
    assert counts == {"accepted": 14, "adjusted": 1, "duplicate": 1, "unknown": 1}
    (desk.folder / "ticks.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    code, _, said = desk.call(
        "stream", desk.folder / "ticks.jsonl", "--out", desk.folder / "file.jsonl", "--journal", desk.folder / "other"
    )
    assert code == 0, said
    assert (desk.folder / "file.jsonl").read_bytes() == forecasts(reply) == (desk.folder / "out.jsonl").read_bytes()
