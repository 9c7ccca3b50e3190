"""Ticks from text: JSON lines or CSV in, columns out, with a reason for every line that is not a tick.

    {"series": "EURUSD=X", "time": "2024-01-31T16:00:00Z", "price": 1.0817}

    series,time,price
    EURUSD=X,2024-01-31T16:00:00Z,1.0817

A time is ISO-8601 (UTC where no offset stands) or a whole number of microseconds since 1970. A price that is
null, or empty in CSV, says that none was published. Other fields are ignored. Lines end in LF or CRLF; blank
lines, repeated CSV headers and a byte order mark at the start are passed over.

Comes in: bytes. Goes out: `Ticks`. No line, whatever it holds, raises an error here. Imported by states and stream.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial

import numpy as np
import orjson
from numpy.typing import NDArray

CHUNK = 1 << 17
"""Bytes asked for in one read; what is waiting is taken."""


class Reason(IntEnum):
    """Why a line has no forecast; where several hold, the one that stands first is given."""

    ACCEPTED = 0
    BLANK = 1
    HOLE = 2
    MALFORMED = 3
    TIME = 4
    NOT_FINITE = 5
    DOMAIN = 6
    NAME = 7
    LIMIT = 8
    LATE = 9
    DUPLICATE = 10
    CONFLICT = 11

    @property
    def code(self) -> str:
        """The reason as it is written in files: `late`, `not_finite`."""
        return self.name.lower()


DEAD = Reason.MALFORMED
"""From this one on a line goes to the dead letters; those before are no fault of the sender."""

SENTENCES: dict[Reason, str] = {
    Reason.BLANK: "the line is blank or a header",
    Reason.HOLE: "the price is null: none was published, and the state stays as it is",
    Reason.MALFORMED: 'expected {"series": text, "time": text or whole number, "price": number or null}, or, after a '
    "CSV header with series, time and price as the first line, a row with these columns, within the length limit",
    Reason.TIME: "expected an ISO-8601 time or whole microseconds since 1970, between the years 1900 and 2200; "
    "numbers that look like seconds, milliseconds or nanoseconds are refused",
    Reason.NOT_FINITE: "expected a finite price",
    Reason.DOMAIN: "the price lies outside the domain of the model's transform",
    Reason.NAME: "expected a series name of 1 to 64 letters, digits and ._:=~^-, its parts divided by /, "
    "each beginning with a letter or digit",
    Reason.LIMIT: "the series is new and the largest number of series is reached",
    Reason.LATE: "the time lies before the last accepted one of this series",
    Reason.DUPLICATE: "this series has this price at this time already",
    Reason.CONFLICT: "this series has another price at this time already",
}

Row = tuple[Reason, str, int, float]
"""Reason so far, series, time in microseconds since 1970 UTC, price."""

Parser = Callable[[bytes], Row]

_BLANK: Row = (Reason.BLANK, "", 0, 0.0)
MALFORMED: Row = (Reason.MALFORMED, "", 0, 0.0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = -(2**62)
_MILLISECONDS = 7_258_118_400_000
"""The year 2200 in milliseconds: as microseconds, 84 days around 1970. A number below it is in another unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticks:
    """Lines or ticks as columns.

    Attributes
    ----------
    name : list of str [n]
    time : int64 [n]
        Microseconds since 1970, UTC.
    price : float64 [n]
    reason : uint8 [n]
        `Reason`; where it is not 0 the other columns mean nothing.
    """

    name: list[str]
    time: NDArray[np.int64]
    price: NDArray[np.float64]
    reason: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.name)

    @classmethod
    def of(cls, ticks: Iterable[tuple[str, int, float | None]]) -> Ticks:
        """Build the columns from (series, microseconds, price) triples; a price of None is a hole."""
        return cls.from_rows([row(name, time, price) for name, time, price in ticks])

    @classmethod
    def from_rows(cls, rows: list[Row]) -> Ticks:
        """Build the columns from parsed rows."""
        reason, name, time, price = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(
            name=list(name),
            time=np.array(time, dtype=np.int64),
            price=np.array(price, dtype=np.float64) + 0.0,
            reason=np.array(reason, dtype=np.uint8),
        )


def row(name: object, time: object, price: object) -> Row:
    """Give three values of a line their types, or the reason why they have others."""
    if type(name) is not str:
        return MALFORMED
    if type(time) is str:
        us = _parse_time(time)
    elif type(time) is int:
        us = time if _MILLISECONDS < abs(time) < -_NEVER else _NEVER
    else:
        us = _NEVER
    if us == _NEVER:
        return Reason.TIME, name, 0, 0.0
    if type(price) is float:
        return Reason.ACCEPTED, name, us, price
    if price is None:
        return Reason.HOLE, name, us, 0.0
    if type(price) is int:
        return (Reason.ACCEPTED, name, us, float(price)) if abs(price) < 2**1000 else (Reason.NOT_FINITE, name, us, 0.0)
    return MALFORMED


def parser(head: bytes) -> Parser:
    """Choose by the first line that is not blank: a header with series, time and price is CSV, all else JSON."""
    columns = [column.lower() for column in _csv_fields(head.strip()) or ()]
    if not {"series", "time", "price"} <= set(columns):
        return _json_row
    where = (columns.index("series"), columns.index("time"), columns.index("price"))
    return partial(_csv_row, header=head.strip(), where=where)


def lines(source: io.BufferedIOBase, *, batch: int, max_line_bytes: int) -> Iterator[list[bytes]]:
    """Cut a source into lists of at most `batch` lines: those that are waiting, without their LF.

    A line longer than `max_line_bytes` comes cut, but still longer than that. A line that ends the source
    without an LF counts.
    """
    rest, mark = b"", b"\xef\xbb\xbf"
    while chunk := source.read1(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[: max_line_bytes + len(mark) + 1]
        if whole:
            whole[0], mark = whole[0].removeprefix(mark), b""
        for i in range(0, len(whole), batch):
            yield whole[i : i + batch]
    if rest := rest.removeprefix(mark):
        yield [rest]


def _json_row(line: bytes) -> Row:
    try:
        record = orjson.loads(line)
        return row(record["series"], record["time"], record["price"])
    except (ValueError, KeyError, TypeError):
        return MALFORMED if line.strip() else _BLANK


def _csv_row(line: bytes, header: bytes, where: tuple[int, int, int]) -> Row:
    line = line.strip()
    if not line or line == header:
        return _BLANK
    fields = _csv_fields(line)
    if fields is None or len(fields) <= max(where):
        return MALFORMED
    name, time, price = (fields[i] for i in where)
    moment = int(time) if time.isascii() and time.removeprefix("-").isdigit() and len(time) < 20 else time
    return row(name, moment, _parse_price(price))


def _csv_fields(line: bytes) -> list[str] | None:
    """Split a CSV line; None where it is not UTF-8 or its quotes do not close."""
    try:
        text = line.decode()
        fields = text.split(",") if '"' not in text else next(csv.reader([text], strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    return [f.strip() for f in fields]


def _parse_price(text: str) -> float | str | None:
    """Read a CSV price; text that is no number comes back as it is, for `row` to refuse."""
    if text == "":
        return None
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def _parse_time(text: str) -> int:
    """Read an ISO-8601 time as microseconds since 1970, `_NEVER` where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
