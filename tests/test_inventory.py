"""What the store holds can be looked at, checked, drawn and taken out; what revisions make out of date is listed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.errors import ConfigError, DataError
from pipeline import inventory
from pipeline.downstream import outdated
from pipeline.ingest import IngestConfig, ingest
from pipeline.inventory import Choice
from pipeline.prices import PriceStore

DAYS = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=k) for k in range(200)]


@pytest.fixture
def store(tmp_path: Path) -> PriceStore:
    """Hold one series with a spike on day 150, and a price on day 10 that was revised in 2021."""
    rng = np.random.default_rng(0)
    path = 100 * np.exp(np.cumsum(0.01 * np.clip(rng.standard_normal(200), -3, 3)))
    path[150] *= 1.5
    rows = pl.DataFrame({"series_id": "A/B", "time": DAYS, "available_time": DAYS, "price": path})
    held = PriceStore(tmp_path / "prices")
    held.write(rows.with_columns(pl.col("time", "available_time").dt.cast_time_unit("us")))
    revised = held.read()[10:11].with_columns(available_time=None, price=pl.lit(1.0)).cast(held.read().schema)
    held.write(revised, now=datetime(2021, 1, 1, tzinfo=UTC))
    return held


def test_a_choice_is_of_series_span_and_moment(store: PriceStore) -> None:
    """Since is inclusive, until is not, and before its revision a price is the old one."""
    some = inventory.prices(store, Choice.of(["A/B"], since="2020-01-05", until="2020-01-20"))
    assert (some["time"][0], some["time"][-1]) == (DAYS[4], DAYS[18])
    assert some["price"][6] == 1.0
    assert inventory.prices(store, Choice.of(None, known_at="2020-12-31"))["price"][10] > 50
    with pytest.raises(ConfigError, match="--since: expected a time of ISO 8601"):
        Choice.of(None, since="soon")


def test_every_value_a_price_ever_had_is_shown(store: PriceStore) -> None:
    """Vintages are rows of their own, and those revised are listed with both values."""
    both = inventory.vintages(store, Choice.of(["A/B"], since="2020-01-11", until="2020-01-12"))
    assert both["price"].to_list()[1] == 1.0
    assert both.height == 2
    (row,) = inventory.revised(store, None).rows(named=True)
    assert (row["time"], row["new_price"], row["available_time"]) == (DAYS[10], 1.0, datetime(2021, 1, 1, tzinfo=UTC))


def test_a_check_finds_and_changes_nothing(store: PriceStore) -> None:
    """The spike and the price that is a hundredth of the others are found in the stored prices, which stay."""
    before = store.digest()
    found = {f.name: f.count for f in inventory.check(store, ["A/B"], IngestConfig())}
    assert (found["spike"], found["unit"]) == (1, 1)
    assert store.digest() == before


def test_a_plot_is_a_picture_named_after_the_series(store: PriceStore, tmp_path: Path) -> None:
    """In a folder a name that is no file name is made one; the picture is not empty."""
    path = inventory.plot(store, Choice.of(["A/B"]), IngestConfig(), tmp_path / "figures")
    assert path.name == "A_B.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """Of a store that is empty the format of the picture is what is told."""
    with pytest.raises(ConfigError, match=r"p\.nope: unknown format of a picture '\.nope'.*\.png"):
        inventory.plot(PriceStore(tmp_path), Choice.of(["A/B"]), IngestConfig(), tmp_path / "p.nope")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".jsonl"])
def test_what_is_exported_is_ingested_back(store: PriceStore, tmp_path: Path, suffix: str) -> None:
    """Every format of an export brings the same prices back."""
    assert inventory.export(store, Choice.of(None), tmp_path / f"out{suffix}") == 200
    again = PriceStore(tmp_path / "again")
    ingest(IngestConfig(paths=(str(tmp_path / f"out{suffix}"),)), again)
    assert again.digest() == store.digest()


def test_an_unknown_format_is_refused_before_anything_is_read(store: PriceStore, tmp_path: Path) -> None:
    """The message has the formats there are."""
    with pytest.raises(ConfigError, match=r"unknown format of an export '.xlsx'.*.parquet"):
        inventory.export(store, Choice.of(None), tmp_path / "out.xlsx")


def test_corporate_actions_come_from_a_file(store: PriceStore, tmp_path: Path) -> None:
    """A factor of one half halves the prices before it; --raw shows them as stored."""
    before = store.read()["price"].to_numpy()
    (tmp_path / "splits.csv").write_text("series_id,time,factor\nA/B,2020-05-01,0.5\n")
    assert inventory.adjust(store, tmp_path / "splits.csv").added == 1
    after = inventory.prices(store, Choice.of(None))
    halved = after["time"].to_numpy() < np.datetime64("2020-05-01")
    assert np.array_equal(after["price"].to_numpy(), np.where(halved, before / 2, before))
    assert np.array_equal(inventory.prices(store, Choice.of(None, raw=True))["price"].to_numpy(), before)
    (tmp_path / "bad.csv").write_text("series_id,time,factor\nA/B,2020-05-01,half\n")
    with pytest.raises(DataError, match=r"bad\.csv"):
        inventory.adjust(store, tmp_path / "bad.csv")


def test_what_saw_an_old_price_is_listed(workspace: Any) -> None:
    """Models fitted beyond the revised price, forecasts that reach it and the champion are named; others are not."""
    schema = {"series_id": pl.String, "time": pl.Datetime("us", "UTC"), "available_time": pl.Datetime("us", "UTC")}
    now = datetime.now(UTC)
    early = pl.DataFrame([("AAA", datetime(2020, 3, 1, tzinfo=UTC), now)], schema=schema, orient="row")
    named = {item.what: item.command for item in outdated(workspace.folder, early, "champion")}
    models = workspace.config.models
    assert named == (
        {f"model {m}": f"statecast train {m}" for m in models}
        | {f"forecasts of {m}": f"statecast backtest {m}" for m in models}
        | {"champion version 1, which serves": "statecast retrain"}
    )
    late = early.with_columns(time=pl.lit(datetime(2021, 11, 20, tzinfo=UTC)).cast(schema["time"]))
    assert {item.what for item in outdated(workspace.folder, late, "champion")} == {f"forecasts of {m}" for m in models}
    seen = early.with_columns(available_time=pl.lit(datetime(2020, 4, 1, tzinfo=UTC)).cast(schema["time"]))
    assert outdated(workspace.folder, seen, "champion") == []
    assert len(outdated(workspace.folder, seen, "champion", came=now)) == 2 * len(models) + 1
