"""A store of vintages keeps what was known when, whole after any crash, and touches little when it grows."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import ConfigError, DataError, PolicyError, SchemaError, TransientError
from pipeline import vintages
from pipeline.prices import KEY, SCHEMA
from pipeline.vintages import FORMAT_VERSION, VintageStore, WriteResult, bucket_of, digest

Row = tuple[str, int, int, float | None]
IN_A_FOLDER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame(*rows: Row) -> pl.DataFrame:
    """Make a price frame of (series, day, day on which it became known, price)."""
    table = pl.DataFrame(rows, schema=list(SCHEMA), orient="row", schema_overrides={"price": pl.Float64})
    day = pl.col("time", "available_time").cast(pl.Int64) * 86_400_000_000
    return table.with_columns(day).cast(SCHEMA)


def undated(*rows: tuple[str, int, int | None, float | None]) -> pl.DataFrame:
    """Make a price frame in which the day on which a price became known may be missing."""
    return frame(*rows)  # type: ignore[arg-type]


def utc(n: int) -> datetime:
    """Give day `n` as a moment."""
    return day(n).replace(tzinfo=UTC)


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
    store = VintageStore(tmp_path / "store")
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
    whole = VintageStore(tmp_path_factory.mktemp("whole"))
    whole.write(frame(*rows))
    parts = VintageStore(tmp_path_factory.mktemp("parts"), buckets=buckets)
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
    store = VintageStore(tmp_path_factory.mktemp("store"))
    store.write(frame(*rows))
    latest = {(s, t): (s, t, a, p) for s, t, a, p in sorted(rows, key=lambda r: r[2]) if a <= known}
    assert store.read(known_at=day(known)).equals(frame(*sorted(latest.values(), key=lambda r: r[:2])))


def test_a_revision_is_a_vintage_and_hides_nothing_from_the_past(tmp_path: Path) -> None:
    """A price with another available time is kept beside the first one; each is read at its moment."""
    store = VintageStore(tmp_path)
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
    store = VintageStore(tmp_path)
    store.write(rows)
    before, times, was = content(tmp_path), [p.stat().st_mtime_ns for p in tmp_path.iterdir()], store.digest()
    assert store.write(rows.sample(fraction=1, shuffle=True, seed=1)) == WriteResult(
        added=0, unchanged=220, revisions=0
    )
    assert content(tmp_path) == before
    assert [p.stat().st_mtime_ns for p in tmp_path.iterdir()] == times
    assert store.digest() == was


def test_a_small_write_lays_one_small_file_beside_the_others(tmp_path: Path) -> None:
    """One new row in a large store touches no file that is there but the manifest."""
    store = VintageStore(tmp_path)
    store.write(frame(*[(f"s{k}", 1, 1, 1.0) for k in range(2000)]))
    before = content(tmp_path)
    assert len(before) == 64 + 1  # the default number of buckets, and the manifest
    store.write(frame(("s7", 2, 2, 2.0)))
    after = content(tmp_path)
    assert len(after.keys() - before.keys()) == 1
    assert [name for name in before if after[name] != before[name]] == ["manifest.json"]
    assert store.series().filter(pl.col("rows") == 2)["series_id"].to_list() == ["s7"]


@IN_A_FOLDER
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_files_stay_few(tmp_path_factory: pytest.TempPathFactory, portions: list[int]) -> None:
    """After appends of any sizes a bucket of n rows has at most log2(n) + 1 files, and is read as one."""
    store, rows = VintageStore(tmp_path_factory.mktemp("store"), buckets=1), 0
    for portion in portions:
        store.write(frame(*[("a", n, n, float(n)) for n in range(rows, rows + portion)]))
        rows += portion
        assert len(list(store.folder.glob("bucket-*"))) <= math.log2(rows) + 1
    assert store.read()["price"].to_list() == [float(n) for n in range(rows)]


def test_a_series_has_the_same_bucket_on_every_machine(tmp_path: Path) -> None:
    """The bucket is the CRC-32 of the name; 0xCBF43926 is the check value that the CRC catalogue gives."""
    VintageStore(tmp_path, buckets=16).write(frame(("123456789", 1, 1, 1.0)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest["files"]) == [str(0xCBF43926 % 16)] == [str(bucket_of("123456789", 16))]


def test_a_store_keeps_its_number_of_buckets(tmp_path: Path) -> None:
    """The number in the manifest holds, whatever a later opening asks for."""
    VintageStore(tmp_path, buckets=3).write(frame(("a", 1, 1, 1.0)))
    VintageStore(tmp_path, buckets=500).write(frame(*[(f"s{k}", 1, 1, 1.0) for k in range(50)]))
    assert len({path.name[:10] for path in tmp_path.glob("bucket-*")}) == 3
    assert VintageStore(tmp_path).read().height == 51


def test_a_conflicting_price_is_refused_and_nothing_of_its_frame_is_kept(tmp_path: Path) -> None:
    """Two prices for one key are refused with both values; the other rows of the frame stay out too."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 10.0)))
    before = content(tmp_path)
    with pytest.raises(
        PolicyError, match=r"conflict: 1 rows .* a at 1970-01-02 .*: price 10.0 and 10.5, .*later available_time"
    ):
        store.write(frame(*[(s, 1, 1, 10.5) for s in "bcdefgha"]))
    with pytest.raises(PolicyError, match=r"price 2\.0 and None"):
        store.write(frame(("z", 1, 1, 2.0), ("z", 1, 1, None)))
    assert content(tmp_path) == before


def test_zeros_of_either_sign_are_one_price(tmp_path: Path) -> None:
    """Minus zero is stored as zero, so that equal prices have equal digests."""
    store = VintageStore(tmp_path)
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
import itertools, os, signal, sys
import polars as pl
from pipeline.vintages import VintageStore
calls = itertools.count()
def deadly(act):
    def acted(*args, **kwargs):
        if next(calls) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*args, **kwargs)
    return acted
for name in ("open", "fsync", "replace", "unlink"):
    setattr(os, name, deadly(getattr(os, name)))
VintageStore(sys.argv[1]).write(pl.read_parquet(sys.argv[2]))
print(next(calls))
"""


def test_a_write_that_is_killed_at_any_moment_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    """A process killed before each of its file operations in turn leaves a whole state, and the next write heals it."""
    first, more = frame(*[(s, 1, 1, 1.0) for s in "abcdef"]), frame(*[(s, 2, 2, 2.0) for s in "abcdef"])
    more.write_parquet(tmp_path / "more.parquet")
    VintageStore(tmp_path / "old", buckets=2).write(first)
    shutil.copytree(tmp_path / "old", tmp_path / "whole")
    command = [sys.executable, "-c", KILLED]
    run = [*command, str(tmp_path / "whole"), str(tmp_path / "more.parquet"), "-1"]
    operations = int(subprocess.run(run, check=True, capture_output=True).stdout)
    assert operations >= 13  # lock; write, name, sync of two files and the manifest; removal of two files
    old, new = VintageStore(tmp_path / "old").digest(), VintageStore(tmp_path / "whole").digest()
    seen = []
    for moment in range(operations):
        shutil.copytree(tmp_path / "old", tmp_path / str(moment))
        seen.append(subprocess.Popen([*command, str(tmp_path / str(moment)), run[-2], str(moment)]))
    assert {killed.wait() for killed in seen} == {-signal.SIGKILL}
    stores = [VintageStore(tmp_path / str(moment)) for moment in range(operations)]
    digests = [store.digest() for store in stores]
    turn = digests.index(new)
    assert digests == [old] * turn + [new] * (operations - turn)
    for store in stores:
        store.write(more)
        assert store.digest() == new
        assert content(store.folder).keys() == content(tmp_path / "whole").keys()


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    """When the new manifest cannot be written, the old files are in force and the new ones are removed."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    before = content(tmp_path)
    (tmp_path / ".manifest.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        store.write(frame(("a", 2, 2, 2.0), ("b", 2, 2, 2.0)))
    (tmp_path / ".manifest.json.new").rmdir()
    assert content(tmp_path) == before


def test_readers_see_whole_states_while_another_writes(tmp_path: Path) -> None:
    """Every reading during six writes is a state between two writes, never a mixture."""
    store = VintageStore(tmp_path)
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


class Overtaken(VintageStore):
    """A store in which a write by another one comes between looking up the files and reading them."""

    rows = frame(("a", 2, 2, 2.0))

    def _manifest(self):
        manifest = super()._manifest()
        VintageStore(self.folder).write(self.rows)
        return manifest


def test_a_reading_overtaken_by_a_write_starts_again(tmp_path: Path) -> None:
    """When the files looked up are swept away before they are read, the new state is read."""
    VintageStore(tmp_path).write(frame(("a", 1, 1, 1.0)))
    assert Overtaken(tmp_path).read()["price"].to_list() == [1.0, 2.0]


def test_a_second_writer_is_told_to_try_again(tmp_path: Path) -> None:
    """While one process holds the store, another one's write is refused as transient."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(TransientError, match="another process is writing"):
        store.write(frame(("a", 2, 2, 1.0)))
    os.close(handle)
    assert store.write(frame(("a", 2, 2, 1.0))).added == 1


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Reading nothing, writing among foreign files and reading a torn manifest say what is there."""
    with pytest.raises(DataError, match=r"is not a store: it has no manifest.json"):
        VintageStore(tmp_path / "nowhere").read()
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DataError, match=r"holds other files \(thesis.doc"):
        VintageStore(tmp_path).write(frame(("a", 1, 1, 1.0)))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]
    (tmp_path / "manifest.json").write_text('{"format_version": 2, "bu')
    with pytest.raises(DataError, match="is not the manifest of a store"):
        VintageStore(tmp_path).series()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A store of a later format version is neither read nor written."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": FORMAT_VERSION + 1}))
    for act in (store.read, lambda: store.write(frame(("a", 2, 2, 1.0)))):
        with pytest.raises(DataError, match=r"format version 3; .* reads 2. Update statecast"):
            act()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A store that lost a file says which, and does not read the rest as if it were all."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0), ("b", 1, 1, 1.0)))
    lost = next(tmp_path.glob("bucket-*"))
    lost.unlink()
    with pytest.raises(DataError, match=f"is damaged: .*{lost.name}"):
        store.read()


def test_an_unknown_series_gets_the_nearest_name(tmp_path: Path) -> None:
    """A misspelt series is refused with the nearest and all known names."""
    store = VintageStore(tmp_path)
    store.write(frame(("NASDAQ", 1, 1, 1.0), ("WTI", 1, 1, 1.0)))
    with pytest.raises(DataError, match=r"unknown series 'NASDQ': did you mean 'NASDAQ'\? Known: NASDAQ, WTI"):
        store.read(["WTI", "NASDQ"])


def test_frames_that_are_no_prices_are_refused(tmp_path: Path) -> None:
    """A missing column, a wrong type, a missing key and a price that is not finite never enter."""
    store, rows = VintageStore(tmp_path), frame(("a", 1, 1, 1.0))
    with pytest.raises(SchemaError, match="unknown column of the frame 'price'"):
        store.write(rows.drop("price"))
    with pytest.raises(SchemaError, match=r"column 'time' must be Datetime.*UTC.*, not Date"):
        store.write(rows.with_columns(pl.col("time").cast(pl.Date)))
    for name, value in (("series_id", None), ("time", None), ("price", float("nan")), ("price", float("inf"))):
        with pytest.raises(DataError, match=r"1 rows have no .* the first is"):
            store.write(rows.with_columns(pl.lit(value, dtype=SCHEMA[name]).alias(name)))
    with pytest.raises(ConfigError, match="between 1 and 999, not 0"):
        VintageStore(tmp_path, buckets=0)


def test_an_empty_write_makes_an_empty_store(tmp_path: Path) -> None:
    """A store can hold nothing: reading it gives no rows in the right columns."""
    store = VintageStore(tmp_path)
    store.write(frame())
    assert store.read().schema == SCHEMA
    assert store.read().is_empty()
    assert store.series().is_empty()


DAYS_LATER = 1_000
"""The day on which the writes of the tests below happen."""


def test_a_value_without_its_moment_is_known_at_once_and_its_revision_now(tmp_path: Path) -> None:
    """A new value is known from its own time on, another one from the write on, and the same one changes nothing."""
    store, now = VintageStore(tmp_path), day(DAYS_LATER)
    for added in (2, 0):
        written = store.write(undated(("a", 1, None, 10.0), ("a", 2, None, 20.0)), now=now)
        assert (written.added, written.revised.height) == (added, 0)
        assert set(KEY) <= set(written.revised.columns)
    assert store.read().equals(frame(("a", 1, 1, 10.0), ("a", 2, 2, 20.0)))
    written = store.write(undated(("a", 1, None, 10.0), ("a", 2, None, 21.0), ("b", 1, None, None)), now=now)
    assert written == WriteResult(added=2, unchanged=1, revisions=1)
    (row,) = written.revised.to_dicts()
    assert (row["series_id"], row["old_price"], row["new_price"]) == ("a", 20.0, 21.0)
    assert (row["time"], row["available_time"]) == (utc(2), utc(DAYS_LATER))
    assert store.read("a", known_at=day(DAYS_LATER - 1))["price"].to_list() == [10.0, 20.0]
    assert store.read("a", known_at=day(DAYS_LATER))["price"].to_list() == [10.0, 21.0]


def test_a_value_that_comes_back_is_two_revisions(tmp_path: Path) -> None:
    """A, then B, then A again are three vintages, each later than the one before although the clock stands still."""
    store, now = VintageStore(tmp_path), day(DAYS_LATER)
    store.write(undated(("a", 1, None, 1.0)))
    assert [store.write(undated(("a", 1, None, p)), now=now).revisions for p in (2.0, 2.0, 1.0)] == [1, 0, 1]
    held = store.vintages()
    assert held["price"].to_list() == [1.0, 2.0, 1.0]
    assert held["available_time"].to_list() == [utc(1), utc(DAYS_LATER), utc(DAYS_LATER) + timedelta(microseconds=1)]


def test_a_revision_is_known_now_by_the_clock(tmp_path: Path) -> None:
    """Without `now`, a revision becomes known between the beginning and the end of its write."""
    store = VintageStore(tmp_path)
    store.write(undated(("a", 1, None, 1.0)))
    before = datetime.now(UTC)
    store.write(undated(("a", 1, None, 2.0)))
    assert before <= store.read()["available_time"][0] <= datetime.now(UTC)


WRITES = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 3),
            st.none() | st.integers(0, 6),
            st.sampled_from([None, 1.0, 2.0]),
        ),
        max_size=6,
        unique_by=lambda row: row[:3],
    ),
    min_size=1,
    max_size=5,
)


def modelled(writes: list[list[tuple[str, int, int | None, float | None]]]) -> tuple[dict, list[int]]:
    """Keep vintages in a dict, one row at a time; the write numbered k happens on day 100 + k."""
    held: dict[tuple[str, int], dict[int, float | None]] = {}
    revisions = []
    for k, rows in enumerate(writes):
        fresh: list[tuple[tuple[str, int], int]] = []
        for series, time, known, price in sorted(rows, key=lambda row: (row[2] is None, row[2] or 0)):
            vintages = held.setdefault((series, time), {})
            moment = known
            if moment is None:
                if vintages and vintages[max(vintages)] == price:
                    continue
                moment = 100 + k if vintages else time
            if moment in vintages:
                if vintages[moment] != price:
                    raise KeyError("conflict")
                continue
            vintages[moment] = price
            fresh.append(((series, time), moment))
        befores = [(held[key], m, max((v for v in held[key] if v < m), default=None)) for key, m in fresh]
        revisions.append(sum(before is not None and v[before] != v[m] for v, m, before in befores))
    return held, revisions


@IN_A_FOLDER
@given(WRITES)
def test_any_writes_equal_a_loop_over_rows(tmp_path_factory: pytest.TempPathFactory, writes: list) -> None:
    """Dated and undated rows in any mixture leave the vintages and the counts that a naive loop over rows gives."""
    store = VintageStore(tmp_path_factory.mktemp("store"), buckets=2)
    try:
        held, revisions = modelled(writes)
    except KeyError:
        with pytest.raises(PolicyError, match="conflict"):
            [store.write(undated(*rows), now=day(100 + k)) for k, rows in enumerate(writes)]
        return
    counted = [store.write(undated(*rows), now=day(100 + k)).revisions for k, rows in enumerate(writes)]
    rows = [(s, t, a, price) for (s, t), vintages in held.items() for a, price in vintages.items()]
    assert store.vintages().equals(frame(*sorted(rows, key=lambda row: row[:3])))
    assert counted == revisions


def test_revisions_are_all_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    """A write that revises more than is shown says how many there were, over all its frames."""
    store, names = VintageStore(tmp_path, buckets=3), [f"s{k}" for k in range(vintages.REVISED_KEPT + 100)]
    store.write(frame(*[(name, 1, 1, 1.0) for name in names]))
    with store.writing() as batch:
        batch.add(undated(*[(name, 1, None, 2.0) for name in names[:100]]))
        batch.add(undated(*[(name, 1, None, 2.0) for name in names[100:]]))
    assert batch.result.revisions == len(names)
    assert batch.result.revised.height == vintages.REVISED_KEPT
    assert (batch.result.revised["old_price"].unique().item(), batch.result.revised["new_price"].unique().item()) == (
        1,
        2,
    )


def test_a_batch_comes_in_force_as_a_whole(tmp_path: Path) -> None:
    """Nothing of a batch is read until it ends; then all of it, a series that two of its frames extend included."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    with store.writing() as batch:
        batch.add(frame(("a", 2, 2, 2.0), ("b", 1, 1, 1.0)))
        batch.add(frame(("a", 2, 2, 2.0), ("a", 3, 3, 3.0)))
        assert store.read().height == 1
    assert batch.result == WriteResult(added=3, unchanged=1, revisions=0)
    assert store.read()["price"].to_list() == [1.0, 2.0, 3.0, 1.0]


def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An error in the block, the caller's or a refusal, leaves every file as it was."""
    store = VintageStore(tmp_path)
    store.write(frame(("a", 1, 1, 1.0)))
    before = content(tmp_path)

    def add(*frames: pl.DataFrame) -> None:
        with store.writing() as batch:
            for rows in frames:
                batch.add(rows)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        add(frame(("a", 2, 2, 2.0), ("b", 1, 1, 1.0)))
    with pytest.raises(PolicyError):
        add(frame(("b", 2, 2, 2.0)), frame(("a", 1, 1, 2.0)))
    assert content(tmp_path) == before


def test_a_reading_by_span_and_column_is_a_filter_of_all(tmp_path: Path) -> None:
    """Start is included, end is not, columns come in the order asked for, and lazily or not the rows are the same."""
    store = VintageStore(tmp_path, buckets=2)
    for n in range(9):
        store.write(frame(*[(s, n, n, float(n)) for s in "abcde"]))
    rows = store.read()
    wanted = rows.filter(
        pl.col("time").is_between(utc(3), utc(6), closed="left"), pl.col("series_id").is_in(["b", "d"])
    )
    assert wanted.height == 6
    choice = {"start": day(3), "end": utc(6), "known_at": day(7)}
    assert store.read(["d", "b"], **choice).equals(wanted)
    assert store.read(["d", "b"], columns=["price", "time"], **choice).equals(wanted.select("price", "time"))
    lazy = store.scan(["d", "b"], columns=["series_id", "price"], **choice).collect()
    assert lazy.sort("series_id", "price").equals(wanted.select("series_id", "price"))
    assert store.vintages("b", start=day(3), end=day(6)).equals(wanted.filter(series_id="b"))
    assert store.read("a", start=day(100)).is_empty()
    with pytest.raises(SchemaError, match="unknown column of the store 'prices': did you mean 'price'"):
        store.read(columns=["prices"])


def test_a_reading_opens_only_the_files_of_its_span(tmp_path: Path) -> None:
    """With the file of the old rows gone, recent rows are still read: what is out of the span costs nothing."""
    store = VintageStore(tmp_path, buckets=1)
    store.write(frame(*[("a", n, n, float(n)) for n in range(50)]))
    (old,) = tmp_path.glob("bucket-*")
    store.write(frame(("a", 50, 50, 50.0)))
    old.unlink()
    assert store.read("a", start=day(50))["price"].to_list() == [50.0]
    with pytest.raises(DataError, match="is damaged"):
        store.read("a", start=day(49))


def test_columns_that_come_later_are_null_before(tmp_path: Path) -> None:
    """A store of whatever frames bring takes new columns; rows without them are null there, and keep what they have."""
    store, now = VintageStore(tmp_path, None, buckets=1), day(DAYS_LATER)
    early = frame(("a", 1, 1, 1.0), ("a", 2, 2, 2.0)).rename({"price": "volume"})
    store.write(early)
    written = store.write(undated(("a", 2, None, 7.0), ("a", 3, None, 8.0)).rename({"price": "load"}), now=now)
    assert written == WriteResult(added=2, unchanged=0, revisions=1)
    assert store.read(columns=["volume", "load"]).rows() == [(1.0, None), (2.0, 7.0), (None, 8.0)]
    assert store.read(known_at=day(3), columns=["volume", "load"]).rows() == [(1.0, None), (2.0, None), (None, 8.0)]
    assert store.write(early) == WriteResult(added=0, unchanged=2, revisions=0)
    with pytest.raises(SchemaError, match="needs a column beside series_id, time, available_time"):
        store.write(early.drop("volume"))
    with pytest.raises(DataError, match="holds volume, load, not price"):
        VintageStore(tmp_path).read()


def test_a_conflict_of_rows_without_their_moment_is_refused(tmp_path: Path) -> None:
    """Two values for one moment in one frame, neither saying when it became known, cannot both be the first."""
    with pytest.raises(PolicyError, match=r"a at 1970-01-02 .*: price 1.0 and 2.0, neither with an available_time"):
        VintageStore(tmp_path).write(undated(("a", 1, None, 1.0), ("a", 1, None, 2.0)))


def test_a_store_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """The message says that the files are to be ingested again into a new folder."""
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "generation": 1, "buckets": 16, "files": {}}')
    for act in (VintageStore(tmp_path).read, lambda: VintageStore(tmp_path).write(frame(("a", 1, 1, 1.0)))):
        with pytest.raises(DataError, match=r"made by an earlier version.* ingest the files again into a new folder"):
            act()


def test_an_unknown_series_among_many_gets_the_nearest_names(tmp_path: Path) -> None:
    """The message does not list thousands of names."""
    store = VintageStore(tmp_path)
    store.write(frame(*[(f"S{k:05d}", 1, 1, 1.0) for k in range(1000)]))
    with pytest.raises(DataError, match=r"unknown series 'S0099': did you mean .*one of 1000 in store") as error:
        store.read(["S00001", "S0099"])
    assert len(str(error.value)) < 500
