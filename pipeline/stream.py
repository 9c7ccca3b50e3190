"""Run a model over lines of ticks: one forecast a tick, one dead letter a refused line, and a way to go on.

The same lines give the same bytes, however they are cut into batches and wherever a run was killed and resumed:
a snapshot holds the states and how much of the input and the outputs belongs to them.

Legend: S horizon steps, Q quantile levels.

Comes in: a session and lines of ticks. Goes out: JSON lines. Knows numpy and orjson; imported by replay and the
command line.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from models.errors import ConfigError, DataError, IntegrityError
from models.observation import MEDIAN
from pipeline import snapshot as snapshots
from pipeline.session import Session
from pipeline.states import Applied, Stream
from pipeline.ticks import DEAD, MALFORMED, SENTENCES, Reason, Ticks, lines, parser

TEXT_BYTES = 512
"""How much of a refused line its dead letter quotes."""

_REASONS = len(Reason)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of a run. None of them changes a forecast, but for `max_series` and `max_line_bytes`.

    Attributes
    ----------
    batch : int
        Most lines that are taken in together, 1 to 100,000.
    max_series : int
        Most series that are carried; ticks of further ones are refused. 1 to 100,000,000.
    max_line_bytes : int
        Longest line that is read, 64 bytes to 16 MiB.
    snapshot_every : int
        Batches between two snapshots, at least 1.
    """

    batch: int = 1000
    max_series: int = 1_000_000
    max_line_bytes: int = 65_536
    snapshot_every: int = 100

    def __post_init__(self) -> None:
        ranges = {"batch": 100_000, "max_series": 10**8, "max_line_bytes": 2**24, "snapshot_every": 10**9}
        for name, most in ranges.items():
            value, least = getattr(self, name), 64 if name == "max_line_bytes" else 1
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"stream.{name} is {value!r}; expected a whole number from {least} to {most}")


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What a run did; after a resume the counts are those of the whole run, the seconds those of this part."""

    ticks: int
    """Lines that held something: forecasts + holes + rejected."""
    forecasts: int
    holes: int
    """Ticks whose price was null."""
    rejected: dict[str, int]
    """Dead letters by reason; reasons that did not occur are left out."""
    seconds: float
    ticks_per_second: float


@dataclass(frozen=True, kw_only=True)
class _Position:
    """How far a run is: lines read, bytes written, lines by reason."""

    lines: int = 0
    out_bytes: int = 0
    dead_bytes: int = 0
    counts: tuple[int, ...] = (0,) * _REASONS

    def after(self, block: list[bytes], applied: Applied, out: bytes, dead: bytes) -> _Position:
        """Move on by one batch."""
        more = np.bincount(applied.reason, minlength=_REASONS).tolist()
        return _Position(
            lines=self.lines + len(block),
            out_bytes=self.out_bytes + len(out),
            dead_bytes=self.dead_bytes + len(dead),
            counts=tuple(a + b for a, b in zip(self.counts, more, strict=True)),
        )


def run(
    session: Session,
    source: Path | io.BufferedIOBase,
    out: Path | IO[bytes],
    dead_letters: Path | IO[bytes],
    *,
    config: StreamConfig | None = None,
    snapshot: Path | None = None,
    resume: bool = False,
    history: io.BufferedIOBase | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> StreamReport:
    """Forecast after every tick of a source, until it ends.

    Each forecast is a JSON line with `series`, `origin_time`, `model`, `sha256` (its first 12 digits), `median`
    [S] and `quantiles` [S, Q] at `models.observation.LEVELS`: step s is for the s-th tick of that series after
    the one at `origin_time`, and was made from ticks up to and including it. Numbers are written in their
    shortest form that reads back to the same bits.

    Parameters
    ----------
    session : Session
    source : Path or buffered binary file
        JSON lines or CSV, see `pipeline.ticks`.
    out, dead_letters : Path or binary file
        Files at a path are begun anew; when the run is resumed, cut to what the snapshot had committed.
    config : StreamConfig, optional
    snapshot : Path, optional
        Where to keep what a resumed run needs; `out` and `dead_letters` must be paths then.
    resume : bool
        Go on from the snapshot, or start where there is none yet. The source is given from its start again.
    history : buffered binary file, optional
        Ticks that the states take in first, without forecasts: the series start warm. Left out, they start cold, and
        their first forecasts are those for a series that has shown nothing.
    on_progress : callable, optional
        Called after each batch with the number of lines read.

    Raises
    ------
    IntegrityError
        When the snapshot is damaged or of another model, or files are shorter than it committed.
    DataError
        When the source is shorter than what the snapshot had read.
    ModelError
        When the model cannot be served, or a snapshot is asked for and the runtime's bits depend on the batch.
    """
    config = config or StreamConfig()
    started = time.perf_counter()
    stream = Stream(session, max_series=config.max_series)
    if history is not None:
        for _, ticks in _blocks(history, config, 0):
            stream.apply(ticks)
    paths = isinstance(out, Path) and isinstance(dead_letters, Path)
    position = begun = _begin(stream, snapshot, resume=resume, paths=paths, batch=config.batch)
    with (
        _opened(source) as reader,
        _written(out, position.out_bytes) as writer,
        _written(dead_letters, position.dead_bytes) as refused,
    ):
        for batch, (block, ticks) in enumerate(_blocks(reader, config, position.lines), start=1):
            applied = stream.apply(ticks)
            given, dead = _render(session, ticks, applied), _refuse(position.lines, block, applied)
            for file, data in ((writer, given), (refused, dead)):
                file.write(data)
                file.flush()
            position = position.after(block, applied, given, dead)
            if snapshot is not None and batch % config.snapshot_every == 0:
                _commit(snapshot, stream, position, writer, refused)
            if on_progress is not None:
                on_progress(position.lines)
        if snapshot is not None:
            _commit(snapshot, stream, position, writer, refused)
    return _report(begun, position, time.perf_counter() - started)


def _begin(stream: Stream, snapshot: Path | None, *, resume: bool, paths: bool, batch: int) -> _Position:
    """Restore the snapshot, or write an empty one before the first byte of output is touched."""
    if snapshot is None:
        if resume:
            raise ConfigError("resume: expected a snapshot to go on from. Name its path")
        return _Position()
    if not paths:
        raise ConfigError(
            "snapshot: the outputs must be files at a path, for a resumed run cuts them. Name their paths"
        )
    if not snapshot.parent.is_dir():
        raise ConfigError(f"snapshot {snapshot}: its folder is not there. Make it, or name another path")
    if batch > 1:
        stream.session.self_test(batch)
    if resume and snapshot.exists():
        return _restore(snapshot, stream)
    _save(snapshot, stream, _Position())
    return _Position()


def _save(path: Path, stream: Stream, position: _Position) -> None:
    header = {"sha256": stream.session.sha256, "position": asdict(position), "names": stream.names()}
    snapshots.save(path, header, stream.arrays())


def _restore(path: Path, stream: Stream) -> _Position:
    header, arrays = snapshots.read(path)
    if header["sha256"] != stream.session.sha256:
        raise IntegrityError(
            f"snapshot {path}: its states belong to the model {header['sha256']}, but {stream.session.sha256} is "
            "loaded. Resume with the first, or start again without resuming"
        )
    stream.restore(header["names"], arrays)
    return replace(_Position(**header["position"]), counts=tuple(header["position"]["counts"]))


def _commit(path: Path, stream: Stream, position: _Position, *files: IO[bytes]) -> None:
    """Bring the outputs to disk, then the snapshot that counts their bytes."""
    for file in files:
        os.fsync(file.fileno())
    _save(path, stream, position)


@contextmanager
def _opened(source: Path | io.BufferedIOBase) -> Iterator[io.BufferedIOBase]:
    if isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            raise DataError(f"ticks {source}: cannot be read ({error.strerror}). Check the path") from error
        with file:
            yield file
    else:
        yield source


@contextmanager
def _written(target: Path | IO[bytes], length: int) -> Iterator[IO[bytes]]:
    """Open a file to go on after its first `length` bytes, which must be there."""
    if not isinstance(target, Path):
        yield target
        return
    try:
        file = target.open("ab")
    except OSError as error:
        raise ConfigError(f"output {target}: cannot be written ({error.strerror}). Name another path") from error
    with file:
        if file.tell() < length:
            raise IntegrityError(
                f"{target}: {file.tell()} bytes, but the snapshot had committed {length}. Put the file back, or start "
                "again without resuming"
            )
        file.truncate(length)
        yield file


def _blocks(source: io.BufferedIOBase, config: StreamConfig, skip: int) -> Iterator[tuple[list[bytes], Ticks]]:
    """Read and parse batches of lines, leaving out the first `skip` lines."""
    number, head, parse, most = 0, b"", parser(b""), config.max_line_bytes
    for whole in lines(source, batch=config.batch, max_line_bytes=most):
        if not head:
            head = next((line for line in whole if line.strip()), b"")
            parse = parser(head)
        block = whole[max(skip - number, 0) :]
        number += len(whole)
        if block:
            yield block, Ticks.from_rows([parse(line) if len(line) <= most else MALFORMED for line in block])
    if number < skip:
        raise DataError(
            f"ticks: the source ended after {number} lines, but {skip} were read before. Give the whole source"
        )


def _render(session: Session, ticks: Ticks, applied: Applied) -> bytes:
    """Write the forecasts of a batch as JSON lines."""
    if len(applied.tick) == 0:
        return b""
    model, sha256 = session.metadata.name, session.sha256[:12]
    quantile = applied.forecast.quantile[:, :, 0]
    median = np.ascontiguousarray(quantile[..., MEDIAN])
    origin = np.datetime_as_string(ticks.time[applied.tick].astype("datetime64[us]"), timezone="UTC").tolist()
    name = [ticks.name[i] for i in applied.tick.tolist()]
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(
        [
            orjson.dumps(
                {"series": n, "origin_time": t, "model": model, "sha256": sha256, "median": m, "quantiles": q},
                option=option,
            )
            for n, t, m, q in zip(name, origin, median, quantile, strict=True)
        ]
    )


def _refuse(before: int, block: list[bytes], applied: Applied) -> bytes:
    """Write the dead letters of a batch as JSON lines; `before` lines came before it."""
    letters: list[dict[str, Any]] = []
    for i in np.flatnonzero(applied.reason >= DEAD).tolist():
        reason = Reason(int(applied.reason[i]))
        text = block[i][:TEXT_BYTES].decode("utf-8", "replace")
        letters.append({"line": before + i + 1, "reason": reason.code, "sentence": SENTENCES[reason], "text": text})
    return b"".join(orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE) for letter in letters)


def _report(begun: _Position, done: _Position, seconds: float) -> StreamReport:
    def ticks(position: _Position) -> int:
        return sum(position.counts) - position.counts[Reason.BLANK]

    return StreamReport(
        ticks=ticks(done),
        forecasts=done.counts[Reason.ACCEPTED],
        holes=done.counts[Reason.HOLE],
        rejected={r.code: done.counts[r] for r in Reason if r >= DEAD and done.counts[r]},
        seconds=seconds,
        ticks_per_second=(ticks(done) - ticks(begun)) / seconds,
    )
