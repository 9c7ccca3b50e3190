"""A stream in processes of its own that are killed, and what is left compared with a run that nothing disturbed.

A `Place` is the folder of a run, a `Setting` what stays the same over the life of a journal, and a `Life` one process:
it opens the stream as the command line does and reads until the source ends, it is told to stop, or it dies. Children
are forked from a server that has read all modules, so that a life costs little more than what the stream does.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from disk import Call, Fault, Record, Watcher, watch
from poison import LINE_BYTES, Story
from served import model_bytes

from flows.stopping import stopping
from models.errors import StatecastError
from pipeline import drive, journal
from pipeline.drift import DriftConfig
from pipeline.intake import blocks, source_of
from pipeline.journal import Batch, Durability, Journal
from pipeline.lines import IntakeConfig, Stop
from pipeline.lineup import Lineup
from pipeline.opening import NOTES, Opening, notes_of, open_stream, opened
from pipeline.outputs import FileOutput
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig

REFUSED = 3
"""Exit code of a life that ended with an error of statecast, which it wrote down."""


@dataclass(frozen=True)
class Place:
    """The folder of a run."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        """Give the path of what lies there: `journal`, `out`, `dead`, `ready`, `error`, `calls`, `struck`, `digest`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.folder / name


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What stays the same over the life of a journal."""

    model: bytes = field(default_factory=model_bytes, repr=False)
    series: int
    history: int = 8
    dead_bytes: int = 10**9
    burn_in: int = 5

    @classmethod
    def of(cls, told: Story, **changes: object) -> Setting:
        """Make room for the series of a story, and no more."""
        return cls(series=len(told.names), **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process over a source.

    Attributes
    ----------
    input : str
        Name of the file, folder or FIFO in the place.
    follow : bool
    batch, durability, replay
        See `StreamConfig`: none of them may show.
    checkpoint : int
        Pages of SQLite after which it moves what is in its log to its file; small here, so that it happens.
    watcher : Watcher, optional
    """

    input: str = "input"
    follow: bool = False
    batch: int = 256
    durability: Durability = "normal"
    replay: int = 1000
    checkpoint: int = 20
    watcher: Watcher | None = None

    def config(self, setting: Setting) -> StreamConfig:
        """Give the settings of the stream."""
        return StreamConfig(
            batch=self.batch,
            max_series=setting.series,
            max_line_bytes=LINE_BYTES,
            burn_in=setting.burn_in,
            durability=self.durability,
            replay=self.replay,
            history=setting.history,
            dead_bytes=setting.dead_bytes,
            drift=DriftConfig(threshold=2.0, least=10, slack=0.01),  # there is to be some
        )


def opening(place: Place, setting: Setting) -> Opening:
    """Open the outputs and say where the journal lies."""
    lineup = Lineup(serving=setting.model)
    out, dead, told = FileOutput(place.out), FileOutput(place.dead), notes_of(place.journal)
    return Opening(lineup=lineup, journal=place.journal, out=out, dead=dead, told=told)


def live(place: Place, setting: Setting, life: Life) -> None:
    """Be the child: take in what there is. Ends the process."""
    sys.stderr = sys.stdout = (place.folder / "told").open("a", buffering=1)
    connected = journal._connected

    def checkpointing(path: Path, durability: Durability) -> object:
        db = connected(path, durability)
        db.execute(f"PRAGMA wal_autocheckpoint = {life.checkpoint}")
        return db

    journal._connected = checkpointing  # type: ignore[assignment]
    code = 0
    try:
        if life.watcher is not None:
            watch(life.watcher)
        if isinstance(life.watcher, Record):
            _note_commits(life.watcher)
        _take_all(place, setting, life)
    except StatecastError as error:
        place.error.write_text(f"{type(error).__name__}: {error}")
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(life.watcher, Record):
        place.calls.write_bytes(pickle.dumps(life.watcher.calls))
    if isinstance(life.watcher, Fault):
        place.struck.write_text("\n".join(life.watcher.struck))
    os._exit(code)


def _note_commits(record: Record) -> None:
    """Put down in the record of calls after which of them each batch counts as committed."""
    commit = Journal.commit

    def committed(self: Journal, batch: Batch, *rest: Any) -> None:
        commit(self, batch, *rest)
        record.calls.append(Call(kind="committed", file="", start=batch.id))

    Journal.commit = committed  # type: ignore[method-assign]


def _take_all(place: Place, setting: Setting, life: Life) -> None:
    config = IntakeConfig(batch=life.batch, max_line_bytes=LINE_BYTES, wait_ms=2)
    with stopping() as stop:
        place.ready.touch()
        with opened(opening(place, setting), life.config(setting)) as stream:
            _drive(stream, place.folder / life.input, life, config, stop)


def _drive(stream: Stream, path: Path, life: Life, config: IntakeConfig, stop: Stop) -> None:
    source = source_of(path, follow=life.follow, repeats=True, config=config, stop=stop)
    drive.run(stream, blocks(source, drive.positions(stream)))


def digested(place: Place, setting: Setting) -> None:
    """Be a child that opens a journal at rest and writes down the sums of all that it holds. Ends the process."""
    try:
        stream = open_stream(opening(place, setting), Life().config(setting))
        place.digest.write_text(json.dumps(digest(stream)))
        stream.close()
    except StatecastError as error:
        place.error.write_text(f"{type(error).__name__}: {error}")
        os._exit(REFUSED)
    os._exit(0)


def digest(stream: Stream) -> dict[str, object]:
    """Sum up the state of a stream: names, keys, states, counts, positions, scores, and the ring of latest ticks."""
    sums: dict[str, object] = {"names": stream.core.book.names}
    for owner, arena in (("book", stream.core.book.arena), ("serving", stream.core.serving.arena)):
        for name, x in arena.arrays().items():
            sums[f"{owner}.{name}"] = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
    head = stream.head
    sums["head"] = [head.series, head.newest, head.out_bytes, head.dead_bytes, head.dropped, head.model, head.sha256]
    sums["counts"] = {reason: count for reason, count in sorted(head.counts.items()) if count}
    ends = {name: (p.offset, p.lines) for name, p in drive.positions(stream).items() if p.offset}
    sums["read"] = [sum(offset for offset, _ in ends.values()), sum(lines for _, lines in ends.values())]
    shown = stream.core.book.arena["shown"][: len(stream.core.book)]
    last = [
        (slot, n) for slot, most in enumerate(shown) for n in range(max(1, most - stream.config.history + 1), most + 1)
    ]
    events = stream.history.read(*(np.array(column, np.int64) for column in zip(*last, strict=True))) if last else None
    kept = (
        b""
        if events is None
        else b"".join(
            np.ascontiguousarray(x).tobytes() for x in (events.number, events.time, events.price, events.factor)
        )
    )
    sums["ring"] = hashlib.sha256(kept).hexdigest()[:16]
    sums["scores"] = hashlib.sha256(stream.live.to_bytes()).hexdigest()[:16]
    return sums


CONTEXT = multiprocessing.get_context("forkserver")


@cache
def server() -> None:
    """Start the process from which children are forked, with the very modules of this one."""
    searched = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    wanted = {"PYTHONPATH": searched, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    CONTEXT.set_forkserver_preload(["kills", "swapping"])  # one server for all tests
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def child(*args: object, be: Callable[..., None] = live) -> BaseProcess:
    """Start a process that has all modules at hand."""
    server()
    process = CONTEXT.Process(target=be, args=args)
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 120.0) -> int:
    """Wait for a child and give its exit code; one that does not end is killed and reported."""
    process.join(seconds)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    assert not hangs, f"a stream did not end within {seconds} s"
    assert code is not None
    return code


def run(place: Place, setting: Setting, life: Life) -> int:
    """Live one life to its end, and give its exit code."""
    place.error.unlink(missing_ok=True)
    return ended(child(place, setting, life))


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a story has to give: the bytes of the outputs and the sums of all states."""

    out: bytes
    dead: bytes
    told: bytes
    digest: dict[str, object]


@dataclass
class Verdict:
    """How far a run is from the truth: forecasts lost, doubled or with other bits; and everything else that differs."""

    lost: int = 0
    doubled: int = 0
    different: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing at all differs."""
        return not (self.lost or self.doubled or self.different or self.faults)


def left(place: Place, setting: Setting) -> Truth | str:
    """Read what a run left; the error where its journal does not open."""
    if ended(child(place, setting, be=digested)) != 0:
        return place.error.read_text() if place.error.exists() else (place.folder / "told").read_text()
    out, dead, told = (path.read_bytes() for path in (place.out, place.dead, place.journal / NOTES))
    return Truth(out=out, dead=dead, told=told, digest=json.loads(place.digest.read_text()))


def compare(found: Truth | str, truth: Truth) -> Verdict:
    """Hold what a run left against the truth."""
    if isinstance(found, str):
        return Verdict(faults=[found])
    verdict = Verdict()
    if found.out != truth.out:
        mine, wanted = (dict(_by_id(t.out)) for t in (found, truth))
        counted = Counter(key for key, _ in _by_id(found.out))
        verdict.lost = len(wanted.keys() - mine.keys())
        verdict.doubled = sum(counted.values()) - len(counted) + len(mine.keys() - wanted.keys())
        verdict.different = sum(mine[key] != wanted[key] for key in mine.keys() & wanted.keys())
        verdict.faults.append(f"forecasts: {len(found.out)} bytes instead of {len(truth.out)}")
    if found.dead != truth.dead:
        verdict.faults.append(f"dead letters: {len(found.dead)} bytes instead of {len(truth.dead)}")
    if found.told != truth.told:
        verdict.faults.append(f"notes: {found.told[:300]} instead of {truth.told[:300]}")
    verdict.faults += [
        f"{name}: {str(found.digest[name])[:200]} instead of {str(value)[:200]}"
        for name, value in truth.digest.items()
        if found.digest[name] != value
    ]
    return verdict


def _by_id(out: bytes) -> Iterator[tuple[tuple[str, str, int], bytes]]:
    for line in out.splitlines():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = {"series": "", "origin_time": "", "sequence": 0}
        yield (record["series"], record["origin_time"], record["sequence"]), line


def lay_out(place: Place, told: Story, name: str = "input") -> None:
    """Write a whole story where a life looks for it: as a file or, by the name `folder`, as a folder of files."""
    place.folder.mkdir(parents=True, exist_ok=True)
    if name != "folder":
        (place.folder / name).write_bytes(told.data)
        return
    (place.folder / name).mkdir()
    for part, data in told.files().items():
        (place.folder / name / part).write_bytes(data)


def quiet(place: Place, setting: Setting, told: Story, name: str = "input") -> Truth:
    """Run a story undisturbed, and hold it against what its writer knows of it.

    The reason of every line, the order of the forecasts, and that lines that were refused left no trace in any bit of
    the others are found out without believing the program that ran.
    """
    lay_out(place, told, name)
    life = Life(input=name, batch=1000)
    assert run(place, setting, life) == 0, (place.folder / "told").read_text() + str(place.error)
    truth = left(place, setting)
    assert isinstance(truth, Truth), truth
    assert truth.digest["counts"] == dict(sorted(told.counts.items()))
    ids = [(r["series"], r["origin_time"], r["sequence"]) for r in map(orjson.loads, truth.out.splitlines())]
    assert ids == [(s, f"{np.datetime64(t, 'us')!s:26}Z", q) for s, t, q in told.wanted]
    reasons = [orjson.loads(line)["reason"] for line in truth.dead.splitlines()]
    harmless = {"accepted", "adjusted", "blank", "hole"}
    assert reasons == [r for _, r in told.lines if r not in harmless][: len(reasons)]
    moved = harmless | {"jump", "off_grid"}
    clean = replace(told, lines=[line for line in told.lines if line[1] in moved], parts=[0])
    if name != "folder":
        bare = Place(place.folder / "clean")
        lay_out(bare, clean, name)
        assert run(bare, setting, life) == 0
        assert bare.out.read_bytes() == truth.out, "lines that were refused show in the forecasts of others"
    return truth


def signalled(process: BaseProcess, number: int) -> None:
    """Send a signal to a child that may have ended."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.Signals(number))


def told_of(life: Life) -> str:
    """Say how a life was set, for the report of a failure."""
    return str({k: v for k, v in asdict(replace(life, watcher=None)).items() if v})
