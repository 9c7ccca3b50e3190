"""The champions folder points to one whole, checked model at every moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from served import metadata, model_bytes

from models.errors import IntegrityError, ModelError
from pipeline import champions
from pipeline.champions import GRACE_S, HISTORY, current, load, publish, references, rollback


def model(name: str) -> bytes:
    """Build a model file that differs from others by its name."""
    return model_bytes(metadata(name=name))


def test_the_champion_is_what_was_published_last(tmp_path: Path) -> None:
    """The second publication takes the first one's place; both files stay, and fields come back."""
    folder = tmp_path / "new" / "champions"
    first = publish(folder, "fx", model("one"), {"crps": 0.5})
    second = publish(folder, "fx", model("two"))
    assert (first.version, second.version) == (1, 2)
    assert (first.fields, second.fields) == ({"crps": 0.5}, {})
    assert current(folder, "fx") == second
    assert load(folder, "fx").metadata.name == "two"
    assert sorted(p.name for p in folder.iterdir()) == sorted([first.file, second.file, "fx.json"])


def test_names_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each name has its own champion and its own versions."""
    publish(tmp_path, "fx", model("one"))
    publish(tmp_path, "coins", model("two"))
    assert current(tmp_path, "coins").version == 1
    assert load(tmp_path, "fx").metadata.name == "one"


def test_a_model_is_published_from_a_path(tmp_path: Path) -> None:
    """A file and its bytes are the same publication."""
    path = tmp_path / "m.onnx"
    path.write_bytes(model("one"))
    assert publish(tmp_path / "a", "fx", path) == publish(tmp_path / "b", "fx", model("one"))


def test_rollback_goes_back_one_by_one_under_new_versions(tmp_path: Path) -> None:
    """Versions only grow, models go back, and the first one has nothing before it."""
    for name in ("one", "two", "three"):
        publish(tmp_path, "fx", model(name), {"name": name})
    assert rollback(tmp_path, "fx").version == 4
    assert load(tmp_path, "fx").metadata.name == "two"
    assert rollback(tmp_path, "fx").fields == {"name": "one"}
    with pytest.raises(ModelError, match="nothing was published before version 5"):
        rollback(tmp_path, "fx")
    assert publish(tmp_path, "fx", model("four")).version == 6


def test_the_history_is_bounded(tmp_path: Path) -> None:
    """The entry keeps a fixed number of former champions."""
    for i in range(HISTORY + 5):
        publish(tmp_path, "fx", model(str(i % 3)))
    record = orjson.loads((tmp_path / "fx.json").read_bytes())
    assert [e["version"] for e in record["history"]] == list(range(5, HISTORY + 5))


@pytest.mark.parametrize("damage", [b"", b"noise", None])
def test_a_file_changed_on_disk_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    """The champion's file must have the digest that was published, and be there."""
    champion = publish(tmp_path, "fx", model("one"))
    path = tmp_path / champion.file
    if damage is None:
        path.write_bytes(model("two"))
    else:
        path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=champion.sha256):
        load(tmp_path, "fx")
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path, "fx")


def test_a_model_that_cannot_be_served_is_never_published(tmp_path: Path) -> None:
    """A bad file leaves the champion and writes nothing."""
    champion = publish(tmp_path, "fx", model("one"))
    before = sorted(tmp_path.iterdir())
    for bad in (b"", b"noise", model("two")[:-50]):
        with pytest.raises(ModelError):
            publish(tmp_path, "fx", bad)
    assert current(tmp_path, "fx") == champion
    assert sorted(tmp_path.iterdir()) == before


def test_rollback_does_not_point_to_a_lost_file(tmp_path: Path) -> None:
    """When the former champion's file is gone, the present one stays."""
    first = publish(tmp_path, "fx", model("one"))
    second = publish(tmp_path, "fx", model("two"))
    (tmp_path / first.file).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        rollback(tmp_path, "fx")
    assert current(tmp_path, "fx") == second


@pytest.mark.parametrize("name", ["", "../fx", "a/b", ".fx", "FX", "a.b", "x" * 65, "fx\n", "-a"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name is a file name and nothing else: no path, no dot, no capital that some disks fold."""
    folder = tmp_path / "champions"
    for call in (
        lambda: publish(folder, name, model("one")),
        lambda: current(folder, name),
        lambda: rollback(folder, name),
    ):
        with pytest.raises(ModelError, match="champion name"):
            call()
    assert not folder.exists()


def test_a_missing_champion_names_those_that_are_there(tmp_path: Path) -> None:
    """The message lists the choices; a folder that is not there has none."""
    publish(tmp_path, "fx", model("one"))
    with pytest.raises(ModelError, match="there are: fx"):
        current(tmp_path, "coins")
    with pytest.raises(ModelError, match="there are: none"):
        current(tmp_path / "none", "coins")
    with pytest.raises(ModelError, match="not there"):
        rollback(tmp_path / "none", "fx")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"champion": {}, "history": []}', b'{"champion": {"file": 1}}'])
def test_a_damaged_entry_is_refused(tmp_path: Path, text: bytes) -> None:
    """An entry that cannot be read is no champion, and is not overwritten."""
    publish(tmp_path, "fx", model("one"))
    (tmp_path / "fx.json").write_bytes(text)
    for call in (lambda: current(tmp_path, "fx"), lambda: publish(tmp_path, "fx", model("two"))):
        with pytest.raises(IntegrityError, match="damaged"):
            call()
    assert (tmp_path / "fx.json").read_bytes() == text


def test_an_entry_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    """A file name that does not follow from name and digest is refused."""
    publish(tmp_path, "fx", model("one"))
    path = tmp_path / "fx.json"
    path.write_bytes(path.read_bytes().replace(b'"file": "fx-', b'"file": "../fx-'))
    with pytest.raises(IntegrityError, match="damaged"):
        load(tmp_path, "fx")


_CRASH = """
import os, sys
from pathlib import Path
moment, calls, replace = int(sys.argv[2]), [], os.replace
def dying(a, b):
    calls.append(b)
    if len(calls) == moment:
        os._exit(9)
    replace(a, b)
    if len(calls) + 2 == moment:
        os._exit(9)
os.replace = dying
from pipeline.champions import publish
publish(Path(sys.argv[1]) / "c", "fx", Path(sys.argv[1]) / "m.onnx")
"""


@pytest.mark.parametrize(("moment", "version"), [(1, 1), (3, 1), (2, 1), (4, 2)])
def test_a_crash_leaves_the_old_champion_or_the_new_one(tmp_path: Path, moment: int, version: int) -> None:
    """A process that dies before or after each rename leaves a champion that can be served, and the next one works."""
    publish(tmp_path / "c", "fx", model("one"))
    (tmp_path / "m.onnx").write_bytes(model("two"))
    done = subprocess.run([sys.executable, "-c", _CRASH, str(tmp_path), str(moment)], check=False)
    assert done.returncode == 9
    assert current(tmp_path / "c", "fx").version == version
    assert load(tmp_path / "c", "fx").metadata.name == ("one", "two")[version - 1]
    assert publish(tmp_path / "c", "fx", model("three")).version == version + 1


def test_publishers_at_the_same_time_take_turns(tmp_path: Path) -> None:
    """Eight processes that publish at once give eight versions."""
    (tmp_path / "m.onnx").write_bytes(model("one"))
    code = "import sys; from pathlib import Path; from pipeline.champions import publish\n"
    code += "print(publish(Path(sys.argv[1]) / 'c', 'fx', Path(sys.argv[1]) / 'm.onnx').version)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    versions = [int(child.communicate()[0]) for child in children]
    assert sorted(versions) == list(range(1, 9))
    assert champions.current(tmp_path / "c", "fx").version == 8


def test_references_serve_beside_a_champion(tmp_path: Path) -> None:
    """References come back by name with their champion, and a rollback restores those of the former one."""
    (tmp_path / "ar.onnx").write_bytes(model("ar"))
    folder = tmp_path / "champions"
    first = publish(folder, "fx", model("one"), beside={"last_value": model("last"), "ar": tmp_path / "ar.onnx"})
    assert current(folder, "fx") == first
    publish(folder, "fx", model("two"), beside={"ar": model("one")})
    opened = references(folder, current(folder, "fx"))
    assert {name: session.metadata.name for name, session in opened.items()} == {"ar": "one"}
    back = rollback(folder, "fx")
    assert back.beside == first.beside
    opened = references(folder, current(folder, "fx"))
    assert {name: session.metadata.name for name, session in opened.items()} == {"last_value": "last", "ar": "ar"}


def test_entries_from_before_there_were_references_are_read(tmp_path: Path) -> None:
    """An entry without references has none, and is written without them, as earlier versions read it."""
    champion = publish(tmp_path, "fx", model("one"))
    record = orjson.loads((tmp_path / "fx.json").read_bytes())
    assert record["champion"].keys() == {"file", "sha256", "version", "fields"}
    assert champion.beside == current(tmp_path, "fx").beside == {}
    assert references(tmp_path, champion) == {}


def test_a_reference_that_cannot_be_served_is_never_published(tmp_path: Path) -> None:
    """A bad reference, or a name that is none, leaves the champion and writes nothing."""
    publish(tmp_path, "fx", model("one"))
    before = sorted(tmp_path.iterdir())
    for beside in ({"ar": b"noise"}, {"../ar": model("two")}, {"good": model("two"), "gone": tmp_path / "gone"}):
        with pytest.raises(ModelError):
            publish(tmp_path, "fx", model("three"), beside=beside)
    assert sorted(tmp_path.iterdir()) == before
    assert load(tmp_path, "fx").metadata.name == "one"


def test_a_lost_or_changed_reference_is_refused(tmp_path: Path) -> None:
    """References have the digests that were published, their files stay in the folder, and no rollback goes to less."""
    first = publish(tmp_path, "fx", model("one"), beside={"ar": model("ar")})
    second = publish(tmp_path, "fx", model("two"))
    path = tmp_path / first.beside["ar"].file
    path.write_bytes(model("other"))
    with pytest.raises(IntegrityError, match=first.beside["ar"].sha256):
        references(tmp_path, first)
    with pytest.raises(IntegrityError):
        rollback(tmp_path, "fx")
    assert current(tmp_path, "fx") == second
    entry = tmp_path / "fx.json"
    entry.write_bytes(entry.read_bytes().replace(path.name.encode(), b"../" + path.name.encode()))
    with pytest.raises(IntegrityError, match="damaged"):
        current(tmp_path, "fx")


def names(folder: Path) -> set[str]:
    """Give the names of the model files in a folder."""
    return {path.name for path in folder.iterdir() if path.name != "fx.json"}


def age(folder: Path, seconds: float) -> None:
    """Let every model file be older."""
    for path in folder.glob("*.onnx*"):
        past = path.stat().st_mtime - seconds
        os.utime(path, (past, past))


def test_files_that_fell_out_are_deleted_after_their_grace(tmp_path: Path) -> None:
    """An hour after the last entry that named it is gone, not after it was written, a file goes; named ones stay."""
    first = publish(tmp_path, "fx", model("first"), beside={"ar": model("ar")})
    for i in range(HISTORY):
        publish(tmp_path, "fx", model(str(i)), beside={"last_value": model("last")})
    age(tmp_path, 10 * GRACE_S)
    whole = names(tmp_path)
    second = publish(tmp_path, "fx", model("0"))
    assert names(tmp_path) == whole
    age(tmp_path, GRACE_S - 60)
    publish(tmp_path, "fx", model("0"))
    assert names(tmp_path) == whole
    age(tmp_path, 120)
    publish(tmp_path, "fx", model("0"))
    assert names(tmp_path) == whole - {first.file, first.beside["ar"].file}
    assert second.file in names(tmp_path)


def test_a_champion_that_was_gone_back_from_is_deleted_after_its_grace(tmp_path: Path) -> None:
    """What a rollback forgets stays for its grace, counted from the rollback, and goes with the next publication."""
    publish(tmp_path, "fx", model("one"))
    bad = publish(tmp_path, "fx", model("bad"))
    age(tmp_path, 10 * GRACE_S)
    rollback(tmp_path, "fx")
    publish(tmp_path, "fx", model("two"))
    assert bad.file in names(tmp_path)
    age(tmp_path, GRACE_S + 60)
    publish(tmp_path, "fx", model("three"))
    assert bad.file not in names(tmp_path)
    assert rollback(tmp_path, "fx").version == 6


def test_only_files_of_the_name_are_deleted(tmp_path: Path) -> None:
    """Files of other names, even of one that looks like a file of this one, and files of people stay."""
    kept = publish(tmp_path, "fx-0123456789ab", model("one")).file
    others = {kept, "fx-notes.onnx", "fx-0123456789abc.onnx", "xfx-0123456789ab.onnx", "fx-0123456789ab.txt"}
    ours = {"fx-0123456789ab.onnx", ".fx-0123456789ab.onnx.new"}
    for name in (others | ours) - {kept}:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    publish(tmp_path, "fx", model("two"))
    assert others <= names(tmp_path)
    assert not ours & names(tmp_path)
