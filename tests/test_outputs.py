"""An output holds exactly what was committed, whatever was in the file before."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, DataError, IntegrityError
from pipeline.outputs import FileOutput, PipeOutput

PIECES = st.lists(st.binary(max_size=12), min_size=1, max_size=6)


def placed(pieces: list[bytes]) -> list[tuple[int, bytes]]:
    """Give pieces with the places where they begin."""
    return [(len(b"".join(pieces[:k])), piece) for k, piece in enumerate(pieces)]


@given(PIECES, st.integers(0, 80), st.binary(max_size=30), st.integers(0, 6))
def test_a_file_is_cut_or_completed_to_what_was_committed(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], kept: int, more: bytes, forgotten: int
) -> None:
    """However much of it is there and whatever stands behind it, as long as no piece that is needed is forgotten."""
    path = tmp_path_factory.mktemp("out") / "out"
    content = b"".join(pieces)
    held = min(kept, len(content))
    path.write_bytes(content[:held] + (more if held == len(content) else b""))
    output = FileOutput(path)
    known = placed(pieces)[forgotten:]
    if held < (known[0][0] if known else len(content)):
        with pytest.raises(IntegrityError, match=f"{held} bytes, but the journal had committed {len(content)}"):
            output.recover(len(content), iter(known))
    else:
        output.recover(len(content), iter(known))
        assert path.read_bytes() == content
        output.publish(len(content), b"next")
        output.settle()
        assert path.read_bytes() == content + b"next"
    output.close()


def test_a_missing_middle_is_not_filled(tmp_path: Path) -> None:
    """Pieces that do not reach each other complete nothing."""
    output = FileOutput(tmp_path / "out")
    with pytest.raises(IntegrityError, match="3 bytes"):
        output.recover(9, [(0, b"abc"), (6, b"ghi")])
    output.close()


def test_bytes_go_to_the_end(tmp_path: Path) -> None:
    """What was published is in the file at once, in its order; nothing is written anywhere else."""
    output = FileOutput(tmp_path / "out")
    for start, data in placed([b"one\n", b"", b"two\n" * 1000, b"\0\xff"]):
        output.publish(start, data)
        assert (tmp_path / "out").stat().st_size == start + len(data)
    with pytest.raises(AssertionError):
        output.publish(0, b"again")
    output.close()
    assert (tmp_path / "out").read_bytes() == b"one\n" + b"two\n" * 1000 + b"\0\xff"


def test_a_full_disk_says_where_the_missing_bytes_are() -> None:
    """The error of the system is told; `/dev/full` is a disk that is always full."""
    output = FileOutput(Path("/dev/full"))
    with pytest.raises(DataError, match=r"output /dev/full: cannot be written \(No space left on device\).*journal"):
        output.publish(0, b"x")
    output.close()


@pytest.mark.parametrize("place", ["missing/out", "."])
def test_what_cannot_be_written_is_refused_at_the_start(tmp_path: Path, place: str) -> None:
    """A path in a folder that is not there, and a folder."""
    with pytest.raises(ConfigError, match=r"cannot be written .*Name another path"):
        FileOutput(tmp_path / place)


def test_a_pipe_gets_everything_at_once_and_stays_open() -> None:
    """A reader sees each piece when it is published; the pipe belongs to its owner."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file, os.fdopen(reading, "rb", buffering=0) as reader:
        output = PipeOutput(file)
        for start, data in placed([b"one\n", b"two\n"]):
            output.publish(start, data)
            assert reader.read(100) == data
        output.settle()
        output.close()
        assert not file.closed
    kept = io.BytesIO()
    PipeOutput(kept).publish(5, b"x")
    assert kept.getvalue() == b"x"


def test_a_pipe_without_a_buffer_gets_everything_too() -> None:
    """A raw file may take a part of what it is given, when a signal comes for one; the rest follows."""

    class Sipping(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:3])

    kept = Sipping()
    PipeOutput(kept).publish(0, b"one line\n")
    assert kept.getvalue() == b"one line\n"
