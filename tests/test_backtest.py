"""A walk forward is the stream on the past: every origin in one pass, and nothing of the future in it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from panels import DAY, clustered_moves, garbage_from, market, panel_of
from test_contract import recurrent

from models.autoregressive import AutoregressiveConfig, fit_autoregressive
from models.errors import DataError
from models.forecaster import Forecaster
from models.garch import fit_garch
from models.naive import fit_drift, fit_last_value
from models.observation import MEDIAN, Observation, at, between
from models.recurrent import RecurrentConfig
from models.transforms import AsinhDifference, LogReturn, Transform
from pipeline import export as exporting
from pipeline import passes
from pipeline.backtest import walk_forward, walk_session_forward
from pipeline.export import Provenance, export
from pipeline.forecasts import Forecasts
from pipeline.moves import moves, observations
from pipeline.session import Session
from pipeline.training import Training, TrainingConfig, fit_recurrent
from pipeline.windows import Panel, Split

HORIZON = 3
PANEL, SPLIT = market(330, 260, 290)
ASINH = AsinhDifference(torch.full((4,), 90.0), torch.tensor([10.0, 20.0, 15.0, 12.0]))
TEST = SPLIT.origins(PANEL, "test", HORIZON)


def forecaster(kind: str) -> Forecaster:
    """Make a forecaster of three steps on the panel."""
    transform: Transform = ASINH if kind == "asinh" else LogReturn()
    known = moves(PANEL, transform, SPLIT.validation_end_time)
    if kind == "ar":
        config = AutoregressiveConfig(max_lags=4, residuals="t")
        core = fit_autoregressive([0.4 * np.roll(r, 1) + r for r in known], horizon=HORIZON, config=config)
    elif kind == "garch":
        core = fit_garch([np.tile(r, 2) for r in known], horizon=HORIZON)
    else:
        core = recurrent(cell="lstm", layers=2, horizon=HORIZON, elapsed=kind == "elapsed")
    return Forecaster(kind, transform, core).eval()


KINDS = ("ar", "garch", "lstm", "elapsed", "asinh")
NUMBERS = ("origin", "actual", "outcome", "quantile", "loc", "scale", "df")
KEYS = ("series", "origin_time", "target_time", "step")


def same(a: Forecasts, b: Forecasts, tolerance: float) -> None:
    """Expect the same rows, and numbers as close as the tolerance relative to a move."""
    assert (a.names, len(a)) == (b.names, len(b))
    for k in KEYS:
        np.testing.assert_array_equal(getattr(a, k), getattr(b, k))
    for k in NUMBERS:
        close = {"loc": {"rtol": 0, "atol": tolerance * b.scale.min()}}.get(k, {"rtol": tolerance})
        np.testing.assert_allclose(getattr(a, k), getattr(b, k), err_msg=k, **close)


def bits(f: Forecasts, rows: NDArray[np.bool_]) -> dict[str, bytes]:
    """Give every array of the rows as bytes."""
    kept = f.where(rows)
    return {x.name: getattr(kept, x.name).tobytes() for x in fields(Forecasts) if x.name not in ("model", "names")}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_walk_forward_is_a_loop_of_steps(kind: str) -> None:
    """Each row is what stepping a single series from its start gives at that origin, with the price that came."""
    f = forecaster(kind)
    walked = walk_forward(f, PANEL, TEST)
    o, row = observations(PANEL, horizon=HORIZON), 0
    for n in range(len(PANEL.names)):
        one = Observation(**{x.name: getattr(o, x.name)[n : n + 1] for x in fields(Observation)})
        state = f.init_state(1)
        for t in range(PANEL.length[n]):
            forecast, state = f.step(at(one, t), state)
            for step in range(1, HORIZON + 1):
                if not (TEST[n, t] and PANEL.mask[n, t + step]):
                    continue
                assert (walked.series[row], walked.step[row]) == (n, step)
                assert walked.origin_time[row] == PANEL.time[n, t]
                assert walked.target_time[row] == PANEL.time[n, t + step]
                assert walked.origin[row] == PANEL.price[n, t]
                assert walked.actual[row] == PANEL.price[n, t + step]
                np.testing.assert_allclose(walked.quantile[row], forecast.quantile[0, step - 1, 0], rtol=1e-6)
                assert walked.scale[row] == pytest.approx(forecast.scale[0, step - 1, 0].item(), rel=1e-5)
                loc = pytest.approx(forecast.loc[0, step - 1, 0].item(), abs=1e-5 * walked.scale[row])
                assert walked.loc[row] == loc
                assert walked.df[row] == pytest.approx(forecast.df.item())
                row += 1
    assert row == len(walked) > 300


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_window_from_the_true_start_gives_the_same_forecast(kind: str) -> None:
    """A few origins recomputed from all prices up to them, and no later one, agree."""
    f, o = forecaster(kind), observations(PANEL, horizon=HORIZON)
    walked = walk_forward(f, PANEL, TEST)
    for row in (0, len(walked) // 2, len(walked) - 1):
        n, step = int(walked.series[row]), int(walked.step[row])
        t = int(np.flatnonzero(PANEL.time[n] == walked.origin_time[row])[0])
        forecast, _ = f.forward(between(o, 0, t + 1))
        np.testing.assert_allclose(walked.quantile[row], forecast.quantile[n, t, step - 1, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "ar"])
def test_a_boundary_between_stretches_is_invisible(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking in stretches of 37 moments gives the rows of one stretch."""
    f = forecaster(kind)
    whole = walk_forward(f, PANEL, TEST)
    monkeypatch.setattr(passes, "CHUNK", 37)
    assert PANEL.price.shape[1] > 37 * 5
    same(walk_forward(f, PANEL, TEST), whole, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_walks_as_the_model_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported file, stepped as a stream would, gives the rows of the model, over stretches of any length."""
    monkeypatch.setattr(exporting, "STEPS", 100)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 100))
    f = forecaster(kind)
    provenance = Provenance(
        series=PANEL.names,
        grid="1d",
        cutoff_time="2024-01-31T00:00:00Z",
        data_sha256="5" * 64,
        commit="abc",
        config={},
    )
    session = export(f, provenance, tmp_path / "model.onnx")
    walked = walk_session_forward(session, kind, f.transform, PANEL, TEST)
    same(walked, walk_forward(f, PANEL, TEST), 2e-4)
    monkeypatch.setattr(passes, "CHUNK", 50)
    rows = np.ones(len(walked), dtype=bool)
    assert bits(walk_session_forward(session, kind, f.transform, PANEL, TEST), rows) == bits(walked, rows)


def test_a_series_unknown_to_the_file_runs_on_the_pooled_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed, a series is forecast by row 0, the others as before."""
    monkeypatch.setattr(exporting, "STEPS", 20)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 20))
    f = forecaster("ar")
    provenance = Provenance(
        series=PANEL.names, grid="1d", cutoff_time="2024-01-31T00:00:00Z", data_sha256="5" * 64, commit="a", config={}
    )
    session: Session = export(f, provenance, tmp_path / "model.onnx")
    renamed = replace(PANEL, names=("S0", "new", "S2"))
    known = walk_session_forward(session, "ar", f.transform, PANEL, TEST)
    walked = walk_session_forward(session, "ar", f.transform, renamed, TEST)
    assert bits(walked, walked.series != 1) == bits(known, known.series != 1)
    assert set(walked.of("new").df) == {f.core.df[0].item()}
    assert set(known.of("S1").df) == {f.core.df[2].item()}


@pytest.mark.parametrize("kind", ["lstm", "asinh"])
def test_outcomes_are_the_moves_from_origin_to_actual(kind: str) -> None:
    """The outcome is log(actual / origin), or the difference of arcsinhs in the unit of the series."""
    rows = walk_forward(forecaster(kind), PANEL, TEST)
    if kind == "lstm":
        expected = np.log(rows.actual / rows.origin)
    else:
        center, unit = ASINH.center.numpy()[rows.series + 1, 0], ASINH.unit.numpy()[rows.series + 1, 0]
        expected = np.arcsinh((rows.actual - center) / unit) - np.arcsinh((rows.origin - center) / unit)
    np.testing.assert_allclose(rows.outcome, expected, rtol=1e-9, atol=1e-14)


def test_every_wanted_origin_with_an_outcome_is_there_in_order() -> None:
    """Rows are sorted by series, origin and step, hold every wanted origin, and no outcome that is a hole."""
    rows = walk_forward(forecaster("lstm"), PANEL, TEST)
    order = np.lexsort((rows.step, rows.origin_time, rows.series))
    np.testing.assert_array_equal(order, np.arange(len(rows)))
    assert int((rows.step == HORIZON).sum()) == int(TEST.sum())
    assert np.isfinite(rows.actual).all()
    assert np.isfinite(rows.quantile).all()
    assert rows.model == "lstm"
    assert (rows.target_time >= rows.origin_time + DAY).all()


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_in_the_future_leaves_earlier_forecasts_bit_for_bit(kind: str) -> None:
    """Prices overwritten from a moment on change no row whose target lies before it, poison included."""
    f = forecaster(kind)
    moment = int(np.median(PANEL.time[PANEL.mask & (PANEL.time >= SPLIT.validation_end_time)]))
    clean, dirty = walk_forward(f, PANEL, TEST), walk_forward(f, garbage_from(PANEL, moment), TEST)
    before, still_before = clean.target_time < moment, dirty.target_time < moment
    assert 50 < before.sum() < len(clean) - 50
    assert bits(clean, before) == bits(dirty, still_before)


def test_a_poisoned_price_is_neither_an_origin_nor_an_outcome() -> None:
    """Rows from or to a price outside the domain are left out; the rest are as with a hole there."""
    n, t = (int(x) for x in np.argwhere(TEST)[40])
    price, mask = PANEL.price.copy(), PANEL.mask.copy()
    price[n, t], mask[n, t] = 1e30, False
    f = forecaster("lstm")
    poisoned, hole = (walk_forward(f, p, TEST) for p in (replace(PANEL, price=price), replace(PANEL, mask=mask)))
    assert not (poisoned.origin == 1e30).any()
    assert not (poisoned.actual == 1e30).any()
    assert bits(poisoned, np.ones(len(poisoned), bool)) == bits(hole, np.ones(len(hole), bool))


def test_no_origin_with_an_outcome_is_refused() -> None:
    """Wanting only the last moment raises DataError that says how many were wanted and what to do."""
    last = np.zeros_like(PANEL.mask)
    last[0, PANEL.length[0] - 1] = True
    with pytest.raises(DataError, match=r"walk forward of lstm: .* got none among 1 wanted\. Give more data"):
        walk_forward(forecaster("lstm"), PANEL, last)


def random_walks() -> tuple[Panel, Split]:
    """Make four random walks, half of them for the test."""
    rng = np.random.default_rng(17)
    prices = panel_of([rng.normal(scale=0.01, size=1600) for _ in range(4)])
    return prices, Split(train_end_time=600 * DAY, validation_end_time=800 * DAY)


def test_on_a_random_walk_nothing_beats_the_last_value() -> None:
    """Squared errors of AR, drift, GARCH and a trained network are not less than the last value's beyond chance."""
    prices, split = random_walks()
    transform = LogReturn()
    known = moves(prices, transform, split.validation_end_time)
    trained = Training(
        "gru",
        prices,
        split,
        transform,
        network=RecurrentConfig(cell="gru", hidden=6),
        config=TrainingConfig(epochs=3, lanes=8, device="cpu"),
    )
    rivals = [
        Forecaster("ar", transform, fit_autoregressive(known, horizon=1, config=AutoregressiveConfig(max_lags=5))),
        Forecaster("drift", transform, fit_drift(known, horizon=1)),
        Forecaster("garch", transform, fit_garch(known, horizon=1)),
        fit_recurrent(trained),
    ]
    origins = split.origins(prices, "test")
    naive = walk_forward(Forecaster("last_value", transform, fit_last_value(known, horizon=1)), prices, origins)
    np.testing.assert_array_equal(naive.quantile[:, MEDIAN], naive.origin)
    for rival in rivals:
        rows = walk_forward(rival, prices, origins)
        np.testing.assert_array_equal(rows.target_time, naive.target_time)
        gain = (
            np.log(naive.quantile[:, MEDIAN] / rows.actual) ** 2 - np.log(rows.quantile[:, MEDIAN] / rows.actual) ** 2
        )
        assert gain.mean() / (gain.std() / np.sqrt(len(gain))) < 2.5, rival.name
        assert abs(gain.mean()) < 0.02 * 1e-4, rival.name


def test_what_there_is_to_know_is_known() -> None:
    """Where moves come in clusters, GARCH's scale follows the size of the next move, the last value's does not."""
    rng = np.random.default_rng(18)
    prices = panel_of([clustered_moves(rng, 1500) for _ in range(2)])
    split = Split(train_end_time=800 * DAY, validation_end_time=1000 * DAY)
    known = moves(prices, LogReturn(), split.validation_end_time)
    origins = split.origins(prices, "test")
    follows = {}
    for name, core in (("garch", fit_garch(known, horizon=1)), ("last_value", fit_last_value(known, horizon=1))):
        rows = walk_forward(Forecaster(name, LogReturn(), core), prices, origins).of("S0")
        follows[name] = np.corrcoef(rows.scale + 1e-9 * rng.normal(size=len(rows)), np.abs(rows.outcome))[0, 1]
    assert follows["garch"] > 0.3
    assert abs(follows["last_value"]) < 0.15
