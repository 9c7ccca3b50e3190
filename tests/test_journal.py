"""The journal keeps a batch whole or not at all, and no damage to it goes unseen."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import PAIR, StoppedError, begin, full, read_files, run_file
from ticking import BESIDE, feed

from models.errors import ConfigError, DataError, IntegrityError, StatecastError
from pipeline import drive
from pipeline import journal as journals
from pipeline.intake import blocks, source_of
from pipeline.journal import Batch, Durability, Journal
from pipeline.lines import IntakeConfig

MODELS = [(1, 3, "serving", b"file\0one"), (2, 3, "plain", b"file two")]
ABOUT = {"settings": {"history": 8, "layout": {"past": ["é"]}}, "fingerprint": {"a": "b"}}


def batch(number: int) -> Batch:
    """Make a batch with something everywhere."""
    return Batch(
        id=number,
        head={"batch": number, "counts": {"accepted": 2 * number}},
        events=b"events" * number,
        forecasts=bytes(range(256)),
        dead=b'{"line": 1}\n',
        new=[(number - 1, f"S{number}")],
        positions={"file": {"offset": number}, f"p{number}": {"offset": 0, "head": "ÿ"}},
        answers={f"r{number}": b"answer %d" % number},
        pages=[(1, 0, b"page" * number), (0, number, b"other")],
    )


def laid_down(folder: Path, count: int = 3, durability: Durability = "none") -> Journal:
    """Make a journal of some batches."""
    made = Journal(folder, durability)
    assert made.fresh
    made.begin(ABOUT, MODELS, batch(1))
    for number in range(2, count + 1):
        made.commit(batch(number))
    return made


@pytest.mark.parametrize("durability", ["full", "normal", "none"])
def test_what_is_committed_is_read_back(tmp_path: Path, durability: Durability) -> None:
    """Batches, series, positions, answers, models and the latest pages, in the same process and in a later one."""
    made = laid_down(tmp_path / "journal", 3, durability)
    for _ in range(2):
        assert not made.fresh
        assert made.span() == (1, 3)
        assert [b.id for b in made.batches(0)] == [1, 2, 3]
        for read in (*made.batches(1), made.last()):
            expected = batch(read.id)
            assert (read.head, read.events, read.forecasts, read.dead) == (
                expected.head,
                expected.events,
                expected.forecasts,
                expected.dead,
            )
        assert made.series() == [("S1", 1), ("S2", 2), ("S3", 3)]
        assert made.positions()["file"] == {"offset": 3}
        assert made.positions()["p1"] == {"offset": 0, "head": "ÿ"}
        assert (made.answer("r2"), made.answer("r9")) == (b"answer 2", None)
        assert list(made.pages(1)) == [(0, 3, b"page" * 3)]
        assert list(made.pages(0)) == [(k, k, b"other") for k in (1, 2, 3)]
        assert made.models(3) == {"serving": (1, b"file\0one"), "plain": (2, b"file two")}
        assert {key: made.about(key) for key in ABOUT} == ABOUT
        made.close()
        made = Journal(tmp_path / "journal", durability)
    made.close()


def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Rows before the one that is refused are gone again, and the next batch finds the journal as it was."""
    made = laid_down(tmp_path)
    before = [*made._db.iterdump()]
    taken = replace(batch(4), new=[(2, "again")])  # its slot is taken
    with pytest.raises(DataError, match=r"batch 4 cannot be written .*Nothing of it is committed"):
        made.commit(taken, [(9, 4, "serving", b"new")])
    assert [*made._db.iterdump()] == before
    made.commit(batch(4))
    assert made.span() == (1, 4)
    made.close()


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    """Batches before one, and models and pages of other owners; answers stay until there are too many."""
    made = laid_down(tmp_path, 5)
    made.forget(4, [0, 1])
    assert made.span() == (4, 5)
    assert [b.id for b in made.batches(0)] == [4, 5]
    assert made.models(3) == {"serving": (1, b"file\0one")}
    assert made.answer("r1") == b"answer 1"
    made.close()
    made = Journal(tmp_path)
    assert made.span() == (4, 5)
    made.close()


def test_the_number_of_what_was_forgotten_may_be_given_again(tmp_path: Path) -> None:
    """Pages under it are held against their own total, not also that of the pages before them."""
    made = laid_down(tmp_path)
    made.commit(replace(batch(4), pages=[(3, 0, b"shadow")]), [(3, 4, "serving", b"file three")])
    made.forget(4, [0, 1, 2])
    assert made.next_owner() == 3
    made.commit(replace(batch(5), pages=[(3, 0, b"another")]), [(3, 5, "serving", b"file four")])
    made.close()
    again = Journal(tmp_path, "none")
    assert [data for *_, data in again.pages(3)] == [b"another"]
    again.close()


def test_the_oldest_answers_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are remembered stay, the latest."""
    monkeypatch.setattr(journals, "ANSWERS", 2)
    made = laid_down(tmp_path, 6)
    made.forget(6, [0, 1, 2])
    assert [made.answer(f"r{k}") is not None for k in range(1, 7)] == [False, False, False, True, True, True]
    made.close()


# ------------------------------------------------------------------------------------------------ who may open it

_HOLDER = """
import sys
from pathlib import Path
from pipeline.journal import Journal
journal = Journal(Path(sys.argv[1]), "none")
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    """While another process has the journal open; when that one is killed, nothing is in the way."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} has it open. End that one first"):
            Journal(tmp_path)
        holder.send_signal(signal.SIGKILL)
    Journal(tmp_path).close()


def test_an_open_journal_is_refused_in_the_same_process_too(tmp_path: Path) -> None:
    """Two streams in one process would write it by turns."""
    made = laid_down(tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} has it open"):
        Journal(tmp_path)
    made.close()
    Journal(tmp_path).close()


@contextmanager
def _powerless() -> Iterator[None]:
    """Let go of the powers of root, before which every folder can be written."""
    if os.geteuid() == 0:
        os.seteuid(65_534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def test_a_folder_that_cannot_be_written_is_named() -> None:
    """Neither a folder without rights nor a file in its place; a missing one is made, with those above it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Journal(folder / "a" / "b").close()
        folder.chmod(0o500)
        with _powerless(), pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\). Name another"):
            Journal(folder / "new")
        with _powerless(), pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\)"):
            Journal(folder)
        folder.chmod(0o700)
        (folder / "file").touch()
        with pytest.raises(ConfigError, match=r"cannot be written"):
            Journal(folder / "file")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """The file stays as it is, and is opened again by the version that wrote it."""
    laid_down(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db:
        db.execute(f"PRAGMA user_version = {journals.FORMAT + 1}")
    before = (tmp_path / "journal.sqlite").read_bytes()
    with pytest.raises(IntegrityError, match=f"format {journals.FORMAT + 1}; this version reads {journals.FORMAT}"):
        Journal(tmp_path)
    assert (tmp_path / "journal.sqlite").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- damage

DAMAGE = {
    "about": "UPDATE about SET value = '{}' WHERE key = 'settings'",
    "no about": "DELETE FROM about WHERE key = 'settings'",
    "model": "UPDATE model SET file = zeroblob(8) WHERE id = 1",
    "series": "UPDATE series SET name = 'T2' WHERE slot = 1",
    "no series": "DELETE FROM series WHERE slot = 1",
    "batch": "UPDATE batch SET forecasts = zeroblob(256) WHERE id = 2",
    "head": "UPDATE batch SET head = '{}' WHERE id = 3",
    "first batch": "DELETE FROM batch WHERE id = 1",
    "inner batch": "DELETE FROM batch WHERE id = 2",
    "last batch": "DELETE FROM batch WHERE id = 3",
    "all batches": "DELETE FROM batch",
    "page": "UPDATE page SET data = zeroblob(12) WHERE owner = 1",
    "page of another batch": "UPDATE page SET batch = 1 WHERE owner = 1",
    "position": "UPDATE position SET value = '{}' WHERE partition = 'file'",
    "answer": "UPDATE answer SET value = 'other' WHERE request = 'r2'",
    "answer of another": "UPDATE answer SET request = 'r2' WHERE request = 'r1'",
}


def looked_through(made: Journal) -> None:
    """Read everything."""
    made.span()
    made.last()
    made.series()
    made.positions()
    made.models(3)
    for owner in (0, 1):
        list(made.pages(owner))
    list(made.batches(0))
    for key in ABOUT:
        made.about(key)
    made.answer("r2")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_row_that_is_changed_or_missing_is_noticed(tmp_path: Path, damage: str) -> None:
    """Values that do not fit their sum, and rows that are counted and not there, are named as damage."""
    laid_down(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db, db:
        if damage == "answer of another":
            db.execute("DELETE FROM answer WHERE request = 'r2'")
        db.execute(DAMAGE[damage])
    with pytest.raises(IntegrityError, match=r"damaged|missing|different moments"), closing(Journal(tmp_path)) as made:
        looked_through(made)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000, bytes(16_384)])
def test_another_file_in_its_place_is_damage(tmp_path: Path, content: bytes) -> None:
    """An empty file is a journal that was never begun; anything else is not overwritten."""
    (tmp_path / "journal.sqlite").write_bytes(content)
    if not content:
        with closing(Journal(tmp_path)) as made:
            assert made.fresh
        return
    with pytest.raises((IntegrityError, ConfigError, DataError), match="journal"):
        Journal(tmp_path)
    assert (tmp_path / "journal.sqlite").read_bytes() == content


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import streamed
for stop_at in (700, 600):
    if stop_at == 600:
        streamed.leave = lambda stream: os.kill(os.getpid(), signal.SIGKILL)
    try:
        streamed.run_file(Path(sys.argv[1]), lineup=streamed.PAIR, stop_at=stop_at)
    except streamed.StoppedError:
        pass
"""
LINES = feed(1500, seed=4, names=[f"S{k}" for k in range(30)], **BESIDE)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a process that was killed before its end: half of it in its write-ahead log."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "in.jsonl").write_bytes(LINES)
    command = [sys.executable, "-c", _KILLED, str(folder), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert all((folder / "journal" / f"journal.sqlite{log}").stat().st_size > 300_000 for log in ("", "-wal"))
    return folder


@pytest.fixture(scope="module")
def expected() -> tuple[bytes, bytes]:
    """Give the outputs of the run without interruption."""
    return full(LINES, lineup=PAIR)[:2]


def test_a_killed_process_leaves_a_journal_that_goes_on(killed: Path, expected: tuple, tmp_path: Path) -> None:
    """Nothing damaged: the same bytes as without the kill."""
    shutil.copytree(killed, tmp_path / "copy")
    run_file(tmp_path / "copy", lineup=PAIR)
    assert read_files(tmp_path / "copy") == expected


@settings(max_examples=40)
@given(st.sampled_from(["journal.sqlite", "journal.sqlite-wal"]), st.integers(0, 2**32), st.integers(1, 3))
def test_flipped_bits_are_noticed_or_change_nothing(
    killed: Path,
    expected: tuple[bytes, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
    flips: int,
) -> None:
    """Wherever bits of the journal flip: an error that names it, or the same forecasts; never other ones."""
    folder = tmp_path_factory.mktemp("flipped") / "copy"
    shutil.copytree(killed, folder)
    rng = random.Random(seed)
    data = bytearray((folder / "journal" / name).read_bytes())
    for _ in range(flips):
        # half of them where the file is laid out: its first page, and the first bytes of every other
        at = rng.randrange(len(data))
        at = at if rng.random() < 0.5 else min(len(data) - 1, at // 16_384 * 16_384 + rng.randrange(100))
        data[at] ^= 1 << rng.randrange(8)
    (folder / "journal" / name).write_bytes(data)
    try:
        run_file(folder, lineup=PAIR)
    except StatecastError as error:
        assert "journal" in str(error)  # noqa: PT017  an error is one of the two things that may come
    else:
        assert read_files(folder) == expected
    shutil.rmtree(folder.parent)


# ------------------------------------------------------------------------------------------------------- a full disk


def test_a_full_journal_commits_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The error says that the disk is full; after room is made the run ends with the same bytes."""
    source = feed(400, seed=9)
    (tmp_path / "in.jsonl").write_bytes(source)
    with pytest.raises(StoppedError):
        run_file(tmp_path, stop_at=100)
    stream = begin(tmp_path)
    assert stream.journal is not None
    pages = stream.journal._db.execute("PRAGMA page_count").fetchone()[0]
    stream.journal._db.execute(f"PRAGMA max_page_count = {pages}")
    committed = stream.head.batch
    source_left = source_of(tmp_path / "in.jsonl", config=IntakeConfig(batch=5))
    with pytest.raises(DataError, match=r"batch .* cannot be written \(database or disk is full\).*make room"):
        drive.run(stream, blocks(source_left, drive.positions(stream)))
    last = stream.journal.last()
    assert last.id == stream.head.batch > committed
    assert tuple(map(len, read_files(tmp_path))) == (last.head["out_bytes"], last.head["dead_bytes"])
    stream.close()
    run_file(tmp_path)
    assert read_files(tmp_path) == full(source)[:2]


_BOUNDED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from models.errors import StatecastError
from streamed import LINEUP, QUICK, run_file
LINEUP.sessions
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    run_file(Path(sys.argv[1]))
except StatecastError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("kilobytes", [20, 100, 300, 700, 1000, 3000])
def test_files_that_cannot_grow_end_the_run_with_an_error(tmp_path: Path, kilobytes: int) -> None:
    """Ring, journal or output: whichever meets the bound, the process says so, and goes on to the same bytes later."""
    source = feed(3000, seed=10)
    (tmp_path / "in.jsonl").write_bytes(source)
    command = [sys.executable, "-c", _BOUNDED, str(tmp_path), str(Path(__file__).parent), str(1024 * kilobytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (DataError.exit_code, ""), done
    assert any(word in done.stdout for word in ("cannot be written", "cannot be set aside", "cannot be used"))
    run_file(tmp_path)
    assert read_files(tmp_path) == full(source)[:2]


def test_the_words_of_a_full_disk_are_those_of_the_system(tmp_path: Path) -> None:
    """The bound of the test above is met as a full disk is: by a write that fails."""
    (tmp_path / "x").touch()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handle = os.open(tmp_path / "x", os.O_RDWR)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            os.pwrite(handle, b"x", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.close(handle)


def test_nothing_else_opens_the_database_of_a_journal(tmp_path: Path) -> None:
    """A second connection, of whatever program, is refused by SQLite while the journal is open."""
    with closing(Journal(tmp_path)):
        command = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM batch')"
        asked = [sys.executable, "-c", command, str(tmp_path / "journal.sqlite")]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "database is locked" in told.stderr
