"""The states of many series move on tick by tick, and nothing but accepted ticks moves them."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import HORIZON, SERIES, metadata, model_bytes
from ticking import BESIDE, HOUR, LINES, US, feed, split, tick
from variants import blocks, reading, returning

from models.errors import ModelError
from models.observation import Forecast, Observation, State
from pipeline.book import FIRST_US, LAST_US
from pipeline.events import FALLBACK, STALE, WARMING, Events
from pipeline.lineup import SERVING
from pipeline.rules import RuleConfig
from pipeline.session import GRAIN, Session
from pipeline.stream_core import Applied, Core, chain
from pipeline.ticks import DEAD, Reason, Ticks, parser

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
READING = Session(reading(cutoff_time="2023-12-01T00:00:00Z"))
RETURNING = Session(returning())
BLOCKS = Session(blocks())
OPEN = RuleConfig(grid="accept", jump="accept")


def begin(max_series: int = 1000) -> Core:
    """Begin a stream of the small model that takes every possible tick."""
    return Core(SESSION, max_series=max_series)


def strict(rules: RuleConfig, max_series: int = 5) -> Core:
    """Begin a stream of the model that reads covariates, with another model beside it."""
    return Core(READING, max_series=max_series, rules=rules, beside={"plain": SESSION}, burn_in=3)


def carried(core: Core) -> object:
    """Give everything that a stream carries, to the bit."""
    count = len(core.book)
    arenas = [core.book.arena, core.serving.arena, *(states.arena for states in core.beside.values())]
    return core.book.names, core.book.newest, [{k: x[:count].tobytes() for k, x in a.arrays().items()} for a in arenas]


def gave(parts: Sequence[Applied]) -> object:
    """Give all that batches gave, to the bit and joined."""
    events = [p.events for p in parts if len(p.events)]
    walked = [p.walked for p in parts if p.walked]
    return (
        [r for p in parts for r in p.reason.tolist()],
        b"".join(p.quantile.tobytes() for p in parts),
        [name for p in parts for name in p.new],
        Events.joined(events).to_bytes() if events else b"",
        {
            (name, field.name): b"".join(_bytes(getattr(w[name], field.name)) for w in walked)
            for name in (walked[0] if walked else ())
            for field in fields(walked[0][name])
            if field.name != "before"
        },
        {
            (name, k): b"".join(w[name].before[k].tobytes() for w in walked)
            for name in (walked[0] if walked else ())
            for k in range(3)
        },
    )


def _bytes(x: np.ndarray) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def apply(target: Core, ticks: list[Tick]) -> Applied:
    """Apply triples as one batch."""
    return target.apply(Ticks.of(ticks))


def take(core: Core, lines: list[bytes]) -> Applied:
    """Apply lines as one batch."""
    return core.apply(parser(b"{}", core.layout)(lines))


def cut(lines: list, sizes: list[int]) -> list[list]:
    """Cut a list into pieces of these sizes, again and again."""
    parts, start, size = [], 0, itertools.cycle(sizes)
    while start < len(lines):
        stop = start + next(size)
        parts.append(lines[start:stop])
        start = stop
    return parts


# ------------------------------------------------------------------------------------- the size of a batch is nothing

PRICES = st.sampled_from([1.0, 1.5, 99.25, 1e-3]) | st.sampled_from([None, math.nan, math.inf, 0.0, -1.0, 1e30])
NAMES = st.sampled_from(["AAA", "BBB", "new", "x/y", "../x"])
TICKS = st.lists(st.tuples(NAMES, st.integers(0, 12).map(lambda h: US + h * HOUR), PRICES), max_size=40)
SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)
RULES = st.builds(
    RuleConfig,
    series=st.sampled_from(["open", "open", "closed"]),
    future_days=st.sampled_from([40, 3653]),
    grid=st.sampled_from(["reject", "accept"]),
    jump=st.sampled_from(["hold", "hold", "accept", "reject"]),
    jump_scales=st.sampled_from([10.0, 100.0]),
    covariates=st.sampled_from(["reject", "last", "hold"]),
)


@given(TICKS, SIZES)
def test_any_cut_into_batches_gives_the_same_bits(ticks: list[Tick], sizes: list[int]) -> None:
    """Forecasts, reasons, events and states of one batch equal those of any split, down to single ticks."""
    whole, parts = begin(3), begin(3)
    together = apply(whole, ticks)
    apart = [apply(parts, part) for part in cut(ticks, sizes)]
    assert gave([together]) == gave(apart)
    assert carried(whole) == carried(parts)


@settings(max_examples=300)
@given(LINES, RULES, SIZES, st.integers(2, 5))
def test_any_cut_gives_the_same_bits_under_every_rule(
    lines: list[bytes], rules: RuleConfig, sizes: list[int], max_series: int
) -> None:
    """Grid, jumps, far times, covariates, sequences and adjustments are judged alike however the lines arrive."""
    whole, parts = strict(rules, max_series), strict(rules, max_series)
    together = take(whole, lines)
    apart = [take(parts, part) for part in cut(lines, sizes)]
    assert gave([together]) == gave(apart)
    assert carried(whole) == carried(parts)


@pytest.mark.parametrize("covariates", ["reject", "last", "hold"])
@pytest.mark.parametrize("seed", range(3))
def test_many_series_in_any_cut_have_the_same_bits(seed: int, covariates: str) -> None:
    """Rounds wider than a grain, and batches of any size: the same reasons, forecasts, events and states."""
    rng, rules = random.Random(seed), RuleConfig(covariates=covariates, jump_scales=20.0)  # type: ignore[arg-type]
    names = [*SERIES, *(f"S{k}" for k in range(45))]
    lines = feed(900, seed, names, **BESIDE).splitlines()
    bare = feed(900, seed + 50, names).splitlines()
    lines = [rng.choice(pair) for pair in zip(lines, bare, strict=False)]
    whole, parts = strict(rules, 40), strict(rules, 40)
    together = take(whole, lines)
    apart = [take(parts, part) for part in cut(lines, [rng.randint(1, 200) for _ in range(9)])]
    assert gave([together]) == gave(apart)
    assert carried(whole) == carried(parts)
    met = {Reason(r) for r in together.reason.tolist()}
    covariate = {Reason.COVARIATE} if covariates == "reject" else set()
    usual = {Reason.ACCEPTED, Reason.HOLE, Reason.ADJUSTED, Reason.LATE, Reason.DUPLICATE, Reason.JUMP, Reason.OFF_GRID}
    usual |= {Reason.FUTURE, Reason.UNIT, Reason.OUT_OF_ORDER, Reason.LIMIT, Reason.UNKNOWN, Reason.NAME, Reason.DOMAIN}
    assert met >= usual | covariate


@given(st.data())
def test_any_cut_of_blocks_gives_the_same_bits(data: st.DataObject) -> None:
    """Blocks with prices missing, whole holes and adjustments: one batch or many, the bits are the same."""
    price = st.sampled_from([1.0, 2.5, None])
    block = st.builds(tick, NAMES, st.integers(0, 9), st.lists(price, min_size=3, max_size=3))
    other = st.builds(split, NAMES, st.integers(0, 9))
    lines = data.draw(st.lists(block | block | other, max_size=30))
    whole, parts = (Core(BLOCKS, max_series=3, rules=RuleConfig()) for _ in range(2))
    together = take(whole, lines)
    apart = [take(parts, part) for part in cut(lines, data.draw(SIZES))]
    assert gave([together]) == gave(apart)
    assert carried(whole) == carried(parts)


@given(LINES, RULES)
def test_what_is_replayed_is_what_was_walked(lines: list[bytes], rules: RuleConfig) -> None:
    """The events alone, as they go to disk, give every model the same states and forecasts again."""
    first, again = strict(rules), strict(rules)
    done = [take(first, part) for part in cut(lines, [7])]
    events = [p.events for p in done if len(p.events)]
    if not events:
        return
    joined = Events.joined(events)
    stored = Events.from_bytes(joined.to_bytes(), len(joined), first.layout)
    again.book.add(first.book.names)
    for states in (again.serving, *again.beside.values()):
        states.seat(first.book.names)
    walked = again.replay(again.serving, stored)
    again.replay(again.beside["plain"], stored)
    again.book.note(stored, first.book.newest)
    assert walked.quantile[stored.accepted].tobytes() == b"".join(p.quantile.tobytes() for p in done)
    assert carried(first) == carried(again)


# ------------------------------------------------------------------------------------------- the model, and its bits


@given(TICKS)
def test_refused_ticks_leave_no_trace(ticks: list[Tick]) -> None:
    """A stream that saw only the accepted ticks has the same bits and made the same calls."""
    first, second = begin(3), begin(3)
    SESSION.calls.clear()
    everything = apply(first, ticks)
    calls = SESSION.calls.copy()
    SESSION.calls.clear()
    accepted = apply(second, [ticks[i] for i in everything.tick.tolist()])
    assert not accepted.reason.any()
    second.book.newest = first.book.newest  # a name that is refused still has a time that may be
    assert carried(first) == carried(second)
    assert everything.quantile.tobytes() == accepted.quantile.tobytes()
    assert calls == SESSION.calls


@given(LINES, RULES)
def test_a_refused_line_moves_no_state_of_a_model(lines: list[bytes], rules: RuleConfig) -> None:
    """Without the dead letters every model has the same states, and the accepted ticks the same forecasts.

    What a refused tick may leave behind is its key, and the level that the next one can confirm.
    """
    first, second = strict(rules), strict(rules)
    done = take(first, lines)
    kept = [line for line, reason in zip(lines, done.reason.tolist(), strict=True) if reason < DEAD]
    lenient = RuleConfig(grid="accept", jump="accept", covariates=rules.covariates)
    second = strict(lenient)
    again = take(second, kept)
    assert again.quantile.tobytes() == done.quantile.tobytes()
    assert first.book.names == second.book.names
    for one, other in zip(
        (first.serving, *first.beside.values()), (second.serving, *second.beside.values()), strict=True
    ):
        arrays, others = one.arena.arrays(), other.arena.arrays()
        assert [k for k in arrays if k != "held" and arrays[k].tobytes() != others[k].tobytes()] == []


@given(TICKS)
def test_a_batch_equals_the_model_stepped_by_hand(ticks: list[Tick]) -> None:
    """Each forecast is that of a loop that steps one series at a time, in a grain of its own."""
    done = apply(begin(), ticks)
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
        walked = done.walked[SERVING]
        assert forecast.quantile[0].tobytes() == done.quantile[k].tobytes()
        assert forecast.loc[0, 0].tobytes() == walked.loc[k, 0].tobytes()
        assert forecast.scale[0, 0].tobytes() == walked.scale[k, 0].tobytes()


@given(TICKS)
def test_the_forecast_before_each_tick_is_told_with_it(ticks: list[Tick]) -> None:
    """Beside the forecast made after a tick stands the first step of the one made before it, NaN at the first tick."""
    done = apply(begin(), ticks)
    last: dict[str, np.ndarray] = {}
    for k, i in enumerate(done.tick.tolist()):
        name = ticks[i][0]
        before = done.walked[SERVING].before[0][k]
        expected = last.get(name, np.full(before.shape, np.nan))
        assert before.tobytes() == expected.tobytes()
        last[name] = done.quantile[k, 0]


def test_one_call_of_the_model_for_each_round() -> None:
    """A batch costs as many calls as its busiest series has ticks, each with the series that are left."""
    ticks = [(name, US + h * HOUR, 1.0 + h) for h in range(4) for name in ["A", "B", "C"][: 3 - h // 2]]
    SESSION.calls.clear()
    apply(begin(), ticks)
    assert SESSION.calls == [3, 3, 2, 2]


def test_a_batch_of_bad_ticks_does_not_reach_the_model() -> None:
    """Nothing accepted, nothing called, nothing carried."""
    target = begin()
    SESSION.calls.clear()
    done = apply(target, [("A", US, math.nan), ("A", US, None), ("A", US, -1.0), ("", US, 1.0)])
    assert not SESSION.calls
    assert target.book.names == []
    assert len(done.tick) == len(done.quantile) == len(done.events) == 0
    assert len(apply(target, []).tick) == 0


@pytest.mark.parametrize(
    ("given_tick", "reason"),
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
        (("A", US + 3653 * 24 * HOUR + 32 * 24 * HOUR, 2.0), Reason.FUTURE),
        (("B", US, 1.0), Reason.LIMIT),
    ],
)
def test_a_tick_is_refused_for_its_reason(given_tick: Tick, reason: Reason) -> None:
    """Alone or among good ticks, the reason is the same and the state of its series keeps its bits."""
    alone, among = begin(1), begin(1)
    for target in (alone, among):
        apply(target, [("A", US, 2.0)])
    before = carried(alone)
    assert apply(alone, [given_tick]).reason.tolist() == [reason]
    assert carried(alone) == before
    good: Tick = ("A", US + HOUR, 4.0)
    assert apply(among, [given_tick, good]).reason.tolist() == [reason, 0]
    apply(alone, [good])
    assert carried(alone) == carried(among)


def test_a_far_future_tick_does_not_block_later_ones() -> None:
    """A time that no clock shows is refused and never becomes the last time of its series."""
    far = US + 100 * 365 * 24 * HOUR
    done = apply(
        begin(), [("A", US, 1.0), ("A", LAST_US + 62 * 365 * 24 * HOUR, 1.0), ("A", far, 1.0), ("A", US + 1, 1.0)]
    )
    assert done.reason.tolist() == [0, Reason.TIME, Reason.FUTURE, 0]


def test_many_series_keep_their_states_while_the_arrays_grow() -> None:
    """Series that arrive one after the other have the states of series that arrived together."""
    names = [f"S{i}" for i in range(300)]
    slow, fast = begin(), begin()
    for i, name in enumerate(names):
        apply(slow, [(name, US, 1.0 + i)])
    apply(fast, [(name, US, 1.0 + i) for i, name in enumerate(names)])
    assert carried(slow) == carried(fast)


def test_a_bad_series_leaves_its_neighbours_alone() -> None:
    """Among many series, one that sends garbage changes no bit of the others."""
    good: list[Tick] = [(f"S{i}", US + h * HOUR, 1.0 + i + h) for h in range(3) for i in range(50)]
    bad: list[Tick] = [("S7", US, 1e30), ("S7", US, -3.0), ("S7", US, math.inf)] * 20
    clean, dirty = begin(), begin()
    apply(clean, good)
    mixed = [tick for pair in zip(good, (bad * 3)[: len(good)], strict=True) for tick in pair]
    apply(dirty, mixed)
    assert carried(clean) == carried(dirty)


@pytest.mark.parametrize("failing_name", ["serving", "plain"])
def test_a_failing_model_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch, failing_name: str) -> None:
    """When a later round fails, of any model, nothing of the batch is carried, and another can be given."""
    target, other = strict(OPEN, 9), strict(OPEN, 9)
    for x in (target, other):
        take(x, [tick("AAA", 0, **BESIDE)])
    before = carried(target)
    batch = [tick("AAA", 1, **BESIDE), tick("BBB", 0, **BESIDE), tick("AAA", 2, **BESIDE)]
    session = READING if failing_name == "serving" else SESSION
    step, calls = session.step, []

    def failing(observation: Observation, state: State) -> tuple[Forecast, State]:
        calls.append(1)
        if len(calls) == 2:
            raise ModelError("the runtime gave up")
        return step(observation, state)

    with monkeypatch.context() as patch:
        patch.setattr(session, "step", failing)
        with pytest.raises(ModelError, match="gave up"):
            take(target, batch)
    assert carried(target) == before
    different = [tick("new", 0, **BESIDE), *batch]
    assert gave([take(target, different)]) == gave([take(other, different)])
    assert carried(target) == carried(other)


# --------------------------------------------------------------------------------------------------------- the rules


def reasons(core: Core, lines: list[bytes]) -> list[str]:
    """Apply lines as one batch and give the codes of their reasons."""
    return [Reason(r).code for r in take(core, lines).reason.tolist()]


def plain(**rules: object) -> Core:
    """Begin a stream of the model of returns under some rules."""
    return Core(RETURNING, max_series=9, rules=RuleConfig(**rules))  # type: ignore[arg-type]


def test_a_lone_outlier_is_refused_and_a_confirmed_level_is_taken() -> None:
    """Held prices move nothing; the next tick takes the new level, or shows that the outlier was one."""
    held = plain(jump_scales=10.0)
    assert reasons(held, [tick(hour=0), tick(hour=1, price=200.0), tick(hour=2)]) == ["accepted", "jump", "accepted"]
    lone = carried(held)
    clean = plain(jump_scales=10.0)
    take(clean, [tick(hour=0), tick(hour=2)])
    assert carried(clean)[2][1] == lone[2][1]  # type: ignore[index]
    moved = [tick(hour=3, price=200.0), tick(hour=4, price=201.0), tick(hour=5, price=200.5), tick(hour=6)]
    assert reasons(held, moved) == ["jump", "accepted", "accepted", "jump"]


def test_an_outlier_is_confirmed_by_the_next_tick_only() -> None:
    """A tick in between that lies at the forecast forgets it; another outlier takes its place."""
    held = plain(jump_scales=10.0)
    forgotten = [tick(hour=0), tick(hour=1, price=200.0), tick(hour=2), tick(hour=3, price=200.0)]
    assert reasons(held, forgotten) == ["accepted", "jump", "accepted", "jump"]
    replaced = [tick(hour=4, price=400.0), tick(hour=5, price=200.0), tick(hour=6, price=200.0)]
    assert reasons(held, replaced) == ["jump", "jump", "accepted"]


@pytest.mark.parametrize(("jump", "told"), [("accept", "accepted"), ("reject", "jump"), ("hold", "jump")])
def test_a_jump_is_taken_held_or_refused(jump: str, told: str) -> None:
    """What is done about a distant price is a setting; refusing goes on for as long as the price stays there."""
    core = plain(jump=jump, jump_scales=10.0)
    assert reasons(core, [tick(hour=0), tick(hour=1, price=200.0)]) == ["accepted", told]
    assert reasons(core, [tick(hour=2, price=200.0)]) == ["jump" if jump == "reject" else "accepted"]


@pytest.mark.parametrize(
    ("bar", "hours", "told"),
    [
        ("1h", 1, "accepted"),
        ("1h", 3, "accepted"),
        ("1h", 0.5, "off_grid"),
        ("1h", 1 + 1e-6, "off_grid"),
        ("15m", 0.25, "accepted"),
        ("15m", 0.2, "off_grid"),
        ("1d", 24, "accepted"),
        ("1d", 23, "accepted"),
        ("1d", 25, "accepted"),
        ("1d", 12, "accepted"),
        ("1d", 11, "off_grid"),
        ("1d", 24.5, "off_grid"),
    ],
)
def test_ticks_lie_on_the_bars_of_the_model(bar: str, hours: float, told: str) -> None:
    """Whole bars from the last accepted tick; above an hour whole hours of half a bar at least: days change length."""
    session = Session(model_bytes(metadata(grid=bar)))
    lines = [tick(hour=0), tick(hour=hours)]
    assert reasons(Core(session, max_series=1, rules=RuleConfig()), lines) == ["accepted", told]
    assert reasons(Core(session, max_series=1, rules=RuleConfig(grid="accept")), lines) == ["accepted", "accepted"]


def test_the_bars_are_counted_from_the_last_accepted_tick() -> None:
    """A tick off the bars uses up its key and moves nothing; the next one on them is taken."""
    core = plain()
    lines = [tick(hour=0), tick(hour=1.5), tick(hour=1.5), tick(hour=1), tick(hour=2), tick(hour=2.5)]
    assert reasons(core, lines) == ["accepted", "off_grid", "duplicate", "late", "accepted", "off_grid"]


def test_a_closed_stream_serves_the_series_of_the_fit() -> None:
    """Other names are unknown, and take no place; an open one takes any."""
    lines = [tick("AAA"), tick("other"), tick("BBB"), tick("../x")]
    assert reasons(plain(series="closed"), lines) == ["accepted", "unknown", "accepted", "name"]
    assert reasons(plain(), lines) == ["accepted", "accepted", "accepted", "name"]


def test_a_time_lies_not_too_far_beyond_all_before() -> None:
    """The bound is the latest time so far, or the model's cut-off; each that passes moves it on."""
    core = Core(SESSION, max_series=9, rules=RuleConfig(future_days=10))  # its cut-off is 30 days after `US`
    days = [41, 39, 49, 60, 59, 58]
    told = ["future", "accepted", "accepted", "future", "accepted", "accepted"]
    lines = [tick(f"S{k}", 24 * day) for k, day in enumerate(days)]
    assert reasons(core, lines) == told
    single = Core(SESSION, max_series=9, rules=RuleConfig(future_days=10))
    assert [reasons(single, [line])[0] for line in lines] == told
    assert single.book.newest == core.book.newest == US + 59 * 24 * HOUR


def test_the_newest_time_is_that_of_a_tick() -> None:
    """Where only times beyond the bound came, none has passed: the cut-off of the model is no tick."""
    core = Core(SESSION, max_series=9, rules=RuleConfig(future_days=10))
    before = core.book.newest
    assert reasons(core, [tick("A", 24 * 99)]) == ["future"]
    assert core.book.newest == before
    assert reasons(core, [tick("A", 24 * 99), tick("A", 1)]) == ["future", "accepted"]
    assert core.book.newest == US + HOUR


@pytest.mark.parametrize(("covariates", "told"), [("reject", "covariate"), ("last", "accepted"), ("hold", "accepted")])
def test_a_tick_without_its_covariates(covariates: str, told: str) -> None:
    """It is refused; or has the forecast of a tick with the last ones, marked; or leaves the state as it was."""
    core = strict(RuleConfig(covariates=covariates))  # type: ignore[arg-type]
    take(core, [tick(hour=0, **BESIDE)])
    before = {k: x[0].copy() for k, x in core.serving.arena.arrays().items()}
    done = take(core, [tick(hour=1, price=101.0)])
    assert Reason(int(done.reason[0])).code == told
    after = {k: x[0] for k, x in core.serving.arena.arrays().items()}
    state = [k for k in after if k.startswith("state.")]
    assert all((after[k] == before[k]).all() for k in state) == (covariates != "last")
    if covariates == "last":
        other = strict(RuleConfig())
        take(other, [tick(hour=0, **BESIDE)])
        assert take(other, [tick(hour=1, price=101.0, **BESIDE)]).quantile.tobytes() == done.quantile.tobytes()
        assert done.events.flags[0] & FALLBACK


def test_the_last_covariates_are_those_of_a_tick_that_was_whole() -> None:
    """A tick with some of them changes nothing of what is filled in, in one batch as in many."""
    rules = RuleConfig(covariates="last")
    half = {"load": 7.0}
    lines = [tick(hour=0, **BESIDE), tick(hour=1, **half), tick(hour=2), tick(hour=3, **BESIDE)]
    done = take(strict(rules), lines)
    assert (done.events.flags & FALLBACK).tolist() == [0, FALLBACK, FALLBACK, 0]
    assert (done.events.past == 1.0).all()


def test_a_split_halves_what_is_carried() -> None:
    """After an adjustment by one half, half prices give half of the forecasts of the series without a split."""
    rng = np.random.default_rng(3)
    price = 100 * np.exp(0.01 * rng.standard_normal(40)).cumprod()
    whole, cut_core = plain(jump_scales=10.0), plain(jump_scales=10.0)
    unsplit = take(whole, [tick(hour=h, price=float(p)) for h, p in enumerate(price)])
    lines = [tick(hour=h, price=float(p if h < 20 else p / 2)) for h, p in enumerate(price)]
    done = take(cut_core, [*lines[:20], split(hour=20), *lines[20:]])
    assert Counter(done.reason.tolist()) == {0: 40, Reason.ADJUSTED: 1}
    assert not unsplit.reason.any()
    np.testing.assert_allclose(done.quantile[20:], unsplit.quantile[20:] / 2, rtol=1e-6)
    assert done.quantile[:20].tobytes() == unsplit.quantile[:20].tobytes()
    without = plain(jump_scales=10.0)
    assert "jump" in reasons(without, lines)


def test_an_adjustment_reaches_what_is_held() -> None:
    """A jump that waits for its confirmation is confirmed at the adjusted level."""
    core = plain(jump_scales=10.0)
    lines = [tick(hour=0), tick(hour=1, price=200.0), split(hour=2), tick(hour=2, price=100.0)]
    assert reasons(core, lines) == ["accepted", "jump", "adjusted", "accepted"]


@pytest.mark.parametrize("factor", [1e-19, 1.5e19])
def test_an_adjustment_that_leads_out_of_the_domain_is_refused(factor: float) -> None:
    """However often it comes, prices carried stay ones that the model can read, and ticks go on."""
    core = plain()
    far = [split(hour=hour, factor=factor) for hour in range(1, 40)]
    assert reasons(core, [tick(hour=0), *far]) == ["accepted", *["domain"] * len(far)]
    assert reasons(core, [split(hour=40), tick(hour=40, price=50.0)]) == ["adjusted", "accepted"]
    assert core.serving.arena["count"][0] == 2
    never = plain()
    take(never, [tick(hour=0), split(hour=40), tick(hour=40, price=50.0)])
    assert core.serving.arena["quantile"][0].tobytes() == never.serving.arena["quantile"][0].tobytes()


def test_an_adjustment_comes_before_the_ticks_of_its_time() -> None:
    """Then it is taken once; later it is out of order, and another factor is a conflict."""
    core = plain()
    lines = [split("never"), tick(hour=0), split(hour=1), split(hour=1), split(hour=1, factor=0.25)]
    assert reasons(core, lines) == ["unknown", "accepted", "adjusted", "duplicate", "conflict"]
    assert reasons(core, [split(hour=1, factor=0.25)]) == ["conflict"]
    assert reasons(core, [split(hour=1)]) == ["duplicate"]
    assert reasons(core, [tick(hour=1, price=50.0), split(hour=1), split(hour=0)]) == [
        "accepted",
        "out_of_order",
        "late",
    ]


@pytest.mark.parametrize("factor", [1e-18, 1e16])
def test_a_factor_out_of_the_domain_leaves_no_trace(factor: float) -> None:
    """A factor that would carry the last price beyond what the model can read is refused, and forecasts go on."""
    core, other = begin(), begin()
    assert reasons(core, [tick(hour=0), split(hour=1, factor=factor)]) == ["accepted", "domain"]
    reasons(other, [tick(hour=0)])
    given, expected = (take(c, [tick(hour=2)]).quantile for c in (core, other))
    assert np.isfinite(given).all()
    assert np.array_equal(given, expected)


def test_sequences_order_the_ticks_of_one_time() -> None:
    """A later sequence is taken, an earlier one is out of order, the same one a duplicate or a conflict."""
    core = plain(grid="accept")
    lines = [
        tick(sequence=1),
        tick(sequence=3, price=101.0),
        tick(sequence=2, price=101.0),
        tick(sequence=3, price=101.0),
        tick(sequence=3, price=102.0),
        tick(hour=1, price=102.0),
    ]
    assert reasons(core, lines) == ["accepted", "accepted", "out_of_order", "duplicate", "conflict", "accepted"]


def test_a_series_is_warming_until_it_has_shown_enough() -> None:
    """The mark is set by the count of accepted ticks of each series, and goes when `burn_in` is reached."""
    core = strict(OPEN)
    lines = [tick(name, h, **BESIDE) for h in range(4) for name in ("AAA", "BBB")[: 2 - h // 2]]
    done = take(core, [*lines, split("AAA", 9)])
    warming = (done.events.flags & WARMING) > 0
    assert warming.tolist() == [True, True, True, True, False, False, False]


def test_a_model_is_stale_by_the_time_of_the_tick_alone() -> None:
    """The mark is set by the origin time less the end of the data in the fit, beyond the age and not at it."""
    session = Session(model_bytes())
    end = (session.metadata.cutoff_us - US) // HOUR
    for expires, stale in ((None, [False] * 4), (48 * HOUR, [False, False, False, True])):
        core = Core(session, max_series=10, expires_us=expires)
        done = take(core, [tick("AAA", 0), tick("AAA", end), tick("AAA", end + 48), tick("BBB", end + 49)])
        assert ((done.events.flags & STALE) > 0).tolist() == stale


def test_events_are_numbered_within_their_series() -> None:
    """Ticks taken in and adjustments count from 1, refused ones have no number, and a cut does not show."""
    core = plain(jump_scales=10.0)
    first = take(core, [tick("A", 0), tick("B", 0), tick("A", 1, 500.0), split("A", 2), tick("B", 1)])
    assert first.events.number.tolist() == [1, 1, 0, 2, 2]
    assert take(core, [tick("A", 2, 50.0), tick("B", 2)]).events.number.tolist() == [3, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30, unique=True))
def test_a_chain_takes_events_in_their_order(keys: list[tuple[int, int]]) -> None:
    """Events that were admitted are put in rounds again: all of them, each series in the order of its keys."""
    keys = sorted(keys, key=lambda key: key[1])
    slot, time = (np.array(x, np.int64) for x in zip(*keys, strict=True))
    ticks = Ticks.of([("A", US + int(t) * HOUR, 1.0) for t in time])
    plan = chain(Events.of(ticks, slot))
    assert sorted(plan.event.tolist()) == list(range(len(keys)))
    for one in np.unique(slot):
        mine = [i for i in plan.event.tolist() if slot[i] == one]
        assert mine == sorted(mine)
