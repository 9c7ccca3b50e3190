"""The champions folder: which model file serves, the only thing that a stream has to watch.

    fx-3f9a01bc24de.onnx    a model, named by its digest, never changed
    fx.json                 the champion: file, sha256, version, what the publisher says of it; and those before it

Comes in: a model file. Goes out: a session of the champion. Knows no registry; imported by steps and
the command line. Writers of one name take turns by a lock on the folder; readers need none.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from models.errors import IntegrityError, ModelError
from pipeline.atomic import replacing
from pipeline.session import Session, read

HISTORY = 10
"""How many former champions can be gone back to."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One champion, now or before."""

    file: str
    """Name of the model file in the folder."""
    sha256: str
    """Digest of that file."""
    version: int
    """Counts every publication and every rollback of the name, from 1."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What the publisher says of it: metrics, verdict, origin."""


def publish(folder: Path, name: str, model: Path | bytes, fields: dict[str, Any] | None = None) -> Published:
    """Make a model the champion of a name.

    The model is opened and checked first; its file is on disk before the name points to it. A crash on the way
    leaves the old champion.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    name : str
        1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit.
    model : Path or bytes
        The model file.
    fields : dict, optional
        JSON values kept with it.

    Raises
    ------
    ModelError
        When the name is not allowed or the model cannot be served.
    """
    _check_name(name)
    data = read(model) if isinstance(model, Path) else model
    sha256 = Session(data).sha256
    file = f"{name}-{sha256[:12]}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        with replacing(folder / file) as target:
            target.write(data)
        entries = _read(folder, name) if _pointer(folder, name).exists() else []
        version = entries[-1].version + 1 if entries else 1
        champion = Published(file=file, sha256=sha256, version=version, fields=fields or {})
        _point(folder, name, [*entries, champion])
    return champion


def current(folder: Path, name: str) -> Published:
    """Give the champion of a name.

    Raises
    ------
    ModelError
        When the name has none.
    IntegrityError
        When its entry is damaged.
    """
    return _read(folder, name)[-1]


def load(folder: Path, name: str) -> Session:
    """Open the champion of a name; its file must be the one that was published."""
    champion = current(folder, name)
    return Session.load(folder / champion.file, champion.sha256)


def rollback(folder: Path, name: str) -> Published:
    """Make the champion before the current one the champion again, under a new version.

    The current one is forgotten, so that the next rollback goes one further back.

    Raises
    ------
    ModelError
        When there is none before it, or its file cannot be served any more.
    """
    _check_name(name)
    with _locked(folder):
        entries = _read(folder, name)
        if len(entries) < 2:
            raise ModelError(
                f"champion {name}: nothing was published before version {entries[-1].version}. It goes on serving"
            )
        *earlier, before, last = entries
        Session.load(folder / before.file, before.sha256)
        champion = Published(**{**asdict(before), "version": last.version + 1})
        _point(folder, name, [*earlier, champion])
    return champion


def _pointer(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelError(f"champion name {name[:80]!r}: expected 1 to 64 of a-z, 0-9, _ and -, a letter or digit first")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets it go when the process ends, however it ends."""
    if not folder.is_dir():
        raise ModelError(f"champions folder {folder}: not there. Publish a model first, or check the path")
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(folder: Path, name: str) -> list[Published]:
    """Read the champion and those before it, the oldest first."""
    _check_name(name)
    path = _pointer(folder, name)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        known = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
        raise ModelError(
            f"champion {name}: none in {folder}; there are: {', '.join(known) or 'none'}. Run `statecast promote` first"
        ) from None
    try:
        record = orjson.loads(text)
        entries = [Published(**entry) for entry in (*record["history"], record["champion"])]
        for entry in entries:
            if entry.file != f"{name}-{entry.sha256[:12]}.onnx" or type(entry.version) is not int:
                raise ValueError(f"version {entry.version} of file {entry.file} and sha256 {entry.sha256}")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"champion entry {path}: damaged ({error}). Publish the model again under a new name"
        ) from error
    return entries


def _point(folder: Path, name: str, entries: list[Published]) -> None:
    """Let the name point to the last entry; `HISTORY` of those before it are kept."""
    *before, champion = entries[-HISTORY - 1 :]
    record = {"champion": asdict(champion), "history": [asdict(entry) for entry in before]}
    with replacing(_pointer(folder, name)) as file:
        file.write(orjson.dumps(record, option=orjson.OPT_INDENT_2))
