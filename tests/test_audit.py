"""The audit passes every kind, and names the stage of each leak that is planted, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from panels import DAY, market

from models import network
from models.autoregressive import AutoregressiveConfig
from models.errors import ConfigError, FitError, LeakageError
from models.forecaster import Forecaster
from models.network import NetworkConfig
from models.transforms import fit_transform
from pipeline import audit as auditing
from pipeline import fitting, moves, steps, training
from pipeline.audit import PRICES, STAGES, Audit, Product, Stage, World, audit, difference
from pipeline.config import Config
from pipeline.fitting import MODELS, FitConfig
from pipeline.prices import SCHEMA, PriceStore
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split

FIT = FitConfig(
    horizon=2,
    ar=AutoregressiveConfig(max_lags=3),
    network=NetworkConfig(hidden=3),
    training=TrainingConfig(lanes=4, device="cpu"),
)


def keep(prices: Panel, folder: Path) -> None:
    """Write a panel into a price store; a third of the days become known a day late."""
    inside = np.arange(prices.time.shape[1]) < prices.length[:, None]
    row, column = np.nonzero(inside)
    time = prices.time[row, column]
    frame = pl.DataFrame(
        {
            "series_id": np.array(prices.names)[row],
            "time": time,
            "available_time": time + np.where(column % 3 == 0, DAY, 0),
            "price": prices.price[row, column, 0],
        }
    )
    PriceStore(folder).write(frame.with_columns(pl.col("price").fill_nan(None)).cast(SCHEMA))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Give settings of a small store: two series with holes, prices that may fall below zero."""
    folder = tmp_path_factory.mktemp("audited")
    keep(market(420, 400)[0], folder / "prices")
    return Config(folder=folder, transform="asinh", fit=FIT)


@pytest.fixture(scope="module")
def clean(config: Config) -> Audit:
    """Audit all models once."""
    return audit(config, MODELS, epochs=2)


# ----------------------------------------------------------------------------------------------------- without a leak


@pytest.mark.parametrize("name", [PRICES, *MODELS])
def test_every_kind_passes_every_stage(clean: Audit, name: str) -> None:
    """Nothing that a model makes of the past changes with the future, at any stage of its way."""
    own = [f for f in clean.findings if f.model == name]
    expected = [(s.name, c) for s in STAGES if name in (s.kinds or (PRICES,)) for c in s.checks]
    assert [(f.stage, f.check) for f in own] == expected
    assert [f for f in own if not f.ok] == []


def test_a_clean_audit_raises_nothing(clean: Audit) -> None:
    """There is nothing to require of it."""
    clean.require()


def test_bins_that_are_fitted_on_the_train_targets_pass(config: Config) -> None:
    """The edges of a categorical head, and all that rests on them, have nothing of the future."""
    small = replace(config, fit=replace(config.fit, network=replace(config.fit.network, bins=11)))
    audit(small, ("categorical",), epochs=1).require()


def test_a_network_that_reads_the_calendar_passes(config: Config) -> None:
    """What a time says by itself is no leak, with the price and ahead of it."""
    told = replace(config, past=("@weekday",), ahead=("@month_sin", "@weekday_cos"))
    audit(told, ("gru",), epochs=2).require()


# ------------------------------------------------------------------------------------------------------ planted leaks

Plant = Callable[[pytest.MonkeyPatch], None]


def transform_on_all_prices(patch: pytest.MonkeyPatch) -> None:
    """Fit median and unit of the asinh on train and test."""
    honest = steps.load

    def load(config: Config) -> steps.Data:
        data = honest(config)
        known = [p[m] for p, m in zip(data.panel.price, data.panel.mask, strict=True)]
        return replace(data, transform=fit_transform("asinh", known))

    patch.setattr(steps, "load", load)


def split_by_price(patch: pytest.MonkeyPatch) -> None:
    """Cut the calendar where the dearest price of all was seen."""
    honest = steps.split

    def split(panel: Panel, config: Any) -> Split:
        found = honest(panel, config)
        return replace(found, validation_end_time=found.validation_end_time + int(np.nanargmax(panel.price)))

    patch.setattr(steps, "split", split)


def smoothed_prices(patch: pytest.MonkeyPatch) -> None:
    """Smooth prices by a window that is centred on them."""
    honest = steps.panel

    def panel(*columns: Any, **blocks: Any) -> Panel:
        found = honest(*columns, **blocks)
        price = found.price.copy()
        price[:, 1:-1] = (price[:, :-2] + price[:, 1:-1] + price[:, 2:]) / 3
        return replace(found, price=price)

    patch.setattr(steps, "panel", panel)


def naive_scale_of_all(patch: pytest.MonkeyPatch) -> None:
    """Take the denominator of the MASE from all prices."""
    honest = steps.naive_scales
    patch.setattr(
        steps, "naive_scales", lambda data: honest(replace(data, split=replace(data.split, train_end_time=2**62)))
    )


def regimes_of_all(patch: pytest.MonkeyPatch) -> None:
    """Take the terciles of volatility from the whole series."""
    honest = auditing.regimes
    patch.setattr(auditing, "regimes", lambda panel, _: honest(panel, 2**62))


def moves_without_an_end(patch: pytest.MonkeyPatch) -> None:
    """Fit the simple models on the test as well."""
    honest = moves.moves
    for module in (fitting, auditing):
        patch.setattr(module, "moves", lambda panel, transform, _: honest(panel, transform, 2**62))


def scale_of_all(patch: pytest.MonkeyPatch) -> None:
    """Fit the unit of the running scale on all prices."""
    honest = training.typical_move
    patch.setattr(training, "typical_move", lambda panel, transform, _: honest(panel, transform, 2**62))


def features_with(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Plant:
    """Change the inputs of training, given the targets beside them."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        honest = training.Training._series_tensors

        def leaking(self: training.Training, panel: Panel) -> dict[str, torch.Tensor]:
            made = honest(self, panel)
            return made | {"inputs": change(made["inputs"], made["targets"])}

        patch.setattr(training.Training, "_series_tensors", leaking)

    return plant


def targets_beyond_the_cut(patch: pytest.MonkeyPatch) -> None:
    """Count origins to a part by their own time, so that targets lie beyond its end."""
    honest = Split.origins

    def origins(self: Split, panel: Panel, part: Any, horizon: int = 1) -> np.ndarray:
        if part != "train":
            return honest(self, panel, part, horizon)
        wanted = np.zeros_like(panel.published)
        wanted[:, :-horizon] = panel.published[:, :-horizon] & panel.published[:, horizon:]
        return wanted & (panel.time < self.train_end_time)

    patch.setattr(Split, "origins", origins)


def validation_on_the_test(patch: pytest.MonkeyPatch) -> None:
    """Choose the epoch on prices of the test too."""
    honest = training.Training._prepare
    beyond = 60 * DAY

    def leaking(self: training.Training, panel: Panel, split: Split) -> Any:
        return honest(self, panel, replace(split, validation_end_time=split.validation_end_time + beyond))

    patch.setattr(training.Training, "_prepare", leaking)


def peeking_fit(patch: pytest.MonkeyPatch) -> None:
    """Change the scale by the last price there is."""
    honest = fitting.fit

    def fit(name: str, panel: Panel, *rest: Any, **options: Any) -> Forecaster:
        fitted = honest(name, panel, *rest, **options)
        with torch.no_grad():
            last = float(panel.price[panel.mask][-1])
            next(v for k, v in fitted.state_dict().items() if k.endswith("scale")).mul_(1 + 1e-3 * np.log(abs(last)))
        return fitted

    patch.setattr(auditing, "fit", fit)


def peeking_refit(patch: pytest.MonkeyPatch) -> None:
    """Let a refit see what comes after its moment."""
    honest = auditing.seen

    def seen(panel: Panel, cut: int, *rest: Any) -> tuple[Panel, Split]:
        return honest(panel, cut + 30 * DAY, *rest)

    patch.setattr(auditing, "seen", seen)


def forward_that_looks_ahead(patch: pytest.MonkeyPatch) -> None:
    """Let the forecast of a stretch depend on its last move."""
    honest = network.Network.unroll

    def unroll(self: Any, ticks: Any, state: Any) -> Any:
        distribution, after = honest(self, ticks, state)
        last = ticks.change[:, -1:].reshape(-1, *[1] * (distribution.quantile.ndim - 1))
        distribution.quantile.add_(1e-3 * last)
        return distribution, after

    patch.setattr(network.Network, "unroll", unroll)


def walk_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Give each origin the forecast that was made one origin later."""
    honest = auditing.walk_session_forward

    def walk(*arguments: Any) -> Any:
        rows = honest(*arguments)
        return replace(rows, quantile=np.roll(rows.quantile, -2, axis=0))

    patch.setattr(auditing, "walk_session_forward", walk)


def walk_by_position(patch: pytest.MonkeyPatch) -> None:
    """Begin the state at the third place of the array, wherever the series begins."""
    honest = auditing.walk_forward

    def walk(forecaster: Forecaster, panel: Panel, origins: np.ndarray) -> Any:
        mask = panel.mask.copy()
        mask[:, :3] = False
        return honest(forecaster, replace(panel, mask=mask, price=np.where(mask, panel.price, np.nan)), origins)

    patch.setattr(auditing, "walk_forward", walk)


def counting_what_comes(patch: pytest.MonkeyPatch) -> None:
    """Scale by the share of all prices that are published, those to come included."""
    honest = auditing.walk_forward

    def walk(forecaster: Forecaster, panel: Panel, origins: np.ndarray) -> Any:
        rows = honest(forecaster, panel, origins)
        return replace(rows, scale=rows.scale * panel.mask[:, :-1].sum())

    patch.setattr(auditing, "walk_forward", walk)


CENTRED = features_with(lambda x, _: (x + torch.roll(x, -1, 1) + torch.roll(x, 1, 1)) / 3)
TARGET_IN_FEATURES = features_with(lambda x, y: torch.cat([torch.nan_to_num(y[:, :, :1, 0]), x[..., 1:]], 2))

LEAKS: dict[str, tuple[Plant, str, str, str]] = {
    "a split that looks at prices": (split_by_price, "last_value", "split", "garbage"),
    "prices smoothed over what comes": (smoothed_prices, "last_value", "prices", "garbage"),
    "a transform fitted on all prices": (transform_on_all_prices, "last_value", "transform", "garbage"),
    "a naive scale of all prices": (naive_scale_of_all, "last_value", "naive scale", "garbage"),
    "regimes of all prices": (regimes_of_all, "last_value", "regimes", "garbage"),
    "moves of the test": (moves_without_an_end, "drift", "moves", "garbage"),
    "a scaler fitted on everything": (scale_of_all, "gru", "scales", "garbage"),
    "a centred rolling window": (CENTRED, "gru", "features", "garbage"),
    "targets among the features": (TARGET_IN_FEATURES, "gru", "features", "garbage"),
    "targets beyond the cut": (targets_beyond_the_cut, "gru", "targets", "garbage"),
    "validation that reads the test": (validation_on_the_test, "gru", "validation", "garbage"),
    "a fit that peeks": (peeking_fit, "last_value", "fit", "garbage"),
    "a refit that peeks": (peeking_refit, "drift", "refit", "garbage"),
    "a forward that looks ahead": (forward_that_looks_ahead, "gru", "walk", "garbage"),
    "a walk that counts what comes": (counting_what_comes, "last_value", "walk", "holes"),
    "a walk that goes by position": (walk_by_position, "ar", "walk", "shift"),
    "a served walk that is off by one": (walk_off_by_one, "drift", "exported walk", "garbage"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_named_by_its_stage(config: Config, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    """The first finding that fails is that of the stage in which the leak was planted."""
    plant, name, stage, check = LEAKS[leak]
    plant(monkeypatch)
    names = [s.name for s in STAGES]
    found = audit(config, (name,), epochs=1, stages=STAGES[: names.index(stage) + 1])
    assert (found.leaks[0].stage, found.leaks[0].check) == (stage, check), found.leaks
    with pytest.raises(LeakageError, match=f"{stage}, {check}: ") as raised:
        found.require()
    assert raised.value.report is found
    assert raised.value.exit_code == 8


def test_a_leak_is_told_with_its_place_and_both_values(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detail counts the elements and names the series and time of the first one."""
    forward_that_looks_ahead(monkeypatch)
    found = audit(config, ("gru",), epochs=1, stages=tuple(s for s in STAGES if s.name == "walk"))
    (garbage,) = (f for f in found.findings if f.check == "garbage")
    assert re.match(
        r"[\d,]+ of [\d,]+ elements differ, first quantile\[0\] of S0 at 1970-\d\d-\d\dT00:00:00Z: \S+ became",
        garbage.detail,
    )


def test_garbage_that_breaks_a_stage_is_a_leak(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the world as it was does not raise is a finding, not the end of the audit."""
    honest = auditing.fit

    def fit(name: str, panel: Panel, *rest: Any) -> Forecaster:
        if np.nanmax(panel.price) > 1e4:
            raise FitError("too wild")
        return honest(name, panel, *rest)

    monkeypatch.setattr(auditing, "fit", fit)
    found = audit(config, ("drift",), stages=tuple(s for s in STAGES if s.name == "fit"))
    assert {f.detail for f in found.findings} == {"FitError that the world as it was does not raise: too wild"}


def test_a_check_that_cannot_see_a_planted_leak_fails(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prices known one observation early change nothing, the audit says that it is blind."""
    monkeypatch.setattr(auditing, "one_early", lambda panel: panel)
    found = audit(config, ("last_value",), stages=tuple(s for s in STAGES if s.name in ("moves", "walk")))
    assert {(f.stage, f.check) for f in found.leaks} == {("moves", "control"), ("walk", "control")}
    assert "the check is blind" in found.leaks[0].detail


def test_a_new_stage_is_one_line(config: Config) -> None:
    """A stage of one's own is checked like those that are there: here the highest price of all, which leaks."""

    def highest(world: World) -> Product:
        return Product(arrays={"highest": np.nanmax(world.panel.price, axis=(1, 2))})

    own = Stage(name="highest", run=highest, until="train", kinds=MODELS)
    found = audit(config, ("ar",), stages=(*STAGES[:4], own))
    assert found.leaks[0].stage == "highest"
    assert found.leaks[0].detail.startswith("2 of 2 elements differ, first highest[0]: ")


def test_an_unknown_model_is_refused_with_the_nearest(config: Config) -> None:
    """Before anything is run."""
    with pytest.raises(ConfigError, match="unknown model 'lsmt': did you mean 'lstm'"):
        audit(config, ("lsmt",))


# -------------------------------------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ([1.0, np.nan], [1.0, np.nan], ""),
        ([1.0, 0.0], [1.0, -0.0], "1 of 2 elements differ, first x[1]: 0.0 became -0.0"),
        (
            [1.0, 2.0],
            [1.0, np.nextafter(2.0, 3.0)],
            "1 of 2 elements differ, first x[1]: 2.0 became 2.0000000000000004",
        ),
        ([1.0, 2.0], [1.0, np.nan], "1 of 2 elements differ, first x[1]: 2.0 became nan"),
        ([1.0, 2.0], [1.0], "x: expected (2,) as in the world as it was, got (1,)"),
    ],
)
def test_products_are_compared_bit_by_bit(was: list[float], now: list[float], said: str) -> None:
    """NaN equals NaN; the sign of zero and the last bit count."""
    assert difference(Product(arrays={"x": np.array(was)}), Product(arrays={"x": np.array(now)})) == said


def test_rounding_is_a_share_of_the_size_and_counts_are_never_rounded() -> None:
    """A millionth of the largest element passes; a whole number off by one, a NaN or another array does not."""
    was = Product(arrays={"x": np.array([1e6, 1.0]), "n": np.array([1_000_000])})
    near = Product(arrays={"x": np.array([1e6, 2.0]), "n": np.array([1_000_000])})
    assert difference(was, near, 2e-6) == ""
    assert "x[1]" in difference(was, near, 5e-7)
    assert "n[0]" in difference(was, replace(near, arrays=near.arrays | {"n": np.array([1_000_001])}), 2e-6)
    assert "x[0]" in difference(was, replace(near, arrays=near.arrays | {"x": np.array([np.nan, 1.0])}), 2e-6)
    assert difference(was, Product(arrays={"x": was.arrays["x"]})) == "expected ['n', 'x'], got ['x']"
