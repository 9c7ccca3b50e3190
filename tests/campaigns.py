"""Campaigns of faults against a stream: each gives how often it struck, and how far what was left is from the truth.

Every campaign is made from a seed. The tests run short ones, `benchmarks/soak.py` long ones.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import orjson
from disk import Call, Fault, Record
from feeding import Feeder, growing, pouring, receiving
from kills import REFUSED, Life, Place, Setting, Truth, Verdict, child, compare, ended, lay_out, left, run, told_of
from poison import Story

from pipeline.opening import NOTES

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Tally:
    """What a campaign gave.

    Attributes
    ----------
    fault : str
    tries : int
        How often the fault was made.
    lost, doubled, different : int
        Forecasts.
    notes : list of str
        Everything else that was wrong.
    outcomes : dict of int
        How the tries ended, where that may differ.
    """

    fault: str
    tries: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    notes: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.lost or self.doubled or self.different or self.notes)

    def add(self, verdict: Verdict, where: str) -> None:
        """Count what a comparison found."""
        self.lost += verdict.lost
        self.doubled += verdict.doubled
        self.different += verdict.different
        self.notes += [f"{where}: {fault}" for fault in verdict.faults]

    def ended(self, how: str) -> None:
        """Count how a try ended."""
        self.outcomes[how] = self.outcomes.get(how, 0) + 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """A story with what it has to give."""

    base: Path
    setting: Setting
    told: Story
    truth: Truth
    input: str = "input"

    def place(self, name: str, *, empty: bool = False) -> Place:
        """Make a folder for a run, with the whole story in it."""
        place = Place(self.base / name)
        if place.folder.exists():
            shutil.rmtree(place.folder)
        place.folder.mkdir(parents=True)
        if not empty:
            lay_out(place, self.told, self.input)
        return place

    def verdict(self, place: Place, life: Life) -> Verdict:
        """Let a run come to its end, and compare."""
        code = run(place, self.setting, life)
        if code != 0:
            return Verdict(faults=[f"the last life ended with {code}: {complaint(place)}"])
        return compare(left(place, self.setting), self.truth)


def complaint(place: Place) -> str:
    """Give what the last life said."""
    said = place.error if place.error.exists() else place.folder / "told"
    return said.read_text()[-1500:]


def some_life(rng: random.Random, **given: object) -> Life:
    """Choose everything that must not show."""
    return replace(
        Life(
            batch=int(10 ** rng.uniform(0.5, 3)),
            durability=rng.choice(["full", "normal", "none"]),
            replay=rng.choice([1000, 1500, 5000]),
            checkpoint=rng.choice([5, 20, 1000]),
        ),
        **given,  # type: ignore[arg-type]
    )


FEEDS: dict[str, Callable[[Path, Story, random.Random, float], Feeder]] = {
    "input": growing,
    "folder": receiving,
    "fifo": pouring,
}


def endure(case: Case, seed: int, kills: int, *, seconds: float = 0.2, stops: float = 0.15) -> Tally:
    """Kill a stream at random moments while its source fills.

    Parameters
    ----------
    case : Case
        Its `input` is "input" for a growing file, "folder", or "fifo" for a pipe that begins again from its start.
    seed : int
    kills : int
    seconds : float
        About how long the source goes on filling for each kill.
    stops : float
        Share of the lives that are asked to end by a signal, which they have to obey with exit code 0.
    """
    rng = random.Random(seed)
    tally = Tally(f"killed at random moments, {case.input}")
    place = case.place(f"endure-{case.input}-{seed}", empty=True)
    feed, path = FEEDS[case.input], place.folder / case.input
    feeder = None if case.input == "fifo" else feed(path, case.told, random.Random(seed + 1), seconds * kills)
    lives = []
    for _ in range(kills):
        life = some_life(rng, input=case.input, follow=True)
        lives.append(told_of(life))
        poured = feed(path, case.told, random.Random(seed), 0.3) if case.input == "fifo" else None
        place.ready.unlink(missing_ok=True)
        place.error.unlink(missing_ok=True)
        process = child(place, case.setting, life)
        code, wanted = struck(process, place, rng, stops)
        if poured is not None:
            poured.stop()
        tally.tries += 1
        tally.ended("killed" if code == -signal.SIGKILL else f"ended with {code}")
        if code not in wanted:
            tally.notes.append(f"seed {seed}: life {len(lives)} ended with {code}, not {wanted}: {complaint(place)}")
            return tally
    if feeder is not None:
        feeder.join()
    last = some_life(rng, input=case.input)
    poured = feed(path, case.told, random.Random(seed), 0) if case.input == "fifo" else None
    tally.add(case.verdict(place, last), f"seed {seed}, after {lives}")
    if poured is not None:
        poured.stop()
    return tally


def struck(process: BaseProcess, place: Place, rng: random.Random, stops: float) -> tuple[int, set[int]]:
    """End a life at a random moment; give its exit code and those that are right."""
    early = rng.random() < 0.4
    moment = rng.uniform(0, 0.05) if early else rng.uniform(0, 0.3)
    if rng.random() >= stops:
        time.sleep(moment)
        process.kill()
        return ended(process), {-signal.SIGKILL, 0}  # 0: a pipe was through before
    while not place.ready.exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(moment)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, rng.choice(STOPS))
    return ended(process), {0}


def committed(place: Place) -> dict[str, Any]:
    """Read the head of the last batch in a copy of the journal; empty where there is none."""
    copy = Path(f"{place.folder}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place.journal, copy)
    path = copy / "journal.sqlite"
    if not path.exists() or not path.stat().st_size:
        return {}
    db = sqlite3.connect(path)
    try:
        row = db.execute("SELECT head FROM batch ORDER BY id DESC LIMIT 1").fetchone()
        return {} if row is None else orjson.loads(row[0])
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return {}
        raise
    finally:
        db.close()


def ahead(place: Place) -> list[str]:
    """Tell of outputs that hold more than was committed."""
    head = committed(place)
    files = {"out": place.out, "dead": place.dead, "note": place.journal / NOTES}
    sizes = {name: path.stat().st_size for name, path in files.items() if path.exists()}
    return [
        f"{name} has {size} bytes, of which {head.get(f'{name}_bytes', 0)} are committed"
        for name, size in sizes.items()
        if size > head.get(f"{name}_bytes", 0)
    ]


def fill(case: Case, life: Life, sizes: Iterable[int], *, room: int = 64 << 20) -> Tally:
    """Run on a real disk that is too small, then give it room; needs the right to mount.

    Parameters
    ----------
    sizes : iterable of int
        Bytes of the disk that holds the journal and the outputs.
    """
    tally = Tally("a real disk that is full")
    disk = case.base / "disk"
    disk.mkdir(exist_ok=True)
    for size in sizes:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        subprocess.run(mount, check=True, capture_output=True)
        try:
            place = case.place("fill")  # what the child says of itself lies where there is room
            (disk / "journal").mkdir()
            for name in ("journal", "out", "dead"):
                (place.folder / name).symlink_to(disk / name)
            code = run(place, case.setting, life)
            tally.tries += 1
            tally.ended({0: "had room", REFUSED: "ended with an error"}.get(code, f"exit code {code}"))
            if code not in (0, REFUSED):
                tally.notes.append(f"{size} bytes: exit code {code}: {complaint(place)}")
            subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True, capture_output=True)
            tally.add(case.verdict(place, replace(life, batch=41)), f"{size} bytes")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return tally


def calls_of(case: Case, life: Life) -> list[Call]:
    """List the calls to the disk of an undisturbed run."""
    place = case.place("calls")
    assert run(place, case.setting, replace(life, watcher=Record())) == 0, complaint(place)
    return pickle.loads(place.calls.read_bytes())  # noqa: S301  written by the child just now


def strike(case: Case, life: Life, what: str, points: Iterable[int], *, again: Iterable[int] = ()) -> Tally:
    """Let a run die at certain calls to the disk, then once more in recovery where that is asked for.

    Parameters
    ----------
    what : {"kill", "torn"}
        Before the call, or with half of it done.
    points : iterable of int
        Numbers of calls.
    again : iterable of int
        After each first death, calls of the next life at which it dies too, each tried on its own.
    """
    name = {"kill": "killed before a call to the disk", "torn": "killed within a write"}[what]
    tally = Tally(name + (", and again in recovery" if list(again) else ""))
    for point in points:
        place = case.place("strike")
        code = run(place, case.setting, replace(life, watcher=Fault(point, what)))
        if code == 0:
            break
        tally.tries += 1
        assert code == -signal.SIGKILL, complaint(place)
        tally.notes += [f"{what} at call {point}: {fault}" for fault in ahead(place)]
        for second in again:
            copy = Place(case.base / "strike-again")
            shutil.rmtree(copy.folder, ignore_errors=True)
            shutil.copytree(place.folder, copy.folder)
            tally.tries += 1
            code = run(copy, case.setting, replace(life, batch=100, watcher=Fault(second, "kill")))
            if code not in (0, -signal.SIGKILL):
                tally.notes.append(f"call {point}, then {second}: ended with {code}: {complaint(copy)}")
            tally.add(case.verdict(copy, replace(life, batch=31)), f"{what} at call {point}, then {second}")
        tally.add(case.verdict(place, replace(life, batch=50)), f"{what} at call {point}")
    return tally


def fail(case: Case, life: Life, what: str, where: str, points: Iterable[int], *, lasting: bool) -> Tally:
    """Let the disk be full or fail at certain calls: the process ends with an error, and the next one goes on.

    A process may also come to its end, for what SQLite moves from its log to its file can wait.
    """
    tally = Tally(f"{'no space' if what == 'full' else 'the disk fails'}: {where}{', lasting' if lasting else ''}")
    for point in points:
        place = case.place("fail")
        fault = Fault(point, what, where, lasting=lasting)
        code = run(place, case.setting, replace(life, watcher=fault))
        times = len(place.struck.read_text().split("\n")) if place.struck.exists() and place.struck.read_text() else 0
        if not times:
            break
        tally.tries += 1
        tally.ended({0: "went on", REFUSED: "ended with an error"}.get(code, f"exit code {code}"))
        if code not in (0, REFUSED):
            tally.notes.append(f"{where} {point}: exit code {code}: {complaint(place)}")
        if lasting and where.startswith("sync") and times > 1:
            tally.ended("synced again")
        tally.add(case.verdict(place, replace(life, batch=77)), f"{what} {where} {point}")
    return tally


def flip(
    case: Case,
    life: Life,
    seed: int,
    tries: int,
    file: str,
    *,
    points: Sequence[int] = range(100, 400),
    bits: int = 1,
    late: float = 0,
) -> Tally:
    """Kill a run, turn bits of a file of its journal over, and go on: detected, or harmless, and never wrong.

    Parameters
    ----------
    file : str
        Of the journal's folder.
    points : sequence of int
        Calls to the disk before which the run may die.
    bits : int
        How many are turned over at a time.
    late : float
        Share of the file, from its start, that is left as it is.
    """
    rng = random.Random(seed)
    tally = Tally(f"{bits} bit(s) turned over in {file}")
    while tally.tries < tries:
        place = case.place("flip")
        point = rng.choice(points)
        assert run(place, case.setting, replace(life, watcher=Fault(point, "kill"))) in (0, -signal.SIGKILL)
        for _ in range(min(5, tries - tally.tries)):
            copy = Place(case.base / "flip-copy")
            shutil.rmtree(copy.folder, ignore_errors=True)
            shutil.copytree(place.folder, copy.folder)
            path = copy.journal / file
            if not path.exists() or not path.stat().st_size:
                break
            data = bytearray(path.read_bytes())
            places = [rng.randrange(int(8 * late * len(data)), 8 * len(data)) for _ in range(bits)]
            for at in places:
                data[at // 8] ^= 1 << at % 8
            path.write_bytes(data)
            tally.tries += 1
            where = f"seed {seed}, killed at {point}, bits {places} of {len(data)} bytes of {file}"
            code = run(copy, case.setting, replace(life, batch=99))
            if code == REFUSED:
                tally.ended("detected")
            elif code != 0:
                tally.ended("wrong")
                tally.notes.append(f"{where}: exit code {code}: {complaint(copy)}")
            else:
                found = left(copy, case.setting)
                if isinstance(found, str):
                    tally.ended("detected")
                    continue
                verdict = compare(found, case.truth)
                tally.ended("harmless" if verdict.good else "wrong")
                tally.add(verdict, where)
    return tally
