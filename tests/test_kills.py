"""Real processes over real files that are killed, starved of disk, cut off and lied to, against a run at peace."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trial
from campaigns import Case, calls_of, complaint, endure, fail, fill, flip, strike
from disk import Fault
from kills import REFUSED, Life, child, ended, run
from power import lose_power

LIFE = Life(batch=128)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Tell one story, and find out what it has to give."""
    return trial.case(tmp_path_factory.mktemp("kills"))


def test_poison_leaves_no_trace(case: Case) -> None:
    """Every line gets the reason that its writer meant, and forecasts are those of the lines without the poison.

    `quiet` has found that out for the file of the fixture; a folder adds CSV.
    """
    folder = trial.case(case.base / "csv", count=900, input="folder")
    assert len(folder.told.counts) >= 18
    assert len(folder.truth.out) > 0
    assert len(case.told.counts) >= 17


@pytest.mark.parametrize("source", ["input", "folder", "fifo"])
def test_kills_at_random_moments_leave_the_same_bytes(source: str, tmp_path: Path) -> None:
    """However often a stream is killed or stopped while its source fills, every byte and bit is that of one run."""
    tally = endure(trial.case(tmp_path, input=source), 11, 8)
    assert tally.tries == 8
    assert tally.good, tally


def test_death_before_any_call_to_the_disk_leaves_the_same_bytes(case: Case) -> None:
    """Wherever a process dies between calls to the disk, outputs are never ahead, and the next one ends the same."""
    tally = strike(case, LIFE, "kill", [*range(0, 60, 9), *range(60, 560, 53)])
    assert tally.tries > 10
    assert tally.good, tally


def test_death_within_a_write_leaves_the_same_bytes(case: Case) -> None:
    """A write of which half is there, to the journal or an output, is mended."""
    writes = [i for i, call in enumerate(calls_of(case, LIFE)) if call.kind == "write"]
    tally = strike(case, LIFE, "torn", writes[5::71])
    assert tally.tries > 4
    assert tally.good, tally


def test_death_in_recovery_leaves_the_same_bytes(case: Case) -> None:
    """A process that dies in the recovery from a death leaves one that can be recovered."""
    tally = strike(case, LIFE, "kill", [333], again=range(8))
    assert tally.tries == 9
    assert tally.good, tally


@pytest.mark.parametrize("what", ["full", "fail"])
@pytest.mark.parametrize(
    "where",
    [
        "write journal.sqlite-wal",
        "write out",
        "sync out",
        "sync journal.sqlite-wal",
        "allocate",
        "map",
        "truncate lock",
    ],
)
def test_an_error_of_the_disk_ends_the_process_and_nothing_else(case: Case, what: str, where: str) -> None:
    """A disk that is full or fails ends the process with an error that says so, and the next one ends the same."""
    tally = fail(case, LIFE, what, where, [0, 1] if where in ("allocate", "map") else [0], lasting=True)
    assert tally.outcomes["ended with an error"] == tally.tries > 0
    assert tally.good, tally


def test_a_full_disk_ends_the_process_until_there_is_room(case: Case) -> None:
    """On a real disk that fills up the stream ends with an error, and goes on when there is room."""
    disk = case.base / "try"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted with the rights for it")
    subprocess.run(["umount", disk], check=True)
    tally = fill(case, LIFE, [100_000, 600_000, 1_100_000])
    assert tally.outcomes == {"ended with an error": 3}
    assert tally.good, tally


@pytest.mark.parametrize(("durability", "tries"), [("full", 12), ("normal", 8)])
def test_a_loss_of_power_leaves_what_can_be_recovered(case: Case, durability: str, tries: int) -> None:
    """Whatever part of the unsynced writes is on disk, the journal opens, holds what it promised, and goes on alike."""
    tally = lose_power(case, Life(batch=128, durability=durability), 3, tries)  # type: ignore[arg-type]
    assert tally.tries == tries
    assert tally.good, tally


@pytest.mark.parametrize("file", ["journal.sqlite", "journal.sqlite-wal", "history.ring"])
def test_a_bit_that_flips_is_found_or_does_no_harm(case: Case, file: str) -> None:
    """No turned bit of a journal's files gives other forecasts than the right ones."""
    tally = flip(case, LIFE, 1, 10, file)
    assert tally.tries == 10
    assert tally.good, tally


def test_tables_of_two_moments_are_refused(case: Case) -> None:
    """A wrong bit in SQLite's log, after a death while it was being moved to the file, does not pass for a state."""
    tally = flip(case, LIFE, 4, 15, "journal.sqlite-wal", points=trial.moving(case, LIFE), late=0.5)
    assert tally.outcomes.get("detected", 0) > 0
    assert tally.good, tally


def test_a_second_process_is_refused_by_the_number_of_the_first(case: Case) -> None:
    """Two processes never share a journal; the second one names the first, and neither suffers."""
    place = case.place("two")
    first = child(place, case.setting, Life(follow=True))
    number = first.pid
    while not (place.journal / "lock").exists() or not (place.journal / "lock").read_text():
        assert first.is_alive()
    assert run(place, case.setting, LIFE) == REFUSED
    assert f"process {number} has it open" in place.error.read_text()
    os.kill(number or 0, 15)
    assert ended(first) == 0
    assert case.verdict(place, LIFE).good


def test_a_folder_that_cannot_be_written_is_refused(case: Case) -> None:
    """Where no journal can be, no tick is taken."""
    place = case.place("nowhere")
    place.journal.write_text("a file, not a folder")
    assert run(place, case.setting, LIFE) == REFUSED
    assert "cannot be made" in complaint(place)
    assert place.out.read_bytes() == b""


def test_an_output_is_held_against_the_journal(case: Case) -> None:
    """Bytes of an output that are not those that the journal still holds are written again; a cut beyond is told."""
    place = case.place("changed")
    calls = calls_of(case, LIFE)
    last = max(i for i, call in enumerate(calls) if (call.kind, call.file) == ("write", "out"))
    assert run(place, case.setting, replace(LIFE, watcher=Fault(last, "kill"))) == -9
    whole = place.out.read_bytes()
    place.out.write_bytes(whole[:-500] + bytes(500))
    assert case.verdict(place, LIFE).good
    place.out.write_bytes(whole[:1000])
    assert run(place, case.setting, LIFE) == REFUSED
    assert "Put the file back" in complaint(place)
