"""A pipe gives its lines as they come, and an input that begins again gives what is new."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from arriving import CONTENTS, QUICK, contents, expected, handles, joined, settled, stored
from hypothesis import given

from models.errors import DataError
from pipeline.intake import blocks
from pipeline.lines import Block, Position
from pipeline.pipes import Pipe


@contextmanager
def piped() -> Iterator[tuple[int, int]]:
    """Open a pipe: what is read, what is written; either may be closed meanwhile."""
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        for fd in (read, write):
            try:
                os.close(fd)
            except OSError:
                continue


def reading(fd: int | Path, position: Position | None = None, **options: object) -> Iterator[Block]:
    """Begin to read a pipe."""
    return Pipe(fd, **{"config": QUICK, **options}).read("-", position)  # type: ignore[arg-type]


def whole(content: bytes, position: Position | None = None, *, repeats: bool = False) -> list[Block]:
    """Read content that fits into a pipe, to its end."""
    with piped() as (fd, write):
        os.write(write, content)
        os.close(write)
        return list(reading(fd, position, repeats=repeats))


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_lines_come_byte_by_byte_and_the_last_one_at_the_end(content: bytes) -> None:
    """Each line is given with its LF, an empty block when nothing waits, and the rest when the pipe is closed."""
    content = content[:300]
    with piped() as (fd, write):
        read = reading(fd)
        blocks: list[Block] = []
        for i, byte in enumerate(content, start=1):
            os.write(write, bytes([byte]))
            blocks += settled(read)
            before = content[:i].rpartition(b"\n")
            assert joined(blocks) == expected(before[0] + before[1])
        os.close(write)
        blocks += list(read)
    assert joined(blocks) == expected(content)


def test_an_empty_pipe_ends() -> None:
    """A pipe that is closed without a byte gives no line, and the end."""
    assert joined(whole(b"")) == []


def test_a_line_is_given_while_the_pipe_is_open_and_a_stop_is_heard() -> None:
    """Nothing is held back until a block is full; a stop ends the read though the writer is still there."""
    asked: list[bool] = []
    with piped() as (fd, write):
        read = reading(fd, stop=lambda: bool(asked))
        assert next(read).lines == []
        os.write(write, b"one\ntw")
        block = next(read)
        assert (block.lines, block.position and block.position.offset) == ([b"one"], 4)
        assert next(read).lines == []
        asked.append(True)
        assert list(read) == []


def test_what_has_been_taken_out_of_the_pipe_is_given_though_a_stop_is_asked() -> None:
    """Lines that left the pipe with one read are all given: they could not be read again."""
    asked: list[bool] = []
    with piped() as (fd, write):
        os.write(write, b"1\n2\n3\n4\n5\n")
        read = reading(fd, stop=lambda: bool(asked))
        assert next(read).lines == [b"1", b"2", b"3"]
        asked.append(True)
        assert joined(read) == [b"4", b"5"]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_an_input_that_repeats_goes_on_from_every_block(content: bytes) -> None:
    """What was read before is passed over; the numbers, the head and the positions are those of one read."""
    blocks = [b for b in whole(content) if b.lines]
    for i, block in list(enumerate(blocks, start=1))[:: len(blocks) // 20 + 1]:
        assert block.position is not None
        again = whole(content, stored(block.position), repeats=True)
        assert [b for b in again if b.lines] == blocks[i:]


@given(contents, contents)
def test_an_input_that_repeats_may_be_longer(first: list[bytes], more: list[bytes]) -> None:
    """Lines after those that were read are given, once."""
    before, after = b"".join(first) + b"\n", b"".join(more)
    *_, last = whole(before)
    assert (
        joined(whole(before + after, last.position, repeats=True))
        == expected(before + after)[last.first + len(last.lines) :]
    )


def test_an_input_that_does_not_repeat_itself_is_refused() -> None:
    """Fewer bytes than were read before, or others, are an error, and no line is given."""
    *_, last = whole(b"one\ntwo\n")
    for content, said in {
        b"one\n": "it ends after 4 bytes, but 8 were read before",
        b"": "it ends after 0 bytes",
        b"one\nTWO\nthree\n": "replaced or rewritten",
    }.items():
        with pytest.raises(DataError, match=said):
            whole(content, last.position, repeats=True)


def test_a_caller_is_not_kept_waiting_while_an_input_repeats() -> None:
    """Empty blocks come while what was read before is passed over; a stop is heard."""
    *_, last = whole(b"one\ntwo\n")
    asked: list[bool] = []
    with piped() as (fd, write):
        os.write(write, b"one\n")
        read = reading(fd, last.position, repeats=True, stop=lambda: bool(asked))
        assert [(next(read).lines, next(read).position) for _ in range(2)] == [([], last.position)] * 2
        asked.append(True)
        assert list(read) == []


def test_a_pipe_that_was_broken_off_is_not_read_again() -> None:
    """Lines that had left the pipe are gone: to go on with the rest would be to lose them in silence."""
    with piped() as (fd, write):
        os.write(write, b"1\n2\n3\n4\n")
        pipe = Pipe(fd, config=QUICK)
        read = blocks(pipe, {})
        assert next(read).lines == [b"1", b"2", b"3"]
        read.close()
        with pytest.raises(DataError, match="its reading was broken off"):
            list(blocks(pipe, {}))


def test_an_input_that_is_new_counts_from_its_start() -> None:
    """Without repetition every line is given, whatever was read before."""
    *_, last = whole(b"one\ntwo\n")
    (block,) = (b for b in whole(b"one\nthree\n", last.position) if b.lines)
    assert (block.lines, block.first, block.head) == ([b"one", b"three"], 0, b"one")


def test_a_fifo_waits_for_its_writer_and_ends_with_it(tmp_path: Path) -> None:
    """Before a writer has come there are empty blocks; after it has closed the FIFO, the end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    before = handles()
    pipe = Pipe(path, config=QUICK)
    assert pipe.on_assign({}) == ["fifo"]
    read = pipe.read("fifo", None)
    assert [next(read).lines, next(read).lines] == [[], []]
    writer = subprocess.Popen(["sh", "-c", f"printf 'one\\ntwo' > '{path}'"])
    assert joined(read) == [b"one", b"two"]
    assert writer.wait() == 0
    assert handles() == before


def test_a_pipe_that_is_not_open_is_refused() -> None:
    """A descriptor that was closed, or is for writing, gives an error instead of an end."""
    with piped() as (fd, write):
        os.close(fd)
        with pytest.raises(DataError, match=f"ticks {fd}: cannot be read .*Bad file descriptor"):
            list(reading(fd))
        with pytest.raises(DataError, match=f"ticks {write}: cannot be read"):
            list(reading(write))


def test_standard_input_is_read_whatever_it_is(tmp_path: Path) -> None:
    """A pipe, a file and nothing at all, as a process has them."""
    prints = (
        "from pipeline.intake import blocks, source_of\n"
        "for block in blocks(source_of('-'), {}):\n"
        "    for line in block.lines: print(block.partition, line.decode())\n"
    )
    (tmp_path / "f").write_bytes(b"one\ntwo")
    for redirect, lines in {"printf 'one\\ntwo' |": 2, f"< '{tmp_path / 'f'}'": 2, "< /dev/null": 0}.items():
        command = f'{redirect} "$0" -c "$1"'
        out = subprocess.run(["sh", "-c", command, sys.executable, prints], capture_output=True, text=True, check=True)
        assert out.stdout.splitlines() == ["- one", "- two"][:lines]
