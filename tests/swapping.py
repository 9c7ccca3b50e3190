"""Streams whose models change on the way, and the quiet run that each of them must equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from served import metadata, model_bytes
from variants import returning

from pipeline.lines import Block, Position
from pipeline.lineup import Lineup
from pipeline.opening import NOTES, Opening, notes_of, open_stream
from pipeline.outputs import FileOutput
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


@cache
def lineup(version: int) -> Lineup:
    """Give the models of a version: odd ones see prices, even ones returns, with another model beside them."""
    if version % 2:
        return Lineup(version=version, serving=model_bytes(metadata(name=f"odd-{version}")))
    beside = {"last": model_bytes(metadata(name="last"))}
    return Lineup(version=version, serving=returning(name=f"even-{version}"), beside=beside)


def started(folder: Path, config: StreamConfig = CONFIG, first: Lineup | None = None) -> Stream:
    """Open a stream with all its files in a folder; a new one begins with version 1."""
    wanted = Opening(
        lineup=first or lineup(1),
        journal=folder / "journal",
        out=FileOutput(folder / "out.jsonl"),
        told=notes_of(folder / "journal"),
        watched=(folder / "champions", "none"),  # whatever the journal says goes on
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


def quiet(folder: Path, lines: Sequence[bytes], swaps: Iterable[Move], config: StreamConfig = CONFIG) -> Ended:
    """Take everything in, with swaps announced and served at the same lines, and states that are never behind."""
    stream, at = started(folder, config), 0
    for move in swaps:
        take(stream, lines[at : move.announced], at)
        stream.announce(lineup(move.version))
        warmed(stream)
        for at in range(move.announced, move.served, 2):
            take(stream, lines[at : min(at + 2, move.served)], at)
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
