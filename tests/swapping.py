"""Streams whose models change on the way, and the quiet run that each of them must equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import orjson
from disk import Fault, watch
from numpy.typing import NDArray
from served import metadata, model_bytes
from ticking import HOUR, US, feed, tick
from variants import returning

from models.errors import IntegrityError
from pipeline.history import SLACK
from pipeline.lines import Block, Position
from pipeline.lineup import Lineup
from pipeline.opening import NOTES, Opening, notes_of, open_stream
from pipeline.outputs import FileOutput
from pipeline.restating import Prices, reconcile
from pipeline.rules import RuleConfig
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig

W = 8
CONFIG = StreamConfig(
    rules=RuleConfig(jump="accept"),
    batch=64,
    max_series=4096,
    history=W,
    burn_in=3,
    replay=1000,
    durability="none",
)
LINES = [line for line in feed(110, 4).split(b"\n") if line.strip()]
BEGIN = 60
"""Lines that are taken in before another version is announced."""


@cache
def lineup(version: int) -> Lineup:
    """Give the models of a version: odd ones see prices, even ones returns, with another model beside them."""
    if version % 2:
        return Lineup(version=version, serving=model_bytes(metadata(name=f"odd-{version}")))
    beside = {"last": model_bytes(metadata(name="last"))}
    return Lineup(version=version, serving=returning(name=f"even-{version}"), beside=beside)


def started(
    folder: Path, config: StreamConfig = CONFIG, first: Lineup | None = None, champions: Path | None = None
) -> Stream:
    """Open a stream with all its files in a folder; a new one begins with version 1, or with the models given."""
    wanted = Opening(
        lineup=first or lineup(1),
        journal=folder / "journal",
        out=FileOutput(folder / "out.jsonl"),
        told=notes_of(folder / "journal"),
        watched=(champions or folder / "none", "fx"),
    )
    return open_stream(wanted, config)


def take(stream: Stream, lines: Sequence[bytes], first: int = 0) -> None:
    """Take in lines as one batch; `first` lines came before."""
    if lines:
        position = Position(lines=first + len(lines))
        stream.take([Block(partition="feed", lines=list(lines), head=b"{}", first=first, position=position)])


def taken(stream: Stream) -> int:
    """Give how many lines are committed."""
    assert stream.journal is not None
    return stream.journal.positions().get("feed", {"lines": 0})["lines"]


def notes(folder: Path, *kinds: str) -> list[dict]:
    """Read what was told beside the ticks, of some kinds only where any are named."""
    told = [orjson.loads(line) for line in (folder / "journal" / NOTES).read_bytes().splitlines()]
    return [note for note in told if not kinds or note["kind"] in kinds]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One swap: the lines that had been taken in when it was announced, and when the new version began to serve."""

    version: int
    announced: int
    served: int


def moves(folder: Path) -> list[Move]:
    """Read the swaps of a stream from its notes; of several announcements the last one counts."""
    done, announced = [], {}
    for note in notes(folder, "announced", "swap"):
        if note["kind"] == "announced":
            announced[note["version"]] = note["lines"]
        else:
            version = note["version"]
            done.append(Move(version=version, announced=announced[version], served=note["lines"]))
    return done


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a run left: its forecasts, and every array of its states, book and scores."""

    out: bytes
    kept: dict[str, bytes]


def quiet(
    folder: Path,
    lines: Sequence[bytes],
    swaps: Iterable[Move],
    config: StreamConfig = CONFIG,
    of: Callable[[int], Lineup] = lineup,
) -> Ended:
    """Take everything in, with swaps announced and served at the same lines, and states that are never behind."""
    stream, at, step = started(folder, config, of(1)), 0, max(config.history // SLACK, 1)
    for move in swaps:
        take(stream, lines[at : move.announced], at)
        stream.announce(of(move.version))
        warmed(stream)
        for at in range(move.announced, move.served, step):
            take(stream, lines[at : min(at + step, move.served)], at)
            warmed(stream)
        at = move.served
        stream.flip()
    take(stream, lines[at:], at)
    return ended(stream, folder)


def warmed(stream: Stream) -> None:
    """Warm what was announced to the end."""
    while not stream.warm(10.0):
        pass


def flipped(stream: Stream) -> None:
    """Warm what was announced to the end, and let it serve."""
    warmed(stream)
    stream.flip()


def ended(stream: Stream, folder: Path) -> Ended:
    """Close a stream and give what it left."""
    kept = dict(arrays(stream))
    kept["scores"] = stream.live.to_bytes()
    stream.close()
    return Ended(out=(folder / "out.jsonl").read_bytes(), kept=kept)


def died(stream: Stream) -> None:
    """Leave a stream as the death of its process does."""
    stream.ledger.broken = True  # so that closing writes nothing
    stream.close()


def arrays(stream: Stream) -> Iterator[tuple[str, bytes]]:
    """Give the bytes of every array that a stream carries."""
    arenas = {"book": stream.core.book.arena} | {role: states.arena for role, states in stream.core.states.items()}
    for owner, arena in arenas.items():
        for name, x in arena.arrays().items():
            yield f"{owner}.{name}", np.ascontiguousarray(x).tobytes()


def versions(out: bytes) -> NDArray[np.int64]:
    """Give the version of each forecast."""
    return np.array([orjson.loads(line)["version"] for line in out.splitlines()], np.int64)


def with_history(length: int) -> StreamConfig:
    """Give the settings with another length of history."""
    return replace(CONFIG, history=length)


def go_on(stream: Stream, armed: Callable[[bool], None] = lambda _: None, pause: float = 0.0) -> None:
    """Take in the rest of `LINES`, with a swap to version 2 on the way; `armed` hears whether it is under way."""
    at = taken(stream)
    while at < len(LINES) or stream.head.version == 1:
        swapping = at >= BEGIN and stream.head.version == 1
        armed(swapping)
        if swapping:
            swap_on(stream)
            time.sleep(pause)
        until = at + 3 if BEGIN <= at < BEGIN + 20 else at + 20
        take(stream, LINES[at:until], at)
        at = min(until, len(LINES))


def swap_on(stream: Stream) -> None:
    """Announce version 2, warm it by some events of each series, or let it serve."""
    if stream.status()["swap"] is None:
        stream.announce(lineup(2))
        return
    try:
        for _ in range(2):
            stream.warm(0.0)
        if stream.warm(0.0):
            stream.flip()
    except IntegrityError:  # the lines came faster than they were warmed
        stream.announce(lineup(2))


def run(folder: Path, fault: Fault | None = None, pause: float = 0.0) -> None:
    """Open a stream and go on, as a process of its own; a fault counts calls while the swap is under way."""
    if fault is None:
        go_on(started(folder), pause=pause)
        return
    where, fault.where = fault.where, "nothing"
    watch(fault)

    def armed(swapping: bool) -> None:
        fault.where = where if swapping else "nothing"

    go_on(started(folder), armed)
    (folder / "calls").write_text(str(fault.seen))


def restated() -> Prices:
    """Give other prices of series A of `ORDINARY`, as a vendor restates them."""
    hours = np.arange(40, dtype=np.int64)
    return US + hours * HOUR, 50.0 + hours % 7


ORDINARY = [tick(name, hour, 100.0 + hour % 5 + len(name)) for hour in range(40) for name in ("A", "BB", "CCC")]


def restate(folder: Path, fault: Fault) -> None:
    """Reconcile series A as a process of its own; a fault counts the calls of that."""
    where, fault.where = fault.where, "nothing"
    watch(fault)
    stream = started(folder)
    fault.where = where
    reconcile(stream, {"A": restated()})
    fault.where = "nothing"
    stream.close()
    (folder / "calls").write_text(str(fault.seen))
