"""The source is what is at a path, and all its partitions are read, from where they were."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest
from arriving import QUICK, handles

from models.errors import ConfigError, DataError
from pipeline.files import File
from pipeline.folders import Folder
from pipeline.intake import Source, apart, blocks, source_of
from pipeline.lines import Block, Position
from pipeline.pipes import Pipe


class Several:
    """Pipes as the partitions of one source, as a broker's consumer has them."""

    def __init__(self, pipes: dict[str, int]) -> None:
        self.pipes = {name: Pipe(fd, config=QUICK) for name, fd in pipes.items()}
        self.left = list(pipes)
        self.revoked: list[str] = []
        self.closed: list[str] = []

    def on_assign(self, positions: Mapping[str, Position]) -> list[str] | None:
        """Give all partitions once."""
        assert not positions
        given, self.left = self.left, []
        return given or None

    def on_revoke(self, partitions: Sequence[str]) -> None:
        """Keep what was let go, and was no longer read."""
        self.revoked += [name for name in partitions if name in self.closed]

    def read(self, partition: str, position: Position | None) -> Generator[Block, None, None]:
        """Read one of the pipes."""
        try:
            yield from self.pipes[partition].read(partition, position)
        finally:
            self.closed.append(partition)


def test_a_partition_that_waits_does_not_hold_up_the_others() -> None:
    """Of two partitions that are both open, each is read when it has something; closing lets the open ones go."""
    (a, to_a), (b, to_b) = os.pipe(), os.pipe()
    try:
        source = Several({"a": a, "b": b})
        read = blocks(source, {})
        got = []
        for write, line in ((to_b, b"b1"), (to_a, b"a1"), (to_b, b"b2"), (to_b, b"b3")):
            os.write(write, line + b"\n")
            block = next(block for block in read if block.lines)
            got.append((block.partition, *block.lines))
        assert got == [("b", b"b1"), ("a", b"a1"), ("b", b"b2"), ("b", b"b3")]
        os.close(to_a)
        assert {next(read).partition for _ in range(9)} == {"b"}
        read.close()
        assert source.revoked == ["b"]
    finally:
        for fd in (a, b, to_b):
            os.close(fd)


def test_what_is_at_a_path_decides(tmp_path: Path) -> None:
    """A file, a folder, a FIFO, a device and standard input each get their source."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path)
    for path, kind in {
        tmp_path / "file": File,
        tmp_path: Folder,
        tmp_path / "link": Folder,
        tmp_path / "fifo": Pipe,
        "/dev/null": Pipe,
        "-": Pipe,
    }.items():
        assert type(source_of(path)) is kind
    with pytest.raises(DataError, match=r"cannot be read .*No such file"):
        source_of(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(DataError, match="cannot be read"):
            list(blocks(source_of(tmp_path / "s"), {}))


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_every_source_goes_on_where_it_was_told(tmp_path: Path, kind: str) -> None:
    """The same source gives the rest after a position, ends, and leaves no file open."""
    (tmp_path / "f.csv").write_bytes(b"1\n2\n3\n4\n5\n")
    before = handles()

    def source() -> Source:
        if kind == "pipe":
            return Pipe(os.open(tmp_path / "f.csv", os.O_RDONLY), repeats=True, config=QUICK)
        return source_of(tmp_path if kind == "folder" else tmp_path / "f.csv", config=QUICK)

    read = blocks(source(), {})
    first = next(block for block in read if block.lines)
    read.close()
    assert first.position is not None
    rest = [line for block in blocks(source(), {first.partition: first.position}) for line in block.lines]
    assert (first.lines, rest) == ([b"1", b"2", b"3"], [b"4", b"5"])
    if kind != "pipe":
        assert handles() == before


def test_a_source_that_was_let_go_can_be_read_again(tmp_path: Path) -> None:
    """After its blocks were closed, a source gives what follows the positions of the next reading."""
    (tmp_path / "f").write_bytes(b"1\n2\n3\n4\n")
    source = source_of(tmp_path / "f", follow=True, config=QUICK)
    for _ in range(2):
        read = blocks(source, {})
        assert [next(read).lines, next(read).lines, next(read).lines] == [[b"1", b"2", b"3"], [b"4"], []]
        read.close()


def test_outputs_stay_apart_from_the_ticks(tmp_path: Path) -> None:
    """A file of ticks is never written over, by whatever name it is called; an output is never read as ticks."""
    folder, out = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    ticks, link = folder / "a.jsonl", tmp_path / "link"
    ticks.write_bytes(b"")
    link.symlink_to(ticks)
    with pytest.raises(ConfigError, match="ticks come from"):
        apart(ticks, [out, link])
    with pytest.raises(ConfigError, match="would be read as ticks"):
        apart(folder, [folder / "out.jsonl"])
    with pytest.raises(ConfigError, match="two outputs"):
        apart(ticks, [out, tmp_path / "in" / ".." / "out.jsonl"])
    apart(ticks, [out, folder / "b.jsonl"])
    apart(folder, [out, folder / ".out.jsonl"])
    apart("-", [Path("/dev/null"), Path("/dev/null"), out])
