"""The states of many series move on tick by tick, and nothing but accepted ticks moves them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import HORIZON, metadata, model_bytes

from models.errors import IntegrityError, ModelError
from models.observation import Forecast, Observation, State
from pipeline.calendar_features import ahead, calendar
from pipeline.session import GRAIN, Session
from pipeline.states import FIRST_US, LAST_US, Applied, Stream
from pipeline.ticks import Reason, Ticks

US = 1_704_067_200_000_000
HOUR = 3_600_000_000
Tick = tuple[str, int, float | None]


class Counted(Session):
    """A session that counts its steps and the prices of each."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.calls: list[int] = []

    def step(self, observation: Observation, state: State) -> tuple[Forecast, State]:
        """Step, and note how many prices came."""
        self.calls.append(int(observation.mask.sum()))
        return super().step(observation, state)


SESSION = Counted(model_bytes())


def stream(max_series: int = 1000) -> Stream:
    """Begin a stream of the small model."""
    return Stream(SESSION, max_series=max_series)


def bits(x: Stream | Applied) -> object:
    """Give everything that a stream carries, or a batch gave, to the bit."""
    if isinstance(x, Stream):
        return x.names(), {k: a.tobytes() for k, a in x.arrays().items()}
    return [getattr(x.forecast, name).tobytes() for name in Forecast.__dataclass_fields__]


def apply(target: Stream, ticks: list[Tick]) -> Applied:
    """Apply triples as one batch."""
    return target.apply(Ticks.of(ticks))


PRICES = st.sampled_from([1.0, 1.5, 99.25, 1e-3]) | st.sampled_from([None, math.nan, math.inf, 0.0, -1.0, 1e30])
NAMES = st.sampled_from(["AAA", "BBB", "new", "x/y", "../x"])
TICKS = st.lists(st.tuples(NAMES, st.integers(0, 12).map(lambda h: US + h * HOUR), PRICES), max_size=40)


@given(TICKS, st.data())
def test_any_cut_into_batches_gives_the_same_bits(ticks: list[Tick], data: st.DataObject) -> None:
    """Forecasts, reasons and states of one batch equal those of any split, down to single ticks."""
    whole, parts = stream(3), stream(3)
    together = apply(whole, ticks)
    reasons, quantiles, start = [], [], 0
    while start < len(ticks):
        stop = start + data.draw(st.integers(1, 6))
        part = apply(parts, ticks[start:stop])
        reasons += part.reason.tolist()
        quantiles.append(part.forecast.quantile)
        start = stop
    assert together.reason.tolist() == reasons
    assert together.forecast.quantile.tobytes() == b"".join(q.tobytes() for q in quantiles)
    assert bits(whole) == bits(parts)


@given(TICKS)
def test_refused_ticks_leave_no_trace(ticks: list[Tick]) -> None:
    """A stream that saw only the accepted ticks has the same bits and made the same calls."""
    first, second = stream(3), stream(3)
    SESSION.calls.clear()
    everything = apply(first, ticks)
    calls = SESSION.calls.copy()
    SESSION.calls.clear()
    accepted = apply(second, [ticks[i] for i in everything.tick.tolist()])
    assert not accepted.reason.any()
    assert bits(first) == bits(second)
    assert bits(everything) == bits(accepted)
    assert calls == SESSION.calls


@given(TICKS)
def test_a_batch_equals_the_model_stepped_by_hand(ticks: list[Tick]) -> None:
    """Each forecast is that of a loop that steps one series at a time, in a grain of its own."""
    done = apply(stream(), ticks)
    states: dict[str, State] = {}
    last: dict[str, int] = {}
    for k, i in enumerate(done.tick.tolist()):
        name, time, price = ticks[i]
        bars = (time - last[name]) / HOUR if name in last else 1.0
        observation = Observation(
            price=np.full((GRAIN, 1), price),
            mask=np.ones((GRAIN, 1), dtype=bool),
            series=SESSION.rows([name] * GRAIN),
            past=np.empty((GRAIN, 0), np.float32),
            future=np.empty((GRAIN, HORIZON, 0), np.float32),
            elapsed=np.full(GRAIN, bars, np.float32),
        )
        forecast, states[name] = SESSION.step(observation, states.get(name, SESSION.initial(GRAIN)))
        last[name] = time
        assert forecast.quantile[0].tobytes() == done.forecast.quantile[k].tobytes()
        assert forecast.df[0].tobytes() == done.forecast.df[k].tobytes()


def test_one_call_of_the_model_for_each_round() -> None:
    """A batch costs as many calls as its busiest series has ticks, each with the series that are left."""
    ticks = [(name, US + h * HOUR, 1.0 + h) for h in range(4) for name in ["A", "B", "C"][: 3 - h // 2]]
    SESSION.calls.clear()
    apply(stream(), ticks)
    assert SESSION.calls == [3, 3, 2, 2]


def test_a_batch_of_bad_ticks_does_not_reach_the_model() -> None:
    """Nothing accepted, nothing called, nothing carried."""
    target = stream()
    SESSION.calls.clear()
    done = apply(target, [("A", US, math.nan), ("A", US, None), ("A", US, -1.0), ("", US, 1.0)])
    assert not SESSION.calls
    assert target.names() == []
    assert len(done.tick) == len(done.forecast.quantile) == 0
    assert len(apply(target, []).tick) == 0


@pytest.mark.parametrize(
    ("tick", "reason"),
    [
        (("A", US, 2.0), Reason.DUPLICATE),
        (("A", US, 3.0), Reason.CONFLICT),
        (("A", US - 1, 2.0), Reason.LATE),
        (("A", US + 1, math.nan), Reason.NOT_FINITE),
        (("A", US + 1, -math.inf), Reason.NOT_FINITE),
        (("A", US + 1, 0.0), Reason.DOMAIN),
        (("A", US + 1, 1e15), Reason.DOMAIN),
        (("A", US + 1, 1e30), Reason.DOMAIN),
        (("A", US + 1, 5e-324), Reason.DOMAIN),
        (("A", US + 1, None), Reason.HOLE),
        (("A", LAST_US, 2.0), Reason.TIME),
        (("A", FIRST_US - 1, 2.0), Reason.TIME),
        (("B", US, 1.0), Reason.LIMIT),
    ],
)
def test_a_tick_is_refused_for_its_reason(tick: Tick, reason: Reason) -> None:
    """Alone or among good ticks, the reason is the same and the state of its series keeps its bits."""
    alone, among = stream(1), stream(1)
    for target in (alone, among):
        apply(target, [("A", US, 2.0)])
    before = bits(alone)
    assert apply(alone, [tick]).reason.tolist() == [reason]
    assert bits(alone) == before
    good: Tick = ("A", US + HOUR, 4.0)
    assert apply(among, [tick, good]).reason.tolist() == [reason, 0]
    apply(alone, [good])
    assert bits(alone) == bits(among)


def test_a_far_future_tick_does_not_block_later_ones() -> None:
    """A time outside the range is refused and never becomes the last time of its series."""
    done = apply(stream(), [("A", US, 1.0), ("A", LAST_US + 62 * 365 * 24 * HOUR, 1.0), ("A", US + 1, 1.0)])
    assert done.reason.tolist() == [0, Reason.TIME, 0]


@pytest.mark.parametrize("name", ["A", "^GSPC", "EURUSD=X", "BTC/USDT", "NASDAQ:AAPL", "BRK.B", "a_b-c~d", "x" * 64])
def test_names_of_series_in_use_are_taken(name: str) -> None:
    """Tickers, currency pairs and contracts are legal names."""
    assert apply(stream(), [(name, US, 1.0)]).reason.tolist() == [0]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " A",
        "A ",
        "x" * 65,
        "../x",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "a/.b",
        ".a",
        "=cmd()",
        "-a",
        "a\x00b",
        "a\nb",
        "é",
        "\u202ea",
        "🙂",
        "a\n",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    """Paths, formulas, control characters and letters outside ASCII are no names."""
    target = stream()
    assert apply(target, [(name, US, 1.0)]).reason.tolist() == [Reason.NAME]
    assert target.names() == []


def test_the_limit_on_series_is_reached_in_order_of_arrival() -> None:
    """Bad ticks do not take a place; after the limit, series that have one go on."""
    target = stream(2)
    ticks: list[Tick] = [
        ("A", US, math.nan),
        ("B", US, 1.0),
        ("C", US, 1.0),
        ("D", US, 1.0),
        ("A", US, 1.0),
        ("B", US + 1, 2.0),
    ]
    assert apply(target, ticks).reason.tolist() == [Reason.NOT_FINITE, 0, 0, Reason.LIMIT, Reason.LIMIT, 0]
    assert target.names() == ["B", "C"]


def test_many_series_keep_their_states_while_the_arrays_grow() -> None:
    """Series that arrive one after the other have the states of series that arrived together."""
    names = [f"S{i}" for i in range(300)]
    slow, fast = stream(), stream()
    for i, name in enumerate(names):
        apply(slow, [(name, US, 1.0 + i)])
    apply(fast, [(name, US, 1.0 + i) for i, name in enumerate(names)])
    assert bits(slow) == bits(fast)


def test_a_bad_series_leaves_its_neighbours_alone() -> None:
    """Among many series, one that sends garbage changes no bit of the others."""
    good: list[Tick] = [(f"S{i}", US + h * HOUR, 1.0 + i + h) for h in range(3) for i in range(50)]
    bad: list[Tick] = [("S7", US, 1e30), ("S7", US, -3.0), ("S7", US, math.inf)] * 20
    clean, dirty = stream(), stream()
    apply(clean, good)
    mixed = [tick for pair in zip(good, (bad * 3)[: len(good)], strict=True) for tick in pair]
    apply(dirty, mixed)
    assert bits(clean) == bits(dirty)


def test_a_failing_model_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second round fails, nothing of the batch is carried, and it can be given again."""
    target, other = stream(), stream()
    for x in (target, other):
        apply(x, [("A", US, 1.0)])
    before = bits(target)
    batch: list[Tick] = [("A", US + 1, 2.0), ("B", US, 3.0), ("A", US + 2, 4.0)]
    step, calls = SESSION.step, []

    def failing(observation: Observation, state: State) -> tuple[Forecast, State]:
        calls.append(1)
        if len(calls) == 2:
            raise ModelError("the runtime gave up")
        return step(observation, state)

    with monkeypatch.context() as patch:
        patch.setattr(SESSION, "step", failing)
        with pytest.raises(ModelError, match="gave up"):
            apply(target, batch)
    assert bits(target) == before
    assert bits(apply(target, batch)) == bits(apply(other, batch))
    assert bits(target) == bits(other)


@given(TICKS, TICKS)
def test_a_restored_stream_goes_on_bit_for_bit(before: list[Tick], after: list[Tick]) -> None:
    """A stream built from names and arrays equals the one that gave them, now and later."""
    old, new = stream(4), stream(4)
    apply(old, before)
    new.restore(old.names(), {k: x.copy() for k, x in old.arrays().items()})
    assert bits(apply(old, after)) == bits(apply(new, after))
    assert bits(old) == bits(new)


def test_arrays_of_another_shape_are_not_restored() -> None:
    """A missing array, a wrong length or another number type is refused."""
    old = stream()
    apply(old, [("A", US, 1.0)])
    arrays = old.arrays()
    without = {k: x for k, x in arrays.items() if k != "state.trace"}
    for names, damaged in (
        (["A"], without),
        (["A", "B"], arrays),
        (["A"], arrays | {"price": arrays["price"].astype(np.float32)}),
    ):
        with pytest.raises(IntegrityError, match="do not fit"):
            stream().restore(names, damaged)


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
    done = Stream(session, max_series=1000).apply(Ticks.of((name, US + k * HOUR, k + 1.0) for name, k in ticks))
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
        ({"past": ("volume",)}, "needs volume"),
        ({"future": ("load", "@hour", "wind")}, "needs load, wind; a tick has one price and a time, which gives @hour"),
        ({"future": ("@hoor",)}, "needs @hoor"),
        ({"block": 24}, "needs 24 prices at once"),
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
        Stream(session, max_series=1)
