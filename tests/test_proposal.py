"""Proposed settings load, fit the prices they were made for, and say why."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from models.conformal import ConformalConfig
from pipeline.config import Config
from pipeline.ingest import IngestConfig, ingest
from pipeline.prices import PriceStore
from pipeline.proposal import Proposal, propose
from pipeline.settings import load

START = datetime(2020, 1, 6, tzinfo=UTC)


def proposed(folder: Path, frame: pl.DataFrame) -> tuple[Proposal, Config]:
    """Propose settings for a table, and load them."""
    frame.write_csv(folder / "prices.csv")
    proposal = propose(IngestConfig(paths=(str(folder / "prices.csv"),)))
    (folder / "desk.toml").write_text(proposal.toml())
    return proposal, load(Config, folder / "desk.toml")


def daily(number: int, name: str = "A", low: float = 50.0) -> pl.DataFrame:
    """Make days of a random walk whose lowest price is `low`."""
    path = np.cumsum(np.random.default_rng(0).standard_normal(number))
    days = [START + timedelta(days=k) for k in range(number)]
    return pl.DataFrame({"symbol": name, "date": days, "close": path - path.min() + low, "volume": 7.0})


def test_positive_prices_are_modelled_on_the_log_scale(tmp_path: Path) -> None:
    """Daily prices above zero need little: log returns, one step ahead, and the volume kept beside them."""
    proposal, config = proposed(tmp_path, daily(400))
    assert (config.transform, config.fit.horizon, config.leave_out) == ("log", 1, ())
    assert config.ingest.columns.values == ("volume",)
    assert config.ingest.bars is None
    assert "a price a day" in proposal.toml()
    assert config.fit.conformal.memory == 250


def test_negative_prices_ask_for_the_asinh_scale(tmp_path: Path) -> None:
    """The lowest price is named, and the policy that keeps it comes with the transform: the ingest then succeeds."""
    proposal, config = proposed(tmp_path, daily(400, low=-37.63))
    assert (config.transform, config.ingest.policy.non_positive) == ("asinh", "keep")
    assert "A fell to -37.63 at " in proposal.toml()
    report, _ = ingest(config.ingest, PriceStore(tmp_path / "store"))
    assert report.rows_kept == 400


def test_trades_ask_for_bars_that_hold_some_of_them(tmp_path: Path) -> None:
    """Irregular times, half of them shared, are trades: bars of about twenty, and the ingest then succeeds."""
    rng = np.random.default_rng(1)
    second = np.sort(rng.integers(0, 50_000, 10_000)).repeat(2)
    trades = pl.DataFrame({"time": 1_600_000_000 + second, "price": 100 + rng.standard_normal(20_000).round(2)})
    _, config = proposed(tmp_path, trades)
    assert config.ingest.bars is not None
    assert config.fit.conformal.memory == ConformalConfig().memory
    assert config.ingest.bars.every == "1m"
    report, _ = ingest(config.ingest, PriceStore(tmp_path / "store"))
    assert 0 < report.rows_kept <= 834


def test_short_series_are_left_out_while_others_stay(tmp_path: Path) -> None:
    """A series too short for a fit is named; where all are short, none is."""
    _, config = proposed(tmp_path, pl.concat([daily(400), daily(50, "B")]))
    assert config.leave_out == ("B",)
    assert proposed(tmp_path, daily(50))[1].leave_out == ()


def test_prices_of_a_block_are_forecast_together(tmp_path: Path) -> None:
    """Where a day's hours become known at once the horizon is the day."""
    hours = [START + timedelta(hours=k) for k in range(24 * 60)]
    known = [hour.replace(hour=0) - timedelta(hours=12) for hour in hours]
    walk = 50 + np.cumsum(np.random.default_rng(2).standard_normal(len(hours)) / 10)
    frame = pl.DataFrame({"time": hours, "available_time": known, "price": walk})
    assert proposed(tmp_path, frame)[1].fit.horizon == 24


def hourly(size: np.ndarray) -> pl.DataFrame:
    """Make hours of a walk whose moves have these sizes."""
    moves = size * np.random.default_rng(3).standard_t(5, len(size))
    times = [START + timedelta(hours=k) for k in range(len(size))]
    return pl.DataFrame({"time": times, "price": 100 * np.exp(np.cumsum(moves))})


def test_networks_are_told_the_hour_where_moves_follow_it(tmp_path: Path) -> None:
    """Moves three times as large in eight hours of the day ask for the clock; alike, or too few, they do not."""
    busy = np.where(np.arange(24 * 100) % 24 < 8, 0.003, 0.001)
    proposal, config = proposed(tmp_path, hourly(busy))
    assert (config.past, config.ahead, config.fit.network.diurnal) == ((), ("@hour_sin", "@hour_cos"), True)
    assert re.search(r"the hour of the day explains 1\d% of how large moves are", proposal.toml())
    even = proposed(tmp_path, hourly(np.full(24 * 100, 0.002)))[1]
    assert (even.ahead, even.fit.network.diurnal) == ((), False)
    assert proposed(tmp_path, hourly(busy[: 24 * 40]))[1].ahead == ()


def test_every_setting_has_its_reason_and_every_finding_is_shown(tmp_path: Path) -> None:
    """Each line of settings follows a comment; faults that were found stand at the top with a case."""
    frame = daily(400).with_columns(close=pl.when(pl.int_range(400) == 200).then(500.0).otherwise("close"))
    proposal, _ = proposed(tmp_path, frame)
    lines = proposal.toml().splitlines()
    assert all(above.startswith("# ") for above, line in itertools.pairwise(lines) if " = " in line and line[0] != "#")
    assert any(line.startswith("# spike: 1, such as prices.csv line 202: A at 2020-07-24") for line in lines)
