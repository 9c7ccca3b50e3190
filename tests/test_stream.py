"""A run over lines gives the same bytes however it is cut, killed and resumed."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from served import HORIZON, metadata, model_bytes
from streamed import (
    LINEUP,
    PAIR,
    QUICK,
    StoppedError,
    begin,
    carried,
    full,
    given,
    going_on,
    leave,
    read_files,
    run_file,
)
from ticking import BESIDE, HOUR, LINES, US, feed, split, tick

from models.errors import ConfigError, DataError, IntegrityError, ModelError
from models.observation import LEVELS
from pipeline import drive
from pipeline.intake import blocks, source_of
from pipeline.lines import Block
from pipeline.lineup import Lineup
from pipeline.outputs import FileOutput, PipeOutput
from pipeline.rendering import TEXT_BYTES
from pipeline.rules import RuleConfig
from pipeline.session import Session
from pipeline.stream import Past, Stream
from pipeline.stream_config import StreamConfig
from pipeline.stream_core import Core
from pipeline.ticks import Layout, Ticks, parser


def test_a_forecast_line_holds_what_the_model_gave() -> None:
    """Numbers read back to the bits of the model's forecast, steps and levels in their order."""
    out, _, _ = full(b'{"series":"BBB","time":"2024-01-01T01:00:00+01:00","price":2.5,"volume":3}')
    record = orjson.loads(out)
    session = Session(LINEUP.serving)
    quantile = Core(session, max_series=1).apply(Ticks.of([("BBB", US, 2.5)])).quantile[0, :, 0]
    told = ["series", "origin_time", "sequence", "model", "sha256", "version", "median", "quantiles", "warming"]
    assert list(record) == told
    assert (record["series"], record["origin_time"], record["sequence"]) == ("BBB", "2024-01-01T00:00:00.000000Z", 0)
    assert (record["model"], record["sha256"], record["version"]) == ("last", session.sha256[:12], 0)
    assert np.array(record["quantiles"]).tobytes() == quantile.tobytes()
    assert np.array(record["median"]).tobytes() == quantile[:, LEVELS.index(0.5)].tobytes()
    assert np.shape(record["quantiles"]) == (HORIZON, len(LEVELS))


def test_csv_and_json_give_the_same_bytes() -> None:
    """The form of the input does not show in the output, nor do CRLF, blank lines and a byte order mark."""
    rows = [("A", "2024-01-01", 1.5), ("B", "2024-01-01", 2.5), ("A", "2024-01-02T00:00:00Z", 1.25)]
    json = b"\n".join(orjson.dumps({"series": s, "time": t, "price": p}) for s, t, p in rows)
    csv = "\ufeff\r\nseries,time,price\r\n" + "\r\n\r\n".join(f"{s},{t},{p}" for s, t, p in rows)
    assert full(json, StreamConfig())[0] == full(csv.encode(), StreamConfig())[0] != b""
    assert full(csv.encode(), StreamConfig())[1] == b""


def test_a_dead_letter_names_line_reason_and_text() -> None:
    """Lines are counted from 1 with the blank ones, and long texts are cut."""
    source = b"\n".join(
        [b'{"series":"A","time":"2024-01-01","price":1}', b"", b"oops\xff", b'{"series":"' + b"x" * 2000 + b'"']
    )
    _, dead, _ = full(source)
    first, second = (orjson.loads(line) for line in dead.splitlines())
    assert (first["line"], first["reason"], first["text"]) == (3, "malformed", "oops\ufffd")
    assert "CSV header" in first["sentence"]
    assert (second["line"], len(second["text"])) == (4, TEXT_BYTES)


def test_every_line_is_accounted_for() -> None:
    """Forecasts, holes, adjustments and dead letters add up to the lines that held something."""
    source = feed(3000)
    out, dead, report = full(source)
    assert report.ticks == sum(1 for line in source.split(b"\n") if line.strip())
    assert report.ticks == report.forecasts + report.holes + report.adjusted + sum(report.rejected.values())
    assert report.forecasts == out.count(b"\n")
    assert sum(report.rejected.values()) == dead.count(b"\n")
    met = "malformed name unit domain future unknown late duplicate out_of_order off_grid jump"
    assert set(report.rejected) == set(met.split())
    assert min(report.holes, report.adjusted, report.seconds, report.ticks_per_second) > 0
    assert report.dropped == 0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_size_of_a_batch_does_not_show(batch: int) -> None:
    """Forecasts and dead letters are the same bytes for every batch size."""
    source = feed(700)
    assert full(source, replace(QUICK, batch=batch))[:2] == full(source, replace(QUICK, batch=333))[:2]


@drawn(LINES, st.integers(1, 9))
def test_the_size_of_a_batch_does_not_show_under_any_lines(lines: list[bytes], batch: int) -> None:
    """Whatever the lines hold, also for a model that reads covariates."""
    source = b"\n".join(lines)
    one, other = (full(source, replace(QUICK, batch=b), lineup=PAIR)[:2] for b in (batch, 1000))
    assert one == other


def test_a_forecast_comes_while_the_source_is_still_open(tmp_path: Path) -> None:
    """A tick that waits in a pipe is served at once: nothing is held back until a batch is full."""
    reading, writing = os.pipe()
    answered = threading.Event()
    stream = begin(tmp_path)
    source = source_of(f"/dev/fd/{reading}")
    with os.fdopen(writing, "wb", buffering=0) as sender:
        work = threading.Thread(
            target=drive.run, args=(stream, blocks(source, {})), kwargs={"on_progress": lambda _: answered.set()}
        )
        work.start()
        for hour in range(3):
            answered.clear()
            sender.write(f'{{"series":"A","time":"2024-01-01T0{hour}:00","price":1}}\n'.encode())
            assert answered.wait(20)
            assert read_files(tmp_path)[0].count(b"\n") == hour + 1
        sender.close()
        work.join(20)
    os.close(reading)
    assert not work.is_alive()
    stream.close()


def test_lines_are_bounded() -> None:
    """A line above the bound is malformed, even where it would be a tick."""
    line = b'{"series":"A","time":"2024-01-01","price":1}'
    source = line + b" " * 100 + b"\n" + line + b"\n"
    _, dead, report = full(source, StreamConfig(max_line_bytes=64))
    assert report.rejected == {"malformed": 1}
    assert orjson.loads(dead)["line"] == 1
    assert report.forecasts == 1


# -------------------------------------------------------------------------------------------------- stop, and go on


@pytest.mark.parametrize("seed", range(8))
def test_a_resumed_run_gives_the_bytes_of_an_uninterrupted_one(seed: int, tmp_path: Path) -> None:
    """Stopped between any two batches, again and again, and resumed with another batch size: the same bytes."""
    rng = random.Random(seed)
    source = feed(600, seed)
    (tmp_path / "in.jsonl").write_bytes(source)
    out, dead, report = full(source)
    for _ in range(rng.randint(1, 4)):
        config = replace(QUICK, batch=rng.randint(1, 60))
        try:
            run_file(tmp_path, config, stop_at=rng.randint(1, 300))
        except StoppedError:
            continue
    done = run_file(tmp_path)
    assert read_files(tmp_path) == (out, dead)
    assert (done.ticks, done.forecasts, done.holes, done.rejected) == (
        report.ticks,
        report.forecasts,
        report.holes,
        report.rejected,
    )


_CHILD = """
import sys
from pathlib import Path
from pipeline import drive
from pipeline.intake import blocks, source_of
from pipeline.lineup import Lineup
from pipeline.lines import IntakeConfig
from pipeline.opening import Opening, opened
from pipeline.outputs import FileOutput
from pipeline.rules import RuleConfig
from pipeline.stream_config import StreamConfig
folder = Path(sys.argv[1])
config = StreamConfig(batch=20, burn_in=5, history=8, replay=1000, max_series=1000, rules=RuleConfig(jump_scales=20.0))
wanted = Opening(
    lineup=Lineup(serving=(folder / "m.onnx").read_bytes()), journal=folder / "journal",
    out=FileOutput(folder / "out.jsonl"), dead=FileOutput(folder / "dead.jsonl"),
)
with opened(wanted, config) as stream:
    source = source_of(folder / "in.jsonl", config=IntakeConfig(batch=20))
    drive.run(stream, blocks(source, drive.positions(stream)), on_progress=lambda n: print(n, flush=True))
print("done", flush=True)
"""


def test_a_killed_run_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    """A process killed without warning at random moments, and started again, ends with the same files."""
    source, rng = feed(4000, seed=5), random.Random(11)
    (tmp_path / "in.jsonl").write_bytes(source)
    (tmp_path / "m.onnx").write_bytes(model_bytes())
    kills, end = 0, b""
    while end != b"done":
        assert kills < 50, "the run makes no progress"
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        end = child.stdout.readline().strip()
        if kills < 4:
            time.sleep(rng.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        end = (child.communicate()[0].split() or [end])[-1]
    assert kills > 0
    assert read_files(tmp_path) == full(source)[:2]


def test_a_journal_of_another_model_is_refused(tmp_path: Path) -> None:
    """States belong to the model that made them; both digests are named and the files stay as they are."""
    (tmp_path / "in.jsonl").write_bytes(feed(50))
    run_file(tmp_path)
    before = read_files(tmp_path)
    other = Lineup(serving=model_bytes(metadata(name="other")))
    with pytest.raises(IntegrityError) as caught:
        run_file(tmp_path, lineup=other)
    assert LINEUP.sha256 in str(caught.value)
    assert other.sha256 in str(caught.value)
    assert read_files(tmp_path) == before
    run_file(tmp_path)


def test_missing_bytes_are_noticed_on_resume(tmp_path: Path) -> None:
    """A source shorter than what was read stops the run."""
    (tmp_path / "in.jsonl").write_bytes(feed(50))
    run_file(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(feed(20))
    with pytest.raises(DataError, match="it was cut or replaced"):
        run_file(tmp_path)


def test_a_stream_without_a_journal_begins_its_files_anew(tmp_path: Path) -> None:
    """Nothing of the last run is left in them."""
    for seed in (1, 2):
        (tmp_path / "in.jsonl").write_bytes(feed(80 // seed, seed))
        run_file(tmp_path, journal=None)
    assert read_files(tmp_path) == full(feed(40, 2))[:2]


def test_a_new_journal_does_not_begin_files_of_another_anew(tmp_path: Path) -> None:
    """Outputs that hold something are kept when the journal is not there; moved away, a new run begins."""
    (tmp_path / "in.jsonl").write_bytes(feed(80, seed=1))
    run_file(tmp_path)
    before = read_files(tmp_path)
    (tmp_path / "journal").rename(tmp_path / "old")
    with pytest.raises(ConfigError, match="a new journal would begin it anew"):
        run_file(tmp_path)
    assert read_files(tmp_path) == before
    for name in ("out.jsonl", "dead.jsonl"):
        (tmp_path / name).rename(tmp_path / f"{name}.old")
    (tmp_path / "in.jsonl").write_bytes(feed(40, seed=2))
    with pytest.raises(StoppedError):
        run_file(tmp_path, stop_at=1)
    (tmp_path / "in.jsonl").write_bytes(feed(40, seed=2) + feed(10, seed=3))
    run_file(tmp_path)
    assert read_files(tmp_path) == full(feed(40, seed=2) + feed(10, seed=3))[:2]


def test_an_empty_source_gives_empty_files(tmp_path: Path) -> None:
    """No line, or only blank ones: no forecast, no dead letter, no call of the model."""
    for source in (b"", b"\n\n", b"series,time,price\n"):
        (tmp_path / "in.jsonl").write_bytes(source)
        report = run_file(tmp_path, journal=None)
        assert (report.ticks, report.forecasts) == (0, 0)
        assert read_files(tmp_path) == (b"", b"")


def test_a_journal_needs_a_model_whose_bits_do_not_depend_on_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the self-test fails, a journal is refused; without one it is not needed."""

    def fails(_: int) -> None:
        raise ModelError("different bits")

    monkeypatch.setattr(LINEUP.sessions["serving"], "self_test", fails)
    (tmp_path / "in.jsonl").write_bytes(feed(5))
    with pytest.raises(ModelError, match="different bits"):
        run_file(tmp_path)
    run_file(tmp_path, journal=None)


@pytest.mark.parametrize(
    "changes",
    [
        *({"batch": 0}, {"batch": 10**6}, {"max_series": 0}, {"max_line_bytes": 63}, {"batch": 1.0}, {"burn_in": -1}),
        *({"replay": 999}, {"history": -1}, {"history": 10**6}, {"dead_bytes": -1}),
        *({"expires": "soon"}, {"expires": "0d"}, {"expires": "100001d"}),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    """Each setting has a range, and the message names the setting."""
    with pytest.raises(ConfigError, match=f"stream.{next(iter(changes))}"):
        StreamConfig(**changes)


def past_of(source: bytes) -> Past:
    """Give lines as ticks that a stream begins with."""

    def past(layout: Layout) -> Iterator[Ticks]:
        return iter([parser(b"{}", layout)(source.splitlines())])

    return past


def test_a_warm_start_goes_on_from_the_history() -> None:
    """Forecasts after a history are byte for byte those of a run that took the history in as ticks."""
    source = feed(400, seed=5)
    cut = source.index(b"\n", len(source) // 2) + 1
    whole, _, _ = full(source)
    before, _, _ = full(source[:cut])
    out, _, _ = full(source[cut:], history=past_of(source[:cut]))
    assert before + out == whole
    cold, _, _ = full(source[cut:])
    assert cold != out


def test_a_warm_start_is_not_warmed_again(tmp_path: Path) -> None:
    """The journal holds what the history left: stopped at once or later, the run goes on to the same bytes."""
    source = feed(400, seed=6)
    cut = source.index(b"\n", len(source) // 2) + 1
    history = past_of(source[:cut])
    (tmp_path / "in.jsonl").write_bytes(source[cut:])
    for stop_at in (1, 100):
        with pytest.raises(StoppedError):
            run_file(tmp_path, stop_at=stop_at, history=history)
    run_file(tmp_path, history=history)
    assert read_files(tmp_path) == full(source[cut:], history=history)[:2]


# ---------------------------------------------------------------------------------------------- answers and requests


def request(name: str | None, lines: list[bytes], first: int = 0) -> Block:
    """Make the block of a request."""
    return Block(partition="http", lines=lines, head=b"{}", first=first, position=None, request=name)


def test_the_answers_are_what_the_outputs_get(tmp_path: Path) -> None:
    """Blocks taken together or one by one have the same answers, and joined they are the files."""
    lines = feed(300, seed=2).splitlines()
    asked = [request(None, lines[k : k + 17], first=k) for k in range(0, len(lines), 17)]
    with going_on(tmp_path) as stream:
        together = stream.take(asked[:5]) + stream.take([]) + stream.take(asked[5:])
    alone = Stream(LINEUP, QUICK)
    assert [alone.take([block])[0] for block in asked] == together
    out, dead = read_files(tmp_path)
    assert b"".join(a.forecasts for a in together) == out
    assert b"".join(a.refused for a in together) == dead
    assert sum(a.accepted for a in together) == out.count(b"\n")
    assert (out, dead) == full(b"\n".join(lines))[:2]


@pytest.mark.parametrize("closed", [True, False])
def test_the_latest_forecast_of_a_series_is_its_last_line_of_the_output(tmp_path: Path, closed: bool) -> None:
    """Also where a later tick was refused, with its sequence and its marks, and after a restart."""
    config = replace(QUICK, rules=replace(QUICK.rules, covariates="last"))
    known = [line for line in feed(200, seed=8, **BESIDE).splitlines() if b"adjust" not in line]
    lacking = [tick(name, 300, 100.0 + k) for k, name in enumerate(("AAA", "BBB"))]
    ordered = [tick("CCC", 299, 56.0, sequence=2, **BESIDE)]
    refused = [tick("AAA", 300, 1e9, sequence=4), tick("CCC", 300.5, 100.0)]
    stream = begin(tmp_path, config, lineup=PAIR)
    stream.take([request(None, [*known, *lacking, *ordered, *refused])])
    stream.close() if closed else leave(stream)
    last = {orjson.loads(line)["series"]: line for line in read_files(tmp_path)[0].splitlines(keepends=True)}
    stream = begin(tmp_path, config, lineup=PAIR)
    assert stream.head.counts["jump"] > 0 < stream.head.counts["off_grid"]
    assert {name: stream.latest(name) for name in last} == last
    assert b'"fallback":true' in last["AAA"]
    assert b'"sequence":2' in last["CCC"]
    stream.close()


def test_an_old_model_is_told_of_by_the_time_of_the_ticks(tmp_path: Path) -> None:
    """Forecasts from ticks beyond the age are marked, wherever a run is cut, and so is the status; no clock is asked.

    Each restart is years after the ticks.
    """
    aged = Lineup(serving=model_bytes(metadata(cutoff_time="2024-01-05T00:00:00Z")))
    config, source = replace(QUICK, expires="3d"), feed(400, 5)
    (tmp_path / "in.jsonl").write_bytes(source)
    with pytest.raises(StoppedError):
        run_file(tmp_path, replace(config, batch=7), lineup=aged, stop_at=150)
    run_file(tmp_path, config, lineup=aged)
    out = read_files(tmp_path)[0]
    assert out == full(source, config, lineup=aged)[0]
    told = [orjson.loads(line) for line in out.splitlines()]
    assert [one.get("stale", False) for one in told] == [one["origin_time"] > "2024-01-08T00:00:00" for one in told]
    assert {one.get("stale", False) for one in told} == {True, False}
    stream = begin(tmp_path, config, lineup=aged)
    last = {one["series"]: line for one, line in zip(told, out.splitlines(keepends=True), strict=True)}
    assert {name: stream.latest(name) for name in last} == last
    status = stream.status()
    assert (status["stale"], status["expires_time"]) == (True, "2024-01-08T00:00:00.000000Z")
    stream.close()
    assert not Stream(aged, QUICK).status()["stale"]


def test_a_block_with_no_line_has_an_empty_answer() -> None:
    """Also between others, and alone."""
    stream = Stream(LINEUP, QUICK)
    first, empty, last = stream.take([request(None, [tick("A")]), request(None, []), request(None, [tick("B")])])
    assert (empty.forecasts, empty.refused, empty.counts) == (b"", b"", {})
    assert b'"A"' in first.forecasts
    assert b'"B"' in last.forecasts
    assert stream.take([request(None, [])])[0] == empty


@pytest.mark.parametrize("closed", [True, False])
def test_a_request_that_is_repeated_has_one_effect_and_one_answer(tmp_path: Path, closed: bool) -> None:
    """In the same batch, later, and after a restart: the first answer again, marked, and no tick taken twice."""
    asked = request("id-1", [tick("A"), tick("A", 1), tick("A", 0), b"oops"])
    stream = begin(tmp_path)
    first, again, other = stream.take([asked, asked, request("id-2", [tick("B")])])
    assert (first.repeated, again.repeated, other.repeated) == (False, True, False)
    assert first.counts == {"accepted": 2, "malformed": 1, "late": 1}
    later, fresh = stream.take([asked, request("id-3", [tick("B", 1)])])
    before = carried(stream)
    stream.close() if closed else leave(stream)
    stream = begin(tmp_path)
    assert carried(stream) == before
    (after,) = stream.take([asked])
    assert {(a.forecasts, a.refused, tuple(a.counts.items())) for a in (again, later, after)} == {
        (first.forecasts, first.refused, tuple(first.counts.items()))
    }
    assert later.repeated
    assert after.repeated
    assert not fresh.repeated
    assert carried(stream) == before
    stream.close()
    assert read_files(tmp_path)[0] == first.forecasts + other.forecasts + fresh.forecasts


def test_requests_with_the_same_lines_and_other_ids_are_two() -> None:
    """The id alone makes a repetition: the same lines under another one are duplicates."""
    stream = Stream(LINEUP, QUICK)
    first, second = stream.take([request("a", [tick("A")]), request("b", [tick("A")])])
    assert (first.counts, second.counts) == ({"accepted": 1}, {"duplicate": 1})


def test_a_failed_batch_breaks_the_stream_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is committed, nothing more is taken, and the journal goes on to the same bytes."""
    lines = feed(200, seed=8).splitlines()
    stream = begin(tmp_path)
    stream.take([request(None, lines[:100])])
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise ModelError("the runtime gave up")

        patch.setattr(stream.core.session, "step", fails)
        with pytest.raises(ModelError, match="gave up"):
            stream.take([request(None, lines[100:], first=100)])
    with pytest.raises(ModelError, match="an earlier batch failed"):
        stream.take([request(None, lines[100:], first=100)])
    stream.close()
    with going_on(tmp_path) as stream:
        stream.take([request(None, lines[100:], first=100)])
    assert read_files(tmp_path) == full(b"\n".join(lines))[:2]


# ----------------------------------------------------------------------------------------------------- dead letters


@pytest.mark.parametrize("batch", [1, 13, 1000])
def test_dead_letters_are_bounded_and_counted(batch: int) -> None:
    """Beyond the bound they are counted and not written, at the same letter whatever the batch."""
    source = feed(1000, seed=3)
    _, everything, whole = full(source)
    bound = len(everything) // 3
    _, dead, report = full(source, replace(QUICK, batch=batch, dead_bytes=bound))
    assert everything.startswith(dead)
    assert bound - 2000 < len(dead) <= bound
    assert report.rejected == whole.rejected
    assert report.dropped == everything.count(b"\n") - dead.count(b"\n")


def test_rules_do_not_belong_to_the_journal(tmp_path: Path) -> None:
    """Judged once, a tick stays judged: other rules, later, change only what comes then."""
    stream = begin(tmp_path)
    stream.take([request(None, [tick("A"), tick("A", 1, 1000.0)])])
    before = carried(stream)
    leave(stream)
    with going_on(tmp_path, replace(QUICK, rules=RuleConfig(jump="accept"))) as stream:
        assert carried(stream) == before
        (answer,) = stream.take([request(None, [tick("A", 2, 1000.0)])])
        assert answer.accepted == 1


def test_another_history_is_refused(tmp_path: Path) -> None:
    """The length of the ring belongs to the journal, and the message says both."""
    begin(tmp_path).close()
    with pytest.raises(ConfigError, match=r"stream\.history is 9, but the journal was begun with 8"):
        begin(tmp_path, replace(QUICK, history=9))


@settings(max_examples=30)
@drawn(st.integers(0, 10**6), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_stream_with_a_journal_gives_the_bytes_of_one_without(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int]
) -> None:
    """Covariates, adjustments, references beside: whether it is journaled does not show."""
    folder = tmp_path_factory.mktemp("journal")
    lines = [*feed(120, seed, **BESIDE).splitlines(), split("AAA", 500), tick("AAA", 500, 50.0, **BESIDE)]
    with going_on(folder, lineup=PAIR) as stream:
        start, k = 0, 0
        while start < len(lines):
            stop = start + sizes[k % len(sizes)]
            stream.take([request(None, lines[start:stop], first=start)])
            start, k = stop, k + 1
    assert read_files(folder) == full(b"\n".join(lines), lineup=PAIR)[:2]


def test_outputs_can_go_to_a_pipe_and_to_nowhere() -> None:
    """What is published is what the answers hold; without outputs they are all there is."""
    out = io.BytesIO()
    stream = Stream(LINEUP, QUICK, out=PipeOutput(out))
    answers = [answer for block in given(feed(100), 30) for answer in stream.take([block])]
    assert b"".join(a.forecasts for a in answers) == out.getvalue() != b""
    assert not stream.tend()


def test_a_pipe_that_broke_gets_the_last_batch_again(tmp_path: Path) -> None:
    """What was committed and could not be given out comes after a restart; after an orderly end nothing does."""
    reading, writing = os.pipe()
    source = list(given(feed(90), 30))
    again, after = io.BytesIO(), io.BytesIO()
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        stream = begin(tmp_path, out=PipeOutput(pipe))
        stream.take(source[:1])
        read = os.read(reading, 1 << 16)
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            stream.take(source[1:2])
        stream.close()
    stream = begin(tmp_path, out=PipeOutput(again))
    stream.take(source[2:])
    stream.close()
    begin(tmp_path, out=PipeOutput(after)).close()
    assert read + again.getvalue() == full(feed(90))[0]
    assert after.getvalue() == b""


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A path in a folder that is not there, or a folder itself."""
    for path in (tmp_path / "none" / "out", tmp_path):
        with pytest.raises(ConfigError, match="cannot be written"):
            FileOutput(path)


def test_times_of_forecasts_are_utc() -> None:
    """Microseconds are written whole, before 1970 and after."""
    lines = [tick("A", -500_000 + 1e-9), tick("A", 0.5), tick("B", HOUR / HOUR)]
    config = replace(QUICK, rules=RuleConfig(grid="accept"))
    told = [orjson.loads(line)["origin_time"] for line in full(b"\n".join(lines), config)[0].splitlines()]
    assert told == ["1966-12-17T16:00:00.000004Z", "2024-01-01T00:30:00.000000Z", "2024-01-01T01:00:00.000000Z"]
