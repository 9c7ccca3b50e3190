"""What the benchmarks of the stream are fed with: a model file, lines of ticks, and a stream over them.

Comes in: sizes. Goes out: bytes and seconds. Imported by the benchmarks named `stream*.py` and `one_price.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from step import forecaster

from models.shell import Shell
from pipeline.drift import DriftConfig
from pipeline.export import Provenance, exported
from pipeline.lines import Block, IntakeConfig, cut
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream
from pipeline.outputs import FileOutput
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig

START_US = 1_600_000_000_000_000
SECOND_US = 1_000_000

QUIET = DriftConfig(threshold=1e12)
"""Random weights drift all the time, which a fitted model does not: let the watch go on and tell nothing."""


def model_file(model: Shell[Any] | None = None, edition: int = 1) -> bytes:
    """Export a model, a GRU 64x2 with random weights where none is given; editions differ in their digest alone."""
    provenance = Provenance(
        series=(),
        grid="tick",
        cutoff_time="2020-01-01T00:00:00Z",
        data_sha256="0" * 64,
        commit="none",
        config={"edition": edition},
    )
    return exported(forecaster("gru", 64, 2) if model is None else model, provenance)


class Market:
    """Random walks of many series, told as JSON lines, each series once a second; no two ticks have one time."""

    def __init__(self, series: int) -> None:
        self.series = series
        self._rng = np.random.default_rng(0)
        self._price = np.full(series, 100.0)
        self._second = 0

    def lines(self, count: int) -> list[bytes]:
        """Give the next lines, whole seconds of them: at least `count`."""
        out: list[bytes] = []
        while len(out) < count:
            self._price = self._price * np.exp(self._rng.normal(0, 0.003, self.series))
            first = START_US + self._second * SECOND_US
            step = SECOND_US // self.series
            out += [
                b'{"series":"S%06d","time":%d,"price":%s}' % (k, first + k * step, repr(price).encode())
                for k, price in enumerate(self._price.tolist())
            ]
            self._second += 1
        return out


def blocks(lines: list[bytes], batch: int) -> Iterator[Block]:
    """Cut lines into blocks, as a source does."""
    return cut(b"\n".join(lines) + b"\n", "-", IntakeConfig(batch=batch))


def opened(file: bytes, folder: Path, durability: str | None = "full", **settings: Any) -> Stream:
    """Open a stream whose journal, where it has one, and outputs lie in a folder, which is made."""
    folder.mkdir(parents=True)
    journaled = {} if durability is None else {"durability": durability}
    return open_stream(
        Opening(
            lineup=Lineup(serving=file),
            journal=None if durability is None else folder / "journal",
            out=FileOutput(folder / "out.jsonl"),
            dead=FileOutput(folder / "dead.jsonl"),
        ),
        StreamConfig(drift=QUIET, **journaled, **settings),
    )


def all_accepted(stream: Stream, count: int) -> None:
    """Stop unless a stream took in so many ticks, all it was given."""
    if stream.head.counts != {"accepted": count}:
        raise SystemExit(f"expected {count} accepted ticks and no other line, came {stream.head.counts}")


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Give the seconds of the wall and of the CPU that a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


def synced(handle: int, data: bytes) -> float:
    """Write and bring to disk; give the seconds."""
    return timed(lambda: (os.pwrite(handle, data, os.lseek(handle, 0, os.SEEK_END)), os.fdatasync(handle)))[0]
