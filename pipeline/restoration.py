"""A data folder brought back from a backup, at its old place or at another one.

The folder is built beside its place, every byte is checked on the way, and only then does it get its name. What had
that name is moved aside. An embedded MLflow store, which keeps where files are as whole paths, is told the new ones.

Comes in: backups. Goes out: data folders. Imported by the command line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.errors import ConfigError
from pipeline import tracking
from pipeline.atomic import sync_folder
from pipeline.backup import JOURNAL
from pipeline.journal import locked
from pipeline.shelf import listed, newest, taken, writing


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was brought back, or only checked."""

    list: Path
    folder: Path
    files: int
    bytes: int
    aside: Path | None
    """Where the folder lies that was there before."""


def restore(source: Path, folder: Path, *, replace: bool = False, dry: bool = False) -> Restored:
    """Bring a data folder back, at its old place or at another one, after every byte of it was checked.

    Runs and models in an embedded MLflow store name their files at the new place.

    Parameters
    ----------
    source : Path
        A folder of backups, which stands for the newest one in it, or the list of one.
    folder : Path
        The data folder; missing or empty unless `replace`.
    replace : bool
        Move a folder that is there aside; nothing of it is deleted.
    dry : bool
        Check only, and write nothing.

    Raises
    ------
    IntegrityError
        A file of the backup is missing or is another one.
    ConfigError
        There is no backup, the folder holds something already, or a stream runs in it.
    DataError
        The disk is full or fails; the folder is as it was.
    """
    path = newest(source)
    files = listed(path)
    size = sum(one["bytes"] for one in files.values())
    aside = None
    if dry:
        for name, one in files.items():
            taken(path, name, one, None)
    else:
        _refuse_used(folder, replace=replace)
        with writing(folder), _built(folder) as new:
            for name, one in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                taken(path, name, one, new / name)
            if (new / "mlflow.db").exists():
                tracking.moved(new / "mlflow.db", folder.resolve() / "artifacts")
            aside = _placed(new, folder)
    return Restored(list=path, folder=folder, files=len(files), bytes=size, aside=aside)


def _refuse_used(folder: Path, *, replace: bool) -> None:
    """Refuse a folder that holds something, unless it is to be replaced, and always one in which a stream runs."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (replace and folder.is_dir()):
        raise ConfigError(
            f"folder {folder}: it holds something already. Name another one, or say --replace to move it aside"
        )
    if (folder / JOURNAL / "lock").exists():
        os.close(locked(folder / JOURNAL))


@contextmanager
def _built(folder: Path) -> Iterator[Path]:
    """Give a new folder beside another one; what is left of it in the end goes."""
    new = folder.resolve().with_name(f".{folder.resolve().name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _placed(new: Path, folder: Path) -> Path | None:
    """Give a folder its name; what has that name is moved aside."""
    place, aside = folder.resolve(), None
    if place.exists() and any(place.iterdir()):
        aside = place.with_name(f"{place.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        os.replace(place, aside)
    for below, _, _ in os.walk(new):
        sync_folder(Path(below))
    os.replace(new, place)
    sync_folder(place.parent)
    return aside
