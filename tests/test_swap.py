"""A champion takes over while ticks come: none is lost or doubled, and a kill leaves the old one or the new one."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from onnx import numpy_helper
from served import metadata, model_bytes, proto
from serving import TOKEN, running, wait_ready
from spoiled import with_covariates
from swapping import (
    CONFIG,
    LINES,
    died,
    ended,
    flipped,
    lineup,
    moves,
    notes,
    quiet,
    started,
    take,
    versions,
    warmed,
    with_history,
)
from ticking import HOUR, US, tick
from variants import reading

from models.errors import DataError
from pipeline import champions
from pipeline.client import Client, ClientConfig
from pipeline.desk import Desk, Standing
from pipeline.lineup import Lineup, published
from pipeline.stream import Stream


def broken_weights() -> bytes:
    """Build a model one of whose weights is no number."""
    model = proto(metadata(name="nan"))
    weight = next(x for x in model.graph.initializer if x.name == "tiny")
    weight.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "tiny"))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def publish(folder: Path, version: int) -> champions.Published:
    """Publish the models that `swapping.lineup` has under a version."""
    chosen = lineup(version)
    return champions.publish(folder, "fx", chosen.serving, beside=chosen.beside)


def point_by_hand(folder: Path, data: bytes, version: int) -> None:
    """Make bytes that are no model the champion, as only a broken publisher would; nobody can go back to the last."""
    sha256 = hashlib.sha256(data).hexdigest()
    entry = {"file": f"fx-{sha256[:12]}.onnx", "sha256": sha256, "version": version, "fields": {}}
    (folder / entry["file"]).write_bytes(data)
    before = orjson.loads((folder / "fx.json").read_bytes())
    kept = [one for one in (*before["history"], before["champion"]) if one["version"] <= 2]
    (folder / "fx.json").write_bytes(orjson.dumps({"champion": entry, "history": kept}))


class Load:
    """A client that posts as fast as it can, ten series hour after hour, and keeps every answer."""

    def __init__(self, url: str) -> None:
        self.url, self.sent, self.answers, self.stop = url, [], [], threading.Event()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def ticks(self) -> Iterator[tuple[str, int, float]]:
        """Give ticks until it is enough."""
        rng, hour, price = random.Random(1), 0, [100.0] * 10
        while not self.stop.is_set():
            for i in range(10):
                price[i] *= 1 + 0.01 * rng.gauss(0, 1)
                self.sent.append((f"S{i}", US + hour * HOUR, price[i]))
                yield self.sent[-1]
            hour += 1

    def work(self) -> None:
        """Send."""
        with Client(self.url, TOKEN, config=ClientConfig(lines=50)) as client:
            self.answers.extend(client.send(self.ticks(), request="load"))

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def told(url: str, journal: Path, condition: Callable[[dict, list[dict]], bool]) -> None:
    """Wait until the status and the notes are as wished."""
    with Client(url, TOKEN) as client:
        until = time.monotonic() + 40
        while not condition(client.status()["engine"], notes(journal)):
            assert time.monotonic() < until, (client.status()["engine"], notes(journal)[-3:])
            time.sleep(0.05)


def test_champions_change_under_load(tmp_path: Path) -> None:
    """While a client never stops, good ones take over, bad ones are refused, one is rolled back; nothing is lost."""
    folder = tmp_path / "champions"
    kept: dict[int, Lineup] = {1: published(folder, publish(folder, 1))}
    config = with_history(64)

    def opened() -> Stream:
        return started(tmp_path, config, kept[1], folder)

    with running(opened) as server:
        wait_ready(server.url)
        load = Load(server.url)
        kept[2] = published(folder, publish(folder, 2))
        told(server.url, tmp_path, lambda status, _: status["version"] == 2 and status["beside"] == ["last"])
        for number, publisher in enumerate(
            [
                lambda: champions.publish(folder, "fx", broken_weights()),
                lambda: champions.publish(folder, "fx", reading()),
                lambda: point_by_hand(folder, b"\x80\x04cos\nsystem\n.", 5),
            ],
            start=1,
        ):
            publisher()
            told(server.url, tmp_path, lambda _, all_, n=number: [x["kind"] for x in all_].count("swap_refused") == n)
        kept[6] = published(folder, champions.rollback(folder, "fx"))
        told(server.url, tmp_path, lambda status, _: status["version"] == 6)
        load.end()
    reasons = [note["why"] for note in notes(tmp_path, "swap_refused")]
    assert [note["version"] for note in notes(tmp_path, "swap_refused")] == [3, 4, 5]
    assert "is not finite" in reasons[0]
    assert "needs load" in reasons[1]
    assert [move.version for move in moves(tmp_path)] == [2, 6]
    check_load(load)
    lines = [tick(name, (time_ - US) / HOUR, price) for name, time_, price in load.sent]
    (tmp_path / "quiet").mkdir()
    again = quiet(tmp_path / "quiet", lines, moves(tmp_path), config, kept.__getitem__)
    assert again.out == (tmp_path / "out.jsonl").read_bytes()


def check_load(load: Load) -> None:
    """Every tick has one forecast, in order; each answer is of one version, and versions only grow."""
    forecasts = [line for answer in load.answers for line in answer.forecasts]
    assert [line["series"] for line in forecasts] == [name for name, _, _ in load.sent]
    moments = [np.datetime64(line["origin_time"][:-1], "us").astype(np.int64) for line in forecasts]
    assert moments == [moment for _, moment, _ in load.sent]
    served = [{line["version"] for line in answer.forecasts} for answer in load.answers]
    assert {len(one) for one in served} == {1}
    by_series = defaultdict(list)
    for line in forecasts:
        by_series[line["series"]].append(line["version"])
    assert all(run == sorted(run) for run in by_series.values())
    assert {line["version"] for line in forecasts} >= {1, 2}


def test_a_champion_may_read_the_calendar(tmp_path: Path) -> None:
    """Columns of the calendar come with no tick, and a model that reads them takes over all the same."""
    stream = watched(tmp_path)
    champions.publish(tmp_path / "champions", "fx", with_covariates("@weekday", "@hour"))
    tend(stream, lambda: stream.head.version == 2)
    take(stream, [tick("A")])
    assert stream.head.counts["accepted"] == 1
    stream.close()


def watched(folder: Path) -> Stream:
    """Open a stream that follows a champion, which is version 1."""
    if not (folder / "champions").exists():
        publish(folder / "champions", 1)
    first = published(folder / "champions", champions.current(folder / "champions", "fx"))
    return started(folder, CONFIG, first, folder / "champions")


def tend(stream: Stream, done: Callable[[], bool]) -> None:
    """Let a stream do its own work until something is so."""
    until = time.monotonic() + 40
    while not done():
        assert time.monotonic() < until
        if not stream.tend():
            time.sleep(0.01)


def test_a_stream_that_ends_while_a_champion_is_tried_takes_it_over_later(tmp_path: Path) -> None:
    """The process that tries the file is gone with the stream, and the next start tries it again."""
    stream = watched(tmp_path)
    take(stream, [tick("A")])
    publish(tmp_path / "champions", 2)
    tend(stream, lambda: stream.swap._vetting is not None)
    process = stream.swap._vetting._process
    stream.close()
    assert process.poll() is not None
    again = started(tmp_path)
    assert again.head.version == 1
    again.close()
    again = watched(tmp_path)
    tend(again, lambda: again.head.version == 2)
    again.close()


@pytest.mark.parametrize("kind", ["announced", "warmed", "swap"])
def test_a_disk_that_fails_in_a_swap_ends_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit follows one that failed: the desk ends with the error, and the next start is whole."""
    stream = watched(tmp_path)
    take(stream, LINES[:60])
    commit = stream.journal.commit

    def failing(batch: Any, models: Any = ()) -> None:
        what = batch.head["notes"][0]["kind"] if batch.head["notes"] else "warmed"
        if what == kind and batch.head["batch"] > 2:
            raise DataError("journal: cannot be written (disk full)")
        commit(batch, models)

    monkeypatch.setattr(stream.journal, "commit", failing)
    desk = Desk(lambda: stream, tend_s=0.001)
    desk.start()
    publish(tmp_path / "champions", 2)
    assert desk.join(30)
    assert (desk.standing, stream.broken) == (Standing.FAILED, True)
    assert "disk full" in str(desk.failure)
    again = started(tmp_path)
    assert again.head.version == 1
    assert [note["kind"] for note in notes(tmp_path)] == ["announced"] * (kind != "announced")
    again.announce(lineup(2))
    warmed(again)
    again.flip()
    again.close()


def test_a_newer_champion_is_stale_no_longer(tmp_path: Path) -> None:
    """The age counts from the model that serves: with a swap the mark goes, from the last and the next forecast."""
    old, new = (model_bytes(metadata(cutoff_time=f"{year}-12-31T00:00:00Z")) for year in (2022, 2023))
    stream = started(tmp_path, replace(CONFIG, expires="180d"), Lineup(version=1, serving=old))
    for version, at, stale in ((1, 0, True), (2, 1, False)):
        if version == 2:
            stream.announce(Lineup(version=2, serving=new))
            flipped(stream)
            assert stream.status()["stale"] is False
            assert b'"stale"' not in (stream.latest("AAA") or b"")
        take(stream, [tick("AAA", at)], at)
        assert (b'"stale":true' in (stream.latest("AAA") or b"")) == stale
    stream.close()
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line).get("stale", False) for line in lines] == [True, False]


def test_a_champion_that_cannot_be_warmed_is_withdrawn(tmp_path: Path) -> None:
    """It is told of, waits for nothing more, and the journal forgets as if it had never been."""
    stream = watched(tmp_path)
    take(stream, LINES[:60])
    with stream.history.path.open("r+b") as ring:
        ring.write(bytes(stream.history.path.stat().st_size))
    publish(tmp_path / "champions", 2)
    tend(stream, lambda: bool(notes(tmp_path, "swap_refused")))
    assert "is not there or is damaged" in notes(tmp_path, "swap_refused")[0]["why"]
    assert notes(tmp_path, "swap_refused")[0]["version"] == 2
    assert stream.status()["swap"] is None
    take(stream, LINES[60:], 60)
    stream.rest()
    assert stream.journal.span() == (stream.head.batch, stream.head.batch)
    assert stream.journal.models(2) == {}
    stream.close()


def test_a_death_while_a_champion_is_warmed_does_not_harm_the_next_try(tmp_path: Path) -> None:
    """What was begun is forgotten, its numbers are given again, and the journal opens after each end."""
    stream = started(tmp_path)
    take(stream, LINES[:40])
    for at in (40, 60, 80):
        stream.announce(lineup(2))
        warmed(stream)
        died(stream)
        stream = started(tmp_path)
        take(stream, LINES[at : at + 20], at)
        stream.ledger.settle(stream.head.batch)
    assert stream.head.version == 1
    stream.announce(lineup(2))
    flipped(stream)
    stream.close()
    again = started(tmp_path)
    assert again.head.version == 2
    again.close()


def test_a_swap_may_follow_a_swap(tmp_path: Path) -> None:
    """Each begins where it is announced, one that was announced before and never served leaves nothing."""
    stream = started(tmp_path)
    for k, version in enumerate((2, 3, 4)):
        take(stream, LINES[30 * k : 30 * k + 30], 30 * k)
        stream.announce(lineup(version + 1))
        stream.warm(0.0)
        stream.announce(lineup(version))
        warmed(stream)
        stream.flip()
    take(stream, LINES[90:], 90)
    left = ended(stream, tmp_path)
    (tmp_path / "quiet").mkdir()
    assert left == quiet(tmp_path / "quiet", LINES, moves(tmp_path))
    assert set(versions(left.out).tolist()) == {1, 2, 3, 4}


def test_what_serves_no_more_is_forgotten(tmp_path: Path) -> None:
    """After a swap and a settling the journal holds the files and pages of the new lineup alone."""
    stream = started(tmp_path)
    take(stream, LINES[:50])
    stream.announce(lineup(2))
    warmed(stream)
    stream.flip()
    stream.ledger.settle(stream.head.batch)
    assert stream.journal.models(1) == {}
    assert set(stream.journal.models(2)) == {"serving", "last"}
    assert model_bytes(metadata(name="last")) == stream.journal.models(2)["last"][1]
    stream.close()
