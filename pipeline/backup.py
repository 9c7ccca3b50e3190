"""A data folder kept elsewhere, while a stream runs on its journal or not.

A backup counts from the moment at which its list has its name: whatever ends it before leaves what was there, and the
next one goes on with what was copied. A file that is there already is not copied again.

What belongs together is told by databases and JSON files, which are copied before the files that they name. Where one
of them changes meanwhile, what changed is copied again. The journal of a stream that runs is that of one batch; the
files that follow it are copied after it, hold at least that much, and are cut to it when the stream goes on.

Kept is what `KEPT` names and nothing else. No token is among it, and settings that hold a password are refused.

Comes in: data folders. Goes out: backups. Imported by restoration and the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from models.errors import ConfigError, TransientError
from pipeline import journal as journals
from pipeline import snapshot, tracking
from pipeline.config import Config
from pipeline.settings import differences
from pipeline.shelf import Files, Shelf, alone, writing

SETTINGS = "statecast.toml"
"""File in a folder that was brought back: the settings with which it was kept, but for the folder's own place."""

JOURNAL = "journal"
"""Folder of the journal in the data folder, wherever it lay."""

KEPT = (
    *("prices", "ingest.json", "progress", "models", "forecasts", "folds", "search", "study"),
    *("comparison.json", "comparison.html", "figures", "runs.json", "exports", "champions"),
    *("prequential", "pools"),
    *("mlflow.db", "artifacts"),
)
"""What of a data folder is kept, beside the journal; what a step can fetch or make again is not."""

LEFT = ("downloads", "prefect", "replay.jsonl", "replay.dead.jsonl", "dead-letters.jsonl", JOURNAL, SETTINGS)
"""What is left without a word: fetched again, or of one run, or kept in another way."""

PASSES = 5
"""How often what changed is copied again."""

_BESIDE = re.compile(r"\..*|.*\.db-(journal|wal|shm)")
"""Names of what is half written, hidden, or beside a database that is copied whole."""


@dataclass(frozen=True, kw_only=True)
class BackedUp:
    """What a backup holds, and what it cost."""

    list: Path
    """The backup; its folder stands for the newest one in it."""
    files: int
    bytes: int
    """Size of all files together."""
    added: int
    """Files that were not there already."""
    added_bytes: int
    left: tuple[str, ...]
    """What lies in the data folder and is not known to belong to it."""
    elsewhere: tuple[str, ...]
    """What belongs to the run and is not in the data folder: a server of MLflow, or its files."""
    gone: tuple[Path, ...]
    """Older backups that were removed."""


def backup(
    config: Config, to: Path, *, journal: Path | None = None, out: Path | None = None, keep: int | None = None
) -> BackedUp:
    """Keep a data folder; a stream on its journal may run.

    Parameters
    ----------
    config : Config
        Its settings are kept too.
    to : Path
        Folder of backups, made where it is missing; all that are in it share their files.
    journal : Path, optional
        Folder of the stream's journal; left out: `journal` in the data folder, where there is one.
    out : Path, optional
        The stream's file of forecasts, which comes back in the folder of the journal.
    keep : int, optional
        How many of the newest backups stay, this one among them; left out: all.

    Raises
    ------
    ConfigError
        The settings hold a password, or there is nothing to keep.
    TransientError
        Something changes faster than it can be copied, or another backup is under way.
    DataError
        The disk is full or fails; what was there is as it was.
    """
    _refuse_password(config)
    sources = _Sources(config, journal, out)
    with writing(to), alone(to), TemporaryDirectory(dir=to, prefix=".new-") as staging:
        shelf = Shelf(to, Path(staging))
        files = _whole(sources, shelf)
        path = shelf.put_list(files)
        gone = [] if keep is None else shelf.thin(keep)
    return BackedUp(
        list=path,
        files=len(files),
        bytes=sum(one["bytes"] for one in files.values()),
        added=len(shelf.added),
        added_bytes=sum(shelf.added.values()),
        left=sources.unknown(),
        elsewhere=tuple(_elsewhere(config)),
        gone=tuple(gone),
    )


class _Sources:
    """What there is to keep of a run, in the order in which it is copied."""

    def __init__(self, config: Config, journal: Path | None, out: Path | None) -> None:
        self.folder, self.settings, self.out = config.folder, _settings(config), out
        self.journal = journal or config.folder / JOURNAL
        self.streams = (self.journal / journals.FILE).exists()
        if not self.streams and (journal or out):
            raise ConfigError(f"journal {self.journal}: there is none. Name the folder of a stream that ran")
        if not (self.streams or any((self.folder / name).exists() for name in KEPT)):
            raise ConfigError(f"data folder {self.folder}: there is nothing to keep. Name another one with --folder")

    def unknown(self) -> tuple[str, ...]:
        """Name what lies in the data folder and is neither kept nor left on purpose."""
        names = {path.name for path in self.folder.glob("*")} - {*KEPT, *LEFT}
        return tuple(sorted(name for name in names if not _BESIDE.fullmatch(name)))

    def files(self) -> dict[str, Path]:
        """List the files as they are now: those that name others, then the others."""
        found = {f"{name}/{path}" if path else name: self.folder / name / path for name, path in self._held()}
        return dict(sorted(found.items(), key=lambda item: (not _tells(item[0]), item[0])))

    def _held(self) -> Iterator[tuple[str, str]]:
        for name in KEPT:
            top = self.folder / name
            if top.is_file():
                yield name, ""
            for path in _walked(top):
                yield name, path.relative_to(top).as_posix()

    def marks(self) -> dict[str, tuple[int, int, int]]:
        """Say how the files are that name others; where it is the same after a copy, what they name was copied too."""
        marks = {}
        for name, path in self.files().items():
            if _tells(name):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    marks[name] = found.st_mtime_ns, found.st_size, found.st_ino
        return marks

    def following(self) -> dict[str, Path]:
        """List the files that follow the journal."""
        beside = [self.journal / "history.ring", *sorted(self.journal.glob("*.jsonl"))]
        found = {f"{JOURNAL}/{path.name}": path for path in beside if path.exists()}
        if self.out is not None:
            name = f"{JOURNAL}/{self.out.name}"
            if name in found and not found[name].samefile(self.out):
                raise ConfigError(f"forecasts {self.out}: {found[name]} has this name too. Rename one of them")
            found[name] = self.out
        return found


def _whole(sources: _Sources, shelf: Shelf) -> Files:
    """Copy until nothing that names other files has changed meanwhile."""
    for _ in range(PASSES):
        before = sources.marks()
        with suppress(FileNotFoundError):  # something went while it was read
            files = _copied(sources, shelf)
            if sources.marks() == before:
                return files
    raise TransientError(
        f"data folder {sources.folder}: it changed in each of {PASSES} copies. Try again when no retrain or ingest runs"
    )


def _copied(sources: _Sources, shelf: Shelf) -> Files:
    """Copy everything once."""
    files = {SETTINGS: shelf.put_text(sources.settings)}
    if sources.streams:
        path = snapshot.of_journal(sources.journal, shelf.staging / JOURNAL)
        files[f"{JOURNAL}/{journals.FILE}"] = shelf.put(path)
        files |= {name: shelf.put(path) for name, path in sources.following().items()}
    for name, path in sources.files().items():
        whole = snapshot.of_database(path, shelf.staging / "database") if name.endswith(".db") else path
        files[name] = shelf.put(whole)
    return files


def _tells(name: str) -> bool:
    """Say whether a file says which others belong together; a fit in progress does not."""
    return name.endswith((".db", ".json")) and not name.startswith(("progress/", "search/", "study/"))


def _walked(top: Path) -> Iterator[Path]:
    """Give the files of a folder and of those in it, through links; hidden ones are left."""
    for folder, below, names in os.walk(top, onerror=_fail, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not _BESIDE.fullmatch(name))


def _fail(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _elsewhere(config: Config) -> Iterator[str]:
    """Name a store of MLflow that is not in the data folder, and files of the one that is."""
    if config.tracking.uri is not None:
        yield config.tracking.uri
    if (database := config.folder / "mlflow.db").exists():
        here = (config.folder.resolve() / "artifacts").as_uri()
        yield from (place for place in tracking.places(database) if place != here)


def _settings(config: Config) -> str:
    """Write the settings but for the data folder, whose place is where it is restored."""
    return differences(replace(config, folder=Config.folder))


def _refuse_password(config: Config) -> None:
    address = urlsplit(config.tracking.uri or "")
    if address.username or address.password:
        raise ConfigError(
            "tracking.uri holds a name or password, and a backup holds no secrets. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, which MLflow reads, and leave them out of the address"
        )
