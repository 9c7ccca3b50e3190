"""Worlds share their past to the bit, differ in all of their future, and go through a store as prices do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from panels import market

from models.network import NetworkConfig
from pipeline import covariates, worlds
from pipeline.audit import audit
from pipeline.config import Config
from pipeline.fitting import FitConfig
from pipeline.prices import SCHEMA, UTC_TIME, PriceStore
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel
from pipeline.worlds import holed, loaded, one_early, one_later, over_time, stored, wild, with_garbage

PANEL, SPLIT = market(300, 260)
MOMENT = SPLIT.validation_end_time
INSIDE = np.arange(PANEL.time.shape[1]) < PANEL.length[:, None]
AFTER = INSIDE & (PANEL.time >= MOMENT)
START = datetime(2020, 1, 1, tzinfo=UTC)
DAYS = 320


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Give settings of a store of six series with revised prices and covariates, of which one is known a day ahead."""
    folder = tmp_path_factory.mktemp("worlds")
    rng = np.random.default_rng(4)
    rows = []
    for k in range(6):
        days = DAYS - 10 * k
        time = [START + timedelta(days=d) for d in range(days)]
        price = 100 * np.exp(np.cumsum(rng.normal(size=days) * 0.01))
        rows.append(pl.DataFrame({"series_id": f"S{k}", "time": time, "available_time": time, "price": price}))
    frame = pl.concat(rows).cast(SCHEMA)  # type: ignore[arg-type]
    store = PriceStore(folder / "prices")
    store.write(frame)
    store.write(frame[100:105].with_columns(pl.col("price") * 1.01, available_time=pl.lit(START + timedelta(days=300))))
    beside = frame.drop("price").with_columns(load=pl.Series(rng.normal(size=frame.height)))
    store.covariates.write(beside.with_columns(pl.col("available_time").cast(UTC_TIME).dt.offset_by("-1d")))
    return Config(
        folder=folder,
        leave_out=("S0",),
        past=("load",),
        ahead=("load",),
        fit=FitConfig(
            horizon=2,
            network=NetworkConfig(hidden=3, elapsed=True),
            training=TrainingConfig(lanes=4, epochs=1, device="cpu"),
        ),
    )


@pytest.mark.parametrize("spoilt", [wild(PANEL, MOMENT), holed(PANEL, MOMENT, 2)], ids=["wild", "holed"])
def test_a_panel_keeps_its_past_and_loses_its_future(spoilt: Panel) -> None:
    """Before the moment every field is as it was; after it no published price is."""
    for name, x in over_time(PANEL).items():
        np.testing.assert_array_equal(getattr(spoilt, name)[~AFTER], x[~AFTER])
    both = AFTER[..., None] & PANEL.mask & spoilt.mask
    assert both.any()
    assert not (spoilt.price[both] == PANEL.price[both]).any()
    assert not (spoilt.elapsed[AFTER] == PANEL.elapsed[AFTER]).any()
    np.testing.assert_array_equal(spoilt.time, PANEL.time)


def test_wild_prices_keep_what_is_published_and_are_in_every_domain() -> None:
    """The mask stays, and a forecaster holds none of them."""
    spoilt = wild(PANEL, MOMENT)
    np.testing.assert_array_equal(spoilt.mask, PANEL.mask)
    assert (spoilt.price[PANEL.mask] > 1e-7).all()
    assert (spoilt.price[PANEL.mask] < 1e7).all()


def test_holes_come_after_the_horizon_with_poison_and_new_prices() -> None:
    """The next observations keep their mask; then some are gone, some are new, some are no numbers."""
    spoilt = holed(PANEL, MOMENT, 2)
    near = AFTER & (np.cumsum(AFTER, axis=1) <= 2)
    np.testing.assert_array_equal(spoilt.mask[near], PANEL.mask[near])
    assert np.isfinite(spoilt.price[near[..., None] & spoilt.mask]).all()
    assert (PANEL.mask & ~spoilt.mask).any()
    assert (spoilt.mask & INSIDE[..., None] & ~PANEL.mask & np.isfinite(spoilt.price)).any()
    published = spoilt.price[AFTER[..., None] & spoilt.mask]
    assert np.isnan(published).any()
    assert {0.0, -3.0, 1e40} <= set(published.tolist())
    assert not spoilt.mask[~INSIDE].any()


def test_one_early_shows_each_price_one_observation_before_its_time() -> None:
    """Price and mask move one to the left, times stay."""
    early = one_early(PANEL)
    np.testing.assert_array_equal(early.price[:, :-1], PANEL.price[:, 1:])
    np.testing.assert_array_equal(early.mask[:, :-1], PANEL.mask[:, 1:])
    assert not early.mask[:, -1].any()
    np.testing.assert_array_equal(early.time, PANEL.time)


def test_the_longest_series_are_taken_and_of_each_the_last_prices(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out stays out; a revised price keeps the moment at which it was first known."""
    monkeypatch.setattr(worlds, "OBSERVATIONS", 280)
    rows = stored(config)
    counts = dict(rows.prices.group_by("series_id").len().iter_rows())
    assert counts == {"S1": 280, "S2": 280, "S3": 280, "S4": 280}
    assert (rows.prices["available_time"] == rows.prices["time"]).all()
    assert rows.prices["time"].max() == START + timedelta(days=DAYS - 11)
    assert rows.covariates is not None
    assert rows.covariates.height == 4 * 280


def test_a_world_that_is_loaded_is_what_a_fit_would_load(config: Config) -> None:
    """Prices, covariates, split and transform are those of the store itself."""
    four = replace(config, leave_out=("S0", "S5"))
    was, now = worlds.steps.load(four), loaded(stored(config), config)
    assert now.split == was.split
    assert now.panel.past_names == ("load",)
    for name, x in over_time(was.panel).items():
        np.testing.assert_array_equal(getattr(now.panel, name), x)


def test_garbage_rows_keep_what_was_known_and_what_is_published(config: Config) -> None:
    """Prices change from the moment on, covariates from where they were not yet known; nothing appears or goes."""
    rows, moment = stored(config), START + timedelta(days=200)
    spoilt = with_garbage(rows, int(moment.timestamp()) * 1_000_000)
    assert rows.covariates is not None
    assert spoilt.covariates is not None
    for was, now, late in (
        (rows.prices, spoilt.prices, rows.prices["time"] >= moment),
        (rows.covariates, spoilt.covariates, rows.covariates["available_time"] >= moment),
    ):
        value = was.columns[-1]
        assert now.drop(value).equals(was.drop(value))
        assert now.filter(~late).equals(was.filter(~late))
        assert not (now.filter(late)[value] == was.filter(late)[value]).any()
    assert (spoilt.prices["price"] > 0).all()


def test_one_later_adds_a_hole_before_each_series(config: Config) -> None:
    """One row a series, without a price, one bar before the first."""
    rows = stored(config)
    later = one_later(rows)
    first = later.prices.group_by("series_id", maintain_order=True).first()
    assert first["price"].null_count() == 4
    assert set(first["time"]) == {START - timedelta(days=1)}
    assert later.prices.filter(pl.col("price").is_not_null()).equals(rows.prices)


def test_covariates_are_audited_with_the_prices(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network on covariates passes; one that is given the covariates of tomorrow is found where they are read."""
    names = ("gru",)
    assert audit(config, names, epochs=1).leaks == ()
    honest = covariates.with_covariates

    def leading(panel: Panel, *rest: object, **options: object) -> tuple[Panel, str]:
        found, sha256 = honest(panel, *rest, **options)  # type: ignore[arg-type]
        past = np.concatenate([found.past[:, 2:], found.past[:, -2:]], axis=1)
        return replace(found, past=past), sha256

    monkeypatch.setattr(worlds.steps, "with_covariates", leading)
    leaks = audit(config, (), epochs=1).leaks
    assert [(f.stage, f.check) for f in leaks] == [("prices", "garbage")]
    assert leaks[0].detail.startswith("4 of ")
    assert "past[0] of S1 at 2020-" in leaks[0].detail


def test_a_world_leaves_nothing_behind(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store is gone when it is loaded, and the settings' own is not written to."""
    monkeypatch.setattr(worlds.tempfile, "tempdir", str(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in config.folder.rglob("*")}
    loaded(stored(config), config)
    assert list(tmp_path.iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in config.folder.rglob("*")} == before
