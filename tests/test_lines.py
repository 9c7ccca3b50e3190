"""Bytes in any pieces give the same lines, and positions that know them again."""

from __future__ import annotations

import tracemalloc
from zlib import crc32

import pytest
from arriving import CONTENTS, MARK, QUICK, contents, expected, joined, stored
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataError
from pipeline.lines import SPAN, Block, Cutter, IntakeConfig, Past, Position


def cutter(before: bytes = b"", position: Position | None = None, config: IntakeConfig = QUICK) -> Cutter:
    """Build a cutter that goes on after some bytes."""
    past = Past()
    past.add(before)
    return Cutter("file", "file", position or Position(), past, config)


def cut(content: bytes, pieces: int, config: IntakeConfig = QUICK) -> list[Block]:
    """Cut content that comes in pieces of a size."""
    c = cutter(config=config)
    blocks = [b for i in range(0, len(content), pieces) for b in c.cut(content[i : i + pieces])]
    return [*blocks, *c.rest()]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("pieces", [1, 2, 7, 4095, 100_000])
def test_lines_are_those_of_a_plain_split(content: bytes, pieces: int) -> None:
    """Whatever the pieces, the lines are those between LFs, without the mark, the long ones cut at one place."""
    blocks = cut(content, pieces)
    assert joined(blocks) == expected(content)
    assert all(len(block.lines) <= QUICK.batch for block in blocks)


@given(contents.map(b"".join), st.lists(st.integers(1, 40), min_size=1), st.integers(1, 5))
def test_pieces_and_batches_do_not_show(content: bytes, sizes: list[int], batch: int) -> None:
    """Any cut of the bytes and any batch size give the same lines."""
    c = cutter(config=IntakeConfig(batch=batch, max_line_bytes=64))
    blocks, start = [], 0
    while start < len(content):
        size = sizes[len(blocks) % len(sizes)]
        blocks += c.cut(content[start : start + size])
        start += size
    blocks += c.rest()
    assert joined(blocks) == expected(content, 64)
    assert max((len(block.lines) for block in blocks), default=0) <= batch


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_position_sums_what_lies_before_it(content: bytes) -> None:
    """Offset, lines and both sums are those of the bytes before the position, and survive JSON."""
    for pieces in (1, 100, 5000, 100_000):
        for block in cut(content, pieces):
            p = block.position
            assert p is not None
            before = content[: p.offset]
            assert (p.head_sum, p.tail_sum) == (crc32(before[:SPAN]), crc32(before[-SPAN:]))
            assert p.lines == len(expected(before))
            assert stored(p) == p


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_cut_goes_on_from_every_position(content: bytes) -> None:
    """From the position of any block on, the lines, their numbers and the head are those of one cut."""
    blocks = cut(content, 100)
    for i, block in enumerate(blocks):
        assert block.position is not None
        c = cutter(content[: block.position.offset], stored(block.position))
        again = [*c.cut(content[block.position.offset :]), *c.rest()]
        assert joined(again) == joined(blocks[i + 1 :])
        assert c.position.lines == len(joined(blocks))
        if block.position.head:
            assert all(b.head == block.head for b in again)


def test_the_head_is_the_first_line_that_is_not_blank() -> None:
    """Every block knows it, whatever its bytes are, cut where it is long."""
    head = b" \xff\xe9" + b"h" * 5000
    config = IntakeConfig(batch=1)
    blocks = cut(MARK + b"\r\n\n" + head + b"\nnext\n", 1000, config)
    assert [b.head for b in blocks if b.lines] == [b"", b"", head[:SPAN], head[:SPAN]]
    position = blocks[-1].position
    assert position is not None
    assert stored(position).head.encode("latin-1") == head[:SPAN]


def test_a_line_without_end_takes_bounded_memory() -> None:
    """A line of 256 MB is held no longer than its bound, and the next one is whole."""
    c = cutter()
    chunk = b"x" * 2**20
    tracemalloc.start()
    given_ = [block for _ in range(256) for block in c.cut(chunk)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert not any(block.lines for block in given_)
    (block,) = c.cut(b"x\nnext\n")
    assert block.lines == [b"x" * (QUICK.max_line_bytes + 1), b"next"]
    assert c.position.offset == 256 * 2**20 + 7


def test_a_last_line_that_grows_is_refused() -> None:
    """A line that was given without its LF may get one later, but no more text."""
    blocks = cut(b"one\ntw", 100)
    for more in (b"", b"\n", b"\r\n", b"\r"):
        assert joined(cutter(b"one\ntw", blocks[-1].position).cut(more)) == []
    c = cutter(b"one\ntw", blocks[-1].position)
    assert joined(c.cut(b"\nthree\n")) == [b"three"]
    assert (c.position.lines, c.position.offset) == (3, 13)
    with pytest.raises(DataError, match=r"line 2 was read without LF .* grown since by b'o'"):
        joined(cutter(b"one\ntw", blocks[-1].position).cut(b"o\n"))
    c = cutter(b"one\ntw", blocks[-1].position)
    joined(c.cut(b"o"))
    with pytest.raises(DataError, match="grown since"):
        joined(c.rest())


def test_other_bytes_are_not_taken_for_those_that_were_read() -> None:
    """A changed byte near either end, or a missing one, is noticed."""
    content = CONTENTS["more than the ends"]
    position = cut(content, 100_000)[-1].position
    assert position is not None
    for changed in (b"L" + content[1:], content[:-2] + b"!\n"):
        past = Past()
        past.add(changed)
        with pytest.raises(DataError, match=r"ticks f: the bytes before byte \d+ are not those that were read"):
            past.check("f", position)
    past = Past()
    past.add(content[:-1])
    with pytest.raises(DataError, match=r"it ends after \d+ bytes, but \d+ were read before"):
        past.check("f", position)


@pytest.mark.parametrize(
    "changes", [{"batch": 0}, {"batch": 10**6}, {"max_line_bytes": 63}, {"wait_ms": 0}, {"wait_ms": 1.5}]
)
def test_settings_out_of_range_are_refused(changes: dict) -> None:
    """Each setting has a range, and the message names the setting."""
    with pytest.raises(ConfigError, match=f"intake.{next(iter(changes))}"):
        IntakeConfig(**changes)
