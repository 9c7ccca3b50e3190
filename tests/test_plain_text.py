"""Text as UTF-8 that can be scanned."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from models.errors import DataError
from pipeline.plain_text import plain

_TEXT = "Zürich, 5 €\n" * 300_000  # longer than the pieces in which it is read


def test_utf8_is_left_where_it_is(tmp_path: Path) -> None:
    """A file that can be scanned is not copied, byte-order mark or not."""
    for encoding in ("utf-8", "utf-8-sig"):
        path = tmp_path / "a.csv"
        path.write_text(_TEXT, encoding=encoding)
        assert plain(path, tmp_path / "copy") == (path, ())
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_other_text_is_copied(tmp_path: Path, encoding: str) -> None:
    """What was compressed or encoded otherwise comes out the same, characters across pieces included."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(_TEXT.encode(encoding), 1))
    named = encoding if encoding == "utf-32" else None
    copy, _ = plain(path, tmp_path / "copy", named)
    assert copy.read_text(encoding="utf-8") == _TEXT


def test_an_encoding_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The user's encoding is not replaced by another one."""
    path = tmp_path / "a.csv"
    path.write_text("Zürich", encoding="cp1252")
    with pytest.raises(DataError, match=r"ingest\.format\.encoding"):
        plain(path, tmp_path / "copy", "utf-8")
