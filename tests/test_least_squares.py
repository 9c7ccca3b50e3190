"""All series at once give what statsmodels gives of each, where moments are precise and where they are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.tsa.ar_model import AutoReg, ar_select_order

from models import least_squares
from models.least_squares import autoregressions

Moves = NDArray[np.float64]


def autoregressive(phi: list[float], time: int, seed: int, unit: float = 1.0) -> Moves:
    """Draw an autoregression with t(4) innovations."""
    r = np.random.default_rng(seed).standard_t(4, size=time + 100)
    for t in range(len(phi), len(r)):
        r[t] += r[t - len(phi) : t][::-1] @ phi
    return r[100:] * unit


def near_unit_root() -> Moves:
    """Draw a smooth series whose neighbouring lags say almost the same."""
    return autoregressive([1.9, -0.905], 800, 1)


def smooth() -> Moves:
    """Draw a series so smooth that its moments are not positive definite in float64."""
    return np.cumsum(np.cumsum(autoregressive([], 400, 4)))


def far_from_zero() -> Moves:
    """Draw a random walk a million of its steps away from zero."""
    return 1e6 + np.cumsum(autoregressive([], 500, 2))


def wave() -> Moves:
    """Draw a wave with a millionth of noise: two lags say almost everything."""
    return np.sin(np.arange(800) / 10) + autoregressive([], 800, 5, 1e-6)


HARD = {"wave": wave, "near unit root": near_unit_root, "smooth": smooth, "far from zero": far_from_zero}


def by_statsmodels(r: Moves, most: int) -> tuple[int, Moves, float]:
    """Give order, parameters and the size of the residuals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a design whose columns are almost the same
        lags = ar_select_order(r, most, ic="bic", trend="c").ar_lags if most else None
        result = AutoReg(r, lags=len(lags or ()), trend="c").fit()
    return len(lags or ()), np.asarray(result.params), float(np.sqrt(np.mean(result.resid**2)))


def same_as_statsmodels(series: list[Moves], most: int) -> None:
    """Compare everything of every series."""
    got = autoregressions(series, most)
    for row, r in enumerate(series):
        order, params, sigma = by_statsmodels(r, most)
        assert got.order[row] == order
        np.testing.assert_allclose(got.phi[row, :order], params[1:], rtol=1e-8, atol=1e-8)
        assert (got.phi[row, order:] == 0).all()
        np.testing.assert_allclose(got.constant[row], params[0], rtol=1e-8, atol=1e-8 * r.std())
        np.testing.assert_allclose(got.sigma[row], sigma, rtol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.lists(st.floats(-0.3, 0.3), max_size=3), st.integers(50, 600), st.integers(0, 99)),
        min_size=1,
        max_size=4,
    ),
    most=st.integers(0, 20),
    unit=st.sampled_from([1e-5, 1.0, 1e4]),
)
def test_orders_and_coefficients_are_those_of_statsmodels(
    shapes: list[tuple[list[float], int, int]], most: int, unit: float
) -> None:
    """Series of any lengths and units, all at once, get statsmodels' orders, and its parameters to 1e-8."""
    same_as_statsmodels([autoregressive(*shape, unit) for shape in shapes], most)


@pytest.mark.parametrize("name", HARD)
def test_series_whose_lags_say_almost_the_same_are_no_less_precise(name: str) -> None:
    """Beside an ordinary series, one whose moments are all but singular keeps statsmodels' order and parameters."""
    same_as_statsmodels([autoregressive([0.3], 700, 3), HARD[name]()], 12)


def test_moments_alone_would_be_wrong_where_the_design_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the way over the design, a series of nearly equal lags is off by more than 1e-8."""
    r, most = wave(), 8
    order, params, _ = by_statsmodels(r, most)
    monkeypatch.setattr(least_squares, "UNEXPLAINED", 0.0)
    loose = autoregressions([r], most)
    same = loose.order[0] == order and np.allclose(loose.phi[0, :order], params[1:], rtol=1e-8, atol=1e-8)
    assert not same


def test_the_shortest_series_are_fitted() -> None:
    """With two targets more than coefficients there is still an answer, and it is statsmodels'."""
    same_as_statsmodels([autoregressive([0.2], 2 * 5 + 10, 8), autoregressive([], 900, 9)], 5)


def test_moves_that_repeat_exactly_have_an_order() -> None:
    """Lags that say the same leave the moments singular: there is an order all the same, and nothing is left over."""
    got = autoregressions([np.tile([0.01, -0.02, 0.03, 0.0], 60)], 12)
    assert 1 <= got.order[0] <= 12
    assert got.sigma[0] < 1e-12


def test_a_series_is_fitted_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, among others, and dealt to several batches, each series gets the same numbers."""
    series = [autoregressive([0.3, 0.1], n, n) for n in (300, 90, 500, 120)]
    together = autoregressions(series, 6)
    monkeypatch.setattr(least_squares, "AT_ONCE", 1000)
    dealt = autoregressions(series, 6)
    for row, r in enumerate(series):
        alone = autoregressions([r], 6)
        for name in ("order", "constant", "phi", "sigma"):
            one = getattr(alone, name)[0]
            for other in (together, dealt):
                np.testing.assert_allclose(getattr(other, name)[row], one, rtol=1e-12, atol=1e-14)
