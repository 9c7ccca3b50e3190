"""S4, S9, S10: what the journaled stream costs, from JSON lines to JSON lines.

    throughput   ticks a second against batch size, number of series and durability
    latency      5,000 ticks a second on a schedule that waits for nobody: from the moment that a tick is due to the
                 moment that its forecast is committed and written; also while a new model is tried and warmed
    start        seconds until `statecast stream` has answered its first tick, and until a killed one has recovered
    million      memory and time at a million live series; some minutes and gigabytes of disk, so only when asked for

The model is a GRU 64x2 with random weights. Beside the stream run, in turn in the same rounds on the same thread: the
bare recurrent nodes of the same file at the same batch, orjson reading the same lines one by one, and one write and
fdatasync of what a batch brings to the disk. CPU seconds stand beside those of the wall: on a machine that others use
too only they, and the ratios to the bare nodes, say something.

    python benchmarks/stream.py [--parts throughput latency start] [--rate 5000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
from feeding import Market, Row, all_accepted, blocks, machine, model_file, opened, synced, timed
from step import bare, feeds, forecaster, session
from stream_load import latency
from stream_start import first_answer, million, recovery

from models.graph import trace
from pipeline.drive import run
from pipeline.stream import Stream

DURABILITY = (None, "none", "normal", "full")


def throughput(file: bytes, folder: Path, series: int, batch: int, rounds: int) -> list[Row]:
    """Feed the same ticks to a stream of each durability, and to the floors, in turn in every round."""
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
    middle = {name: np.median(x, axis=0) for name, x in samples.items()}
    same_output(streams, folder)
    rows = []
    for kept in DURABILITY:
        wall, cpu = (middle[kept] * 1e6).tolist()
        row = {"part": "throughput", "series": series, "batch": batch, "durability": kept or "no journal"}
        row |= {"wall_us": wall, "cpu_us": cpu, "of_bare": cpu / (middle["bare"][1] * 1e6)}
        rows.append(row | {name: float(middle[name][1] * 1e6) for name in beside})
    return rows


def floors(folder: Path, batch: int) -> dict[str, Callable[[list[bytes]], tuple[float, float]]]:
    """Give the floors: each takes lines, and gives seconds a tick of wall and CPU; `fsync` wall twice, a batch."""
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
        median = float(np.median([synced(handle, payload) for _ in range(20)]))
        return median, median

    return {"bare": of_nodes, "orjson": of_orjson, "fsync": of_disk}


def same_output(streams: dict[str | None, Stream], folder: Path) -> None:
    """Close streams that were given the same, and stop unless they took in all and gave out the same bytes."""
    count = sum(next(iter(streams.values())).head.counts.values())
    for stream in streams.values():
        all_accepted(stream, count)
        stream.close()
    outputs = {(folder / str(kept) / "out.jsonl").read_bytes() for kept in streams}
    if len(outputs) != 1 or outputs.pop().count(b"\n") != count:
        raise SystemExit("the streams gave out different bytes")


def told(row: Row) -> str:
    """Write a row for people."""
    match row["part"]:
        case "throughput":
            wall, cpu = 1e6 / row["wall_us"], 1e6 / row["cpu_us"]
            return (
                f"{row['series']:8,} {row['batch']:6} {row['durability']:>10} {wall:10,.0f} {cpu:10,.0f} "
                f"{row['cpu_us']:8.2f} {row['bare']:6.2f} {row['of_bare']:6.2f} {row['orjson']:7.2f} "
                f"{row['cpu_us'] * row['batch'] / 1e3:9.2f} {row['fsync'] / 1e3:9.2f}"
            )
        case "latency":
            took, disk = (" ".join(f"{x:8.2f}" for x in row[name]) for name in ("ms", "fsync_ms"))
            return f"{row['during']:16} {row['ticks']:8,} {took} | {disk} | {row['cpu_share']:5.0%}"
        case "start":
            return f"first answer after {row['seconds']:.2f} s; CPU {row['cpu_seconds_in_all']:.2f} s to the end"
        case "recovery":
            return f"{row['series']:,} series, {row['ticks']:8,} ticks stepped again: {row['seconds']:6.2f} s, CPU " + (
                f"{row['cpu_seconds']:.2f} s"
            )
        case _:
            return (
                f"{row['stage']:12} {row['wall']:8.1f} s, CPU {row['cpu']:8.1f} s; RSS {row['VmRSS']:8,.0f} MB "
                f"(anonymous {row['RssAnon']:,.0f}, files {row['RssFile']:,.0f}; {row['before']:,.0f} before), "
                f"peak {row['VmHWM']:,.0f}"
            )


HEADS = {
    "throughput": "\nthroughput: ticks/s of the wall and of the CPU, CPU us a tick, the floors, ms a batch\n"
    "  series  batch durability     wall/s      CPU/s  us/tick   bare of bare orjson  CPU ms/b  fsync ms",
    "latency": "\nlatency from due to written, ms: median, 95 %, 99 %, largest | write and fdatasync of 4 kB | CPU",
    "start": "\nstart of `statecast stream` with a model file and a journal, from the shell",
    "recovery": "\nrecovery after a kill, with every state to be stepped again",
    "million": "\na million series",
}


def rows(file: bytes, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Measure the parts asked for."""
    if "throughput" in options.parts:
        sizes = [(1000, batch) for batch in (1, 10, 100, 1000, 4000)] + [(18, 1000), (100_000, 4000)]
        for series, batch in sizes:
            yield from throughput(file, _made(folder / f"{series}-{batch}"), series, batch, options.rounds)
    if "latency" in options.parts:
        for swap in (False, True):
            yield from latency(file, folder, 1000, options.rate, options.seconds, swap=swap)
    if "start" in options.parts:
        for k in range(3):
            yield first_answer(file, _made(folder / f"start-{k}"))
        for ticks in (1_000, 20_000, 200_000):
            yield recovery(file, folder, 1000, ticks)
    if "million" in options.parts:
        yield from million(file, folder, options.series)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["throughput", "latency", "start", "million"]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts[:3])
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    parser.add_argument("--rate", type=float, default=5000, help="ticks a second of the latency")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--series", type=int, default=1_000_000, help="of the part million")
    parser.add_argument("--folder", type=Path, help="where journals are written; left out: the temporary folder")
    parser.add_argument("--json", type=Path, help="append the rows to this file as JSON lines")
    options = parser.parse_args()
    print(machine())
    part = None
    with tempfile.TemporaryDirectory(prefix="statecast-", dir=options.folder) as folder:
        for row in rows(model_file(), Path(folder), options):
            if row["part"] != part:
                part = row["part"]
                print(HEADS[part])
            print(told(row), flush=True)
            if options.json:
                with options.json.open("a") as out:
                    out.write(json.dumps({**row, "machine": machine()}) + "\n")


if __name__ == "__main__":
    main()
