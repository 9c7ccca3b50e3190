"""Factors of corporate actions make prices comparable, as far as the actions were known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from pipeline.adjustments import adjusted, checked
from pipeline.rows import UTC_TIME

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
Row = tuple[str, int, float | None]


def frame(value: str, rows: list[Row]) -> pl.DataFrame:
    """Make a frame of (series, day, value)."""
    moved = [(series, EPOCH + timedelta(days=day), x) for series, day, x in rows]
    return pl.DataFrame(moved, orient="row", schema={"series_id": pl.String, "time": UTC_TIME, value: pl.Float64})


def looped(prices: list[Row], factors: list[Row]) -> list[float | None]:
    """Multiply each price by each later factor of its series."""
    out = []
    for series, day, price in prices:
        later = [factor for other, action, factor in factors if other == series and action > day]
        out.append(None if price is None else price * float(np.prod(later)))
    return out


KEYS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True, max_size=15)


@given(KEYS, KEYS, st.randoms(use_true_random=False))
def test_adjusting_equals_a_loop_over_actions(prices: list, actions: list, random) -> None:
    """Every price is multiplied by every later factor of its own series, and by no other."""
    rows = [(s, d, None if random.random() < 0.1 else random.uniform(1, 100)) for s, d in sorted(prices)]
    factors = [(s, d, random.choice([0.5, 1 / 3, 0.1, 4.0])) for s, d in actions]
    out = adjusted(frame("price", rows), frame("factor", factors))
    assert out.drop("price").equals(frame("price", rows).drop("price"))
    expected = looped(rows, factors)
    assert [p is None for p in out["price"]] == [p is None for p in expected]
    np.testing.assert_allclose(out["price"].drop_nulls(), [p for p in expected if p is not None], rtol=1e-14)


def test_a_split_leaves_no_jump() -> None:
    """A walk whose prices halve at a 2:1 split and fall to a tenth at a 10:1 split moves as if nothing had happened."""
    walk = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(scale=0.01, size=60)))
    published = walk.copy()
    published[20:] /= 2
    published[45:] /= 10
    prices = frame("price", [("a", day, float(price)) for day, price in enumerate(published)])
    out = adjusted(prices, frame("factor", [("a", 45, 0.1), ("a", 20, 0.5)]))
    assert np.abs(np.diff(np.log(published))).max() > 2
    np.testing.assert_allclose(np.diff(np.log(out["price"])), np.diff(np.log(walk)), atol=1e-12)
    assert out["price"][-1] == published[-1]


def test_prices_without_actions_keep_their_bits() -> None:
    """A series that has no action ahead is not touched in a single bit, and other columns stay."""
    prices = frame("price", [("a", 1, 0.1), ("a", 2, 1e-300), ("b", 1, 0.3)]).with_columns(note=pl.lit("x"))
    assert adjusted(prices, frame("factor", [("b", 1, 0.5), ("c", 9, 0.5)])).equals(prices)
    assert adjusted(prices, frame("factor", [])).equals(prices)


@pytest.mark.parametrize("factor", [0.0, -0.5, float("nan"), float("inf"), None])
def test_a_factor_that_cannot_be_is_refused(factor: float | None) -> None:
    """Zero, negative, not finite or missing: the row is named, and what to give in place of it."""
    rows = frame("factor", [("a", 1, 0.5), ("a", 2, factor)])
    with pytest.raises(
        DataError, match=r"above zero, but 1 of 2 are not; the first is \{'row': 1, .* give it the factor 1"
    ):
        checked(rows)
    assert checked(rows[:1]).equals(rows[:1])
