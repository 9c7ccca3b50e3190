"""The book says which series there are, and which ticks can become events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import metadata
from ticking import HOUR, US

from models.errors import ConfigError
from pipeline.book import NEVER, Admission, Book
from pipeline.events import Events
from pipeline.rules import RuleConfig
from pipeline.ticks import PLAIN, Reason, Ticks

MODEL = metadata()


def book(max_series: int = 9, **rules: object) -> Book:
    """Begin a book of single prices."""
    return Book(PLAIN, RuleConfig(**rules), max_series)  # type: ignore[arg-type]


def keep(target: Book, ticks: Ticks) -> Admission:
    """Admit ticks and keep what was admitted, as if no walk refused any."""
    admitted = target.admit(ticks, MODEL)
    target.add(admitted.new)
    target.note(admitted.events, admitted.newest)
    return admitted


@pytest.mark.parametrize("name", ["A", "^GSPC", "EURUSD=X", "BTC/USDT", "NASDAQ:AAPL", "BRK.B", "a_b-c~d", "x" * 64])
def test_names_of_series_in_use_are_taken(name: str) -> None:
    """Tickers, currency pairs and contracts are legal names."""
    target = book()
    assert keep(target, Ticks.of([(name, US, 1.0)])).reason.tolist() == [0]
    assert (target.names, target.slot(name), len(target)) == ([name], 0, 1)


@pytest.mark.parametrize(
    "name",
    [
        *("", " A", "A ", "x" * 65, "../x", "a/../b", "a//b", "/a", "a/", "a/.b", ".a", "=cmd()", "-a"),
        *("a\x00b", "a\nb", "é", "\u202ea", "🙂", "a\n", '"', "\\", "%s"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    """Paths, formulas, control characters, quotes and letters outside ASCII are no names."""
    target = book()
    assert keep(target, Ticks.of([(name, US, 1.0)])).reason.tolist() == [Reason.NAME]
    assert (target.names, target.slot(name)) == ([], None)


def test_the_limit_on_series_is_reached_in_order_of_arrival() -> None:
    """Bad ticks do not take a place; after the limit, series that have one go on."""
    target = book(2)
    prices = {"A": [np.nan, 1.0], "B": [1.0, 2.0], "C": [1.0], "D": [1.0]}
    order = ["A", "B", "C", "D", "A", "B"]
    ticks = Ticks.of([(name, US + k, prices[name].pop(0)) for k, name in enumerate(order)])
    told = [Reason.NOT_FINITE, 0, 0, Reason.LIMIT, Reason.LIMIT, 0]
    assert keep(target, ticks).reason.tolist() == told
    assert target.names == ["B", "C"]


def test_what_is_admitted_is_not_kept_yet() -> None:
    """Until `add` and `note`, the same ticks are admitted again and alike."""
    target = book()
    ticks = Ticks.of([("A", US, 1.0), ("B", US, 2.0), ("A", US + 1, 3.0)])
    first, second = target.admit(ticks, MODEL), target.admit(ticks, MODEL)
    assert first.events.to_bytes() == second.events.to_bytes()
    assert first.new == second.new == ["A", "B"]
    assert (len(target), target.newest) == (0, NEVER)


@given(st.lists(st.tuples(st.sampled_from("ABCDEF"), st.integers(0, 9)), max_size=30))
def test_a_slot_is_the_place_in_the_order_of_first_events(ticks: list[tuple[str, int]]) -> None:
    """Names keep their slots, and each slot holds the last key of its own series."""
    target = book(4)
    last = {
        name: hour
        for name, hour in ticks
        if not keep(target, Ticks.of([(name, US + hour * HOUR, 1.0 + hour)])).reason[0]
    }
    assert target.names == list(last)
    for slot, (name, hour) in enumerate(last.items()):
        assert target.slot(name) == slot
        assert target.arena["time"][slot] == US + hour * HOUR
        assert target.arena["price"][slot, 0] == 1.0 + hour


@given(st.lists(st.integers(0, 4), max_size=30), st.lists(st.integers(0, 4), max_size=10))
def test_numbers_count_the_events_of_each_series(before: list[int], slots: list[int]) -> None:
    """The number of an event is one more than what its series had shown, in the order of arrival."""
    target = book()
    target.add("ABCDE")
    shown = dict.fromkeys(range(5), 0)
    for slot in before:
        shown[slot] += 1
    target.arena["shown"][:5] = list(shown.values())
    expected = []
    for slot in slots:
        shown[slot] += 1
        expected.append(shown[slot])
    assert target.number(np.array(slots, np.int64)).tolist() == expected


@pytest.mark.parametrize(
    "wrong", [{"future_days": 0}, {"future_days": 10**6}, {"jump_scales": 1.0}, {"jump_scales": np.nan}]
)
def test_rules_out_of_range_are_refused(wrong: dict) -> None:
    """The message names the setting and its range."""
    with pytest.raises(ConfigError, match=f"stream.rules.{next(iter(wrong))} is .*expected"):
        RuleConfig(**wrong)


def test_an_admission_of_nothing_has_no_plan() -> None:
    """No tick, or only refused ones: no events, and the book is as it was."""
    for ticks in (Ticks.of([]), Ticks.of([("../x", US, 1.0)])):
        admitted = book().admit(ticks, MODEL)
        assert admitted.plan is None
        assert isinstance(admitted.events, Events)
        assert len(admitted.events) == len(admitted.index) == len(admitted.new) == 0
