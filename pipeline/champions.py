"""The champions folder: which model file serves, the only thing that a stream has to watch.

    fx-3f9a01bc24de.onnx    a model, named by its digest, never changed
    fx.json                 the champion: file, sha256, version, what the publisher says of it, the references that
                            serve beside it; and those before it

A model that neither the champion nor its history names is deleted by a later publication, an hour after it was last
named at the earliest: a stream may just be loading it.

Comes in: a model file. Goes out: a session of the champion. Knows no registry; imported by steps, watching, stream and
the command line. Writers of one name take turns by a lock on the folder; readers need none.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from models.errors import IntegrityError, ModelError
from pipeline.atomic import replacing
from pipeline.session import Session, read

HISTORY = 10
"""How many former champions can be gone back to."""

GRACE_S = 3600.0
"""Seconds for which a model stays after the last entry that named it is gone."""

_ENTRY_BYTES = 16 * 2**20
"""Largest entry that is read."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model that serves beside a champion, to be compared with it."""

    file: str
    """Name of the model file in the folder."""
    sha256: str
    """Digest of that file."""


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
    beside: dict[str, Reference] = field(default_factory=dict)
    """The references that serve beside it, by name."""


def publish(
    folder: Path,
    name: str,
    model: Path | bytes,
    fields: dict[str, Any] | None = None,
    *,
    beside: Mapping[str, Path | bytes] | None = None,
) -> Published:
    """Make a model the champion of a name.

    The model and its references are opened and checked first; their files are on disk before the name points to them.
    A crash on the way leaves the old champion.

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
    beside : mapping, optional
        The model files that serve beside it, by names of the same form.

    Raises
    ------
    ModelError
        When a name is not allowed or a model cannot be served.
    """
    _check_name(name)
    for other in beside or {}:
        _check_name(other)
    own, *others = (_file(name, given) for given in (model, *(beside or {}).values()))
    references = {other: reference for other, (reference, _) in zip(beside or {}, others, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for reference, data in (own, *others):
            with replacing(folder / reference.file) as target:
                target.write(data)
        entries = _read(folder, name) if entry_of(folder, name).exists() else []
        version = entries[-1].version + 1 if entries else 1
        champion = Published(**asdict(own[0]), version=version, fields=fields or {}, beside=references)
        _point(folder, name, entries, [*entries, champion])
        _sweep(folder, name)
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


def needed(folder: Path) -> set[str]:
    """Give the digests of all files that serve, serve beside a champion, or can be gone back to, of all names.

    Raises
    ------
    IntegrityError
        When an entry is damaged: then nobody knows what is needed.
    """
    entries = [entry for path in folder.glob("*.json") for entry in _read(folder, path.stem)]
    return {one.sha256 for entry in entries for one in (entry, *entry.beside.values())}


def load(folder: Path, name: str) -> Session:
    """Open the champion of a name; its file must be the one that was published."""
    champion = current(folder, name)
    return Session.load(folder / champion.file, champion.sha256)


def references(folder: Path, champion: Published) -> dict[str, Session]:
    """Open the references that serve beside a champion; each file must be the one that was published."""
    return {name: Session.load(folder / one.file, one.sha256) for name, one in champion.beside.items()}


def rollback(folder: Path, name: str) -> Published:
    """Make the champion before the current one the champion again, and its references, under a new version.

    The current one is forgotten, so that the next rollback goes one further back.

    Raises
    ------
    ModelError
        When there is none before it, or its files cannot be served any more.
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
        references(folder, before)
        champion = replace(before, version=last.version + 1)
        _point(folder, name, entries, [*earlier, champion])
    return champion


def entry_of(folder: Path, name: str) -> Path:
    """Give the path of a name's entry, whether it is there or not.

    Raises
    ------
    ModelError
        When the name is not allowed.
    """
    _check_name(name)
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


def _file(name: str, model: Path | bytes) -> tuple[Reference, bytes]:
    """Open and check a model, and give it the name of its file."""
    data = read(model) if isinstance(model, Path) else model
    sha256 = Session(data).sha256
    return Reference(file=f"{name}-{sha256[:12]}.onnx", sha256=sha256), data


def _read(folder: Path, name: str) -> list[Published]:
    """Read the champion and those before it, the oldest first."""
    path = entry_of(folder, name)
    try:
        with path.open("rb") as file:
            text = file.read(_ENTRY_BYTES)
    except FileNotFoundError:
        known = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
        raise ModelError(
            f"champion {name}: none in {folder}; there are: {', '.join(known) or 'none'}. Run `statecast promote` first"
        ) from None
    try:
        record = orjson.loads(text)
        return [_entry(name, plain) for plain in (*record["history"], record["champion"])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"champion entry {path}: damaged ({error}). Publish the model again under a new name"
        ) from error


def _entry(name: str, plain: dict[str, Any]) -> Published:
    """Check one entry; `beside` is missing from those written before there were references."""
    beside = {other: Reference(**x) for other, x in plain.get("beside", {}).items()}
    entry = Published(**{**plain, "beside": beside})
    for one in (entry, *beside.values()):
        if one.file != f"{name}-{one.sha256[:12]}.onnx":
            raise ValueError(f"version {entry.version} of file {one.file} and sha256 {one.sha256}")
    if type(entry.version) is not int:
        raise ValueError(f"version {entry.version!r} of file {entry.file}")
    return entry


def _point(folder: Path, name: str, before: list[Published], entries: list[Published]) -> None:
    """Let the name point to the last entry; `HISTORY` of those before it are kept.

    The time of a file that no entry will name any more is set to now: from then on its grace counts.
    """
    kept = entries[-HISTORY - 1 :]
    for file in _files(before) - _files(kept):
        with suppress(FileNotFoundError):
            os.utime(folder / file)
    *earlier, champion = ({k: x for k, x in asdict(e).items() if k != "beside" or x} for e in kept)
    with replacing(entry_of(folder, name)) as file:
        file.write(orjson.dumps({"champion": champion, "history": earlier}, option=orjson.OPT_INDENT_2))


def _files(entries: list[Published]) -> set[str]:
    """Name the files of some entries."""
    return {one.file for entry in entries for one in (entry, *entry.beside.values())}


def _sweep(folder: Path, name: str) -> None:
    """Delete the files of the name that no entry names and whose grace is over, by the clock of the disk."""
    named, now = _files(_read(folder, name)), entry_of(folder, name).stat().st_mtime
    ours = re.compile(rf"\.?{re.escape(name)}-[0-9a-f]{{12}}\.onnx(\.new)?")  # what a crash left half written too
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and path.name not in named:
            # the champion stands whatever happens here; what stays is tried again at the next publication
            with suppress(OSError):
                if now - path.stat().st_mtime > GRACE_S:
                    path.unlink()
