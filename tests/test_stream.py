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
from pathlib import Path

import numpy as np
import orjson
import pytest
from served import HORIZON, SERIES, metadata, model_bytes

from models.errors import ConfigError, DataError, IntegrityError, ModelError
from models.observation import LEVELS
from pipeline.session import Session
from pipeline.states import Stream
from pipeline.stream import TEXT_BYTES, StreamConfig, StreamReport, run
from pipeline.ticks import Ticks

SESSION = Session(model_bytes())


def feed(count: int, seed: int = 0, names: tuple[str, ...] = (*SERIES, "CCC")) -> bytes:
    """Write JSON lines of random walks, with faults of every kind among them."""
    rng = random.Random(seed)
    price = dict.fromkeys(names, 100.0)
    out = []
    for i in range(count):
        name = rng.choice(names)
        price[name] *= 1 + 0.01 * rng.gauss(0, 1)
        second = i if rng.random() > 0.05 else i - 50
        record = {"series": name, "time": 1_704_067_200_000_000 + second * 1_000_000, "price": price[name]}
        bad = [b"", b"{oops", b'{"series":"../x","time":"2024-01-01","price":1}', orjson.dumps(record | {"price": -1})]
        out.append(
            rng.choice([*bad, orjson.dumps(record | {"price": None})]) if rng.random() < 0.1 else orjson.dumps(record)
        )
        if rng.random() < 0.03:
            out.append(out[-1])
    return b"\n".join(out) + b"\n"


def full(source: bytes, config: StreamConfig | None = None) -> tuple[bytes, bytes, StreamReport]:
    """Run without interruption: forecasts, dead letters, report."""
    out, dead = io.BytesIO(), io.BytesIO()
    report = run(SESSION, io.BytesIO(source), out, dead, config=config)
    return out.getvalue(), dead.getvalue(), report


def test_a_forecast_line_holds_what_the_model_gave() -> None:
    """Numbers read back to the bits of the model's forecast, steps and levels in their order."""
    out, _, _ = full(b'{"series":"BBB","time":"2024-01-01T01:00:00+01:00","price":2.5,"volume":3}')
    record = orjson.loads(out)
    stream = Stream(SESSION, max_series=1)
    forecast = stream.apply(Ticks.of([("BBB", 1_704_067_200_000_000, 2.5)])).forecast
    assert list(record) == ["series", "origin_time", "model", "sha256", "median", "quantiles"]
    assert (record["series"], record["origin_time"]) == ("BBB", "2024-01-01T00:00:00.000000Z")
    assert (record["model"], record["sha256"]) == ("last", SESSION.sha256[:12])
    assert np.array(record["quantiles"]).tobytes() == forecast.quantile[0, :, 0].tobytes()
    assert np.array(record["median"]).tobytes() == forecast.median[0, :, 0].tobytes()
    assert np.shape(record["quantiles"]) == (HORIZON, len(LEVELS))


def test_csv_and_json_give_the_same_bytes() -> None:
    """The form of the input does not show in the output, nor do CRLF, blank lines and a byte order mark."""
    rows = [("A", "2024-01-01", 1.5), ("B", "2024-01-01", 2.5), ("A", "2024-01-02T00:00:00Z", 1.25)]
    json = b"\n".join(orjson.dumps({"series": s, "time": t, "price": p}) for s, t, p in rows)
    csv = "\ufeff\r\nseries,time,price\r\n" + "\r\n\r\n".join(f"{s},{t},{p}" for s, t, p in rows)
    assert full(json)[0] == full(csv.encode())[0]
    assert full(csv.encode())[1] == b""


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
    """Forecasts, holes and dead letters add up to the lines that held something."""
    source = feed(3000)
    out, dead, report = full(source)
    assert report.ticks == sum(1 for line in source.split(b"\n") if line.strip())
    assert report.ticks == report.forecasts + report.holes + sum(report.rejected.values())
    assert report.forecasts == out.count(b"\n")
    assert sum(report.rejected.values()) == dead.count(b"\n")
    assert set(report.rejected) == {"malformed", "name", "domain", "late", "duplicate"}
    assert min(report.holes, report.seconds, report.ticks_per_second) > 0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_size_of_a_batch_does_not_show(batch: int) -> None:
    """Forecasts and dead letters are the same bytes for every batch size."""
    source = feed(700)
    assert full(source, StreamConfig(batch=batch))[:2] == full(source, StreamConfig(batch=333))[:2]


def test_a_forecast_comes_while_the_source_is_still_open(tmp_path: Path) -> None:
    """A tick that waits in a pipe is served at once: nothing is held back until a batch is full."""
    reading, writing = os.pipe()
    out, dead = tmp_path / "out", tmp_path / "dead"
    answered = threading.Event()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sender:
        work = threading.Thread(
            target=run, args=(SESSION, source, out, dead), kwargs={"on_progress": lambda _: answered.set()}
        )
        work.start()
        for hour in range(3):
            answered.clear()
            sender.write(f'{{"series":"A","time":"2024-01-01T0{hour}:00","price":1}}\n'.encode())
            assert answered.wait(20)
            assert out.read_bytes().count(b"\n") == hour + 1
        sender.close()
        work.join(20)
    assert not work.is_alive()


def test_lines_are_bounded() -> None:
    """A line above the bound is malformed, even where it would be a tick."""
    line = b'{"series":"A","time":"2024-01-01","price":1}'
    source = line + b" " * 100 + b"\n" + line + b"\n"
    _, dead, report = full(source, StreamConfig(max_line_bytes=64))
    assert report.rejected == {"malformed": 1}
    assert orjson.loads(dead)["line"] == 1
    assert report.forecasts == 1


def _files(folder: Path) -> dict[str, Path]:
    return {"out": folder / "out.jsonl", "dead_letters": folder / "dead.jsonl", "snapshot": folder / "state.npz"}


@pytest.mark.parametrize("seed", range(8))
def test_a_resumed_run_gives_the_bytes_of_an_uninterrupted_one(seed: int, tmp_path: Path) -> None:
    """Stopped between any two batches, again and again, and resumed with another batch size: the same bytes."""
    rng = random.Random(seed)
    source, files = feed(600, seed), _files(tmp_path)
    out, dead, report = full(source)

    class Stopped(Exception):  # noqa: N818  a stop is no error
        pass

    stop_at = 0

    def stop(read: int) -> None:
        if read >= stop_at:
            raise Stopped

    for _ in range(rng.randint(1, 4)):
        stop_at += rng.randint(1, 300)
        config = StreamConfig(batch=rng.randint(1, 60), snapshot_every=rng.randint(1, 4))
        try:
            run(SESSION, io.BytesIO(source), **files, config=config, resume=True, on_progress=stop)
        except Stopped:
            continue
    done = run(SESSION, io.BytesIO(source), **files, resume=True)
    assert files["out"].read_bytes() == out
    assert files["dead_letters"].read_bytes() == dead
    assert (done.ticks, done.forecasts, done.holes, done.rejected) == (
        report.ticks,
        report.forecasts,
        report.holes,
        report.rejected,
    )


_CHILD = """
import sys
from pathlib import Path
from pipeline.session import Session
from pipeline.stream import StreamConfig, run
folder = Path(sys.argv[1])
run(
    Session.load(folder / "m.onnx"), folder / "in.jsonl", folder / "out.jsonl", folder / "dead.jsonl",
    config=StreamConfig(batch=20, snapshot_every=3), snapshot=folder / "state.npz", resume=True,
    on_progress=lambda n: print(n, flush=True),
)
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
            time.sleep(rng.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        end = (child.communicate()[0].split() or [end])[-1]
    assert kills > 0
    out, dead, _ = full(source)
    assert (tmp_path / "out.jsonl").read_bytes() == out
    assert (tmp_path / "dead.jsonl").read_bytes() == dead


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    """States belong to the model that made them; both digests are named and the files stay as they are."""
    files = _files(tmp_path)
    run(SESSION, io.BytesIO(feed(50)), **files)
    before = files["out"].read_bytes()
    other = Session(model_bytes(metadata(name="other")))
    with pytest.raises(IntegrityError) as caught:
        run(other, io.BytesIO(feed(50)), **files, resume=True)
    assert SESSION.sha256 in str(caught.value)
    assert other.sha256 in str(caught.value)
    assert files["out"].read_bytes() == before


def test_missing_bytes_are_noticed_on_resume(tmp_path: Path) -> None:
    """An output or a source shorter than what the snapshot counts stops the run."""
    files = _files(tmp_path)
    run(SESSION, io.BytesIO(feed(50)), **files)
    with pytest.raises(DataError, match="the source ended after"):
        run(SESSION, io.BytesIO(feed(20)), **files, resume=True)
    os.truncate(files["out"], 10)
    with pytest.raises(IntegrityError, match=r"10 bytes, but the snapshot had committed"):
        run(SESSION, io.BytesIO(feed(50)), **files, resume=True)


def test_a_run_begun_anew_leaves_nothing_of_the_last_one(tmp_path: Path) -> None:
    """Without resume the files are begun again, and a later resume continues the new run."""
    files = _files(tmp_path)
    run(SESSION, io.BytesIO(feed(80, seed=1)), **files)
    run(SESSION, io.BytesIO(feed(40, seed=2)), **files)
    assert files["out"].read_bytes() == full(feed(40, seed=2))[0]
    run(SESSION, io.BytesIO(feed(40, seed=2) + feed(10, seed=3)), **files, resume=True)
    assert files["out"].read_bytes() == full(feed(40, seed=2) + feed(10, seed=3))[0]


def test_a_run_begun_anew_and_killed_at_once_does_not_resume_the_last_one(tmp_path: Path) -> None:
    """The old snapshot is gone before the first byte of the new output is written."""
    files = _files(tmp_path)
    run(SESSION, io.BytesIO(feed(80, seed=1)), **files)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SESSION, io.BytesIO(feed(40, seed=2)), **files, config=StreamConfig(batch=10), on_progress=die)
    run(SESSION, io.BytesIO(feed(40, seed=2)), **files, resume=True)
    assert files["out"].read_bytes() == full(feed(40, seed=2))[0]


def test_what_cannot_be_resumed_is_refused_at_the_start(tmp_path: Path) -> None:
    """Resuming needs a snapshot, a snapshot needs files at a path, and a source must be there."""
    with pytest.raises(ConfigError, match="expected a snapshot"):
        run(SESSION, io.BytesIO(), io.BytesIO(), io.BytesIO(), resume=True)
    with pytest.raises(ConfigError, match="Name their paths"):
        run(SESSION, io.BytesIO(), io.BytesIO(), io.BytesIO(), snapshot=tmp_path / "s")
    with pytest.raises(DataError, match="cannot be read"):
        run(SESSION, tmp_path / "none", io.BytesIO(), io.BytesIO())
    with pytest.raises(ConfigError, match="cannot be written"):
        run(SESSION, io.BytesIO(), tmp_path / "none" / "out", io.BytesIO())
    with pytest.raises(ConfigError, match="its folder is not there"):
        run(SESSION, io.BytesIO(), **_files(tmp_path) | {"snapshot": tmp_path / "none" / "s"})


def test_a_snapshot_needs_a_model_whose_bits_do_not_depend_on_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the self-test fails, a snapshot is refused; in batches of one it is not needed."""

    def fails(_: int) -> None:
        raise ModelError("different bits")

    monkeypatch.setattr(SESSION, "self_test", fails)
    with pytest.raises(ModelError, match="different bits"):
        run(SESSION, io.BytesIO(feed(5)), **_files(tmp_path))
    run(SESSION, io.BytesIO(feed(5)), **_files(tmp_path), config=StreamConfig(batch=1))


def test_an_empty_source_gives_empty_files(tmp_path: Path) -> None:
    """No line, or only blank ones: no forecast, no dead letter, no call of the model."""
    for source in (b"", b"\n\n", b"series,time,price\n"):
        report = run(SESSION, io.BytesIO(source), **_files(tmp_path))
        assert (report.ticks, report.forecasts) == (0, 0)
        assert _files(tmp_path)["out"].read_bytes() == b""


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"batch": 10**6}, {"max_series": 0}, {"max_line_bytes": 63}, {"snapshot_every": 0}, {"batch": 1.0}],
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    """Each setting has a range, and the message names the setting."""
    with pytest.raises(ConfigError, match=f"stream.{next(iter(changes))}"):
        StreamConfig(**changes)


def test_a_warm_start_goes_on_from_the_history() -> None:
    """Forecasts after a history are byte for byte those of a run that took the history in as ticks."""
    source = feed(400, seed=5)
    cut = source.index(b"\n", len(source) // 2) + 1
    whole, _, _ = full(source)
    before, _, _ = full(source[:cut])
    out = io.BytesIO()
    run(SESSION, io.BytesIO(source[cut:]), out, io.BytesIO(), history=io.BytesIO(source[:cut]))
    assert before + out.getvalue() == whole
    cold, _, _ = full(source[cut:])
    assert cold != out.getvalue()
