"""A walk forward is the stream on the past: every origin in one pass, and nothing of the future in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from panels import DAY, clustered_moves, garbage_from, market, panel_of
from test_contract import recurrent

from models.autoregressive import AutoregressiveConfig, fit_autoregressive
from models.errors import ConfigError, DataError
from models.forecaster import Forecaster
from models.garch import fit_garch
from models.naive import fit_drift, fit_last_value
from models.network import NetworkConfig
from models.observation import MEDIAN, Forecast, Observation, State, at, between
from models.transforms import AsinhDifference, LogReturn, Transform
from pipeline import backtest, passes
from pipeline import export as exporting
from pipeline.backtest import BacktestConfig, Block, Fold, joined, seen, walk, walk_forward, walk_session_forward
from pipeline.export import Provenance, export
from pipeline.fitting import FitConfig, fit
from pipeline.forecasts import Forecasts
from pipeline.moves import moves, observations
from pipeline.passes import in_torch, served
from pipeline.refit import Policy, RefitConfig, Signals, policy
from pipeline.session import Session
from pipeline.training import Training, fit_network
from pipeline.training_config import TrainingConfig
from pipeline.windows import Panel, Split, SplitConfig

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
        core = recurrent("lstm", layers=2, horizon=HORIZON, elapsed=kind == "elapsed")
    return Forecaster(kind, transform, core).eval()


KINDS = ("ar", "garch", "lstm", "elapsed", "asinh")
NUMBERS = ("origin", "actual", "outcome", "quantile", "loc", "scale", "df", "center", "unit")
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
                if not (TEST[n, t] and PANEL.published[n, t + step]):
                    continue
                assert (walked.series[row], walked.step[row]) == (n, step)
                assert walked.origin_time[row] == PANEL.time[n, t]
                assert walked.target_time[row] == PANEL.time[n, t + step]
                assert walked.origin[row] == PANEL.price[n, t, 0]
                assert walked.actual[row] == PANEL.price[n, t + step, 0]
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
        assert np.isnan([rows.center, rows.unit]).all()
    else:
        center, unit = ASINH.center.numpy()[rows.series + 1, 0], ASINH.unit.numpy()[rows.series + 1, 0]
        expected = np.arcsinh((rows.actual - center) / unit) - np.arcsinh((rows.origin - center) / unit)
        np.testing.assert_array_equal([rows.center, rows.unit], [center, unit])
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
    moment = int(np.median(PANEL.time[PANEL.published & (PANEL.time >= SPLIT.validation_end_time)]))
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
    last = np.zeros_like(PANEL.published)
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
        network=NetworkConfig(hidden=6),
        config=TrainingConfig(epochs=3, lanes=8, device="cpu"),
    )
    rivals = [
        Forecaster("ar", transform, fit_autoregressive(known, horizon=1, config=AutoregressiveConfig(max_lags=5))),
        Forecaster("drift", transform, fit_drift(known, horizon=1)),
        Forecaster("garch", transform, fit_garch(known, horizon=1)),
        fit_network(trained),
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


# ------------------------------------------------------------------------------------------------------- with refits

TINY = FitConfig(
    horizon=HORIZON,
    network=NetworkConfig(hidden=3, layers=1),
    training=TrainingConfig(epochs=1, lanes=6, device="cpu"),
)
FIRST, LAST = PANEL.time[TEST].min(), PANEL.time[TEST].max()
MOMENTS = np.unique(PANEL.time[PANEL.published & (PANEL.time >= FIRST) & (PANEL.time <= LAST)])


def refitted(name: str, panel: Panel, config: BacktestConfig, decide: Policy | None = None) -> list[Block]:
    """Walk over the test span, a new fit wherever the policy asks for one; the first is of the panel's split."""
    first = fit(name, panel, SPLIT, LogReturn(), TINY)

    def serve(fold: Fold) -> Iterator[tuple[int, Forecasts]]:
        forecaster = first
        if fold.cut_time is not None:
            shown, parts = seen(panel, fold.cut_time, config, SplitConfig())
            forecaster = fit(name, shown, parts, LogReturn(), TINY)
        return served(in_torch(forecaster, panel), panel, TEST, fold.start_time)

    how = {"policy": decide or policy(config.refit), "gap": config.gap, "window": config.refit.window}
    return list(walk(panel, TEST, serve, **how))


def table(blocks: list[Block]) -> Forecasts:
    """Join blocks to rows sorted as walk_forward sorts them."""
    rows = joined([b.rows for b in blocks])
    order = np.lexsort((rows.step, rows.origin_time, rows.series))
    return replace(rows, **{k: v[order] for k, v in vars(rows).items() if isinstance(v, np.ndarray)})


def folds(blocks: list[Block]) -> list[Fold]:
    """Give the folds of a walk in order."""
    return [b.fold for b in blocks if b.last]


EVERY = RefitConfig(when="every", every=15)
POLICIES = {
    "never": RefitConfig(),
    "every": EVERY,
    "schedule": RefitConfig(when="schedule", cron="0 0 */11 * *"),
    "drift": RefitConfig(when="drift", window=40, least=8, coverage=0.01, distance=0.05),
}


@pytest.mark.parametrize(("name", "when"), [("ar", k) for k in POLICIES] + [("gru", "every"), ("gru", "drift")])
def test_garbage_in_the_future_leaves_forecasts_and_refits_bit_for_bit(name: str, when: str) -> None:
    """Overwritten from a moment on, the prices before it give the same rows and the same refits by every policy."""
    config = BacktestConfig(refit=POLICIES[when])
    moment = int(MOMENTS[48])
    clean, dirty = (refitted(name, panel, config) for panel in (PANEL, garbage_from(PANEL, moment)))
    cuts = [[f for f in folds(blocks) if (f.cut_time or 0) < moment] for blocks in (clean, dirty)]
    assert cuts[0] == cuts[1]
    assert len(cuts[0]) == 1 if when == "never" else len(cuts[0]) > 2
    rows, still = table(clean), table(dirty)
    assert bits(rows, rows.target_time < moment) == bits(still, still.target_time < moment)
    made, still_made = ({k: getattr(f, k)[f.origin_time < moment] for k in MADE} for f in (rows, still))
    beside = {tuple(key): k for k, key in enumerate(zip(*(still_made[k] for k in KEYS), strict=True))}
    both = [(k, beside[key]) for k, key in enumerate(zip(*(made[k] for k in KEYS), strict=True)) if key in beside]
    assert len(both) > 200
    for k in MADE:
        assert made[k][[a for a, _ in both]].tobytes() == still_made[k][[b for _, b in both]].tobytes(), k


MADE = (*KEYS, "origin", "quantile", "loc", "scale", "df")
"""What a row holds before its outcome is known."""


@pytest.mark.parametrize("name", ["ar", "lstm"])
def test_a_fold_is_its_fit_carried_from_the_true_start(name: str) -> None:
    """Each fold's rows are those that its fit gives in one walk over everything, on a rolling history as well."""
    config = BacktestConfig(refit=EVERY, history="150d")
    blocks = refitted(name, PANEL, config)
    assert len(folds(blocks)) == 6
    for fold in folds(blocks)[1:]:
        assert fold.cut_time is not None
        shown, parts = seen(PANEL, fold.cut_time, config, SplitConfig())
        whole = walk_forward(fit(name, shown, parts, LogReturn(), TINY), PANEL, TEST)
        rows = table([b for b in blocks if b.fold == fold])
        until = min((f.start_time for f in folds(blocks) if f.number > fold.number), default=2**62)
        same(rows, whole.where((whole.origin_time >= fold.start_time) & (whole.origin_time < until)), 1e-4)


def test_the_folds_share_the_origins_among_them() -> None:
    """Every origin is served once, by the fold of its own moment, also where its target lies after the next refit."""
    blocks = refitted("ar", PANEL, BacktestConfig(refit=EVERY))
    rows, alone = table(blocks), walk_forward(fit("ar", PANEL, SPLIT, LogReturn(), TINY), PANEL, TEST)
    for k in (*KEYS, "origin", "actual", "outcome"):
        np.testing.assert_array_equal(getattr(rows, k), getattr(alone, k))
    starts = [f.start_time for f in folds(blocks)]
    for block in blocks:
        number = np.searchsorted(starts, block.rows.origin_time, "right") - 1
        assert (number == block.fold.number).all()
    assert (table([b for b in blocks if b.fold.number == 0]).target_time >= starts[1]).any()


def test_a_refit_serves_after_its_gap() -> None:
    """Asked every 10 origin times, each fit begins to serve 3 origin times after its cut, the fit before until then."""
    blocks = refitted("last_value", PANEL, BacktestConfig(gap=3, refit=RefitConfig(when="every", every=10)))
    cuts = [f.cut_time for f in folds(blocks)]
    starts = [f.start_time for f in folds(blocks)]
    assert cuts == [None, *MOMENTS[10:-3:10]]
    assert starts == [MOMENTS[0], *MOMENTS[13::10][: len(cuts) - 1]]


def test_refits_follow_each_other_within_a_gap() -> None:
    """With a refit at every other moment and a longer gap, several fits wait, and serve in their order."""
    blocks = refitted("last_value", PANEL, BacktestConfig(gap=5, refit=RefitConfig(when="every", every=2)))
    assert [f.cut_time for f in folds(blocks)[1:]] == list(MOMENTS[2:-5:2])
    assert [f.start_time for f in folds(blocks)[1:]] == list(MOMENTS[7::2])
    rows = table(blocks)
    assert len(rows) == len(walk_forward(fit("last_value", PANEL, SPLIT, LogReturn(), TINY), PANEL, TEST))


@pytest.mark.parametrize("embargo", [0, 4])
def test_a_refit_sees_what_lies_before_its_cut(embargo: int) -> None:
    """The fit ends strictly before the cut, less the embargo, and validates on the share of the settings."""
    cut = int(MOMENTS[30])
    panel, parts = seen(PANEL, cut, BacktestConfig(embargo=embargo), SplitConfig(validation=0.2, test=0.5))
    times = np.unique(PANEL.time[PANEL.published])
    assert panel is PANEL
    assert parts.validation_end_time == times[list(times).index(cut) - embargo]
    known = PANEL.time[PANEL.published & (PANEL.time < parts.validation_end_time)]
    assert (known >= parts.train_end_time).mean() == pytest.approx(0.4, abs=3 / len(known))


def test_a_rolling_history_is_all_that_a_fit_sees() -> None:
    """Wild prices from before the history change neither the weights nor the scale of a refit; one inside does."""
    config, cut = BacktestConfig(history="120d"), int(MOMENTS[40])
    old = (PANEL.time < cut - 120 * DAY)[..., None]
    worlds = [PANEL, *(replace(PANEL, price=np.where(x, PANEL.price**1.5, PANEL.price)) for x in (old, ~old))]
    fits = []
    for panel in worlds:
        shown, parts = seen(panel, cut, config, SplitConfig())
        fits.append([fit(name, shown, parts, LogReturn(), TINY).state_dict() for name in ("ar", "gru")])
    for clean, wild, inside in zip(*fits, strict=True):
        assert all(clean[k].numpy().tobytes() == wild[k].numpy().tobytes() for k in clean)
        assert any(not torch.equal(clean[k], inside[k]) for k in clean)
    with pytest.raises(DataError, match=r"refit at 1970-.*got 1\. Make backtest\.history longer"):
        seen(PANEL, DAY, config, SplitConfig())


def test_a_policy_knows_what_is_known_at_its_moment_and_no_more() -> None:
    """Asked at every moment once and in order, it sees the latest next steps that came by then, as they were served."""
    asked: list[tuple[int, Forecasts]] = []

    def every_other_ten(signals: Signals) -> bool:
        asked.append((signals.time, signals.latest()))
        return signals.since >= 10

    rows = table(refitted("ar", PANEL, BacktestConfig(refit=RefitConfig(window=25)), every_other_ten))
    assert [time for time, _ in asked] == list(MOMENTS)
    order = np.lexsort((rows.step, rows.series, rows.origin_time, rows.target_time))
    for time, latest in asked:
        known = [k for k in order if rows.target_time[k] <= time and rows.step[k] == 1]
        assert len(latest) == (25 if len(known) >= 25 else 0)
        np.testing.assert_array_equal(
            np.sort(latest.target_time), np.sort(rows.target_time[known[-25:]])[: len(latest)]
        )
        kept = {q.tobytes() for q in rows.quantile[known]}
        assert {q.tobytes() for q in latest.quantile} <= kept


def test_where_nobody_is_asked_no_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a policy a walk that is twice as long takes twice the work: what was forecast is not gone over again."""
    monkeypatch.setattr(passes, "CHUNK", 20)
    gathered: list[int] = []

    def counted(parts: list[Forecasts]) -> Forecasts:
        gathered.append(sum(map(len, parts)))
        return joined(parts)

    monkeypatch.setattr(backtest, "joined", counted)
    rows = walk_forward(forecaster("ar"), PANEL, TEST)
    assert gathered == [len(rows)]


def test_a_walk_is_one_pass_and_its_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each observation is carried exactly once, and a block holds no more rows than its stretch has origins."""
    monkeypatch.setattr(passes, "CHUNK", 20)
    runner, carried = in_torch(forecaster("ar"), PANEL), []

    def counted(o: Observation, state: State) -> tuple[Forecast, State]:
        carried.append(o.mask.sum().item())
        assert o.price.shape[1] <= 20
        return runner.forward(o, state)

    counting = replace(runner, forward=counted)
    blocks = list(walk(PANEL, TEST, lambda fold: served(counting, PANEL, TEST, fold.start_time)))
    assert sum(carried) == PANEL.mask.sum()
    assert len(blocks) > 3
    assert max(len(b.rows) for b in blocks) <= 20 * len(PANEL.names) * HORIZON
    same(table(blocks), walk_forward(forecaster("ar"), PANEL, TEST), 1e-6)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"history": "2 years"}, "history: expected a number and w, d, h, m or s, such as '730d', got '2 years'"),
        ({"gap": -1}, "gap: expected 0 or more, got -1"),
        ({"embargo": -2}, "embargo: expected 0 or more, got -2"),
    ],
)
def test_a_setting_of_the_backtest_out_of_range_is_told(setting: dict[str, Any], says: str) -> None:
    """The message has what was expected and what came."""
    with pytest.raises(ConfigError, match=says):
        BacktestConfig(**setting)
