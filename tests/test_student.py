"""The Student t without scipy is that of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from pipeline.student import Student

DF = (1.01, 1.5, 2.01, 2.5, 3.0, 4.0, 5.5, 8.0, 15.0, 39.0, 40.0, 41.0, 100.0, 1e3, 1e4, 1e5, 1e6, np.inf)
SIZES = np.concatenate(([0.0], np.geomspace(1e-9, 1e4, 3000), np.linspace(0.001, 12, 3001)))
Z = np.concatenate((-SIZES, SIZES))


@pytest.mark.parametrize("df", DF)
def test_the_distribution_is_that_of_scipy(df: float) -> None:
    """P(Z ≤ z) differs by less than 1e-12 over every df, and z from -1e4 to 1e4."""
    _, _, pit = Student([df]).scores(np.zeros(len(Z), np.int64), Z)
    exact = special.ndtr(Z) if np.isinf(df) else special.stdtr(df, Z)
    np.testing.assert_allclose(pit, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("df", DF)
def test_the_log_score_is_the_density_of_scipy(df: float) -> None:
    """The negative log density differs by less than 1e-12, where scipy's beta function cancels, by less than 1e-9."""
    _, log_score, _ = Student([df]).scores(np.zeros(len(Z), np.int64), Z)
    if np.isinf(df):
        exact = -stats.norm.logpdf(Z)
    else:
        exact = special.betaln(0.5, df / 2) + np.log(df) / 2 + (df + 1) / 2 * np.log1p(Z**2 / df)
    np.testing.assert_allclose(log_score, exact, rtol=1e-12, atol=1e-9 if 1e4 < df < np.inf else 1e-12)


@pytest.mark.parametrize("df", [1e4, 1e5, 1e6, 1e9])
def test_a_density_of_many_df_nears_the_normal(df: float) -> None:
    """At 0 its negative logarithm is that of the normal and 1/(4 df), to the last digits."""
    _, log_score, _ = Student([df]).scores(np.zeros(1, np.int64), np.zeros(1))
    assert log_score[0] == pytest.approx(np.log(2 * np.pi) / 2 + 1 / (4 * df), abs=1e-13)


@pytest.mark.parametrize("df", [1.5, 2.01, 5.0, 60.0, np.inf])
@pytest.mark.parametrize("z", [-7.0, -0.4, 0.0, 1.1, 30.0])
def test_the_crps_is_the_integral_that_defines_it(df: float, z: float) -> None:
    """It equals ∫ (F(x) - 1{x ≥ z})² dx, integrated with the distribution of scipy."""
    below = special.ndtr if np.isinf(df) else lambda x: special.stdtr(df, x)
    left, _ = integrate.quad(lambda x: below(x) ** 2, -np.inf, z, epsabs=1e-11, limit=500)
    right, _ = integrate.quad(lambda x: below(-x) ** 2, z, np.inf, epsabs=1e-11, limit=500)
    crps, _, _ = Student([df]).scores(np.zeros(1, np.int64), np.array([z]))
    assert crps[0] == pytest.approx(left + right, rel=1e-8)


def test_a_row_has_the_scores_of_its_own_df() -> None:
    """Rows of many df give, bit for bit, what each df gives alone."""
    df = np.array([5.0, np.inf, np.nan, 2.5, 5.0, 1.0, 0.5])
    row, z = np.arange(70) % 7, np.linspace(-3, 3, 70)
    together = np.stack(Student(df).scores(row, z))
    for i, own in enumerate(df):
        alone = np.stack(Student([own]).scores(np.zeros(10, np.int64), z[row == i]))
        np.testing.assert_array_equal(together[:, row == i], alone)
        assert np.isnan(alone).all() == (not own > 1)


@given(st.lists(st.integers(0, 199), min_size=1, max_size=40))
def test_no_bit_depends_on_what_travels_together(picked: list[int]) -> None:
    """Any outcomes, in any order, have the bits that they have among all others."""
    rng = np.random.default_rng(0)
    student, row, z = Student([3.0, 7.5, np.inf]), rng.integers(0, 3, 200), rng.standard_t(3, 200) * 3
    for whole, part in zip(student.scores(row, z), student.scores(row[picked], z[picked]), strict=True):
        assert whole[picked].tobytes() == part.tobytes()


def test_a_right_density_has_uniform_pit_and_the_least_scores() -> None:
    """Of draws from a t(4), PIT is uniform and both scores are lower than those of a wider or a heavier t."""
    rng = np.random.default_rng(1)
    draws, row = rng.standard_t(4, 40_000), np.zeros(40_000, np.int64)
    crps, log_score, pit = Student([4.0]).scores(row, draws)
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    wide = Student([4.0]).scores(row, draws / 1.3)
    heavy = Student([2.0]).scores(row, draws)
    assert crps.mean() < min(1.3 * wide[0].mean(), heavy[0].mean())
    assert log_score.mean() < min(wide[1].mean() + np.log(1.3), heavy[1].mean())
