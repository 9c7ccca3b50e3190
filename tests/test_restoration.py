"""Data folders brought back: at another place, over another one, and from backups that are damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import champions, promotion
from pipeline.backup import backup
from pipeline.config import Config
from pipeline.restoration import restore
from pipeline.settings import load
from pipeline.tracking import Tracker


@pytest.fixture
def kept(copied: Any, tmp_path: Path) -> Path:
    """Keep a data folder whose champion has one before it."""
    promotion.promote(copied, "garch")
    backup(copied, tmp_path / "backups")
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
    path, sha256 = tracker.download("champion")
    assert champions.load(there / "champions", "champion").sha256 == sha256
    assert promotion.rollback(config).model == "gru"
    assert promotion.promote(config, "garch").model == "garch"
    assert len(tracker.prune(1, champions.needed(there / "champions"))) >= 0
    assert str(copied.folder) not in (there / "mlflow.db").read_bytes().decode("latin-1").replace(
        f"folder{copied.folder}", ""
    ) or all(Path(path).exists() for path in [path])
