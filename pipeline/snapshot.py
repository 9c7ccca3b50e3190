"""One file with everything that a run needs to go on: a JSON header and named arrays.

Comes in: a header and arrays. Goes out: the same. Knows numpy and orjson; imported by stream.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import IntegrityError
from pipeline.atomic import replacing

FORMAT = 1
"""Format that this version writes, and the only one that it reads."""

_HEADER = "header"


def save(path: Path, header: dict[str, Any], arrays: dict[str, NDArray]) -> None:
    """Write a snapshot in the place of the last one: after a crash, one of the two is there as a whole."""
    text = orjson.dumps({"format": FORMAT, "arrays": list(arrays), "content": header})
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **{_HEADER: np.frombuffer(text, dtype=np.uint8)}, **arrays)


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Read a snapshot.

    Raises
    ------
    IntegrityError
        When the file is damaged (each array carries a checksum) or has another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged}")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        header = orjson.loads(arrays.pop(_HEADER).tobytes())
        form, content, names = header["format"], header["content"], header["arrays"]
        if names != list(arrays):
            raise ValueError(f"arrays {list(arrays)} instead of {names}")
    except Exception as error:
        raise IntegrityError(f"snapshot {path}: damaged ({error}). Start again without resuming") from error
    if form != FORMAT:
        raise IntegrityError(
            f"snapshot {path}: format {form}, expected {FORMAT}. Resume it with the version that wrote it"
        )
    return content, arrays
