"""The ensemble of the day-ahead prices: what its features are, how members join, and what the state holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.core import Tick, initial_state
from models.dayahead import DAYS, KNOWN_DAYS, PRICE_DAYS, DayAhead, DayAheadConfig
from models.errors import ConfigError
from models.observation import LEVELS, MEDIAN

BLOCK, FUTURE, TIME = 3, 5, 60


def core_of(**settings: object) -> DayAhead:
    """Make an ensemble with random weights for blocks of three prices, four covariates and the weekday."""
    torch.manual_seed(1)
    config = DayAheadConfig(**({"hidden": 5, "width": 7} | settings))  # type: ignore[arg-type]
    return DayAhead(config, block=BLOCK, future=FUTURE, series=2)


def ticks_of(level_BTM: np.ndarray, future_BTK: np.ndarray) -> Tick:
    """Make ticks of levels on the transformed scale, the first of which gives no move."""
    change = torch.tensor(np.diff(level_BTM, axis=1, prepend=level_BTM[:, :1]), dtype=torch.float32)
    held = torch.zeros_like(change, dtype=torch.bool)
    held[:, 0] = True
    return Tick(
        change=change,
        held=held,
        series=torch.arange(1, len(change) + 1),
        past=change.new_zeros(*change.shape[:2], 0),
        future=torch.tensor(future_BTK, dtype=torch.float32)[:, :, None],
        elapsed=change.new_ones(change.shape[:2]),
    )


def days() -> tuple[np.ndarray, np.ndarray, Tick]:
    """Simulate levels and what is known ahead of two series."""
    rng = np.random.default_rng(2)
    level = np.cumsum(rng.normal(size=(2, TIME, BLOCK)), 1)
    future = rng.normal(size=(2, TIME, FUTURE))
    future[..., -1] = np.arange(TIME) % 7
    return level, future, ticks_of(level, future)


def features_at_the_end(core: DayAhead, ticks: Tick) -> tuple[Tensor, Tensor]:
    """Give the features [E, B, F] and levels [E, B, M] after the last tick."""
    state = initial_state(core.state_tensors(), 2, core.df)
    features, level, _ = core.unrolled_features(ticks, state)
    return features.unflatten(1, (2, -1))[:, :, -1], level.unflatten(1, (2, -1))[:, :, -1]


@pytest.mark.parametrize("days_of_level", [1, 7, DAYS])
def test_prices_are_shown_relative_to_the_level_of_the_last_days(days_of_level: int) -> None:
    """The price features are the blocks of the days named, less the recent mean and the profile of four weeks."""
    level, _, ticks = days()
    core = core_of(members=1, levels=(days_of_level,))
    features, local = features_at_the_end(core, ticks)
    profile = level[:, -DAYS:].mean(1)
    mean = level[:, -days_of_level:].mean((1, 2))[:, None] + profile - profile.mean(1, keepdims=True)
    np.testing.assert_allclose(local[0].numpy(), mean - level[:, -1], rtol=1e-4, atol=1e-5)
    shown = np.concatenate([level[:, -day] - mean for day in PRICE_DAYS], 1)
    np.testing.assert_allclose(features[0, :, : shown.shape[1]].numpy(), np.clip(shown, -8, 8), rtol=1e-4, atol=1e-5)


def test_the_slow_level_is_an_exponential_mean_of_half_a_year() -> None:
    """With 0 days the level is the exponentially weighted mean of memory 182 that begins at the first block."""
    level, _, ticks = days()
    _, local = features_at_the_end(core_of(members=1, levels=(0,)), ticks)
    slow = level[:, 0].copy()
    for t in range(1, TIME):
        slow += (level[:, t] - slow) / 182
    profile = level[:, -DAYS:].mean(1)
    wanted = slow.mean(1, keepdims=True) + profile - profile.mean(1, keepdims=True) - level[:, -1]
    np.testing.assert_allclose(local[0].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_covariates_are_of_the_day_forecast_and_of_days_before_it() -> None:
    """Standardised by the units of their series they stand for D, D-1 and D-7, and the weekday of D is one of seven."""
    _, future, ticks = days()
    core = core_of(members=2)
    core.fit_covariates([torch.tensor(x, dtype=torch.float32) for x in future])
    features, _ = features_at_the_end(core, ticks)
    mean, deviation = future[..., :-1].mean(1), future[..., :-1].std(1)
    wanted = np.concatenate([(future[:, -1 - day, :-1] - mean) / deviation for day in KNOWN_DAYS], 1)
    known = features[1, :, len(PRICE_DAYS) * BLOCK :].numpy()
    np.testing.assert_allclose(known[:, : wanted.shape[1]], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(known[:, wanted.shape[1] :], np.eye(7)[[(TIME - 1) % 7] * 2])


def test_a_covariate_that_does_not_vary_has_unit_one() -> None:
    """A constant column is centred and not divided by zero."""
    core = core_of()
    core.fit_covariates([torch.full((30, FUTURE), 7.0), torch.full((30, FUTURE), 9.0)])
    assert (core.unit == 1).all()
    assert core.center[1:, 0].tolist() == [7.0, 9.0]


def test_a_series_that_has_shown_no_day_is_as_all_are() -> None:
    """Its center and unit are those of row 0, and no number is missing."""
    core, x = core_of(), torch.tensor(days()[1][0], dtype=torch.float32)
    core.fit_covariates([x, x[:0]])
    assert torch.equal(core.center[2], core.center[0])
    assert torch.equal(core.unit[2], core.unit[0])
    assert core.center.isfinite().all()


def test_a_network_without_weights_forecasts_the_local_level() -> None:
    """With all weights and biases at zero the median is the level, which is what the output is relative to."""
    _, _, ticks = days()
    core = core_of(members=2, levels=(7,))
    for p in core.parameters():
        p.detach().zero_()
    distribution, _ = core.unroll(ticks, initial_state(core.state_tensors(), 2, core.df))
    _, level = features_at_the_end(core, ticks)
    torch.testing.assert_close(distribution.quantile[:, -1, 0, :, MEDIAN], level[0], rtol=1e-5, atol=1e-6)


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    """Its quantiles are those of each member alone, averaged level by level."""
    _, _, ticks = days()
    together = core_of(members=3, levels=(7, 28, 0))
    whole, _ = together.unroll(ticks, initial_state(together.state_tensors(), 2, together.df))
    alone = []
    for member, levels in enumerate(together.config.levels):
        one = DayAhead(replace(together.config, members=1, levels=(levels,)), block=BLOCK, future=FUTURE, series=2)
        own = dict(one.state_dict())
        mine = {k: v[member : member + 1] for k, v in together.named_parameters()}
        one.load_state_dict(own | mine)
        alone.append(one.unroll(ticks, initial_state(one.state_tensors(), 2, one.df))[0].quantile)
    torch.testing.assert_close(whole.quantile, torch.stack(alone).mean(0), rtol=1e-5, atol=1e-5)


def test_the_state_of_the_network_reaches_the_forecast() -> None:
    """Another hidden state gives another forecast of the same day, and a held block shows nothing of its covariates."""
    _, _, ticks = days()
    core = core_of(members=2)
    state = initial_state(core.state_tensors(), 2, core.df)
    _, state = core.unroll(ticks, state)
    still = Tick(
        change=torch.zeros(2, BLOCK),
        held=torch.ones(2, BLOCK, dtype=torch.bool),
        series=ticks.series,
        past=torch.zeros(2, 0),
        future=torch.full((2, 1, FUTURE), float("nan")),
        elapsed=torch.ones(2),
    )
    same, _ = core.step(still, state)
    other, _ = core.step(still, state | {"hidden": state["hidden"] + 1.0})
    assert same.quantile.isfinite().all()
    assert ((same.quantile - other.quantile).abs().amax((1, 2, 3)) > 1e-4).all()


def test_the_loss_is_the_pinball_loss_over_the_levels() -> None:
    """Without dropout it is the mean over the levels of the loss that each quantile minimises."""
    core = core_of(members=2, dropout=0.0, state_dropout=0.0)
    rng = torch.Generator().manual_seed(4)
    width = core.linear.weight.shape[1]
    features, hidden = torch.randn(2, 6, width, generator=rng), torch.randn(2, 6, 5, generator=rng)
    target = torch.randn(2, 6, BLOCK, generator=rng)
    error = (target[..., None] - core.quantiles(features, hidden)).detach().numpy()
    naive = np.mean(
        [np.where(e >= 0, p * e, (p - 1) * e) for p, e in zip(LEVELS, np.moveaxis(error, -1, 0), strict=True)], 0
    )
    np.testing.assert_allclose(core.loss(features, hidden, target).detach().numpy(), naive, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"members": 0}, {"hidden": 5000}, {"dropout": 0.95}, {"levels": ()}, {"levels": (29,)}, {"width": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    """Each range is checked when the settings are made."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DayAheadConfig(**wrong)  # type: ignore[arg-type]


def test_prices_one_at_a_time_are_refused() -> None:
    """An ensemble of a day needs blocks, and says which setting makes them."""
    with pytest.raises(ConfigError, match="Set block"):
        DayAhead(DayAheadConfig(), block=1, future=1, series=1)
