import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import ConfigError, DataError
from pipeline.windows import Panel, Split, SplitConfig, lanes, panel, split

DAY = 86_400_000_000
STEADY = settings(deadline=None)
LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)


def walk(*lengths: int, offset: int = 0) -> Panel:
    """Make a panel of daily random walks; series k starts `k * offset` days late."""
    rng = np.random.default_rng(7)
    names = np.repeat([f"S{k}" for k in range(len(lengths))], lengths)
    time = np.concatenate([(np.arange(n) + k * offset) * DAY for k, n in enumerate(lengths)])
    return panel(names, time, np.exp(rng.normal(0, 0.01, len(time)).cumsum()))


def test_a_panel_holds_every_row_at_its_index_and_pads_the_end() -> None:
    """Row n of a panel is series n from its true start; after its end there is NaN, False and the last time."""
    p = panel(["a", "a", "a", "b"], [10, 20, 30, 15], [1.0, 2.0, 3.0, 9.0])
    assert p.names == ("a", "b")
    np.testing.assert_array_equal(p.time, [[10, 20, 30], [15, 15, 15]])
    np.testing.assert_array_equal(p.price[..., 0], [[1, 2, 3], [9, np.nan, np.nan]])
    np.testing.assert_array_equal(p.mask[..., 0], [[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(p.length, [3, 1])
    np.testing.assert_array_equal(p.elapsed, np.ones((2, 3)))


@STEADY
@given(LENGTHS.map(lambda ns: [n for n in ns if n]), st.randoms(use_true_random=False))
def test_a_panel_gives_back_the_rows_it_was_built_from(lengths: list[int], random) -> None:
    """Reading a panel row by row up to each length returns the long arrays, holes as NaN."""
    total = sum(lengths)
    name = np.repeat([f"S{k}" for k in range(len(lengths))], lengths)
    time = np.cumsum([random.randint(1, 5) for _ in range(total)])
    price = np.array([random.choice([1.5, 2.5, np.nan, np.inf]) for _ in range(total)])
    p = panel(name, time, price)
    inside = np.arange(p.time.shape[1]) < p.length[:, None]
    np.testing.assert_array_equal(p.time[inside], time)
    np.testing.assert_array_equal(p.price[inside][:, 0], np.where(np.isfinite(price), price, np.nan))
    np.testing.assert_array_equal(p.mask[inside][:, 0], np.isfinite(price))
    assert not p.mask[~inside].any()


@STEADY
@given(st.lists(st.integers(1, 9), max_size=30), st.data())
def test_elapsed_counts_bars_since_the_last_published_price(gaps: list[int], data) -> None:
    """Elapsed equals a loop that remembers the last published time, in units of the lower median spacing."""
    time = np.cumsum([0, *gaps])
    published = data.draw(hnp.arrays(bool, len(time)))
    p = panel(["a"] * len(time), time, np.where(published, 1.0, np.nan))
    bar = sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 1
    last, expected = None, []
    for now, there in zip(time, published, strict=True):
        expected.append(1.0 if last is None else (now - last) / bar)
        last = now if there else last
    assert p.bar[0] == bar
    np.testing.assert_array_equal(p.elapsed[0], np.array(expected, np.float32))


def test_the_bar_of_a_short_series_ignores_its_padding() -> None:
    """The median spacing of a series is the same alone and beside a longer series."""
    alone = panel(["b"] * 4, [0, 3, 10, 17], np.ones(4))
    beside = panel(["a"] * 30 + ["b"] * 4, [*range(30), 0, 3, 10, 17], np.ones(34))
    assert alone.bar.tolist() == [7]
    assert beside.bar.tolist() == [1, 7]
    np.testing.assert_array_equal(beside.elapsed[1, :4], alone.elapsed[0])


@pytest.mark.parametrize(
    ("names", "time", "message"),
    [
        ([], [], r"no rows\. Ingest prices, or leave fewer series out"),
        (["a", "a"], [20, 10], r"row 1 of a is at 1970-01-01T00:00:00.000010Z after"),
        (["a", "a"], [10, 10], "times must increase"),
        (["a", "b", "a"], [10, 10, 20], "series a occurs in 2 places"),
    ],
)
def test_a_panel_refuses_rows_that_are_not_sorted(names: list[str], time: list[int], message: str) -> None:
    """Empty, unsorted, repeated and torn rows are refused with the place of the fault."""
    with pytest.raises(DataError, match=message):
        panel(names, time, np.ones(len(time)))


@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        ({"price": np.ones(5)}, r"series_id \[4\], time \[4\], price \[5\], clock \[4\]"),
        ({"price": np.ones(3)}, r"price \[3\]"),
        ({"price": np.ones((4, 1))}, r"price \[4, 1\]"),
        ({"series_id": ["a"] * 3}, r"series_id \[3\]"),
        ({"time": np.arange(5)}, r"time \[5\]"),
        ({"clock": np.arange(5)}, r"clock \[5\]"),
        ({"series_id": "a", "time": 1, "price": 1.0}, r"series_id \[\], time \[\]"),
    ],
)
def test_a_panel_refuses_arrays_that_are_not_a_value_a_row(wrong: dict, came: str) -> None:
    """Arrays longer, shorter or of more axes than the rows are refused with every shape."""
    rows = {"series_id": ["a"] * 4, "time": np.arange(4), "price": np.ones(4)} | wrong
    with pytest.raises(DataError, match=r"arrays \[R\] of one length.*" + came):
        panel(**rows)


def test_split_fractions_are_of_the_pooled_observations() -> None:
    """The parts hold 64, 16 and 20 % of all published prices, up to the prices of one moment."""
    p = walk(1000, 700, 300, offset=150)
    s = split(p, SplitConfig())
    train = (p.time < s.train_end_time).mean(where=p.published)
    test = (p.time >= s.validation_end_time).mean(where=p.published)
    assert train == pytest.approx(0.64, abs=3 / 2000)
    assert test == pytest.approx(0.20, abs=3 / 2000)


@pytest.mark.parametrize("horizon", [1, 5])
def test_parts_are_disjoint_complete_and_purged(horizon: int) -> None:
    """Every origin with a published target is in one part, the part of its target: none reaches over a cut."""
    p = walk(400, 250, 3, offset=90)
    p.mask[0, 100:110] = False
    s = split(p, SplitConfig())
    parts = {part: s.origins(p, part, horizon) for part in ("train", "validation", "test")}
    usable = np.zeros_like(p.published)
    for n in range(3):
        for i in range(p.time.shape[1] - horizon):
            usable[n, i] = p.published[n, i] and p.published[n, i + horizon]
    np.testing.assert_array_equal(sum(m.astype(int) for m in parts.values()), usable)
    target = {part: p.time[np.roll(m, horizon, axis=1)] for part, m in parts.items()}
    assert target["train"].max() < s.train_end_time
    assert target["validation"].min() >= s.train_end_time
    assert target["validation"].max() < s.validation_end_time
    assert target["test"].min() >= s.validation_end_time


def test_every_price_from_the_test_cut_on_is_forecast() -> None:
    """With nothing missing, the targets of the test are all prices from the cut on that have an origin."""
    p = walk(400, 250)
    s = split(p, SplitConfig())
    target = np.roll(s.origins(p, "test", 5), 5, axis=1)
    np.testing.assert_array_equal(target, p.published & (p.time >= s.validation_end_time))


def test_no_train_price_is_later_than_a_validation_target_of_another_series() -> None:
    """The cuts are common to all series: pooling cannot teach one series from another one's future."""
    p = walk(600, 80, 200, offset=200)
    s = split(p, SplitConfig())
    train, validation = s.origins(p, "train", 5), s.origins(p, "validation", 5)
    assert p.time[np.roll(train, 5, axis=1)].max() < p.time[np.roll(validation, 5, axis=1)].min()


def test_garbage_after_a_cut_never_changes_the_origins_before_it() -> None:
    """Overwritten or removed prices after the end of the train leave its origins as they were."""
    p = walk(300, 200, offset=40)
    s = split(p, SplitConfig())
    later = (p.time >= s.train_end_time)[..., None]
    spoiled = replace(p, price=np.where(later, -1e30, p.price), mask=p.mask & ~later)
    np.testing.assert_array_equal(s.origins(p, "train", 5), s.origins(spoiled, "train", 5))
    assert not s.origins(spoiled, "validation", 5).any()


def test_a_horizon_beyond_the_history_has_no_origins() -> None:
    """Where no target exists there is no origin, and no error."""
    p = walk(4)
    assert not Split(train_end_time=2 * DAY, validation_end_time=3 * DAY).origins(p, "test", 9).any()


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.2), (0.2, 1.0), (0.5, 0.5), (-0.1, 0.2)])
def test_fractions_that_leave_no_train_are_refused(validation: float, test: float) -> None:
    """A split without one of its parts is a wrong setting."""
    with pytest.raises(ConfigError, match="sum below 1"):
        SplitConfig(validation=validation, test=test)


def test_a_history_too_short_to_cut_is_refused() -> None:
    """Two moments cannot be cut into three parts, nor can holes; what to do is said."""
    with pytest.raises(DataError, match=r"at 2 distinct times are too few .*\. Give more history, or other fractions"):
        split(walk(2, 2), SplitConfig())
    with pytest.raises(DataError, match=r"all of them are holes\. Ingest prices"):
        split(panel(["a", "a"], [1, 2], [np.nan, np.nan]), SplitConfig())


def test_an_unknown_part_and_a_wrong_horizon_are_refused() -> None:
    """A misspelt part gets the nearest one, a horizon of zero its range."""
    s = Split(train_end_time=1, validation_end_time=2)
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        s.origins(walk(4), "trian")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        s.origins(walk(4), "train", 0)


@STEADY
@given(LENGTHS, st.integers(1, 100))
def test_lanes_hold_every_observation_once_and_in_order(lengths: list[int], count: int) -> None:
    """Lanes put end to end along `previous` are the series, every (series, index) exactly once."""
    cut = lanes(lengths, count)
    x = np.arange(len(lengths) * 60).reshape(len(lengths), 60)
    got, valid = cut.gather(x), cut.valid
    whole: dict[int, list[int]] = {}
    for b, before in enumerate(cut.previous):
        n = int(cut.series[b])
        assert (before == -1) == (n not in whole) == (cut.start[b] == 0)
        if before >= 0:
            assert cut.series[before] == n
            assert cut.stop[before] == cut.start[b]
        whole.setdefault(n, []).extend(got[b][valid[b]].tolist())
    assert whole == {n: x[n, :length].tolist() for n, length in enumerate(lengths) if length}


@STEADY
@given(LENGTHS, st.integers(1, 100))
def test_no_allocation_makes_the_longest_lane_shorter(lengths: list[int], count: int) -> None:
    """The longest lane equals that of handing out lanes one by one to the longest piece, which is optimal."""
    cut = lanes(lengths, count)
    present = [n for n in lengths if n]
    pieces = [1] * len(present)
    for _ in range(count - len(present)):
        longest = max(range(len(present)), key=lambda n: present[n] / pieces[n])
        pieces[longest] += 1
    assert len(cut.series) <= max(count, len(present))
    assert (cut.stop - cut.start).max() == max(-(-n // k) for n, k in zip(present, pieces, strict=True))


@STEADY
@given(LENGTHS, st.integers(1, 100))
def test_pieces_of_a_series_differ_by_one_observation_at_most(lengths: list[int], count: int) -> None:
    """Within a series no lane is more than one observation longer than another."""
    cut = lanes(lengths, count)
    for n in set(cut.series.tolist()):
        size = (cut.stop - cut.start)[cut.series == n]
        assert size.max() - size.min() <= 1


def test_padding_of_a_lane_repeats_its_last_value_and_is_not_valid() -> None:
    """Trailing axes are kept; what `valid` does not mark is a repetition, never another lane's data."""
    x = np.arange(20).reshape(2, 5, 2)
    cut = lanes([5, 2], 2)
    np.testing.assert_array_equal(cut.valid, [[True] * 5, [True, True, False, False, False]])
    np.testing.assert_array_equal(cut.gather(x)[0], x[0])
    np.testing.assert_array_equal(cut.gather(x)[1], x[1][[0, 1, 1, 1, 1]])


def test_one_short_series_makes_one_lane_an_observation_at_most() -> None:
    """More lanes than observations are not made, and none of them is empty."""
    cut = lanes([3], 48)
    assert cut.start.tolist() == [0, 1, 2]
    assert cut.previous.tolist() == [-1, 0, 1]
    assert lanes([1], 48).previous.tolist() == [-1]


def test_lanes_without_observations_are_refused() -> None:
    """No series, empty series and negative lengths cannot be cut."""
    for lengths in ([], [0, 0], [-1, 3]):
        with pytest.raises(DataError, match="lanes need series with observations"):
            lanes(lengths, 4)


def test_windows_import_neither_polars_nor_torch() -> None:
    """The module runs where only numpy is installed."""
    code = "import sys, pipeline.windows; print({'polars', 'torch', 'arch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
