from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from dirt import rows, times, walk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.oddities import flat, oddities

NOBODY = pl.Series([], dtype=pl.String)
SEEDS = st.integers(0, 2**31)


def said(*price: NDArray[np.float64], whole: pl.Series = NOBODY, step: timedelta = timedelta(days=1)) -> pl.DataFrame:
    """Look for oddities in series of prices called A, B, ..."""
    frame = rows({chr(65 + k): (times(len(p), step=step), p) for k, p in enumerate(price)})
    return oddities(frame, jump_scales=10, whole=whole)


def kinds(found: pl.DataFrame) -> dict[int, str]:
    """Give the kind of each row that has one."""
    return {row: kind for row, kind in enumerate(found["kind"]) if kind is not None}


def prices(seed: int = 0, number: int = 400) -> NDArray[np.float64]:
    """Draw a series without oddities."""
    return walk(np.random.default_rng(seed), number)


@settings(max_examples=20)
@given(SEEDS)
def test_nothing_is_odd_in_a_random_walk(seed: int) -> None:
    """Moves of up to three standard deviations are of no kind."""
    assert kinds(said(prices(seed))) == {}


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 3), st.sampled_from([0.5, 1.3, 4.0]))
def test_up_to_three_rows_out_of_place_are_a_spike(seed: int, length: int, factor: float) -> None:
    """Rows far from the price before and after them, which agree, are the spike, and nothing else is odd."""
    price = prices(seed)
    price[200 : 200 + length] = price[199] * factor
    price[200 + length :] *= price[199] / price[200 + length]
    assert kinds(said(price)) == dict.fromkeys(range(200, 200 + length), "spike")


@pytest.mark.parametrize("ratio", [2, 3, 3 / 2, 4, 5, 7, 8, 10, 15, 20, 1 / 2, 1 / 4, 1 / 10, 1 / 20])
def test_lasting_jumps_by_a_simple_ratio_are_splits(ratio: float) -> None:
    """A split is found with the factor that brings the prices before it to those after it."""
    price = prices()
    price[:200] *= ratio
    found = said(price)
    assert kinds(found) == {200: "split"}
    assert found["factor"][200] == pytest.approx(1 / ratio)


def test_two_splits_of_one_series_are_both_found() -> None:
    """Seven for one and later four for one are two splits with their factors, as Apple's of 2014 and 2020."""
    price = prices(number=1000)
    price[:300] *= 7
    price[:800] *= 4
    found = said(price)
    assert kinds(found) == {300: "split", 800: "split"}
    assert found["factor"].drop_nulls().to_list() == pytest.approx([1 / 7, 1 / 4])


def test_currencies_do_not_split() -> None:
    """A devaluation by half of a series that cannot split is a jump."""
    price = prices()
    price[:200] *= 2
    assert kinds(said(price, whole=pl.Series(["A"]))) == {200: "jump"}


def test_splits_happen_at_the_start_of_a_day() -> None:
    """A fall by half within a day is a jump; at midnight it is a split."""
    price = prices()
    price[:192] *= 2
    assert kinds(said(price, step=timedelta(hours=1))) == {192: "split"}
    assert kinds(said(np.delete(price, 0), step=timedelta(hours=1))) == {191: "jump"}


def test_a_crash_by_half_is_no_split() -> None:
    """A fall by half that wild days follow is a jump."""
    price = prices()
    price[200:] *= 0.5
    price[201:215:2] *= 1.12
    assert kinds(said(price))[200] == "jump"


def test_fourfold_for_a_day_or_two_is_no_split() -> None:
    """A price that goes fourfold and comes back, near to where it was or not so near, has not split."""
    for length, after in ((1, 1.0), (2, 1.0), (2, 1.3), (4, 1.2)):
        price = prices()
        price[200 : 200 + length] *= 4
        price[200 + length :] *= after
        assert "split" not in kinds(said(price)).values()


@pytest.mark.parametrize("factor", [100.0, 1000.0, 0.01, 0.001])
def test_changes_of_unit_are_brought_to_that_of_most(factor: float) -> None:
    """Rows in another unit, one or many, have the factor that brings them back; the others have none."""
    price = prices()
    other = np.zeros(400, bool)
    other[[50, 52, 54, 55, 300]], other[100:180] = True, True
    price[other] *= factor
    found = said(price)
    assert kinds(found) == dict.fromkeys(np.flatnonzero(other).tolist(), "unit")
    assert found["factor"].drop_nulls().to_numpy() == pytest.approx(1 / factor)


def test_other_lasting_jumps_are_jumps() -> None:
    """A level that shifts by 37 % and stays is a splice, with its size in usual moves."""
    price = prices()
    price[200:] *= 1.37
    found = said(price)
    assert kinds(found) == {200: "jump"}
    assert 20 < found["size"][200] < 60


def test_long_flat_stretches_do_not_make_moves_unusual() -> None:
    """After hundreds of equal prices a move like those before is of no kind."""
    price = prices(number=700)
    still = np.concatenate([price[:300], np.full(600, price[299]), price[300:]])
    assert kinds(said(still)) == {}


def test_prices_below_zero_are_measured_as_differences() -> None:
    """Electricity that crosses zero is not odd for that; a price 80 euros off for an hour is a spike."""
    price = np.cumsum(np.clip(np.random.default_rng(0).standard_normal(500), -3, 3))
    price -= price.mean()
    assert (price < 0).any()
    assert kinds(said(price, step=timedelta(hours=1))) == {}
    price[300] += 80
    assert kinds(said(price, step=timedelta(hours=1))) == {300: "spike"}


def test_minus_37_dollars_is_a_spike() -> None:
    """Oil at 18.27, -37.63 and 10.01 dollars, as in April 2020, is measured without a logarithm of the negative."""
    price = np.concatenate([prices() * 0.2, [18.27, -37.63, 10.01], prices(1) * 0.1])
    found = said(price)
    assert found["kind"][401] in ("spike", "jump")
    assert "split" not in kinds(found).values()


def test_few_rows_are_not_judged() -> None:
    """A series with fewer moves than tell what is usual has no oddities."""
    assert kinds(said(np.array([1.0, 50.0, 2.0, 3.0, 4.0]))) == {}
    assert kinds(said(np.array([7.0]))) == {}


@settings(max_examples=15)
@given(SEEDS)
def test_series_do_not_see_each_other(seed: int) -> None:
    """What is said about series together is what is said about each alone."""
    one, other = prices(seed), prices(seed + 1, 300)
    one[100], other[150:] = one[100] * 2, other[150:] / 3
    assert said(one, other).equals(pl.concat([said(one), said(other)]))


@settings(max_examples=15)
@given(SEEDS)
def test_ten_rows_later_nothing_changes_what_was_said(seed: int) -> None:
    """With garbage from some row on, kind, factor and size of the rows up to ten before it are as they were."""
    price = prices(seed)
    price[120], price[180:] = price[120] * 1.5, price[180:] * 1.3
    garbage = price.copy()
    garbage[250:] = np.random.default_rng(seed).choice([1e-3, 7.0, 1e9], 150)
    assert said(price)[:240].equals(said(garbage)[:240])


@settings(max_examples=20)
@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=60))
def test_flat_stretches_are_those_of_a_naive_loop(price: list[float]) -> None:
    """Length and place of each row in its stretch are those that counting one by one gives."""
    found = flat(rows({"A": (times(len(price)), np.array(price)), "B": (times(len(price)), np.array(price))}))
    place = [0] * len(price)
    for k in range(1, len(price)):
        place[k] = place[k - 1] + 1 if price[k] == price[k - 1] else 0
    assert found["place"].to_list() == place * 2
    first = [k - place[k] for k in range(len(price))]
    assert found["length"].to_list() == [first.count(f) for f in first] * 2
