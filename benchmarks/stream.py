"""S4: what the journaled stream costs, from JSON lines to JSON lines.

    throughput   microseconds a tick against batch size, number of series and durability
    latency      5,000 ticks a second on a schedule that waits for nobody: from the moment that a tick is due to the
                 moment that its forecast is committed and written; also while a new model is tried and warmed
    recovery     seconds until a killed stream stands again

The model is a GRU 64x2 with random weights. Beside the stream run, in turn in the same rounds on the same thread: the
bare recurrent nodes of the same file at the same batch, orjson reading the same lines one by one, and one write and
fdatasync of what a batch brings to the disk. All but the disk and what is called `wall` are seconds of the CPU: on a
machine that others use too only they, and the ratios to the bare nodes, say something.

    python benchmarks/stream.py [--parts throughput latency recovery] [--rate 5000] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
from feeding import Market, all_accepted, blocks, model_file, opened, synced, timed
from record import Case, Target, options, tell, timed_case
from step import bare, feeds, forecaster, session
from stream_load import latency

from models.graph import trace
from pipeline.drive import run
from pipeline.opening import Opening, open_stream
from pipeline.outputs import FileOutput
from pipeline.stream import Stream

DURABILITY = (None, "none", "normal", "full")
SIZES = ((1000, 1), (1000, 10), (1000, 100), (1000, 1000), (1000, 4000), (18, 1000), (100_000, 4000))
"""Series and lines of a batch."""
FASTEST = {(1000, 1000): 10.0}
"""Microseconds a tick that are aimed at: 100,000 ticks a second."""


def throughput(file: bytes, folder: Path, series: int, batch: int, rounds: int) -> Case:
    """Feed the same ticks to a stream of each durability, and to the floors, in turn in every round."""
    folder.mkdir()
    market, ticks = Market(series), min(200_000, max(40_000, 2 * series)) if batch >= 100 else 200 * batch
    streams = {kept: opened(file, folder / str(kept), kept, batch=batch) for kept in DURABILITY}
    beside = floors(folder, batch)
    warm, samples = market.lines(3 * series), {name: [] for name in (*streams, *beside)}
    for stream in streams.values():
        run(stream, blocks(warm, 4000))
    for _ in range(rounds):
        lines = market.lines(ticks)[:ticks] if series < ticks else market.lines(ticks)
        for kept, stream in streams.items():
            samples[kept].append(np.array(timed(lambda s=stream, x=lines: run(s, blocks(x, batch)))) / len(lines))
        for name, act in beside.items():
            samples[name].append(np.array(act(lines)))
    same_output(streams, folder)
    wall, cpu = ({name: float(np.median(x, axis=0)[k]) for name, x in samples.items()} for k in (0, 1))
    seconds = {name: cpu[name] for name in beside} | {kept or "no journal": cpu[kept] for kept in DURABILITY}
    seconds["full, wall"] = wall["full"]
    targets = (
        Target(of="full", over="nodes"),
        Target(of="no journal", over="nodes"),
        Target(of="full, wall", most=FASTEST.get((series, batch))),
    )
    case = f"{series:,} series, batches of {batch:,}, a tick"
    return timed_case("stream", case, seconds, unit="us", targets=targets)


def floors(folder: Path, batch: int) -> dict[str, Callable[[list[bytes]], tuple[float, float]]]:
    """Give the floors: each takes lines, and gives seconds a tick of wall and CPU; `disk` wall twice."""
    nodes = bare(trace(forecaster("gru", 64, 2)))
    runtime, inputs = session(nodes), feeds(nodes, batch)
    handle = os.open(folder / "floor", os.O_RDWR | os.O_CREAT)
    payload = os.urandom(200 * batch)

    def of_nodes(lines: list[bytes]) -> tuple[float, float]:
        calls = max(1, min(len(lines), 20_000) // batch)
        wall, cpu = timed(lambda: [runtime.run(None, inputs) for _ in range(calls)])
        return wall / calls / batch, cpu / calls / batch

    def of_orjson(lines: list[bytes]) -> tuple[float, float]:
        wall, cpu = timed(lambda: [orjson.loads(line) for line in lines])
        return wall / len(lines), cpu / len(lines)

    def of_disk(_: list[bytes]) -> tuple[float, float]:
        median = float(np.median([synced(handle, payload) for _ in range(20)])) / batch
        return median, median

    return {"nodes": of_nodes, "orjson": of_orjson, "disk": of_disk}


def same_output(streams: dict[str | None, Stream], folder: Path) -> None:
    """Close streams that were given the same, and stop unless they took in all and gave out the same bytes."""
    count = sum(next(iter(streams.values())).head.counts.values())
    for stream in streams.values():
        all_accepted(stream, count)
        stream.close()
    outputs = {(folder / str(kept) / "out.jsonl").read_bytes() for kept in streams}
    if len(outputs) != 1 or outputs.pop().count(b"\n") != count:
        raise SystemExit("the streams gave out different bytes")


def recovery(file: bytes, folder: Path, series: int, ticks: int) -> Case:
    """Copy the folder of a stream that runs, as a kill leaves it, and open the copy."""
    market, folder = Market(series), folder / f"recovery-{ticks}"
    stream = opened(file, folder / "runs", replay=10**9, batch=4000)
    run(stream, blocks(market.lines(ticks), 4000))
    shutil.copytree(folder / "runs", folder / "killed")
    wanted = Opening(journal=folder / "killed/journal", out=FileOutput(folder / "killed/out.jsonl"))
    again: list[Stream] = []
    wall, cpu = timed(lambda: again.append(open_stream(wanted, stream.config)))
    all_accepted(again[0], sum(stream.head.counts.values()))
    case = f"recovery, {series:,} series, {again[0].stepped:,} ticks stepped again"
    for one in (*again, stream):
        one.close()
    return Case(claim="stream", case=case, unit="s", values={"wall": wall, "CPU": cpu})


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Measure the parts asked for."""
    file = model_file()
    with tempfile.TemporaryDirectory(prefix="statecast-", dir=given.folder) as name:
        folder = Path(name)
        if "throughput" in given.parts:
            for series, batch in SIZES:
                yield throughput(file, folder / f"{series}-{batch}", series, batch, given.rounds)
        if "latency" in given.parts:
            for swap in (False, True):
                yield from latency(file, folder, 1000, given.rate, given.seconds, swap=swap)
        if "recovery" in given.parts:
            for ticks in (1_000, 20_000, 200_000):
                yield recovery(file, folder, 1000, ticks)


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = ["throughput", "latency", "recovery"]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    parser.add_argument("--rate", type=float, default=5000, help="ticks a second of the latency")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--folder", type=Path, help="where journals are written; left out: the temporary folder")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
