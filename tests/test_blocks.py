"""Prices that are published together go from the store to the rows as one observation, each against its own past."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
import torch

from models.autoregressive import AutoregressiveConfig
from models.conformal import ConformalConfig
from models.errors import ConfigError, DataError, FitError
from models.forecaster import Forecaster, observe
from models.naive import fit_week_ago
from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline import steps
from pipeline.audit import audit
from pipeline.backtest import walk_forward
from pipeline.config import Config
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.moves import moves, outcomes
from pipeline.prices import PriceStore
from pipeline.slices import regimes
from pipeline.training_config import TrainingConfig
from pipeline.windows import DAY, Panel, SplitConfig, panel, split

HOUR = DAY // 24
SIX = 6 * HOUR
M = 4


def quarters(days: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make two series of prices every six hours, whose day is driven by the day before, with a few holes."""
    rng = np.random.default_rng(seed)
    names, time = np.repeat(["a", "b"], days * M), np.tile(np.arange(days * M) * SIX, 2)
    move = rng.normal(size=(2, days, M)) * [0.01, 0.02, 0.03, 0.02]
    move[:, 1:] -= 0.4 * move[:, :-1]
    price = 50 * np.exp(np.cumsum(move, axis=1)).reshape(2, -1)
    price[rng.random(price.shape) < 0.01] = np.nan
    return names, time, price.ravel()


BLOCKS = panel(*quarters(), block=M)
SPLIT = split(BLOCKS, SplitConfig())
CONFIG = FitConfig(
    horizon=2,
    ar=AutoregressiveConfig(max_lags=3),
    conformal=ConformalConfig(track="all", memory=100),
    network=NetworkConfig(hidden=4),
    training=TrainingConfig(lanes=4, epochs=2, device="cpu"),
)


def of_price(blocks: Panel, m: int) -> Panel:
    """Take price m of each block as a daily panel of its own, at the times of the blocks."""
    inside = np.arange(blocks.time.shape[1]) < blocks.length[:, None]
    row, column = np.nonzero(inside)
    return panel(np.array(blocks.names)[row], blocks.time[row, column], blocks.price[row, column, m])


def test_a_block_holds_the_prices_of_a_day_at_their_times() -> None:
    """Read price by price, blocks are the rows that they were made of."""
    _, time, price = quarters()
    assert BLOCKS.price.shape == (2, 400, M)
    np.testing.assert_array_equal(BLOCKS.price.ravel(), price)
    np.testing.assert_array_equal(BLOCKS.price_time.ravel(), time)
    np.testing.assert_array_equal(BLOCKS.time[0], np.arange(400) * DAY)
    assert (BLOCKS.block, BLOCKS.grid, BLOCKS.dropped) == (M, "1d", 0)


def test_days_of_23_and_25_hours_are_blocks_of_24() -> None:
    """In Berlin the hour that a day in March lacks is a hole; of October's two hours at two the second is left out."""
    first, last = (datetime(2024, *day, tzinfo=ZoneInfo("Europe/Berlin")) for day in ((3, 30), (10, 29)))
    moments = pl.datetime_range(first.astimezone(UTC), last.astimezone(UTC), "1h", closed="left", eager=True)
    time = moments.dt.epoch("us").to_numpy()
    clock = moments.dt.convert_time_zone("Europe/Berlin").dt.replace_time_zone(None).dt.epoch("us").to_numpy()
    p = panel(["x"] * len(time), time, np.arange(1.0, 1 + len(time)), block=24, clock=clock)
    assert (p.price.shape, p.dropped, p.grid) == ((1, 213, 24), 1, "1d")
    assert np.argwhere(~p.mask).tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(p.price[0, 1, [1, 3, 4]], [26, 27, 28])
    assert p.price[0, -2, 1:4].tolist() == [len(time) - 24 - 23, len(time) - 24 - 22, len(time) - 24 - 20]
    told = np.searchsorted(time, p.price_time[p.mask])
    np.testing.assert_array_equal(time[told], p.price_time[p.mask])
    np.testing.assert_array_equal(told + 1.0, p.price[p.mask])


def test_a_day_that_begins_or_ends_in_its_middle_has_holes_for_the_rest() -> None:
    """A price has its place by the clock, whichever one is the first."""
    p = panel(["x"] * 6, SIX * np.arange(3, 9), np.arange(6.0), block=M)
    np.testing.assert_array_equal(p.price[0], [[np.nan] * 3 + [0], [1, 2, 3, 4], [5] + [np.nan] * 3])
    assert p.time.tolist() == [[0, DAY, 2 * DAY]]


@pytest.mark.parametrize(
    ("time", "block", "message"),
    [
        (
            SIX * np.arange(9),
            3,
            r"blocks of 3 prices: expected that they make a day .* x come every 6:00:00\. Set block",
        ),
        (np.append(SIX * np.arange(9), 9 * SIX + 60), M, r"those of x every 6:00:00 from 1970.* got one at 1970-01-03"),
        (np.zeros(1), 24, r"blocks of 24 prices: expected several prices of x, got one\. Leave"),
    ],
)
def test_prices_that_make_no_blocks_are_refused(time: np.ndarray, block: int, message: str) -> None:
    """A block that does not divide the day, unequal hours and a single price are told with series and place."""
    with pytest.raises(DataError, match=message):
        panel(["x"] * len(time), time, np.ones(len(time)), block=block)


def test_moves_and_outcomes_are_of_the_same_price_of_another_block() -> None:
    """Both equal those of a panel of that price alone, holes included."""
    whole, reached = moves(BLOCKS, LogReturn(), SPLIT.validation_end_time), outcomes(BLOCKS, LogReturn(), 2)
    for m in range(M):
        alone = of_price(BLOCKS, m)
        np.testing.assert_array_equal(reached[..., m], outcomes(alone, LogReturn(), 2)[..., 0])
        for row, r in enumerate(moves(alone, LogReturn(), SPLIT.validation_end_time)):
            np.testing.assert_allclose(whole[row][:, m][np.isfinite(whole[row][:, m])], r, rtol=1e-12)


def rows_of(f: Forecasts, m: int) -> Forecasts:
    """Take the rows of price m of the blocks."""
    return f.where((f.step - 1) % M == m)


@pytest.mark.parametrize("name", ["last_value", "drift", "ar", "week_ago"])
def test_simple_models_forecast_each_price_as_if_it_were_alone(name: str) -> None:
    """Rows of price m, calibrated intervals included, equal those of a model of that price alone."""
    walked = walk_forward(fit(name, BLOCKS, SPLIT, LogReturn(), CONFIG), BLOCKS, SPLIT.origins(BLOCKS, "test"))
    assert set(walked.step) == set(range(1, 2 * M + 1))
    for m in range(M):
        prices, got = of_price(BLOCKS, m), rows_of(walked, m)
        alone = walk_forward(fit(name, prices, SPLIT, LogReturn(), CONFIG), prices, SPLIT.origins(prices, "test"))
        wanted = SPLIT.origins(prices, "test")
        kept = got.where(wanted[got.series, (got.origin_time // DAY).astype(int)])
        assert len(kept) == len(alone) > 150
        np.testing.assert_array_equal(kept.origin_time, alone.origin_time)
        np.testing.assert_array_equal(kept.target_time, alone.target_time + m * SIX)
        np.testing.assert_array_equal((kept.step - 1) // M + 1, alone.step)
        np.testing.assert_array_equal(kept.actual, alone.actual)
        np.testing.assert_allclose(kept.outcome, alone.outcome, rtol=1e-12)
        np.testing.assert_allclose(kept.quantile, alone.quantile, rtol=2e-5)


def test_the_value_a_week_ago_is_forecast_over_any_horizon() -> None:
    """The median of step s is the price of the same weekday, one or more weeks before."""
    rng = np.random.default_rng(3)
    core = fit_week_ago([rng.normal(size=(80, 2)) * 0.01, rng.normal(size=(90, 2)) * 0.01], horizon=9)
    path = torch.tensor(50 * np.exp(np.cumsum(rng.normal(size=(1, 30, 2)) * 0.01, 1)))
    median = Forecaster("week_ago", LogReturn(), core).forward(observe(path, horizon=9))[0].median[0, 20]
    ago = [20 + step - 7 * -(-step // 7) for step in range(1, 10)]
    np.testing.assert_allclose(median.numpy(), path[0, ago].numpy(), rtol=1e-6)


def test_a_series_of_less_than_a_week_has_no_value_a_week_ago() -> None:
    """Too few moves, or none over a week, are refused by row."""
    with pytest.raises(FitError, match="series row 1 has 7 moves"):
        fit_week_ago([np.arange(7.0)], horizon=1)
    with pytest.raises(FitError, match="row 2 never differs from itself a week ago"):
        fit_week_ago([np.arange(28.0), np.tile([1.0, -1, 2, -2, 3, -3, 0], 4)], horizon=1)


def test_a_network_forecasts_blocks_and_sees_no_later_one() -> None:
    """A trained network gives M rows a step; garbage from a moment on leaves those before it bit for bit."""
    network = fit("gru", BLOCKS, SPLIT, LogReturn(), CONFIG)
    moment = int(BLOCKS.time[0, 360])
    later = (BLOCKS.time >= moment)[..., None] & BLOCKS.mask
    spoilt = replace(BLOCKS, price=np.where(later, 7.0, BLOCKS.price))
    clean, dirty = (walk_forward(network, p, SPLIT.origins(BLOCKS, "test")) for p in (BLOCKS, spoilt))
    assert set(clean.step) == set(range(1, 2 * M + 1))
    before = clean.origin_time < moment
    assert 100 < before.sum() < len(clean)
    assert clean.quantile[before].tobytes() == dirty.quantile[before].tobytes()


def test_one_poisoned_price_holds_its_whole_block() -> None:
    """A block in which one published price is no price is neither origin nor outcome, as if none had been published."""
    n, t = (int(x) for x in np.argwhere(SPLIT.origins(BLOCKS, "test"))[30])
    price, mask = BLOCKS.price.copy(), BLOCKS.mask.copy()
    price[n, t, 2], mask[n, t] = -1.0, False
    mask_of_poison = BLOCKS.mask.copy()
    mask_of_poison[n, t, 2] = True
    model, origins = fit("ar", BLOCKS, SPLIT, LogReturn(), CONFIG), SPLIT.origins(BLOCKS, "test")
    poisoned, hole = (
        walk_forward(model, p, origins)
        for p in (replace(BLOCKS, price=price, mask=mask_of_poison), replace(BLOCKS, mask=mask))
    )
    assert len(poisoned) < len(walk_forward(model, BLOCKS, origins))
    assert poisoned.quantile.tobytes() == hole.quantile.tobytes()


def test_a_regime_is_of_the_mean_move_of_the_block() -> None:
    """Blocks of equal prices have the regimes of that price alone."""
    alone = of_price(BLOCKS, 0)
    same = replace(alone, price=np.repeat(alone.price, M, axis=2), mask=np.repeat(alone.mask, M, axis=2))
    one, many = (regimes(p, SPLIT.train_end_time) for p in (alone, same))
    for name in BLOCKS.names:
        np.testing.assert_array_equal(one.label[name], many.label[name])


def test_a_model_of_one_price_refuses_blocks() -> None:
    """GARCH says that it takes one price a moment, and what to do."""
    with pytest.raises(FitError, match="garch"):
        fit("garch", BLOCKS, SPLIT, LogReturn(), CONFIG)


@pytest.mark.parametrize("name", ["garch", "egarch", "har", "garch_diurnal"])
def test_blocks_are_refused_as_blocks_however_few(name: str) -> None:
    """A history too short for one price as well is not told to leave series out, which would help nothing."""
    few = panel(*quarters(60), block=M)
    with pytest.raises(FitError, match=f"one price a moment, got blocks of 4.*leave {name} out of the models"):
        fit(name, few, split(few, SplitConfig()), LogReturn(), CONFIG)


def test_axes_in_the_wrong_order_are_named() -> None:
    """Prices [series, block, time] are refused with the axes that are expected."""
    model = fit("last_value", BLOCKS, SPLIT, LogReturn(), CONFIG)
    with pytest.raises(DataError, match=r"expected prices \[B, T, 4\] \(series, time, prices of one moment\), got"):
        model.forward(observe(torch.ones(2, 4, 30, dtype=torch.float64), horizon=2))


@pytest.mark.parametrize(("settings", "message"), [({"block": 0}, "1 to 1440"), ({"block": 1440}, "1440 x 40")])
def test_blocks_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    """A block of nothing, and more prices ahead than a row can count, are wrong settings."""
    with pytest.raises(ConfigError, match=message):
        Config(fit=FitConfig(horizon=40), **settings)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Keep prices that are published at noon of the day before, and a covariate known 26 hours sooner."""
    folder = tmp_path_factory.mktemp("blocks")
    names, time, price = quarters(days=260)
    shape = {"series_id": names, "time": pl.Series(time).cast(pl.Datetime("us", "UTC"))}
    day = pl.col("time").dt.truncate("1d")
    prices = pl.DataFrame(shape | {"price": price}).with_columns(
        pl.col("price").fill_nan(None), available_time=day - timedelta(hours=12)
    )
    load = pl.DataFrame(shape | {"load": np.arange(len(time), dtype=float)})
    store = PriceStore(folder / "prices")
    store.write(prices.select("series_id", "time", "available_time", "price"))
    store.covariates.write(load.with_columns(available_time=day - timedelta(hours=38)))
    fitted = replace(CONFIG, horizon=1)
    return Config(folder=folder, block=M, past=("load",), ahead=("load", "@weekday_sin"), fit=fitted)


def test_covariates_of_blocks_have_a_column_a_price(config: Config) -> None:
    """Past columns are of the block's own hours, known-ahead ones of the next block's; the calendar stands once."""
    loaded = steps.load(config).panel
    columns = tuple(f"load.{m:02}" for m in range(M))
    assert (loaded.past_names, loaded.future_names) == (columns, (*columns, "@weekday_sin"))
    own = np.arange(2 * 260 * M, dtype=np.float32).reshape(2, 260, M)
    np.testing.assert_array_equal(loaded.past, own)
    np.testing.assert_array_equal(loaded.future[:, :-1, 0, :M], own[:, 1:])


def test_a_covariate_known_after_the_block_is_carried_forward(config: Config) -> None:
    """With the block known before the covariates of the next, what stands ahead is the latest value known then."""
    held = PriceStore(config.folder / "prices").covariates.vintages(["a", "b"])
    folder = config.folder / "late"
    store = PriceStore(folder / "prices")
    store.write(PriceStore(config.folder / "prices").read().select("series_id", "time", "available_time", "price"))
    store.covariates.write(held.with_columns(pl.col("available_time") + timedelta(hours=4)))
    future = steps.load(replace(config, folder=folder, ahead=("load",))).panel.future
    last = np.arange(2 * 260 * M).reshape(2, 260, M)[:, 1:-1, -1]
    np.testing.assert_array_equal(future[:, 1:-1, 0], np.repeat(last[..., None], M, axis=2))


@pytest.mark.parametrize("name", ["ar", "gru"])
def test_nothing_of_the_past_of_blocks_depends_on_the_future(config: Config, name: str) -> None:
    """The audit of the whole way, from the store to the exported file, finds no leak, and is not blind."""
    found = audit(config, (name,), epochs=1)
    assert not found.leaks, found.leaks[0]
    assert {f.check for f in found.findings} == {"garbage", "holes", "shift", "control"}
