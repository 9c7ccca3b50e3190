"""What an ingest says it found: files and how they were read, rows read and kept, every fault with examples.

Comes in: counts. Goes out: `IngestReport`, a dataclass that is written as JSON as it stands. Knows the standard library
only; imported by ingest, the flows and the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row as it was read, and what is wrong with it. `line` counts from 1; it is None for a row that is missing."""

    file: str
    line: int | None
    series_id: str | None
    time: datetime | None
    price: float | None
    note: str = ""

    def __str__(self) -> str:
        when = "no time" if self.time is None else f"{self.time:%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00")
        note = f" ({self.note})" if self.note else ""
        of = f"{self.series_id or 'no series'} at {when}"
        name = PurePath(self.file).name
        return f"{name}: {of}{note}" if self.line is None else f"{name} line {self.line}: {of} = {self.price}{note}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What one policy met.

    Attributes
    ----------
    name, policy : str
        The fault, and what was done about it.
    count : int
        Rows with the fault; moments or stretches where it is no matter of one row.
    changed, dropped, added : int
        Rows that were corrected, taken away, and put in.
    examples : tuple of Example
        The first few.
    series : dict of str to int
        Count by series.
    """

    name: str
    policy: str
    count: int
    changed: int = 0
    dropped: int = 0
    added: int = 0
    examples: tuple[Example, ...] = ()
    series: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file that was read, its rows, and what was recognised in it, in words."""

    file: str
    rows: int
    said: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SeriesReport:
    """What was read and kept of one series; the times are of the kept rows, None if none was."""

    series_id: str
    rows_read: int
    rows_kept: int
    first_time: datetime | None
    last_time: datetime | None
    calendar: str | None = None


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Account of an ingest: rows kept = rows read - dropped + added - merged - forming + empty.

    Attributes
    ----------
    files : tuple of FileReport
        What was read.
    rows_read, rows_kept : int
        Rows of prices.
    merged, forming, empty : int
        Ticks that went into a bar with others; ticks of bars whose beginning or end was not there, which were left
        out; time bars without a tick. 0 where no bars were made.
    grid : str or None
        The bars that were made, in words.
    said : tuple of str
        What was taken for granted beyond the single file.
    others : tuple of str
        Columns of numbers in the files that were not read.
    series : tuple of SeriesReport
        By name.
    faults : tuple of Fault
        One for each policy, met or not, in the order in which they were applied.
    """

    files: tuple[FileReport, ...]
    rows_read: int
    rows_kept: int
    merged: int = 0
    forming: int = 0
    empty: int = 0
    grid: str | None = None
    said: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    series: tuple[SeriesReport, ...]
    faults: tuple[Fault, ...]

    @property
    def refused(self) -> tuple[Fault, ...]:
        """The faults that were met and whose policy is to raise."""
        return tuple(f for f in self.faults if f.policy == "raise" and f.count)


def done(fault: Fault) -> str:
    """Say what was done about a fault, such as '3 dropped'; nothing where nothing was."""
    counts = (("dropped", fault.dropped), ("changed", fault.changed), ("added", fault.added))
    return ", ".join(f"{count:,} {word}" for word, count in counts if count)
