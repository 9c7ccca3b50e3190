"""A few series stepped in a process of one's own, their states held where the runtime reads and writes them.

    desk = Carried(Session.load(path), ["AAPL", "KO"])
    forecast = desk.step([190.1, 61.2])

`Session.step` takes a state and gives the next one, arrays that go in and come out; for one series that is half of the
time of a step. Here there are two sets of states, and each step reads one and writes the other. Forecasts are those of
`Session.step` to the bit; a stream, which steps rows in whole grains, may differ from both in the last digits.

Legend: B series, M prices published at once, S horizon steps, K and P covariates.

Comes in: a session, names of series, prices. Goes out: forecasts. Knows numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import ModelError
from models.observation import Forecast, State
from pipeline.session import Session


class Carried:
    """The states of B series under one file that forecasts.

    Parameters
    ----------
    session : Session
    names : iterable of str
        The series, in the order in which their prices will come. Those that the fit never saw run on the pooled row.
    state : State, optional
        Where to go on, as `state` of another one gave it; left out, the series have shown nothing yet.

    Raises
    ------
    ModelError
        When the file classifies, there is no series, or the state is not one of these series under this file.
    """

    def __init__(self, session: Session, names: Iterable[str], state: Mapping[str, ArrayLike] | None = None) -> None:
        if session.metadata.task != "forecast":
            raise ModelError(
                f"{session.metadata.name}: expected a file that forecasts prices, got one that labels moments"
            )
        self.names = tuple(names)
        if not self.names:
            raise ModelError("expected at least one series to carry, got none")
        m, rows = session.metadata, session.rows(self.names)
        batch, around = len(rows), (len(rows), m.horizon, m.block)
        self._given = {
            "price": np.zeros((batch, m.block)),
            "mask": np.zeros((batch, m.block), np.bool_),
            "series": rows,
            "past": np.zeros((batch, len(m.past)), np.float32),
            "future": np.zeros((batch, m.horizon, len(m.future)), np.float32),
            "elapsed": np.ones(batch, np.float32),
        }
        self._reads = bool(m.past or m.future)
        self._made = {
            "quantile": np.zeros((*around, len(m.levels))),
            "loc": np.zeros(around, np.float32),
            "scale": np.zeros(around, np.float32),
        }
        self._df = session.df(rows)
        self._df.flags.writeable = False
        before, after = session.initial(batch), session.initial(batch)
        self._states = (before, after)
        self._steps = tuple(self._bound(session, *pair) for pair in ((before, after), (after, before)))
        self._now = 0
        if state is not None:
            self._take(state)

    def _bound(self, session: Session, before: State, after: State) -> Callable[[], None]:
        """Give the step from one set of states to the other."""
        feeds = {name: self._given[name] for name in session.metadata.inputs}
        feeds |= {f"state.{name}": x for name, x in before.items()}
        return session.bound(feeds, self._made | {f"next.{name}": x for name, x in after.items()})

    def _take(self, state: Mapping[str, ArrayLike]) -> None:
        """Copy a state in."""
        held = self._states[self._now]
        if state.keys() != held.keys():
            raise ModelError(f"state: expected the tensors {sorted(held)}, got {sorted(state)}")
        for name, x in state.items():
            _fill(f"state {name}", held[name], x)

    @property
    def state(self) -> State:
        """The state after the last step, copied: to be kept, or to go on from elsewhere."""
        return {name: x.copy() for name, x in self._states[self._now].items()}

    def step(
        self,
        price: ArrayLike,
        *,
        past: ArrayLike | None = None,
        future: ArrayLike | None = None,
        elapsed: ArrayLike | None = None,
    ) -> Forecast:
        """Take in one moment of every series.

        The forecast's value at step s is for the s-th observation of the series after this one and was made from data
        up to and including it.

        Parameters
        ----------
        price : float [B] or [B, M]
            NaN where a series has no price now: its state stays as it is, bit for bit.
        past : float [B, P], optional
        future : float [B, S, K], optional
            Covariates, where the file reads them.
        elapsed : float [B], optional
            Time since the observation before, in bars; left out, 1.

        Raises
        ------
        ModelError
            When an array has another shape, a covariate that the file reads is missing, or the runtime refuses the
            step. The states are then those before.
        """
        given = self._given
        _fill("price", given["price"], price)
        np.equal(given["price"], given["price"], out=given["mask"])
        if past is not None or future is not None or self._reads:
            self._fill_covariates(past=past, future=future)
        if elapsed is not None:
            _fill("elapsed", given["elapsed"], elapsed)
        try:
            self._steps[self._now]()
        except Exception as error:
            raise ModelError(f"step: the runtime refused {len(self.names)} series: {error}") from error
        finally:
            if elapsed is not None:
                given["elapsed"].fill(1)
        self._now = 1 - self._now
        return Forecast(**{name: x.copy() for name, x in self._made.items()}, df=self._df)

    def _fill_covariates(self, **beside: ArrayLike | None) -> None:
        """Copy covariates to where the file reads them."""
        for name, x in beside.items():
            held = self._given[name]
            if x is not None:
                _fill(name, held, x)
            elif held.size:
                raise ModelError(f"step: the file reads {name} {list(held.shape)}, got none")


def _fill(name: str, held: NDArray, x: ArrayLike) -> None:
    """Copy numbers into the memory that the runtime reads; a price a series may come without its axis."""
    found = np.asarray(x)
    if found.shape != held.shape:
        if found.shape != held.shape[:-1] or held.shape[-1] != 1:
            raise ModelError(f"{name}: expected {list(held.shape)}, got {list(found.shape)}")
        found = found[..., None]
    held[...] = found
