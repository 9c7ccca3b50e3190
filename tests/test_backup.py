"""A data folder, with a stream on its journal, kept elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from conftest import Workspace
from served import model_bytes
from ticking import feed

from models.errors import ConfigError, DataError, TransientError
from pipeline import backup as module
from pipeline import champions, shelf
from pipeline.backup import KEPT, LEFT, backup
from pipeline.config import Config
from pipeline.journal import Journal
from pipeline.restoration import restore
from pipeline.settings import load
from pipeline.shelf import listed
from pipeline.snapshot import of_journal

STREAM = ("stream", "--durability", "normal", "--set", "stream.batch=20", "--set", "stream.replay=1000")
LINES = 6_000


def statecast(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for an end without an error."""
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said


def wait_for(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Wait until something holds of a process that runs."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def taken(home: Path) -> int:
    """Give how many bytes a stream that runs has taken in, from a copy of its journal."""
    journal = Journal(of_journal(home / "journal", home / "looked at").parent, "none")
    (position,) = journal.positions().values()
    journal.close()
    return position["offset"]


def outputs(folder: Path) -> dict[str, bytes]:
    """Read the files that follow a journal."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def test_a_stream_that_runs_is_kept_and_goes_on_elsewhere_with_the_same_bytes(tmp_path: Path) -> None:
    """Kept in the middle of its ticks and brought back at another place, a stream ends with the bytes of the first."""
    home, ticks = tmp_path / "data", tmp_path / "ticks.jsonl"
    champions.publish(home / "champions", "champion", model_bytes())
    lines = feed(LINES, seed=3).splitlines(keepends=True)
    ticks.write_bytes(b"".join(lines[:1000]))
    journal = home / "journal"
    out = home / "forecasts.jsonl"
    first = statecast(*STREAM, ticks, "--follow", "--folder", home, "--journal", journal, "--out", out)
    kept = []
    try:
        wait_for(first, lambda: out.exists() and out.stat().st_size > 0)
        with ticks.open("ab", buffering=0) as file:
            for start in range(1000, LINES, 100):
                file.write(b"".join(lines[start : start + 100]))
                if start % 2000 == 0:
                    kept.append(backup(Config(folder=home), tmp_path / "backups", out=out).list)
        wait_for(first, lambda: taken(home) == ticks.stat().st_size)
    finally:
        first.terminate()
    ended(first)
    whole = outputs(journal) | {out.name: out.read_bytes()}
    sizes = []
    for i, path in enumerate(kept):
        there = tmp_path / f"other {i}" / "data"
        restore(path, there)
        sizes.append((there / "journal" / out.name).stat().st_size)
        where = ("--journal", there / "journal", "--out", there / "journal" / out.name)
        ended(statecast(*STREAM, ticks, "--folder", there, *where))
        assert outputs(there / "journal") == whole
    assert sizes[0] < sizes[-1] < len(whole[out.name])


def test_every_entry_of_a_data_folder_is_kept_or_left_on_purpose(copied: Any, workspace: Workspace) -> None:
    """After a retrain nothing lies in the data folder that a backup does not know."""
    done = backup(copied, copied.folder.parent / "backups")
    assert done.left == ()
    assert {path.name for path in workspace.folder.iterdir()} <= {*KEPT, *LEFT}


def test_files_of_mlflow_that_lie_elsewhere_are_told(copied: Any, workspace: Workspace, tmp_path: Path) -> None:
    """A copied data folder still names the files of the first one, and a server has its own: a backup says so."""
    told = replace(copied, tracking=replace(copied.tracking, uri="http://127.0.0.1:5000"))
    done = backup(told, tmp_path / "backups")
    assert done.elsewhere == ("http://127.0.0.1:5000", (workspace.folder / "artifacts").as_uri())
    assert backup(workspace.config, tmp_path / "backups").elsewhere == ()


def test_a_second_backup_copies_only_what_changed(copied: Any, tmp_path: Path) -> None:
    """Kept again, nothing is copied; after one file has changed, that one is."""
    assert backup(copied, tmp_path / "backups").added > 10
    assert backup(copied, tmp_path / "backups").added == 0
    (copied.folder / "models" / "gru.safetensors").write_bytes(b"other")
    done = backup(copied, tmp_path / "backups", keep=2)
    assert (done.added, done.added_bytes, len(done.gone)) == (1, 5, 1)


def test_no_secret_is_kept(copied: Any, tmp_path: Path) -> None:
    """Files that are none of a data folder's are named and left, hidden ones are left, and a password is refused."""
    (copied.folder / "token").write_text("s3cret-s3cret-s3cret")
    (copied.folder / ".env").write_text("STATECAST_TOKEN=s3cret-s3cret-s3cret")
    (copied.folder / "prices" / ".env").write_text("s3cret-s3cret-s3cret")
    done = backup(copied, tmp_path / "backups")
    assert done.left == ("token",)
    assert not any(b"s3cret" in path.read_bytes() for path in (tmp_path / "backups").rglob("*") if path.is_file())
    told = replace(copied, tracking=replace(copied.tracking, uri="http://me:s3cret@127.0.0.1:5000"))
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        backup(told, tmp_path / "backups")
    assert "s3cret" not in str(refused.value)


def test_the_settings_come_back(copied: Any, tmp_path: Path) -> None:
    """The settings of a restored folder, read from its file, are those with which it was kept."""
    backup(copied, tmp_path / "backups")
    restore(tmp_path / "backups", tmp_path / "other")
    assert load(Config, tmp_path / "other" / "statecast.toml", {"folder": str(copied.folder)}) == copied


def filled(stop: int) -> Callable[[int], None]:
    """Sync as the system does, until the disk is full at one of the calls."""
    real, calls = os.fsync, iter(range(1, 10**6))

    def sync(handle: int) -> None:
        if next(calls) == stop:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    return sync


def test_a_full_disk_leaves_what_was_there(copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever room runs out, the backup before stays whole, nothing half done is left, and the next one succeeds."""
    kept = backup(copied, tmp_path / "backups").list
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (copied.folder / "models" / name).write_bytes(rng.bytes(1000))
    for stop in (1, 3, 4, 5):  # a file, the last of them, their folder, the list
        for path in (tmp_path / "backups" / "objects").iterdir():
            if path.name not in {one["sha256"] for one in listed(kept).values()}:
                path.unlink()
        monkeypatch.setattr(os, "fsync", filled(stop))
        with pytest.raises(DataError, match="No space left"):
            backup(copied, tmp_path / "backups")
        monkeypatch.undo()
        assert shelf.newest(tmp_path / "backups") == kept
        restore(kept, tmp_path / "other", dry=True)
        assert list((tmp_path / "backups").glob(".new-*")) == []
    assert backup(copied, tmp_path / "backups").list != kept
    restore(tmp_path / "backups", tmp_path / "other", dry=True)


def test_what_changes_while_it_is_copied_is_copied_again(
    copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of files that is replaced during a copy makes a further one; where that goes on, it is said."""
    entry = copied.folder / "champions" / "champion.json"
    real, passes = module._copied, []

    def changing(sources: Any, to: Any) -> Any:
        files = real(sources, to)
        if len(passes) < most:
            entry.write_bytes(orjson.dumps({**orjson.loads(entry.read_bytes()), "pass": len(passes)}))
            passes.append(files)
        return files

    monkeypatch.setattr(module, "_copied", changing)
    most = 2
    done = backup(copied, tmp_path / "backups")
    files = listed(done.list)
    assert len(passes) == 2
    assert files["champions/champion.json"] not in [one["champions/champion.json"] for one in passes[:1]]
    most = 100
    with pytest.raises(TransientError, match="it changed in each of 5 copies"):
        backup(copied, tmp_path / "backups")
    assert shelf.newest(tmp_path / "backups") == done.list


def test_nothing_to_keep_is_said(tmp_path: Path) -> None:
    """A data folder that is not there, and a journal that is none, are named instead of kept empty."""
    with pytest.raises(ConfigError, match="there is nothing to keep"):
        backup(Config(folder=tmp_path / "none"), tmp_path / "backups")
    with pytest.raises(ConfigError, match="there is none"):
        backup(Config(folder=tmp_path / "none"), tmp_path / "backups", journal=tmp_path / "journal")
    assert not (tmp_path / "backups").exists()


def test_files_behind_links_are_kept(copied: Any, tmp_path: Path) -> None:
    """Prices that lie on another disk come back as files."""
    shutil.move(copied.folder / "prices", tmp_path / "disk")
    (copied.folder / "prices").symlink_to(tmp_path / "disk")
    backup(copied, tmp_path / "backups")
    restore(tmp_path / "backups", tmp_path / "other")
    there = tmp_path / "other" / "prices"
    assert not there.is_symlink()
    names = [path.relative_to(there) for path in there.rglob("*.parquet")]
    assert names
    assert all((there / name).read_bytes() == (tmp_path / "disk" / name).read_bytes() for name in names)
