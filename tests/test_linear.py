"""The linear core is the regression that it says, on features rebuilt here from prices; its fits are known ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from panels import DAY, garbage_from
from sklearn.linear_model import Lasso, LassoLarsIC, Ridge
from test_training import differ, weights

from models.core import Tick
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster, observe
from models.linear import ArxConfig, LearConfig, Linear, fit_linear, shape_of
from models.transforms import LogReturn
from pipeline.backtest import walk_forward
from pipeline.fitting import FitConfig, fit
from pipeline.windows import Panel, SplitConfig, panel, split

Array = NDArray[np.float64]
TIME = 400


def ticks_of(y: Array, past: Array, future: Array) -> Tick:
    """Give moves of levels [T, M] of one series, row 1; the first price has none."""
    change = torch.tensor(np.diff(y, axis=0, prepend=y[:1]), dtype=torch.float32)[None]
    held = torch.zeros_like(change, dtype=torch.bool)
    held[:, 0] = True
    beside = {"past": torch.tensor(past).float()[None], "future": torch.tensor(future).float()[None]}
    return Tick(change=change, held=held, series=torch.tensor([1]), elapsed=torch.ones(1, len(y)), **beside)


def targets_of(y: Array, horizon: int) -> torch.Tensor:
    """Give the moves to each step [1, T, S, M], NaN beyond the end."""
    out = np.full((len(y), horizon, y.shape[1]), np.nan)
    for s in range(1, horizon + 1):
        out[:-s, s - 1] = y[s:] - y[:-s]
    return torch.tensor(out)[None]


def world(block: int, horizon: int, past: int, future: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Draw levels [T, M] that lean back on their own past and on covariates, and the covariates."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(TIME, past)), rng.normal(size=(TIME + horizon, future))
    y = np.zeros((TIME, block))
    for t in range(7, TIME):
        drive = 0.5 * y[t - 1] + 0.3 * y[t - 7] + 0.2 * y[t - 1].mean()
        y[t] = drive + (z[t].sum() if future else 0.0) + 0.1 * rng.standard_t(5, size=block)
    ahead = np.stack([z[s : s + TIME] for s in range(1, horizon + 1)], 1)
    return y, x, ahead


def design(y: Array, x: Array, ahead: Array, lags: list[int]) -> Array:
    """Build the features from levels by a loop: covariates past, ahead, and lags relative to now, price by price."""
    rows = []
    for t in range(max(lags, default=0), len(y)):
        relative = [y[t - k, m] - y[t, m] for m in range(y.shape[1]) for k in lags]
        rows.append([*x[t], *ahead[t].ravel(), *relative])
    return np.array(rows)


def forecasts(core: Linear, ticks: Tick) -> Array:
    """Give locations [T, S*M]."""
    state = {s.name: torch.zeros(1, *s.shape) for s in core.state_tensors()}
    made, _ = core.unroll(ticks, state)
    return made.loc[0].flatten(1).double().numpy()


@pytest.mark.parametrize(("block", "horizon"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_least_squares_is_that_of_scikit_learn_at_every_origin(block: int, horizon: int) -> None:
    """On features rebuilt from the levels, ridge regression gives the core's locations, for every step and price."""
    y, x, ahead = world(block, horizon, 1, 2)
    config = ArxConfig(lags=2, seasons=(8,))
    shape = shape_of(config, horizon=horizon, block=block, past=1, future=2)
    ticks, targets = ticks_of(y, x, ahead), targets_of(y, horizon)
    core = fit_linear(ticks, targets, shape, config)
    lags = sorted({1, 2, *range(8 - horizon, 9)})
    features, first = design(y, x, ahead, lags), max(lags)
    wanted = targets[0, first:].flatten(1).isfinite().all(1).numpy()
    center, unit = features[wanted].mean(0), features[wanted].std(0)
    ridge = Ridge(alpha=config.ridge * wanted.sum())
    ridge.fit((features[wanted] - center) / unit, targets[0, first:].flatten(1)[wanted].numpy())
    expected = ridge.predict((features - center) / unit).reshape(len(features), -1)
    np.testing.assert_allclose(forecasts(core, ticks)[first:], expected, atol=2e-4)


def test_the_lasso_is_that_of_scikit_learn_averaged_over_windows() -> None:
    """On rebuilt features, targets before, weekday and level among them, the mean of two fits gives the locations."""
    y, x, ahead = world(2, 1, 0, 2, seed=1)
    weekday = np.arange(1, TIME + 1) % 7
    config = LearConfig(lags=(1, 6), targets_back=(1, 3), level=50, windows=(100, 300))
    shape = shape_of(config, horizon=1, block=2, past=0, future=3, weekday=True)
    ticks = ticks_of(y, x, np.concatenate([ahead, weekday[:, None, None]], 2))
    core = fit_linear(ticks, targets_of(y, 1), shape, config)
    back = np.stack([np.concatenate([np.zeros((d, 2)), ahead[:-d, 0]]) for d in (1, 3)], 2).reshape(TIME, -1)
    relative = np.array([[y[t - k, m] - y[t, m] for m in (0, 1) for k in (1, 6)] for t in range(6, TIME)])
    slow = np.cumsum([np.zeros(2), *np.diff(y, axis=0)], axis=0)  # prices over the first; the slow level follows them
    over = slow - pd.DataFrame(slow).ewm(alpha=1 / 50, adjust=False).mean().to_numpy()
    features = np.hstack([ahead[6:, 0], np.eye(7)[weekday[6:]], relative, back[6:], over[6:]])
    expected = np.zeros((len(features), 2))
    for window in config.windows:
        seen, target = features[-1 - window : -1], np.diff(y[6:], axis=0)[-window:]
        center, unit = seen.mean(0), seen.std(0)
        for m in range(2):
            level, size = target[:, m].mean(), target[:, m].std()
            z, t = (seen - center) / unit, (target[:, m] - level) / size
            alpha = LassoLarsIC(criterion="aic", noise_variance=1.0).fit(z, t).alpha_
            fitted = Lasso(alpha=alpha, max_iter=2500, precompute=True).fit(z, t)
            expected[:, m] += (level + size * fitted.predict((features - center) / unit)) / 2
    np.testing.assert_allclose(forecasts(core, ticks)[6:], expected, atol=1e-3)


def test_the_lasso_leaves_out_what_says_nothing() -> None:
    """Of twenty covariates one drives the price: the others get no weight, most of them, and the one keeps its own."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(TIME, 20))
    y = np.cumsum(np.concatenate([[0.0], 0.5 * z[:-1, 4]]) + 0.05 * rng.normal(size=TIME))[:, None]
    config = LearConfig(lags=(1,), targets_back=(), windows=(300,))
    shape = shape_of(config, horizon=1, block=1, past=0, future=20)
    core = fit_linear(ticks_of(y, np.zeros((TIME, 0)), z[:, None]), targets_of(y, 1), shape, config)
    slopes = core.weights[1, 1:21, 0].numpy()
    assert slopes[4] == pytest.approx(0.5, rel=0.1)
    assert np.count_nonzero(np.delete(slopes, 4)) <= 8
    assert np.abs(np.delete(slopes, 4)).max() < 0.02


def test_scales_hold_the_outcomes_they_were_fitted_to() -> None:
    """At each step and price nine tenths of the outcomes lie within the quantiles that say so."""
    y, x, ahead = world(2, 2, 1, 1, seed=4)
    shape = shape_of(ArxConfig(), horizon=2, block=2, past=1, future=1)
    ticks, targets = ticks_of(y, x, ahead), targets_of(y, 2)
    core = fit_linear(ticks, targets, shape, ArxConfig())
    made, _ = core.unroll(ticks, {s.name: torch.zeros(1, *s.shape) for s in core.state_tensors()})
    low, high = made.quantile[0, 10:-2, ..., 2], made.quantile[0, 10:-2, ..., -3]
    inside = (targets[0, 10:-2] > low) & (targets[0, 10:-2] < high)
    assert (inside.double().mean(0) - 0.9).abs().max() < 0.04


def test_the_pooled_row_is_the_median_over_the_series() -> None:
    """Row 0 takes the median of every weight, scale and df."""
    worlds = [world(1, 1, 0, 1, seed=s) for s in (5, 6, 7)]
    each = [ticks_of(*w) for w in worlds]
    joined = {f: torch.cat([getattr(t, f) for t in each]) for f in ("change", "held", "past", "future", "elapsed")}
    targets = torch.cat([targets_of(w[0], 1) for w in worlds])
    shape = shape_of(ArxConfig(), horizon=1, block=1, past=0, future=1)
    core = fit_linear(Tick(series=torch.arange(1, 4), **joined), targets, shape, ArxConfig())
    for table in (core.weights, core.scale, core.df):
        np.testing.assert_allclose(table[0], table[1:].median(0).values, rtol=1e-6)


def covered_panel(days: int = 500) -> Panel:
    """Build daily prices whose move is mostly a covariate that is known ahead."""
    rng = np.random.default_rng(8)
    z = rng.normal(size=days + 1)
    price = 100 * np.exp(np.cumsum(0.01 * z[:-1] + 0.003 * rng.standard_t(5, size=days)))
    prices = panel(np.repeat("S", days), np.arange(days) * DAY, price)
    beside = {"past_names": ("load",), "past": z[:-1].astype(np.float32).reshape(1, -1, 1)}
    ahead = {"future_names": ("load_ahead",), "future": z[1:].astype(np.float32).reshape(1, -1, 1, 1)}
    return replace(prices, **beside, **ahead)


@pytest.mark.parametrize("name", ["arx", "lear"])
def test_a_covariate_known_ahead_is_used_and_named(name: str) -> None:
    """Through the pipeline the forecasts explain most of what the covariate does, and the names are kept."""
    prices = covered_panel()
    cuts = split(prices, SplitConfig())
    fitted = fit(name, prices, cuts, LogReturn(), FitConfig())
    assert fitted.past_names == ("load",)
    assert fitted.future_names == ("load_ahead", *(("@weekday",) if name == "lear" else ()))
    rows = walk_forward(fitted, prices, cuts.origins(prices, "test", 1))
    assert np.mean((rows.outcome - rows.loc) ** 2) < 0.3 * np.mean(rows.outcome**2)


@pytest.mark.parametrize("name", ["arx", "lear"])
def test_garbage_from_the_test_split_on_leaves_every_tensor_bit_for_bit(name: str) -> None:
    """Prices at and after the end of validation change nothing that was fitted with covariates."""
    prices = covered_panel()
    cuts = split(prices, SplitConfig())
    clean = fit(name, prices, cuts, LogReturn(), FitConfig())
    dirty = fit(name, garbage_from(prices, cuts.validation_end_time), cuts, LogReturn(), FitConfig())
    assert not differ(weights(clean), weights(dirty))


def test_a_hole_in_one_price_of_a_block_holds_that_price_alone() -> None:
    """Where one of two prices is missing its lags stay, those of the other move on, and forecasts stay finite."""
    y, x, ahead = world(2, 1, 0, 1, seed=9)
    shape = shape_of(ArxConfig(lags=2), horizon=1, block=2, past=0, future=1)
    core = fit_linear(ticks_of(y, x, ahead), targets_of(y, 1), shape, ArxConfig(lags=2))
    price = torch.tensor(100 * np.exp(0.01 * y))[None]
    price[0, 20, 1] = float("nan")
    forecaster = Forecaster("arx", LogReturn(), core)
    given = {"future": torch.tensor(ahead).float()[None], "series": torch.tensor([1])}
    forecast, _ = forecaster.forward(observe(price, horizon=1, **given))
    assert torch.isfinite(forecast.quantile).all()
    _, before = forecaster.forward(observe(price[:, :20], future=given["future"][:, :20], series=given["series"]))
    _, after = forecaster.forward(observe(price[:, :21], future=given["future"][:, :21], series=given["series"]))
    assert torch.equal(before["moves"][0, 1], after["moves"][0, 1])
    assert not torch.equal(before["moves"][0, 0], after["moves"][0, 0])


def test_a_price_far_above_its_level_is_forecast_to_fall() -> None:
    """Of prices that come back to a mean the slow level tells how far they are off."""
    rng, y = np.random.default_rng(4), np.zeros((TIME, 1))
    for t in range(1, TIME):
        y[t] = 0.7 * y[t - 1] + rng.normal(size=1)
    error = {}
    for level in (0, 1000):
        config = LearConfig(lags=(), targets_back=(), level=level, windows=(150,))
        shape = shape_of(config, horizon=1, block=1, past=0, future=1, weekday=True)
        ticks = ticks_of(y, np.zeros((TIME, 0)), np.zeros((TIME, 1, 1)))
        targets = targets_of(y, 1)
        targets[:, TIME // 2 :] = np.nan
        made = forecasts(fit_linear(ticks, targets, shape, config), ticks)[TIME // 2 : -1, 0]
        error[level] = np.mean((np.diff(y[TIME // 2 :, 0]) - made) ** 2)
    assert error[1000] < 0.9 * error[0]
    assert error[1000] < 1.1


@pytest.mark.parametrize("length", [1, 15])
@pytest.mark.parametrize("config", [ArxConfig(), LearConfig()], ids=["arx", "lear"])
def test_a_series_that_is_too_short_is_refused_by_row(config: ArxConfig | LearConfig, length: int) -> None:
    """One price or few raise FitError that names the row, what was found and what to do."""
    y, x, ahead = (a[:length] for a in world(1, 1, 0, 1))
    shape = shape_of(config, horizon=1, block=1, past=0, future=1)
    with pytest.raises(
        FitError, match=r"series row 1 has \d+ origins .*expected at least \d+ .* leave the series out"
    ) as e:
        fit_linear(ticks_of(y, x, ahead), targets_of(y, 1), shape, config)
    assert e.value.row == 1


def test_targets_that_do_not_vary_are_refused() -> None:
    """A price that stands still has nothing to regress."""
    _, x, ahead = world(1, 1, 0, 1)
    y = np.zeros((TIME, 1))
    shape = shape_of(ArxConfig(), horizon=1, block=1, past=0, future=1)
    with pytest.raises(FitError, match="whose targets do not vary"):
        fit_linear(ticks_of(y, x, ahead), targets_of(y, 1), shape, ArxConfig())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArxConfig(lags=-1), "lags: expected 0 to 1000"),
        (lambda: ArxConfig(seasons=(1,)), "seasons: expected 2 to 1000 observations each"),
        (lambda: ArxConfig(ridge=0.0), "ridge: expected above 0 to 1"),
        (lambda: LearConfig(lags=(2, 1)), "lags: expected increasing numbers from 1 to 1000"),
        (lambda: LearConfig(targets_back=(0,)), "targets_back: expected increasing numbers from 1 to 1000"),
        (lambda: LearConfig(level=1), "level: expected 0, or 2 to 100000 observations, got 1"),
        (lambda: LearConfig(windows=(10,)), "windows: expected at least one, each of 30 or more"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:
    """Each setting says its range."""
    with pytest.raises(ConfigError, match=message):
        make()
