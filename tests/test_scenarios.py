"""Scenarios of stored series: their states are those of the stream, their files whole, their sums as said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import HOLE, NAMES, Workspace
from served import metadata, model_bytes

from models.errors import ConfigError, DataError, ModelError
from models.sampling import in_torch, sample_paths
from pipeline import champions, promotion, scenarios, steps
from pipeline.prices import PriceStore
from pipeline.scenarios import Scenarios, outlook, states_at, stepper
from pipeline.session import Session
from pipeline.stream_core import Core
from pipeline.ticks import Ticks
from pipeline.windows import panel


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> PriceStore:
    """Open the price store of the shared workspace."""
    return PriceStore(workspace.folder / "prices")


@pytest.fixture(scope="module")
def gru(workspace: Workspace) -> Session:
    """Open the champion, a calibrated GRU."""
    return champions.load(workspace.folder / "champions", "champion")


@pytest.fixture(scope="module")
def garch(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Export GARCH through the parity gate and open the file."""
    path = tmp_path_factory.mktemp("exported") / "garch.onnx"
    promotion.export_model(workspace.config, "garch", path)
    return Session.load(path)


def prices_of(store: PriceStore) -> Any:
    """Read the panel of all series."""
    rows = store.read()
    return panel(rows["series_id"].to_numpy(), rows["time"].to_physical().to_numpy(), rows["price"].to_numpy())


def test_states_are_those_that_a_warm_stream_carries(gru: Session, store: PriceStore) -> None:
    """One pass over the panel leaves the bits of the stream over the same prices, at the end and before."""
    prices = prices_of(store)
    for until in (HOLE + 20, 700):
        rows = store.read().with_columns(k=pl.int_range(pl.len()).over("series_id")).filter(pl.col("k") < until)
        rows = rows.drop_nulls("price").sort("time", "series_id")
        carried = Core(gru, max_series=3)
        carried.apply(Ticks.of(rows.select("series_id", pl.col("time").to_physical(), "price").rows()))
        order = np.argsort(carried.book.names)
        state = states_at(gru, prices, np.full((3, 1), until - 1))
        for name, x in state.items():
            assert x.tobytes() == carried.serving.arena.arrays()[f"state.{name}"][order].tobytes(), name


def test_a_file_and_its_model_in_torch_draw_the_same_paths(
    gru: Session, store: PriceStore, workspace: Workspace
) -> None:
    """From one state both give the same prices up to float32."""
    prices = prices_of(store)
    state = states_at(gru, prices, prices.length[:, None] - 1)
    forecaster, _ = steps.load_model(workspace.config, "gru")
    options: dict[str, Any] = {"n": 40, "horizon": 10, "seed": 2, "names": NAMES, "series": gru.rows(NAMES)}
    served, trained = (sample_paths(m, state, state["price"], **options) for m in (stepper(gru), in_torch(forecaster)))
    np.testing.assert_allclose(served, trained, rtol=1e-4)


def test_neither_other_series_nor_more_paths_change_a_bit(
    gru: Session, store: PriceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A series alone, in other company, with more paths, or in smaller pieces has the same paths, bit for bit."""
    whole = scenarios.scenarios(gru, store, steps=7, paths=30).paths
    alone = scenarios.scenarios(gru, store, ["BBB"], steps=7, paths=30).paths
    assert alone[0].tobytes() == whole[1].tobytes()
    more = scenarios.scenarios(gru, store, steps=7, paths=77).paths
    assert more[:, :30].tobytes() == whole.tobytes()
    monkeypatch.setattr(scenarios, "ROWS", 30)
    assert scenarios.scenarios(gru, store, steps=7, paths=30).paths.tobytes() == whole.tobytes()
    other = scenarios.scenarios(gru, store, steps=7, paths=30, seed=1).paths
    assert not (other == whole).any()


@pytest.mark.parametrize("start", ["wild", "nothing"])
def test_other_starts_keep_the_paths_of_a_series_too(gru: Session, store: PriceStore, start: str) -> None:
    """Moments of a regime are drawn by series and seed, so the first paths are the same alone and among more."""
    whole = scenarios.scenarios(gru, store, steps=4, paths=60, start=start).paths
    alone = scenarios.scenarios(gru, store, ["CCC"], steps=4, paths=25, start=start).paths
    assert alone[0].tobytes() == whole[2, :25].tobytes()


def test_wild_moments_begin_wider_paths_than_calm_ones(garch: Session, store: PriceStore) -> None:
    """The spread after five steps is in the order of the regimes, for every series."""
    spread = {
        start: np.log(scenarios.scenarios(garch, store, steps=5, paths=800, start=start).paths[..., -1]).std(axis=1)
        for start in ("calm", "usual", "wild")
    }
    assert (spread["calm"] < spread["usual"]).all()
    assert (spread["usual"] < spread["wild"]).all()


def test_the_moments_of_a_regime_lie_before_the_cut_off(gru: Session, store: PriceStore) -> None:
    """What is drawn is in that regime, and was before the end of the data of the fit."""
    prices = prices_of(store)
    drawn = scenarios._moments(gru, prices, "wild", 200, 0)
    cut = np.datetime64(gru.metadata.cutoff_time.removesuffix("Z"), "us").astype(np.int64)
    known = scenarios.regimes(prices, int(cut))
    for row, name in enumerate(prices.names):
        when = prices.time[row, drawn[row]]
        assert (when < cut).all()
        assert (known.at(name, when) == "wild").all()
        assert len(np.unique(when)) > 50


def test_all_paths_begin_at_the_last_price(garch: Session, store: PriceStore) -> None:
    """Whatever the state is drawn from, the first medians are near the last price, not near that of the moment."""
    for start in scenarios.STARTS:
        drawn = scenarios.scenarios(garch, store, steps=1, paths=200, start=start)
        last = np.array([past[-1] for past in drawn.past])
        assert np.array_equal(last, [store.read(name).drop_nulls()["price"][-1] for name in NAMES])
        assert (np.abs(np.median(drawn.paths[:, :, 0], axis=1) / last - 1) < 0.005).all()


def test_an_outlook_is_what_plain_loops_make_of_the_paths() -> None:
    """Drawdown, chance of a rise and value at risk of a few paths, worked out by hand and by loops."""
    paths = np.array([[11.0, 9.0, 12.0], [10.0, 10.0, 10.0], [9.0, 13.0, 8.0]])
    seen = outlook("A", 0, 10.0, paths)
    falls = []
    for path in paths:
        high, fall = 10.0, 0.0
        for price in path:
            high = max(high, price)
            fall = max(fall, high - price)
        falls.append(fall)
    assert falls == [2.0, 0.0, 5.0]
    assert seen.drawdown == pytest.approx(np.mean(falls))
    assert seen.above == pytest.approx(1 / 3)
    assert seen.quantiles[0.5] == 10.0
    assert seen.value_at_risk == pytest.approx(10.0 - np.quantile([12.0, 10.0, 8.0], 0.05))


@pytest.mark.parametrize(("suffix", "read"), [(".csv", pl.read_csv), (".parquet", pl.read_parquet)])
def test_a_file_holds_every_price_of_every_path(tmp_path: Path, suffix: str, read: Any) -> None:
    """Read back, the rows are the array, series by series, path by path, step by step."""
    paths = np.random.default_rng(0).normal(size=(2, 3, 4))
    drawn = Scenarios(
        model="m", start="now", names=("A", "B"), origin_time=np.array([0, 60]), past=[np.ones(3)] * 2, paths=paths
    )
    rows = read(drawn.save(tmp_path / "new" / f"paths{suffix}"))
    assert rows.columns == ["series_id", "origin_time", "path", "step", "price"]
    assert np.array_equal(rows["price"].to_numpy().reshape(2, 3, 4), paths)
    assert rows.row(-1)[0] == "B"
    assert rows.select("path", "step").row(5) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"past": ("volume", "@hour")}, "needs volume, whose future nobody knows"),
        ({"block": 24}, r"24 prices at once.*single prices with --model, or fit one with block = 1"),
    ],
)
def test_a_model_of_unknown_futures_is_refused(changes: dict[str, Any], said: str, store: PriceStore) -> None:
    """Covariates other than the calendar's, and blocks, are refused before a price is read, with what to do."""
    session = Session(model_bytes())
    session.metadata = metadata(**changes)
    with pytest.raises(ModelError, match=said):
        scenarios.scenarios(session, store)


def test_a_regime_that_never_was_and_numbers_out_of_range_are_refused(gru: Session, store: PriceStore) -> None:
    """A cut-off before the first prices leaves no moments; no paths and no steps are errors of settings."""
    early = Session(model_bytes())
    early.metadata = replace(early.metadata, cutoff_time="2020-01-02T00:00:00Z")
    with pytest.raises(DataError, match="regimes need four published prices of AAA"):
        scenarios.scenarios(early, store, start="calm")
    for wrong in ({"paths": 0}, {"steps": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="expected"):
            scenarios.scenarios(gru, store, **wrong, start="wild")
