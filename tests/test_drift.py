"""A drift is seen soon after it comes and hardly ever where there is none, however ticks were cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcomes import in_pieces, rows_of, waiting
from scipy import special
from served import metadata

from models.errors import ConfigError, IntegrityError
from models.observation import LEVELS
from pipeline.drift import Drift, DriftConfig
from pipeline.quantile_scores import place
from pipeline.scoreboard import Moments, Scoreboard
from pipeline.scoring import COLUMNS, Scorer
from pipeline.student import Student

NAMES = ("champion", "constant")
SOON = DriftConfig(threshold=3.0, least=10, slack=0.05, coverage=0.01, distance=0.01, loss=0.001)
"""Settings under which noise alone gives many events."""


def simulate(
    seed: int, count: int, series: int = 5, change: int | None = None, times: float = 1, by: float = 0
) -> Moments:
    """Draw moments of calibrated t(5) forecasts of correlated series; from `change` on moves are larger, or shifted."""
    rng, df = np.random.default_rng(seed), 5.0
    normal = np.sqrt(0.3) * rng.normal(size=(count, 1)) + np.sqrt(0.7) * rng.normal(size=(count, series))
    z = special.stdtrit(df, special.ndtr(normal))
    z[change if change is not None else count :] *= times
    z[change if change is not None else count :] += by
    width = np.exp(0.3 * np.sin(np.arange(count) / 50))[:, None]
    levels = special.stdtrit(df, LEVELS)
    middle, far = place(z.ravel(), np.broadcast_to(levels, (z.size, len(LEVELS))))
    inside = (levels[LEVELS.index(0.1)] <= z) & (z <= levels[LEVELS.index(0.9)])
    student, row = Student([df]), np.zeros(z.size, np.int64)
    mean = np.full((count, 2, len(COLUMNS)), np.nan)
    mean[:, 0, COLUMNS.index("crps")] = (student.scores(row, z.ravel())[0].reshape(z.shape) * width).mean(1)
    mean[:, 1, COLUMNS.index("crps")] = student.scores(row, (z * width).ravel())[0].reshape(z.shape).mean(1)
    for name, x in (("covered_80", inside), ("place", middle), ("far", far)):
        mean[:, 0, COLUMNS.index(name)] = x.reshape(z.shape).mean(1)
    return Moments(time=np.arange(count) * 60 + 7, outcomes=np.full(count, float(series)), mean=mean)


def piece(moments: Moments, rows: slice) -> Moments:
    """Take some moments."""
    return Moments(time=moments.time[rows], outcomes=moments.outcomes[rows], mean=moments.mean[rows])


def by_hand(moments: Moments, config: DriftConfig) -> list[dict[str, Any]]:
    """Run the test as its docstring writes it down, one watch and one moment at a time."""
    found = []
    for what, index, expected, tolerance in (
        ("coverage", "covered_80", 0.8, config.coverage),
        ("location", "place", 0.5, config.distance),
        ("spread", "far", 0.25, config.distance),
        ("loss", "crps", 0.0, config.loss),
    ):
        values = moments.mean[:, 0, COLUMNS.index(index)] - expected
        unit = np.ones(len(moments))
        if what == "loss":
            unit = moments.mean[:, 1, COLUMNS.index("crps")]
            values = values - unit
        signs = (1,) if what == "loss" else (1, -1)
        first, g, since = 0, dict.fromkeys(signs, 0.0), dict.fromkeys(signs, 0)
        for t in range(len(moments)):
            past, one = values[first:t], unit[first:t]
            if len(past) < config.least:
                since = dict.fromkeys(signs, t + 1)
                continue
            sigma = max(past.std(ddof=1), tolerance * one.mean())
            passed = max(tolerance * one.mean(), config.slack * sigma)
            for sign in signs:
                g[sign] = max(0.0, g[sign] + (sign * values[t] - passed) / sigma)
                since[sign] = since[sign] if g[sign] > 0 else t + 1
            if max(g.values()) > config.threshold:
                sign = max(g, key=lambda s: g[s])
                run = slice(since[sign], t + 1)
                mean = values[run].mean() / unit[first : t + 1].mean()
                found.append((t, what, since[sign], expected + mean, g[sign], t + 1 - since[sign]))
                first, g = t + 1, dict.fromkeys(signs, 0.0)
                since = dict.fromkeys(signs, t + 1)
    return sorted(found, key=lambda e: (e[0], ("coverage", "location", "spread", "loss").index(e[1])))


@pytest.mark.parametrize("seed", range(6))
def test_events_are_those_of_the_recursion(seed: int) -> None:
    """Cumulative sums over running minima give the events of the textbook recursion, with their numbers."""
    moments = simulate(seed, 600, change=300, times=1.5, by=0.3)
    events, expected = Drift(NAMES, SOON).take(moments), by_hand(moments, SOON)
    assert len(expected) > 5
    assert [(e["time"], e["what"]) for e in events] == [(moments.time[t], what) for t, what, *_ in expected]
    for event, (_, _, since, value, statistic, count) in zip(events, expected, strict=True):
        assert (event["since_time"], event["moments"]) == (moments.time[since], count)
        assert event["outcomes"] == 5 * count
        assert event["value"] == pytest.approx(value, rel=1e-9)
        assert event["statistic"] == pytest.approx(statistic, rel=1e-9)
        assert event["statistic"] > event["threshold"] == 3.0
        assert event.get("against") == ("constant" if event["what"] == "loss" else None)


@example(cuts=list(range(300)), seed=0)
@given(st.lists(st.integers(0, 300), max_size=10), st.integers(0, 8))
def test_no_bit_depends_on_the_batches(cuts: list[int], seed: int) -> None:
    """However moments are cut, events and carried bytes are the same."""
    moments = simulate(seed, 300, change=150, times=1.5)
    whole, cut = Drift(NAMES, SOON), Drift(NAMES, SOON)
    together = whole.take(moments)
    assert [e for p in in_pieces(300, cuts, lambda rows: cut.take(piece(moments, rows))) for e in p] == together
    assert {k: x.tobytes() for k, x in whole.arrays().items()} == {k: x.tobytes() for k, x in cut.arrays().items()}


@example(cuts=list(range(500)))
@given(st.lists(st.integers(0, 500), max_size=8))
def test_no_bit_depends_on_the_batches_from_tick_to_event(cuts: list[int]) -> None:
    """Scores, totals and watches together give the same bytes and events for every cutting of the same ticks."""
    rng, count = np.random.default_rng(4), 500
    models = {"champion": metadata(df=(5.0,)), "constant": metadata(df=(float("inf"),))}
    row, last, time = rng.integers(0, 3, count), rng.uniform(1, 50, count), np.cumsum(rng.integers(0, 2, count))
    forecasts = [waiting(rng, m, row, last) for m in models.values()]
    price = last * np.exp(0.03 * rng.standard_t(4, count))
    scorer = Scorer(models)

    def run(edges: list[int]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        board, drift = Scoreboard(scorer.names), Drift(scorer.names, SOON)

        def take(rows: slice) -> list[dict[str, Any]]:
            scores = scorer.score([rows_of(f, rows) for f in forecasts], price[rows, None], last[rows, None])
            return drift.take(board.take(time[rows], scores))

        events = [e for p in in_pieces(count, edges, take) for e in p]
        return events, {name: x.tobytes() for name, x in (board.arrays() | drift.arrays()).items()}

    events, carried = run([])
    assert len(events) > 3
    assert run(cuts) == (events, carried)


def test_forecasts_that_are_right_hardly_ever_alarm() -> None:
    """Of calibrated forecasts there is at most one event in 40 000 moments, all watches together."""
    cases = [(series, seed) for series in (1, 5) for seed in range(4)]
    events = [e for series, seed in cases for e in Drift(NAMES).take(simulate(seed, 5000, series))]
    assert len(events) <= 1


@pytest.mark.parametrize(
    ("times", "by", "watches", "within"),
    [
        (2.0, 0.0, {"coverage"}, 40),
        (0.5, 0.0, {"coverage", "spread"}, 70),
        (1.0, 0.5, {"location"}, 120),
        (1.0, -0.5, {"location"}, 120),
    ],
)
def test_a_change_is_seen_and_named(times: float, by: float, watches: set[str], within: int) -> None:
    """Twice or half the volatility, and shifted moves, are seen within so many moments, with where they began."""
    began = []
    for seed in range(10):
        moments = simulate(seed, 1000, change=500, times=times, by=by)
        seen = next(e for e in Drift(NAMES).take(moments) if e["time"] >= moments.time[500])
        assert seen["time"] <= moments.time[500 + within]
        assert seen["what"] in watches
        assert abs(seen["value"] - seen["expected"]) > 0.05
        began.append(abs(seen["since_time"] - moments.time[500]) / 60)
    assert np.median(began) <= 10


def test_a_champion_that_loses_to_a_reference_is_told() -> None:
    """Where the reference is the right one, its lead becomes an event that names it; the right one itself has none."""
    moments = simulate(0, 3000)
    swapped = moments.mean.copy()
    crps = COLUMNS.index("crps")
    swapped[:, [0, 1], crps] = swapped[:, [1, 0], crps]
    wrong = Moments(time=moments.time, outcomes=moments.outcomes, mean=swapped)
    losses = [e for e in Drift(NAMES, DriftConfig(slack=0.1, loss=0.01)).take(wrong) if e["what"] == "loss"]
    assert losses[0]["against"] == "constant"
    assert losses[0]["value"] > 0.01
    assert not Drift(NAMES, DriftConfig(slack=0.1, loss=0.01)).take(moments)


def test_after_an_event_a_watch_starts_anew() -> None:
    """While a change lasts there is an event, then none for the next `least` moments, then another; others go on."""
    config = DriftConfig(least=50)
    moments = simulate(3, 2000, change=200, times=2.0)
    times = [e["time"] for e in Drift(NAMES, config).take(moments) if e["what"] == "coverage"]
    assert len(times) > 5
    assert min(np.diff(times)) > 50 * 60


def test_prices_that_stand_still_give_no_warning() -> None:
    """Moments without any loss and without spread are counted; the interval that always holds is told."""
    mean = np.zeros((400, 2, len(COLUMNS)))
    mean[:, 0, COLUMNS.index("covered_80")] = 1.0
    mean[:, 0, COLUMNS.index("place")] = 0.5
    mean[:, 0, COLUMNS.index("far")] = 0.25
    still = Moments(time=np.arange(400), outcomes=np.ones(400), mean=mean)
    events = Drift(NAMES).take(still)
    assert {e["what"] for e in events} == {"coverage"}
    assert events[0]["value"] == pytest.approx(1.0)


def test_watches_go_on_from_what_others_gave() -> None:
    """Restored, they give what the first would; what was given before is not changed by what came after."""
    moments = simulate(5, 400, change=200, times=1.5)
    first, second = Drift(NAMES, SOON), Drift(NAMES, SOON)
    first.take(piece(moments, slice(210)))
    kept = first.arrays()
    before = {name: x.tobytes() for name, x in kept.items()}
    later = first.take(piece(moments, slice(210, 400)))
    assert later
    assert {name: x.tobytes() for name, x in kept.items()} == before
    second.restore(kept)
    assert second.take(piece(moments, slice(210, 400))) == later
    with pytest.raises(IntegrityError, match=r"champion\b.*Begin"):
        Drift(("champion",)).restore(kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coverage", 0.0),
        ("coverage", 0.9),
        ("distance", 0.3),
        ("loss", -0.1),
        ("slack", float("nan")),
        ("threshold", 0.0),
        ("threshold", float("inf")),
        ("least", 9),
    ],
)
def test_settings_are_checked(field: str, value: float) -> None:
    """A setting outside its range, or not a number, is refused by name."""
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=f"{field}: expected"):
        DriftConfig(**wrong)
