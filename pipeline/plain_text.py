"""Plain text: a text file, compressed and in whatever encoding, as one that can be scanned: UTF-8, not compressed.

Comes in: the path of a text file. Goes out: the path itself, or that of a copy in a folder for such copies. Read and
written in pieces, so memory stays flat. Knows the errors only; imported by tables.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from models.errors import DataError

_PIECE = 1 << 20
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by their byte-order mark; the longer marks come before those that they begin with."""


def _zst(path: Path, _mode: str) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


_OPEN: dict[str, Callable[[Path, Any], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zst": _zst}
COMPRESSED = tuple(_OPEN)
"""Endings of compressed files."""


def plain(path: Path, copy: Path, encoding: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """Give a file that holds the text of `path` as UTF-8, without compression.

    Parameters
    ----------
    path : Path
        Text, which may be compressed; see `COMPRESSED`.
    copy : Path
        Where to write a copy, if one is needed.
    encoding : str, optional
        Encoding of the text. By default that of its byte-order mark, else UTF-8, else UTF-16 if it is full of zero
        bytes, else cp1252, which Excel writes.

    Returns
    -------
    plain : Path
        `path`, or `copy` where `path` is compressed or not in UTF-8.
    said : tuple of str
        The encoding, if it is another one than UTF-8.

    Raises
    ------
    DataError
        If the file is damaged, cannot be opened, or is not in `encoding`.
    """
    try:
        found = encoding or _marked(path)
        if found is not None:
            return _decoded(path, copy, found), () if found.startswith("utf-8") else (f"encoding {found}",)
        try:
            return _decoded(path, copy, "utf-8"), ()
        except UnicodeDecodeError:
            return _decoded(path, copy, "cp1252"), ("encoding cp1252, as it is not UTF-8",)
    except UnicodeError as error:
        raise DataError(
            f"{path} is not in the encoding taken: {error}. Name its own: ingest.format.encoding."
        ) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Is it whole, and what its ending says?") from error


def _marked(path: Path) -> str | None:
    """Tell the encoding from the first bytes, if they do."""
    with _bytes(path) as file:
        head = file.read(4096)
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if head.count(0) > 0.3 * len(head):
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    return None


def _decoded(path: Path, copy: Path, encoding: str) -> Path:
    """Decode all of a file; write what comes out, unless it would be the file itself."""
    if path.suffix.lower() not in _OPEN and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        for _ in _texts(path, encoding):
            pass
        return path
    with copy.open("w", encoding="utf-8", newline="") as file:
        file.writelines(_texts(path, encoding))
    return copy


def _texts(path: Path, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    with _bytes(path) as file:
        while piece := file.read(_PIECE):
            yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _bytes(path: Path) -> IO[bytes]:
    return _OPEN.get(path.suffix.lower(), open)(path, "rb")
