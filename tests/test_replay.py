"""A replay is the stream itself, driven from the price store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from conftest import Workspace

from models.errors import DataError
from models.network import NetworkConfig
from pipeline import archive, champions, steps
from pipeline import export as exporting
from pipeline.backtest import walk_session_forward
from pipeline.config import Config
from pipeline.fitting import FitConfig
from pipeline.lineup import Lineup, published
from pipeline.prices import SCHEMA, PriceStore
from pipeline.promotion import export_model
from pipeline.replay import replay
from pipeline.session import GRAIN, Session
from pipeline.training_config import TrainingConfig


@pytest.fixture
def champion(workspace: Workspace) -> Lineup:
    """Read the champion of the workspace."""
    folder = workspace.folder / "champions"
    return published(folder, champions.current(folder, "champion"))


def test_a_replay_forecasts_every_price_and_scores_the_last_days(
    workspace: Workspace, champion: Lineup, tmp_path: Path
) -> None:
    """Each published price has a forecast; coverage is that of the backtest where both score the same days."""
    replayed = replay(champion, workspace.folder / "prices", tmp_path / "out.jsonl", days=100)
    assert (replayed.stream.forecasts, replayed.stream.rejected, replayed.copies) == (2099, {}, 1)
    backtest = archive.load(workspace.folder / "forecasts" / workspace.result.promoted.model)
    last = backtest.origin_time >= backtest.target_time.max() - 100 * 86_400_000_000
    covered = (backtest.quantile[:, 1] <= backtest.actual) & (backtest.actual <= backtest.quantile[:, -2])
    assert replayed.scored == last.sum() == 300
    assert replayed.coverage_95 == pytest.approx(covered[last].mean())
    assert not (tmp_path / "out.dead.jsonl").read_bytes()


def test_a_champion_that_reads_the_calendar_replays_its_backtest_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Series with weekends, and one of every second hour on an hourly grid: stream and walk give the same bytes."""
    monkeypatch.setattr(exporting, "STEPS", 50)
    monkeypatch.setattr(exporting, "LOOK_AT", (1, 50))
    PriceStore(tmp_path / "prices").write(hourly_with_weekends(GRAIN))
    training = TrainingConfig(epochs=2, lanes=16, device="cpu")
    fitting = FitConfig(horizon=2, network=NetworkConfig(hidden=3), training=training)
    config = Config(folder=tmp_path, past=("@weekday_cos", "@hour"), ahead=("@hour_sin", "@hour_cos"), fit=fitting)
    assert steps.load(config).panel.grid == "1h"
    steps.train(config, "gru")
    export_model(config, "gru", tmp_path / "gru.onnx")
    session, data = Session.load(tmp_path / "gru.onnx"), steps.load(config)
    assert (session.metadata.past, session.metadata.future) == (config.past, config.ahead)
    walked = walk_session_forward(session, "gru", data.transform, data.panel, data.split.origins(data.panel, "test"))
    replay(Lineup(serving=(tmp_path / "gru.onnx").read_bytes()), tmp_path / "prices", tmp_path / "out.jsonl")
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    served = {(line["series"], np.datetime64(line["origin_time"][:-1], "us").astype(int)): line for line in lines}
    rows = zip(walked.series, walked.origin_time, walked.step, walked.quantile, strict=True)
    for series, time, step, quantile in rows:
        line = served[walked.names[series], time]
        assert np.array(line["quantiles"][step - 1]).tobytes() == quantile.tobytes()
    assert len(walked) > 1000


def hourly_with_weekends(series: int) -> pl.DataFrame:
    """Make 300 hours of prices a series without Saturdays and Sundays; of the last one every second hour."""
    hours = np.arange(300 * 7 // 5)
    hours = hours[hours // 24 % 7 < 5]
    rng = np.random.default_rng(4)
    frames = []
    for k in range(series):
        kept = hours[:: 2 if k == series - 1 else 1]
        price = 100 * np.exp(0.01 * rng.standard_t(5, len(kept)).cumsum())
        time = 1_704_067_200_000_000 + kept * 3_600_000_000  # a Monday
        columns = {"series_id": [f"S{k:02}"] * len(kept), "time": time, "available_time": time, "price": price}
        frames.append(pl.DataFrame(columns).cast(SCHEMA))  # type: ignore[arg-type]
    return pl.concat(frames)


def test_copies_of_a_series_forecast_alike_and_are_not_scored(
    workspace: Workspace, champion: Lineup, tmp_path: Path
) -> None:
    """More ticks than prices come from copies under names of their own, exactly as many as asked."""
    replayed = replay(champion, workspace.folder / "prices", tmp_path / "out.jsonl", ticks=5000)
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert (replayed.stream.ticks, len(lines), replayed.copies) == (5000, 5000, 3)
    by_name = {(line["series"], line["origin_time"]): line["median"] for line in lines}
    # a copy is a series that the file does not know: copies equal each other, on the pooled row
    pairs = [(by_name.get((f"{n[:-2]}~3", t)), median) for (n, t), median in by_name.items() if n.endswith("~2")]
    copies = [pair for pair in pairs if pair[0] is not None]  # the last day is cut somewhere
    assert len(copies) > 1000
    np.testing.assert_array_equal(*map(list, zip(*copies, strict=True)))
    assert replayed.scored <= 3 * 365


def test_prices_around_1970_are_replayed(champion: Lineup, tmp_path: Path) -> None:
    """Times whose number of microseconds is small are no times in another unit."""
    time = np.arange(-200, 200) * 86_400_000_000
    columns = {"series_id": ["OLD"] * len(time), "time": time, "available_time": time, "price": np.full(len(time), 9.0)}
    PriceStore(tmp_path / "prices").write(pl.DataFrame(columns).cast(SCHEMA))  # type: ignore[arg-type]
    replayed = replay(champion, tmp_path / "prices", tmp_path / "out.jsonl")
    assert (replayed.stream.forecasts, replayed.stream.rejected) == (400, {})


def test_a_replay_where_every_tick_is_refused_scores_nothing(
    workspace: Workspace, champion: Lineup, tmp_path: Path
) -> None:
    """Prices outside the domain of the model go to the dead letters; the replay says so and ends."""
    frame = PriceStore(workspace.folder / "prices").read().with_columns(price=pl.lit(-1.0))
    PriceStore(tmp_path / "prices").write(frame)
    replayed = replay(champion, tmp_path / "prices", tmp_path / "out.jsonl")
    assert (replayed.stream.forecasts, replayed.stream.rejected) == (0, {"domain": 2100})
    assert replayed.scored == 0
    assert np.isnan(replayed.coverage_95)


def test_an_empty_store_asks_for_prices(champion: Lineup, tmp_path: Path) -> None:
    """The message names the verb to run."""
    PriceStore(tmp_path / "prices").write(SCHEMA.to_frame())
    with pytest.raises(DataError, match="Run `statecast ingest` first"):
        replay(champion, tmp_path / "prices", tmp_path / "out.jsonl")


def test_a_warm_start_takes_the_series_of_its_pool(workspace: Workspace, champion: Lineup, tmp_path: Path) -> None:
    """Of the prices of all pools only those of the series asked for are ticks."""
    out = tmp_path / "out.jsonl"
    replay(champion, workspace.folder / "prices", out, days=100, series=("A*", "CCC"))
    assert {orjson.loads(line)["series"] for line in out.read_bytes().splitlines()} == {"AAA", "CCC"}
