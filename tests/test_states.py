"""What a model is given at each step, and which models can be served at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import HORIZON, metadata, model_bytes
from ticking import HOUR, US, tick
from variants import BLOCK, blocks, reading

from models.errors import ModelError
from models.observation import Forecast, Observation, State
from pipeline.calendar_features import ahead, calendar
from pipeline.session import GRAIN, Session
from pipeline.states import States, check_servable, layout_of
from pipeline.stream_core import Core
from pipeline.ticks import PLAIN, Layout, Ticks, parser

NAMES = st.sampled_from(["AAA", "BBB", "new", "x/y", "../x"])


class Looking(Session):
    """A session whose metadata ask for the calendar, and that keeps what each step was given."""

    def __init__(self) -> None:
        super().__init__(model_bytes())
        self.metadata = metadata(past=("@weekday",), future=("@hour", "@hour_sin"), grid="15m")
        self.given: list[Observation] = []

    def step(self, observation: Observation, state: State) -> tuple[Forecast, State]:
        """Note what came; the small model itself reads no covariates."""
        self.given.append(observation)
        return super().step(observation, state)


LOOKING = Looking()


@given(st.lists(st.tuples(NAMES, st.integers(0, 500)), min_size=1, max_size=60))
def test_each_tick_comes_with_the_calendar_of_its_own_time(ticks: list[tuple[str, int]]) -> None:
    """In every round each price stands beside the features of its time, and of bars of the grid after it."""
    session = LOOKING
    session.given.clear()
    # each price tells its time: the k-th hour costs k + 1
    done = Core(session, max_series=1000).apply(Ticks.of((name, US + k * HOUR, k + 1.0) for name, k in ticks))
    price = np.concatenate([o.price[o.mask] for o in session.given] or [np.empty(0)])
    assert len(price) == len(done.tick)
    time = US + (price.astype(np.int64) - 1) * HOUR
    for field, expected in {
        "past": calendar(("@weekday",), time),
        "future": ahead(("@hour", "@hour_sin"), time, HOUR // 4, HORIZON),
    }.items():
        given_rows = [getattr(o, field)[o.mask[:, 0]] for o in session.given]
        assert all(x.dtype == np.float32 for x in given_rows)
        assert b"".join(x.tobytes() for x in given_rows) == expected.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"past": ("volume",)}, r"needs volume; a tick here has 1 price\(s\), a time, and the covariates none"),
        ({"future": ("load", "@hour", "wind")}, "needs load, wind"),
        ({"future": ("@hoor",)}, "needs @hoor"),
        ({"block": 24}, "needs 24 prices at once"),
        ({"task": "classify", "classes": ("up", "down")}, "needs to classify"),
        ({"grid": "tick"}, "reads elapsed bars but has grid 'tick'"),
        (
            {"grid": "tick", "inputs": ("price", "future"), "future": ("@hour",)},
            "reads @hour some bars ahead but has grid 'tick': its bars have no length. Export it with a bar grid",
        ),
    ],
)
def test_a_model_that_needs_more_than_a_tick_is_refused(changes: dict, message: str) -> None:
    """Columns, blocks of prices and bars without a length cannot be served from ticks, and the message says so."""
    session = Session(model_bytes())
    session.metadata = metadata(**changes)
    with pytest.raises(ModelError, match=message):
        Core(session, max_series=1, layout=PLAIN)


def test_a_model_of_other_steps_ahead_is_refused() -> None:
    """Covariates known ahead fit the steps of the first model; a model without any takes its own."""
    session = Session(reading())
    with pytest.raises(ModelError, match=f"reads covariates {HORIZON} steps ahead; ticks here hold 5"):
        check_servable(session.metadata, Layout(horizon=5, past=("load",), future=("wind",)))
    check_servable(metadata(), Layout(horizon=5, past=("load",), future=("wind",)))


def test_a_tick_holds_what_the_calendar_does_not_give() -> None:
    """Columns of the calendar are left out; without any known ahead there is one step."""
    mixed = metadata(past=("@hour", "load"), future=("@weekday", "wind"))
    assert layout_of(mixed) == Layout(horizon=HORIZON, past=("load",), future=("wind",))
    assert layout_of(metadata(future=("@hour",))) == PLAIN
    assert layout_of(Session(blocks()).metadata) == Layout(block=BLOCK)


class Mixed(Looking):
    """A session that asks for the calendar and for what comes with the tick, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata = metadata(past=("load", "@weekday"), future=("@hour", "wind"))


def test_covariates_stand_in_the_order_of_the_model() -> None:
    """Those of the calendar and those that came with the tick, whatever else ticks hold for other models."""
    session = Mixed()
    layout = Layout(horizon=HORIZON, past=("gas", "load"), future=("wind", "sun"))
    core = Core(session, max_series=9, layout=layout)
    lines = [
        tick("A", 5, load=7.0, gas=1.0, wind=[2.0, 3.0], sun=[8, 9]),
        tick("B", 6, load=4, gas=1, wind=[5, 6], sun=[8, 9]),
    ]
    core.apply(parser(b"{}", layout)(lines))
    given_past, given_future = session.given[0].past[:2], session.given[0].future[:2]
    times = US + np.array([5, 6]) * HOUR
    np.testing.assert_array_equal(given_past[:, 0], [7, 4])
    np.testing.assert_array_equal(given_past[:, 1:], calendar(("@weekday",), times))
    np.testing.assert_array_equal(given_future[..., 1], [[2, 3], [5, 6]])
    np.testing.assert_array_equal(given_future[..., :1], ahead(("@hour",), times, HOUR, HORIZON))


def test_a_round_is_filled_up_with_rows_that_have_no_price() -> None:
    """The model is called with whole grains; what fills them up is masked and its states are not kept."""
    session = Looking()
    core = Core(session, max_series=100)
    for count in (1, GRAIN, GRAIN + 1):
        session.given.clear()
        core.apply(Ticks.of((f"S{k}", US + count * HOUR, 1.0 + k) for k in range(count)))
        (observation,) = session.given
        assert len(observation.price) == -(-count // GRAIN) * GRAIN
        assert observation.mask[:, 0].tolist() == [k < count for k in range(len(observation.mask))]
    assert core.serving.arena["count"][: GRAIN + 1].tolist() == [3] + [2] * (GRAIN - 1) + [1]


def test_a_walk_changes_nothing_until_it_is_kept() -> None:
    """The rows that come back are the states after it; those of the arena stay."""
    core = Core(Session(model_bytes()), max_series=9)
    core.apply(Ticks.of([("A", US, 1.0), ("B", US, 2.0)]))
    admitted = core.book.admit(Ticks.of([("A", US + HOUR, 1.5), ("A", US + 2 * HOUR, 1.25)]), core.session.metadata)
    assert admitted.plan is not None
    before = {k: x.tobytes() for k, x in core.serving.arena.arrays().items()}
    _, rows = core.serving.walk(admitted.events, admitted.plan, core.book.rules)
    assert {k: x.tobytes() for k, x in core.serving.arena.arrays().items()} == before
    core.serving.keep(admitted.plan, rows)
    assert core.serving.arena["count"][:2].tolist() == [3, 1]


def test_series_have_the_parameters_of_their_names() -> None:
    """Rows are given by name from the slot asked for on, and 0 is the row of the unknown."""
    states = States(Session(model_bytes()), PLAIN, 9)
    states.seat(["new", "BBB"])
    states.seat(["AAA", "other"], 2)
    assert states.arena.used == 4
    assert states.arena["row"][:4].tolist() == [0, 2, 1, 0]
