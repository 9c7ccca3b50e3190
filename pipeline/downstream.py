"""Downstream: what was made from prices that have since been revised.

Comes in: revised (series, time) and the data folder. Goes out: the models, forecasts and champions that saw the old
price, each with the reason and with the command that brings it up to date. Imported by steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from models import checkpoint
from pipeline import champions
from pipeline.clock import utc
from pipeline.rows import UTC_TIME


@dataclass(frozen=True, kw_only=True)
class Outdated:
    """One thing that was made from an old price: what, why, and what to run."""

    what: str
    why: str
    command: str


def outdated(folder: Path, revised: pl.DataFrame, champion: str, *, came: datetime | None = None) -> list[Outdated]:
    """List what in a data folder saw a price before it was revised.

    Parameters
    ----------
    folder : Path
        The data folder.
    revised : DataFrame
        Columns `series_id`, `time` and `available_time`, a row for each price that was revised: what was made before
        `available_time` saw the old one.
    champion : str
        Name of the champion.
    came : datetime, optional
        When the revisions came to the store; by default each when it was available.
    """
    if revised.is_empty():
        return []
    if came is not None:
        revised = revised.with_columns(available_time=pl.lit(came).cast(UTC_TIME))
    return [*_models(folder, revised), *_forecasts(folder, revised), *_champion(folder, revised, champion)]


def _models(folder: Path, revised: pl.DataFrame) -> Iterator[Outdated]:
    for path in sorted((folder / "models").glob("*.safetensors")):
        about = checkpoint.load(path)[1]
        cutoff = utc(about["split"]["validation_end_time"])
        if said := _seen(about["series"], _first(revised, path), cutoff):
            yield Outdated(what=f"model {path.stem}", why=said, command=f"statecast train {path.stem}")


def _champion(folder: Path, revised: pl.DataFrame, name: str) -> Iterator[Outdated]:
    pointer = folder / "champions" / f"{name}.json"
    if not pointer.exists():
        return
    metadata = champions.load(pointer.parent, name).metadata
    first = _first(revised, pointer.parent / champions.current(pointer.parent, name).file)
    if said := _seen(metadata.series, first, datetime.fromisoformat(metadata.cutoff_time)):
        version = champions.current(pointer.parent, name).version
        yield Outdated(what=f"{name} version {version}, which serves", why=said, command="statecast retrain")


def _first(revised: pl.DataFrame, made: Path) -> dict[str, datetime]:
    """Give the first revised moment of each series, of the revisions that a file cannot have seen."""
    since = datetime.fromtimestamp(made.stat().st_mtime, UTC)
    unseen = revised.filter(pl.col("available_time") > since)
    return dict(unseen.group_by("series_id").agg(pl.col("time").min()).iter_rows())


def _seen(series: Iterable[str], first: dict[str, datetime], cutoff: datetime) -> str | None:
    """Say which revised prices lie before the end of a fit; None where none does."""
    seen = [name for name in series if name in first and first[name] < cutoff]
    if not seen:
        return None
    others = f" and {len(seen) - 1} more series" if len(seen) > 1 else ""
    return f"fitted on data to {cutoff:%Y-%m-%d}; {seen[0]} changed from {first[seen[0]]:%Y-%m-%d} on{others}"


def _forecasts(folder: Path, revised: pl.DataFrame) -> Iterator[Outdated]:
    """Count forecasts whose outcome is at or after the first revised price of their series."""
    for path in sorted((folder / "forecasts").glob("*/walk.json")):
        first = _first(revised, path)
        changed = pl.LazyFrame({"series": list(first), "changed": list(first.values())}, schema=_CHANGED)
        rows = pl.scan_parquet(path.parent / "fold=*" / "*.parquet").select(_TOLD).join(changed, on="series")
        count = rows.filter(pl.col("target_time") >= pl.col("changed")).select(pl.len()).collect().item()
        if count:
            why = f"{count:,} forecasts reach the first revised price of their series"
            yield Outdated(
                what=f"forecasts of {path.parent.name}", why=why, command=f"statecast backtest {path.parent.name}"
            )


_TOLD = (pl.col("series").cast(pl.String), "target_time")
_CHANGED = {"series": pl.String, "changed": UTC_TIME}
