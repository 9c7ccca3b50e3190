"""A file is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.atomic import replacing


def test_the_new_bytes_take_the_place_of_the_old(tmp_path: Path) -> None:
    """Until the block ends the old bytes are read; then the new ones, and nothing else is left."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_bytes(tmp_path: Path) -> None:
    """A writer that fails changes nothing, and the next one succeeds."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half" * 10_000, None])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
