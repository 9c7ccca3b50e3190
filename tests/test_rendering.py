"""Forecasts and dead letters are JSON lines that read back to what was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticking import US

from models.observation import LEVELS, MEDIAN
from pipeline.events import FALLBACK, STALE, WARMING, Events
from pipeline.rendering import TEXT_BYTES, Label, dead_letters, forecasts
from pipeline.ticks import DEAD, SENTENCES, Reason, Ticks

LABEL = Label(model="gru", sha256="0123456789ab", version=4)


def shown(slots: list[int], times: list[int]) -> Events:
    """Make events of these series and times."""
    ticks = Ticks.of([("x", time, 1.0) for time in times])
    return Events.of(ticks, np.array(slots, np.int64))


@pytest.mark.parametrize("block", [1, 3])
@given(data=st.data())
def test_numbers_read_back_to_the_same_bits(block: int, data: st.DataObject) -> None:
    """Every finite number, of every step, level and price, beside its series, time, sequence and model."""
    count, steps = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    size = count * steps * block * len(LEVELS)
    flat = data.draw(st.lists(finite, min_size=size, max_size=size))
    quantile = np.array(flat, np.float64).reshape(count, steps, block, len(LEVELS))
    slots = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    events = shown(slots, [US + k for k in range(count)])
    names = ["A", "EURUSD=X", "a%s/b~1"]
    lines = forecasts(names, events, quantile, LABEL)
    assert len(lines) == count
    for k, line in enumerate(lines):
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        record = orjson.loads(line)
        assert record == {
            "series": names[slots[k]],
            "origin_time": f"2024-01-01T00:00:00.{k:06d}Z",
            "sequence": 0,
            "model": "gru",
            "sha256": "0123456789ab",
            "version": 4,
            "median": record["median"],
            "quantiles": record["quantiles"],
        }
        told = quantile[k, :, 0] if block == 1 else quantile[k]
        assert np.array(record["quantiles"]).tobytes() == told.tobytes()
        assert np.array(record["median"]).tobytes() == told[..., MEDIAN].tobytes()


def test_what_is_not_known_is_null() -> None:
    """A price of a block that was never shown has no forecast, and JSON has no NaN."""
    quantile = np.ones((1, 2, 3, len(LEVELS)))
    quantile[0, :, 1] = np.nan
    record = orjson.loads(forecasts(["A"], shown([0], [US]), quantile, LABEL)[0])
    assert record["median"] == [[1.0, None, 1.0]] * 2


@pytest.mark.parametrize(
    ("flags", "marks"),
    [
        *((0, set()), (WARMING, {"warming"}), (FALLBACK, {"fallback"}), (STALE, {"stale"})),
        *((WARMING | FALLBACK, {"warming", "fallback"}), (7, {"warming", "fallback", "stale"})),
    ],
)
def test_marks_stand_where_they_hold(flags: int, marks: set[str]) -> None:
    """A forecast that is not to be relied on says so; others say nothing."""
    events = replace(shown([0], [US]), flags=np.array([flags], np.uint8))
    record = orjson.loads(forecasts(["A"], events, np.ones((1, 1, 1, len(LEVELS))), LABEL)[0])
    assert {name for name in ("warming", "fallback", "stale") if record.get(name) is True} == marks
    assert len(record) == 8 + len(marks)


def test_the_name_of_a_model_may_hold_anything() -> None:
    """Quotes, percent signs and letters of all scripts read back as they were."""
    label = replace(LABEL, model='50 % "é" \\ %s {x}')
    line = forecasts(["A"], shown([0], [US]), np.ones((1, 1, 1, len(LEVELS))), label)[0]
    assert orjson.loads(line)["model"] == label.model


@given(st.lists(st.tuples(st.binary(max_size=40), st.sampled_from(list(Reason))), max_size=8), st.integers(0, 10**9))
def test_dead_letters_are_those_that_are_the_sender_s_fault(lines: list[tuple[bytes, Reason]], first: int) -> None:
    """Number, reason, sentence and text of each refused line, in order; accepted ticks, holes and blanks have none."""
    texts, reasons = [text for text, _ in lines], np.array([int(reason) for _, reason in lines], np.uint8)
    letters = [orjson.loads(letter) for letter in dead_letters(first, texts, reasons)]
    expected = [
        {
            "line": first + k + 1,
            "reason": reason.code,
            "sentence": SENTENCES[reason],
            "text": text.decode("utf-8", "replace"),
        }
        for k, (text, reason) in enumerate(lines)
        if reason >= DEAD
    ]
    assert letters == expected


def test_a_long_line_is_quoted_in_part() -> None:
    """The text ends at the bound, in the middle of a character if it must."""
    (letter,) = dead_letters(0, ["é".encode() * TEXT_BYTES], np.array([Reason.MALFORMED], np.uint8))
    assert orjson.loads(letter)["text"] == "é" * (TEXT_BYTES // 2)
    (letter,) = dead_letters(0, [b"x" + "é".encode() * TEXT_BYTES], np.array([Reason.MALFORMED], np.uint8))
    assert orjson.loads(letter)["text"] == "x" + "é" * ((TEXT_BYTES - 1) // 2) + "\ufffd"
