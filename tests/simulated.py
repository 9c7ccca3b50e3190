"""Forecasts of simulated log returns whose true distribution is known; shared by the tests of evaluation."""

import numpy as np
from scipy import stats

from models.observation import LEVELS
from pipeline.forecasts import Forecasts

HOUR = 3_600_000_000
START = int(np.datetime64("2024-01-01T00:00:00", "us").astype(np.int64))


def forecast_returns(model, returns, *, loc=0.0, scale=1.0, df=np.inf, names=None):
    """Forecast each of `returns` [series, T], one step ahead, by loc + scale · t(df); all broadcast to [series, T]."""
    count, length = returns.shape
    path = 100 * np.exp(np.cumsum(np.pad(returns, ((0, 0), (1, 0))), axis=1))
    loc, scale, df = (np.broadcast_to(np.asarray(x, float), returns.shape).ravel() for x in (loc, scale, df))
    student = stats.t.ppf(np.array(LEVELS), np.where(np.isinf(df), 1e9, df)[:, None])
    origin_time = np.tile(START + HOUR * np.arange(length), count)
    return Forecasts(
        model=model,
        names=tuple(names or (f"S{i}" for i in range(count))),
        series=np.repeat(np.arange(count, dtype=np.int32), length),
        origin_time=origin_time,
        target_time=origin_time + HOUR,
        step=np.ones(count * length, dtype=np.int16),
        origin=path[:, :-1].ravel(),
        actual=path[:, 1:].ravel(),
        outcome=returns.ravel(),
        quantile=path[:, :-1].ravel()[:, None] * np.exp(loc[:, None] + scale[:, None] * student),
        loc=loc,
        scale=scale,
        df=df,
        center=np.full(count * length, np.nan),
        unit=np.full(count * length, np.nan),
    )


def stretch_steps(forecasts, steps):
    """Repeat every row as `steps` horizon steps, sorted as `Forecasts` asks."""
    rows = np.repeat(np.arange(len(forecasts)), steps)
    arrays = {k: v[rows] for k, v in vars(forecasts).items() if isinstance(v, np.ndarray)}
    step = np.tile(np.arange(1, steps + 1, dtype=np.int16), len(forecasts))
    arrays |= {"step": step, "target_time": arrays["origin_time"] + HOUR * step.astype(np.int64)}
    return Forecasts(model=forecasts.model, names=forecasts.names, **arrays)
