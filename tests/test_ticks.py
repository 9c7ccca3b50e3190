"""Ticks are read from JSON lines and CSV; whatever a line holds, it gets a reason and never raises."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ticks import DEAD, SENTENCES, Reason, Ticks, lines, parser

US = 1_704_067_200_000_000
NEW_YEAR = "2024-01-01T00:00:00Z"
HEADER = b"time,price,series,volume"


def read(line: bytes, head: bytes = b"{}") -> tuple[Reason, str, int, float]:
    """Parse one line of a source that begins with `head`."""
    return parser(head)(line)


def tick(**changes: object) -> bytes:
    """Write one JSON line, with some fields changed."""
    return orjson.dumps({"series": "A", "time": NEW_YEAR, "price": 1.5} | changes)


@pytest.mark.parametrize(
    ("line", "head"),
    [
        (tick(), b"{}"),
        (tick() + b"\r", b"{}"),
        (b"  " + tick(volume=[1, {}]) + b" ", b"{}"),
        (tick(time=US), b"{}"),
        (b"2024-01-01T00:00:00Z,1.5,A,7", HEADER),
        (b'"2024-01-01T00:00:00Z", 1.5 ,"A",7\r', HEADER),
        (b"1704067200000000,1.5,A,7", HEADER + b"\r"),
        (b"A;2024-01-01,2024-01-01 01:00:00+01:00,A,1.5", b'"x","TIME","Series","Price"'),
    ],
)
def test_a_tick_is_read_in_every_form(line: bytes, head: bytes) -> None:
    """JSON and CSV, ISO times and microseconds, quotes, spaces and CRLF give the same tick."""
    assert read(line, head) == (Reason.ACCEPTED, "A", US, 1.5)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31)), st.integers(-23, 23))
def test_times_with_an_offset_are_moved_to_utc(moment: datetime, hours: int) -> None:
    """Microseconds since 1970 are exact for every moment and offset."""
    utc = moment.replace(tzinfo=UTC)
    local = utc + timedelta(hours=hours)
    text = local.replace(tzinfo=None).isoformat() + f"{'-' if hours < 0 else '+'}{abs(hours):02d}:00"
    expected = (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert read(tick(time=text))[2] == expected
    assert read(tick(time=utc.replace(tzinfo=None).isoformat()))[2] == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", Reason.BLANK),
        (b" \r", Reason.BLANK),
        (tick(price=None), Reason.HOLE),
        (b"{", Reason.MALFORMED),
        (b"\xff\xfe", Reason.MALFORMED),
        (b"[1, 2]", Reason.MALFORMED),
        (b'"series"', Reason.MALFORMED),
        (b"NaN", Reason.MALFORMED),
        (b'{"series": "A", "time": 1}', Reason.MALFORMED),
        (tick(series=None), Reason.MALFORMED),
        (tick(series=["A"]), Reason.MALFORMED),
        (tick(price="1.5"), Reason.MALFORMED),
        (tick(price=True), Reason.MALFORMED),
        (tick().replace(b"1.5", b"NaN"), Reason.MALFORMED),
        (tick().replace(b"1.5", b"1e999"), Reason.MALFORMED),
        (tick(time="yesterday"), Reason.TIME),
        (tick(time=None), Reason.TIME),
        (tick(time=True), Reason.TIME),
        (tick(time=1.5e15), Reason.TIME),
        (tick(time=US // 10**6), Reason.TIME),
        (tick(time=US // 10**3), Reason.TIME),
        (tick(time=2**64 - 1), Reason.TIME),
        (tick(time=-(2**63)), Reason.TIME),
        (tick(time="2024-13-01"), Reason.TIME),
    ],
)
def test_a_json_line_that_is_no_tick_has_a_reason(line: bytes, reason: Reason) -> None:
    """Each fault of a line is told apart, and seconds or milliseconds are not taken for microseconds."""
    assert read(line)[0] == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (HEADER, Reason.BLANK),
        (b"\r", Reason.BLANK),
        (b"2024-01-01,,A,", Reason.HOLE),
        (b"2024-01-01,1.5", Reason.MALFORMED),
        (b"2024-01-01,abc,A,1", Reason.MALFORMED),
        (b"2024-01-01,1_0,A,1", Reason.MALFORMED),
        ("2024-01-01,١,A,1".encode(), Reason.MALFORMED),
        (b'2024-01-01,"1.5,A,1', Reason.MALFORMED),
        (b"2024-01-01,1.5,\xff,1", Reason.MALFORMED),
        (b"20240101,1.5,A,1", Reason.TIME),
        (b"9" * 5000 + b",1.5,A,1", Reason.TIME),
        (b",1.5,A,1", Reason.TIME),
    ],
)
def test_a_csv_line_that_is_no_tick_has_a_reason(line: bytes, reason: Reason) -> None:
    """Each fault of a row is told apart; a header that comes again is passed over."""
    assert read(line, HEADER)[0] == reason


def test_nan_and_infinity_in_csv_are_read_as_such() -> None:
    """What CSV can write is left to the check of prices."""
    assert math.isnan(read(b"2024-01-01,nan,A,", HEADER)[3])
    assert read(b"2024-01-01,-inf,A,", HEADER)[3] == -math.inf


@given(st.binary(max_size=200), st.sampled_from([b"{}", HEADER, b"", b"\xff"]))
def test_no_bytes_raise_an_error(line: bytes, head: bytes) -> None:
    """Any bytes, under any first line, give a row that fits its columns."""
    ticks = Ticks.from_rows([read(line, head)])
    assert len(ticks) == 1


@given(st.data())
def test_no_damaged_tick_raises_an_error(data: st.DataObject) -> None:
    """A tick with bytes cut, repeated and overwritten gives a row that fits its columns."""
    head = data.draw(st.sampled_from([b"{}", HEADER]))
    line = bytearray(tick(price=1e300) if head == b"{}" else b'2024-01-01T00:00:00Z,1e300,"A",3')
    for _ in range(data.draw(st.integers(1, 5))):
        i, j = sorted(data.draw(st.tuples(*[st.integers(0, len(line))] * 2)))
        line[i:j] = data.draw(
            st.sampled_from([b"", line[i:j] * 2, b'"', b"\x00", b"-", b"e9", b"{", b"\xc3", b"999999999"])
        )
    assert len(Ticks.from_rows([read(bytes(line), head)])) == 1


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    st.integers(1, 9),
    st.integers(1, 7),
    st.booleans(),
)
def test_lines_come_back_whole_however_they_arrive(texts: list[bytes], piece: int, batch: int, mark: bool) -> None:
    """Reads that end anywhere, and a byte order mark, do not change the lines; no list is longer than asked."""

    class Dripping(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            return super().read1(min(size, piece))

    content = (b"\xef\xbb\xbf" if mark else b"") + b"\n".join(texts)
    source = Dripping(content)
    got = list(lines(source, batch=batch, max_line_bytes=100))
    expected = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert [line for block in got for line in block] == (expected if expected[-1] else expected[:-1])
    assert all(0 < len(block) <= batch for block in got)


def test_a_line_without_end_takes_bounded_memory() -> None:
    """A line above the bound comes cut and still above it, and the next line is whole."""
    source = io.BytesIO(b"x" * 5_000_000 + b"\nnext\n" + b"y" * 300)
    long, after, last = (line for block in lines(source, batch=10, max_line_bytes=100) for line in block)
    assert after == b"next"
    assert len(last) > 100
    assert 100 < len(long) < 200_000


def test_columns_have_their_types() -> None:
    """Triples become columns; None is a hole, and minus zero reads as zero."""
    ticks = Ticks.of([("A", US, 1), ("B", US, None), ("C", US, -0.0)])
    assert ticks.time.dtype == np.int64
    np.testing.assert_array_equal(ticks.reason, [0, Reason.HOLE, 0])
    assert math.copysign(1, ticks.price[2]) == 1
    assert len(Ticks.of([])) == 0


def test_the_reasons_are_stable() -> None:
    """The codes written to files are an interface: this list only grows, and each has its sentence."""
    dead = ["malformed", "time", "not_finite", "domain", "name", "limit", "late", "duplicate", "conflict"]
    assert [r.code for r in Reason if r >= DEAD] == dead
    assert set(SENTENCES) == set(Reason) - {Reason.ACCEPTED}
