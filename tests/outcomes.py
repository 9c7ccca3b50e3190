"""Forecasts that wait for their outcomes, and what came, for tests of live scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.core import student_quantiles
from pipeline.forecasts import Forecasts
from pipeline.metadata import Metadata
from pipeline.scoring import COLUMNS, Scores, Waiting

Vector = NDArray[np.float64]


def constants(model: Metadata, row: NDArray[np.int64]) -> tuple[Vector, Vector]:
    """Give center and unit [a] of rows of parameters; NaN for the logarithm."""
    if model.transform["kind"] == "log":
        none = np.full(len(row), np.nan)
        return none, none
    return np.array(model.transform["center"])[row], np.array(model.transform["unit"])[row]


def price_at(model: Metadata, row: NDArray[np.int64], last: Vector, move: Vector) -> Vector:
    """Give the prices that lie `move` [a, ...] above `last` [a] on the transformed scale."""
    wide = (slice(None), *[None] * (move.ndim - 1))
    if model.transform["kind"] == "log":
        return last[wide] * np.exp(move)
    center, unit = (x[wide] for x in constants(model, row))
    return center + unit * np.sinh(np.arcsinh((last[wide] - center) / unit) + move)


def waiting(rng: np.random.Generator, model: Metadata, row: NDArray[np.int64], last: Vector) -> Waiting:
    """Draw forecasts of a model from last prices [a]; where there is no density the quantiles are those of a t(4)."""
    loc = (rng.normal(size=len(row)) * 0.002).astype(np.float32)
    scale = rng.uniform(0.005, 0.02, len(row)).astype(np.float32)
    df = np.resize(model.df, 1 + len(model.series))[row]
    around = student_quantiles(np.where(np.isnan(df), 4.0, df)) * scale[:, None] + loc[:, None]
    quantile = price_at(model, row, last, around)
    return Waiting(row=row, loc=loc[:, None], scale=scale[:, None], quantile=quantile[:, None])


def as_forecasts(model: Metadata, given: Waiting, price: Vector, last: Vector) -> Forecasts:
    """Lay outcomes [a] out as a backtest does."""
    center, unit = constants(model, given.row)
    log = np.isnan(unit)
    move = (
        np.log(price / last) if log.all() else np.arcsinh((price - center) / unit) - np.arcsinh((last - center) / unit)
    )
    return Forecasts(
        model=model.name,
        names=("A",),
        series=np.zeros(len(price), np.int32),
        origin_time=np.arange(len(price)),
        target_time=np.arange(len(price)) + 1,
        step=np.ones(len(price), np.int16),
        origin=last,
        actual=price,
        outcome=move,
        quantile=given.quantile[:, 0],
        loc=given.loc[:, 0].astype(np.float64),
        scale=given.scale[:, 0].astype(np.float64),
        df=np.resize(np.asarray(model.df, np.float32), 1 + len(model.series))[given.row].astype(np.float64),
        center=center,
        unit=unit,
    )


def rows_of(given: Waiting, rows: slice | NDArray[np.int64]) -> Waiting:
    """Take some of the forecasts."""
    taken = {name: getattr(given, name)[rows] for name in ("row", "loc", "scale", "quantile")}
    return replace(given, **taken)


def scores(rng: np.random.Generator, count: int, models: int = 2, answered: float = 1.0) -> Scores:
    """Draw scores of which a share counts."""
    value = rng.normal(size=(count, models, len(COLUMNS))) ** 2
    missing = rng.random((count, models)) > answered
    value[missing] = np.nan
    return Scores(value=value, pit=rng.random((count, models)), counted=~missing.any(axis=1), missing=missing)


def part_of(given: Scores, rows: slice) -> Scores:
    """Take some of the scores."""
    return Scores(
        value=given.value[rows], pit=given.pit[rows], counted=given.counted[rows], missing=given.missing[rows]
    )


def in_pieces(count: int, cuts: list[int], take: Callable[[slice], Any]) -> list[Any]:
    """Call for each piece of `count` rows, cut at these places."""
    edges = [0, *sorted(min(c, count) for c in cuts), count]
    return [take(slice(a, b)) for a, b in pairwise(edges)]
