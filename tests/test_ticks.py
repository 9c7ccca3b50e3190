"""Ticks are read from JSON lines and CSV; whatever a line holds, it gets a reason and never raises."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ticks import DEAD, PLAIN, SENTENCES, Layout, Reason, Ticks, parser

US = 1_704_067_200_000_000
NEW_YEAR = "2024-01-01T00:00:00Z"
HEADER = b"time,price,series,volume"


Row = tuple[Reason, str, int, int, float]


def read(line: bytes, head: bytes = b"{}") -> Row:
    """Parse one line of a source that begins with `head`: reason, series, time, sequence, price."""
    ticks = parser(head)([line])
    assert len(ticks) == 1
    return (
        Reason(int(ticks.reason[0])),
        ticks.name[0],
        int(ticks.time[0]),
        int(ticks.sequence[0]),
        float(ticks.price[0, 0]),
    )


def tick(**changes: object) -> bytes:
    """Write one JSON line, with some fields changed."""
    return orjson.dumps({"series": "A", "time": NEW_YEAR, "price": 1.5} | changes)


def split(**changes: object) -> bytes:
    """Write one adjustment, with some fields changed."""
    return orjson.dumps({"series": "A", "time": NEW_YEAR, "adjust": 0.5} | changes)


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
    assert read(line, head) == (Reason.ACCEPTED, "A", US, 0, 1.5)


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
        (tick(time=US // 10**6), Reason.UNIT),
        (tick(time=US // 10**3), Reason.UNIT),
        (tick(time=US * 1000), Reason.UNIT),
        (tick(time=0), Reason.UNIT),
        (tick(time=2**64 - 1), Reason.UNIT),
        (tick().replace(b'"2024-01-01T00:00:00Z"', b"9" * 30), Reason.TIME),
        (tick(time=-(2**63)), Reason.UNIT),
        (tick(sequence=-1), Reason.MALFORMED),
        (tick(sequence=2**62), Reason.MALFORMED),
        (tick(sequence=1.0), Reason.MALFORMED),
        (tick(sequence=True), Reason.MALFORMED),
        (tick(sequence=None), Reason.MALFORMED),
        (tick(adjust=0.5), Reason.MALFORMED),
        (split(adjust="0.5"), Reason.MALFORMED),
        (split(adjust=None), Reason.MALFORMED),
        (split(adjust=True), Reason.MALFORMED),
        (split(adjust=0), Reason.NOT_FINITE),
        (split(adjust=-0.5), Reason.NOT_FINITE),
        (split(adjust=1e300), Reason.NOT_FINITE),
        (split(time="yesterday"), Reason.TIME),
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
        (b"20240101,1.5,A,1", Reason.UNIT),
        (b"9" * 5000 + b",1.5,A,1", Reason.TIME),
        (b",1.5,A,1", Reason.TIME),
    ],
)
def test_a_csv_line_that_is_no_tick_has_a_reason(line: bytes, reason: Reason) -> None:
    """Each fault of a row is told apart; a header that comes again is passed over."""
    assert read(line, HEADER)[0] == reason


def test_nan_and_infinity_in_csv_are_read_as_such() -> None:
    """What CSV can write is left to the check of prices."""
    assert math.isnan(read(b"2024-01-01,nan,A,", HEADER)[4])
    assert read(b"2024-01-01,-inf,A,", HEADER)[4] == -math.inf


def fits(ticks: Ticks, count: int, layout: Layout = PLAIN) -> None:
    """Check that every column has a row for each line, of its type and shape."""
    around = {"price": (layout.block,), "past": (len(layout.past),), "future": (layout.horizon, len(layout.future))}
    kinds = {"time": "int64", "sequence": "int64", "past": "float32", "future": "float32", "reason": "uint8"}
    assert len(ticks.name) == count
    for name in ("time", "sequence", "price", "factor", "past", "future", "reason"):
        column = getattr(ticks, name)
        assert (column.shape, column.dtype) == ((count, *around.get(name, ())), kinds.get(name, "float64")), name


@given(st.binary(max_size=200), st.sampled_from([b"{}", HEADER, b"", b"\xff"]))
def test_no_bytes_raise_an_error(line: bytes, head: bytes) -> None:
    """Any bytes, under any first line, give a row that fits its columns."""
    fits(parser(head)([line]), 1)


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
    fits(parser(head)([bytes(line)]), 1)


def test_columns_have_their_types() -> None:
    """Triples become columns; None is a hole, and minus zero reads as zero."""
    ticks = Ticks.of([("A", US, 1), ("B", US, None), ("C", US, -0.0)])
    assert ticks.time.dtype == np.int64
    np.testing.assert_array_equal(ticks.reason, [0, Reason.HOLE, 0])
    assert math.copysign(1, ticks.price[2, 0]) == 1
    assert len(Ticks.of([])) == 0
    assert Ticks.of([("A", 0, 1.0), ("A", 1, 1.0)]).reason.tolist() == [0, 0]  # their unit is known


def test_the_reasons_are_stable() -> None:
    """The codes written to files are an interface: this list only grows, and each has its sentence."""
    told = "malformed time unit not_finite domain covariate future name unknown limit"
    told += " late out_of_order duplicate conflict off_grid jump"
    assert [r.code for r in Reason if r >= DEAD] == told.split()
    assert [r.code for r in Reason if r < DEAD] == ["accepted", "blank", "hole", "adjusted"]
    assert set(SENTENCES) == set(Reason) - {Reason.ACCEPTED}


def test_an_adjustment_is_read_with_its_factor() -> None:
    """It has no price, comes before the ticks of its time, and is none of the reasons to refuse a line."""
    ticks = parser(b"{}")([split(), split(time=US, adjust=2)])
    assert ticks.reason.tolist() == [0, 0]
    assert ticks.factor.tolist() == [0.5, 2.0]
    assert ticks.sequence.tolist() == [-1, -1]
    assert np.isnan(ticks.price).all()


@pytest.mark.parametrize(
    ("line", "head", "sequence"),
    [
        (tick(sequence=7), b"{}", 7),
        (tick(sequence=2**62 - 1), b"{}", 2**62 - 1),
        (b"A,2024-01-01,1.5,3", b"series,time,price,sequence", 3),
        (b"A,2024-01-01,1.5,", b"series,time,price,sequence", 0),
        (b"A,2024-01-01,1.5,3", b"series,time,price,volume", 0),
    ],
)
def test_a_sequence_is_read_where_there_is_one(line: bytes, head: bytes, sequence: int) -> None:
    """It is a whole number from 0, and 0 where it is left out."""
    assert read(line, head) == (Reason.ACCEPTED, "A", US, sequence, 1.5)


@pytest.mark.parametrize("text", ["-1", "1.0", "x", "9" * 30])
def test_a_sequence_in_csv_is_a_whole_number(text: str) -> None:
    """Anything else makes the row malformed."""
    assert read(f"A,2024-01-01,1.5,{text}".encode(), b"series,time,price,sequence")[0] == Reason.MALFORMED


# ------------------------------------------------------------------------------------------- all at once, or by line

GOOD = st.builds(
    tick,
    series=st.sampled_from(["A", "B/C", "", "é", "x" * 70, "A}", "{A"]),
    time=st.sampled_from([NEW_YEAR, US, US + 1, "2024-01-01", "yesterday", 5, 2**63, -US, US * 1000, -(2**62), 1e9])
    | st.integers(-(2**63), 2**64 - 1),
    price=st.sampled_from([1.5, -0.0, 0.0, 5e-324, 1e308, 1, None, "1", [1.5], 2**60, True]),
)
SPECIAL = st.sampled_from(
    [
        tick(sequence=2),
        tick(volume=1.0, name="x"),
        tick(volume={"a": 1}),
        tick(volume="{"),
        tick(volume="}"),
        split(),
        split(price=1.5),
        tick() + tick(),
        tick() + b"," + tick(),
        b"[" + tick() + b"]",
        tick()[:-1] + b',"price":2.5}',
        tick()[:-1] + b',"series":"B"}',
        b"",
        b" ",
        tick() + b"\r",
        b" " + tick(),
        b"{}",
        b"{",
        b"}",
        b"}{",
        b"{,}",
        b"},{",
        b'{"a":"',
        b'"}',
        b"null",
        b"\xff",
        tick().replace(b"A", b"\xff"),
        tick()[:-1] + b"," + tick()[1:],
        b"[" * 1020 + b"]" * 1020,
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ]
)


@st.composite
def mixtures(draw: st.DrawFn) -> list[bytes]:
    """Draw lines, cut and glued again where JSON has its joints."""
    lines = draw(st.lists(GOOD | GOOD | SPECIAL, min_size=1, max_size=8))
    for _ in range(draw(st.integers(0, 3))):
        whole = b"\n".join(lines)
        joints = [i for i, byte in enumerate(whole) if byte in b'{}",:[]\n']
        if not joints:
            break
        i = draw(st.sampled_from(joints)) + draw(st.integers(0, 1))
        j = draw(st.sampled_from(joints)) + draw(st.integers(0, 1))
        piece = draw(
            st.sampled_from([b"", b"\n", b",", b'"', b"{", b"}", b"},{", b"}\n{", whole[min(i, j) : max(i, j)]])
        )
        lines = (whole[:i] + piece + whole[draw(st.sampled_from([i, max(i, j)])) :]).split(b"\n")
    return lines


def same(x: Ticks, y: Ticks) -> None:
    """Check that two readings are alike to the bit wherever they mean something."""
    assert x.reason.tolist() == y.reason.tolist()
    told = x.reason == 0
    assert [n for n, t in zip(x.name, told, strict=True) if t] == [n for n, t in zip(y.name, told, strict=True) if t]
    for name in ("time", "sequence", "price", "factor", "past", "future"):
        assert getattr(x, name)[told].tobytes() == getattr(y, name)[told].tobytes(), name


@settings(max_examples=400)
@given(mixtures())
def test_lines_that_are_parsed_together_are_what_they_are_alone(lines: list[bytes]) -> None:
    """However objects, quotes and braces meet at the ends of lines, no line changes another one.

    A blank line among them is never parsed with others, so the second reading goes line by line.
    """
    together = parser(b"{}")(lines)
    fits(together, len(lines))
    by_line = parser(b"{}")([*lines, b""])
    assert by_line.reason[-1] == Reason.BLANK
    same(together, _first(by_line, len(lines)))
    same(together, Ticks.joined([parser(b"{}")([line]) for line in lines]))


def _first(ticks: Ticks, count: int) -> Ticks:
    columns = {f.name: getattr(ticks, f.name)[:count] for f in fields(Ticks)}
    return Ticks(**columns)


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"series":"A}', b'{","time":"2024-01-01","price":1.5}'],
        [b'{"series":"A","x":"}', b'{","time":"2024-01-01","price":1.5}'],
        [b'{"series":"A","time":"2024-01-01","price":1.5,"x":[1}', b"{2]}"],
    ],
)
def test_a_line_is_not_continued_by_the_next(lines: list[bytes]) -> None:
    """Halves of an object, cut inside a text or a list, are two lines that are no ticks."""
    for around in ([], [tick()]):
        ticks = parser(b"{}")([*around, *lines, *around])
        told = [0] * len(around)
        assert ticks.reason.tolist() == [*told, Reason.MALFORMED, Reason.MALFORMED, *told]


@given(st.lists(st.sampled_from([tick(price=float(k), time=US + k) for k in range(5)]), min_size=1, max_size=20))
def test_ordinary_lines_are_parsed_together(lines: list[bytes]) -> None:
    """Lines of a usual kind give their columns in the order of the lines."""
    ticks = parser(b"{}")(lines)
    assert not ticks.reason.any()
    assert (ticks.time - US).tolist() == ticks.price[:, 0].tolist() == [orjson.loads(line)["price"] for line in lines]


# ------------------------------------------------------------------------------------------------- layouts of models

BESIDE = Layout(horizon=2, past=("load",), future=("wind", "sun"))
BLOCKS = Layout(
    block=3, horizon=2, past=("load.00", "load.01", "load.02", "gas"), future=("wind.00", "wind.01", "wind.02")
)


@pytest.mark.parametrize(
    ("beside", "past", "future"),
    [
        ({"load": 1, "wind": [2, 3], "sun": [4, 5.5]}, [1], [[2, 4], [3, 5.5]]),
        ({"load": [1], "wind": [[2], [3]], "sun": [4, 5.5]}, [1], [[2, 4], [3, 5.5]]),
        ({"wind": [2, 3], "sun": [4, 5.5]}, [np.nan], [[2, 4], [3, 5.5]]),
        ({"load": None, "wind": [2, None], "sun": [4, 5.5]}, [np.nan], [[2, 4], [np.nan, 5.5]]),
        ({"load": "1", "wind": [2], "sun": 4}, [np.nan], [[np.nan] * 2] * 2),
        ({"load": True, "wind": [2, 3, 4], "sun": {"a": 1}}, [np.nan], [[np.nan] * 2] * 2),
        ({"load": 1e39, "wind": [2, -1e300], "sun": [[4, 4], 5]}, [np.nan], [[2, np.nan], [np.nan, 5]]),
    ],
)
def test_covariates_stand_in_fields_of_their_names(beside: dict, past: list, future: list) -> None:
    """A value beside the price, a list of steps ahead; what is missing or of another form is NaN, and no error."""
    ticks = parser(b"{}", BESIDE)([tick(**beside)])
    fits(ticks, 1, BESIDE)
    assert ticks.reason[0] == 0
    np.testing.assert_array_equal(ticks.past[0], np.array(past, np.float32))
    np.testing.assert_array_equal(ticks.future[0], np.array(future, np.float32))
    assert ticks.whole[0] == (np.isfinite(past).all() and np.isfinite(future).all())


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ([1, 2.5, 3], Reason.ACCEPTED),
        ([1, None, 3], Reason.ACCEPTED),
        ([None, None, None], Reason.HOLE),
        (None, Reason.HOLE),
        ([1, 2], Reason.MALFORMED),
        ([1, 2, 3, 4], Reason.MALFORMED),
        (1.5, Reason.MALFORMED),
        ([1, "2", 3], Reason.MALFORMED),
        ([1, True, 3], Reason.MALFORMED),
        ([[1], 2, 3], Reason.MALFORMED),
        ([], Reason.MALFORMED),
        ({"a": 1}, Reason.MALFORMED),
    ],
)
def test_a_block_is_a_list_of_prices(price: object, reason: Reason) -> None:
    """As many as the model has, null where one is missing; none at all is a hole."""
    ticks = parser(b"{}", BLOCKS)([tick(price=price)])
    fits(ticks, 1, BLOCKS)
    assert ticks.reason[0] == reason
    if reason == Reason.ACCEPTED:
        np.testing.assert_array_equal(ticks.price[0], np.array(price, float))


def test_covariates_of_a_block_are_lists_of_its_prices_values() -> None:
    """Within one field they stand in order, and around them the steps where there is more than one."""
    beside = {"load": [1, 2, 3], "gas": 9, "wind": [[4, 5, 6], [7, None, 8]]}
    ticks = parser(b"{}", BLOCKS)([tick(price=[1, 2, 3], **beside)])
    np.testing.assert_array_equal(ticks.past[0], [1, 2, 3, 9])
    np.testing.assert_array_equal(ticks.future[0], [[4, 5, 6], [7, np.nan, 8]])
    short = parser(b"{}", BLOCKS)([tick(price=[1, 2, 3], **(beside | {"load": [1, 2]}))])
    np.testing.assert_array_equal(short.past[0], [np.nan, np.nan, np.nan, 9])


@pytest.mark.parametrize("layout", [BESIDE, BLOCKS])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=8,
    ),
    field=st.sampled_from(["price", "load", "gas", "wind", "sun", "adjust", "sequence", "time", "series"]),
)
def test_no_value_in_any_field_raises_an_error(layout: Layout, value: object, field: str) -> None:
    """Any JSON in the place of any field gives a row that fits its columns."""
    line = tick(price=[1, 2, 3] if layout.block > 1 else 1.5) if field != "adjust" else split()
    try:
        changed = orjson.dumps(orjson.loads(line) | {field: value})
    except orjson.JSONEncodeError:  # beyond 64 bits: written by hand
        changed = line[:-1] + b',"%b":%d}' % (field.encode(), 2**70)
    fits(parser(b"{}", layout)([changed]), 1, layout)


def test_ticks_put_one_after_the_other_keep_their_columns() -> None:
    """Joined readings are the reading of all lines."""
    lines = [tick(time=US + k, price=1.5 + k, load=k, wind=[k, 1], sun=[0, k]) for k in range(5)]
    parse = parser(b"{}", BESIDE)
    same(parse(lines), Ticks.joined([parse(lines[:2]), parse([]), parse(lines[2:])]))


@pytest.mark.parametrize(
    ("cells", "reason", "factor"),
    [
        (b"A,2024-01-01,,0.25", Reason.ACCEPTED, 0.25),
        (b"A,2024-01-01,1.5,", Reason.ACCEPTED, math.nan),
        (b"A,2024-01-01,,", Reason.HOLE, math.nan),
        (b"A,2024-01-01,1.5,0.25", Reason.MALFORMED, math.nan),
        (b"A,2024-01-01,,half", Reason.MALFORMED, math.nan),
        (b"A,2024-01-01,,nan", Reason.NOT_FINITE, math.nan),
        (b"A,2024-01-01,,0", Reason.NOT_FINITE, math.nan),
    ],
)
def test_an_adjustment_in_csv_is_no_hole(cells: bytes, reason: Reason, factor: float) -> None:
    """A factor in the column `adjust` with an empty price is an adjustment, as it is in JSON."""
    ticks = parser(b"series,time,price,adjust")([cells])
    assert ticks.reason.tolist() == [reason]
    np.testing.assert_array_equal(ticks.factor, [factor])


def test_csv_columns_are_covariates() -> None:
    """A model that reads one number a tick finds it in the column of its name; an empty cell is a missing one."""
    layout = Layout(past=("Volume",), future=("load",))
    ticks = parser(b"load,series,time,price,Volume", layout)([b"2,A,2024-01-01,1.5,7", b",A,2024-01-01,1.5,7"])
    assert ticks.past.tolist() == [[7.0], [7.0]]
    np.testing.assert_array_equal(ticks.future, [[[2.0]], [[math.nan]]])
