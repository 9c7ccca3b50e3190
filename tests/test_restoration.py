"""Data folders brought back: at another place, over another one, and from backups that are damaged."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Watched, Workspace

from flows.retrain import retrain
from models.errors import ConfigError, DataError, IntegrityError, ModelError
from pipeline import champions, promotion, tracking
from pipeline.backup import LEFT, backup
from pipeline.config import Config
from pipeline.journal import Journal
from pipeline.restoration import restore
from pipeline.settings import load
from pipeline.shelf import listed
from pipeline.tracking import Tracker, moved


@pytest.fixture(scope="module")
def home(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep a data folder whose champion has one before it: the folder `data` and its `backups`, to be copied."""
    home = tmp_path_factory.mktemp("home")
    config = replace(workspace.config, folder=home / "data")
    shutil.copytree(workspace.folder, config.folder)
    moved(config.folder / "mlflow.db", config.folder / "artifacts")
    promotion.promote(config, "garch")
    backup(config, home / "backups")
    return home


@pytest.fixture
def copied(home: Path, workspace: Workspace, tmp_path: Path) -> Any:
    """Give the settings of a copy of that data folder."""
    shutil.copytree(home / "data", tmp_path / "data")
    return replace(workspace.config, folder=tmp_path / "data")


@pytest.fixture
def kept(home: Path, tmp_path: Path) -> Path:
    """Give a copy of its backups."""
    shutil.copytree(home / "backups", tmp_path / "backups")
    return tmp_path / "backups"


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_works_at_another_place_with_the_first_one_gone(kept: Path, copied: Any, tmp_path: Path) -> None:
    """Registry, its files, rollback, promotion and the rest of a retrain work where the folder was brought back."""
    there = tmp_path / "a new place" / "data"
    before = Tracker(copied.tracking, copied.folder).versions()
    restore(kept, there)
    shutil.rmtree(copied.folder)
    config = load(Config, there / "statecast.toml", {"folder": str(there)})
    tracker = Tracker(config.tracking, there)
    assert [(v.number, v.sha256, v.aliases) for v in tracker.versions()] == [
        (v.number, v.sha256, v.aliases) for v in before
    ]
    _, sha256 = tracker.download("champion")
    assert champions.load(there / "champions", "champion").sha256 == sha256
    assert promotion.rollback(config).model == "gru"
    assert promotion.promote(config, "garch").model == "garch"
    assert str(copied.folder) not in locations(there / "mlflow.db")
    assert retrain(replace(config, models=("last_value", "ar")), Watched(), lambda step, _: step).promoted is not None


def locations(database: Path) -> str:
    """Give all that an MLflow store says of where files are."""
    with closing(sqlite3.connect(database)) as db:
        queries = [f"SELECT {column} FROM {table}" for table, column in tracking._LOCATIONS]  # noqa: S608  MLflow's names
        return str([db.execute(query).fetchall() for query in queries])


def test_mlflow_keeps_places_where_this_project_looks_for_them(workspace: Workspace) -> None:
    """No other table of MLflow's store, but for the settings that were logged, holds the path of the data folder."""
    place = (str(workspace.folder),)
    with closing(sqlite3.connect(workspace.folder / "mlflow.db")) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        held = {
            (table, column)
            for table in tables
            for _, column, *_ in db.execute(f"PRAGMA table_info({table})").fetchall()
            if db.execute(f"SELECT 1 FROM {table} WHERE instr({column}, ?)", place).fetchone()  # noqa: S608
        }
    assert held == {*tracking._LOCATIONS, ("params", "value")}


def test_a_copied_folder_that_names_the_files_of_another_one_is_mended(copied: Any, tmp_path: Path) -> None:
    """Whatever folder a store named its files in, `moved` lets it name those that lie beside it, once or again."""
    for _ in range(2):
        moved(copied.folder / "mlflow.db", copied.folder / "artifacts")
        told = locations(copied.folder / "mlflow.db")
        assert str(copied.folder) in told
        assert "workspace" not in told
    (tmp_path / "none.db").write_bytes(b"x" * 5000)
    with pytest.raises(ModelError, match="an MLflow store was expected"):
        moved(tmp_path / "none.db", tmp_path)


def test_what_is_there_is_never_written_over(kept: Path, copied: Any) -> None:
    """A folder that holds something is refused; told to replace it, it is moved aside with every byte."""
    before = tree(copied.folder)
    with pytest.raises(ConfigError, match="--replace"):
        restore(kept, copied.folder)
    assert tree(copied.folder) == before
    (copied.folder / "mine").write_text("precious")
    done = restore(kept, copied.folder, replace=True)
    assert done.aside is not None
    assert tree(done.aside) == before | {"mine": b"precious"}
    after = tree(copied.folder)
    assert after.keys() - before.keys() == {"statecast.toml"}
    differ = {name for name in before if before[name] != after.get(name)}
    assert differ <= {"mlflow.db", *LEFT}, "a backup leaves out what other tests may have left in the folder"


def test_an_empty_folder_is_filled(kept: Path, tmp_path: Path) -> None:
    """A folder without a file is taken as it is."""
    (tmp_path / "empty").mkdir()
    assert restore(kept, tmp_path / "empty").aside is None
    assert (tmp_path / "empty" / "champions" / "champion.json").exists()


def test_a_folder_in_which_a_stream_runs_is_not_replaced(kept: Path, copied: Any) -> None:
    """The process that holds the journal is named, and nothing is moved."""
    journal = Journal(copied.folder / "journal", "none")
    with pytest.raises(ConfigError, match=f"process {os.getpid()} has it open"):
        restore(kept, copied.folder, replace=True)
    journal.close()
    assert (copied.folder / "journal").exists()


@pytest.mark.parametrize("harm", ["turned", "short", "gone"])
def test_one_bad_byte_anywhere_restores_nothing(harm: str, kept: Path, copied: Any, tmp_path: Path) -> None:
    """Whichever file of a backup is damaged, nothing appears and what was there stays; a check says so too."""
    (list_,) = kept.glob("*.json")
    before = tree(copied.folder)
    for one in list(listed(list_).values())[::40]:
        path = kept / "objects" / one["sha256"]
        data = path.read_bytes()
        damaged = data[:-1] + bytes([data[-1] ^ 1]) if harm == "turned" else data[:-1]
        path.write_bytes(damaged) if harm != "gone" else path.unlink()
        for folder, how in ((tmp_path / "other", {}), (copied.folder, {"replace": True}), (tmp_path, {"dry": True})):
            with pytest.raises(IntegrityError, match="Nothing was restored"):
                restore(kept, folder, **how)
        path.write_bytes(data)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "data"]
    assert tree(copied.folder) == before
    restore(kept, tmp_path / "other", dry=True)
    assert not (tmp_path / "other").exists()


def test_a_full_disk_restores_nothing(kept: Path, copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where room runs out in the middle, nothing half done is left and what was there stays."""
    before, calls, real = tree(copied.folder), iter(range(10**6)), os.fsync

    def full(handle: int) -> None:
        if next(calls) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        restore(kept, copied.folder, replace=True)
    assert tree(copied.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "data"]
