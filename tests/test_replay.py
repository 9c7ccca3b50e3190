"""A replay is the stream itself, driven from the price store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from conftest import Workspace

from models.errors import DataError
from pipeline import archive, champions
from pipeline.prices import SCHEMA, PriceStore
from pipeline.replay import replay
from pipeline.session import Session


@pytest.fixture
def champion(workspace: Workspace) -> Session:
    """Open the champion of the workspace."""
    return champions.load(workspace.folder / "champions", "champion")


def test_a_replay_forecasts_every_price_and_scores_the_last_days(
    workspace: Workspace, champion: Session, tmp_path: Path
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


def test_copies_of_a_series_forecast_alike_and_are_not_scored(
    workspace: Workspace, champion: Session, tmp_path: Path
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


def test_a_replay_where_every_tick_is_refused_scores_nothing(
    workspace: Workspace, champion: Session, tmp_path: Path
) -> None:
    """Prices outside the domain of the model go to the dead letters; the replay says so and ends."""
    frame = PriceStore(workspace.folder / "prices").read().with_columns(price=pl.lit(-1.0))
    PriceStore(tmp_path / "prices").write(frame)
    replayed = replay(champion, tmp_path / "prices", tmp_path / "out.jsonl")
    assert (replayed.stream.forecasts, replayed.stream.rejected) == (0, {"domain": 2100})
    assert replayed.scored == 0
    assert np.isnan(replayed.coverage_95)


def test_an_empty_store_asks_for_prices(champion: Session, tmp_path: Path) -> None:
    """The message names the verb to run."""
    PriceStore(tmp_path / "prices").write(SCHEMA.to_frame())
    with pytest.raises(DataError, match="Run `statecast ingest` first"):
        replay(champion, tmp_path / "prices", tmp_path / "out.jsonl")
