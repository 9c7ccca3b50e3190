"""A watcher tells of every new champion once, of every fault once, and otherwise of nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_champions import model

from models.errors import IntegrityError, ModelError
from pipeline.champions import publish, rollback
from pipeline.watching import Watcher


def test_a_watcher_gives_each_champion_once(tmp_path: Path) -> None:
    """A folder that comes later, every publication and every rollback are seen once; nothing new is None."""
    folder = tmp_path / "champions"
    watcher = Watcher(folder, "fx")
    assert watcher.changed() is None
    for act in (
        lambda: publish(folder, "fx", model("one")),
        lambda: publish(folder, "fx", model("two"), beside={"ar": model("ar")}),
        lambda: rollback(folder, "fx"),
    ):
        published = act()
        assert watcher.changed() == published
        assert watcher.changed() is None
    publish(folder, "coins", model("one"))
    assert watcher.changed() is None
    publish(folder, "fx", model("three"))
    newest = publish(folder, "fx", model("four"))
    assert watcher.changed() == newest
    assert watcher.changed() is None


def test_a_watcher_begins_after_the_version_that_serves(tmp_path: Path) -> None:
    """The version that is served already is not news, though its entry be written again."""
    publish(tmp_path, "fx", model("one"))
    watcher, path = Watcher(tmp_path, "fx", version=1), tmp_path / "fx.json"
    assert watcher.changed() is None
    path.write_bytes(path.read_bytes() + b" ")
    assert watcher.changed() is None
    assert publish(tmp_path, "fx", model("two")) == watcher.changed()
    with pytest.raises(ModelError, match="champion name"):
        Watcher(tmp_path, "../fx")


def faulty(path: Path, fault: str) -> None:
    """Put another thing in the place of an entry."""
    path.unlink()
    if fault == "folder":
        path.mkdir()
    elif fault == "loop":
        path.symlink_to(path.name)
    else:
        path.write_text(fault)


@pytest.mark.parametrize("fault", ["", "{", "[]", '{"champion": {}, "history": []}', "folder", "loop"])
def test_a_damaged_entry_is_told_once(tmp_path: Path, fault: str) -> None:
    """A watcher raises once for each change of a damaged entry, and goes on when it is whole again."""
    publish(tmp_path, "fx", model("one"))
    path, watcher = tmp_path / "fx.json", Watcher(tmp_path, "fx")
    whole = path.read_bytes().replace(b'"version": 1', b'"version": 2')
    watcher.changed()
    faulty(path, fault)
    with pytest.raises(IntegrityError, match="champion entry"):
        watcher.changed()
    assert watcher.changed() is None
    path.rmdir() if fault == "folder" else path.unlink()
    assert watcher.changed() is None
    path.write_bytes(whole)
    found = watcher.changed()
    assert found is not None
    assert found.version == 2


def test_versions_only_grow(tmp_path: Path) -> None:
    """A lower version than was served, or another model under the same one, is an error, once, and not served."""
    for name in ("one", "two"):
        publish(tmp_path / "old", "fx", model(name))
    path, watcher = tmp_path / "old/fx.json", Watcher(tmp_path / "old", "fx")
    assert watcher.changed() is not None
    publish(tmp_path / "new", "fx", model("three"))
    path.write_bytes((tmp_path / "new/fx.json").read_bytes())
    with pytest.raises(IntegrityError, match="version 1 after version 2 was served"):
        watcher.changed()
    assert watcher.changed() is None
    publish(tmp_path / "new", "fx", model("four"))
    path.write_bytes((tmp_path / "new/fx.json").read_bytes())
    with pytest.raises(IntegrityError, match=r"version 2 was fx-.* and now is fx-"):
        watcher.changed()
    third = publish(tmp_path / "new", "fx", model("five"))
    path.write_bytes((tmp_path / "new/fx.json").read_bytes())
    assert watcher.changed() == third


def test_a_watcher_beside_a_publisher_sees_versions_grow(tmp_path: Path) -> None:
    """While another process publishes, what a watcher sees only grows, is whole, and ends with the last."""
    publish(tmp_path / "c", "fx", model("one"))
    (tmp_path / "m.onnx").write_bytes(model("two"))
    code = "import sys; from pathlib import Path; from pipeline.champions import publish\n"
    code += "for _ in range(20): publish(Path(sys.argv[1]) / 'c', 'fx', Path(sys.argv[1]) / 'm.onnx')"
    watcher, seen = Watcher(tmp_path / "c", "fx"), []
    publisher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while publisher.poll() is None:
        if (found := watcher.changed()) is not None:
            seen.append(found.version)
        time.sleep(0)
    seen += [last.version] if (last := watcher.changed()) else []
    assert publisher.returncode == 0
    assert seen == sorted(set(seen))
    assert seen[-1] == 21
