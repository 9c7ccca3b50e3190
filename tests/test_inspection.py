"""A model file is seen as it is, and the path of a state is the one that the stream walks."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from served import HORIZON, SERIES, metadata, model_bytes

from models.errors import DataError
from models.observation import Observation
from pipeline.inspection import inspect, state_path
from pipeline.session import Session

HOUR = 3_600_000_000
TIME = np.arange(1, 41) * HOUR


@pytest.fixture(scope="module")
def session() -> Session:
    """Open the small model."""
    return Session(model_bytes())


def prices(count: int = 40) -> NDArray[np.float64]:
    """Draw prices of a walk."""
    return 100 * np.exp(0.01 * np.random.default_rng(5).normal(size=count)).cumprod()


def carried(session: Session, price: NDArray[np.float64], row: int) -> dict[str, list[NDArray]]:
    """Walk in the plainest way: one row, one step a price."""
    state, path = session.initial(1), {s.name: [] for s in session.metadata.state}
    for p in price:
        observation = Observation(
            price=np.array([[p]]),
            mask=np.ones((1, 1), dtype=bool),
            series=np.array([row]),
            past=np.empty((1, 0), np.float32),
            future=np.empty((1, HORIZON, 0), np.float32),
            elapsed=np.ones(1, np.float32),
        )
        _, state = session.step(observation, state)
        for name, x in state.items():
            path[name].append(x[0])
    return path


def test_an_inspection_tells_what_the_file_says(session: Session) -> None:
    """Everything is in the dictionary, as the metadata has it, with the digest of the file and the bytes a series."""
    seen = inspect(session).to_dict()
    assert seen["sha256"] == session.sha256
    assert seen["bytes_per_series"] == 8 + 2 * 4 + 8
    assert {k: v for k, v in seen.items() if k not in ("sha256", "bytes_per_series")} == orjson.loads(
        metadata().to_json()
    )
    orjson.dumps(seen)


def test_the_table_names_each_state_tensor_with_its_meaning(session: Session) -> None:
    """A reader sees shape, unit, bytes and where a state begins, and that nothing was measured where nothing was."""
    table = dict(inspect(session).rows())
    assert table["state trace"] == "halved and added prices (hidden; float32, 2, 8 bytes, from 0)"
    assert table["state count"].startswith("prices seen (count; int64, one number")
    assert table["model"] == "last, kind naive"
    assert table["series of the fit"] == "2: AAA, BBB"
    assert table["parity"] == "not measured"


@pytest.mark.parametrize(
    ("df", "words"),
    [
        ((float("inf"),), "normal"),
        ((float("nan"),), "none, quantiles only"),
        ((4.0,), "Student t, 4 degrees of freedom"),
        ((4.0, 5.0, float("nan")), "Student t, 4 to 5 degrees of freedom"),
        ((4.0, float("inf"), 5.0), "Student t, 4 to inf degrees of freedom"),
    ],
)
def test_the_density_is_said_in_words(df: tuple[float, ...], words: str) -> None:
    """Normal, none, one t, or the range of the rows."""
    table = dict(inspect(Session(model_bytes(metadata(df=df)))).rows())
    assert table["density"] == words


def test_parity_and_many_series_are_summed_up() -> None:
    """The tensor in which the runtime was furthest off is named; of many series the first few are."""
    errors = {"quantile": {"runtime": 1e-8, "torch": 1e-8}, "state.h0": {"runtime": 4e-7, "torch": 3e-7}}
    many = tuple(f"S{i}" for i in range(20))
    described = metadata(parity={"steps": 2000, "errors": errors}, series=many, df=(5.0,))
    table = dict(inspect(Session(model_bytes(described))).rows())
    assert table["parity"].startswith("4.0e-07 in state.h0 after up to 2000 carried steps")
    assert table["series of the fit"] == "20: S0, S1, S2, S3, S4, S5, S6, S7, ..."


@pytest.mark.parametrize("series", [*SERIES, "never seen"])
def test_the_path_is_that_of_the_plainest_walk(session: Session, series: str) -> None:
    """State after each price equals that of one step a price from the initial state, whole grains or not."""
    name = series.replace(" ", "-")
    path = state_path(session, name, TIME, prices())
    plain = carried(session, prices(), int(session.rows([name])[0]))
    assert list(path.tensors) == [s.name for s in path.described]
    for tensor, values in plain.items():
        np.testing.assert_allclose(path.tensors[tensor], np.stack(values), rtol=1e-6)
    assert path.tensors["count"].tolist() == list(range(1, 41))


def test_the_path_never_sees_the_future(session: Session) -> None:
    """Other prices from some moment on leave the states before it bit for bit."""
    price = prices()
    other = np.concatenate((price[:25], 1000 * price[25:]))
    one, two = (state_path(session, "AAA", TIME, p).tensors for p in (price, other))
    for name, x in one.items():
        assert x[:25].tobytes() == two[name][:25].tobytes()
    assert one["trace"][25:].tobytes() != two["trace"][25:].tobytes()


def test_a_hole_leaves_the_state_as_it_was(session: Session) -> None:
    """A missing price, also as the first one, is a moment whose state is that of the moment before."""
    price = prices()
    price[[0, 10]] = np.nan
    path = state_path(session, "AAA", TIME, price)
    assert np.isnan(path.tensors["price"][0]).all()
    assert path.tensors["count"][[0, 1, 9, 10, 11]].tolist() == [0, 1, 9, 9, 10]
    for x in path.tensors.values():
        assert x[10].tobytes() == x[9].tobytes()


def test_prices_that_make_no_path_are_refused(session: Session) -> None:
    """None, more times than prices, times that go back, and a name that no series has; each is said."""
    with pytest.raises(DataError, match="as many of each, got 0 and 0"):
        state_path(session, "AAA", TIME[:0], prices(0))
    with pytest.raises(DataError, match="got 40 and 39"):
        state_path(session, "AAA", TIME, prices(39))
    with pytest.raises(DataError, match=r"AAA at 1970-01-02T15:00:00.*before the last one of this series"):
        state_path(session, "AAA", TIME[::-1], prices())
    with pytest.raises(DataError, match=r"AAA at 14645-.*between the years 1900 and 2200"):
        state_path(session, "AAA", TIME + 4 * 10**17, prices())
    with pytest.raises(DataError, match="expected a series name"):
        state_path(session, "../x", TIME, prices())
