"""Files give every line once, however they are written, followed, cut off and read on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from zlib import crc32

import pytest
from arriving import CONTENTS, MARK, QUICK, contents, expected, handles, joined, settled, stored
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from pipeline.files import File
from pipeline.lines import Block, IntakeConfig, Position


def reading(path: Path, position: Position | None = None, **options: object) -> Iterator[Block]:
    """Begin to read a file."""
    return File(path, **{"config": QUICK, **options}).read(path.name, position)  # type: ignore[arg-type]


def following(path: Path, position: Position | None = None) -> Iterator[Block]:
    """Begin to follow a file."""
    return reading(path, position, follow=True)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whose permissions count, where this is the one who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_gives_its_lines(tmp_path: Path, content: bytes) -> None:
    """The lines of a file are those of a plain split; the last one counts without an LF."""
    (tmp_path / "f").write_bytes(content)
    blocks = list(reading(tmp_path / "f"))
    assert joined(blocks) == expected(content)
    assert all(block.partition == "f" for block in blocks)


@given(contents, st.integers(1, 4), st.data())
def test_a_read_goes_on_from_every_block(texts: list[bytes], batch: int, data: st.DataObject) -> None:
    """However often a read is broken off after a block, all its parts together are the uninterrupted read."""
    content, config = b"".join(texts), IntakeConfig(batch=batch, max_line_bytes=64)
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(content)
        position, blocks = None, []
        while True:
            full = (block for block in reading(path, position, config=config) if block.lines)
            part = list(islice(full, data.draw(st.integers(1, 4))))
            if not part:
                break
            blocks += part
            position = stored(part[-1].position or Position())
        assert joined(blocks) == expected(content, 64)
        whole = [block for block in reading(path, config=config) if block.lines]
        assert [b.head for b in blocks] == [b.head for b in whole]
        assert [b.position for b in blocks] == [b.position for b in whole]


def test_a_resumed_read_does_not_begin_at_the_start(tmp_path: Path) -> None:
    """A position a terabyte into a file is reached without reading up to it."""
    path, far = tmp_path / "f", 2**40
    with path.open("wb") as file:
        file.seek(far - 1)
        file.write(b"\nnext\n")
    last = bytes(4095) + b"\n"
    position = Position(offset=far, lines=9, head="{}", head_sum=crc32(bytes(4096)), tail_sum=crc32(last))
    (block,) = reading(path, position)
    assert (block.lines, block.first, block.head) == ([b"next"], 9, b"{}")


def test_a_file_that_grew_between_two_runs_is_read_on(tmp_path: Path) -> None:
    """What was added since the last run is all that is given, an LF that was missing among it."""
    path = tmp_path / "f"
    path.write_bytes(b"one\ntwo")
    *_, last = reading(path)
    path.write_bytes(b"one\ntwo\r\nthree\n")
    assert joined(reading(path, last.position)) == [b"three"]
    assert joined(following_until_idle(path, last.position)) == [b"three"]
    path.write_bytes(b"one\ntwofold\n")
    with pytest.raises(DataError, match="line 2 was read without LF"):
        list(reading(path, last.position))


def following_until_idle(path: Path, position: Position | None) -> list[Block]:
    """Follow a file for as long as something is waiting."""
    read = File(path, follow=True, config=QUICK).read(path.name, position)
    blocks = settled(read)
    read.close()
    return blocks


def test_a_file_that_is_not_the_one_that_was_read_is_refused(tmp_path: Path) -> None:
    """Shorter, or with other bytes at either end of what was read: an error, and no line; a copy is welcome."""
    path, content = tmp_path / "f", CONTENTS["more than the ends"]
    path.write_bytes(content)
    *_, last = reading(path)
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    assert list(reading(path, last.position)) == []
    for changed, said in {
        content[:-1]: "it ends after 5289 bytes, but 5290 were read before",
        b"": "it ends after 0 bytes",
        b"L" + content[1:] + b"more\n": "replaced or rewritten",
        content[:-2] + b"!\nmore\n": "replaced or rewritten",
    }.items():
        path.write_bytes(changed)
        with pytest.raises(DataError, match=said):
            list(reading(path, last.position))


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_line_comes_when_it_is_whole(tmp_path: Path, content: bytes) -> None:
    """A file that grows byte by byte gives each line with its LF, and nothing before; the torn end waits."""
    path, content = tmp_path / "f", content[:300]
    path.touch()
    read = following(path)
    lines: list[bytes] = []
    with path.open("ab", buffering=0) as file:
        for i, byte in enumerate(content, start=1):
            file.write(bytes([byte]))
            lines += joined(settled(read))
            whole = content[:i].rpartition(b"\n")
            assert lines == expected(whole[0] + whole[1])


def test_a_stop_leaves_the_torn_end_to_the_next_run(tmp_path: Path) -> None:
    """A follower that is stopped gives no half line, and the next one gives it whole."""
    path, asked = tmp_path / "f", []
    path.write_bytes(b"one\r\ntw")
    read = reading(path, follow=True, stop=lambda: bool(asked))
    (block,) = settled(read)
    asked.append(True)
    assert list(read) == []
    assert block.position is not None
    assert block.position.offset == 5
    with path.open("ab") as file:
        file.write(b"o\r\n")
    assert joined(following_until_idle(path, block.position)) == [b"two\r"]


def test_a_stop_ends_a_read_after_the_block(tmp_path: Path) -> None:
    """A file that is stopped midway gives nothing further, and no last line without an LF."""
    path = tmp_path / "f"
    path.write_bytes(b"1\n2\n3\n4\n5")
    asked: list[bool] = []
    read = reading(path, stop=lambda: bool(asked))
    assert next(read).lines == [b"1", b"2", b"3"]
    asked.append(True)
    assert list(read) == []
    assert File(path, stop=lambda: True).on_assign({}) is None


def test_a_followed_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    """Truncation is an error, also when the file has grown over the old size before it was looked at."""
    path = tmp_path / "f"
    for after in (b"", b"x\n", b"other lines, and more of them than before\n"):
        path.write_bytes(b"one\ntwo\nth")
        read = following(path)
        assert joined(settled(read)) == [b"one", b"two"]
        path.write_bytes(after)
        with pytest.raises(DataError, match=r"were read before|are not those that were read"):
            next(read)


def test_a_writer_may_take_a_torn_line_back(tmp_path: Path) -> None:
    """What was not yet a line may be cut off and written anew: the line comes once, as it is in the end."""
    path = tmp_path / "f"
    for after in (b"one\n", b"one\nt", b"one\nTWO and more"):
        path.write_bytes(b"one\ntwo")
        read = following(path)
        assert joined(settled(read)) == [b"one"]
        path.write_bytes(after)
        assert joined(settled(read)) == []
        path.write_bytes(b"one\nTWO and more\n")
        (block,) = settled(read)
        assert (block.lines, block.first) == ([b"TWO and more"], 1)


def test_a_file_that_is_replaced_is_read_to_its_end_first(tmp_path: Path) -> None:
    """After a rotation what the writer still put into the old file is given, then an error tells of the new one."""
    path = tmp_path / "f"
    for there in (False, True):
        path.write_bytes(b"one\n")
        read = following(path)
        assert joined(settled(read)) == [b"one"]
        path.rename(tmp_path / "f.1")
        with (tmp_path / "f.1").open("ab") as late:
            late.write(b"two\nthr")
        if there:
            path.write_bytes(b"one\nother\n")
        assert next(read).lines == [b"two"]
        with pytest.raises(
            DataError, match=r"another has taken its place.* 8 bytes, but for 3 bytes of a line without"
        ):
            next(read)


def test_what_is_written_while_a_file_is_replaced_is_given(tmp_path: Path) -> None:
    """A line written after the end was seen, and before the file went, is not lost."""

    class Rotating(type(tmp_path)):
        """A path whose file gets its last line and moves away just before it is looked at."""

        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            if self.exists_now():
                with self.open("ab") as late:
                    late.write(b"two\n")
                os.rename(self, f"{self}.1")
            return super().stat(follow_symlinks=follow_symlinks)

        def exists_now(self) -> bool:
            return os.path.lexists(self)

    path = Rotating(tmp_path / "f")
    path.write_bytes(b"one\n")
    read = following(path)
    assert [next(read).lines, next(read).lines, next(read).lines] == [[b"one"], [], [b"two"]]
    with pytest.raises(DataError, match="another has taken its place"):
        next(read)


def test_a_line_without_end_takes_bounded_memory(tmp_path: Path) -> None:
    """A file of 256 MB without an LF is read in bounded memory, and lets the caller work meanwhile."""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(2**28)
    tracemalloc.start()
    *idle, last = reading(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last.lines == [bytes(QUICK.max_line_bytes + 1)]
    assert peak < 8 * 2**20
    assert len(idle) > 100
    assert last.position is not None
    assert last.position.offset == 2**28


def test_each_line_of_another_process_comes_once(tmp_path: Path) -> None:
    """What a process writes in torn pieces, and is killed at, is given line by line without a gap."""
    path, count = tmp_path / "f", 3000
    path.touch()
    writes = (
        "import random, sys, os\n"
        "data = b''.join(b'line %d \\xc3\\xa9\\r\\n' % i for i in range(int(sys.argv[2]))) + b'torn'\n"
        "fd, rng = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), random.Random(0)\n"
        "while data:\n"
        "    n = rng.randrange(1, 60)\n"
        "    os.write(fd, data[:n]); data = data[n:]\n"
        "os.kill(os.getpid(), 9)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", writes, str(path), str(count)])
    read, lines, ended = following(path), [], False
    while True:
        block = next(read)
        lines += block.lines
        if not block.lines and ended:
            break
        ended = writer.poll() is not None
    assert lines == [b"line %d \xc3\xa9\r" % i for i in range(count)]
    assert writer.returncode == -9


def test_what_is_no_file_of_lines_is_refused(tmp_path: Path) -> None:
    """A folder, a FIFO, a loop of links and what is not there give an error that names them, at once."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path, said in {
        tmp_path: "expected a file, but it is none",
        tmp_path / "fifo": "expected a file, but it is none",
        tmp_path / "a": "cannot be read .*symbolic links",
        tmp_path / "none": "cannot be read .*No such file",
        Path("/proc/self/mem"): "cannot be read .*Input/output error",
    }.items():
        before = handles()
        with pytest.raises(DataError, match=f"ticks {path}: {said}"):
            list(reading(path))
        assert handles() == before


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """Where permissions forbid it, the error says so."""
    path = tmp_path / "f"
    path.write_bytes(b"one\n")
    path.chmod(0)
    with unprivileged(), pytest.raises(DataError, match=r"cannot be read .*[Pp]ermi"):
        list(reading(path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Names are kept as text in positions, so a file whose name is none is told to be renamed."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv"))
    path.write_bytes(b"one\n")
    with pytest.raises(DataError, match="expected a name in UTF-8"):
        File(path).on_assign({})


def test_a_complete_file_may_not_change(tmp_path: Path) -> None:
    """The size of a sealed file belongs to its position; a change of it is an error before, while and after reading."""
    path = tmp_path / "f"
    path.write_bytes(b"1\n2\n3\n4\n")
    blocks = list(reading(path, sealed=True))
    assert [b.position.size for b in blocks if b.position] == [8, 8]
    read = reading(path, sealed=True)
    next(read)
    with path.open("ab") as file:
        file.write(b"5\n")
    with pytest.raises(DataError, match="it had 8 bytes and now has 10; a file must be complete"):
        list(read)
    for block in blocks:
        with pytest.raises(DataError, match="it had 8 bytes"):
            list(reading(path, block.position, sealed=True))
    assert joined(reading(path, blocks[-1].position)) == [b"5"]


def test_a_mark_without_lines_is_no_line(tmp_path: Path) -> None:
    """A file that holds a mark only may grow; what comes then is its first line."""
    path = tmp_path / "f"
    path.write_bytes(MARK)
    assert [block.position for block in reading(path)] == [Position()]
    *_, block = reading(path, sealed=True)
    assert (block.lines, block.position) == ([], Position(offset=3, size=3, head_sum=crc32(MARK), tail_sum=crc32(MARK)))
    read = following(path)
    assert settled(read) == []
    path.write_bytes(MARK + b"one\n")
    assert joined(settled(read)) == [b"one"]
