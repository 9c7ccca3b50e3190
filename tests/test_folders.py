"""A folder gives every line of every file once, in the order of name, whatever arrives meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from arriving import MARK, QUICK, contents, expected, joined, stored
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from pipeline.folders import Folder
from pipeline.intake import blocks
from pipeline.lines import Block, IntakeConfig, Position

Known = dict[str, Position]


def fill(folder: Path, **files: bytes) -> None:
    """Let CSV files arrive: written under another name, then renamed."""
    for name, content in files.items():
        (folder / f"{name}.tmp").write_bytes(content)
        (folder / f"{name}.tmp").rename(folder / f"{name}.csv")


def reading(folder: Path, known: Known | None = None, **options: object) -> Iterator[Block]:
    """Read a folder, and keep what is known of it in `known`, as it is stored."""
    known = {} if known is None else known
    for block in blocks(Folder(folder, **{"config": QUICK, **options}), dict(known)):  # type: ignore[arg-type]
        if block.position is not None:
            known[block.partition] = stored(block.position)
        yield block


def lines(folder: Path, known: Known | None = None) -> list[bytes]:
    """Read a folder to its end."""
    return [line for block in reading(folder, known) for line in block.lines]


def test_files_come_in_order_of_name_each_with_its_head(tmp_path: Path) -> None:
    """Only names that match count, and neither hidden files nor unfinished ones."""
    fill(tmp_path, b=b"b1\nb2", a=MARK + b"a1\n", B=b"B1\n")
    for name in (".h.csv", "c.csv.tmp", "d.csv.part", "e.CSV", "f.txt", "g.csv~"):
        (tmp_path / name).write_bytes(b"no\n")
    (tmp_path / "sub").mkdir()
    got = [(b.partition, b.first, b.head, b.lines) for b in reading(tmp_path) if b.lines]
    assert got == [
        ("B.csv", 0, b"B1", [b"B1"]),
        ("a.csv", 0, b"a1", [b"a1"]),
        ("b.csv", 0, b"b1", [b"b1"]),
        ("b.csv", 1, b"b1", [b"b2"]),
    ]
    assert [b.partition for b in reading(tmp_path, patterns=["*.txt"]) if b.lines] == ["f.txt"]


@given(st.dictionaries(st.sampled_from("abcd"), contents, max_size=4), st.integers(1, 4), st.data())
def test_a_read_goes_on_from_every_block(files: dict[str, list[bytes]], batch: int, data: st.DataObject) -> None:
    """However often a read is broken off after a block, all its parts together are the uninterrupted read."""
    config = IntakeConfig(batch=batch, max_line_bytes=64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, **{file: b"".join(texts) for file, texts in files.items()})
        known: Known = {}
        parts: list[Block] = []
        while True:
            full = (block for block in reading(folder, known, config=config) if block.lines)
            part = list(islice(full, data.draw(st.integers(1, 4))))
            if not part:
                break
            parts += part
        assert [b for b in reading(folder, config=config) if b.lines] == parts
        assert [line for b in parts for line in b.lines] == [
            line for file in sorted(files) for line in expected(b"".join(files[file]), 64)
        ]


def test_a_file_that_arrives_is_read_next_where_its_name_stands_first(tmp_path: Path) -> None:
    """New files are taken by name among those not yet read, also one that sorts before all that were."""
    fill(tmp_path, m=b"m1\nm2\nm3\nm4\n", x=b"x1\n", z=b"z1\n")
    read = reading(tmp_path, follow=True)
    assert next(read).lines == [b"m1", b"m2", b"m3"]
    fill(tmp_path, a=b"a1\n", y=b"y1\n")
    following = [next(read) for _ in range(6)]
    assert [line for b in following for line in b.lines] == [b"m4", b"a1", b"x1", b"y1", b"z1"]
    assert following[-1].partition == ""
    assert following[-1].position is None
    fill(tmp_path, c=b"c1\n")
    assert next(b for b in read if b.lines).lines == [b"c1"]


def test_a_folder_that_is_not_followed_ends(tmp_path: Path) -> None:
    """It ends after the files that are there, those among them that came while it was read."""
    assert lines(tmp_path) == []
    fill(tmp_path, a=b"a1\n")
    read = reading(tmp_path)
    assert next(read).lines == [b"a1"]
    before = tmp_path.stat()
    fill(tmp_path, b=b"b1\n")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert joined(read) == [b"b1"]


def test_a_stop_ends_the_watch(tmp_path: Path) -> None:
    """A folder in which nothing arrives ends when a stop is asked for."""
    asked: list[bool] = []
    read = reading(tmp_path, follow=True, stop=lambda: bool(asked))
    assert next(read).lines == []
    asked.append(True)
    assert list(read) == []


def test_an_arrival_is_seen_though_the_folder_has_its_old_time(tmp_path: Path) -> None:
    """Clocks of file systems are coarse: a folder is listed again now and then."""
    fill(tmp_path, a=b"a1\n")
    read, before = reading(tmp_path, follow=True), tmp_path.stat()
    assert [next(read).lines, next(read).lines] == [[b"a1"], []]
    fill(tmp_path, b=b"b1\n")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert next(b for b in read if b.lines).lines == [b"b1"]


def test_a_finished_file_may_be_copied_touched_and_removed(tmp_path: Path) -> None:
    """As long as its bytes are the same it is not read again, and the rest is."""
    known: Known = {}
    fill(tmp_path, a=b"a1\na2\n", b=b"b1\n")
    assert lines(tmp_path, known) == [b"a1", b"a2", b"b1"]
    shutil.copy(tmp_path / "a.csv", tmp_path / "a.tmp")
    (tmp_path / "a.tmp").rename(tmp_path / "a.csv")
    os.utime(tmp_path / "b.csv")
    fill(tmp_path, c=b"c1\n")
    assert lines(tmp_path, known) == [b"c1"]
    (tmp_path / "a.csv").unlink()
    assert lines(tmp_path, known) == []
    fill(tmp_path, a=b"a1\na2\n")
    assert lines(tmp_path, known) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a1\na2\na3\n", "it had 6 bytes and now has 9; a file must be complete when it appears"),
        (b"a1\n", "it had 6 bytes and now has 3"),
        (b"", "it had 6 bytes and now has 0"),
        (b"a1\nA2\n", "replaced or rewritten"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_a_finished_file_that_changes_is_refused(tmp_path: Path, content: bytes, said: str, running: bool) -> None:
    """Another size or other bytes under a name that was read: an error, in this run and in the next."""
    known: Known = {}
    fill(tmp_path, a=b"a1\na2\n", b=b"b1\n")
    read = reading(tmp_path, known, follow=True)
    assert [next(read).lines, next(read).lines] == [[b"a1", b"a2"], [b"b1"]]
    fill(tmp_path, c=b"c1\n")
    assert next(b for b in read if b.lines).lines == [b"c1"]
    if not running:
        read = reading(tmp_path, known)
    before = (tmp_path / "a.csv").stat()
    (tmp_path / "a.csv").write_bytes(content)
    os.utime(tmp_path / "a.csv", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    fill(tmp_path, d=b"d1\n")
    with pytest.raises(DataError, match=rf"a\.csv: .*{said}"):
        list(read)


def test_a_half_read_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    """What was not yet read of it would be lost."""
    known: Known = {}
    fill(tmp_path, a=b"1\n2\n3\n4\n", b=b"b1\n")
    assert next(reading(tmp_path, known)).lines == [b"1", b"2", b"3"]
    (tmp_path / "a.csv").unlink()
    with pytest.raises(DataError, match=r"6 of its 8 bytes were read, but the file is gone"):
        lines(tmp_path, known)


def test_positions_of_other_sources_are_let_be(tmp_path: Path) -> None:
    """A journal that also knows standard input and requests does not disturb a folder."""
    fill(tmp_path, a=b"a1\n")
    other = Position(offset=9, lines=1)
    assert lines(tmp_path, {"-": other, "http": other, "gone.csv": other}) == [b"a1"]


def test_a_file_begun_by_itself_is_finished_in_its_folder(tmp_path: Path) -> None:
    """A position without a size is gone on from; one at the end of the file is not read again."""
    known: Known = {}
    fill(tmp_path, a=b"1\n2\n3\n4\n")
    lines(tmp_path, known)
    assert lines(tmp_path, {"a.csv": stored(known["a.csv"])}) == []
    half = next(reading(tmp_path)).position
    assert half is not None
    for position, rest in ((half, [b"4"]), (known["a.csv"], [])):
        assert lines(tmp_path, {"a.csv": replace(position, size=None)}) == rest


def test_an_empty_file_is_not_there_yet(tmp_path: Path) -> None:
    """It gives nothing and is read when it holds something; one that holds a mark only is finished."""
    fill(tmp_path, a=b"", b=MARK, c=b"c1\n")
    known: Known = {}
    assert lines(tmp_path, known) == [b"c1"]
    assert set(known) == {"b.csv", "c.csv"}
    fill(tmp_path, a=b"a1\n")
    assert lines(tmp_path, known) == [b"a1"]


def test_what_matches_must_be_a_file(tmp_path: Path) -> None:
    """A folder, a FIFO, links that lead nowhere and names that are no text are errors, not passed over."""
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "none")
    (tmp_path / "sub.csv").mkdir()
    os.mkfifo(tmp_path / "fifo.csv")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_bytes(b"1\n")
    for pattern, said in {
        "loop*": "symbolic links",
        "nowhere*": "No such file",
        "sub*": "expected a file",
        "fifo*": "expected a file",
        "*\udcff*": "expected a name in UTF-8",
    }.items():
        with pytest.raises(DataError, match=said):
            list(reading(tmp_path, patterns=[pattern]))
    with pytest.raises(DataError, match="none: cannot be read"):
        list(reading(tmp_path / "none"))


def test_links_to_files_are_files(tmp_path: Path) -> None:
    """A link gives the lines of what it leads to, under its own name."""
    (tmp_path / "source").write_bytes(b"1\n")
    (tmp_path / "a.csv").symlink_to(tmp_path / "source")
    assert [(b.partition, b.lines) for b in reading(tmp_path)] == [("a.csv", [b"1"])]


def test_a_read_that_is_closed_begins_again_where_it_is_told(tmp_path: Path) -> None:
    """One source can be read again from older positions: nothing it remembers hides a file."""
    fill(tmp_path, a=b"a1\n", b=b"b1\nb2\nb3\nb4\n")
    source = Folder(tmp_path, config=QUICK)
    read = blocks(source, {})
    assert [next(read).lines, next(read).lines] == [[b"a1"], [b"b1", b"b2", b"b3"]]
    read.close()
    assert [line for b in blocks(source, {}) for line in b.lines] == [b"a1", b"b1", b"b2", b"b3", b"b4"]


def test_files_of_another_process_all_come_once(tmp_path: Path) -> None:
    """While a process renames files in, in an order that is not theirs, each is given once and whole."""
    count = 300
    writes = (
        "import os, sys\n"
        "for i in range(int(sys.argv[2])):\n"
        "    path = f'{sys.argv[1]}/{i * 7919 % 1000:04d}'\n"
        "    with open(path, 'w') as file: file.write(f'{i}\\n' * 5)\n"
        "    os.rename(path, path + '.csv')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", writes, str(tmp_path), str(count)])
    ended: list[bool] = []
    got: list[Block] = []
    for block in reading(tmp_path, follow=True, stop=lambda: bool(ended)):
        got.append(block)
        if (
            not block.lines
            and writer.poll() is not None
            and len(list(tmp_path.iterdir())) == len({b.partition for b in got if b.lines})
        ):
            ended.append(True)
    assert writer.returncode == 0
    assert sorted((line for b in got for line in b.lines), key=int) == [
        b"%d" % i for i in range(count) for _ in range(5)
    ]
