"""Files go through their policies into the store whole, or not at all; the account of it adds up."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_epf import lines as electricity
from test_epf import write as write_epf

from models.errors import ConfigError, DataError, SchemaError
from pipeline.bars import BarConfig
from pipeline.calendars import Calendars
from pipeline.faults import CHOICES, Policy
from pipeline.ingest import IngestConfig, RefusedError, ingest
from pipeline.layout import Columns
from pipeline.prices import SCHEMA, PriceStore, digest
from pipeline.report import IngestReport
from pipeline.sources import sample

HEADER = "series_id,time,price\n"


def csv(folder: Path, *lines: str, header: str = HEADER, name: str = "prices.csv") -> str:
    """Write a CSV file and give its path."""
    path = folder / name
    path.write_text(header + "".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def taken(folder: Path, *paths: str, **settings: Any) -> tuple[pl.DataFrame, IngestReport]:
    """Ingest files into a store of their own; give what it holds, and the report."""
    store = PriceStore(folder / "store")
    report, _ = ingest(IngestConfig(paths=paths, **settings), store)
    return store.read(), report


def met(report: IngestReport, fault: str) -> tuple[int, int]:
    """Give the count and the dropped rows of a fault."""
    (found,) = [f for f in report.faults if f.name == fault]
    return found.count, found.dropped


def utc(*when: int) -> datetime:
    """Give a moment in UTC."""
    return datetime(*when, tzinfo=UTC)  # type: ignore[misc]


def tree(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ----------------------------------------------------------------------------------------------------- what comes in


def test_the_sample_arrives_with_its_holes_counted(tmp_path: Path) -> None:
    """The bundled prices are the real ones; the 290 holidays of WTI are nulls, dropped and reported."""
    prices, report = taken(tmp_path, "sample")
    assert prices.schema == SCHEMA
    assert [(s.series_id, s.rows_read, s.rows_kept) for s in report.series] == [
        ("NASDAQ", 5031, 5031),
        ("SP500", 5031, 5031),
        ("WTI", 8611, 8321),
    ]
    assert met(report, "null") == (290, 290)
    null = next(f for f in report.faults if f.name == "null")
    assert str(null.examples[0]) == "sample line 10095: WTI at 1986-02-17 = None"
    assert prices.filter(series_id="SP500", time=utc(2018, 12, 31))["price"].to_list() == [2506.850098]


def test_files_of_any_form_give_the_same_prices(tmp_path: Path) -> None:
    """Long or wide, plain, compressed, European or typed: not one bit of the content differs."""
    rows = sample().drop_nulls()
    rows.write_csv(tmp_path / "long.csv")
    (tmp_path / "long.csv.gz").write_bytes(gzip.compress((tmp_path / "long.csv").read_bytes()))
    rows.write_parquet(tmp_path / "long.parquet")
    wide = rows.pivot(on="series_id", index="time", values="price").sort("time")
    day = pl.col("time").dt.strftime("%d.%m.%Y")
    wide.with_columns(day).write_csv(tmp_path / "wide.csv", separator=";", decimal_comma=True, include_bom=True)
    rows.with_columns(pl.col("time").dt.epoch("ms")).write_ndjson(tmp_path / "long.jsonl")
    whole = taken(tmp_path / "sample", "sample")[0]
    for path in ("long.csv", "long.csv.gz", "long.parquet", "wide.csv", "long.jsonl"):
        assert digest(taken(tmp_path / path.replace(".", "-"), str(tmp_path / path))[0]) == digest(whole), path


def test_a_folder_is_read_as_one(tmp_path: Path) -> None:
    """Files of a folder are read in the order of their names, each reported with what was recognised in it."""
    (tmp_path / "in").mkdir()
    csv(tmp_path / "in", "a,2020-01-01,1", name="1.csv")
    csv(tmp_path / "in", "01/02/2020;2,5", "13/02/2020;3,5", header="Date;Close\n", name="b.csv")
    prices, report = taken(tmp_path, str(tmp_path / "in"))
    assert prices.select("series_id", "time", "price").rows() == [
        ("a", utc(2020, 1, 1), 1.0),
        ("b", utc(2020, 2, 1), 2.5),
        ("b", utc(2020, 2, 13), 3.5),
    ]
    assert [Path(file.file).name for file in report.files] == ["1.csv", "b.csv"]
    assert [file.rows for file in report.files] == [1, 2]
    assert "day first" in " ".join(report.files[1].said)


def test_further_columns_become_covariates(tmp_path: Path) -> None:
    """A volume beside the price is kept under the same moment, and the file says when it was known."""
    header = "ticker,day,released,close,volume\n"
    path = csv(tmp_path, "a,2020-01-01,2020-01-03,10.5,7", "a,2020-01-02,2020-01-03,10.25,9", header=header)
    columns = Columns(time="day", available_time="released", values=("volume",))
    prices, _ = taken(tmp_path, path, columns=columns)
    assert prices["available_time"].to_list() == [utc(2020, 1, 3)] * 2
    held = PriceStore(tmp_path / "store").covariates.read()
    assert held.select("series_id", "time", "volume").rows() == [
        ("a", utc(2020, 1, 1), 7.0),
        ("a", utc(2020, 1, 2), 9.0),
    ]


def test_the_electricity_benchmark_brings_what_is_known_ahead(tmp_path: Path) -> None:
    """Prices of a day are known at noon the day before, and both covariates before them."""
    path = write_epf(tmp_path / "NP.csv", electricity(days=4))
    prices, _ = taken(tmp_path, "epf", str(path), policy=Policy(non_positive="keep"))
    assert prices.height == 96
    ahead = PriceStore(tmp_path / "store").covariates.read()
    assert ahead.columns == ["series_id", "time", "available_time", "exog_1", "exog_2"]
    both = prices.join(ahead, on=["series_id", "time"])
    assert both.height == 96
    assert (both["available_time_right"] < both["available_time"]).all()
    assert (both["available_time"] < both["time"]).all()


def test_trades_become_bars_and_the_grid_is_kept(tmp_path: Path) -> None:
    """Trades that share a time stamp are merged by a bar that stands at its end; without bars they are refused."""
    lines = (
        "1600000000,10,1",
        "1600000000,11,2",
        "1600000030,12,1",
        "1600000060,13,1",
        "1600000060,12,4",
        "1600000125,14,1",
    )
    path = csv(tmp_path, *lines, header="timestamp,price,volume\n", name="trades.csv")
    with pytest.raises(RefusedError, match="look like trades; make bars of them"):
        taken(tmp_path / "none", path)
    prices, report = taken(tmp_path, path, bars=BarConfig(every="1m", price="vwap"))
    assert PriceStore(tmp_path / "store").covariates.read()["volume"].to_list() == [3, 6]
    times, values = prices["time"].to_list(), prices["price"].to_list()
    assert times == [utc(2020, 9, 13, 12, 27), utc(2020, 9, 13, 12, 28)]
    assert values == pytest.approx([(10 + 2 * 11) / 3, (12 + 13 + 4 * 12) / 6])
    assert report.rows_read == report.rows_kept + report.merged + report.forming == 6
    assert (report.merged, report.forming, report.empty) == (3, 1, 0)
    assert PriceStore(tmp_path / "store").series()["grid"].to_list() == ["1m bars, vwap, empty: null"]


def test_bars_of_two_files_are_those_of_one(tmp_path: Path) -> None:
    """A file cut in the middle of a bar leaves that bar out, never a wrong one; bars of ticks cannot go on at all."""
    rng = np.random.default_rng(0)
    second = 1_600_000_000 + np.sort(rng.integers(0, 3600, 2000))
    lines = [f"{s},{p}" for s, p in zip(second, 100 + rng.standard_normal(2000).round(3), strict=True)]
    parts = (lines[:1003], lines[1003:], lines)
    first, rest, whole = (csv(tmp_path, *part, header="time,price\n", name=f"{k}.csv") for k, part in enumerate(parts))
    columns, bars = Columns(series_id=None), BarConfig(every="1m", price="mean")
    for path in (first, rest):
        csv(tmp_path, *Path(path).read_text().splitlines()[1:], header="time,price\n", name="a.csv")
        taken(tmp_path / "parts", str(tmp_path / "a.csv"), bars=bars, columns=columns)
    (tmp_path / "a.csv").write_text(Path(whole).read_text())
    together = taken(tmp_path / "whole", str(tmp_path / "a.csv"), bars=bars, columns=columns)[0]
    apart = PriceStore(tmp_path / "parts" / "store").read()
    assert apart.height == together.height - 1
    assert apart.join(together, on=["series_id", "time", "price"], how="anti").is_empty()
    taken(tmp_path / "ticks", str(tmp_path / "a.csv"), bars=BarConfig(ticks=10))
    with pytest.raises(DataError, match="bars of ticks or volume cannot go on"):
        taken(tmp_path / "ticks", str(tmp_path / "a.csv"), bars=BarConfig(ticks=10))


# --------------------------------------------------------------------------------------------------------- policies


def test_every_fault_that_refuses_is_told_at_once(tmp_path: Path) -> None:
    """One message has all of them with a row each and the choices there are; the report is with it."""
    path = csv(tmp_path, "a,2020-01-01,1", "a,never,2", "a,2020-01-03,-4", "b,2020-01-01,1", "b,2020-01-01,2")
    with pytest.raises(RefusedError) as refused:
        taken(tmp_path, path)
    said = str(refused.value)
    assert "unreadable: 1 found, first prices.csv line 3: a at no time = 2.0 (time 'never'" in said
    assert "non_positive: 1 found, first prices.csv line 4: a at 2020-01-03 = -4.0" in said
    assert "conflict: 2 found, first prices.csv line 5" in said
    assert "ingest.policy.non_positive = 'drop' or 'keep'" in said
    assert [f.name for f in refused.value.report.refused] == ["unreadable", "non_positive", "conflict"]


def test_what_is_refused_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """Not a file changes, and nothing that was spilled stays."""
    taken(tmp_path, csv(tmp_path, "a,2020-01-01,1", "a,2020-01-02,2"))
    before = tree(tmp_path)
    bad = csv(tmp_path, "b,2020-01-01,1", "b,2020-01-02,0", name="bad.csv")
    with pytest.raises(RefusedError):
        taken(tmp_path, bad)
    after = tree(tmp_path)
    after.pop("bad.csv")
    assert after == before


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    """The report has what would refuse; there is no store afterwards."""
    path = csv(tmp_path, "a,2020-01-01,1", "a,2020-01-02,0")
    store = PriceStore(tmp_path / "store")
    report, written = ingest(IngestConfig(paths=(path,)), store, dry=True)
    assert [fault.name for fault in report.refused] == ["non_positive"]
    assert written is None
    assert met(report, "non_positive")[0] == 1
    assert not store.prices.exists()
    assert set(tree(tmp_path)) == {"prices.csv"}
    ingest(IngestConfig(paths=(path,)), PriceStore(tmp_path / "desk" / "prices"), dry=True)
    assert not (tmp_path / "desk").exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.sampled_from(["", "-1", "0", "1", "2", "nan"])),
        min_size=1,
        max_size=30,
    )
)
def test_ingest_equals_a_loop_and_every_row_is_accounted_for(
    tmp_path_factory: Any, rows: list[tuple[str, int, str]]
) -> None:
    """Dropping policies keep the last positive price of each key, and read = kept + dropped."""
    folder = tmp_path_factory.mktemp("loop")
    path = csv(folder, *[f"{s},2020-01-{d:02d},{p}" for s, d, p in rows])
    expected = {(s, d): float(p) for s, d, p in rows if p in ("1", "2")}
    policy = Policy(non_positive="drop", conflict="drop")
    if not expected:
        with pytest.raises(DataError, match=f"none of {len(rows)} rows of .* is left; dropped: "):
            taken(folder, path, policy=policy)
        return
    prices, report = taken(folder, path, policy=policy)
    got = {(s, t.day): p for s, t, _, p in prices.rows()}
    assert got == expected
    assert len(got) == prices.height == report.rows_kept == sum(s.rows_kept for s in report.series)
    assert report.rows_read == len(rows) == report.rows_kept + sum(f.dropped for f in report.faults)


def test_a_copied_row_is_seen_across_all_series(tmp_path: Path) -> None:
    """Series lie in different buckets, and a moment at which all of them repeat is found and dropped all the same."""
    rng = np.random.default_rng(0)
    table = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal((120, 6)), axis=0))
    table[50] = table[49]
    day = pl.datetime_range(utc(2020, 1, 1), utc(2020, 4, 29), "1d", eager=True).alias("date")
    pl.DataFrame({"date": day} | {f"S{k}": table[:, k] for k in range(6)}).write_csv(tmp_path / "wide.csv")
    prices, report = taken(tmp_path, str(tmp_path / "wide.csv"), policy=Policy(repeat="drop"))
    assert met(report, "repeat") == (6, 6)
    assert prices.height == 6 * 119
    assert day[50] not in prices["time"]


def test_a_split_becomes_a_factor_and_the_price_stays(tmp_path: Path) -> None:
    """With split = adjust the stored prices are the published ones, and those that are read have no jump."""
    rng = np.random.default_rng(1)
    path = 100 * np.exp(np.cumsum(0.01 * np.clip(rng.standard_normal(300), -3, 3)))
    published = np.where(np.arange(300) < 200, path, path / 2)
    days = [utc(2020, 1, 1) + timedelta(days=k) for k in range(300)]
    pl.DataFrame({"date": days, "close": published}).write_csv(tmp_path / "ACME.csv")
    prices, _ = taken(tmp_path, str(tmp_path / "ACME.csv"), policy=Policy(split="adjust"))
    assert np.allclose(prices["price"].to_numpy(), path / 2, rtol=1e-12)
    store = PriceStore(tmp_path / "store")
    raw = store.read(adjusted=False)
    assert np.array_equal(raw["price"].to_numpy(), published)
    unadjusted = PriceStore(tmp_path / "other")
    config = IngestConfig(paths=(str(tmp_path / "ACME.csv"),))
    ingest(config, unadjusted)
    _, written = ingest(replace(config, policy=Policy(split="adjust")), unadjusted)
    assert written is not None
    assert written.added == 0
    assert written.revised.select("series_id", "time").rows() == [("ACME", days[0])]
    _, again = ingest(replace(config, policy=Policy(split="adjust")), unadjusted)
    assert again is not None
    assert again.revised.is_empty()


# -------------------------------------------------------------------------------------------------------- revisions


def test_another_price_for_the_same_bar_is_a_new_vintage(tmp_path: Path) -> None:
    """Both are kept: the first as it was known before the second ingest, the second from then on."""
    taken(tmp_path, csv(tmp_path, "a,2020-01-01,1", "a,2020-01-02,2"))
    before = datetime.now(UTC)
    store = PriceStore(tmp_path / "store")
    _, written = ingest(IngestConfig(paths=(csv(tmp_path, "a,2020-01-02,2.5", "a,2020-01-03,3"),)), store)
    assert written is not None
    assert (written.added, written.revisions, written.unchanged) == (2, 1, 0)
    assert written.revised.select("old_price", "new_price").rows() == [(2.0, 2.5)]
    assert store.read()["price"].to_list() == [1, 2.5, 3]
    assert store.read(known_at=before)["price"].to_list() == [1, 2, 3]


# ------------------------------------------------------------------------------------------------- interruptions


KILLED = """
import os, signal, sys
from pipeline import faults, ingest, vintages
from pipeline.prices import PriceStore
calls, last = 0, int(sys.argv[3])
settle = faults.settle
def counted(*given, **named):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return settle(*given, **named)
faults.settle = counted
ingest.ingest(ingest.IngestConfig(paths=(sys.argv[1],)), PriceStore(sys.argv[2]))
"""


@pytest.mark.parametrize("bucket", [1, 2, 3])
def test_a_kill_between_buckets_leaves_the_old_state(tmp_path: Path, bucket: int) -> None:
    """Killed before any of three buckets is settled the store is as it was, and the next ingest writes everything."""
    taken(tmp_path, csv(tmp_path, "z,2020-01-01,1"))
    store = PriceStore(tmp_path / "store")
    before = store.digest()
    path = csv(tmp_path, *(f"{name},2020-01-{day:02d},{day}" for name in "abc" for day in range(1, 9)))
    command = [sys.executable, "-c", KILLED, path, str(store.folder), str(bucket)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert store.digest() == before
    ingest(IngestConfig(paths=(path,)), store)
    assert store.read().height == 25


def test_what_a_killed_ingest_has_spilled_is_removed_later(tmp_path: Path) -> None:
    """A leftover of days ago goes with the next ingest; one of now may belong to a running one and stays."""
    for name, age in ((".ingest-old", 3 * 86_400), (".ingest-new", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    taken(tmp_path, csv(tmp_path, "a,2020-01-01,1"))
    assert [p.name for p in tmp_path.glob(".ingest-*")] == [".ingest-new"]


# ----------------------------------------------------------------------------------------------------------- the rest


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    """It can be written as JSON; a series without a price is in it, and each policy, met or not."""
    path = csv(tmp_path, "a,2020-01-01,1", "b,2020-01-01,", "a,2020-01-02,", "a,2020-01-03,", "a,2020-01-04,")
    _, report = taken(tmp_path, path)
    plain = orjson.loads(orjson.dumps(report))
    assert [(s["series_id"], s["rows_read"], s["rows_kept"]) for s in plain["series"]] == [("a", 4, 1), ("b", 1, 0)]
    assert [f["name"] for f in plain["faults"]] == list(CHOICES)
    null = plain["faults"][list(CHOICES).index("null")]
    assert (null["policy"], null["count"], null["dropped"], null["series"]) == ("drop", 4, 4, {"a": 3, "b": 1})
    assert [e["line"] for e in null["examples"]] == [3, 4, 5]


def test_the_calendar_of_each_series_is_kept(tmp_path: Path) -> None:
    """Learned or named, it stands beside the series in the list of what the store holds."""
    taken(tmp_path / "learned", "sample")
    taken(tmp_path / "named", "sample", calendar=Calendars(name="XNYS"))
    learned, named = (PriceStore(tmp_path / k / "store").series()["calendar"].to_list() for k in ("learned", "named"))
    assert learned == ["Mon-Fri"] * 3
    assert named == ["XNYS"] * 3


def test_a_source_by_name_asks_for_what_it_takes() -> None:
    """Without a path, a symbol or a pair the message has an example."""
    for source, example in (("epf", "epf NP.csv"), ("yfinance", "yfinance AAPL"), ("ccxt", "ccxt BTC/USDT")):
        with pytest.raises(ConfigError, match=f"{source}: expected what to read after it, such as .*{example}"):
            ingest(IngestConfig(paths=(source,)), PriceStore("never-made"), dry=True)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, an unknown ending, an empty and a broken file say which they are."""
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing")
    for path, message in (
        (str(tmp_path / "absent.csv"), r"absent.csv.*looked from"),
        (csv(tmp_path, name="prices.xlsx"), r"prices.xlsx has no ending"),
        (csv(tmp_path, header="", name="empty.csv"), "empty.csv"),
        (csv(tmp_path, name="bare.csv"), "bare.csv"),
        (str(torn), "torn.parquet"),
    ):
        with pytest.raises(DataError, match=message):
            taken(tmp_path, path)


def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path) -> None:
    """The message has the file, the nearest and all names of the file."""
    path = csv(tmp_path, "a,2020-01-01,1", header="series_id,date,prices\n")
    with pytest.raises(SchemaError, match=r"prices.csv: .*'price': did you mean 'prices'\?"):
        taken(tmp_path, path, columns=Columns(price="price"))


def test_paths_must_be_a_list() -> None:
    """One text, or nothing at all, is refused."""
    for paths in ((), "prices.csv"):
        with pytest.raises(ConfigError, match="paths must be a list of files"):
            IngestConfig(paths=paths)  # type: ignore[arg-type]
