"""Drive the stream from the price store: the past as it would have come, tick by tick, from the served file.

Comes in: a price store and a champion. Goes out: forecasts as JSON lines, and what was seen on the way. Knows
polars; imported by the flows and the command line.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import DataError
from models.observation import LEVELS
from pipeline.drive import StreamReport, parsed, run
from pipeline.lines import Block, IntakeConfig, cut
from pipeline.lineup import Lineup
from pipeline.opening import Opening, opened
from pipeline.outputs import FileOutput
from pipeline.prices import PriceStore
from pipeline.session import Session
from pipeline.stream import Past
from pipeline.stream_config import StreamConfig
from pipeline.ticks import Layout, Ticks

INTERVAL = (LEVELS.index(0.025), LEVELS.index(0.975))


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay gave: the stream's own report, and how its latest forecasts held.

    Attributes
    ----------
    stream : StreamReport
    copies : int
        How often each series was replayed under a name of its own, to reach a number of ticks.
    days : int
        Calendar days before the last price that were scored.
    scored : int
        Forecasts of step 1 whose origin lies in the last `days`.
    coverage_95 : float
        Share of them whose target fell into the central 95 % interval; NaN where none was scored.
    seen : bool
        Whether the fit of the model has seen some of their targets: then the share is no test of it.
    """

    stream: StreamReport
    copies: int
    days: int
    scored: int
    coverage_95: float
    seen: bool


def replay(
    lineup: Lineup,
    prices: Path,
    out: Path,
    *,
    days: int = 365,
    ticks: int | None = None,
    series: Sequence[str] = ("*",),
    part: tuple[int, int] = (0, 1),
    config: StreamConfig | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Stream the whole store in order of time, so that the last `days` are forecast from warm states.

    Parameters
    ----------
    lineup : Lineup
    prices : Path
        Folder of the price store.
    out : Path
        Forecasts, JSON lines; dead letters go beside it.
    days : int
        Calendar days before the last price that are scored.
    ticks : int, optional
        Replay exactly so many: series are copied under names such as `SP500~2` until there are enough, which says
        something about throughput and nothing about forecasts.
    series, part
        Which series, as `PriceStore.names` takes them.

    Raises
    ------
    DataError
        The store holds no prices.
    """
    frame = _ticks(prices, series, part)
    if frame.is_empty():
        raise DataError(f"{prices}: expected prices to replay, got none. Run `statecast ingest` first")
    copies = 1 if ticks is None else -(-ticks // len(frame))
    config = config or StreamConfig()
    out.parent.mkdir(parents=True, exist_ok=True)
    wanted = Opening(lineup=lineup, out=FileOutput(out), dead=FileOutput(out.with_suffix(".dead.jsonl")))
    with opened(wanted, config) as stream:
        report = run(stream, _blocks(_lines(frame, copies, ticks), config), on_progress=on_progress)
    since = frame.select(pl.col("time").max() - pl.duration(days=days)).item()
    scored, covered = _coverage(frame, out, since)
    seen = datetime.fromisoformat(Session(lineup.serving).metadata.cutoff_time) > since
    return Replayed(stream=report, copies=copies, days=days, scored=scored, coverage_95=covered, seen=seen)


def history(prices: Path, config: StreamConfig, series: Sequence[str] = ("*",), part: tuple[int, int] = (0, 1)) -> Past:
    """Give the prices of the store, or of some series, as ticks in order of time, for a stream to start warm.

    Raises
    ------
    DataError
        The folder is not a store, when the ticks are asked for.
    """

    def past(layout: Layout) -> Iterator[Ticks]:
        return parsed(_blocks(_lines(_ticks(prices, series, part), 1, None), config), config, layout)

    return past


def restated(store: PriceStore, series: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the prices of a series as they are known now: times in microseconds since 1970, ascending, and prices."""
    rows = store.read(series).drop_nulls("price").sort("time")
    return rows["time"].to_physical().to_numpy(), rows["price"].to_numpy()


def _blocks(lines: bytes, config: StreamConfig) -> Iterator[Block]:
    """Cut lines into blocks as a source does."""
    return cut(lines, "store", IntakeConfig(batch=config.batch, max_line_bytes=config.max_line_bytes))


def _ticks(prices: Path, series: Sequence[str], part: tuple[int, int]) -> pl.DataFrame:
    store = PriceStore(prices)
    return store.read(store.names(series, part)).select("series_id", "time", "price").drop_nulls()


def _lines(frame: pl.DataFrame, copies: int, ticks: int | None) -> bytes:
    """Write the prices as JSON lines in order of time."""
    named = [
        frame.with_columns(pl.col("series_id") + ("" if k == 1 else f"~{k}"), copy=pl.lit(k))
        for k in range(1, copies + 1)
    ]
    ordered = pl.concat(named).sort("time", "series_id", "copy").slice(0, ticks)
    out = io.BytesIO()
    # as text: whole microseconds around 1970 would be taken for another unit
    moment = pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    ordered.select(pl.col("series_id").alias("series"), moment, "price").write_ndjson(out)
    return out.getvalue()


def _coverage(frame: pl.DataFrame, out: Path, since: datetime) -> tuple[int, float]:
    """Tell how many forecasts from a moment on were scored, and the share that held their 95 % interval."""
    if not out.stat().st_size:  # every tick was refused
        return 0, float("nan")
    actual = frame.select("series_id", "time", actual=pl.col("price").shift(-1).over("series_id"))
    recent = actual.filter(pl.col("time") >= since, pl.col("actual").is_not_null())
    next_step = pl.col("quantiles").list.first()
    forecasts = pl.read_ndjson(out).select(
        series_id="series",
        time=pl.col("origin_time").str.to_datetime(time_unit="us", time_zone="UTC"),
        low=next_step.list.get(INTERVAL[0]),
        high=next_step.list.get(INTERVAL[1]),
    )
    scored = recent.join(forecasts, on=("series_id", "time"))
    covered = scored.select(pl.col("actual").is_between("low", "high").mean()).item()
    return len(scored), float("nan") if covered is None else float(covered)
