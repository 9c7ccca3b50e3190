"""Ticks from text: JSON lines or CSV in, columns out, with a reason for every line that is not a tick.

    {"series": "EURUSD=X", "time": "2024-01-31T16:00:00Z", "price": 1.0817}

    series,time,price
    EURUSD=X,2024-01-31T16:00:00Z,1.0817

A time is ISO-8601 (UTC where no offset stands) or a whole number of microseconds since 1970. `sequence`, a whole
number, orders ticks of one time; left out it is 0. A price that is null, or empty in CSV, says that none was published;
a model of blocks takes a list of prices, null where an hour is missing (lists are JSON only). Covariates that the model
reads stand in fields of their names; of a block a list of its prices' values, and of those known ahead a list of steps
around that where there is more than one. `adjust` in the place of the price multiplies everything before by a factor:
0.5 after a split of one share into two. Other fields are ignored. Lines end in LF or CRLF; blank lines and repeated
CSV headers are passed over.

Legend: n lines, M prices of a block, S horizon steps, P and K covariates.

Comes in: bytes. Goes out: `Ticks`. No line, whatever it holds, raises an error here. Imported by book, states and
stream.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


class Reason(IntEnum):
    """Why a line has no forecast; where several hold, the one that stands first is given."""

    ACCEPTED = 0
    BLANK = 1
    HOLE = 2
    ADJUSTED = 3
    MALFORMED = 4
    TIME = 5
    UNIT = 6
    NOT_FINITE = 7
    DOMAIN = 8
    COVARIATE = 9
    FUTURE = 10
    NAME = 11
    UNKNOWN = 12
    LIMIT = 13
    LATE = 14
    OUT_OF_ORDER = 15
    DUPLICATE = 16
    CONFLICT = 17
    OFF_GRID = 18
    JUMP = 19

    @property
    def code(self) -> str:
        """The reason as it is written in files: `late`, `not_finite`."""
        return self.name.lower()


DEAD = Reason.MALFORMED
"""From this one on a line goes to the dead letters; those before are no fault of the sender."""

SENTENCES: dict[Reason, str] = {
    Reason.BLANK: "the line is blank or a header",
    Reason.HOLE: "the price is null: none was published, and the state stays as it is",
    Reason.ADJUSTED: "prices carried of this series were multiplied by a factor",
    Reason.MALFORMED: 'expected {"series": text, "time": text or whole number, "price": number or null}, or, after a '
    "CSV header with series, time and price as the first line, a row with these columns, within the length limit",
    Reason.TIME: "expected an ISO-8601 time or whole microseconds since 1970, between the years 1900 and 2200",
    Reason.UNIT: "expected whole microseconds since 1970; this number looks like seconds, milliseconds or nanoseconds",
    Reason.NOT_FINITE: "expected a finite price, or a finite factor above zero",
    Reason.DOMAIN: "the price, or what a factor makes of the last one, is outside the domain of the model's transform",
    Reason.COVARIATE: "a covariate that the model reads is missing or is no finite number",
    Reason.FUTURE: "the time lies too far beyond every one before (stream.rules.future_days)",
    Reason.NAME: "expected a series name of 1 to 64 letters, digits and ._:=~^-, its parts divided by /, "
    "each beginning with a letter or digit",
    Reason.UNKNOWN: "the series is not one that this stream serves (stream.rules.series), or an adjustment came before "
    "its first price",
    Reason.LIMIT: "the series is new and the largest number of series is reached",
    Reason.LATE: "the time lies before the last one of this series",
    Reason.OUT_OF_ORDER: "the time is that of the last tick of this series, and its sequence lies before that one's",
    Reason.DUPLICATE: "this series has this price, or factor, at this time and sequence already",
    Reason.CONFLICT: "this series has another price, or factor, at this time and sequence already",
    Reason.OFF_GRID: "the time does not lie on the model's bars, counted from the last accepted tick",
    Reason.JUMP: "the price lies too many scales from its forecast (stream.rules.jump); where the next tick confirms "
    "the new level, that one is taken",
}

MAX_SEQUENCE = 2**62

_TEXTS = ("series", "time", "sequence")
_FIELDS = (*_TEXTS, "price", "adjust")
"""Fields of a line beside covariates."""

_FIRST, _LAST = itemgetter(0), itemgetter(-1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = -(2**62)
_MILLISECONDS = 7_258_118_400_000
"""The year 2200 in milliseconds: as microseconds, 84 days around 1970. A number below it is in another unit."""
_NANOSECONDS = 10**17
"""March 1973 in nanoseconds, the year 5138 in microseconds: a number beyond it is in another unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What a tick holds beside its series and time, as the model reads it.

    Attributes
    ----------
    block : int
        M, prices of one moment.
    horizon : int
        S.
    past, future : tuple of str
        Names of the columns of covariates, those of the calendar left out. Of a block `load.00` to `load.23`: the
        field is then `load`, a list.
    """

    block: int = 1
    horizon: int = 1
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()

    @property
    def beside(self) -> bool:
        """Whether a tick holds covariates."""
        return bool(self.past or self.future)

    def fields(self, columns: tuple[str, ...]) -> list[tuple[str, int]]:
        """Give the field of a line for each run of columns, and how many columns it fills."""
        base = [name.rsplit(".", 1)[0] if self.block > 1 else name for name in columns]
        return [(name, len(list(run))) for name, run in groupby(base)]


PLAIN = Layout()
"""One price, and nothing beside it."""

Row = tuple[Reason, str, int, int, Any, float, Any, Any]
"""Reason so far, series, time in microseconds since 1970 UTC, sequence, price, factor, past, future."""

Parser = Callable[[Sequence[bytes]], "Ticks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticks:
    """Lines or ticks as columns.

    Attributes
    ----------
    name : list of str [n]
    time : int64 [n]
        Microseconds since 1970, UTC.
    sequence : int64 [n]
        Order of ticks of one time; -1 for an adjustment, which comes before the ticks of its time.
    price : float64 [n, M]
        NaN where a price of a block is missing.
    factor : float64 [n]
        Factor of an adjustment; NaN for ticks.
    past : float32 [n, P]
    future : float32 [n, S, K]
        Covariates beside those of the calendar; NaN where they are missing.
    reason : uint8 [n]
        `Reason`; where it is not 0 the other columns mean nothing.
    """

    name: list[str]
    time: NDArray[np.int64]
    sequence: NDArray[np.int64]
    price: NDArray[np.float64]
    factor: NDArray[np.float64]
    past: NDArray[np.float32]
    future: NDArray[np.float32]
    reason: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Where all covariates are there, [n]."""
        return whole(self.past, self.future)

    @classmethod
    def joined(cls, parts: Sequence[Ticks]) -> Ticks:
        """Put ticks one after the other."""
        if len(parts) == 1:
            return parts[0]
        arrays = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)[1:]}
        return cls(name=[name for p in parts for name in p.name], **arrays)

    @classmethod
    def of(cls, ticks: Iterable[tuple[str, int, float | None]]) -> Ticks:
        """Build the columns from (series, microseconds, price) triples; a price of None is a hole."""
        triples = list(ticks)
        # a time of lines may be in another unit, which its size tells; here the unit is known
        records = [{"series": name, "time": "1970-01-01", "price": price} for name, _, price in triples]
        read = _columns([_row(record, PLAIN) for record in records], PLAIN)
        return replace(read, time=np.array([time for _, time, _ in triples], np.int64))


def whole(past: NDArray[np.float32], future: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell in which rows all covariates are there, [n]."""
    flat = np.concatenate((past, future.reshape(len(future), future.shape[1] * future.shape[2])), 1)
    return np.asarray(np.isfinite(flat).all(1))


def parser(head: bytes, layout: Layout = PLAIN) -> Parser:
    """Choose by the first line that is not blank: a header with series, time and price is CSV, all else JSON."""
    columns = _header(head)
    if not columns:
        return partial(_parse_json, layout=layout)
    where = {name: columns.index(name) for name in _FIELDS if name in columns}
    if layout.block == 1:
        cells = _csv_fields(head.strip()) or []
        where |= {name: cells.index(name) for name in (*layout.past, *layout.future) if name in cells}
    row = partial(_csv_row, header=head.strip(), where=where, layout=layout)
    return lambda lines: _columns([row(line) for line in lines], layout)


def is_csv(head: bytes) -> bool:
    """Tell whether a first line is the header of a CSV."""
    return bool(_header(head))


def _header(head: bytes) -> list[str]:
    """Give the columns of a CSV header; none where the line is something else."""
    columns = [column.lower() for column in _csv_fields(head.strip()) or ()]
    return columns if {"series", "time", "price"} <= set(columns) else []


def _parse_json(lines: Sequence[bytes], layout: Layout) -> Ticks:
    """Parse all lines at once where each is one flat object for certain, and else one after the other."""
    records = _flat_objects(lines)
    ticks = None if records is None or layout != PLAIN else _plain_columns(records)
    if ticks is not None:
        return ticks
    return _columns([_json_row(line, layout) for line in lines], layout)


def _flat_objects(lines: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Read lines as one JSON array; None unless each of them is an object without another inside, by itself.

    With as many braces as lines, and one at either end of each, a brace that opens an object can only be the first
    byte of a line: objects and lines are the same then, and a line that is none cannot hide between its neighbours.
    """
    whole = b",".join(lines)
    count = len(lines)
    if whole.count(b"{") != count or whole.count(b"}") != count:
        return None
    if not all(lines) or ({*map(_FIRST, lines)}, {*map(_LAST, lines)}) != ({ord("{")}, {ord("}")}):
        return None
    try:
        records = orjson.loads(b"[" + whole + b"]")
    except ValueError:
        return None
    return records if len(records) == count else None


def _plain_columns(records: list[dict[str, Any]]) -> Ticks | None:
    """Build the columns of ordinary ticks at once; None where one of them is anything else."""
    try:
        name, time, price = ([record[field] for record in records] for field in ("series", "time", "price"))
    except KeyError:
        return None
    if set(map(type, name)) != {str} or set(map(type, price)) != {float}:
        return None
    kinds, extra = set(map(type, time)), max(map(len, records)) > 3
    if extra and any("sequence" in r or "adjust" in r for r in records):
        return None
    if kinds == {str}:
        known = {text: _parse_time(text) for text in set(time)}
        time = [known[text] for text in time]
    elif kinds != {int} or min(time) < -MAX_SEQUENCE or max(time) > MAX_SEQUENCE:
        return None
    moment, count = np.array(time, np.int64), len(name)
    reason = np.zeros(count, np.uint8)
    if kinds == {int}:
        reason[(np.abs(moment) <= _MILLISECONDS) | (np.abs(moment) >= _NANOSECONDS)] = Reason.UNIT
    else:
        reason[moment == _NEVER] = Reason.TIME
    return Ticks(
        name=name,
        time=moment,
        sequence=np.zeros(count, np.int64),
        price=np.array(price)[:, None] + 0.0,
        factor=np.full(count, np.nan),
        past=np.empty((count, 0), np.float32),
        future=np.empty((count, 1, 0), np.float32),
        reason=reason,
    )


def _columns(rows: list[Row], layout: Layout) -> Ticks:
    """Build the columns from parsed rows."""
    reason, name, time, sequence, price, factor, past, future = zip(*rows, strict=True) if rows else [()] * 8
    count, m = len(rows), layout
    blank = [np.nan] * m.block
    return Ticks(
        name=list(name),
        time=np.array(time, np.int64),
        sequence=np.array(sequence, np.int64),
        price=np.array([blank if p is None else p for p in price], np.float64).reshape(count, m.block) + 0.0,
        factor=np.array(factor, np.float64),
        past=_beside(past, (count, len(m.past))),
        future=_beside(future, (count, m.horizon, len(m.future))),
        reason=np.array(reason, np.uint8),
    )


def _beside(rows: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Lay covariates out in rows; NaN where a row has none."""
    columns = np.full(shape, np.nan, np.float32)
    for i, row in enumerate(rows):
        if row is not None:
            columns[i] = row
    return columns


def _fault(reason: Reason, name: str = "") -> Row:
    return reason, name, 0, 0, None, np.nan, None, None


MALFORMED = _fault(Reason.MALFORMED)
_BLANK = _fault(Reason.BLANK)


def _row(record: dict[str, Any], layout: Layout) -> Row:
    """Give the values of a line their types, or the reason why they have others."""
    name, sequence, price = record["series"], record.get("sequence", 0), record.get("price")
    empty = price is None and "price" not in record and "adjust" not in record
    if empty or type(name) is not str or type(sequence) is not int or not 0 <= sequence < MAX_SEQUENCE:
        return MALFORMED
    us = _moment(record["time"])
    if isinstance(us, Reason):
        return _fault(us, name)
    if "adjust" in record:
        return _adjustment(record, name, us)
    if price is None:
        return Reason.HOLE, name, us, sequence, None, np.nan, None, None
    prices = _prices(price, layout.block)
    if isinstance(prices, Reason):
        return _fault(prices, name)
    past, future = (
        _covariates(record, layout.fields(layout.past), 1, layout),
        _covariates(record, layout.fields(layout.future), layout.horizon, layout),
    )
    return Reason.ACCEPTED, name, us, sequence, prices, np.nan, past and past[0], future


def _adjustment(record: dict[str, Any], name: str, us: int) -> Row:
    factor = record["adjust"]
    if type(factor) not in (int, float) or "price" in record:
        return MALFORMED
    if not 0 < factor < 2**64:
        return _fault(Reason.NOT_FINITE, name)
    return Reason.ACCEPTED, name, us, -1, None, float(factor), None, None


def _prices(price: Any, block: int) -> list[float] | Reason:
    """Read one price, or a list of as many as a block has."""
    values = price if block > 1 and type(price) is list else [price]
    if len(values) != block:
        return Reason.MALFORMED
    read = [np.nan if value is None and block > 1 else _number(value) for value in values]
    if None in read:
        return Reason.MALFORMED
    missing = block > 1 and all(value is None for value in values)
    return Reason.HOLE if missing else read  # type: ignore[return-value]


def _number(value: Any) -> float | None:
    """Read a number: infinite where it is beyond every float, None where it is none."""
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value) if abs(value) < 2**1000 else np.inf
    return None


def _covariates(record: dict[str, Any], fields: list[tuple[str, int]], steps: int, layout: Layout) -> list | None:
    """Read the fields as a row for each step, NaN where one is missing or of another shape."""
    if not fields:
        return None
    rows: list[list[float]] = [[] for _ in range(steps)]
    for name, width in fields:
        value = record.get(name)
        per_step = value if steps > 1 else value if _is_steps(value, layout.block) else [value]
        if type(per_step) is not list or len(per_step) != steps:
            per_step = [None] * steps
        for row, cell in zip(rows, per_step, strict=True):
            cells = cell if type(cell) is list and len(cell) == width else [cell] if width == 1 else [None] * width
            row.extend(_covariate(c) for c in cells)
    return rows


def _covariate(value: Any) -> float:
    number = _number(value)
    return np.nan if number is None or abs(number) > 3e38 else number


def _is_steps(value: Any, block: int) -> bool:
    """Tell whether a value of one step comes in a list of that one step."""
    return type(value) is list and len(value) == 1 and (block == 1 or type(value[0]) is list)


def _json_row(line: bytes, layout: Layout) -> Row:
    try:
        return _row(orjson.loads(line), layout)
    except (ValueError, KeyError, TypeError, AttributeError):
        return MALFORMED if line.strip() else _BLANK


def _csv_row(line: bytes, header: bytes, where: dict[str, int], layout: Layout) -> Row:
    line = line.strip()
    if not line or line == header:
        return _BLANK
    fields = _csv_fields(line)
    if fields is None or len(fields) <= max(where.values()):
        return MALFORMED
    record: dict[str, Any] = {name: fields[i] for name, i in where.items()}
    for name in ("time", "sequence"):
        text = record.get(name, "")
        if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20:
            record[name] = int(text)
    for name in ("sequence", "adjust"):
        if record.get(name) == "":
            del record[name]
    if "adjust" in record and record["price"] == "":
        del record["price"]
    return _row(record | {name: _csv_number(record[name]) for name in record if name not in _TEXTS}, layout)


def _csv_fields(line: bytes) -> list[str] | None:
    """Split a CSV line; None where it is not UTF-8 or its quotes do not close."""
    try:
        text = line.decode()
        fields = text.split(",") if '"' not in text else next(csv.reader([text], strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    return [f.strip() for f in fields]


def _csv_number(text: str) -> float | str | None:
    """Read a CSV number; text that is none comes back as it is, to be refused."""
    if text == "":
        return None
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def _moment(time: Any) -> int | Reason:
    """Read a time as microseconds since 1970, or say what is wrong with it."""
    if type(time) is int:
        return time if _MILLISECONDS < abs(time) < _NANOSECONDS else Reason.UNIT
    us = _parse_time(time) if type(time) is str else _NEVER
    return Reason.TIME if us == _NEVER else us


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
