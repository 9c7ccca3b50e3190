"""Files under their digests, and the lists that name them."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from models.errors import ConfigError, IntegrityError, TransientError
from pipeline.shelf import Shelf, alone, listed, newest, taken


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give an empty folder of backups."""
    (tmp_path / "staging").mkdir()
    return Shelf(tmp_path, tmp_path / "staging")


def test_equal_files_are_kept_once(shelf: Shelf, tmp_path: Path) -> None:
    """A file that is there under another name costs nothing."""
    first = shelf.put_text("prices")
    (tmp_path / "again").write_text("prices")
    assert shelf.put(tmp_path / "again") == first
    assert shelf.added == {first["sha256"]: 6}
    assert [path.name for path in shelf.objects.iterdir()] == [first["sha256"]]


def test_the_newest_list_stands_for_its_folder(shelf: Shelf, tmp_path: Path) -> None:
    """A folder of backups means its last one, and each can be named."""
    lists = [shelf.put_list({"a": shelf.put_text(str(i))}) for i in range(3)]
    assert newest(tmp_path) == lists[-1]
    assert newest(lists[0]) == lists[0]
    with pytest.raises(ConfigError, match="there is none"):
        newest(tmp_path / "elsewhere")


def test_a_list_with_another_byte_is_refused(shelf: Shelf) -> None:
    """One turned bit in a list, be it in a path, cannot restore a file under another name."""
    path = shelf.put_list({"mlflow.db": shelf.put_text("x")})
    path.write_bytes(path.read_bytes().replace(b"mlflow.db", b"mlflow.dc"))
    with pytest.raises(IntegrityError, match="not that of its name"):
        listed(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "prices/../../other"])
def test_no_list_reaches_out_of_a_data_folder(name: str, shelf: Shelf) -> None:
    """A path that leads outside is refused before anything is written."""
    path = shelf.put_list({name: shelf.put_text("x")})
    with pytest.raises(IntegrityError, match="outside a data folder"):
        listed(path)


def test_a_list_of_a_newer_format_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later version wrote is not read by guess."""
    monkeypatch.setattr("pipeline.shelf.FORMAT", 2)
    path = shelf.put_list({})
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="format 2; this version reads 1"):
        listed(path)


@pytest.mark.parametrize("target", [None, "copy"])
def test_a_file_with_another_byte_is_named(target: str | None, shelf: Shelf, tmp_path: Path) -> None:
    """Reading or copying a damaged or missing file says which one, and what to do."""
    files = {"a": shelf.put_text("prices")}
    path = shelf.put_list(files)
    into = None if target is None else tmp_path / target
    taken(path, "a", files["a"], into)
    held = shelf.objects / files["a"]["sha256"]
    held.write_text("prises")
    with pytest.raises(IntegrityError, match="a was kept with sha256"):
        taken(path, "a", files["a"], into)
    held.unlink()
    with pytest.raises(IntegrityError, match="has no file"):
        taken(path, "a", files["a"], into)


def test_a_file_that_lost_its_end_is_kept_anew(shelf: Shelf) -> None:
    """A file on the shelf that is shorter than it was is replaced by the next backup."""
    one = shelf.put_text("prices")
    (shelf.objects / one["sha256"]).write_text("pri")
    assert shelf.put_text("prices") == one
    assert (shelf.objects / one["sha256"]).read_text() == "prices"


def test_thinning_keeps_what_the_newest_need(shelf: Shelf) -> None:
    """Older lists go with the files that they alone named, and what the others name stays whole."""
    common = shelf.put_text("common")
    lists = [shelf.put_list({"a": common, "b": shelf.put_text(str(i))}) for i in range(4)]
    assert shelf.thin(2) == lists[:2]
    assert len(list(shelf.objects.iterdir())) == 3
    for path in lists[2:]:
        for name, one in listed(path).items():
            taken(path, name, one, None)


def test_thinning_stops_at_a_damaged_list(shelf: Shelf) -> None:
    """Where nobody knows what a backup needs, nothing is removed."""
    lists = [shelf.put_list({"b": shelf.put_text(str(i))}) for i in range(3)]
    lists[1].write_bytes(orjson.dumps({"format": 1, "files": {}}))
    with pytest.raises(IntegrityError):
        shelf.thin(2)
    assert all(path.exists() for path in lists)
    assert len(list(shelf.objects.iterdir())) == 3


def test_one_backup_at_a_time(tmp_path: Path) -> None:
    """A second one is told to wait, and what a killed one has left half done is cleared away."""
    (tmp_path / ".new-killed").mkdir()
    with alone(tmp_path), pytest.raises(TransientError, match="under way"), alone(tmp_path):
        pass
    assert not (tmp_path / ".new-killed").exists()
