"""Walk a fitted forecaster forward: every origin in one stateful pass, nothing recomputed.

Legend: N series, T time, S horizon steps, Q quantile levels.

Comes in: a fitted forecaster, or the session of an exported one, and a panel. Goes out: `Forecasts`. Knows numpy
and torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError
from models.forecaster import Forecaster
from models.observation import Forecast, Observation, at, between
from models.transforms import Transform
from pipeline.forecasts import Forecasts
from pipeline.moves import observations, outcomes
from pipeline.session import Session
from pipeline.threads import cpu_threads
from pipeline.windows import Panel

CHUNK = 1024


def walk_forward(forecaster: Forecaster, panel: Panel, origins: NDArray[np.bool_]) -> Forecasts:
    """Forecast from every wanted origin, the state carried from the true start of each series.

    Row k is for `target_time[k]`, the step-th observation after `origin_time[k]`, and was made from prices up to
    and including `origin_time[k]`. Rows whose outcome is not known are left out.

    Parameters
    ----------
    forecaster : Forecaster
        Fitted; its parameter row i + 1 belongs to series i of the panel.
    panel : Panel
    origins : bool [N, T]
        Origins wanted, such as `split.origins(panel, "test", horizon)`.

    Raises
    ------
    DataError
        No wanted origin has an outcome.
    """
    with cpu_threads(1):
        passes = _torch_passes(forecaster, panel)
        return _collected(forecaster.name, forecaster.transform, forecaster.horizon, panel, origins, passes)


def walk_session_forward(
    session: Session, name: str, transform: Transform, panel: Panel, origins: NDArray[np.bool_]
) -> Forecasts:
    """Do the same with an exported file, as the stream would: what is served is what is judged.

    Series that the file does not know run on its pooled row.
    """
    return _collected(name, transform, session.metadata.horizon, panel, origins, _session_passes(session, panel))


def _collected(
    model: str,
    transform: Transform,
    horizon: int,
    panel: Panel,
    origins: NDArray[np.bool_],
    passes: Iterator[tuple[int, Forecast]],
) -> Forecasts:
    """Keep the wanted forecasts of a pass that have an outcome."""
    outcome = outcomes(panel, transform, horizon)[..., 0]
    wanted = origins[..., None] & np.isfinite(outcome)
    if not wanted.any():
        raise DataError(
            f"walk forward of {model}: expected origins with known outcomes, got none among "
            f"{int(origins.sum())} wanted. Give more data or a larger test split"
        )
    parts = [_rows(forecast, wanted[:, start : start + CHUNK], start) for start, forecast in passes]
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    order = np.lexsort((joined["step"], joined["time_index"], joined["series"]))
    return _forecasts(model, panel, {k: v[order] for k, v in joined.items()}, outcome)


@torch.no_grad()
def _torch_passes(forecaster: Forecaster, panel: Panel) -> Iterator[tuple[int, Forecast]]:
    """Carry the state over the panel, a stretch of time after another."""
    o = observations(panel, horizon=forecaster.horizon)
    state = forecaster.init_state(len(panel.names))
    for start in range(0, panel.price.shape[1], CHUNK):
        forecast, state = forecaster.forward(between(o, start, start + CHUNK), state)
        yield start, forecast


def _session_passes(session: Session, panel: Panel) -> Iterator[tuple[int, Forecast]]:
    """Carry the file's state over the panel; equal stretches to those of torch."""
    rows = session.rows(panel.names)
    state = session.initial(len(rows))
    o = observations(panel, horizon=session.metadata.horizon)
    time = panel.price.shape[1]
    for start in range(0, time, CHUNK):
        out = []
        for t in range(start, min(start + CHUNK, time)):
            now = at(o, t)
            arrays = {f: getattr(now, f).numpy() for f in ("price", "mask", "past", "future", "elapsed")}
            forecast, state = session.step(Observation(series=rows, **arrays), state)
            out.append(forecast)
        joined = {f: np.stack([getattr(x, f) for x in out], 1) for f in ("quantile", "loc", "scale", "df")}
        yield start, Forecast(**joined)


def _rows(forecast: Forecast, wanted: NDArray[np.bool_], start: int) -> dict[str, NDArray]:
    """Take the wanted (series, time, step) entries of a stretch."""
    series, time, step = np.nonzero(wanted)
    parts = (forecast.quantile, forecast.loc, forecast.scale, forecast.df)
    quantile, loc, scale, df = (np.asarray(x, dtype=np.float64) for x in parts)
    return {
        "series": series.astype(np.int32),
        "time_index": time + start,
        "step": (step + 1).astype(np.int16),
        "quantile": quantile[series, time, step, 0],
        "loc": loc[series, time, step, 0],
        "scale": scale[series, time, step, 0],
        "df": df[series, time],
    }


def _forecasts(model: str, panel: Panel, rows: dict[str, NDArray], outcome: NDArray[np.float64]) -> Forecasts:
    """Put the outcomes beside the forecasts."""
    series, origin, step = rows["series"], rows.pop("time_index"), rows["step"].astype(np.int64)
    return Forecasts(
        model=model,
        names=panel.names,
        origin_time=panel.time[series, origin],
        target_time=panel.time[series, origin + step],
        origin=panel.price[series, origin],
        actual=panel.price[series, origin + step],
        outcome=outcome[series, origin, step - 1],
        **rows,
    )
