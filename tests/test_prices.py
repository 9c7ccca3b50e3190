import fcntl
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataError, PolicyError, SchemaError, TransientError
from pipeline.prices import FORMAT_VERSION, SCHEMA, PriceStore, WriteResult, digest

Row = tuple[str, int, int, float | None]
IN_A_FOLDER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame(*rows: Row) -> pl.DataFrame:
    """Make a price frame of (series, day, day on which it became known, price)."""
    table = pl.DataFrame(rows, schema=list(SCHEMA), orient="row", schema_overrides={"price": pl.Float64})
    day = pl.col("time", "available_time").cast(pl.Int64) * 86_400_000_000
    return table.with_columns(day).cast(SCHEMA)


def day(n: int) -> datetime:
    """Give day `n` as a naive datetime."""
    return datetime(1970, 1, 1) + timedelta(days=n)


def content(folder: Path) -> dict[str, bytes]:
    """Read all files of a store."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ROWS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9), st.integers(0, 9)), min_size=1, unique=True
).map(lambda keys: [(s, t, t + a, None if t == 3 else float(t - a)) for s, t, a in keys])


def test_what_was_written_is_read_sorted(tmp_path: Path) -> None:
    """A store gives back its rows, nulls included, sorted by series and time."""
    store = PriceStore(tmp_path / "store")
    written = store.write(frame(("b", 2, 2, 4.0), ("a", 2, 2, None), ("b", 1, 1, 3.0), ("a", 1, 1, -0.5)))
    assert written == WriteResult(added=4, unchanged=0, revisions=0)
    rows = frame(("a", 1, 1, -0.5), ("a", 2, 2, None), ("b", 1, 1, 3.0), ("b", 2, 2, 4.0))
    assert store.read().equals(rows)
    assert store.read("b").equals(rows[2:])
    assert store.read(["b", "a"]).equals(rows)


@IN_A_FOLDER
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 20))
def test_content_does_not_depend_on_order_or_portions(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], random, buckets: int
) -> None:
    """Any order, any chunking with repeats and any number of buckets give one digest and one reading."""
    whole = PriceStore(tmp_path_factory.mktemp("whole"))
    whole.write(frame(*rows))
    parts = PriceStore(tmp_path_factory.mktemp("parts"), buckets=buckets)
    shuffled = random.sample(rows, len(rows))
    cut = random.randint(0, len(rows))
    for part in (shuffled[:cut], shuffled[cut // 2 :]):
        parts.write(frame(*part))
    assert parts.digest() == whole.digest()
    assert parts.read().equals(whole.read())


@IN_A_FOLDER
@given(ROWS, st.integers(0, 20))
def test_reading_equals_a_loop_over_vintages(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], known: int
) -> None:
    """For each (series, time) the price with the latest available time up to the moment is read."""
    store = PriceStore(tmp_path_factory.mktemp("store"))
    store.write(frame(*rows))
    latest = {(s, t): (s, t, a, p) for s, t, a, p in sorted(rows, key=lambda r: r[2]) if a <= known}
    assert store.read(known_at=day(known)).equals(frame(*sorted(latest.values(), key=lambda r: r[:2])))


def test_a_revision_is_a_vintage_and_hides_nothing_from_the_past(tmp_path: Path) -> None:
    """A price with another available time is kept beside the first one; each is read at its moment."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 10.0), ("a", 2, 2, 20.0)))
    assert store.write(frame(("a", 1, 5, 11.0))) == WriteResult(added=1, unchanged=0, revisions=1)
    assert store.read(known_at=day(4))["price"].to_list() == [10.0, 20.0]
    assert store.read(known_at=day(5))["price"].to_list() == [11.0, 20.0]
    assert store.read(known_at=day(0)).is_empty()
    east = timezone(timedelta(hours=2))
    assert store.read(known_at=(day(5) + timedelta(hours=1)).replace(tzinfo=east))["price"][0] == 10.0
    assert store.series().rows() == [("a", 2, *store.read()["time"])]


def test_writing_the_same_rows_again_touches_nothing(tmp_path: Path) -> None:
    """A second write of the same rows leaves every file and the digest bit for bit as they were."""
    rows = frame(*[(s, t, t, t + 0.5) for s in "abcdefghijk" for t in range(20)])
    store = PriceStore(tmp_path)
    store.write(rows)
    before, times, was = content(tmp_path), [p.stat().st_mtime_ns for p in tmp_path.iterdir()], store.digest()
    assert store.write(rows.sample(fraction=1, shuffle=True, seed=1)) == WriteResult(
        added=0, unchanged=220, revisions=0
    )
    assert content(tmp_path) == before
    assert [p.stat().st_mtime_ns for p in tmp_path.iterdir()] == times
    assert store.digest() == was


def test_a_write_replaces_only_the_buckets_it_changes(tmp_path: Path) -> None:
    """One new row leaves the files of all other buckets as they are, and removes the old file of its own."""
    store = PriceStore(tmp_path)
    store.write(frame(*[(f"s{k}", 1, 1, 1.0) for k in range(200)]))
    before = content(tmp_path)
    assert len(before) == 16 + 1  # the default number of buckets, and the manifest
    store.write(frame(("s7", 2, 2, 2.0)))
    after = content(tmp_path)
    assert len(before.keys() - after.keys()) == len(after.keys() - before.keys()) == 1
    assert store.series().filter(pl.col("rows") == 2)["series_id"].to_list() == ["s7"]


def test_a_series_has_the_same_bucket_on_every_machine(tmp_path: Path) -> None:
    """The bucket is the CRC-32 of the name; 0xCBF43926 is the check value that the CRC catalogue gives."""
    PriceStore(tmp_path, buckets=16).write(frame(("123456789", 1, 1, 1.0)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["files"]) == [str(0xCBF43926 % 16)]


def test_a_store_keeps_its_number_of_buckets(tmp_path: Path) -> None:
    """The number in the manifest holds, whatever a later opening asks for."""
    PriceStore(tmp_path, buckets=3).write(frame(("a", 1, 1, 1.0)))
    PriceStore(tmp_path, buckets=500).write(frame(*[(f"s{k}", 1, 1, 1.0) for k in range(50)]))
    assert len(list(tmp_path.glob("bucket-*"))) == 3
    assert PriceStore(tmp_path).read().height == 51


def test_a_conflicting_price_is_refused_and_nothing_of_its_frame_is_kept(tmp_path: Path) -> None:
    """Two prices for one key are refused with both values; the other rows of the frame stay out too."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 10.0)))
    before = content(tmp_path)
    with pytest.raises(PolicyError, match=r"conflict: 1 rows .* a at 1970-01-02 .*: 10.0 and 10.5, .*keep_last"):
        store.write(frame(*[(s, 1, 1, 10.5) for s in "bcdefgha"]))
    with pytest.raises(PolicyError, match="None and 2"):
        store.write(frame(("z", 1, 1, 2.0), ("z", 1, 1, None)))
    assert content(tmp_path) == before


def test_zeros_of_either_sign_are_one_price(tmp_path: Path) -> None:
    """Minus zero is stored as zero, so that equal prices have equal digests."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 0.0)))
    assert store.write(frame(("a", 1, 1, -0.0))).unchanged == 1
    assert digest(store.read()) == digest(frame(("a", 1, 1, 0.0))) != digest(frame(("a", 1, 1, 1.0)))


def test_the_digest_is_the_same_in_every_version() -> None:
    """The sha256 of a known frame, recomputed from the documented bytes by hand."""
    day_us = 86_400_000_000
    raw = b'[["a", 2], ["b", 1]]' + struct.pack("<6q", day_us, 2 * day_us, day_us, day_us, 2 * day_us, 3 * day_us)
    raw += struct.pack("<3d", 1.5, float("nan"), 2.5)
    rows = frame(("b", 1, 3, 2.5), ("a", 2, 2, None), ("a", 1, 1, 1.5))
    assert digest(rows) == hashlib.sha256(raw).hexdigest()


KILLED = """
import os, signal, sys
import polars as pl
from pipeline import prices
rows = pl.read_parquet(sys.argv[2])
{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
prices.PriceStore(sys.argv[1]).write(rows)
"""


@pytest.mark.parametrize("moment", ["os.replace", "prices._sync"])
def test_a_write_that_is_killed_leaves_the_old_state(tmp_path: Path, moment: str) -> None:
    """A process killed after its first file, or just before the manifest flips, changes nothing readable."""
    store, fresh = PriceStore(tmp_path / "store"), tmp_path / "new.parquet"
    store.write(frame(*[(s, 1, 1, 1.0) for s in "abcdef"]))
    before, was = content(store.folder), store.digest()
    more = frame(*[(s, 2, 2, 2.0) for s in "abcdef"])
    more.write_parquet(fresh)
    command = [sys.executable, "-c", KILLED.format(moment=moment), str(store.folder), str(fresh)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(content(store.folder)) > len(before)  # it had begun
    assert store.digest() == was
    assert store.write(more) == WriteResult(added=6, unchanged=0, revisions=0)
    assert len(content(store.folder)) == len(before)  # its remains are gone
    assert store.read().height == 12


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    """When the new manifest cannot be written, the old files are in force and the new ones are removed."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    before = content(tmp_path)
    (tmp_path / "manifest.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        store.write(frame(("a", 2, 2, 2.0), ("b", 2, 2, 2.0)))
    (tmp_path / "manifest.json.new").rmdir()
    assert content(tmp_path) == before


def test_readers_see_whole_states_while_another_writes(tmp_path: Path) -> None:
    """Every reading during six writes is a state between two writes, never a mixture."""
    store = PriceStore(tmp_path)
    store.write(frame(*[(s, 0, 0, 0.0) for s in "abcdefgh"]))
    writes = threading.Thread(
        target=lambda: [store.write(frame(*[(s, n, n, float(n)) for s in "abcdefgh"])) for n in range(1, 7)]
    )
    writes.start()
    seen = set()
    while writes.is_alive():
        rows = store.series()["rows"]
        assert rows.n_unique() == 1
        seen.add(rows[0])
    writes.join()
    assert len(seen) > 1
    assert store.read().height == 8 * 7


class Overtaken(PriceStore):
    """A store in which a write by another one comes between looking up the files and reading them."""

    rows = frame(("a", 2, 2, 2.0))

    def _manifest(self):
        manifest = super()._manifest()
        PriceStore(self.folder).write(self.rows)
        return manifest


def test_a_reading_overtaken_by_a_write_starts_again(tmp_path: Path) -> None:
    """When the files looked up are swept away before they are read, the new state is read."""
    PriceStore(tmp_path).write(frame(("a", 1, 1, 1.0)))
    assert Overtaken(tmp_path).read()["price"].to_list() == [1.0, 2.0]


def test_a_second_writer_is_told_to_try_again(tmp_path: Path) -> None:
    """While one process holds the store, another one's write is refused as transient."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(TransientError, match="another process is writing"):
        store.write(frame(("a", 2, 2, 1.0)))
    os.close(handle)
    assert store.write(frame(("a", 2, 2, 1.0))).added == 1


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Reading nothing, writing among foreign files and reading a torn manifest say what is there."""
    with pytest.raises(DataError, match=r"is not a price store: it has no manifest.json"):
        PriceStore(tmp_path / "nowhere").read()
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DataError, match=r"holds other files \(thesis.doc"):
        PriceStore(tmp_path).write(frame(("a", 1, 1, 1.0)))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "bu')
    with pytest.raises(DataError, match="is not the manifest of a price store"):
        PriceStore(tmp_path).series()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A store of a later format version is neither read nor written."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": FORMAT_VERSION + 1}))
    for act in (store.read, lambda: store.write(frame(("a", 2, 2, 1.0)))):
        with pytest.raises(DataError, match=r"format version 2; .* reads up to 1. Update statecast"):
            act()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A store that lost a file says which, and does not read the rest as if it were all."""
    store = PriceStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0), ("b", 1, 1, 1.0)))
    lost = next(tmp_path.glob("bucket-*"))
    lost.unlink()
    with pytest.raises(DataError, match=f"is damaged: .*{lost.name}"):
        store.read()


def test_an_unknown_series_gets_the_nearest_name(tmp_path: Path) -> None:
    """A misspelt series is refused with the nearest and all known names."""
    store = PriceStore(tmp_path)
    store.write(frame(("NASDAQ", 1, 1, 1.0), ("WTI", 1, 1, 1.0)))
    with pytest.raises(DataError, match=r"unknown series 'NASDQ': did you mean 'NASDAQ'\? Known: NASDAQ, WTI"):
        store.read(["WTI", "NASDQ"])


def test_frames_that_are_no_prices_are_refused(tmp_path: Path) -> None:
    """A missing column, a wrong type, a missing key and a price that is not finite never enter."""
    store, rows = PriceStore(tmp_path), frame(("a", 1, 1, 1.0))
    with pytest.raises(SchemaError, match="unknown column of the price frame 'price'"):
        store.write(rows.drop("price"))
    with pytest.raises(SchemaError, match=r"column 'time' must be Datetime.*UTC.*, not Date"):
        store.write(rows.with_columns(pl.col("time").cast(pl.Date)))
    for name, value in (("series_id", None), ("time", None), ("price", float("nan")), ("price", float("inf"))):
        with pytest.raises(DataError, match=r"1 rows have no .* the first is"):
            store.write(rows.with_columns(pl.lit(value, dtype=SCHEMA[name]).alias(name)))
    with pytest.raises(ConfigError, match="between 1 and 999, not 0"):
        PriceStore(tmp_path, buckets=0)


def test_an_empty_write_makes_an_empty_store(tmp_path: Path) -> None:
    """A store can hold nothing: reading it gives no rows in the right columns."""
    store = PriceStore(tmp_path)
    store.write(frame())
    assert store.read().schema == SCHEMA
    assert store.read().is_empty()
    assert store.series().is_empty()
