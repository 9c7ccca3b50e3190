"""Forecasts on disk: one Parquet file a model, a row for each (series, origin, step).

Comes in: `Forecasts`. Goes out: files, and `Forecasts` again. Knows polars; imported by steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from models.errors import DataError
from models.observation import LEVELS
from pipeline.atomic import replacing
from pipeline.forecasts import Forecasts
from pipeline.rows import UTC_TIME

QUANTILES = tuple(f"q{level:g}" for level in LEVELS)
PLAIN = ("step", "origin", "actual", "outcome", "loc", "scale", "df")


def to_frame(forecasts: Forecasts) -> pl.DataFrame:
    """Give the rows as a table: model, series, origin_time, target_time, step, prices, quantiles, density."""
    f = forecasts
    times = {k: pl.Series(getattr(f, k)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC") for k in _TIMES}
    return pl.DataFrame(
        {
            "model": pl.Series([f.model]).new_from_index(0, len(f)),
            "series": np.asarray(f.names)[f.series],
            **times,
            **{k: getattr(f, k) for k in PLAIN},
            **{name: f.quantile[:, k] for k, name in enumerate(QUANTILES)},
        }
    )


_TIMES = ("origin_time", "target_time")


def save(forecasts: Forecasts, path: Path) -> None:
    """Write the rows; a crash leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        to_frame(forecasts).write_parquet(file)


def load(path: Path) -> Forecasts:
    """Read what `save` wrote.

    Raises
    ------
    DataError
        The file is missing or not a table of forecasts.
    """
    try:
        frame = pl.read_parquet(path)
        names = tuple(frame["series"].unique(maintain_order=True))
        row = {name: k for k, name in enumerate(names)}
        times = {k: frame[k].cast(UTC_TIME).to_physical().to_numpy() for k in _TIMES}
        return Forecasts(
            model=str(frame["model"][0]),
            names=names,
            series=frame["series"].replace_strict(row, return_dtype=pl.Int32).to_numpy(),
            quantile=frame.select(QUANTILES).to_numpy(),
            **times,
            **{k: frame[k].to_numpy() for k in PLAIN},
        )
    except (OSError, pl.exceptions.PolarsError, IndexError) as error:
        raise DataError(
            f"{path}: expected a table of forecasts, got {error}. Run `statecast backtest` first"
        ) from error
