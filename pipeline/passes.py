"""One stateful pass over a panel: a forecaster, or the file it was exported to, carried from the true start of series.

Legend: N series, T time, L longest stretch of a series, S horizon steps, M prices of one moment.

Comes in: a fitted forecaster or a session, a panel and the origins that are wanted. Goes out: `Forecasts`, stretch by
stretch. Knows numpy and torch; imported by backtest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.forecaster import Forecaster
from models.observation import Forecast, Observation, State
from models.transforms import Transform
from pipeline.carried import Carried
from pipeline.forecasts import Forecasts
from pipeline.moves import counts, observations, observed_by
from pipeline.sequences import engines, running
from pipeline.session import Session
from pipeline.threads import cpu_threads
from pipeline.windows import Panel

CHUNK = 1024
"""Most observations of a series that are carried at once: what bounds the memory of a walk."""

BEGINNING, FOREVER = (int(x) for x in (np.iinfo(np.int64).min, np.iinfo(np.int64).max))
"""Moments before and after all others."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Something that can be carried over a panel: a forecaster in torch, or an exported file in its session.

    Attributes
    ----------
    name : str
        Under which its rows are kept.
    transform : Transform
        Scale of the outcomes.
    horizon : int
    observations : Observation
        The panel as it reads it, [N, T, ...].
    initial : State
        Of N series that have shown nothing yet.
    forward : function
        From observations [N, L, ...] and a state to forecasts with a time axis and the next state.
    """

    name: str
    transform: Transform
    horizon: int
    observations: Observation
    initial: State
    forward: Callable[[Observation, State], tuple[Forecast, State]]


def in_torch(forecaster: Forecaster, panel: Panel) -> Runner:
    """Run a fitted forecaster; its parameter row i + 1 belongs to series i of the panel.

    Its recurrent layers run in the runtime that serves them, the rest in torch.
    """
    fused = engines(forecaster)

    @torch.no_grad()
    def forward(o: Observation, state: State) -> tuple[Forecast, State]:
        with cpu_threads(1), running(fused):
            return forecaster.forward(o, state)

    return Runner(
        name=forecaster.name,
        transform=forecaster.transform,
        horizon=forecaster.horizon,
        observations=observed_by(forecaster, panel),
        initial=forecaster.init_state(len(panel.names)),
        forward=forward,
    )


def in_session(session: Session, name: str, transform: Transform, panel: Panel) -> Runner:
    """Run an exported file; series that it does not know run on its pooled row."""

    def forward(o: Observation, state: State) -> tuple[Forecast, State]:
        desk = Carried(session, panel.names, state)
        given = {"price": o.price.where(o.mask, torch.nan), "elapsed": o.elapsed}
        given |= {f: x for f in ("past", "future") if (x := getattr(o, f)).numel()}
        arrays = {f: np.moveaxis(x.numpy(), 1, 0) for f, x in given.items()}
        out = [desk.step(**dict(zip(arrays, moment, strict=True))) for moment in zip(*arrays.values(), strict=True)]
        joined = {f: np.stack([getattr(x, f) for x in out], 1) for f in ("quantile", "loc", "scale", "df")}
        return Forecast(**joined), desk.state

    m = session.metadata
    return Runner(
        name=name,
        transform=transform,
        horizon=m.horizon,
        observations=observations(panel, horizon=m.horizon, past=m.past, future=m.future),
        initial=session.initial(len(panel.names)),
        forward=forward,
    )


def served(runner: Runner, panel: Panel, origins: NDArray[np.bool_], start: int) -> Iterator[tuple[int, Forecasts]]:
    """Warm the state over all prices before a moment, then give the rows of the wanted origins from it on.

    One pass from the true start of each series; the value at origin i, step s is for observation i + s.
    """
    state = runner.initial
    for stretch in stretches(panel, BEGINNING, start):
        if stretch.column.size:
            _, state = runner.forward(stretch.of(runner.observations), state)
    known = counts(panel, runner.transform)
    for stretch in stretches(panel, start, FOREVER):
        forecast, state = runner.forward(stretch.of(runner.observations), state)
        yield stretch.end, _rows(runner, panel, known, stretch, stretch.take(origins), forecast)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A piece of calendar time: of each series the observations in it, at most `CHUNK`.

    Attributes
    ----------
    column : int64 [N, L]
        Index of each observation in the panel; beyond the last one of a series it repeats.
    inside : bool [N, L]
        False where it repeats.
    end : int
        First moment after it (microseconds since 1970, UTC).
    """

    column: NDArray[np.int64]
    inside: NDArray[np.bool_]
    end: int

    def take(self, x: NDArray) -> NDArray:
        """Take [N, T, ...] to [N, L, ...]."""
        return x[np.arange(len(x))[:, None], self.column]

    @cpu_threads(1)
    def of(self, o: Observation) -> Observation:
        """Take the observations; what repeats is a hole, which leaves the state as it is."""
        row, column = torch.arange(len(self.column))[:, None], torch.from_numpy(self.column)
        taken = {f: getattr(o, f)[row, column] for f in ("price", "past", "future", "elapsed")}
        mask = o.mask[row, column] & torch.from_numpy(self.inside)[..., None]
        return Observation(series=o.series, mask=mask, **taken)


def stretches(panel: Panel, begin: int, end: int) -> Iterator[Stretch]:
    """Cut the calendar from a moment up to another into stretches, as long as `CHUNK` observations a series allow."""
    low, last = _index(panel, begin), _index(panel, end)
    while True:
        longer = np.flatnonzero(last - low > CHUNK)
        edge = int(min((panel.time[n, low[n] + CHUNK] for n in longer), default=end))
        high = _index(panel, edge)
        column = low[:, None] + np.arange((high - low).max())
        inside = column < high[:, None]
        yield Stretch(column=np.minimum(column, np.maximum(high - 1, 0)[:, None]), inside=inside, end=edge)
        if edge == end:
            return
        low = high


def _index(panel: Panel, time: int) -> NDArray[np.int64]:
    """Count the observations of each series before a moment, [N]."""
    return np.array([np.searchsorted(row[:n], time) for row, n in zip(panel.time, panel.length, strict=True)])


def _rows(
    runner: Runner,
    panel: Panel,
    known: NDArray[np.bool_],
    stretch: Stretch,
    wanted: NDArray[np.bool_],
    forecast: Forecast,
) -> Forecasts:
    """Take the wanted origins [N, L] of a stretch, and put the outcomes that count, `known`, beside the forecasts.

    A block of M prices has M rows a step: row (s - 1)·M + m + 1 is for price m of the s-th block after the origin.
    """
    series, place = np.nonzero(wanted & stretch.inside)
    column = stretch.column[series, place]
    target = column[:, None] + np.arange(1, runner.horizon + 1)
    there = target < panel.length[series][:, None]
    target = np.where(there, target, 0)
    of = series[:, None]
    k, step, m = np.nonzero(known[of, column[:, None]] & there[..., None] & known[of, target])
    n, t, at_target = series[k], place[k], (series[k], target[k, step], m)
    origin, actual = panel.price[n, column[k], m], panel.price[at_target]
    quantile, loc, scale = (np.asarray(x)[n, t, step, m] for x in (forecast.quantile, forecast.loc, forecast.scale))
    density = {"loc": loc, "scale": scale, "df": np.asarray(forecast.df)[n, t]}
    center, unit = runner.transform.constants(n + 1)
    return Forecasts(
        model=runner.name,
        names=panel.names,
        series=n.astype(np.int32),
        origin_time=panel.time[n, column[k]],
        target_time=panel.price_time[at_target],
        step=(step * panel.block + m + 1).astype(np.int16),
        origin=origin,
        actual=actual,
        outcome=moves(runner.transform, origin, actual, n),
        quantile=quantile.astype(np.float64),
        **{name: x.astype(np.float64) for name, x in density.items()},
        center=center,
        unit=unit,
    )


def moves(
    transform: Transform, origin: NDArray[np.float64], actual: NDArray[np.float64], series: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Give the moves [n] from origins to actuals on the transformed scale."""
    price, last = (torch.from_numpy(x)[:, None] for x in (actual, origin))
    return transform.difference(price, last, torch.from_numpy(series + 1)).numpy()[:, 0]
