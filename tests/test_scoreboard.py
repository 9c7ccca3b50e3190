"""Totals are plain means, errors are those of moments, and nothing shows how ticks were cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcomes import in_pieces, part_of, scores

from models.errors import ConfigError, IntegrityError
from pipeline.scoreboard import SHOWN, Moments, Scoreboard, ScoreboardConfig
from pipeline.scoring import COLUMNS, Scores

NAMES = ("champion", "last")
N = 400
CONFIG = ScoreboardConfig(moment_us=10, memory=40)


def times(rng: np.random.Generator, count: int = N) -> np.ndarray:
    """Draw times that mostly go up, often in the same moment, now and then late."""
    return np.cumsum(rng.integers(0, 8, count)) - 60 * (rng.random(count) < 0.05)


def filled(count: int = N, answered: float = 0.9) -> tuple[Scoreboard, np.ndarray, Scores, Moments]:
    """Fill a board with one batch."""
    rng = np.random.default_rng(0)
    board, time, drawn = Scoreboard(NAMES, CONFIG), times(rng, count), scores(rng, count, answered=answered)
    return board, time, drawn, board.take(time, drawn)


def by_moment(time: np.ndarray) -> np.ndarray:
    """Number the moments as the docstring says: one is opened by a time later than all before."""
    open_time, number, numbers = -1, -1, []
    for t in (time // CONFIG.moment_us).tolist():
        if t > open_time:
            open_time, number = t, number + 1
        numbers.append(number)
    return np.array(numbers)


def test_means_are_those_of_the_outcomes_that_count() -> None:
    """Each reported mean is the plain mean over the counted outcomes, the open moment included."""
    board, _, drawn, _ = filled()
    report = board.report()
    assert report["outcomes"] == drawn.counted.sum()
    assert report["left_out"]["outcomes"] == (~drawn.counted).sum()
    assert report["left_out"]["last"] == drawn.missing[:, 1].sum()
    for j, name in enumerate(NAMES):
        for score in SHOWN:
            mean = drawn.value[drawn.counted, j, COLUMNS.index(score)].mean()
            assert report["models"][name]["all"][score] == pytest.approx(mean, rel=1e-12)


def test_closed_moments_hold_the_means_of_their_outcomes() -> None:
    """A later time closes a moment, a late one joins the open one, and the last stays open."""
    _, time, drawn, moments = filled()
    kept, time = drawn.value[drawn.counted], time[drawn.counted]
    number = by_moment(time)
    assert len(moments) == number.max()
    assert moments.outcomes.tolist() == np.bincount(number)[:-1].tolist()
    assert (np.diff(moments.time) > 0).all()
    assert not (moments.time % CONFIG.moment_us).any()
    for i in range(len(moments)):
        np.testing.assert_allclose(moments.mean[i], kept[number == i].mean(axis=0), rtol=1e-12)
        assert moments.time[i] == time[number == i].max() // 10 * 10


def test_recent_means_fade_by_the_memory() -> None:
    """Weights of moments fall by e over the memory, a step at a time; the error is that of the weighted sums."""
    board, time, drawn, _ = filled()
    kept, number = drawn.value[drawn.counted], by_moment(time[drawn.counted])
    step = CONFIG.memory // 20
    last = number.max() // step
    weight = np.exp(-(step / CONFIG.memory) * (last - number // step))
    # the open moment counts to the step that it will belong to
    mean = np.average(kept[:, 0, 0], weights=weight)
    assert board.report()["models"]["champion"]["recent"]["crps"] == pytest.approx(mean, rel=1e-12)
    ours, theirs = (np.bincount(number, weights=weight * kept[:, j, 0]) for j in range(2))
    error = np.sqrt(((ours - ours.sum() / theirs.sum() * theirs) ** 2).sum()) / theirs.sum()
    assert board.report()["skill"]["last"]["recent"]["skill_error"] == pytest.approx(error, rel=1e-9)


def test_skill_has_the_error_of_a_ratio_of_moments() -> None:
    """Skill and difference, with their errors, are those computed from the sums of each moment."""
    board, time, drawn, _ = filled()
    crps, number = drawn.value[drawn.counted][:, :, 0], by_moment(time[drawn.counted])
    ours, theirs = (np.bincount(number, weights=crps[:, j]) for j in range(2))
    size = np.bincount(number)
    ratio, difference = ours.sum() / theirs.sum(), (ours - theirs).sum() / size.sum()
    shown = board.report()["skill"]["last"]["all"]
    assert shown["skill"] == pytest.approx(1 - ratio, rel=1e-12)
    assert shown["skill_error"] == pytest.approx(np.sqrt(((ours - ratio * theirs) ** 2).sum()) / theirs.sum(), rel=1e-9)
    assert shown["difference"] == pytest.approx(difference, rel=1e-12)
    error = np.sqrt(((ours - theirs - difference * size) ** 2).sum()) / size.sum()
    assert shown["difference_error"] == pytest.approx(error, rel=1e-9)


def test_series_that_are_copies_are_no_evidence() -> None:
    """Twenty copies of one series have the skill and the error of that series alone."""
    rng = np.random.default_rng(1)
    one = scores(rng, 300)
    time = np.arange(300) * 10
    alone, copied = Scoreboard(NAMES, CONFIG), Scoreboard(NAMES, CONFIG)
    alone.take(time, one)
    many = {name: np.repeat(getattr(one, name), 20, axis=0) for name in ("value", "pit", "counted", "missing")}
    copied.take(np.repeat(time, 20), Scores(**many))
    for name, value in alone.report()["skill"]["last"]["all"].items():
        assert copied.report()["skill"]["last"]["all"][name] == pytest.approx(value, rel=1e-9)


def test_the_error_of_the_skill_is_its_spread() -> None:
    """Over many boards of models that are equally good, skill over its error has a spread of about 1."""
    rng, ratios = np.random.default_rng(2), []
    for _ in range(300):
        board = Scoreboard(NAMES, CONFIG)
        drawn, common = scores(rng, 600), rng.normal(size=(150, 1, 1)) ** 2
        drawn.value[...] += np.repeat(common, 4, axis=0)
        board.take(np.repeat(np.arange(150), 4) * 10, drawn)
        shown = board.report()["skill"]["last"]["all"]
        ratios.append(shown["skill"] / shown["skill_error"])
    assert 0.9 < np.std(ratios) < 1.1
    assert abs(np.mean(ratios)) < 0.2


@example(cuts=list(range(N)), seed=0)
@given(st.lists(st.integers(0, N), max_size=8), st.integers(0, 5))
def test_no_bit_depends_on_the_batches(cuts: list[int], seed: int) -> None:
    """However outcomes are cut, the carried bytes, the closed moments and the report are the same."""
    rng = np.random.default_rng(seed)
    time, drawn = times(rng), scores(rng, N, answered=0.9)
    whole, cut = Scoreboard(NAMES, CONFIG), Scoreboard(NAMES, CONFIG)
    together = whole.take(time, drawn)
    pieces = in_pieces(N, cuts, lambda rows: cut.take(time[rows], part_of(drawn, rows)))
    assert {k: x.tobytes() for k, x in whole.arrays().items()} == {k: x.tobytes() for k, x in cut.arrays().items()}
    for name in ("time", "outcomes", "mean"):
        assert np.concatenate([getattr(p, name) for p in pieces]).tobytes() == getattr(together, name).tobytes()
    assert orjson.dumps(whole.report()) == orjson.dumps(cut.report())


def test_a_board_goes_on_from_what_another_gave() -> None:
    """Restored, it gives what the first would; what was given before is not changed by what came after."""
    rng = np.random.default_rng(3)
    time, drawn = times(rng), scores(rng, N)
    first, second = Scoreboard(NAMES, CONFIG), Scoreboard(NAMES, CONFIG)
    first.take(time[:100], part_of(drawn, slice(100)))
    kept = first.arrays()
    before = {name: x.tobytes() for name, x in kept.items()}
    first.take(time[100:], part_of(drawn, slice(100, N)))
    assert {name: x.tobytes() for name, x in kept.items()} == before
    second.restore(kept)
    second.take(time[100:], part_of(drawn, slice(100, N)))
    assert second.report() == first.report()


def test_totals_of_other_models_are_refused() -> None:
    """Arrays of another number of models are not taken for those of this board."""
    with pytest.raises(IntegrityError, match=r"champion, last.*Begin"):
        Scoreboard(NAMES).restore(Scoreboard(("champion",)).arrays())


def test_a_board_without_outcomes_reports_no_numbers() -> None:
    """Before the first outcome, and for a model without a density, there is None and no warning."""
    board = Scoreboard(NAMES, CONFIG)
    empty = board.report()
    assert (empty["outcomes"], empty["moments"]) == (0, 0)
    assert set(empty["models"]["last"]["all"].values()) | set(empty["skill"]["last"]["recent"].values()) == {None}
    drawn = scores(np.random.default_rng(0), 3)
    drawn.value[:, 1, COLUMNS.index("log_score")] = np.nan
    assert len(board.take(np.array([5, 5, 5]), drawn)) == 0
    shown = board.report()
    assert (shown["outcomes"], shown["moments"]) == (3, 1)
    assert shown["skill"]["last"]["all"]["skill_error"] is None
    assert shown["models"]["last"]["all"]["log_score"] is None
    assert shown["models"]["last"]["all"]["crps"] == pytest.approx(drawn.value[:, 1, 0].mean())
    assert orjson.loads(orjson.dumps(shown)) == shown


@pytest.mark.parametrize(("field", "value"), [("moment_us", 0), ("memory", 19)])
def test_settings_are_checked(field: str, value: int) -> None:
    """A setting outside its range is refused by name."""
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=f"{field}: expected"):
        ScoreboardConfig(**wrong)
