"""The record of the benchmarks of speed, and the document that is written from it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def loaded(name: str) -> ModuleType:
    """Import a script of the benchmarks as scripts import each other: from their folder."""
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def _beside() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def row(
    ratio: float, *, of: str = "whole", case: str = "a", most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    """Write one case, in which `of` was so many times its floor."""
    record = loaded("record")
    target = record.Target(of=of, over="floor", most=most, least=least)
    values = {"floor": 2.0, of: 2.0 * ratio}
    return record.Case(claim="made up", case=case, unit="us", values=values, targets=(target,)).row()


def test_the_document_has_the_tables_of_the_record() -> None:
    """Nobody has written into the tables by hand, and none was forgotten when the record changed."""
    results = loaded("results")
    text = results.DOCUMENT.read_text(encoding="utf-8")
    assert results.document(text, results.on_record()) == text


def test_every_claim_has_a_script_and_a_place_in_the_document() -> None:
    """What the runner runs is there, says what it is, and is told in the document."""
    bench, results = loaded("bench"), loaded("results")
    text = results.DOCUMENT.read_text(encoding="utf-8")
    assert all(bench.summary(name) for name in bench.CLAIMS)
    assert [name for name in bench.CLAIMS if f"<!-- results: {name} -->" not in text] == []


def test_a_ratio_that_moved_is_named() -> None:
    """A slower one is worse, a faster one better; one within the noise is not named, nor a case that is new."""
    results = loaded("results")
    worse, better = results.moved([row(2.0)], [row(2.4)])
    assert (len(worse), better) == (1, [])
    assert "whole / floor 2.00 -> 2.40" in worse[0]
    assert results.moved([row(2.0)], [row(1.6)]) == ([], [worse[0].replace("2.40", "1.60")])
    assert results.moved([row(2.0)], [row(2.2)]) == ([], [])
    assert results.moved([row(2.0)], [row(9.0, case="b")]) == ([], [])


def test_what_is_to_be_large_is_better_when_it_grows() -> None:
    """How many times faster than another library something is counts the other way round."""
    results = loaded("results")
    for same in ({"least": 300.0}, {"of": "river"}):
        worse, better = results.moved([row(300.0, **same)], [row(600.0, **same)])
        assert (worse, len(better)) == ([], 1)


@pytest.mark.parametrize(("aim", "told"), [({"most": 1.8}, "2.00 (≤ 1.8: short)"), ({"least": 1.5}, "2.00 (≥ 1.5)")])
def test_a_table_says_what_is_aimed_at_and_whether_it_is_reached(aim: dict[str, float], told: str) -> None:
    """A ratio stands beside its target, and falls short in so many letters."""
    assert f"| a | 2.00 | 4.00 | {told} |" in loaded("results").table([row(2.0, **aim)])


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0"), (1234.5, "1,234"), (3.14159, "3.14"), (0.00012345, "0.000123"), (-0.0123, "-0.0123")],
)
def test_a_number_has_three_digits(value: float, told: str) -> None:
    """Large, small and falling: a slope can be negative."""
    assert loaded("record").number(value) == told


def test_a_new_row_takes_the_place_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has one line a case, in the order in which cases came first."""
    results = loaded("results")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.keep([row(1.0), row(2.0, case="b")])
    results.keep([row(3.0)])
    assert [(r["case"], r["ratios"][0]["ratio"]) for r in results.on_record()] == [("a", 3.0), ("b", 2.0)]


def test_what_runs_in_turn_is_timed_by_its_own_clock() -> None:
    """Medians are of each call alone, and the first round does not count."""
    record = loaded("record")
    now, cost = [0.0], {"slow": iter([9.0, 2.0, 2.0, 5.0]), "fast": iter([9.0, 1.0, 1.0, 1.0])}

    def spend(name: str) -> None:
        now[0] += next(cost[name])

    calls = {name: lambda name=name: spend(name) for name in cost}
    assert record.interleaved(calls, rounds=3, clock=lambda: now[0]) == {"slow": 2.0, "fast": 1.0}
