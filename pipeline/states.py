"""The states of many series, and the step that moves them on: (state, events) -> (state, forecast).

Nothing else decides the result: no clock and no randomness enter, and the size of the micro-batches does not
change a bit (`Session.self_test` checks that of the runtime).

Legend: n ticks of a batch, a of them admitted as events, S horizon steps, M prices of a block, Q quantile levels.

Comes in: a session and events. Goes out: forecasts, and what each forecast was before its outcome came. Knows numpy
only; imported by stream_core, shadow and recovery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.observation import LEVELS, MEDIAN, Forecast, Observation
from pipeline.arena import Arena, Column
from pipeline.book import FIRST_US, LAST_US, NEVER
from pipeline.calendar_features import FEATURES, ahead, calendar
from pipeline.events import Events
from pipeline.metadata import Metadata
from pipeline.rounds import Rounds
from pipeline.rules import RuleConfig
from pipeline.session import GRAIN, Session
from pipeline.ticks import Layout, Reason

_QUARTILES = (LEVELS.index(0.25), LEVELS.index(0.75))
_NORMAL_QUARTILES = 1.349
"""Interquartile range of the standard normal."""

_HOUR_US = 3_600_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
    """What the events of a batch gave, in the order of arrival.

    Attributes
    ----------
    refused : uint8 [a]
        0, or the `Reason` why the event was not taken in after all.
    quantile : float64 [a, S, M, Q]
        Forecast made right after the event; its step s is for the s-th tick of that series after it.
    loc, scale : float32 [a, S, M]
    count : int64 [a]
        Ticks that the series has shown up to and with this one.
    before : tuple of float64 [a, M, Q], float32 [a, M], float32 [a, M], float64 [a, M]
        Quantiles, location and scale of the forecast that this event is the outcome of, and the price from which it was
        made; NaN at the first tick.
    row : int64 [a]
        Row of the per-series parameters.
    """

    refused: NDArray[np.uint8]
    quantile: NDArray[np.float64]
    loc: NDArray[np.float32]
    scale: NDArray[np.float32]
    count: NDArray[np.int64]
    before: tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]
    row: NDArray[np.int64]


class States:
    """The states of many series under one model.

    Parameters
    ----------
    session : Session
    layout : Layout
        What ticks hold.
    max_series : int
        Most series that are carried.

    Raises
    ------
    ModelError
        The model needs prices or covariates that ticks do not hold.
    """

    def __init__(self, session: Session, layout: Layout, max_series: int) -> None:
        check_servable(session.metadata, layout)
        self.session, self.layout = session, layout
        m = session.metadata
        self.arena = Arena(
            {
                "row": Column(dtype="int64"),
                "accepted": Column(dtype="int64", fresh=NEVER),
                "count": Column(dtype="int64"),
                "held": Column(dtype="float64", fresh=np.nan),
                "price": Column(dtype="float64", shape=(m.block,), fresh=np.nan),
                "quantile": Column(dtype="float64", shape=(m.horizon, m.block, len(LEVELS)), fresh=np.nan),
                "loc": Column(dtype="float32", shape=(m.block,), fresh=np.nan),
                "scale": Column(dtype="float32", shape=(m.block,), fresh=np.nan),
                **{f"state.{s.name}": Column(dtype=s.dtype, shape=s.shape, fresh=s.initial) for s in m.state},
            },
            max_series,
        )
        self._state = [s.name for s in m.state]
        self._priced = [f"state.{s.name}" for s in m.state if s.unit == "price"]

    def seat(self, names: list[str], first: int = 0) -> None:
        """Give rows to series: the first of them gets the row of slot `first`."""
        self.arena.seat(first + len(names))
        self.arena["row"][first : first + len(names)] = self.session.rows(names)

    def renew(self, slot: int, name: str) -> None:
        """Let a series begin again."""
        self.arena.clear(slot)
        self.arena["row"][slot] = self.session.rows([name])[0]

    def walk(self, events: Events, plan: Rounds, rules: RuleConfig | None = None) -> tuple[Walked, dict[str, NDArray]]:
        """Take the rounds one after the other. Nothing is changed: `keep` stores the rows that come back.

        Rounds are filled up to whole grains with rows that have no price, so that bits do not depend on how many
        series tick together.

        Parameters
        ----------
        events : Events
        plan : Rounds
            Their order.
        rules : RuleConfig, optional
            Judge events by what the series showed last; left out, `events.refused` stands.
        """
        ordered = events.take(plan.event)
        filled = -(-int(plan.width[0]) // GRAIN) * GRAIN
        slot = np.concatenate((plan.slot, np.repeat(plan.slot[:1], filled - len(plan.slot))))
        rows = {name: self.arena[name][slot] for name in self.arena.columns}
        pieces, start = [], 0
        for width in plan.width.tolist():
            together = ordered if width == len(ordered) else ordered.take(slice(start, start + width))
            pieces.append(self._round(together, rows, rules))
            start += width
        arrival = np.empty(len(plan.event), np.int64)
        arrival[plan.event] = np.arange(len(plan.event))
        return _joined(pieces, arrival), {name: x[: len(plan.slot)] for name, x in rows.items()}

    def keep(self, plan: Rounds, rows: dict[str, NDArray]) -> None:
        """Store the rows of a walk."""
        for name, x in rows.items():
            self.arena[name][plan.slot] = x

    def _round(self, events: Events, rows: dict[str, NDArray], rules: RuleConfig | None) -> Walked:
        """Take in one event of each of the first series of `rows`, which move on in place."""
        width = len(events)
        now = {name: x[:width] for name, x in rows.items()}
        refused = events.refused if rules is None else self._judge(events, now, rules)
        adjusted = ~np.isnan(events.factor)
        if adjusted.any():
            self._adjust(now, adjusted & (refused == 0), events.factor)
        before = now["quantile"][:, 0].copy(), now["loc"].copy(), now["scale"].copy(), now["price"].copy()
        taken = (refused == 0) & ~adjusted
        forecast = self._step(events, taken, rows)
        shown = refused == 0
        for name, given in (
            ("quantile", forecast.quantile),
            ("loc", forecast.loc[:, 0]),
            ("scale", forecast.scale[:, 0]),
        ):
            np.copyto(now[name], given[:width], where=_along(shown, given))
        np.copyto(now["accepted"], events.time, where=taken)
        now["count"] += taken
        np.copyto(now["price"], events.price, where=taken[:, None])
        np.copyto(now["held"], np.nan, where=taken)
        np.copyto(now["held"], events.price[:, 0], where=refused == Reason.JUMP)
        return Walked(
            refused=refused,
            quantile=forecast.quantile[:width],
            loc=forecast.loc[:width],
            scale=forecast.scale[:width],
            count=now["count"].copy(),
            before=before,
            row=now["row"],
        )

    def _step(self, events: Events, taken: NDArray[np.bool_], rows: dict[str, NDArray]) -> Forecast:
        """Call the model for one round; the rows' states move on in place."""
        m, width = self.session.metadata, len(events)
        filled = -(-width // GRAIN) * GRAIN
        gap = events.time - rows["accepted"][:width]
        moment = _filled(events.time, filled, 0)
        prices = _filled(np.where(taken[:, None], events.price, np.nan), filled, np.nan)
        observation = Observation(
            price=prices,
            mask=~np.isnan(prices),
            series=rows["row"][:filled],
            past=_columns(m.past, self.layout.past, calendar, events.past, moment),
            future=self._ahead(events.future, moment),
            elapsed=_filled(self._elapsed(gap), filled, 1.0),
        )
        state = {name: rows[f"state.{name}"][:filled] for name in self._state}
        forecast, following = self.session.step(observation, state)
        for name, x in following.items():
            rows[f"state.{name}"][:width] = x[:width]
        return forecast

    def _ahead(self, given: NDArray[np.float32], moment: NDArray[np.int64]) -> NDArray[np.float32]:
        """Lay out what is known ahead, [B, S, K]: given with the tick, or of the calendar."""
        m = self.session.metadata

        def of_calendar(names: tuple[str, ...], times: NDArray[np.int64]) -> NDArray[np.float32]:
            return ahead(names, times, m.bar_us or 0, m.horizon)

        return _columns(m.future, self.layout.future, of_calendar, given, moment, m.horizon)

    def _judge(self, events: Events, now: dict[str, NDArray], rules: RuleConfig) -> NDArray[np.uint8]:
        """Hold each tick against what its series showed last."""
        refused = events.refused.copy()
        tick = np.isnan(events.factor)
        m = self.session.metadata
        if rules.grid == "reject" and m.bar_us is not None:
            gap, unit = events.time - now["accepted"], min(m.bar_us, _HOUR_US)
            off = (gap % unit != 0) | ((2 * gap < m.bar_us) & (m.bar_us > _HOUR_US))
            refused[tick & off & (now["accepted"] != NEVER)] = Reason.OFF_GRID
        if not tick.all():
            refused[~tick & self._beyond(events, now)] = Reason.DOMAIN
        if rules.jump != "accept" and m.block == 1:
            price, next_step = events.price[:, 0], now["quantile"][:, 0, 0]
            reach = rules.jump_scales * (next_step[:, _QUARTILES[1]] - next_step[:, _QUARTILES[0]]) / _NORMAL_QUARTILES
            far = tick & (reach > 0) & (np.abs(price - next_step[:, MEDIAN]) > reach)
            if rules.jump == "hold":
                far &= ~(np.abs(price - now["held"]) <= reach)
            refused[far & (refused == 0)] = Reason.JUMP
        return refused

    def _beyond(self, events: Events, now: dict[str, NDArray]) -> NDArray[np.bool_]:
        """Find adjustments that would carry a last price out of the model's domain, whence no state comes back."""
        lower, upper = self.session.metadata.domain
        with np.errstate(over="ignore"):
            price = now["price"] * events.factor[:, None]
        return np.asarray(((price <= lower) | (price >= upper)).any(1))

    def _adjust(self, now: dict[str, NDArray], which: NDArray[np.bool_], factor: NDArray[np.float64]) -> None:
        """Multiply all that is carried in units of the price."""
        for name in (*self._priced, "held", "price"):
            x = now[name]
            x[which] = (x[which] * _along(factor[which], x)).astype(x.dtype)

    def _elapsed(self, gap: NDArray[np.int64]) -> NDArray[np.float32]:
        """Turn gaps in microseconds into bars; 1 at the first tick of a series."""
        bar = self.session.metadata.bar_us
        return np.where(gap > LAST_US - FIRST_US, 1.0, gap / bar if bar else 1.0).astype(np.float32)


def _columns(
    names: tuple[str, ...],
    given_names: tuple[str, ...],
    of_calendar: Callable[[tuple[str, ...], NDArray[np.int64]], NDArray[np.float32]],
    given: NDArray[np.float32],
    moment: NDArray[np.int64],
    *around: int,
) -> NDArray[np.float32]:
    """Lay covariates out for the model, [B, ..., names]: each of the calendar, or as it came with the tick."""
    if not names:
        return np.empty((len(moment), *around, 0), np.float32)
    if not any(name in given_names for name in names):
        return of_calendar(names, moment)
    columns = np.zeros((len(moment), *around, len(names)), np.float32)
    for k, name in enumerate(names):
        if name in given_names:
            columns[: len(given), ..., k] = given[..., given_names.index(name)]
        else:
            columns[..., k] = of_calendar((name,), moment)[..., 0]
    return columns


def _along(x: NDArray, rows: NDArray) -> NDArray:
    """Give values [B] axes of length 1, to go with rows [B, ...]."""
    return x.reshape(-1, *[1] * (rows.ndim - 1))


def _filled(x: NDArray, length: int, blank: float) -> NDArray:
    """Fill an array up to a length of rows."""
    if len(x) == length:
        return x
    return np.concatenate((x, np.full((length - len(x), *x.shape[1:]), blank, x.dtype)))


def _joined(pieces: list[Walked], arrival: NDArray[np.int64]) -> Walked:
    """Put the rounds together, in the order of arrival."""

    def whole(parts: list[NDArray]) -> NDArray:
        return np.concatenate(parts)[arrival] if len(parts) > 1 else parts[0][arrival]

    single = {
        name: whole([getattr(p, name) for p in pieces])
        for name in ("refused", "quantile", "loc", "scale", "count", "row")
    }
    quantile, loc, scale, price = (whole([p.before[k] for p in pieces]) for k in range(4))
    return Walked(**single, before=(quantile, loc, scale, price))


def check_servable(m: Metadata, layout: Layout) -> None:
    """Refuse a model that needs more than a tick of this layout has.

    Raises
    ------
    ModelError
        Which names what is missing.
    """
    beside = [
        name
        for names, given in ((m.past, layout.past), (m.future, layout.future))
        for name in names
        if name not in FEATURES and name not in given
    ]
    if m.task != "forecast" or m.block != layout.block or beside:
        needs = "to classify" if m.task != "forecast" else ", ".join(beside) or f"{m.block} prices at once"
        raise ModelError(
            f"model {m.name} needs {needs}; a tick here has {layout.block} price(s), a time, and the covariates "
            f"{', '.join((*layout.past, *layout.future)) or 'none'}. Serve another model, or begin a journal with it"
        )
    if set(m.future) - set(FEATURES) and m.horizon != layout.horizon:
        raise ModelError(
            f"model {m.name} reads covariates {m.horizon} steps ahead; ticks here hold {layout.horizon}. Begin a new "
            "journal with it"
        )
    counts = {"elapsed bars": "elapsed" in m.inputs, f"{', '.join(m.future)} some bars ahead": bool(m.future)}
    if m.bar_us is None and (reads := [what for what, read in counts.items() if read]):
        raise ModelError(
            f"model {m.name} reads {' and '.join(reads)} but has grid {m.grid!r}: its bars have no length. Export it "
            "with a bar grid"
        )


def layout_of(m: Metadata) -> Layout:
    """Give what a tick must hold for a model."""
    past, future = (tuple(n for n in names if n not in FEATURES) for names in (m.past, m.future))
    return Layout(block=m.block, horizon=m.horizon if future else 1, past=past, future=future)
