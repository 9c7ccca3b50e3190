"""Bodies become lines without a tick lost, changed or made up."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bodies import CSV, JSON, NDJSON, Held, cut
from pipeline.refusals import RefusedError
from pipeline.ticks import is_csv

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=8))
def test_an_array_gives_a_line_for_each_value(values: list) -> None:
    """Each line reads back to its value, and holds no line end."""
    lines = cut(JSON, orjson.dumps(values, option=orjson.OPT_INDENT_2), 8).lines
    assert [orjson.loads(line) for line in lines] == values
    assert not any(b"\n" in line for line in lines)


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.booleans())
def test_lines_are_those_between_line_ends(lines: list[bytes], ended: bool) -> None:
    """Put together again they are the body, and a last line counts with its LF and without."""
    body = b"".join(line + b"\n" for line in lines)
    if not ended and lines and lines[-1]:
        body = body[:-1]
    given_ = cut(NDJSON, b"\xef\xbb\xbf" + body, 8)
    assert given_.lines == lines
    assert given_.head == b""


@given(st.binary(max_size=60))
def test_csv_is_read_as_csv_or_refused(body: bytes) -> None:
    """A body sent as CSV is never read as JSON lines."""
    try:
        head = cut(CSV, body, 100).head
    except RefusedError:
        head = b""
    assert not head or is_csv(head)


def test_the_head_of_a_csv_is_its_first_line_that_is_not_blank() -> None:
    """Blank lines before the header stay lines, so that the numbers of dead letters are right."""
    lines = cut(CSV, b"\r\n\nseries,time,price\nA,2024-01-01,1\n", 4)
    assert lines.head == b"series,time,price"
    assert len(lines.lines) == 4


@pytest.mark.parametrize(
    ("kind", "body"), [(NDJSON, b"x\n" * 9), (NDJSON, b"\n" * 8 + b"x"), (JSON, b"[" + b"1," * 8 + b"1]")]
)
def test_the_bound_of_lines_is_exact(kind: str, body: bytes) -> None:
    """Nine lines pass a bound of nine and not one of eight."""
    assert len(cut(kind, body, 9).lines) == 9
    with pytest.raises(RefusedError, match="at most 8 lines"):
        cut(kind, body, 8)


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"\xff", b"[" * 100_000, b"[1e999]", b"NaN", b'{"a":1} {"a":2}'])
def test_json_that_cannot_be_read_is_refused(body: bytes) -> None:
    """What is no JSON, however deep, is 400."""
    with pytest.raises(RefusedError, match="expected one JSON object") as caught:
        cut(JSON, body, 10)
    assert caught.value.status == 400


def test_what_is_held_is_given_back() -> None:
    """Shares add up to the bound, one more byte is refused, and a share ends with its request."""
    held = Held(10)
    with held.share() as one, held.share() as other:
        one.take(6)
        other.take(4)
        with pytest.raises(RefusedError) as caught:
            other.take(1)
        assert (caught.value.status, caught.value.transient, held.bytes) == (429, True, 10)
    assert held.bytes == 0
