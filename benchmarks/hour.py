"""S9: an hour of paced load with kills, stops, swaps and poison, held byte for byte against an undisturbed run.

A file grows at a steady pace, a quarter of its lines poison. A stream follows it, and the champions folder; it is
killed at random moments, stopped at others, and started again. New champions are published all the while, some of them
damaged afterwards, some taken back. At the end one process takes in the same lines, announces each lineup and lets it
serve after as many lines as the notes of the disturbed run say: forecasts, dead letters and states must be the same.

    python benchmarks/hour.py [--minutes 60] [--rate 500] [--seed 7] [--json FILE]

Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import orjson
from feeding import growing
from kills import REFUSED, Place, Truth, child, compare, digest, ended
from poison import LINE_BYTES, Story, story
from served import model_bytes

from flows.stopping import stopping
from models.errors import ModelError, StatecastError
from pipeline import champions, drive
from pipeline.intake import blocks, source_of
from pipeline.lines import Block, IntakeConfig
from pipeline.lineup import Lineup, published
from pipeline.opening import Opening, open_stream, opened
from pipeline.outputs import FileOutput
from pipeline.session import RUNTIME_VERSION
from pipeline.stream import Stream
from pipeline.stream_config import StreamConfig

NAME = "desk"
SERIES = 300
CONFIG = StreamConfig(
    batch=256, max_series=SERIES, max_line_bytes=LINE_BYTES, burn_in=5, durability="full", replay=5000, history=64
)


@dataclass
class Done:
    """What was done to the stream."""

    kills: int = 0
    stops: int = 0
    publications: int = 0
    damaged: int = 0
    rollbacks: int = 0
    unable: int = 0
    faults: list[str] = field(default_factory=list)


def models(folder: Path) -> list[bytes]:
    """Export two networks with random weights."""
    from step import forecaster

    from pipeline.export import Provenance, export

    about = Provenance(
        series=(), grid="1h", cutoff_time="2024-01-31T00:00:00Z", data_sha256="0" * 64, commit="none", config={}
    )
    files = []
    for hidden in (16, 24):
        export(forecaster("gru", hidden, 1), about, folder / f"{hidden}.onnx")
        files.append((folder / f"{hidden}.onnx").read_bytes())
    return files


def wanted(place: Place) -> Opening:
    """Say what belongs to the stream."""
    folder = place.folder / "champions"
    return Opening(
        lineup=lambda: published(folder, champions.current(folder, NAME)),
        journal=place.journal,
        out=FileOutput(place.out),
        dead=FileOutput(place.dead),
        told=FileOutput(place.folder / "notes"),
        watched=(folder, NAME),
    )


def live(place: Place, follow: bool) -> None:
    """Be the child: follow the file and the champions. Ends the process."""
    sys.stderr = sys.stdout = (place.folder / "told").open("a", buffering=1)
    try:
        with stopping() as stop, opened(wanted(place), CONFIG) as stream:
            config = IntakeConfig(batch=CONFIG.batch, max_line_bytes=LINE_BYTES, wait_ms=5)
            source = source_of(place.folder / "input", follow=follow, config=config, stop=stop)
            drive.run(stream, blocks(source, drive.positions(stream)))
    except StatecastError as error:
        (place.folder / "told").open("a").write(f"{type(error).__name__}: {error}\n")
        os._exit(REFUSED)
    os._exit(0)


def publish(place: Place, files: list[bytes], rng: random.Random, done: Done) -> None:
    """Publish another champion, take the last one back, or damage one as soon as it is there."""
    folder = place.folder / "champions"
    try:
        if rng.random() < 0.2:
            champions.rollback(folder, NAME)
            done.rollbacks += 1
            return
        champion = champions.publish(folder, NAME, rng.choice(files), beside={"last": model_bytes()})
        done.publications += 1
        if rng.random() < 0.15:
            (folder / champion.file).write_bytes(rng.choice(files) + rng.randbytes(8))
            done.damaged += 1
    except ModelError:  # nothing to go back to, or what there is was damaged
        done.unable += 1


def disturb(place: Place, minutes: float, files: list[bytes], rng: random.Random) -> Done:
    """Kill, stop and start the stream, and publish champions, until the time is over."""
    done, until = Done(), time.monotonic() + 60 * minutes
    next_champion = time.monotonic() + 5
    while time.monotonic() < until:
        process = child(place, True, be=live)
        end = time.monotonic() + rng.expovariate(1 / 6)
        while time.monotonic() < min(end, until) and process.is_alive():
            if time.monotonic() > next_champion:
                publish(place, files, rng, done)
                next_champion = time.monotonic() + rng.uniform(5, 30)
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
        if not process.is_alive():
            done.faults.append(f"a stream ended by itself with {ended(process)}; see {place.folder / 'told'}")
            return done
        gently = rng.random() < 0.15
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM if gently else signal.SIGKILL)
        code = ended(process)
        done.stops, done.kills = done.stops + gently, done.kills + (not gently)
        if code != (0 if gently else -signal.SIGKILL):
            done.faults.append(f"expected the end that was asked for, got {code}")
    return done


def undisturbed(place: Place, told: Story, moves: list[dict], lineups: dict[int, Lineup]) -> Stream:
    """Take in the same lines in one process; lineups are announced and serve after as many lines as before."""
    stream = open_stream(
        Opening(lineup=lineups[1], journal=place.journal, out=FileOutput(place.out), dead=FileOutput(place.dead)),
        CONFIG,
    )
    done, held = 0, 0
    for move in [*moves, None]:
        stop, ahead = done, held
        while stop < len(told.lines) and (move is None or ahead < move["lines"]):
            ahead += told.lines[stop][1] != "blank"
            stop += 1
        for i in range(done, stop, 1000):
            part = [line[: LINE_BYTES + 1] for line, _ in told.lines[i : min(i + 1000, stop)]]
            stream.take([Block(partition="input", lines=part, head=told.lines[0][0], first=i, position=None)])
        done, held = stop, ahead
        if move is not None and move["kind"] == "announced":
            stream.announce(lineups[move["version"]])
        elif move is not None:
            while not stream.warm(1.0):
                pass
            stream.flip()
    return stream


def notes(place: Place) -> list[dict]:
    """Read what was told beside the ticks."""
    return [orjson.loads(line) for line in (place.folder / "notes").read_bytes().splitlines()]


def taken_over(told: list[dict]) -> list[dict]:
    """Leave out announcements that came to nothing: those after which the next note of the kind is another one."""
    moves = [note for note in told if note["kind"] in {"announced", "swap"}]
    return [
        note
        for note, after in zip(moves, [*moves[1:], {"kind": "end"}], strict=False)
        if note["kind"] == "swap" or after["kind"] == "swap"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=500, help="lines a second")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="statecast-hour-") as temporary:
        root = Path(temporary)
        place, calm = Place(root / "disturbed"), Place(root / "calm")
        for one in (place, calm):
            one.folder.mkdir()
        files = models(root)
        champions.publish(place.folder / "champions", NAME, files[0], beside={"last": model_bytes()})
        told = story(asked.seed, round(asked.rate * asked.minutes * 60), SERIES, leaps=False)
        print(f"{len(told.lines):,} lines, {sum(map(len, told.data.splitlines())):,} bytes", flush=True)
        feeder = growing(place.folder / "input", told, random.Random(asked.seed), 60 * asked.minutes)
        done = disturb(place, asked.minutes, files, rng)
        feeder.stop() if done.faults else feeder.join()
        done.faults += [f"the last run ended with {code}"] if (code := ended(child(place, False, be=live), 600)) else []
        result = judged(place, calm, told, done, files)
    print(json.dumps(result, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(result))
    return 1 if result["lost"] or result["doubled"] or result["different"] or result["faults"] else 0


def judged(place: Place, calm: Place, told: Story, done: Done, files: list[bytes]) -> dict:
    """Hold what is left against the undisturbed run."""
    by_digest = {hashlib.sha256(file).hexdigest(): file for file in files}
    served = {1: files[0]} | {n["version"]: by_digest[n["sha256"]] for n in notes(place) if n["kind"] == "swap"}
    beside = {"last": model_bytes()}
    lineups = {version: Lineup(version=version, serving=file, beside=beside) for version, file in served.items()}
    moves = taken_over(notes(place))
    quiet = undisturbed(calm, told, moves, lineups)
    truth = {"digest": digest(quiet)}
    quiet.close()
    left = open_stream(Opening(journal=place.journal, out=FileOutput(place.out), dead=FileOutput(place.dead)), CONFIG)
    found = {"digest": digest(left)}
    left.close()
    for one in (truth, found):
        one["digest"].pop("read", None)  # the undisturbed run was handed its lines
    verdict = compare(
        Truth(out=place.out.read_bytes(), dead=place.dead.read_bytes(), **found),
        Truth(out=calm.out.read_bytes(), dead=calm.dead.read_bytes(), **truth),
    )
    kinds = Counter(note["kind"] for note in notes(place))
    return {
        "lines": len(told.lines),
        "poison": sum(reason != "accepted" for _, reason in told.lines),
        "forecasts": place.out.read_bytes().count(b"\n"),
        "dead_letters": place.dead.read_bytes().count(b"\n"),
        "kills": done.kills,
        "stops": done.stops,
        "published": done.publications,
        "damaged": done.damaged,
        "rollbacks": done.rollbacks,
        "announced": kinds["announced"],
        "swaps": kinds["swap"],
        "refused": kinds["swap_refused"],
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "different": verdict.different,
        "faults": done.faults + verdict.faults,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "onnxruntime": RUNTIME_VERSION,
    }


if __name__ == "__main__":
    sys.exit(main())
