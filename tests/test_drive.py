"""A run takes in every block of a source, and says what it did."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from streamed import LINEUP, QUICK, begin, full, read_files
from ticking import feed, tick

from models.errors import DataError
from pipeline import drive
from pipeline.intake import blocks, source_of
from pipeline.lines import Block, IntakeConfig, Position, cut
from pipeline.outputs import PipeOutput
from pipeline.pipes import Pipe
from pipeline.stream import Stream
from pipeline.ticks import PLAIN, Reason, Ticks

SMALL = IntakeConfig(batch=20, wait_ms=1)


def test_progress_is_told_after_each_batch() -> None:
    """With the number of lines taken in so far, the last time all of them."""
    told: list[int] = []
    drive.run(Stream(LINEUP, QUICK), cut(feed(90), "-", SMALL), on_progress=told.append)
    lines = feed(90).count(b"\n")
    assert told == [*range(20, lines, 20), lines]


def test_a_block_of_nothing_takes_in_nothing(tmp_path: Path) -> None:
    """While nothing is waiting the journal does not grow; a position that moved without lines is kept."""
    stream = begin(tmp_path)
    idle = Block(partition="f", lines=[], head=b"", first=0, position=Position())
    drive.run(stream, [idle] * 5)
    assert stream.head.batch == 1
    moved = Block(partition="f", lines=[], head=b"", first=0, position=Position(offset=3, size=3))
    drive.run(stream, [idle, moved, moved, idle, moved])
    assert drive.positions(stream) == {"f": moved.position}
    stream.close()


class Slices:
    """Work beside the ticks, of so many slices."""

    def __init__(self, left: int) -> None:
        self.left = left

    def tend(self) -> bool:
        """Do one of them."""
        self.left = max(0, self.left - 1)
        return self.left > 0

    def close(self) -> None:
        """Leave the rest."""


def test_work_beside_the_ticks_goes_on_while_no_line_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice after each block of lines; where nothing waits, slice after slice until nothing is left."""
    monkeypatch.setattr(drive, "IDLE_S", 60.0)
    stream = Stream(LINEUP, QUICK)
    stream.swap = work = Slices(9)
    busy = Block(partition="-", lines=[tick()], head=b"{}", first=0, position=None)
    drive.run(stream, [busy])
    assert work.left == 8
    drive.run(stream, [replace(busy, lines=[])])
    assert work.left == 0


def test_positions_are_those_after_the_last_batch(tmp_path: Path) -> None:
    """Of every partition, whatever a later version may have written beside them."""
    stream = begin(tmp_path)
    position = Position(offset=7, lines=1, head="ÿ", head_sum=3, tail_sum=4, size=9)
    stream.take([Block(partition="a", lines=[tick()], head=b"{}", first=0, position=position)])
    assert stream.journal is not None
    stream.journal.commit(
        replace(stream.journal.last(), id=3, positions={"b": asdict(Position()) | {"of later versions": 1}})
    )
    assert drive.positions(stream) == {"a": position, "b": Position()}
    stream.journal.close()
    assert drive.positions(Stream(LINEUP, QUICK)) == {}


def test_a_report_counts_all_runs_of_a_journal(tmp_path: Path) -> None:
    """Counts are those of the whole, speed that of this run."""
    source = feed(300, seed=4)
    (tmp_path / "in.jsonl").write_bytes(source)
    reports = []
    for stop in (source.index(b"\n", 9000) + 1, len(source)):
        (tmp_path / "in.jsonl").write_bytes(source[:stop])
        stream = begin(tmp_path)
        given = source_of(tmp_path / "in.jsonl", config=SMALL)
        reports.append(drive.run(stream, blocks(given, drive.positions(stream))))
        stream.close()
    whole = full(source)[2]
    assert replace(reports[1], seconds=0, ticks_per_second=0) == replace(whole, seconds=0, ticks_per_second=0)
    fresh = reports[1].ticks - reports[0].ticks
    assert fresh > 0
    assert reports[1].ticks_per_second * reports[1].seconds == pytest.approx(fresh)


def test_every_file_of_a_folder_is_a_partition(tmp_path: Path) -> None:
    """Files that arrive later are read too, each from where it ended; what was read is not read again."""
    (tmp_path / "in").mkdir()
    lines = [tick("A", hour) + b"\n" for hour in range(6)]
    for k, name in enumerate(("a.jsonl", "b.jsonl", "c.jsonl")):
        (tmp_path / "in" / name).write_bytes(b"".join(lines[2 * k : 2 * k + 2]))
        stream = begin(tmp_path)
        given = source_of(tmp_path / "in", config=SMALL)
        report = drive.run(stream, blocks(given, drive.positions(stream)))
        assert (report.forecasts, report.rejected) == (2 * k + 2, {})
        assert len(drive.positions(stream)) == k + 1
        stream.close()
    assert read_files(tmp_path)[0] == full(b"".join(lines))[0]


def test_a_run_ends_when_it_is_told_to_and_is_gone_on_with(tmp_path: Path) -> None:
    """A file that is followed ends after the batch in hand; the next run begins where it ended."""
    (tmp_path / "in.jsonl").write_bytes(feed(200, seed=7))
    enough = threading.Event()

    def progress(lines: int) -> None:
        if lines >= 100:
            enough.set()

    stream = begin(tmp_path)
    given = source_of(tmp_path / "in.jsonl", follow=True, config=SMALL, stop=enough.is_set)
    drive.run(stream, blocks(given, drive.positions(stream)), on_progress=progress)
    (position,) = drive.positions(stream).values()
    assert 100 <= position.lines < 200
    stream.close()
    stream = begin(tmp_path)
    drive.run(stream, blocks(source_of(tmp_path / "in.jsonl"), drive.positions(stream)))
    stream.close()
    assert read_files(tmp_path) == full(feed(200, seed=7))[:2]


@pytest.mark.parametrize("repeats", [True, False])
def test_input_that_begins_again_is_passed_over(tmp_path: Path, repeats: bool) -> None:
    """Told to repeat, standard input is known again and gives each tick once; else all of it is new."""
    source = feed(60, seed=2)
    reports = []
    for _ in range(2):
        reading, writing = os.pipe()
        os.write(writing, source)
        os.close(writing)
        stream = begin(tmp_path)
        given = Pipe(reading, repeats=repeats, config=SMALL)
        reports.append(drive.run(stream, blocks(given, drive.positions(stream))))
        os.close(reading)
        stream.close()
    lines = sum(1 for line in source.split(b"\n") if line.strip())
    assert reports[1].ticks == lines * (1 if repeats else 2)
    assert reports[1].forecasts == reports[0].forecasts


def test_another_input_in_the_place_of_one_that_repeats_is_refused(tmp_path: Path) -> None:
    """What was read must come again, byte for byte, before anything is taken in."""
    for source, raises in ((feed(60, seed=2), False), (feed(60, seed=3), True)):
        reading, writing = os.pipe()
        os.write(writing, source)
        os.close(writing)
        stream = begin(tmp_path)
        given = blocks(Pipe(reading, repeats=True, config=SMALL), drive.positions(stream))
        if raises:
            with pytest.raises(DataError, match=r"are not those that were read|it was cut or replaced"):
                drive.run(stream, given)
        else:
            drive.run(stream, given)
        os.close(reading)
        stream.close()
    assert read_files(tmp_path) == full(feed(60, seed=2))[:2]


def test_blocks_are_read_as_ticks_alone() -> None:
    """For a warm start: the same ticks, and a line above the bound is none."""
    config = replace(QUICK, max_line_bytes=100)
    source = b"\n".join([tick("A"), b"", tick("B", note="x" * 100), tick("C", 1)])
    ticks = Ticks.joined(list(drive.parsed(cut(source, "-", IntakeConfig(batch=2, max_line_bytes=100)), config, PLAIN)))
    assert [n for n, r in zip(ticks.name, ticks.reason, strict=True) if r == Reason.ACCEPTED] == ["A", "C"]


def test_the_stream_does_its_own_work_between_blocks() -> None:
    """Also while nothing is waiting."""
    stream, tended = Stream(LINEUP, QUICK, out=PipeOutput(io.BytesIO())), []
    stream.tend = lambda: bool(tended.append(1))  # type: ignore[method-assign]
    idle = Block(partition="", lines=[], head=b"", first=0, position=None)
    drive.run(stream, [idle, *cut(feed(40), "-", SMALL), idle])
    assert len(tended) == 2 + len(list(cut(feed(40), "-", SMALL)))
