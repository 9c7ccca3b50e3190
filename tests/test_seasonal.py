"""A network on moves adjusted for the hour of the week: the hour is divided out, and multiplied back in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from panels import DAY, garbage_from, panel_of
from test_dayahead_training import days_of
from test_diurnal import pattern, ticks, weeks_of

from models.core import initial_state
from models.diurnal import SLOT, SLOTS
from models.errors import ConfigError, FitError
from models.network import Network, NetworkConfig
from models.seasonal import Seasonal
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.metrics import crps
from pipeline.significance import diebold_mariano
from pipeline.training import Training, fit_network
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split

HOUR = DAY // 24
FACTOR = torch.tensor(np.stack([np.ones(SLOTS), pattern()]))
CONFIG = TrainingConfig(lanes=8, chunk=24, epochs=6, device="cpu")


def hourly() -> tuple[Panel, Split]:
    """Make two hourly series whose moves are normal with the pattern of the week and a size of their own."""
    rng, slot = np.random.default_rng(5), np.arange(60 * SLOTS) % SLOTS
    moves = [rng.normal(size=len(slot)) * pattern()[np.roll(slot, 0)] * size for size in (0.001, 0.002)]
    daily = panel_of(moves, holes=0.0)
    monday = 4 * DAY  # 1970-01-05
    time = monday + (daily.time // DAY) * HOUR
    prices = replace(daily, time=time, bar=np.full_like(daily.bar, HOUR), price_time=time[..., None])
    cuts = time[0, 40 * SLOTS], time[0, 48 * SLOTS]
    return prices, Split(train_end_time=int(cuts[0]), validation_end_time=int(cuts[1]))


def trained(prices: Panel, split: Split, *, diurnal: bool) -> Training:
    """Begin a small network on hourly prices."""
    network = NetworkConfig(hidden=6, diurnal=diurnal)
    return Training("gru", prices, split, LogReturn(), network=network, config=CONFIG)


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_distribution_is_that_of_adjusted_moves_times_the_hours_to_come(horizon: int) -> None:
    """What the core says of u = r / f, times the root mean square factor of the steps ahead."""
    torch.manual_seed(1)
    core = Network("gru", NetworkConfig(hidden=4), unit=0.01, horizon=horizon)
    rng, slot = np.random.default_rng(2), np.arange(40) % SLOTS + 100
    r = rng.normal(size=40) * 0.01
    past, _ = weeks_of(slot)
    ahead = ((slot[:, None] + np.arange(1, horizon + 1)) % SLOTS).astype(float)
    seasonal = Seasonal(core, FACTOR).eval()
    state = initial_state(core.state_tensors(), 1, core.df)
    with torch.no_grad():
        made, _ = seasonal.unroll(ticks(r, past, ahead), state)
        plain = ticks(r / pattern()[slot % SLOTS], past, ahead)
        alone, _ = core.unroll(replace(plain, past=plain.past[..., :0], future=plain.future[..., :0]), state)
    squares = np.cumsum(pattern()[ahead.astype(int)] ** 2, axis=1) / np.arange(1, horizon + 1)
    growth = np.sqrt(squares).reshape(1, 40, *((horizon, 1, 1) if horizon > 1 else (1,)))
    np.testing.assert_allclose(made.quantile, alone.quantile.numpy() * growth, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(made.scale, alone.scale.numpy() * growth, rtol=1e-5)


def test_a_network_that_is_told_the_week_by_factors_forecasts_better_out_of_sample() -> None:
    """On moves whose size is the hour's, the CRPS on the test is significantly lower than without the factors."""
    prices, split = hourly()
    rows = [
        walk_forward(fit_network(trained(prices, split, diurnal=d)), prices, split.origins(prices, "test"))
        for d in (True, False)
    ]
    ours, plain = (crps(r) for r in rows)
    assert ours.mean() < 0.97 * plain.mean()
    assert diebold_mariano(ours, plain)[1] < 0.01


def test_factors_are_of_the_train_split() -> None:
    """Garbage from the end of train on leaves the factors as they are; garbage in it does not."""
    prices, split = hourly()
    clean = trained(prices, split, diurnal=True)
    after = trained(garbage_from(prices, split.train_end_time), split, diurnal=True)
    before = trained(garbage_from(prices, split.train_end_time - 200 * HOUR), split, diurnal=True)
    assert clean.season is not None
    assert after.season is not None
    assert before.season is not None
    assert torch.equal(clean.season.factors.factor, after.season.factors.factor)
    assert not torch.equal(clean.season.factors.factor, before.season.factors.factor)
    assert torch.equal(clean.train.targets, after.train.targets)


def test_one_still_series_does_not_stop_the_others() -> None:
    """Beside a series that moves, one that stands still is trained on to losses that are numbers."""
    prices, split = hourly()
    price = prices.price.copy()
    price[1] = 100.0
    records = list(trained(replace(prices, price=price), split, diurnal=True))
    assert all(np.isfinite([r.train_loss, r.validation_loss]).all() for r in records)


def test_a_warm_start_takes_the_network_out_of_its_season() -> None:
    """A fit that begins at a fitted network with factors begins at its weights."""
    prices, split = hourly()
    first = fit_network(trained(prices, split, diurnal=True))
    network = NetworkConfig(hidden=6, diurnal=True)
    again = Training("gru", prices, split, LogReturn(), network=network, config=CONFIG, start=first)
    assert torch.equal(again.core.body.layers.weight_hh_l0, first.core.core.body.layers.weight_hh_l0)


def test_daily_prices_have_no_hours() -> None:
    """On a daily grid the setting is refused, with what to do."""
    rng = np.random.default_rng(3)
    prices = panel_of([rng.normal(size=300) * 0.01])
    with pytest.raises(FitError, match=r"all moves of series row 1 end in hour 0 of the day.*diurnal at false"):
        trained(prices, Split(train_end_time=200 * DAY, validation_end_time=250 * DAY), diurnal=True)


def test_a_series_without_a_move_in_train_is_refused_by_name() -> None:
    """One that has a single price before the end of train is named, with how it is left out."""
    prices, split = hourly()
    mask = prices.mask.copy()
    mask[1, 1 : 45 * SLOTS] = False
    late = replace(prices, mask=mask, price=np.where(mask, prices.price, np.nan))
    config = FitConfig(network=NetworkConfig(hidden=6, diurnal=True), training=CONFIG)
    with pytest.raises(FitError, match=r"S1: .*row 2 has no move before the end of train.*leave_out = \['S1'\]"):
        fit("gru", late, split, LogReturn(), config)


def test_blocks_have_no_hours() -> None:
    """Prices that are published together are refused as blocks, and not for a want of moves."""
    blocks = days_of(200)
    with pytest.raises(FitError, match=r"one by one, got blocks of 4\. Set it to false"):
        trained(blocks, Split(train_end_time=100 * DAY, validation_end_time=150 * DAY), diurnal=True)


@pytest.mark.parametrize("side", ["past", "ahead"])
def test_the_hour_of_the_week_is_read_once(side: str) -> None:
    """Beside the factors it is refused among the covariates, with the list from which it is to be left out."""
    prices, split = hourly()
    hour = np.zeros((*prices.time.shape, 1), np.float32)
    twice = {
        "past": replace(prices, past_names=(SLOT,), past=hour),
        "ahead": replace(prices, future_names=(SLOT,), future=hour[:, :, None]),
    }
    with pytest.raises(ConfigError, match=f"Leave @hour_of_week out of {side}"):
        trained(twice[side], split, diurnal=True)
