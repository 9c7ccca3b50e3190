"""Covariates stand beside prices as they were known at the origin, and never as they were known later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import DAY, market
from test_epf import lines, write

from models import checkpoint
from models.errors import ConfigError, DataError
from models.forecaster import Forecaster
from models.naive import fit_last_value
from models.network import NetworkConfig
from models.transforms import LogReturn
from pipeline import export as exporting
from pipeline import settings as reading
from pipeline import steps
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.config import Config
from pipeline.covariates import exactly, with_covariates
from pipeline.export import Provenance, export
from pipeline.fitting import FitConfig, fit
from pipeline.moves import observations, observed_by
from pipeline.prices import KEY, SCHEMA, PriceStore
from pipeline.training import Training, fit_network
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split, SplitConfig, panel, split

HOUR = 3_600_000_000
START = datetime(2024, 1, 1, tzinfo=UTC)
FOREVER = 10**18
Vintage = tuple[str, int, int, float]
"""Series, hour, hour at which it was known, value."""


def frame(rows: list[Vintage], column: str) -> pl.DataFrame:
    """Make a frame of vintages whose times are hours since the start."""
    hours = [(s, START + timedelta(hours=t), START + timedelta(hours=a), float(v)) for s, t, a, v in rows]
    return pl.DataFrame(hours, schema={**{k: SCHEMA[k] for k in KEY}, column: pl.Float64}, orient="row")


def store_of(folder: Path, prices: list[Vintage], **covariates: list[Vintage]) -> PriceStore:
    """Fill a store with prices and with the vintages of covariates."""
    store = PriceStore(folder, buckets=1)
    store.write(frame(prices, "price"))
    for column, rows in covariates.items():
        store.covariates.write(frame(rows, column))
    return store


def panel_of(store: PriceStore) -> Panel:
    """Build the panel of all prices of a store."""
    rows = store.read()
    return panel(rows["series_id"].to_numpy(), rows["time"].to_physical().to_numpy(), rows["price"].to_numpy())


def covered(
    store: PriceStore,
    *,
    past: tuple[str, ...] = (),
    ahead: tuple[str, ...] = (),
    horizon: int = 1,
    until: int = FOREVER,
) -> Panel:
    """Put covariates beside the panel of a store."""
    return with_covariates(panel_of(store), store, past=past, ahead=ahead, horizon=horizon, until=until)[0]


def published(series: str, count: int) -> list[Vintage]:
    """Make hourly prices that are known at their own time."""
    return [(series, t, t, 100.0 + t) for t in range(count)]


def revised(series: str, count: int) -> list[Vintage]:
    """Make a forecast of each hour: 10 t two hours ahead, 10 t + 1 one hour ahead, 10 t + 2 three hours later."""
    return [(series, t, t + at, 10.0 * t + k) for t in range(count) for k, at in enumerate((-2, -1, 3))]


def test_each_step_has_the_vintage_that_was_known_at_the_origin(tmp_path: Path) -> None:
    """The next hour comes revised once, the hour after it unrevised, the price's own hour not as it was known later."""
    store = store_of(tmp_path, published("a", 6), load=revised("a", 8))
    got = covered(store, past=("load",), ahead=("load",), horizon=2)
    assert (got.past_names, got.future_names) == (("load",), ("load",))
    np.testing.assert_array_equal(got.past[0, :, 0], [10 * t + 1 for t in range(6)])
    np.testing.assert_array_equal(got.future[0, :, :, 0], [[10 * (t + 1) + 1, 10 * (t + 2)] for t in range(6)])


def test_what_is_not_known_yet_is_the_latest_known_value(tmp_path: Path) -> None:
    """A covariate known an hour late is that of the hour before; for later targets it is carried forward."""
    store = store_of(tmp_path, published("a", 5), load=[("a", t, t + 1, t) for t in range(9)])
    got = covered(store, past=("load",), ahead=("load",), horizon=3)
    np.testing.assert_array_equal(got.past[0, 1:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(got.future[0, 1:, :, 0], [[t] * 3 for t in (0, 1, 2, 3)])


def test_labels_are_those_of_the_very_times_and_of_no_later_ones(tmp_path: Path) -> None:
    """The latest vintage of each time, whenever it was known; nothing is carried forward or stands in."""
    told = [("a", 1, 1, 0.0), ("a", 1, 9, 1.0), ("a", 3, 9, 0.0), ("a", 20, 20, 5.0)]
    store = store_of(tmp_path, [*published("a", 5), *published("b", 5)], gone=told)
    nan = np.nan
    np.testing.assert_array_equal(exactly(panel_of(store), store, "gone"), [[nan, 1, nan, 0, nan], [nan] * 5])
    with pytest.raises(ConfigError, match="unknown covariate 'gnoe': did you mean 'gone'"):
        exactly(panel_of(store), store, "gnoe")


def test_where_nothing_is_known_the_median_before_the_end_of_train_stands_in(tmp_path: Path) -> None:
    """A series whose covariate begins late has its own median there, one without any that of all; no price is lost."""
    load = [("a", t, t, float(t)) for t in (3, 4, 5, 6, 7)]
    store = store_of(tmp_path, [*published("a", 8), *published("b", 8)], load=load)
    until = int(panel_of(store).time[0, 6])
    got = covered(store, past=("load",), until=until)
    np.testing.assert_array_equal(got.past[0, :, 0], [4, 4, 4, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(got.past[1, :, 0], [4] * 8)
    assert got.mask.all()


def test_a_price_revised_later_is_still_forecast_from_what_was_known_first(tmp_path: Path) -> None:
    """The first vintage of a price is its moment: covariates published between it and its revision are not seen."""
    prices = [*published("a", 4), ("a", 1, 50, 7.0)]
    store = store_of(tmp_path, prices, load=[("a", t, t + late, t + late) for t in range(6) for late in (-1, 20)])
    got = covered(store, past=("load",), ahead=("load",))
    assert got.price[0, 1] == 7
    np.testing.assert_array_equal(got.past[0, :, 0], [-1, 0, 1, 2])
    np.testing.assert_array_equal(got.future[0, :, 0, 0], [0, 1, 2, 3])


def test_nothing_after_known_at_is_read(tmp_path: Path) -> None:
    """With `known_at` a covariate is as it was published up to then, also where the price became known with it."""
    store = store_of(tmp_path, published("a", 6), load=revised("a", 8))
    moment = START + timedelta(hours=2)
    one, digest = with_covariates(
        panel_of(store), store, past=(), ahead=("load",), horizon=1, until=FOREVER, known_at=moment
    )
    np.testing.assert_array_equal(one.future[0, :, 0, 0], [11, 21, 31, 40, 40, 40])
    _, everything = with_covariates(panel_of(store), store, past=(), ahead=("load",), horizon=1, until=FOREVER)
    assert digest != everything


def test_a_forecast_that_is_due_before_the_next_price_sees_what_came_in_between(tmp_path: Path) -> None:
    """Of an auction, a day's load is known after the prices before it and before its own: due `target` sees it."""
    day = 24
    prices = [("a", day * d, day * (d - 1) - 12, 100.0 + d) for d in range(1, 5)]
    load = [("a", day * d, day * (d - 1) - 14, 10.0 * d) for d in range(1, 6)]
    store = store_of(tmp_path, prices, load=[*load, ("a", day * 3, day * 2 - 11, 99.0)])
    shape = {"past": ("load",), "ahead": ("load",), "horizon": 1, "until": FOREVER}
    at_origin, _ = with_covariates(panel_of(store), store, **shape)
    at_target, _ = with_covariates(panel_of(store), store, **shape, due="target")
    np.testing.assert_array_equal(at_origin.future[0, :, 0, 0], [10, 20, 30, 40])
    np.testing.assert_array_equal(at_target.future[0, :, 0, 0], [20, 30, 40, 50])
    np.testing.assert_array_equal(at_target.past[0, :, 0], [10, 20, 99, 40])


VINTAGES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 14), st.integers(-4, 18), st.integers(1, 999)),
    min_size=1,
    max_size=40,
    unique_by=lambda v: v[:3],
)


@settings(deadline=None, max_examples=40)
@given(rows=VINTAGES, holes=st.sets(st.integers(0, 9), max_size=5), horizon=st.integers(1, 4))
def test_every_value_is_that_of_a_search_through_all_vintages(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Vintage], holes: set[int], horizon: int
) -> None:
    """Whatever was published when, past and future equal a naive search of the one rule."""
    prices = [*published("a", 10), *[p for p in published("b", 12) if p[1] not in holes]]
    store = store_of(tmp_path_factory.mktemp("store"), prices, load=rows)
    got = covered(store, past=("load",), ahead=("load",), horizon=horizon)
    everything = float(np.median([v for *_, v in rows]))

    def search(series: str, hour: int, moment: int) -> float:
        mine = [(t, a, v) for s, t, a, v in rows if s == series]
        known = [(t, a, v) for t, a, v in mine if t <= hour and a <= moment]
        return max(known)[2] if known else float(np.median([v for *_, v in mine])) if mine else everything

    first = int(START.timestamp()) * 1_000_000
    for n, series in enumerate(got.names):
        hours = (got.time[n, : got.length[n]] - first) // HOUR
        for t, hour in enumerate(hours):
            assert got.past[n, t, 0] == np.float32(search(series, hour, hour))
            for s, target in enumerate(hours[t + 1 : t + 1 + horizon]):
                assert got.future[n, t, s, 0] == np.float32(search(series, target, hour))


def test_targets_after_the_last_price_have_the_covariates_that_are_there(tmp_path: Path) -> None:
    """The last origins see the rows beyond the last price, at the times at which the store has them."""
    prices = [p for p in published("a", 48) if p[1] % 24 < 3]
    known = [("a", t, t - 60, float(t)) for t in range(96) if t % 24 < 3]
    store = store_of(tmp_path, prices, load=known)
    got = covered(store, ahead=("load",), horizon=2)
    np.testing.assert_array_equal(got.future[0, -3:, :, 0], [[25, 26], [26, 48], [48, 49]])


def test_what_is_known_in_time_takes_no_memory_a_step(tmp_path: Path) -> None:
    """Where all targets were known at their origins the future is a view: a step further is a time further."""
    known = [("a", t, t - 60, float(t)) for t in range(90)]
    got = covered(store_of(tmp_path / "early", published("a", 60), load=known), ahead=("load",), horizon=24)
    assert got.future.shape == (1, 60, 24, 1)
    assert got.future.strides[1] == got.future.strides[2]
    np.testing.assert_array_equal(got.future[0, :, :, 0], np.arange(60)[:, None] + np.arange(1, 25))
    o = observations(got, horizon=24, future=("load",))
    np.testing.assert_array_equal(o.future.numpy(), got.future)


@pytest.mark.parametrize("names", [{"past": ("laod",)}, {"ahead": ("load", "laod")}], ids=["past", "ahead"])
def test_an_unknown_covariate_is_refused_with_those_that_there_are(
    tmp_path: Path, names: dict[str, tuple[str, ...]]
) -> None:
    """A name that is no column is answered with the nearest one and with all."""
    store = store_of(tmp_path, published("a", 6), load=revised("a", 8), wind=published("a", 6))
    with pytest.raises(ConfigError, match=r"unknown covariate 'laod': did you mean 'load'.* Known: load, wind"):
        covered(store, past=names.get("past", ()), ahead=names.get("ahead", ()))


def test_a_store_without_covariates_says_how_they_come_in(tmp_path: Path) -> None:
    """Without any covariate in the store the message names the setting of the ingest."""
    with pytest.raises(ConfigError, match=r"ingest\.columns\.values"):
        covered(store_of(tmp_path, published("a", 6)), past=("load",))


def test_a_covariate_that_begins_after_train_is_refused(tmp_path: Path) -> None:
    """Nothing can be fitted on a covariate without a value before the end of train."""
    store = store_of(tmp_path, published("a", 6), load=[("a", 5, 5, 1.0)])
    with pytest.raises(DataError, match="'load' has no value before the end of train"):
        covered(store, past=("load",), until=int(panel_of(store).time[0, 3]))


def test_a_covariate_beyond_float32_is_refused_by_series_and_time(tmp_path: Path) -> None:
    """A number that would become infinite is named with its place, and with what can be done."""
    load = [(s, t, t, 1e39 if (s, t) == ("b", 3) else 1.0) for s in "ab" for t in range(6)]
    store = store_of(tmp_path, [*published("a", 6), *published("b", 6)], load=load)
    said = r"'load': expected values up to 3\.4e\+38.* got 1 beyond, first b at 2024-01-01T03:00:00\+00:00 = 1e\+39"
    with pytest.raises(DataError, match=said):
        covered(store, past=("load",))


def test_a_covariate_named_twice_is_refused() -> None:
    """A list of covariates holds each once."""
    with pytest.raises(ConfigError, match="ahead: expected each covariate once"):
        Config(ahead=("load", "load"))


def test_a_cut_keeps_what_was_known_at_its_origins(tmp_path: Path) -> None:
    """Before a moment there are the same covariates for the same origins, targets after it included."""
    store = store_of(tmp_path, [*published("a", 9), *published("b", 4)], load=[*revised("a", 12), *revised("b", 12)])
    whole = covered(store, past=("load",), ahead=("load",), horizon=2)
    cut = whole.before(int(whole.time[0, 6]))
    assert (cut.past_names, cut.future_names) == (("load",), ("load",))
    np.testing.assert_array_equal(cut.past, whole.past[:, :6])
    np.testing.assert_array_equal(cut.future, whole.future[:, :6])
    np.testing.assert_array_equal(cut.future[0, -1, :, 0], [61, 70])


def driven(*, known: str = "ahead", horizon: int = 1) -> tuple[Panel, Split]:
    """Make prices whose next move is four fifths a covariate, raw and large, known ahead or with the price."""
    rng = np.random.default_rng(3)
    drive = rng.normal(size=(2, 1500 + horizon))
    move = 0.01 * (0.8 * drive[:, :1500] + 0.6 * rng.normal(size=(2, 1500)))
    names, time = np.repeat(["a", "b"], 1500), np.tile(np.arange(1500) * DAY, 2)
    prices = panel(names, time, (100 * np.exp(np.cumsum(move, 1))).ravel())
    raw = (4e4 + 9e3 * drive).astype(np.float32)[..., None]
    ahead = np.lib.stride_tricks.sliding_window_view(raw[:, 1:], horizon, axis=1, writeable=True).swapaxes(2, 3)
    if known == "past":
        return replace(prices, past_names=("drive",), past=raw[:, 1:1501]), split(prices, SplitConfig())
    return replace(prices, future_names=("drive",), future=ahead), split(prices, SplitConfig())


def trained(
    prices: Panel, parts: Split, *, epochs: int = 4, horizon: int = 1, start: Forecaster | None = None
) -> Forecaster:
    """Train a small network."""
    config = TrainingConfig(epochs=epochs, lanes=16, device="cpu", learning_rate=1e-2)
    network = NetworkConfig(hidden=8)
    shape = {"network": network, "config": config, "horizon": horizon}
    return fit_network(Training("gru", prices, parts, LogReturn(), start=start, **shape))


def plain(prices: Panel) -> Panel:
    """Take the covariates away."""
    return replace(prices, past_names=(), past=prices.past[..., :0], future_names=(), future=prices.future[..., :0])


@pytest.mark.parametrize("known", ["past", "ahead"])
def test_a_network_that_sees_what_drives_the_price_beats_one_that_does_not(known: str) -> None:
    """With the covariate the error of the next price falls near that of the noise, 0.6 of it; without, it does not."""
    prices, parts = driven(known=known)
    origins = parts.origins(prices, "test")
    errors = {}
    for name, seen in (("with", prices), ("without", plain(prices))):
        f = walk_forward(trained(seen, parts, epochs=25), seen, origins)
        errors[name] = np.abs(np.log(f.actual / f.quantile[:, f.quantile.shape[1] // 2])).mean()
    assert errors["with"] < 0.7 * errors["without"]
    assert errors["with"] > 0.55 * errors["without"]


def test_constants_are_of_the_train_split_and_raw_values_go_in() -> None:
    """Center and unit are mean and deviation of the train rows; another unit gives the same forecasts."""
    prices, parts = driven()
    other = replace(prices, future=prices.future / 1000 - 7)
    one, two = (trained(p, parts, epochs=1) for p in (prices, other))
    buffers = dict(one.core.named_buffers())  # type: ignore[attr-defined]
    rows = prices.future[prices.time < parts.train_end_time].astype(np.float64)
    assert buffers["inputs.future_center"].item() == pytest.approx(rows.mean(), rel=1e-6)
    assert buffers["inputs.future_unit"].item() == pytest.approx(rows.std(), rel=1e-6)
    origins = parts.origins(prices, "test")
    a, b = (walk_forward(f, p, origins).quantile for f, p in ((one, prices), (two, other)))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_constant_covariate_disturbs_nothing() -> None:
    """A covariate that does not vary before the end of train has unit 1, and forecasts stay finite."""
    prices, parts = driven()
    flat = replace(prices, future=np.full_like(prices.future, 0.1))
    forecaster = trained(flat, parts, epochs=1)
    assert dict(forecaster.core.named_buffers())["inputs.future_unit"].item() == 1  # type: ignore[attr-defined]
    assert np.isfinite(walk_forward(forecaster, flat, parts.origins(flat, "test")).quantile).all()


def test_garbage_that_was_published_later_leaves_observations_and_forecasts_bit_for_bit(tmp_path: Path) -> None:
    """Later vintages, and values of times not known yet, all overwritten: up to then nothing changes by a bit."""
    rng = np.random.default_rng(2)
    load = [(s, t, t + at, rng.normal()) for s in "ab" for t in range(420) for at in (-3, -1, 5)]
    prices = [(s, t, t, v) for s in "ab" for t, v in enumerate(100 * np.exp(0.01 * rng.normal(size=400).cumsum()))]
    moment = 350
    dirty = [(s, t, a, v if a <= moment else 1e6) for s, t, a, v in load]
    parts = Split(train_end_time=_time(250), validation_end_time=_time(320))
    names = {"past": ("load",), "ahead": ("load",), "horizon": 4, "until": parts.train_end_time}
    one, two = (
        covered(store_of(tmp_path / folder, prices, load=rows), **names)
        for folder, rows in (("clean", load), ("dirty", dirty))
    )
    forecaster = trained(one, parts, epochs=1, horizon=4)
    earlier = np.s_[:, : moment + 1]
    a, b = (observed_by(forecaster, p) for p in (one, two))
    for field in ("price", "past", "future"):
        assert torch.equal(getattr(a, field)[earlier], getattr(b, field)[earlier])
    assert not torch.equal(a.future, b.future)
    origins = parts.origins(one, "test", 4) & (one.time <= _time(moment))
    clean, same = (walk_forward(forecaster, p, origins) for p in (one, two))
    assert clean.quantile.tobytes() == same.quantile.tobytes()
    again = trained(two, parts, epochs=1, horizon=4).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in forecaster.state_dict().items())


def _time(hour: int) -> int:
    return int((START + timedelta(hours=hour)).timestamp()) * 1_000_000


def test_models_that_take_no_covariates_are_given_none() -> None:
    """A panel with covariates is observed without them by a kind that reads none."""
    prices, _ = driven()
    o = observed_by(Forecaster("last_value", LogReturn(), fit_last_value([np.array([0.1, -0.1])], horizon=1)), prices)
    assert (o.past.shape, o.future.shape) == ((2, 1500, 0), (2, 1500, 1, 0))


def test_a_model_of_other_covariates_is_refused() -> None:
    """A panel without the covariates of the fit, too few steps ahead or an unknown name: each says what is missing."""
    prices, parts = driven()
    forecaster = trained(prices, parts, epochs=1)
    with pytest.raises(DataError, match=r"gru reads past = \[\] and ahead = \['drive'\]: unknown covariate 'drive'"):
        observed_by(forecaster, plain(prices))
    with pytest.raises(DataError, match="covariates for 3 steps ahead, got a panel with 1"):
        observations(prices, horizon=3, future=("drive",))
    with pytest.raises(DataError, match="unknown covariate 'dirve': did you mean 'drive'"):
        observations(prices, horizon=1, future=("dirve",))


def test_a_covariate_without_a_value_is_refused_by_name() -> None:
    """A fit on a column of NaN, and a forecast from one, name it and say what to do; one value is enough."""
    prices, parts = driven()
    forecaster = trained(prices, parts, epochs=1)
    empty = replace(prices, future=np.full_like(prices.future, np.nan))
    said = "covariate 'drive' is NaN or infinite beside every price. Ingest its values"
    with pytest.raises(DataError, match=said):
        trained(empty, parts, epochs=1)
    with pytest.raises(DataError, match=said):
        observed_by(forecaster, empty)
    empty.future[0, 7] = 1.0
    assert observed_by(forecaster, empty).future[0, 7].item() == 1


@pytest.mark.parametrize("names", [(), ("other",), ("drive", "other")], ids=str)
def test_a_warm_start_with_other_covariates_names_both(names: tuple[str, ...]) -> None:
    """Fewer, more or another than those of the fit before are told beside them, also where the shape is the same."""
    prices, parts = driven()
    start = trained(prices, parts, epochs=1)
    beside = np.concatenate([prices.future] * len(names), -1) if names else prices.future[..., :0]
    with pytest.raises(ConfigError, match=r"gru was fitted, past = \[\] and ahead = \['drive'\], got") as caught:
        trained(replace(prices, future_names=names, future=beside), parts, epochs=1, start=start)
    assert f"got past = [] and ahead = {list(names)}. Name those" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("known", ["past", "ahead"])
@pytest.mark.parametrize("name", ["gru", "arx", "lear"])
def test_moments_without_a_number_are_left_out_of_a_fit(name: str, known: str, poison: float) -> None:
    """Poison at the beginning, in train and in validation: weights and forecasts of other moments stay finite."""
    prices, parts = driven(known=known)
    side = "past" if known == "past" else "future"
    beside = np.array(getattr(prices, side))
    for start in (3, 700, 1100):
        beside[0, start : start + 4] = poison
    poisoned = replace(prices, **{side: beside})
    config = FitConfig(network=NetworkConfig(hidden=4), training=TrainingConfig(lanes=16, epochs=2, device="cpu"))
    fitted = fit(name, poisoned, parts, LogReturn(), config)
    assert np.isfinite(walk_forward(fitted, poisoned, parts.origins(poisoned, "test")).quantile).all()


def test_a_network_standardises_by_the_moments_with_numbers() -> None:
    """Center and unit are the mean and deviation of the train rows that are left."""
    prices, parts = driven(known="past")
    beside = prices.past.copy()
    beside[0, 500:510] = np.nan
    rows = beside[prices.time < parts.train_end_time].astype(np.float64)
    buffers = dict(trained(replace(prices, past=beside), parts, epochs=1).core.named_buffers())  # type: ignore[attr-defined]
    assert buffers["inputs.past_center"].item() == pytest.approx(np.nanmean(rows), rel=1e-6)
    assert buffers["inputs.past_unit"].item() == pytest.approx(np.nanstd(rows), rel=1e-6)


def test_covariates_that_are_never_numbers_together_in_train_are_refused() -> None:
    """Where one or another is always missing before the end of train nothing can be fitted: both are named."""
    prices, parts = driven(known="past")
    both = np.concatenate([prices.past, prices.past], -1)
    both[:, ::2, 0] = both[:, 1::2, 1] = np.nan
    with pytest.raises(DataError, match=r"past = \['x', 'y'\] .* beside which all are numbers, got none"):
        trained(replace(prices, past_names=("x", "y"), past=both), parts)


def test_a_forecaster_finds_its_covariates_whatever_else_the_panel_has() -> None:
    """A column more, in another order, changes no forecast by a bit: covariates are taken by name."""
    prices, parts = driven()
    forecaster, origins = trained(prices, parts, epochs=1), parts.origins(prices, "test")
    more = np.concatenate([np.full_like(prices.future, 5.0), prices.future], -1)
    wide = replace(prices, future_names=("other", "drive"), future=more, past_names=("x",), past=more[:, :, 0, :1])
    one, two = (walk_forward(forecaster, p, origins) for p in (prices, wide))
    assert one.quantile.tobytes() == two.quantile.tobytes()


def test_covariates_are_given_by_name_in_the_order_asked_for() -> None:
    """A file that reads some of the panel's covariates gets those, in its own order."""
    prices, _ = market(60)
    rng = np.random.default_rng(1)
    beside = rng.normal(size=(*prices.time.shape, 3)).astype(np.float32)
    o = observations(replace(prices, past_names=("x", "y", "z"), past=beside), horizon=1, past=("z", "x"))
    np.testing.assert_array_equal(o.past.numpy(), beside[..., [2, 0]])


def test_an_exported_network_reads_its_covariates_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the parity gate and a checkpoint, the file on raw covariates repeats the model, and names them."""
    monkeypatch.setattr(exporting, "STEPS", 100)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 2, 100))
    prices, parts = driven(horizon=2)
    both = replace(prices, past_names=("volume",), past=prices.future[:, :, 0] * 2)
    checkpoint.save(trained(both, parts, epochs=1, horizon=2), tmp_path / "gru.safetensors")
    forecaster, _ = checkpoint.load(tmp_path / "gru.safetensors")
    about = {"series": both.names, "grid": "1d", "cutoff_time": "2024-01-31T00:00:00Z", "config": {}}
    about |= {"data_sha256": "5" * 64, "commit": "abc"}
    session = export(forecaster, Provenance(**about), tmp_path / "gru.onnx")
    assert (session.metadata.past, session.metadata.future) == (("volume",), ("drive",))
    origins = parts.origins(both, "test", 2)
    one = walk_forward(forecaster, both, origins)
    two = walk_session_forward(session, "gru", forecaster.transform, both, origins)
    np.testing.assert_allclose(one.quantile, two.quantile, rtol=1e-5)


def test_electricity_as_published_comes_with_its_forecasts(tmp_path: Path) -> None:
    """From a file of the benchmark through ingest and settings: the forecast of the next hour stands at its origin."""
    rows = lines(days=20)
    differences = {
        "folder": str(tmp_path / "data"),
        "transform": "asinh",
        "ingest": {"paths": ["epf", str(write(tmp_path / "NP.csv", rows))], "policy": {"non_positive": "keep"}},
    }
    config = reading.load(Config, {**differences, "ahead": ["exog_1"], "past": ["exog_2", "exog_1"]})
    steps.ingest(config)
    data, without = steps.load(config), steps.load(reading.load(Config, differences))
    load = np.array([float(row[2]) for row in rows], np.float32)
    # at midnight the forecast for the hour after the last of the day is not published yet
    expected = np.where(np.arange(1, 481) % 24 == 0, load, np.roll(load, -1))
    np.testing.assert_array_equal(data.panel.future[0, :, 0, 0], expected)
    np.testing.assert_array_equal(data.panel.past[0, :, 1], load)
    assert data.panel.past_names == ("exog_2", "exog_1")
    assert without.panel.future.size == 0
    assert len({data.sha256, without.sha256, steps.load(replace(config, past=())).sha256}) == 3
