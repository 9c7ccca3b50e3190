"""Scenarios: paths of stored series from the served file, and what they say of the horizon.

Paths begin at the last price of each series, in a state

    now        carried over all stored prices, as a stream that starts warm has it
    nothing    of a series that has shown nothing yet
    a regime   calm, usual or wild: for each path the state at a moment of the series' own past in that regime, drawn
               from the moments before the model's cut-off (`slices.regimes`)

Legend: N series, n paths a series, H steps, T time, M prices of one moment (1).

Comes in: a session and a price store. Goes out: `Scenarios`: paths, an outlook a series, a table, a picture. Knows
polars; imported by the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.errors import ConfigError, DataError, ModelError, unknown
from models.observation import LEVELS, Forecast, Observation, State, at
from models.sampling import Beside, Floats, Stepper, check_numbers, sample_paths, stream
from pipeline import figures
from pipeline.atomic import replacing
from pipeline.calendar_features import MARK, ahead, calendar
from pipeline.clock import utc
from pipeline.moves import observations
from pipeline.prices import PriceStore
from pipeline.session import GRAIN, Session
from pipeline.slices import NAMES, regimes
from pipeline.windows import Panel, panel

STARTS = ("now", "nothing", *NAMES.tolist())
"""States in which paths can begin."""

ROWS = 8192
"""Most paths that are stepped together: what bounds the memory of states."""

RISK = 0.05
"""Level of the value at risk: so many paths lose more."""

DRAWN = 6
"""Most series of a picture."""

_WRITERS: dict[str, Callable[[pl.DataFrame, Any], Any]] = {
    ".csv": pl.DataFrame.write_csv,
    ".parquet": pl.DataFrame.write_parquet,
}


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the paths of one series say, in price units.

    Attributes
    ----------
    series : str
    origin_time : datetime
        Of the last price, UTC.
    last : float
        That price.
    quantiles : dict of float
        Of the price after H steps, by level.
    above : float
        Share of paths that end above the last price, 0 to 1.
    drawdown : float
        Mean over the paths of the largest fall from a high, the last price among the highs.
    value_at_risk : float
        Loss after H steps that a share `RISK` of paths exceeds: last price less that quantile of the end.
    """

    series: str
    origin_time: datetime
    last: float
    quantiles: dict[float, float]
    above: float
    drawdown: float
    value_at_risk: float


@dataclass(frozen=True, kw_only=True)
class Scenarios:
    """Sampled futures of N series.

    Attributes
    ----------
    model, start : str
        Whose paths, and from which of `STARTS`.
    names : tuple of str
    origin_time : int64 [N]
        Microseconds since 1970, UTC, of the last prices.
    past : list of float64
        Prices of each series up to and including the last one.
    paths : float64 [N, n, H]
        Element [i, k, h - 1] is for the h-th observation after `origin_time[i]`, made from data up to and including it.
    """

    model: str
    start: str
    names: tuple[str, ...]
    origin_time: NDArray[np.int64]
    past: list[Floats]
    paths: Floats

    def outlooks(self) -> list[Outlook]:
        """Sum up the paths of each series."""
        return [
            outlook(name, int(time), past[-1], paths)
            for name, time, past, paths in zip(self.names, self.origin_time, self.past, self.paths, strict=True)
        ]

    def frame(self) -> pl.DataFrame:
        """Give every price of every path: `series_id`, `origin_time`, `path`, `step` (both from 1) and `price`."""
        series, path, step = (x.ravel() for x in np.indices(self.paths.shape))
        time = pl.Series(self.origin_time).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame(
            {
                "series_id": pl.Series(self.names).gather(series),
                "origin_time": time.gather(series),
                "path": path + 1,
                "step": step + 1,
                "price": self.paths.ravel(),
            }
        )

    def save(self, path: Path) -> Path:
        """Write every path to a file in the format of its suffix, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            _WRITERS[path.suffix](self.frame(), file)
        return path

    def plot(self, path: Path) -> Path:
        """Draw the fans of the first `DRAWN` series."""
        title = f"{self.paths.shape[1]:,} paths of {self.model} from {self.start}"
        figure = figures.path_fans(title, self.names[:DRAWN], self.past[:DRAWN], self.paths[:DRAWN])
        return figures.save(figure, path)


def outlook(name: str, time: int, last: float, paths: Floats) -> Outlook:
    """Sum up the paths [n, H] of one series that begin at a price."""
    end, whole = paths[:, -1], np.concatenate([np.full((len(paths), 1), last), paths], axis=1)
    fall = np.maximum.accumulate(whole, axis=1) - whole
    return Outlook(
        series=name,
        origin_time=utc(time),
        last=float(last),
        quantiles=dict(zip(LEVELS, np.quantile(end, LEVELS).tolist(), strict=True)),
        above=float(np.mean(end > last)),
        drawdown=float(fall.max(axis=1).mean()),
        value_at_risk=float(last - np.quantile(end, RISK)),
    )


def check_out(path: Path | None) -> None:
    """Refuse a file for paths whose suffix names no format, before anything is computed."""
    if path is not None and path.suffix not in _WRITERS:
        raise ConfigError(f"--out {path}: {unknown('format of paths', path.suffix, _WRITERS)}")


def scenarios(
    session: Session,
    store: PriceStore,
    series: Sequence[str] | None = None,
    *,
    steps: int = 24,
    paths: int = 500,
    temperature: float = 1.0,
    seed: int = 0,
    start: str = "now",
) -> Scenarios:
    """Draw paths of stored series, see `models.sampling.sample_paths`.

    Parameters
    ----------
    session : Session
        The served file.
    store : PriceStore
    series : sequence of str, optional
        All of the store by default.
    steps, paths : int
        H and n.
    temperature : float
    seed : int
    start : str
        One of `STARTS`.

    Raises
    ------
    ConfigError
        A number is outside its range, or the start is unknown.
    DataError
        A series is not in the store, has no price, or was never in that regime before the model's cut-off.
    ModelError
        The model reads covariates of which the future is not known, or blocks of prices.
    """
    check_numbers(paths, steps, temperature, seed)
    _refuse(session, start)
    prices = _read(store, series)
    seen = observations(prices, horizon=session.metadata.horizon, **_covariates(session))
    price, mask = seen.price[..., 0].numpy(), seen.mask[..., 0].numpy()
    latest = _latest(prices, mask)
    if start == "now":
        state = states_at(session, prices, latest[:, None])
    elif start == "nothing":
        state = session.initial(len(latest))
    else:
        state = states_at(session, prices, _moments(session, prices, start, paths, seed))
    row = np.arange(len(latest))
    time = prices.time[row, latest]
    options = {"n": paths, "horizon": steps, "temperature": temperature, "seed": seed}
    drawn = _sampled(session, prices, state, price[row, latest, None], time, options)
    past = [p[: k + 1][m[: k + 1]] for p, m, k in zip(price, mask, latest, strict=True)]
    return Scenarios(
        model=session.metadata.name, start=start, names=prices.names, origin_time=time, past=past, paths=drawn
    )


def stepper(session: Session) -> Stepper:
    """Step a file in whole grains, so that a path keeps its bits whatever others travel with it."""

    def step(observation: Observation, state: State) -> tuple[Forecast, State]:
        count = len(observation.series)
        rows = np.arange(-(-count // GRAIN) * GRAIN) % count
        fields = {name: getattr(observation, name)[rows] for name in Observation.__dataclass_fields__}
        forecast, following = session.step(Observation(**fields), {name: x[rows] for name, x in state.items()})
        kept = {name: getattr(forecast, name)[:count] for name in Forecast.__dataclass_fields__}
        return Forecast(**kept), {name: x[:count] for name, x in following.items()}

    m = session.metadata
    return Stepper(
        name=m.name,
        step=step,
        initial=session.initial,
        transform=m.transform,
        block=m.block,
        horizon=m.horizon,
        past_names=m.past,
        future_names=m.future,
    )


def states_at(session: Session, prices: Panel, column: NDArray[np.int64]) -> State:
    """Carry a file over a panel once, from the true start of each series, and keep the states that are asked for.

    Parameters
    ----------
    session : Session
    prices : Panel
        Of N series.
    column : int64 [N, k]
        Observations of each series.

    Returns
    -------
    State
        Of N·k rows, series by series: the state after that observation, made from prices up to and including it.
    """
    m = session.metadata
    seen = observations(prices, horizon=m.horizon, **_covariates(session))
    fields = {name: getattr(seen, name).numpy() for name in ("price", "mask", "past", "future", "elapsed")}
    many = Observation(series=session.rows(prices.names), **fields)
    step, state = stepper(session).step, session.initial(len(prices.names))
    kept = session.initial(column.size)
    for t in range(column.max() + 1):
        _, state = step(at(many, t), state)
        series, k = np.nonzero(column == t)
        for name, x in state.items():
            kept[name][series * column.shape[1] + k] = x[series]
    return kept


def _refuse(session: Session, start: str) -> None:
    """Refuse what cannot be sampled before any price is read."""
    m = session.metadata
    if start not in STARTS:
        raise ConfigError(f"--from: {unknown('start', start, STARTS)}")
    if beside := [name for name in (*m.past, *m.future) if not name.startswith(MARK)]:
        raise ModelError(
            f"model {m.name} needs {', '.join(beside)}, whose future nobody knows here; paths are of models that read "
            "prices and the calendar only. Name another file with --model, or fit one without these covariates"
        )
    if m.block != 1:
        raise ModelError(
            f"model {m.name} takes {m.block} prices at once; paths are drawn of single prices here. Name a file of a "
            "model of single prices with --model, or fit one with block = 1"
        )


def _covariates(session: Session) -> dict[str, Any]:
    return {"past": session.metadata.past, "future": session.metadata.future}


def _read(store: PriceStore, series: Sequence[str] | None) -> Panel:
    """Read the panel of the chosen series, in the order of their names."""
    frame = store.read(tuple(series) if series else None)
    if frame.is_empty():
        raise DataError(f"{store.folder}: expected prices, got none. Run `statecast ingest` first")
    return panel(frame["series_id"].to_numpy(), frame["time"].to_physical().to_numpy(), frame["price"].to_numpy())


def _latest(prices: Panel, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give the column of the last published price of each series, [N]."""
    if not mask.any(axis=1).all():
        bare = prices.names[int(np.argmin(mask.any(axis=1)))]
        raise DataError(f"{bare}: expected a published price to begin at, got holes only. Leave the series out")
    return mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)


def _moments(session: Session, prices: Panel, label: str, n: int, seed: int) -> NDArray[np.int64]:
    """Draw for each path a column at which its series was in a regime, before the cut-off, [N, n]."""
    until = round(datetime.fromisoformat(session.metadata.cutoff_time).timestamp() * 1e6)
    known = regimes(prices, until)
    column = np.empty((len(prices.names), n), np.int64)
    for row, name in enumerate(prices.names):
        time = known.time[name][(known.label[name] == label) & (known.time[name] < until)]
        if not len(time):
            raise DataError(
                f"{name} was never {label} before the cut-off of the model, {session.metadata.cutoff_time}. Begin "
                "from another regime, or from now"
            )
        rng = np.random.default_rng(stream(seed, name).spawn(1)[0])
        drawn = time[rng.integers(len(time), size=n)]
        column[row] = np.searchsorted(prices.time[row, : prices.length[row]], drawn)
    return column


def _sampled(
    session: Session, prices: Panel, state: State, price: Floats, time: NDArray[np.int64], options: dict[str, Any]
) -> Floats:
    """Sample some series after others, as many together as `ROWS` allow: [N, n, H]."""
    model, rows = stepper(session), session.rows(prices.names)
    each = len(next(iter(state.values()))) // len(rows)
    many, out = max(1, ROWS // options["n"]), []
    for first in range(0, len(rows), many):
        now = slice(first, first + many)
        part = {name: x[first * each : (first + many) * each] for name, x in state.items()}
        beside = _calendar(session, time[now], prices.bar[now])
        given = {"names": prices.names[now], "series": rows[now], "beside": beside}
        out.append(sample_paths(model, part, price[now], **given, **options)[..., 0])
    return np.concatenate(out)


def _calendar(session: Session, time: NDArray[np.int64], bar: NDArray[np.int64]) -> Beside:
    """Compute the calendar along the horizon: the h-th observation after a time is taken to be h bars later."""
    m = session.metadata
    return lambda h: (calendar(m.past, time + h * bar), ahead(m.future, time + h * bar, bar, m.horizon))
