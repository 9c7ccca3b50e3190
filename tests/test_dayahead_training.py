"""Training the ensemble of a day: it finds what is there, sees nothing of the future, and follows a change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from panels import DAY, garbage_from

from models.dayahead import DayAhead, DayAheadConfig
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster
from models.transforms import fit_transform
from pipeline.backtest import walk_forward
from pipeline.dayahead_training import DayAheadTrainingConfig, fit_dayahead
from pipeline.fitting import FitConfig, fit
from pipeline.windows import Panel, Split, panel

BLOCK, NOISE = 4, 0.5
SHAPE = DayAheadConfig(members=2, hidden=4, width=16, levels=(7, 0))
SHORT = DayAheadTrainingConfig(epochs=3, chunks=8)


def days_of(time: int, *, shift: float = 0.0, seed: int = 3) -> Panel:
    """Simulate blocks that are a load known ahead, a profile and noise; `shift` is added in the last third."""
    rng = np.random.default_rng(seed)
    load = rng.normal(size=(time + 1, BLOCK))
    price = 50 + 5 * load[:-1] + np.arange(BLOCK) + NOISE * rng.normal(size=(time, BLOCK))
    price[2 * time // 3 :] += shift
    hours = np.arange(time * BLOCK) * (DAY // BLOCK)
    made = panel(np.full(time * BLOCK, "A"), hours, price.ravel(), block=BLOCK)
    names = tuple(f"load.{m:02d}" for m in range(BLOCK))
    return replace(made, future=load[None, 1:, None].astype(np.float32), future_names=names)


def fitted(days: Panel, until: int, start: Forecaster | None = None, **settings: object) -> Forecaster:
    """Fit on the days before one of them."""
    split = Split(train_end_time=until * DAY * 3 // 4, validation_end_time=until * DAY)
    transform = start.transform if start else fit_transform("asinh", [days.price[0, : until * 3 // 4].ravel()])
    training = replace(SHORT, **settings)  # type: ignore[arg-type]
    return fit_dayahead("day", days, split, transform, shape=SHAPE, training=training, start=start)


def error(forecaster: Forecaster, days: Panel, first: int, last: int) -> float:
    """Give the mean absolute error of the medians of days `first` to `last - 1`."""
    origins = np.zeros(days.time.shape, bool)
    origins[0, first - 1 : last - 1] = True
    rows = walk_forward(forecaster, days, origins)
    return float(np.abs(rows.quantile[:, 5] - rows.actual).mean())


def same(a: Forecaster, b: Forecaster) -> bool:
    """Tell whether two fits are the same bit for bit."""
    others = b.state_dict()
    return all(torch.equal(x.nan_to_num(), others[k].nan_to_num()) for k, x in a.state_dict().items())


def test_what_is_known_ahead_is_learned() -> None:
    """Prices that are a load and noise come near the noise, E|e| = 0.4; their level alone leaves E|5 load| = 4."""
    days = days_of(420)
    made = fitted(days, 340, epochs=40, learning_rate=1e-2)
    noise, load = NOISE * np.sqrt(2 / np.pi), 5 * np.sqrt(2 / np.pi)
    assert noise < error(made, days, 340, 420) < 0.3 * load


def test_nothing_from_the_end_of_validation_on_is_read() -> None:
    """Garbage there leaves every weight bit for bit."""
    days = days_of(200)
    assert same(fitted(days, 150), fitted(garbage_from(days, 150 * DAY), 150))


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same weights whatever was drawn before, another seed others, and torch's own stays."""
    days = days_of(150)
    before = torch.random.get_rng_state()
    first = fitted(days, 140)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert same(first, fitted(days, 140))
    assert not same(first, fitted(days, 140, seed=1))


def test_daily_updates_follow_a_change() -> None:
    """After all prices have moved up, updates on the days since lower the error of the days after."""
    days = days_of(300, shift=15.0)
    made = served = fitted(days, 201, epochs=20, learning_rate=1e-2)
    for until in range(202, 232):
        served = fitted(days, until, start=served, updates=3, update_rate=3e-3)
    assert error(served, days, 232, 252) < 0.97 * error(made, days, 232, 252)


def test_a_warm_refit_keeps_the_units_and_changes_the_weights() -> None:
    """Units of features and targets are those of the first fit; no updates leave everything as it was."""
    days = days_of(200)
    first = fitted(days, 150)
    later, idle = fitted(days, 190, start=first), fitted(days, 190, start=first, updates=0)
    assert same(first, idle)
    assert all(torch.equal(getattr(first.core, k), getattr(later.core, k)) for k in ("unit", "target_unit"))
    assert not same(first, later)


def test_days_without_prices_are_left_out() -> None:
    """A hole of a week is neither trained on nor a reason to fail, and the fit is finite."""
    days = days_of(200)
    mask = days.mask.copy()
    mask[0, 90:97] = False
    mask[0, 120, 1] = False
    made = fitted(replace(days, mask=mask, price=np.where(mask, days.price, np.nan)), 180)
    assert all(p.isfinite().all() for p in made.core.parameters())  # type: ignore[attr-defined]


def test_a_start_of_another_shape_is_refused() -> None:
    """Weights of more members do not fit, and the message says what to do."""
    days = days_of(120)
    first = fitted(days, 110)
    split = Split(train_end_time=80 * DAY, validation_end_time=110 * DAY)
    with pytest.raises(ConfigError, match="scratch"):
        fit_dayahead("day", days, split, first.transform, shape=replace(SHAPE, members=3), training=SHORT, start=first)


def test_too_short_a_history_is_refused() -> None:
    """Fewer days than the features look back are named with how many are needed, without a warning; so many suffice."""
    for until in (48, 10, 2):
        with pytest.raises(
            FitError, match=rf"expected a series of 49 blocks .* in train and validation, got \[{until}\]"
        ):
            fitted(days_of(60), until)
    assert all(p.isfinite().all() for p in fitted(days_of(60), 49, epochs=1).core.parameters())  # type: ignore[attr-defined]


def test_a_train_split_too_short_for_the_twin_is_told_as_such() -> None:
    """Where train and validation would do, what the calibration needs of train alone is said."""
    config = FitConfig(dayahead=SHAPE, dayahead_training=SHORT)
    days = days_of(100)
    transform = fit_transform("asinh", [days.price[0, :48].ravel()])
    with pytest.raises(FitError, match=r"49 blocks or more in train alone, .* calibrate the quantiles, got \[48\]"):
        fit("dayahead", days, Split(train_end_time=48 * DAY, validation_end_time=90 * DAY), transform, config)


def test_without_covariates_of_its_own_it_reads_the_weekday() -> None:
    """A panel without any is fitted without a warning, and every weight is a number."""
    days = days_of(120)
    made = fitted(replace(days, future_names=(), future=days.future[..., :0]), 110)
    assert made.future_names == ("@weekday",)
    assert all(p.isfinite().all() for p in made.core.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"updates": -1}, {"chunk": 400}, {"clip": 0.0}, {"weight_decay": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    """Each range is checked when the settings are made."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DayAheadTrainingConfig(**wrong)  # type: ignore[arg-type]


def test_the_fit_reads_the_covariates_of_blocks_and_the_weekday() -> None:
    """The names that are served are those of the panel known ahead, and the weekday last."""
    made = fitted(days_of(120), 110)
    assert made.future_names == ("load.00", "load.01", "load.02", "load.03", "@weekday")
    assert isinstance(made.core, DayAhead)
