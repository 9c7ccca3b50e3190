"""Evidence that may be looked at at any time: exact where it says so, causal, and of use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from pipeline.wager import BET, MEMORY, RUN_PER_STEP, WARM_UP, capital, wagers


@pytest.fixture
def rng():
    """The same gains each time."""
    return np.random.default_rng(1939)


FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def test_the_capital_is_the_mixture_over_bets(rng):
    """The closed form is the integral of its definition, over the half normal of bets."""
    gains = 0.1 + rng.standard_t(4, size=60)
    keep = np.exp(-1 / MEMORY)
    weight = [keep ** np.arange(i)[::-1] for i in range(60)]
    z = [gains[i] / np.sqrt(np.sum(weight[i] * gains[:i] ** 2) / np.sum(weight[i])) for i in range(WARM_UP, 60)]
    total, square = np.sum(z), max(np.sum(np.square(z)), np.sum(np.square(z) + 2) / 3)
    expected = integrate.quad(
        lambda bet: 2 * stats.norm.pdf(bet, scale=BET) * np.exp(bet * total - bet**2 * square / 2), 0, np.inf
    )[0]
    assert capital(gains)[-1] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("draw", ["normal", "cauchy"])
def test_capital_that_is_never_withdrawn_grows_for_nobody(rng, draw):
    """Of equal models at most 5 % ever reach 20 fold, looked at after each of 500 origins, even without moments."""
    shape = (600, 500)
    gains = rng.normal(size=shape) if draw == "normal" else rng.standard_cauchy(size=shape)
    ever = capital(gains).max(axis=1) >= 20
    assert stats.binomtest(int(ever.sum()), len(ever), 0.05, alternative="greater").pvalue > 0.01


def test_a_worse_model_is_poor_and_a_better_one_rich(rng):
    """Evidence has a direction."""
    noise = rng.normal(size=400)
    assert capital(noise - 0.3)[-1] < 0.1
    assert capital(noise + 0.3)[-1] > 1000


@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(0, 59))
def test_the_future_never_changes_what_was_said(values, cut):
    """Garbage after an origin leaves the evidence until then bit for bit; it is finite and not negative."""
    gains = np.array(values)
    known = capital(gains)
    cut = min(cut, len(gains))
    garbage = np.concatenate([gains[:cut], np.full(len(gains) - cut, 1e30)])
    assert capital(garbage)[:cut].tobytes() == known[:cut].tobytes()
    assert np.isfinite(known).all()
    assert (known >= 0).all()


def test_the_unit_of_the_loss_does_not_matter(rng):
    """A thousandfold loss is the same evidence."""
    gains = rng.normal(size=100)
    np.testing.assert_allclose(capital(1000 * gains), capital(gains), rtol=1e-12)


def test_identical_models_are_no_evidence():
    """Where nothing is ever gained or lost no capital grows."""
    assert capital(np.zeros(50)).max() == 1.0


def test_an_origin_of_overlapping_forecasts_is_in_one_wager_at_most():
    """Between two wagers lies what one outcome can reach; what is not whole waits."""
    horizon = 3
    run, apart = RUN_PER_STEP * horizon, RUN_PER_STEP * horizon + horizon - 1
    gains = np.arange(2.0 * apart)
    made = wagers(gains, horizon)
    assert made.tolist() == [gains[:run].mean(), gains[apart : apart + run].mean()]
    assert wagers(gains[: apart + run - 1], horizon).tolist() == made[:1].tolist()
    assert wagers(gains[: apart + run], horizon).tolist() == made.tolist()
    assert wagers(gains[: run - 1], horizon).tolist() == []
    assert wagers(gains, 1) is gains
