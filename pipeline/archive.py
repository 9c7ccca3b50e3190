"""Forecasts on disk: a folder a model, in it a folder a fold, in that a Parquet file a block; a row for each forecast.

    <folder>/fold=0000/part-00000.parquet ...

A fold is written beside its place and renamed when it is whole: a crash leaves whole folds only.

Comes in: `Forecasts`. Goes out: files, and `Forecasts` again. Knows polars; imported by steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from models.errors import DataError
from models.observation import LEVELS, MEDIAN
from pipeline.atomic import sync_folder
from pipeline.forecasts import Forecasts
from pipeline.rows import UTC_TIME

QUANTILES = tuple(f"q{level:g}" for level in LEVELS)
PLAIN = ("step", "origin", "actual", "outcome", "loc", "scale", "df", "center", "unit")
_TIMES = ("origin_time", "target_time")
_ORDER = ("series", "origin_time", "step")


def to_frame(forecasts: Forecasts) -> pl.DataFrame:
    """Give the rows as a table: model, series, times, step, prices, median, quantiles, density, scale.

    The type of the column of series lists all their names in their order, those without a row among them.
    """
    f = forecasts
    times = {k: pl.Series(getattr(f, k)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC") for k in _TIMES}
    return pl.DataFrame(
        {
            "model": pl.Series([f.model] * len(f), dtype=pl.Enum([f.model])),
            "series": pl.Series(np.asarray(f.names)[f.series], dtype=pl.Enum(f.names)),
            **times,
            "step": f.step,
            "origin": f.origin,
            "actual": f.actual,
            "outcome": f.outcome,
            "median": f.quantile[:, MEDIAN],
            **{name: f.quantile[:, k] for k, name in enumerate(QUANTILES)},
            **{k: getattr(f, k) for k in ("loc", "scale", "df", "center", "unit")},
        }
    )


@contextmanager
def writing(folder: Path, fold: int) -> Iterator[Callable[[Forecasts], None]]:
    """Give a function that writes one block of a fold; the fold is there when the context ends without an error."""
    place = _fold(folder, fold)
    new = folder / f".{place.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    parts = 0

    def write(rows: Forecasts) -> None:
        nonlocal parts
        with (new / f"part-{parts:05}.parquet").open("wb") as file:
            to_frame(rows).write_parquet(file)
            file.flush()
            os.fsync(file.fileno())
        parts += 1

    yield write
    sync_folder(new)
    os.replace(new, place)
    sync_folder(folder)


def holds(folder: Path, fold: int) -> bool:
    """Tell whether a fold is there."""
    return _fold(folder, fold).is_dir()


def numbers(folder: Path) -> list[int]:
    """List the folds that are there."""
    return sorted(int(place.name.removeprefix("fold=")) for place in folder.glob("fold=*"))


def drop(folder: Path, since: int) -> None:
    """Remove the folds from a number on, the last one first."""
    for fold in reversed([number for number in numbers(folder) if number >= since]):
        shutil.rmtree(_fold(folder, fold))


def blocks(folder: Path, fold: int) -> Iterator[Forecasts]:
    """Give the blocks of a fold as they were written, one after the other."""
    for part in sorted(_fold(folder, fold).glob("part-*.parquet")):
        yield _forecasts(pl.read_parquet(part))


def load(folder: Path, since: int = 0) -> Forecasts:
    """Read the folds of a model from a number on, sorted by (series, origin_time, step); series without a row go.

    Raises
    ------
    DataError
        The folder is missing, or holds no table of forecasts.
    """
    try:
        kept = [part for n in numbers(folder) if n >= since for part in sorted(_fold(folder, n).glob("part-*.parquet"))]
        scan = pl.scan_parquet(kept, hive_partitioning=False)
        frame = scan.sort(_ORDER).collect()
        present = tuple(frame["series"].unique().sort())
        if not present:
            raise pl.exceptions.NoDataError("a table without rows")
        return _forecasts(frame.with_columns(pl.col("series").cast(pl.Enum(present))))
    except (OSError, pl.exceptions.PolarsError, IndexError) as error:
        raise DataError(
            f"{folder}: expected a table of forecasts, got {error}. Run `statecast backtest` first"
        ) from error


def _fold(folder: Path, fold: int) -> Path:
    return folder / f"fold={fold:04}"


def _forecasts(frame: pl.DataFrame) -> Forecasts:
    (model,), names = (_names(frame.schema[k]) for k in ("model", "series"))
    return Forecasts(
        model=model,
        names=names,
        series=frame["series"].to_physical().cast(pl.Int32).to_numpy(),
        quantile=frame.select(QUANTILES).to_numpy(),
        **{k: frame[k].cast(UTC_TIME).to_physical().to_numpy() for k in _TIMES},
        **{k: frame[k].to_numpy() for k in PLAIN},
    )


def _names(dtype: pl.DataType) -> tuple[str, ...]:
    """Give the names that a column may hold, in their order."""
    if not isinstance(dtype, pl.Enum):
        raise pl.exceptions.SchemaError(f"a column of {dtype} where names are listed")
    return tuple(dtype.categories)
