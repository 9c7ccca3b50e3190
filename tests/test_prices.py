"""The price store gives prices as they were known, made comparable, with what is known about their series."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from models.errors import DataError, PolicyError, SchemaError, TransientError
from pipeline.prices import DESCRIPTION, SCHEMA, PriceStore, WriteResult, digest
from pipeline.rows import UTC_TIME
from pipeline.vintages import locked


def day(n: int) -> datetime:
    """Give day `n` as a naive datetime."""
    return datetime(1970, 1, 1) + timedelta(days=n)


def frame(*rows: tuple[str, int, int | None, float | None], value: str = "price") -> pl.DataFrame:
    """Make a frame of (series, day, day on which the value became known, value)."""
    schema = {"series_id": pl.String, "time": pl.Int64, "available_time": pl.Int64, value: pl.Float64}
    days = pl.col("time", "available_time") * 86_400_000_000
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(days.cast(pl.Datetime("us")).cast(UTC_TIME))


@pytest.fixture
def store(tmp_path: Path) -> PriceStore:
    """Give a store of two series of five days; one share of the first is split into two on day 3, known on day 4."""
    store = PriceStore(tmp_path / "prices")
    store.write(frame(*[(s, n, n, p) for s in "ab" for n, p in enumerate([8.0, 10.0, 10.0, 5.0, 6.0])]))
    store.adjust(frame(("a", 3, 4, 0.5), value="factor"))
    return store


def test_prices_without_actions_are_read_as_written(tmp_path: Path) -> None:
    """Where nothing was adjusted, a reading is the rows written, in `SCHEMA`, sorted, whether adjusted or not."""
    store = PriceStore(tmp_path)
    rows = frame(("a", 1, 1, -0.5), ("a", 2, 2, None), ("b", 1, 1, 3.0))
    assert store.write(rows.reverse()) == WriteResult(added=3, unchanged=0, revisions=0)
    assert store.read().equals(rows)
    assert store.read(adjusted=False).equals(rows)
    assert store.read().schema == SCHEMA
    assert store.digest() == digest(rows)


def test_actions_are_applied_when_they_are_known(store: PriceStore) -> None:
    """Before the split was known prices are as published; then those before it are halved, of its series alone."""
    published = [8.0, 10.0, 10.0, 5.0, 6.0]
    assert store.read("a")["price"].to_list() == [4.0, 5.0, 5.0, 5.0, 6.0]
    assert store.read("b")["price"].to_list() == published
    assert store.read("a", known_at=day(4))["price"].to_list() == [4.0, 5.0, 5.0, 5.0, 6.0]
    assert store.read("a", known_at=day(3))["price"].to_list() == published[:4]
    assert store.read("a", adjusted=False)["price"].to_list() == published


def test_an_action_after_the_span_still_counts(store: PriceStore) -> None:
    """Prices of a span are those that the whole reading has there."""
    span = store.read(["a", "b"], start=day(1), end=day(3))
    whole = store.read()
    assert span.equals(whole.filter(pl.col("time").is_between(whole["time"][1], whole["time"][2])))


def test_a_factor_that_was_wrong_is_revised(store: PriceStore) -> None:
    """A factor given again replaces the one before from now on, and the factor 1 takes an action back."""
    assert store.adjust(frame(("a", 3, None, 1.0), value="factor"), now=day(9)).revisions == 1
    assert store.read("a", known_at=day(8))["price"][0] == 4.0
    assert store.read("a")["price"][0] == 8.0


def test_a_wrong_factor_leaves_the_store_as_it_was(store: PriceStore) -> None:
    """A factor of zero and a frame without factors are refused, and nothing of them is kept."""
    was = store.digest()
    with pytest.raises(DataError, match="finite and above zero"):
        store.adjust(frame(("b", 3, 3, 0.5), ("b", 4, 4, 0.0), value="factor"))
    with pytest.raises(SchemaError, match="unknown column of the frame 'factor'"):
        store.adjust(frame(("b", 3, 3, 0.5)))
    assert store.digest() == was
    assert store.adjustments.read().height == 1


def test_the_digest_is_of_what_is_read(store: PriceStore) -> None:
    """An action that changes prices changes the digest; one that changes none does not."""
    was = store.digest()
    assert was == digest(store.read()) != digest(store.read(adjusted=False))
    store.adjust(frame(("b", 0, 0, 0.5), value="factor"))
    assert store.digest() == was
    store.adjust(frame(("b", 1, 1, 0.5), value="factor"))
    assert store.digest() != was


def test_tables_written_together_are_read_together(store: PriceStore) -> None:
    """Prices and covariates written in nested blocks are in force after both; covariates take any columns."""
    more = frame(("c", 1, None, 1.0))
    with store.prices.writing() as prices, store.covariates.writing() as covariates:
        prices.add(more)
        covariates.add(more.rename({"price": "volume"}).with_columns(load=pl.lit(2.0)))
    assert store.read("c").height == 1
    assert store.covariates.read("c", columns=["volume", "load"]).rows() == [(1.0, 2.0)]


def test_series_are_listed_with_what_is_known_about_them(store: PriceStore) -> None:
    """Each series has its rows, its span and its description; what nobody described is null."""
    store.describe(pl.DataFrame({"series_id": ["a", "z"], "grid": ["1d", "1h"], "source": ["x.csv", None]}))
    store.describe(pl.DataFrame({"series_id": ["a"], "grid": ["1d bars"], "calendar": ["XNYS"], "source": [None]}))
    store.write(frame(("b", 4, 9, 7.0)))
    listed = store.series()
    assert store.names() == listed["series_id"].to_list()
    assert listed.columns == ["series_id", "rows", "first_time", "last_time", *DESCRIPTION.names()[1:]]
    span = (store.read()["time"].min(), store.read()["time"].max())
    assert listed.rows() == [
        ("a", 5, *span, "1d bars", "XNYS", "x.csv", None),
        ("b", 5, *span, None, None, None, None),
    ]


def test_descriptions_that_are_none_are_refused(store: PriceStore) -> None:
    """An unknown column, a number, a missing name and a name that comes twice are said, and nothing is kept."""
    with pytest.raises(SchemaError, match=r"unknown column .* 'grids': did you mean 'grid'"):
        store.describe(pl.DataFrame({"series_id": ["a"], "grids": ["1d"]}))
    with pytest.raises(SchemaError, match=r"unknown column .* 'series_id'"):
        store.describe(pl.DataFrame({"grid": ["1d"]}))
    with pytest.raises(SchemaError, match=r"column 'grid' .* must be String, not Int64"):
        store.describe(pl.DataFrame({"series_id": ["a"], "grid": [1]}))
    for names in (["a", "a"], ["a", None]):
        with pytest.raises(DataError, match="names each series once, but"):
            store.describe(pl.DataFrame({"series_id": names}))
    assert not (store.folder / "series.parquet").exists()


def test_a_second_one_who_describes_is_told_to_try_again(store: PriceStore) -> None:
    """While another process describes series, a second one is told to try again."""
    with locked(store.folder), pytest.raises(TransientError, match="another process is writing"):
        store.describe(pl.DataFrame({"series_id": ["a"]}))


def test_a_folder_without_prices_says_so(tmp_path: Path) -> None:
    """Reading what was never written names the folder and what to do."""
    with pytest.raises(DataError, match=r"is not a store: it has no manifest.json. Ingest prices into it first"):
        PriceStore(tmp_path / "nowhere").read()


def test_a_store_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """The message says that the files are to be ingested again into a new folder."""
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "generation": 1, "buckets": 16, "files": {}}')
    with pytest.raises(DataError, match=r"made by an earlier version.* ingest the files again into a new folder"):
        PriceStore(tmp_path)


def test_a_conflict_of_prices_is_refused(store: PriceStore) -> None:
    """Another price under a key that is held is no revision, but an error."""
    with pytest.raises(PolicyError, match=r"price 8.0 and 9.0"):
        store.write(frame(("a", 0, 0, 9.0)))
