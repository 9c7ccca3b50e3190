"""Series carried in a process of one's own, against the session that takes and gives states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.conformal import Conformal
from models.errors import ModelError
from models.forecaster import Forecaster
from models.network import Network, NetworkConfig
from models.observation import LEVELS, Observation, State
from models.transforms import LogReturn
from pipeline.carried import Carried
from pipeline.export import ungated
from pipeline.session import Session

NAMES = ("a", "b", "c")
BATCH, STEPS = len(NAMES), 40


@pytest.fixture(scope="module", params=["gru", "lstm"])
def session(request: pytest.FixtureRequest) -> Session:
    """A calibrated network that reads the elapsed time and a covariate ahead."""
    torch.manual_seed(0)
    core = Network(request.param, NetworkConfig(hidden=8, layers=2, elapsed=True), unit=0.01, future=1)
    offsets = torch.zeros(1, 1, len(LEVELS))
    return ungated(
        Forecaster(request.param, LogReturn(), Conformal(core, offsets, offsets + 0.01), (), ("load",)).eval()
    )


def market() -> tuple[np.ndarray, np.ndarray]:
    """Draw prices [T, B], some of them missing and one of them poison, and a covariate [T, B, 1, 1]."""
    rng = np.random.default_rng(0)
    price = 100 * np.exp(rng.normal(0, 0.01, (STEPS, BATCH)).cumsum(0))
    price[rng.random(price.shape) < 0.2] = np.nan
    price[7, 1] = np.inf
    return price, rng.normal(size=(STEPS, BATCH, 1, 1)).astype(np.float32)


def by_session(
    session: Session, price: np.ndarray, ahead: np.ndarray, state: State, elapsed: float = 1.0
) -> tuple[Any, State]:
    """Step the session by hand."""
    seen = Observation(
        price=price[:, None],
        mask=~np.isnan(price)[:, None],
        series=session.rows(NAMES),
        past=np.zeros((BATCH, 0), np.float32),
        future=ahead,
        elapsed=np.full(BATCH, elapsed, np.float32),
    )
    return session.step(seen, state)


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare forecasts to the bit."""
    for name in ("quantile", "loc", "scale", "df"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


def test_a_carried_series_forecasts_what_the_session_does(session: Session) -> None:
    """Forecasts and states are those of the session to the bit at every step, holes and poison among them."""
    desk, state = Carried(session, NAMES), session.initial(BATCH)
    for price, ahead in zip(*market(), strict=True):
        theirs, state = by_session(session, price, ahead, state)
        assert_same(desk.step(price, future=ahead), theirs)
        assert all(desk.state[name].tobytes() == x.tobytes() for name, x in state.items())


def test_elapsed_time_is_of_one_step(session: Session) -> None:
    """The time since the observation before counts where it is given, and is one bar again at the next step."""
    desk, state = Carried(session, NAMES), session.initial(BATCH)
    prices, aheads = market()
    quantiles = []
    for k, elapsed in enumerate((None, 3.0, None)):
        theirs, state = by_session(session, prices[k], aheads[k], state, elapsed or 1.0)
        given = {} if elapsed is None else {"elapsed": [elapsed] * BATCH}
        assert_same(desk.step(prices[k], future=aheads[k], **given), theirs)
        quantiles.append(theirs.quantile)
    other = Carried(session, NAMES)
    other.step(prices[0], future=aheads[0])
    assert not np.array_equal(other.step(prices[1], future=aheads[1]).quantile, quantiles[1], equal_nan=True)


def test_a_kept_state_goes_on_elsewhere(session: Session) -> None:
    """A state taken out is a copy, from which another one goes on to the same bits."""
    prices, aheads = market()
    desk = Carried(session, NAMES)
    for price, ahead in zip(prices[:20], aheads[:20], strict=True):
        desk.step(price, future=ahead)
    kept = desk.state
    other = Carried(session, NAMES, kept)
    for price, ahead in zip(prices[20:], aheads[20:], strict=True):
        assert_same(other.step(price, future=ahead), desk.step(price, future=ahead))
    again = Carried(session, NAMES, kept)
    assert_same(
        again.step(prices[20], future=aheads[20]), Carried(session, NAMES, kept).step(prices[20], future=aheads[20])
    )


def test_forecasts_given_out_stay_as_they_were(session: Session) -> None:
    """A later step does not write into the arrays of an earlier one."""
    prices, aheads = market()
    desk = Carried(session, NAMES)
    first = desk.step(prices[0], future=aheads[0])
    kept = first.quantile.copy()
    desk.step(prices[1], future=aheads[1])
    np.testing.assert_array_equal(first.quantile, kept)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"price": [1.0, 2.0]}, r"price: expected \[3, 1\], got \[2\]"),
        ({"price": 1.0}, r"price: expected \[3, 1\], got \[\]"),
        ({"price": [1.0, 2.0, 3.0], "future": None}, r"reads future \[3, 1, 1\], got none"),
        ({"price": [1.0, 2.0, 3.0], "elapsed": [1.0]}, r"elapsed: expected \[3\], got \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_moves(session: Session, given: dict[str, Any], told: str) -> None:
    """Another shape or a covariate that is missing is an error, and the states stay."""
    desk = Carried(session, NAMES)
    prices, aheads = market()
    desk.step(prices[0], future=aheads[0])
    before = desk.state
    with pytest.raises(ModelError, match=told):
        desk.step(**({"future": aheads[1]} | given))
    assert all(desk.state[name].tobytes() == x.tobytes() for name, x in before.items())


def test_states_of_others_are_refused(session: Session) -> None:
    """There must be a series, and a state of these series under this file."""
    with pytest.raises(ModelError, match="at least one series"):
        Carried(session, ())
    with pytest.raises(ModelError, match="expected the tensors"):
        Carried(session, NAMES, {"h0": np.zeros((BATCH, 8))})
    with pytest.raises(ModelError, match=r"state .*: expected \[3"):
        Carried(session, NAMES, session.initial(2))
