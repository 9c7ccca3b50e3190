"""Files under their digests, each once, and lists that say which of them are one backup.

    objects/<sha256>                            every file that was ever kept
    20261129T081500.000000Z-3f9a01bc24de.json   one backup: path, digest and size of each file; named by its own digest

Comes in: files. Goes out: the same, or an error that says which is another one. Knows the standard library and orjson;
imported by backup and restoration.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import orjson

from models.errors import ConfigError, DataError, IntegrityError, TransientError
from pipeline.atomic import replacing, sync_folder

FORMAT = 1
"""Format of the list that this version writes; older ones are read, newer ones refused."""

Files = dict[str, dict[str, Any]]
"""`sha256` and `bytes` of each file, by its path in the data folder."""

_OBJECTS = "objects"
_LIST = re.compile(r"\d{8}T\d{6}\.\d{6}Z-([0-9a-f]{12})\.json")


class Shelf:
    """Files under their digests, in a folder of backups.

    Parameters
    ----------
    to : Path
        The folder of backups.
    staging : Path
        A folder on the same disk, for what is half done.
    """

    def __init__(self, to: Path, staging: Path) -> None:
        self.objects, self.staging = to / _OBJECTS, staging
        self.added: dict[str, int] = {}
        """Size of each file that was not there, by digest."""
        self.objects.mkdir(exist_ok=True)

    def put(self, path: Path) -> dict[str, Any]:
        """Keep a file, and give its digest and size."""
        with path.open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            held = self.objects / sha256
            if not held.exists() or held.stat().st_size != size:
                file.seek(0)
                sha256, size = poured(file, self.staging / "object")  # it may have grown
                os.replace(self.staging / "object", self.objects / sha256)
                self.added[sha256] = size
        return {"sha256": sha256, "bytes": size}

    def put_text(self, text: str) -> dict[str, Any]:
        """Keep a text."""
        path = self.staging / "text"
        path.write_text(text, encoding="utf-8")
        return self.put(path)

    def put_list(self, files: Files) -> Path:
        """Write the list of a backup, whose files are all there: from now on it counts."""
        now = datetime.now(UTC)
        plain = {"format": FORMAT, "created_time": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}", "files": files}
        text = orjson.dumps(plain, option=orjson.OPT_INDENT_2)
        sync_folder(self.objects)
        path = self.objects.with_name(f"{now:%Y%m%dT%H%M%S.%fZ}-{hashlib.sha256(text).hexdigest()[:12]}.json")
        with replacing(path) as file:
            file.write(text)
        return path

    def thin(self, keep: int) -> list[Path]:
        """Remove all but the newest lists, then the files that no list names any more; give the lists that went.

        Raises
        ------
        IntegrityError
            A list that stays is damaged: then nobody knows which files it needs, and nothing is removed.
        """
        lists = _lists(self.objects.parent)
        going, staying = lists[:-keep], lists[-keep:]
        needed = {one["sha256"] for path in staying for one in listed(path).values()}
        for path in going:
            path.unlink()
        for path in self.objects.iterdir():
            if path.name not in needed:
                path.unlink()
        return going


def poured(source: BinaryIO, target: Path) -> tuple[str, int]:
    """Copy a file piece by piece, down to the disk, and digest what was copied."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while piece := source.read(2**20):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def newest(source: Path) -> Path:
    """Give the list of the newest backup in a folder, or the one that was named."""
    if source.is_file():
        return source
    if not (lists := _lists(source)):
        raise ConfigError(f"backup {source}: there is none. Name a folder that `statecast backup` has filled")
    return lists[-1]


def _lists(folder: Path) -> list[Path]:
    """Give the lists in a folder of backups, the oldest first."""
    return sorted(path for path in folder.glob("*.json") if _LIST.fullmatch(path.name))


def listed(path: Path) -> Files:
    """Read the list of a backup, which must be the one that was written."""
    named = _LIST.fullmatch(path.name)
    try:
        text = path.read_bytes()
        if named is None or hashlib.sha256(text).hexdigest()[:12] != named[1]:
            raise IntegrityError(f"backup {path}: its content is not that of its name. Restore another backup")
        plain = orjson.loads(text)
    except OSError as error:
        raise DataError(f"backup {path}: cannot be read ({error.strerror}). Check its rights") from error
    except orjson.JSONDecodeError as error:
        raise IntegrityError(f"backup {path}: damaged ({error}). Restore another backup") from error
    if plain["format"] > FORMAT:
        raise IntegrityError(f"backup {path}: format {plain['format']}; this version reads {FORMAT}. Update statecast")
    for name in plain["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(f"backup {path}: {name!r} lies outside a data folder. Restore another backup")
    return plain["files"]


def taken(path: Path, name: str, one: dict[str, Any], target: Path | None) -> None:
    """Read a file of a backup, into `target` if there is one, and refuse it where it is not what was kept."""
    held = path.parent / _OBJECTS / one["sha256"]
    try:
        with held.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if target is None else poured(file, target)[0]
    except FileNotFoundError:
        sha256 = "no file"
    if sha256 != one["sha256"]:
        raise IntegrityError(
            f"backup {path}: {name} was kept with sha256 {one['sha256']}, and {held} has {sha256}. Nothing was "
            "restored. Restore an older backup; if the data folder is still there, delete that file and back up again"
        )


@contextmanager
def alone(to: Path) -> Iterator[None]:
    """Hold the folder of backups, made where it is missing, and clear away what a crash has left half done."""
    to.mkdir(parents=True, exist_ok=True)
    handle = os.open(to, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in to.glob(".new-*"):
            shutil.rmtree(path)
        yield
    except BlockingIOError as error:
        raise TransientError(f"backups {to}: another one is under way. Try again when it is done") from error
    finally:
        os.close(handle)


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Say of an error of the disk that nothing of what is there was touched."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{where}: cannot be written, or {error.filename or 'a file'} cannot be read ({error.strerror}). What was "
            "there is as it was; make room or mend the rights, and start again"
        ) from error
