"""How fast the journaled stream starts and recovers, and what a million series take; parts of `stream.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from feeding import Market, Row, all_accepted, blocks, model_file, opened, timed

from pipeline.drive import run
from pipeline.lineup import Lineup
from pipeline.opening import Opening, open_stream
from pipeline.outputs import FileOutput
from pipeline.stream import Stream


def first_answer(file: bytes, folder: Path) -> Row:
    """Start the command, give it one tick, and wait for its forecast."""
    path = folder / "model.onnx"
    path.write_bytes(file)
    program = str(Path(sys.executable).with_name("statecast"))
    command = [
        program,
        "stream",
        "--model",
        str(path),
        "--folder",
        str(folder / "desk"),
        "--journal",
        str(folder / "j"),
    ]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(Market(1).lines(1)[0] + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
        process.stdin.close()
        process.stdout.read()
        usage = os.wait4(process.pid, 0)[2]
    if b'"quantiles"' not in line:
        raise SystemExit(f"no forecast came: {line!r}")
    return {"part": "start", "seconds": seconds, "cpu_seconds_in_all": usage.ru_utime + usage.ru_stime}


def recovery(file: bytes, folder: Path, series: int, ticks: int) -> Row:
    """Copy the folder of a stream that runs, as a kill leaves it, and open the copy."""
    market, folder = Market(series), folder / f"recovery-{ticks}"
    stream = opened(file, folder / "runs", replay=10**9, batch=4000)
    run(stream, blocks(market.lines(ticks), 4000))
    shutil.copytree(folder / "runs", folder / "killed")
    wanted = Opening(journal=folder / "killed/journal", out=FileOutput(folder / "killed/out.jsonl"))
    again: list[Stream] = []
    wall, cpu = timed(lambda: again.append(open_stream(wanted, stream.config)))
    all_accepted(again[0], sum(stream.head.counts.values()))
    row = {"part": "recovery", "series": series, "ticks": again[0].stepped, "seconds": wall, "cpu_seconds": cpu}
    for one in (*again, stream):
        one.close()
    return row


def memory(name: str) -> float:
    """Read a line of this process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def million(file: bytes, folder: Path, series: int) -> Iterator[Row]:
    """Step a million series once, then twice more, then swap the model."""
    history, market, base = 2, Market(series), memory("VmRSS")
    stream = opened(file, folder / "million", "normal", history=history, batch=4000, replay=2_000_000)

    def row(stage: str, wall: float, cpu: float) -> Row:
        sizes = {name: memory(name) for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
        return {
            "part": "million",
            "stage": stage,
            "wall": wall,
            "cpu": cpu,
            "before": base,
            "history": history,
            **sizes,
        }

    for k in range(3):
        spent = np.zeros(2)
        lines = market.lines(series)
        for start in range(0, series, 100_000):
            spent += timed(lambda at=start, x=lines: run(stream, blocks(x[at : at + 100_000], 4000)))
        del lines
        yield row("first step" if k == 0 else "step", *spent.tolist())
    Path("/proc/self/clear_refs").write_text("5")  # lets the high-water mark begin anew
    stream.announce(Lineup(version=1, serving=model_file(edition=2)))
    wall, cpu = timed(lambda: list(iter(lambda: stream.warm(0.004), True)))
    stream.flip()
    yield row("swap", wall, cpu)
    all_accepted(stream, 3 * series)
    stream.close()
