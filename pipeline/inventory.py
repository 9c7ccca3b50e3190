"""Inventory: what the price store holds, to look at, to check, to draw, and to take out again.

Comes in: a `PriceStore` and a `Choice` of series and span. Goes out: frames, findings, pictures and files. Imported by
the command line.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from models.errors import ConfigError, DataError, unknown
from pipeline import faults, figures, reading
from pipeline.atomic import replacing
from pipeline.calendars import closed, currencies
from pipeline.clock import moment
from pipeline.ingest import IngestConfig, told
from pipeline.inspection import state_path
from pipeline.layout import Columns
from pipeline.oddities import flat, oddities
from pipeline.prices import KEY, PriceStore
from pipeline.report import Fault
from pipeline.session import Session
from pipeline.tables import Format
from pipeline.vintages import WriteResult


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which prices: of which series (None: all), `start` <= time < `end`, as known at a moment, adjusted or not."""

    series: tuple[str, ...] | None = None
    start: datetime | None = None
    end: datetime | None = None
    known_at: datetime | None = None
    adjusted: bool = True

    @classmethod
    def of(
        cls,
        series: Sequence[str] | None,
        *,
        since: str | None = None,
        until: str | None = None,
        known_at: str | None = None,
        raw: bool = False,
    ) -> Choice:
        """Make a choice of what was typed."""
        return cls(
            series=tuple(series) if series else None,
            start=_read(since, "--since"),
            end=_read(until, "--until"),
            known_at=_read(known_at, "--known-at"),
            adjusted=not raw,
        )


def _read(text: str | None, option: str) -> datetime | None:
    return None if text is None else moment(text, option)


def prices(store: PriceStore, choice: Choice) -> pl.DataFrame:
    """Read the chosen prices: `series_id`, `time`, `available_time`, `price`."""
    return store.read(
        choice.series, start=choice.start, end=choice.end, known_at=choice.known_at, adjusted=choice.adjusted
    )


def vintages(store: PriceStore, choice: Choice) -> pl.DataFrame:
    """Read every value that the chosen prices ever had, as stored, up to the moment `known_at`."""
    rows = store.prices.vintages(choice.series, start=choice.start, end=choice.end)
    return rows if choice.known_at is None else rows.filter(pl.col("available_time") <= choice.known_at)


def revised(store: PriceStore, series: Sequence[str] | None) -> pl.DataFrame:
    """List what was revised: `series_id`, `time`, `old_price`, `new_price`, and when the new one became known."""
    rows = store.prices.vintages(tuple(series) if series else None)
    same = pl.all_horizontal(pl.col(c) == pl.col(c).shift(1) for c in ("series_id", "time"))
    changed = rows.with_columns(pl.col("price").shift(1).alias("old_price"), same.alias("same")).filter(pl.col("same"))
    changed = changed.filter(pl.col("old_price").ne_missing(pl.col("price")))
    return changed.select("series_id", "time", "old_price", pl.col("price").alias("new_price"), "available_time")


def check(store: PriceStore, series: Sequence[str] | None, config: IngestConfig) -> tuple[Fault, ...]:
    """Look for oddities in the stored prices, adjusted for corporate actions; nothing is changed."""
    held = store.read(tuple(series) if series else None)
    return told(faults.check(held, config.policy, config.calendar), config.policy, [str(store.folder)])


def plot(store: PriceStore, choice: Choice, config: IngestConfig, out: Path) -> Path:
    """Draw one series with what the checks find marked; `out` is a picture, or a folder for one."""
    (name,) = choice.series or ("",)
    figures.check_file(path := out if out.suffix else out / f"{_FILE.sub('_', name)}.png")
    rows = prices(store, choice).drop_nulls("price")
    time, price = rows["time"].to_physical().to_numpy(), rows["price"].to_numpy()
    kind = oddities(rows, jump_scales=config.policy.jump_scales, whole=currencies(rows["series_id"]))["kind"]
    marks = {str(fault): (kind == fault).fill_null(False) for fault in kind.drop_nulls().unique().sort()}
    marks["flat"] = flat(rows)["length"] >= config.policy.flat_length
    marks["closed"] = closed(rows.select("series_id", "time"), config.calendar)
    marks = {name: at.to_numpy() for name, at in marks.items() if at.any()}
    return figures.save(figures.price_history(name, time, price, marks), path)


def hidden_state(session: Session, store: PriceStore, series: str, out: Path) -> Path:
    """Carry a model over all stored prices of a series and draw its state; `out` is a picture, or a folder for one."""
    figures.check_file(path := out if out.suffix else out / f"state-{_FILE.sub('_', series)}.png")
    rows = store.read(series)
    walked = state_path(session, series, rows["time"].to_physical().to_numpy(), rows["price"].to_numpy())
    return figures.save(figures.hidden_state(walked), path)


def export(store: PriceStore, choice: Choice, path: Path) -> int:
    """Write the chosen prices and what is held beside them to a file in the format of its suffix; give its rows."""
    if path.suffix not in _WRITERS:
        raise ConfigError(unknown("format of an export", path.suffix, _WRITERS))
    rows = prices(store, choice)
    if store.covariates.exists():
        beside = store.covariates.scan(choice.series, start=choice.start, end=choice.end, known_at=choice.known_at)
        rows = rows.join(
            beside.drop("available_time").collect(), on=["series_id", "time"], how="left", maintain_order="left"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        _WRITERS[path.suffix](rows, file)
    return rows.height


_FILE = re.compile(r"[^\w.-]+")
_WRITERS: dict[str, Callable[[pl.DataFrame, Any], Any]] = {
    ".csv": pl.DataFrame.write_csv,
    ".parquet": pl.DataFrame.write_parquet,
    ".arrow": pl.DataFrame.write_ipc,
    ".jsonl": pl.DataFrame.write_ndjson,
}


def adjust(store: PriceStore, path: Path) -> WriteResult:
    """Add the corporate actions of a file: `series_id`, `time`, `factor`, and `available_time` if it is there.

    Without `available_time` an action is known from its own time on.
    """
    with tempfile.TemporaryDirectory(prefix="statecast-") as scratch:
        (found,) = reading.find([str(path)])
        rows = reading.read(found, 0, Columns(price="factor"), Format(), Path(scratch)).rows.collect()
    bad = rows.filter(pl.col("unreadable").is_not_null())
    if bad.height:
        raise DataError(
            f"{path}: {bad.height} rows cannot be read, the first at line {bad['line'][0]}: {bad['unreadable'][0]}"
        )
    return store.adjust(rows.select(*KEY, pl.col("price").alias("factor")))
