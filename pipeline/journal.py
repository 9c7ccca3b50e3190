"""The journal of a stream: one SQLite file in which every micro-batch is one transaction.

    about      what ticks hold, where the bits were made, the first batch that is kept
    model      the model that serves and those beside it, whole, by the version under which they were published
    series     slot and name
    batch      events, forecasts, dead letters, scores, and in its head everything that the batch decided
    page       256 rows of states, each page with the batch as of which it is exact
    position   of each partition of the source, where the next lines begin
    answer     of the latest requests, what they were answered

Ticks are journaled, not states: pages are written lazily, and what is newer is replayed. Every row carries a checksum
of all that it holds; rows that are counted cannot go missing unseen. Each batch holds the totals of the checksums of
series, positions and pages as they were with it: where a kill meets SQLite moving its log to the file, and a bit of
the log is wrong, tables of two moments are left, each of them sound.

`full` survives the loss of power with every committed batch; `normal` survives it without damage, but the last batches
may be gone; `none` survives the death of the process, and nothing of the machine's.

Comes in: batches. Goes out: the same. Knows sqlite3 and orjson; one process, one connection. Imported by stream
and backup.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from models.errors import ConfigError, DataError, IntegrityError

FORMAT = 1
"""Format that this version writes; older ones are migrated, newer ones refused."""

FILE = "journal.sqlite"
"""Name of the database in the folder of a journal."""

Durability = Literal["full", "normal", "none"]

ModelRow = tuple[int, int, str, bytes]
"""Number, version, role and file of a model."""

ANSWERS = 10_000
"""How many answered requests are remembered."""

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL", "none": "OFF"}
_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE model (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, role TEXT NOT NULL, file BLOB NOT NULL,
    sum INTEGER NOT NULL);
CREATE TABLE series (slot INTEGER PRIMARY KEY, name TEXT NOT NULL, batch INTEGER NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE batch (id INTEGER PRIMARY KEY AUTOINCREMENT, head BLOB NOT NULL, events BLOB NOT NULL,
    forecasts BLOB NOT NULL, dead BLOB NOT NULL, scores BLOB NOT NULL, totals BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE page (owner INTEGER NOT NULL, number INTEGER NOT NULL, batch INTEGER NOT NULL, sum INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (owner, number));
CREATE TABLE position (partition TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE answer (request TEXT PRIMARY KEY, batch INTEGER NOT NULL, value BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE INDEX answer_by_batch ON answer (batch);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch as it is journaled.

    Attributes
    ----------
    id : int
        From 1, without a gap.
    head : dict
        Everything that the batch decided: version that served, counts, committed bytes of the outputs, ...
    events : bytes
        `Events.to_bytes`.
    forecasts : bytes
        float64 quantiles of the accepted ticks.
    dead : bytes
        Dead letters as they are written.
    scores : bytes
        How the forecasts hold after it, see `live`.
    new : list of (slot, name)
    positions : mapping
        Of the partitions that were read, where the next lines begin.
    answers : mapping of bytes
        By request.
    pages : iterable of (owner, number, bytes)
        States as of this batch; read once.
    totals : dict of int
        Checksums of series, positions and pages by owner, added up, after this batch; the journal sees to them.
    """

    id: int
    head: dict[str, Any]
    events: bytes = b""
    forecasts: bytes = b""
    dead: bytes = b""
    scores: bytes = b""
    new: list[tuple[int, str]] = field(default_factory=list)
    positions: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)
    pages: Iterable[tuple[int, int, bytes]] = ()
    totals: dict[str, int] = field(default_factory=dict)


class Journal:
    """An open journal.

    Parameters
    ----------
    folder : Path
        Made where it is missing; holds `journal.sqlite`, `history.ring` and `lock`.
    durability : {"full", "normal", "none"}

    Raises
    ------
    ConfigError
        The folder cannot be written, or another process has it open, which is named.
    IntegrityError
        The file is damaged or of a newer format.
    """

    def __init__(self, folder: Path, durability: Durability = "full") -> None:
        self.folder = folder
        self.path = folder / FILE
        self._lock = locked(folder)
        try:
            self.fresh = not self.path.exists()
            self._db = _connected(self.path, durability)
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        """Check the file, or lay it out."""
        with self._integrity():
            if self.fresh or not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                self.fresh = True
                with self._transaction():
                    for statement in _SCHEMA.split(";")[:-1]:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
            form = self._db.execute("PRAGMA user_version").fetchone()[0]
            if form != FORMAT:
                raise IntegrityError(
                    f"journal {self.path}: format {form}; this version reads {FORMAT}. Open it with the version of "
                    "statecast that wrote it"
                )
            if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise IntegrityError(f"journal {self.path}: damaged ({found}). Restore it from a backup")
            self.fresh = not self._db.execute("SELECT count(*) FROM about").fetchone()[0]
            self._totals: Counter[str] = self._added_up()
        if not self.fresh:
            self._check_totals()

    def _added_up(self) -> Counter[str]:
        """Add up the checksums of series, positions and the pages of each owner."""
        each = {table: f"SELECT '{table}', sum(sum) FROM {table}" for table in ("series", "position")}  # noqa: S608
        each["page"] = "SELECT 'page ' || owner, sum(sum) FROM page GROUP BY owner"
        return Counter({name: total for query in each.values() for name, total in self._db.execute(query) if total})

    def _check_totals(self) -> None:
        """Refuse tables that are not those of the last batch; owners that were dropped since are not missed."""
        told = self.last().totals
        for name in told.keys() | self._totals.keys():
            found = self._totals.get(name, 0)
            if found != told.get(name, 0) and (found or not name.startswith("page ")):
                raise IntegrityError(
                    f"journal {self.path}: its tables are of different moments ({name}). Restore it from a backup"
                )

    def begin(self, about: Mapping[str, Any], models: Iterable[ModelRow], batch: Batch) -> None:
        """Lay down what a new journal is about, its models (id, version, role, file) and its first batch, at once."""
        with self._integrity(), self._transaction():
            self._put_about({**about, "first": batch.id})
            self._put_models(models)
            totals = self._put(batch)
        self._totals = totals
        self.fresh = False

    def commit(self, batch: Batch, models: Iterable[ModelRow] = ()) -> None:
        """Bring a batch to disk: all of it or nothing.

        Raises
        ------
        DataError
            The disk is full or fails. The process must end: what the system made of the write is not known.
        """
        with self._writing(f"batch {batch.id}"), self._transaction():
            self._put_models(models)
            totals = self._put(batch)
        self._totals = totals

    def rebase(self, about: Mapping[str, Any]) -> None:
        """Note that the bits are made elsewhere from now on."""
        with self._integrity(), self._transaction():
            self._put_about(about)

    def about(self, key: str) -> Any:
        """Give what the journal is about."""
        with self._integrity():
            row = self._db.execute("SELECT value, sum FROM about WHERE key = ?", (key,)).fetchone()
            if row is None or row[1] != _sum(key, row[0]):
                raise IntegrityError(f"journal {self.path}: its entry {key} is damaged. Restore it from a backup")
            return orjson.loads(row[0])

    def models(self, version: int) -> dict[str, tuple[int, bytes]]:
        """Give the models of a version by role: id and file."""
        return {
            role: (owner, file)
            for owner, of, role, file in self._rows("model", "id, version, role, file", "ORDER BY id")
            if of == version
        }

    def next_owner(self) -> int:
        """Give the number of the next model."""
        with self._integrity():
            return self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM model").fetchone()[0]

    def series(self) -> list[tuple[str, int]]:
        """Give names by slot, and the batch in which each appeared."""
        rows = list(self._rows("series", "slot, name, batch", "ORDER BY slot"))
        if [row[0] for row in rows] != list(range(len(rows))):
            raise IntegrityError(f"journal {self.path}: series are missing. Restore it from a backup")
        return [(name, batch) for _, name, batch in rows]

    def pages(self, owner: int) -> Iterator[tuple[int, int, bytes]]:
        """Give the pages of a model: number, batch, bytes."""
        for _, number, batch, data in self._rows(
            "page", "owner, number, batch, data", f"WHERE owner = {owner:d} ORDER BY number"
        ):
            yield number, batch, data

    def positions(self) -> dict[str, dict[str, Any]]:
        """Give the position of every partition."""
        return {p: orjson.loads(value) for p, value in self._rows("position", "partition, value", "")}

    def answer(self, request: str) -> bytes | None:
        """Give what a request was answered, None where it is not known."""
        with self._integrity():
            row = self._db.execute("SELECT batch, value, sum FROM answer WHERE request = ?", (request,)).fetchone()
        if row is None:
            return None
        if row[2] != _sum(request, row[0], row[1]):
            raise IntegrityError(f"journal {self.path}: the answer of {request!r} is damaged. Restore it from a backup")
        return row[1]

    def span(self) -> tuple[int, int]:
        """Give the first and last batch that are kept; (1, 0) where there are none."""
        if self.fresh:
            return 1, 0
        with self._integrity():
            found = self._db.execute("SELECT min(id), max(id), count(*) FROM batch").fetchone()
            written = self._db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0]
        first, last = self.about("first"), written or 0
        if found != (first, last, last - first + 1):
            raise IntegrityError(f"journal {self.path}: batches are missing. Restore it from a backup")
        return first, last

    def batches(self, after: int) -> Iterator[Batch]:
        """Give the batches after one, ascending; without what stands in other tables."""
        columns = "id, head, events, forecasts, dead, scores, totals"
        for number, head, *blobs, totals in self._rows("batch", columns, f"WHERE id > {after:d} ORDER BY id"):
            events, forecasts, dead, scores = blobs
            yield Batch(
                id=number,
                head=orjson.loads(head),
                events=events,
                forecasts=forecasts,
                dead=dead,
                scores=scores,
                totals=orjson.loads(totals),
            )

    def last(self) -> Batch:
        """Give the last batch.

        Raises
        ------
        IntegrityError
            There is none.
        """
        _, last = self.span()
        for batch in self.batches(last - 1):
            return batch
        raise IntegrityError(f"journal {self.path}: it holds no batch. Restore it from a backup")

    def forget(self, before: int, owners: Iterable[int]) -> None:
        """Drop batches before one, models and pages of other owners, and answers beyond the latest.

        Raises
        ------
        DataError
            The disk is full or fails. The process must end.
        """
        numbers = [int(owner) for owner in owners]
        kept = ",".join(map(str, numbers))
        with self._writing("what is not needed any more"), self._transaction():
            self._db.execute("DELETE FROM batch WHERE id < ?", (before,))
            self._put_about({"first": max(before, 1)})
            self._db.execute(f"DELETE FROM page WHERE owner NOT IN ({kept})")  # noqa: S608  whole numbers
            self._db.execute(f"DELETE FROM model WHERE id NOT IN ({kept})")  # noqa: S608
            oldest = "SELECT batch FROM answer ORDER BY batch DESC LIMIT 1 OFFSET ?"
            self._db.execute(f"DELETE FROM answer WHERE batch < ({oldest})", (ANSWERS,))  # noqa: S608
        # a number may be given again, and the totals under it begin anew
        alive = {"series", "position", *(f"page {number}" for number in numbers)}
        self._totals = Counter({name: total for name, total in self._totals.items() if name in alive})

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        os.close(self._lock)

    def _put(self, batch: Batch) -> Counter[str]:
        """Write all of a batch, its own row last; gives the totals with it."""
        write, totals = self._db.execute, Counter(self._totals)
        for slot, name in batch.new:
            total = _sum(slot, name, batch.id)
            totals["series"] += total
            write("INSERT INTO series VALUES (?, ?, ?, ?)", (slot, name, batch.id, total))
        for partition, position in batch.positions.items():
            value = orjson.dumps(position)
            total = _sum(partition, value)
            totals["position"] += total - self._kept("SELECT sum FROM position WHERE partition = ?", partition)
            write("REPLACE INTO position VALUES (?, ?, ?)", (partition, value, total))
        for request, value in batch.answers.items():
            write("INSERT INTO answer VALUES (?, ?, ?, ?)", (request, batch.id, value, _sum(request, batch.id, value)))
        for owner, number, data in batch.pages:
            total = _sum(owner, number, batch.id, data)
            before = self._kept("SELECT sum FROM page WHERE owner = ? AND number = ?", owner, number)
            totals[f"page {owner}"] += total - before
            write("REPLACE INTO page VALUES (?, ?, ?, ?, ?)", (owner, number, batch.id, total, data))
        blobs = (batch.events, batch.forecasts, batch.dead, batch.scores, orjson.dumps(totals))
        row = (batch.id, orjson.dumps(batch.head), *blobs)
        write("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _sum(*row)))
        return totals

    def _kept(self, query: str, *key: int | str) -> int:
        row = self._db.execute(query, key).fetchone()
        return 0 if row is None else row[0]

    def _put_about(self, about: Mapping[str, Any]) -> None:
        for key, value in about.items():
            text = orjson.dumps(value)
            self._db.execute("REPLACE INTO about VALUES (?, ?, ?)", (key, text, _sum(key, text)))

    def _put_models(self, models: Iterable[ModelRow]) -> None:
        for row in models:
            self._db.execute("INSERT INTO model VALUES (?, ?, ?, ?, ?)", (*row, _sum(*row)))

    def _rows(self, table: str, columns: str, rest: str) -> Iterator[tuple]:
        """Read rows whose checksum holds."""
        with self._integrity():
            for *row, expected in self._db.execute(f"SELECT {columns}, sum FROM {table} {rest}"):  # noqa: S608  ours
                if _sum(*row) != expected:
                    raise IntegrityError(
                        f"journal {self.path}: a row of {table} ({row[0]}) is damaged. Restore it from a backup"
                    )
                yield tuple(row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Do everything in the block, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Say of an error of the file that it cannot be written."""
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(
                f"journal {self.path}: {what} cannot be written ({error}). Nothing of it is committed; make room or "
                "mend the disk, and start again"
            ) from error

    @contextmanager
    def _integrity(self) -> Iterator[None]:
        """Say of an error of the file that the journal is damaged."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DataError(f"journal {self.path}: cannot be used ({error}). Check the disk and the folder") from error
        except (sqlite3.DatabaseError, orjson.JSONDecodeError, UnicodeDecodeError) as error:
            raise IntegrityError(f"journal {self.path}: damaged ({error}). Restore it from a backup") from error


def _connected(path: Path, durability: Durability) -> sqlite3.Connection:
    """Open the file for this process alone: SQLite before 3.51.3 can damage a log that two connections write."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        db.execute("PRAGMA page_size = 16384")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        db.execute("PRAGMA wal_autocheckpoint = 1000")
        db.execute("PRAGMA cell_size_check = ON")
    except sqlite3.OperationalError as error:
        raise ConfigError(f"journal {path}: cannot be opened ({error}). Check the folder and its rights") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"journal {path}: damaged ({error}). Restore it from a backup") from error
    return db


def locked(folder: Path) -> int:
    """Hold the folder's lock and leave the number of this process in it; closing the handle lets go.

    Raises
    ------
    ConfigError
        The folder cannot be written, or another process has it open, which is named.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"journal {folder}: cannot be written ({error.strerror}). Name another folder") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise ConfigError(
            f"journal {folder}: process {holder} has it open. End that one first, or name another folder"
        ) from None
    except OSError as error:
        os.close(handle)
        raise ConfigError(
            f"journal {folder}: this file system cannot lock ({error.strerror}). Keep it on a local disk"
        ) from error
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(handle)
        raise ConfigError(f"journal {folder}: cannot be written ({error.strerror}). Make room") from error
    return handle


def _sum(*row: int | str | bytes) -> int:
    """Checksum a row: every value and how long it is."""
    total = 0
    for value in row:
        data = value if isinstance(value, bytes) else str(value).encode()
        total = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), total))
    return total
