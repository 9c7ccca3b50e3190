"""S9: what a stream loses, doubles or gets wrong while it is killed, starved of disk, cut off and lied to.

Real processes over real files, a source that fills meanwhile with a quarter of its lines poison; all of it from one
seed. What is left is compared byte for byte with runs that nothing disturbed, and those with what the writer of the
lines knows of them. Slices of every fault are taken in turn until the time is over or all have been tried.

    python benchmarks/soak.py [--kills 1000] [--minutes 60] [--seed 7] [--json FILE]

Ends with 1 where anything was lost, doubled or different, and says which seed and place shows it again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import trial
from campaigns import Case, Tally, calls_of, endure, fail, fill, flip, strike
from kills import Life, Place, Setting, quiet
from poison import story
from power import lose_power

LIFE = Life(batch=128)
SOURCES = ("input", "folder", "fifo")
ERRORS = (
    *("write journal.sqlite-wal", "write journal.sqlite", "write out", "write dead", "write lock", "truncate"),
    *("allocate", "map", "sync journal.sqlite-wal", "sync journal.sqlite", "sync out", "delete"),
)


def gru(folder: Path) -> bytes:
    """Export a small GRU with random weights, as fits do."""
    from step import forecaster

    from models.forecaster import Forecaster  # torch only in this process, never in the streams
    from pipeline.export import Provenance, export

    model: Forecaster = forecaster("gru", 16, 1)
    about = Provenance(
        series=(), grid="1h", cutoff_time="2024-01-31T00:00:00Z", data_sha256="0" * 64, commit="none", config={}
    )
    path = folder / "gru.onnx"
    export(model, about, path)
    return path.read_bytes()


def random_kills(base: Path, seed: int, kills: int, network: bytes) -> Iterator[Tally]:
    """Kill at random moments, 20 times a story; every other round under the GRU."""
    done = 0
    for turn in count():
        if done >= kills:
            return
        source, real = SOURCES[turn % 3], turn % 2 == 1
        told = story(seed + turn, 4000, 300 + 100 * (turn % 5), csv=source == "folder", leaps=not real)
        setting = Setting.of(told, dead_bytes=10**9 if turn % 4 else 100_000, **({"model": network} if real else {}))
        folder = base / f"round-{turn}"
        truth = quiet(Place(folder / "quiet"), setting, told, "input" if source == "fifo" else source)
        one = Case(base=folder, setting=setting, told=told, truth=truth, input=source)
        tally = endure(one, seed + turn, min(20, kills - done))
        done += tally.tries
        tally.fault += ", GRU" if real else ""
        yield tally
        shutil.rmtree(folder)


def deaths(one: Case, rng: random.Random, what: str) -> Iterator[Tally]:
    """Die at every call to the disk, in any order."""
    calls = calls_of(one, LIFE)
    points = [i for i, call in enumerate(calls) if what == "kill" or call.kind == "write"]
    rng.shuffle(points)
    for start in range(0, len(points), 10):
        yield strike(one, LIFE, what, points[start : start + 10])


def second_deaths(one: Case, rng: random.Random) -> Iterator[Tally]:
    """Die at any call, and then at every one of the recovery."""
    points = list(range(len(calls_of(one, LIFE))))
    rng.shuffle(points)
    for point in points:
        yield strike(one, LIFE, "kill", [point], again=range(20))


def errors(one: Case, rng: random.Random, what: str) -> Iterator[Tally]:
    """Let every kind of call fail, once or from then on, at every place."""
    calls = [f"{call.kind} {call.file}" for call in calls_of(one, LIFE)]
    tries = [(where, point) for where in ERRORS for point in range(sum(c.startswith(where) for c in calls))]
    rng.shuffle(tries)
    for where, point in tries:
        tally = fail(one, LIFE, what, where, [point], lasting=rng.random() < 0.5)
        yield replace(tally, fault="no space in any call" if what == "full" else "the disk fails in any call")


def bits(one: Case, rng: random.Random, file: str, *, moving: bool = False) -> Iterator[Tally]:
    """Turn bits over, 300 times."""
    points = trial.moving(one, LIFE) if moving else range(100, 500)
    for _ in range(20):
        tally = flip(one, LIFE, rng.randrange(10**6), 15, file, points=points, bits=rng.choice([1, 1, 8]))
        yield replace(tally, fault=f"bits turned over in {file}{', while it was moved' if moving else ''}")


def losses(one: Case, rng: random.Random, life: Life) -> Iterator[Tally]:
    """Lose the power, 300 times."""
    for _ in range(30):
        yield lose_power(one, life, rng.randrange(10**6), 10)


def full_disks(one: Case, rng: random.Random) -> Iterator[Tally]:
    """Run on real disks of any size that is too small."""
    try:
        for _ in range(20):
            yield fill(one, LIFE, [rng.randrange(50_000, 1_200_000)])
    except subprocess.CalledProcessError:
        yield Tally("a real disk that is full (not tried: no right to mount)")


def slices(base: Path, seed: int, kills: int) -> Iterator[Tally]:
    """Take slices of all campaigns in turn; two of random kills."""
    rng = random.Random(seed)
    one = trial.case(base / "fixed", seed=seed)
    random_ones = random_kills(base, seed, kills, gru(base))
    erring = [errors(one, rng, what) for what in ("full", "fail")]
    others = [
        *(deaths(one, rng, what) for what in ("kill", "torn")),
        second_deaths(one, rng),
        *erring,
        *(losses(one, rng, Life(batch=128, durability=d)) for d in ("full", "normal")),
        *(bits(one, rng, file) for file in ("journal.sqlite", "journal.sqlite-wal", "history.ring")),
        bits(one, rng, "journal.sqlite-wal", moving=True),
        full_disks(one, rng),
    ]
    while True:
        none = True
        for several, one_kind in ((2, random_ones), *((6 if other in erring else 1, other) for other in others)):
            for tally in islice(one_kind, several):
                none = False
                yield tally
        if none:
            return


def merged(into: dict[str, Tally], tally: Tally) -> None:
    """Add a slice to its row."""
    row = into.setdefault(tally.fault, Tally(tally.fault))
    row.tries += tally.tries
    row.lost += tally.lost
    row.doubled += tally.doubled
    row.different += tally.different
    row.notes += tally.notes
    for how, times in tally.outcomes.items():
        row.outcomes[how] = row.outcomes.get(how, 0) + times


def table(rows: dict[str, Tally]) -> str:
    """Write the rows as Markdown."""
    lines = ["| fault | tries | lost | doubled | different bits | otherwise wrong | how it ended |"]
    lines.append("|---|--:|--:|--:|--:|--:|---|")
    for _, r in sorted(rows.items()):
        how = ", ".join(f"{k}: {v}" for k, v in sorted(r.outcomes.items()))
        lines.append(f"| {r.fault} | {r.tries} | {r.lost} | {r.doubled} | {r.different} | {len(r.notes)} | {how} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="at random moments; every other fault comes on top")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, SQLite {sqlite3.sqlite_version}"
    print(f"soak of a stream, seed {options.seed}, at most {options.minutes:g} minutes, {machine}", flush=True)
    begun, rows = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="statecast-soak-") as folder:
        for tally in slices(Path(folder), options.seed, options.kills):
            merged(rows, tally)
            if not tally.good:
                print(f"WRONG: {tally.fault}: {tally.lost} lost, {tally.doubled} doubled, {tally.different} different")
                print("\n".join(note[:500] for note in tally.notes[:5]), flush=True)
            if time.monotonic() - begun > 60 * options.minutes:
                break
    minutes = (time.monotonic() - begun) / 60
    print(f"\n{sum(r.tries for r in rows.values())} faults in {minutes:.1f} minutes\n\n{table(rows)}")
    if options.json:
        told = {"seed": options.seed, "minutes": minutes, "machine": machine}
        options.json.write_text(json.dumps(told | {"rows": [asdict(r) for r in rows.values()]}, indent=1))
    sys.exit(not all(r.good for r in rows.values()))


if __name__ == "__main__":
    main()
