"""What a disk may hold after the power is lost, made from the recorded calls of a run.

Safe is what was written before the last sync of its file. Of what came later any part may be there: whole writes or
sectors of them, in any order, and the length of the file without its bytes. What happened to names in a folder is safe
with the next sync of any file in it (SQLite syncs the folder with a new log, ext4 and xfs with every sync): before, a
file that was deleted may be there again. Of the mapped ring only what was flushed is taken to be there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from campaigns import Case, Tally, calls_of, committed
from disk import Call
from kills import Life

SECTOR = 512


class Disk:
    """The files of a run as the calls leave them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.safe: dict[str, bytearray] = {}
        self.waiting: dict[str, list[Call]] = {}
        self.committed = 0

    def follow(self, call: Call) -> None:
        """Take in a call."""
        if call.kind == "committed":
            self.committed = call.start
        elif call.kind == "map":
            self.safe[call.file] = bytearray(call.data)
        elif call.kind == "sync":
            deleted = [file for file, calls in self.waiting.items() if calls[-1].kind == "delete"]
            for file in {call.file, *deleted}:
                self.safe[file] = self._made(file, self.waiting.pop(file, []))
        else:
            self.waiting.setdefault(call.file, []).append(call)

    def after_the_loss(self) -> dict[str, bytes]:
        """Give what one of the disks that may be left holds."""
        left = {}
        for file in sorted(self.safe.keys() | self.waiting.keys()):  # in one order: a seed is to show the same again
            waiting = self.waiting.get(file, [])
            chance = self.rng.choice([0.0, 0.5, 0.9, 1.0])
            kept = [call for call in waiting if self.rng.random() < chance]
            data = bytes(self._made(file, kept, torn=chance < 1))
            if data or file in ("out", "dead"):
                left[file] = data
        return left

    def _made(self, file: str, calls: Sequence[Call], *, torn: bool = False) -> bytearray:
        data = bytearray(self.safe.get(file, b""))
        for call in calls:
            if call.kind == "delete":
                data = bytearray()
            elif call.kind in ("truncate", "allocate"):
                short = call.start - len(data)
                data = data + bytes(short) if short > 0 else data if call.kind == "allocate" else data[: call.start]
            else:
                end = call.start + len(call.data)
                data += bytes(max(0, end - len(data)))
                self._write(data, call, torn=torn and self.rng.random() < 0.5)
        return data

    def _write(self, data: bytearray, call: Call, *, torn: bool) -> None:
        """Write all of it, or some of its sectors."""
        for start in range(0, len(call.data), SECTOR) if torn else [0]:
            piece = call.data[start : start + SECTOR] if torn else call.data
            if not torn or self.rng.random() < 0.5:
                data[call.start + start : call.start + start + len(piece)] = piece


def lose_power(case: Case, life: Life, seed: int, tries: int) -> Tally:
    """Lose the power at random moments of a run: what is left opens, and with durability full no batch is lost."""
    rng = random.Random(seed)
    tally = Tally(f"power lost, durability {life.durability}")
    calls = calls_of(case, life)
    for _ in range(tries):
        end = rng.randint(1, len(calls))
        disk = Disk(rng)
        for call in calls[:end]:
            disk.follow(call)
        place = case.place("power")
        place.journal.mkdir()
        for file, data in disk.after_the_loss().items():
            folder = place.folder if file in ("out", "dead") else place.journal
            (folder / file).write_bytes(data)
        tally.tries += 1
        where = f"seed {seed}, after call {end} of {len(calls)} ({calls[end - 1].kind} {calls[end - 1].file})"
        last = int(committed(place).get("batch", 0))
        if life.durability == "full" and last < disk.committed:
            tally.notes.append(f"{where}: batch {disk.committed} was committed, the last one there is {last}")
        tally.add(case.verdict(place, replace(life, batch=61)), where)
    return tally
