"""S9: what a million series that are live take of memory, from their first tick to a swap of their model.

A GRU 64x2 steps a million series three times, JSON lines in and out, journal on disk (durability normal), two ticks of
history a series; then a new model is warmed on all of them and takes over. Told are megabytes that no file backs, less
those that the process held before the stream; the floor is the arrays that a state of this model needs at least: its
hidden vectors, running scales and last price of each series, and the key by which the series is found.

    python benchmarks/memory.py [--series 1000000] [--folder FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from feeding import Market, all_accepted, blocks, model_file, opened, timed
from record import Case, Target, options, tell

from pipeline.drive import run
from pipeline.lineup import Lineup
from pipeline.session import Session

HISTORY = 2
KEY_BYTES = 8 + 8
"""Digest of the name, and its place."""
GIGABYTE = 1024
"""Megabytes that a million series are to stay within."""
SIZES = (("held", "RssAnon"), ("peak", "VmHWM"))
"""What is told, and the line of the system that says it; the peak has the files in memory in it."""


def status(name: str) -> float:
    """Read a line of this process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def floor(file: bytes, series: int) -> float:
    """Give the megabytes that the states of so many series have, and their keys."""
    return series * (sum(x.nbytes for x in Session(file).initial(1).values()) + KEY_BYTES) / 2**20


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Step all series, then swap the model; a case at each moment."""
    file, market, before = model_file(), Market(given.series), status("RssAnon")
    arrays = floor(file, given.series)

    def case(stage: str, *sizes: str) -> Case:
        values = {"arrays": arrays} | {name: status(field) - before for name, field in SIZES if name in sizes}
        targets = (Target(of="held", over="arrays"), Target(of="held", most=GIGABYTE * given.series / 1e6))
        return Case(claim="memory", case=f"{given.series:,} series, {stage}", unit="MB", values=values, targets=targets)

    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="statecast-", dir=given.folder) as folder:
        stream = opened(file, Path(folder) / "desk", "normal", history=HISTORY, batch=4000, replay=2_000_000)
        for stage in ("first step", "second step", "third step"):
            lines = market.lines(given.series)
            seconds[stage], _ = timed(lambda x=lines: run(stream, blocks(x, 4000)))
            del lines
            yield case(stage, "held")
        Path("/proc/self/clear_refs").write_text("5")  # lets the high-water mark begin anew
        stream.announce(Lineup(version=1, serving=model_file(edition=2)))
        seconds["swap"], _ = timed(lambda: list(iter(lambda: stream.warm(0.004), True)))
        stream.flip()
        yield case("swap", "held", "peak")
        all_accepted(stream, 3 * given.series)
        stream.close()
    yield Case(claim="memory", case=f"{given.series:,} series, time", unit="s", values=seconds)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the journal is written; left out: the temporary folder")


if __name__ == "__main__":
    given = options(__doc__, arguments)
    tell(cases(given), given.json)
