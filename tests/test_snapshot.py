"""Copies of databases that others are writing, made beside them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from models.errors import DataError, IntegrityError, TransientError
from pipeline import snapshot
from pipeline.journal import FILE, Batch, Journal
from pipeline.snapshot import of_database, of_journal

WRITER = """
import sys, pathlib
from pipeline.journal import Batch, Journal
journal = Journal(pathlib.Path(sys.argv[1]), "none")
journal.begin({}, [(1, 1, "serving", b"m" * 500_000)], Batch(id=1, head={}))
for i in range(2, 10**9):
    journal.commit(Batch(id=i, head={}, events=bytes([i % 256]) * 40_000, pages=[(1, i % 50, b"p" * 20_000)]))
    if i % 100 == 0:
        journal.forget(i - 50, [0, 1])
    if i % 10 == 0:
        print(".", end="", flush=True)
"""
"""Commits batches as fast as the disk takes them, and says how far it is."""


@contextmanager
def written(folder: Path, told: Path) -> Iterator[None]:
    """Let another process write a journal, some batches of which are there, and say in a file how far it is."""
    with told.open("wb") as out, subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=out) as process:
        try:
            while not told.stat().st_size:
                time.sleep(0.01)
            yield
        finally:
            process.kill()


def test_a_journal_is_copied_whole_while_another_process_writes_it(tmp_path: Path) -> None:
    """Each copy of a journal whose log is moved and begun anew all the time is sound and holds what was committed."""
    generations, told = set(), tmp_path / "told"
    with written(tmp_path / "journal", told):
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline or len(generations) < 3:
            committed = told.stat().st_size * 10
            path = of_journal(tmp_path / "journal", tmp_path / "copy")
            generations.add(snapshot._generation(tmp_path / "journal" / FILE))
            copy = Journal(path.parent, "none")
            first, last = copy.span()
            assert last >= committed
            assert [batch.id for batch in copy.batches(first - 1)] == list(range(first, last + 1))
            assert len(list(copy.pages(1))) == min(50, last - 1)
            copy.close()


def test_a_journal_that_nobody_writes_is_copied(tmp_path: Path) -> None:
    """The copy of a closed journal holds its batches, and the journal is as it was."""
    journal = Journal(tmp_path / "journal", "none")
    journal.begin({}, [], Batch(id=1, head={"batch": 1}))
    journal.close()
    before = (tmp_path / "journal" / FILE).read_bytes()
    of_journal(tmp_path / "journal", tmp_path / "copy")
    assert (tmp_path / "copy" / FILE).read_bytes() == before == (tmp_path / "journal" / FILE).read_bytes()


def test_a_copy_in_which_the_log_was_begun_anew_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log is another one after every copy, the caller is told to try again."""
    journal = Journal(tmp_path / "journal", "none")
    journal.begin({}, [], Batch(id=1, head={}))
    journal.close()
    anew = iter(range(1000))
    monkeypatch.setattr(snapshot, "_generation", lambda _: next(anew))
    with pytest.raises(TransientError, match="begun anew in each of 20 copies"):
        of_journal(tmp_path / "journal", tmp_path / "copy")


def test_a_damaged_journal_is_not_copied(tmp_path: Path) -> None:
    """A backup of a journal that no stream could open is refused when it is made, not when it is needed."""
    journal = Journal(tmp_path / "journal", "none")
    journal.begin({}, [(1, 1, "serving", b"m" * 100_000)], Batch(id=1, head={}))
    journal.close()
    path = tmp_path / "journal" / FILE
    data = bytearray(path.read_bytes())
    data[16384:32768] = os.urandom(16384)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be opened"):
        of_journal(tmp_path / "journal", tmp_path / "copy")


def test_a_database_is_copied_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """What another connection has not committed is not in the copy, and that connection can go on."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (1)")
        db.commit()
        db.execute("INSERT INTO t VALUES (2)")
        of_database(tmp_path / "a.db", tmp_path / "copy.db")
        db.commit()
        assert copy.execute("SELECT x FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize("content", [None, b"no database at all" * 100])
def test_what_is_no_database_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """A file that is missing is not made, and one that is something else is named."""
    if content is not None:
        (tmp_path / "a.db").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.db: cannot be copied"):
        of_database(tmp_path / "a.db", tmp_path / "copy.db")
    assert (tmp_path / "a.db").exists() == (content is not None)
