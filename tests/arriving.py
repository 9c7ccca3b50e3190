"""Content that has every way to be cut wrongly, and what a reading of it has to give."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import orjson
from hypothesis import strategies as st

from pipeline.lines import Block, IntakeConfig, Position

MARK = b"\xef\xbb\xbf"
QUICK = IntakeConfig(batch=3, max_line_bytes=100, wait_ms=1)

CONTENTS = {
    "lines": b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n",
    "no final LF": b"one\ntwo",
    "CRLF": b"series,time,price\r\nA,1,2\r\n\r\nB,1,2\r\n",
    "mark": MARK + b"series,time,price\nA,1,2\n",
    "two marks": MARK + MARK + b"one\n" + MARK + b"two\n",
    "blank lines": b"\n\n \none\n\n\n\ntwo\n\n",
    "characters of many bytes": "ähnlich\n日本語\n\U0001f4c8 up\n".encode(),
    "no text": bytes(range(256)) * 2,
    "empty": b"",
    "mark only": MARK,
    "half a mark": MARK[:2],
    "one LF": b"\n",
    "long line": b"a\n" + b"x" * 5000 + b"\nb\n",
    "long line after a mark": MARK + b"x" * 150 + b"\nb\n",
    "more than the ends": b"".join(b"line %d\n" % i for i in range(600)),
}

contents = st.lists(
    st.sampled_from([b"a", b"\r", MARK, "é".encode(), b"x" * 70, b" ", b"\n", b"\n", b"\r\n"]), max_size=60
)
"""Small contents with all that matters close together."""


def expected(content: bytes, most: int = QUICK.max_line_bytes) -> list[bytes]:
    """Split content the plain way."""
    *whole, rest = content.removeprefix(MARK).split(b"\n")
    return [line[: most + 1] for line in (*whole, *([rest] if rest else []))]


def joined(blocks: Iterable[Block]) -> list[bytes]:
    """Give the lines of blocks; each block counts on from the one before."""
    lines: list[bytes] = []
    start = None
    for block in blocks:
        start = block.first if start is None else start
        assert block.first == start + len(lines)
        lines += block.lines
        assert block.position is None or block.position.lines == start + len(lines)
    return lines


def settled(read: Iterator[Block]) -> list[Block]:
    """Read until nothing is waiting."""
    blocks = []
    while (block := next(read)).lines:
        blocks.append(block)
    return blocks


def stored(position: Position) -> Position:
    """Write a position as JSON and read it back."""
    return Position(**orjson.loads(orjson.dumps(asdict(position))))


def handles() -> int:
    """Count the open file descriptors of this process."""
    return len(os.listdir("/dev/fd"))
