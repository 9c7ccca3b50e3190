"""Forecasts with their outcomes, one row for each (series, origin, step): what is scored and compared.

Comes in: arrays of a walk-forward or of a stream. Goes out: `Forecasts`. Knows numpy only; imported by
backtest, metrics, compare, figures and tracking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Rows of one model. Row k is the forecast for `target_time[k]` made with data up to `origin_time[k]`.

    Rows are sorted by (series, origin_time, step). Only rows whose outcome is known are held.

    Attributes
    ----------
    model : str
        Name of the model.
    names : tuple of str
        Names of the series; `series` indexes it.
    series : int32 [n]
    origin_time, target_time : int64 [n]
        Microseconds since 1970, UTC.
    step : int16 [n]
        Horizon step, 1 for the next observation.
    origin, actual : float64 [n]
        Prices at the origin and at the target.
    outcome : float64 [n]
        The actual on the transformed scale: log return or asinh difference from origin to target.
    quantile : float64 [n, Q]
        Price quantiles at `models.observation.LEVELS`.
    loc, scale, df : float64 [n]
        Student t on the transformed scale; df inf is the normal, NaN means that there is no density.
    center, unit : float64 [n]
        The transformed scale is asinh((price - center) / unit); NaN where it is that of log prices.
    """

    model: str
    names: tuple[str, ...]
    series: NDArray[np.int32]
    origin_time: NDArray[np.int64]
    target_time: NDArray[np.int64]
    step: NDArray[np.int16]
    origin: NDArray[np.float64]
    actual: NDArray[np.float64]
    outcome: NDArray[np.float64]
    quantile: NDArray[np.float64]
    loc: NDArray[np.float64]
    scale: NDArray[np.float64]
    df: NDArray[np.float64]
    center: NDArray[np.float64]
    unit: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.series)

    def where(self, rows: NDArray[np.bool_] | slice) -> Forecasts:
        """Take the rows where `rows` [n] is True, or those of a slice, which shares its memory."""
        arrays = {k: v[rows] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return Forecasts(model=self.model, names=self.names, **arrays)

    def of(self, name: str) -> Forecasts:
        """Take the rows of the series called `name`; they stand together, and share their memory with these."""
        number = self.names.index(name)
        start, stop = np.searchsorted(self.series, np.array([number, number + 1], self.series.dtype))
        return self.where(slice(start, stop))
