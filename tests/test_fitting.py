"""Every name of a model fits, and nothing from the test split on is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from panels import DAY, garbage_from, market
from test_covariates import driven
from test_dayahead_training import SHAPE, days_of
from test_training import differ, weights

from models.autoregressive import AutoregressiveConfig
from models.conformal import ConformalConfig
from models.ensemble import Ensemble, EnsembleConfig
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster
from models.linear import LearConfig
from models.network import NetworkConfig
from models.transforms import LogReturn, fit_transform
from pipeline import fitting
from pipeline.backtest import walk_forward
from pipeline.dayahead_training import DayAheadTrainingConfig
from pipeline.fitting import MODELS, FitConfig, device_of, fit
from pipeline.metrics import covered
from pipeline.training import EpochRecord
from pipeline.training_config import TrainingConfig
from pipeline.windows import Split

PANEL, SPLIT = market(420, 380)
CONFIG = FitConfig(
    horizon=2,
    ar=AutoregressiveConfig(max_lags=5),
    network=NetworkConfig(hidden=5),
    training=TrainingConfig(lanes=4, epochs=2, device="cpu"),
)
NETWORKS = ("rnn", "lstm", "gru")
ALL = (*MODELS, "arx", "har", "egarch")
"""The models of the default, and the others that need neither blocks nor prices within the day."""


@pytest.mark.parametrize(
    ("name", "mix", "device"),
    [
        *(("ar", (), "cpu"), ("gru", (), "cuda"), ("ensemble", (), "cuda")),
        *(("mix", ("ar", "garch"), "cpu"), ("mix", ("ar", "lstm"), "cuda"), ("dayahead", (), "cpu")),
    ],
)
def test_a_model_is_fitted_where_its_networks_are(
    name: str, mix: tuple[str, ...], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ensemble or a mix with a network in it is told of as fitted on that network's device."""
    monkeypatch.setattr(fitting, "resolve_device", torch.device)  # there need not be one here
    config = FitConfig(training=TrainingConfig(device="cuda"))
    config = replace(config, ensemble=replace(config.ensemble, mix=mix or config.ensemble.mix))
    assert device_of(name, config) == device


@pytest.mark.parametrize("name", ALL)
def test_every_model_fits_and_forecasts(name: str) -> None:
    """By its name each model fits a small panel, carries that name, and forecasts its test split."""
    fitted = fit(name, PANEL, SPLIT, LogReturn(), CONFIG)
    assert fitted.name == name
    assert fitted.kind == {"ar_t": "ar"}.get(name, name)
    assert fitted.horizon == 2
    assert not fitted.training
    rows = walk_forward(fitted, PANEL, SPLIT.origins(PANEL, "test", 2))
    assert set(rows.step.tolist()) == {1, 2}
    assert np.isfinite(rows.quantile).all()
    covered = (rows.actual > rows.quantile[:, 1]) & (rows.actual < rows.quantile[:, -2])
    assert 0.8 < covered.mean() <= 1.0


@pytest.mark.parametrize("name", ALL)
def test_garbage_from_the_test_split_on_leaves_every_tensor_bit_for_bit(name: str) -> None:
    """Overwriting all prices at and after the validation end changes nothing that was fitted."""
    clean = fit(name, PANEL, SPLIT, LogReturn(), CONFIG)
    dirty = fit(name, garbage_from(PANEL, SPLIT.validation_end_time), SPLIT, LogReturn(), CONFIG)
    assert not differ(weights(clean), weights(dirty))


@pytest.mark.parametrize("name", [m for m in ALL if m not in NETWORKS])
def test_models_without_a_choice_are_fitted_on_validation_too(name: str) -> None:
    """A change of the last validation price changes the fit of every model that has no epoch to choose."""
    clean = fit(name, PANEL, SPLIT, LogReturn(), CONFIG)
    late = (PANEL.time >= SPLIT.validation_end_time - 2 * DAY) & (PANEL.time < SPLIT.validation_end_time)
    inside = PANEL.mask & late[..., None]
    moved = replace(PANEL, price=np.where(inside, PANEL.price * 1.2, PANEL.price))
    assert inside.any()
    assert differ(weights(clean), weights(fit(name, moved, SPLIT, LogReturn(), CONFIG)))


def test_the_transform_is_fitted_on_what_it_is_given_alone() -> None:
    """An asinh transform of the train prices and a network on it fit and forecast."""
    train = PANEL.before(SPLIT.train_end_time)
    transform = fit_transform("asinh", [p[m] for p, m in zip(train.price, train.mask, strict=True)])
    fitted = fit("gru", PANEL, SPLIT, transform, CONFIG)
    assert np.isfinite(walk_forward(fitted, PANEL, SPLIT.origins(PANEL, "test", 2)).quantile).all()


def test_the_two_autoregressions_differ_in_their_residuals_alone() -> None:
    """`ar` is normal, `ar_t` has a finite df for each series, and both have the same weights."""
    raw = replace(CONFIG, conformal=ConformalConfig(track="off"))
    normal, student = (fit(n, PANEL, SPLIT, LogReturn(), raw) for n in ("ar", "ar_t"))
    assert normal.core.df.isinf().all()
    assert student.core.df.isfinite().all()
    assert differ(weights(normal), weights(student)) == ["core.scale", "core.df", "core.standard"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_name_of_a_network_is_its_kind(name: str, tmp_path: Path) -> None:
    """The name decides what remembers; epochs are told and kept in the checkpoint."""
    told: list[EpochRecord] = []
    config = replace(CONFIG, network=NetworkConfig(hidden=5))
    fitted = fit(name, PANEL, SPLIT, LogReturn(), config, checkpoint=tmp_path / "p.safetensors", on_epoch=told.append)
    assert fitted.kind == name
    assert [r.epoch for r in told] == [1, 2]
    assert (tmp_path / "p.safetensors").exists()


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """The message names the nearest model and lists all."""
    with pytest.raises(ConfigError, match=r"unknown model 'lsmt': did you mean 'lstm'\? Known: ar, ar_t, arx, "):
        fit("lsmt", PANEL, SPLIT, LogReturn(), CONFIG)


@pytest.mark.parametrize("horizon", [0, 1001])
def test_a_horizon_out_of_range_is_refused(horizon: int) -> None:
    """The setting says its range."""
    with pytest.raises(ConfigError, match="horizon: expected 1 to 1000 steps"):
        FitConfig(horizon=horizon)


def test_data_that_carry_no_fit_are_refused() -> None:
    """A panel too short for GARCH raises FitError that names the row."""
    prices, split = market(120, 120)
    with pytest.raises(FitError, match="GARCH: series row 1 has"):
        fit("garch", prices, split, LogReturn(), CONFIG)


TOGETHER = replace(CONFIG, ensemble=EnsembleConfig(of="gru", members=2, mix=("gru", "ar_t", "last_value")))


def core_of(fitted: Forecaster) -> Ensemble:
    """Give the ensemble inside the calibration."""
    assert isinstance(fitted.core.core, Ensemble)
    return fitted.core.core


def test_an_ensemble_is_of_the_networks_of_its_seeds() -> None:
    """Each member is bit for bit the network that is fitted alone from its seed, and counts alike."""
    core = core_of(fit("ensemble", PANEL, SPLIT, LogReturn(), TOGETHER))
    assert core.weights.tolist() == [0.5, 0.5]
    for seed, member in enumerate(core.members):
        training = replace(CONFIG.training, seed=seed)
        raw = replace(CONFIG, training=training, conformal=ConformalConfig(track="off"))
        alone = fit("gru", PANEL, SPLIT, LogReturn(), raw).core.state_dict()
        assert not differ(member.state_dict(), alone)


def test_a_killed_ensemble_goes_on_from_the_checkpoints_of_its_members(tmp_path: Path) -> None:
    """Cut off in the last epoch of the second member, the same call ends in the same tensors without the first's."""
    path, whole = tmp_path / "ensemble-key.safetensors", fit("ensemble", PANEL, SPLIT, LogReturn(), TOGETHER)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("ensemble", PANEL, SPLIT, LogReturn(), TOGETHER, checkpoint=path, on_epoch=stop)
    assert {p.name for p in tmp_path.iterdir()} == {"ensemble-key.safetensors", "ensemble-key-1.safetensors"}
    told: list[EpochRecord] = []
    again = fit("ensemble", PANEL, SPLIT, LogReturn(), TOGETHER, checkpoint=path, on_epoch=told.append)
    assert [r.epoch for r in told] == [4]
    assert not differ(weights(again), weights(whole))


def test_a_mix_is_weighed_on_validation_and_never_looks_further() -> None:
    """Garbage from the test split on changes no tensor; a member that does not help is left out."""
    clean = fit("mix", PANEL, SPLIT, LogReturn(), TOGETHER)
    dirty = fit("mix", garbage_from(PANEL, SPLIT.validation_end_time), SPLIT, LogReturn(), TOGETHER)
    assert not differ(weights(clean), weights(dirty))
    assert core_of(clean).weights.sum().item() == pytest.approx(1.0)
    assert core_of(clean).weights.min() >= 0.01
    equal = replace(TOGETHER, ensemble=replace(TOGETHER.ensemble, weights="equal"))
    assert core_of(fit("mix", PANEL, SPLIT, LogReturn(), equal)).weights.tolist() == pytest.approx([1 / 3] * 3)


def test_an_ensemble_begins_at_the_weights_of_the_one_before() -> None:
    """A warm refit that learns nothing leaves every member as it was, in its own place."""
    before = fit("ensemble", PANEL, SPLIT, LogReturn(), TOGETHER)
    still = replace(TOGETHER, training=replace(CONFIG.training, epochs=1, learning_rate=1e-30, weight_decay=0.0))
    after = fit("ensemble", PANEL, SPLIT, LogReturn(), still, start=before)
    for a, b in zip(core_of(before).members, core_of(after).members, strict=True):
        assert not differ(a.state_dict(), b.state_dict())
    assert differ(core_of(before).members[0].state_dict(), core_of(before).members[1].state_dict())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ensemble", EnsembleConfig(of="garch"), "fit.ensemble.of: unknown network 'garch'"),
        ("mix", EnsembleConfig(mix=("ar", "mix")), "fit.ensemble.mix: unknown member 'mix'"),
        ("mix", EnsembleConfig(mix=("ar", "grach")), "did you mean 'garch'"),
    ],
)
def test_members_must_be_there(name: str, settings: EnsembleConfig, message: str) -> None:
    """A member that is no kind, or an ensemble itself, is named with those that there are."""
    with pytest.raises(ConfigError, match=message):
        fit(name, PANEL, SPLIT, LogReturn(), replace(CONFIG, ensemble=settings))


def test_members_that_read_other_covariates_are_refused_whatever_they_would_count() -> None:
    """Each is told with what it reads, also where one is so poor that it would get no weight and be left out."""
    known, parts = driven()
    poor = LearConfig(windows=(30,))
    config = replace(CONFIG, horizon=1, lear=poor, ensemble=EnsembleConfig(mix=("arx", "lear")))
    with pytest.raises(ConfigError, match=r"arx with \['drive'\], lear with \['drive', '@weekday'\]"):
        fit("mix", known, parts, LogReturn(), config)


DAYS = days_of(300)

OF_DAYS = FitConfig(
    dayahead=replace(SHAPE, members=1, width=32, dropout=0.0, state_dropout=0.0),
    dayahead_training=DayAheadTrainingConfig(epochs=60, chunks=8, learning_rate=5e-3),
    ensemble=EnsembleConfig(mix=("dayahead", "last_value"), weights="equal"),
)


def of_days(name: str, until: int, track: str = "first", start: Forecaster | None = None) -> Forecaster:
    """Fit what is trained on the validation split too, on the first days."""
    cut = Split(train_end_time=until * DAY * 2 // 3, validation_end_time=until * DAY)
    transform = start.transform if start else fit_transform("asinh", [DAYS.price[0, : until * 2 // 3].ravel()])
    config = replace(OF_DAYS, conformal=ConformalConfig(track=track))  # type: ignore[arg-type]
    return fit(name, DAYS, cut, transform, config, start=start)


def test_what_is_trained_on_the_validation_split_is_calibrated_by_a_twin_that_was_not() -> None:
    """Intervals that were learned by heart are too narrow out of sample; those of the twin hold their share."""
    later = np.zeros(DAYS.time.shape, bool)
    later[0, 240:299] = True
    told = {}
    for name, forecaster in {
        "by heart": of_days("dayahead", 240, "off"),
        "calibrated": of_days("dayahead", 240),
        "mix": of_days("mix", 240),
    }.items():
        told[name] = covered(walk_forward(forecaster, DAYS, later), 80).mean()
    assert told["by heart"] < 0.6
    assert told["calibrated"] == pytest.approx(0.8, abs=0.08)
    assert told["mix"] > 0.72


@pytest.mark.parametrize("name", ["dayahead", "mix"])
def test_a_warm_refit_keeps_the_offsets_of_the_twin(name: str) -> None:
    """Nothing is calibrated again on days that are known by heart, and nothing is tracked on them."""
    before = of_days(name, 200)
    after = of_days(name, 201, start=before)
    assert torch.equal(before.core.start, after.core.start)  # type: ignore[arg-type]
    assert differ(weights(before), weights(after))
    assert "offset" not in {s.name for s in after.state_tensors()}
