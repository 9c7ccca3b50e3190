"""All settings of a run in one tree; the defaults are the reference run on the bundled sample.

Comes in: nothing. Goes out: `Config`, which `settings.load` reads from TOML. Each part belongs to the file that
it configures. Imported by steps and by the flows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from models.errors import ConfigError, unknown
from models.transforms import TransformKind
from pipeline import settings
from pipeline.backtest import BacktestConfig
from pipeline.calendar_features import of_calendar
from pipeline.clock import moment
from pipeline.compare import CompareConfig
from pipeline.covariates import Due
from pipeline.fitting import KINDS, MODELS, FitConfig
from pipeline.ingest import IngestConfig
from pipeline.scale_config import ScaleConfig
from pipeline.stream_config import ServedConfig, StreamConfig
from pipeline.tracking import TrackingConfig
from pipeline.windows import SplitConfig

OF_ALL = ("folder", "home", "ingest", "parts", "pool", "pools", "scale")
"""Settings that a pool cannot have of its own: prices are read and kept once for all of them."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run.

    Attributes
    ----------
    folder : Path
        Data folder: prices, models, forecasts, champions, and the MLflow store by default.
    home : Path or None
        Data folder whose prices and MLflow store are used, where it is not `folder`; a pool has that of all pools.
    pools : table of tables
        Groups of series that have models and a champion of their own, by name: for each its differences from the
        settings around it, such as `series` and `fit`. What a pool keeps is in `pools/<name>` of the data folder.
    pool : str or None
        The pool that is meant, where there are pools; left out: all of them, one after the other.
    parts : int
        Pools that the series are cut into by a hash of their names, 1 to 999: `part-000`, `part-001` and on, alike but
        for their series. 1: not cut. Numbers that divide 64 are read fastest: the price store has so many buckets.
    part : [int, int]
        [k, n] leaves, of the series that `series` asks for, those of part k of n, by that hash; k counts from 0.
    champion : str
        Name under which the best model is published: a-z, 0-9, _ and -.
    series : tuple of str
        Patterns of the series in the store that are modelled, such as ["us_*", "WTI"].
    models : tuple of str
        Models to fit and compare.
    leave_out : tuple of str
        Series in the store that are not to be modelled, such as those with too short a history.
    known_at : str or None
        Prices are taken as they were known at this moment (ISO 8601, UTC), without later revisions; left out: as they
        are known now.
    block : int
        Prices that are published together and forecast together, such as 24 for the hours of a day-ahead auction: a day
        of the market's clock or an equal part of one, 1 to 1440. 1: every price by itself.
    past : tuple of str
        Columns of the store, beside the price, that are inputs of the networks as of the price's own time, such as
        ["volume"]: the latest value known when the price is; or features of that time, such as ["@hour_sin"]
        (pipeline/calendar_features.py lists them).
    ahead : tuple of str
        Columns of the store that are known for the targets before their prices, such as ["load_forecast"] where the
        electricity load of the next hours is forecast: for each step the value of its time, as it is known when the
        price of the origin is. Features of the calendar are of the time s bars after the origin. A name may stand in
        both.
    due : {"origin", "target"}
        When a forecast is due, and so which covariates are known: with the price of its origin, or just before the next
        price is published, as the forecasts of load and wind are before a day-ahead auction.
    transform : {"log", "asinh"}
        Scale on which models work: log returns, or asinh differences where prices fall below zero.
    ingest : IngestConfig
        What is read, and what is done about faults.
    split : SplitConfig
        Train, validation and test.
    fit : FitConfig
        Horizon, and settings of each kind of model.
    backtest : BacktestConfig
        The walk forward over the test split, and the refits on its way.
    compare : CompareConfig
        Level of the tests and the references.
    tracking : TrackingConfig
        Where runs and models are recorded.
    stream : StreamConfig
        The stream of ticks.
    scale : ScaleConfig
        Processes over which a retrain is spread.
    """

    folder: Path = ServedConfig.folder
    home: Path | None = ServedConfig.home
    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    pool: str | None = None
    parts: int = 1
    part: tuple[int, int] = ServedConfig.part
    champion: str = ServedConfig.champion
    series: tuple[str, ...] = ServedConfig.series
    models: tuple[str, ...] = MODELS
    leave_out: tuple[str, ...] = ()
    known_at: str | None = None
    block: int = 1
    past: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    due: Due = "origin"
    transform: TransformKind = "log"
    ingest: IngestConfig = IngestConfig()
    split: SplitConfig = SplitConfig()
    fit: FitConfig = FitConfig()
    backtest: BacktestConfig = BacktestConfig()
    compare: CompareConfig = CompareConfig()
    tracking: TrackingConfig = TrackingConfig()
    stream: StreamConfig = ServedConfig.stream
    scale: ScaleConfig = ScaleConfig()

    @property
    def known_at_time(self) -> datetime | None:
        """The moment `known_at`."""
        return None if self.known_at is None else moment(self.known_at, "known_at")

    @property
    def base(self) -> Path:
        """Data folder with what all pools share: prices and the MLflow store."""
        return self.home or self.folder

    @property
    def prices(self) -> Path:
        """Folder of the price store."""
        return self.base / "prices"

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """Differences of each pool by name, be it of `pools` or a part."""
        parts = range(self.parts if self.parts > 1 else 0)
        return self.pools | {f"part-{k:03}": {"part": [k, self.parts]} for k in parts}

    @property
    def each(self) -> dict[str, Config]:
        """Whole settings of each pool that is meant, by name; without pools these settings, under no name."""
        names = tuple(self.groups) if self.pool is None else (self.pool,)
        return {name: self.of(name) for name in names} or {"": self}

    def of(self, pool: str) -> Config:
        """Give the whole settings of a pool.

        Raises
        ------
        ConfigError
            There is none of that name, or its settings are wrong.
        """
        if pool not in self.groups:
            raise ConfigError(unknown("pool", pool, self.groups))
        if not _NAME.fullmatch(pool):
            raise ConfigError(f"pools: expected names of 1 to 32 of a-z, 0-9, _ and -, got {pool!r}")
        changes = self.groups[pool]
        if of_all := sorted(set(changes) & set(OF_ALL)):
            raise ConfigError(f"pools.{pool}.{of_all[0]}: expected outside of the pool, for it is the same for all")
        one = replace(self, pools={}, pool=None, parts=1, folder=self.folder / "pools" / pool, home=self.base)
        named = replace(one, tracking=replace(self.tracking, model=f"{self.tracking.model}-{pool}"))
        return settings.changed(named, changes, f"pools.{pool}")

    def __post_init__(self) -> None:
        _ = self.known_at_time
        if not 1 <= self.parts <= 999 or (self.parts > 1 and self.pools):
            raise ConfigError(
                f"parts: expected 1 to 999, and 1 beside pools, got {self.parts} and {len(self.pools)} pools"
            )
        if not 0 <= self.part[0] < self.part[1]:
            raise ConfigError(f"part: expected [k, n] with k from 0 to n - 1, got {list(self.part)}")
        _ = self.each
        if not 1 <= self.block <= 1440:
            raise ConfigError(f"block: expected 1 to 1440 prices, got {self.block}")
        if self.block * self.fit.horizon > 32_767:
            raise ConfigError(
                f"block, fit.horizon: expected at most 32767 prices ahead, got {self.block} x {self.fit.horizon}. "
                "Lower fit.horizon, which counts blocks"
            )
        for name in self.models:
            if name not in KINDS:
                raise ConfigError(unknown("model", name, KINDS))
        if len(set(self.models)) != len(self.models) or not self.models:
            raise ConfigError(f"models: expected at least one and none twice, got {list(self.models)}")
        for setting, names in (("past", self.past), ("ahead", self.ahead)):
            if len(set(names)) != len(names):
                raise ConfigError(f"{setting}: expected each covariate once, got {list(names)}")
            for name in names:
                of_calendar(name)
        needed = {self.compare.last_value} - set(self.models)
        if needed:
            raise ConfigError(f"models: {needed.pop()} is missing; every comparison needs the naive forecast beside it")
