"""The latency of the journaled stream under a load that waits for nobody; a part of `stream.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
from feeding import QUIET, Market, all_accepted, blocks, model_file, synced
from record import Case, Target

from pipeline import champions
from pipeline.drive import run
from pipeline.lines import Block
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream
from pipeline.outputs import FileOutput
from pipeline.stream_config import StreamConfig

LATENCIES = {"median": 50, "95 %": 95, "99 %": 99, "largest": 100}
"""Percentiles that are told."""
AIMED = (Target(of="median", most=5), Target(of="99 %", most=20))
"""Milliseconds, over the whole of a load."""


class Watched:
    """An output of a stream that notes when it was settled, and when notes of what came."""

    def __init__(self, path: Path) -> None:
        self._file = FileOutput(path)
        self.settled: list[tuple[float, float]] = []
        self.told: dict[str, float] = {}

    def publish(self, start: int, data: bytes) -> None:
        """Write, and note what is told."""
        self._file.publish(start, data)
        if data.startswith(b'{"kind"'):
            self.told |= {orjson.loads(line)["kind"]: time.perf_counter() for line in data.splitlines()}

    def settle(self) -> None:
        """Bring to disk, and note when."""
        begun = time.perf_counter()
        self._file.settle()
        self.settled.append((begun, time.perf_counter()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Schedule:
    """Ticks that are due one after the other, whatever becomes of those before."""

    def __init__(self, lines: list[bytes], rate: float, most: int) -> None:
        self.lines, self.rate, self.most = lines, rate, most
        self.done = np.zeros(len(lines))
        self._taken = 0

    def blocks(self) -> Iterator[Block]:
        """Give what is due; when nothing is, wait for the next tick, and let the stream tend to its own work."""
        self.begun = time.perf_counter()
        at = 0
        while at < len(self.lines):
            due = min(int((time.perf_counter() - self.begun) * self.rate), len(self.lines), at + self.most)
            yield Block(partition="-", lines=self.lines[at:due], head=self.lines[0], first=at, position=None)
            if due == at:
                time.sleep(max(0.0, self.begun + (at + 1) / self.rate - time.perf_counter()))
            at = due

    def progress(self, count: int) -> None:
        """Note that so many lines are through."""
        self.done[self._taken : count] = time.perf_counter()
        self._taken = count

    @property
    def due(self) -> np.ndarray:
        """When each tick was due."""
        return self.begun + np.arange(1, len(self.lines) + 1) / self.rate


def latency(file: bytes, folder: Path, series: int, rate: float, seconds: float, *, swap: bool) -> Iterator[Case]:
    """Run a load on a schedule; with `swap` a new model stands in the champions folder when it begins."""
    market, history = Market(series), 32
    config = StreamConfig(replay=max(1000, int(rate * seconds / 4)), history=history, batch=1000, drift=QUIET)
    kept, other, folder = folder / "champions", model_file(edition=2), folder / f"latency-{swap}"
    folder.mkdir()
    champions.publish(kept, "champion", file)
    wanted = Opening(
        lineup=Lineup(version=champions.current(kept, "champion").version, serving=file),
        journal=folder / "journal",
        out=(out := Watched(folder / "out.jsonl")),
        told=(told := Watched(folder / "notes.jsonl")),
        watched=(kept, "champion"),
    )
    stream = open_stream(wanted, config)
    warm = market.lines(2 * history * series)
    run(stream, blocks(warm, 4000))
    load = Schedule(market.lines(int(rate * seconds))[: int(rate * seconds)], rate, config.batch)
    if swap:
        champions.publish(kept, "champion", other)
    out.settled.clear()
    floor = os.open(folder / "floor", os.O_RDWR | os.O_CREAT)
    disk = np.array([synced(floor, bytes(4096)) for _ in range(200)]) * 1e3
    run(stream, load.blocks(), on_progress=load.progress)
    all_accepted(stream, len(warm) + len(load.lines))
    stream.close()
    if swap and stream.head.version == 1:
        raise SystemExit("the new model did not take over: give it more --seconds")
    title = f"{rate:,.0f} ticks/s" + (", a swap" if swap else "")
    yield _case(f"{title}: write and fdatasync of 4 kB", disk)
    for name, took in periods(load, out.settled, told.told, swap=swap).items():
        yield _case(f"{title}: {name}", took, AIMED if name == "all" else ())


def _case(name: str, milliseconds: np.ndarray, targets: tuple[Target, ...] = ()) -> Case:
    found = np.percentile(milliseconds, list(LATENCIES.values())).tolist()
    return Case(claim="stream", case=name, unit="ms", values=dict(zip(LATENCIES, found, strict=True)), targets=targets)


def periods(
    load: Schedule, settled: list[tuple[float, float]], told: dict[str, float], *, swap: bool
) -> dict[str, np.ndarray]:
    """Give the latencies in milliseconds, all and those of what went on beside."""
    due, took = load.due, (load.done - load.due) * 1e3
    spans = {"all": np.ones(len(due), bool)}
    if swap:
        spans |= {
            "model is tried": due < told["announced"],
            "model is warmed": (due >= told["announced"]) & (due < told["swap"]),
            "after the swap": due >= told["swap"],
        }
    near = np.zeros(len(due), bool)
    for begun, ended in settled:
        near |= (due >= begun - 0.005) & (due <= ended + 0.05)
    spans["journal forgets"] = near
    return {name: took[which] for name, which in spans.items() if which.any()}
