"""Transforms invert, agree with numpy, and say which prices they admit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import FitError
from models.transforms import AsinhDifference, LogReturn, fit_transform

STEADY = settings(deadline=None)
POSITIVE = st.floats(1e-14, 1e14)
ANY = st.floats(-1e9, 1e9) | st.sampled_from([0.0, -0.0, 1e-9, -500.0, 3000.0])
CENTER, UNIT = [50.0, 40.0, -5.0], [20.0, 12.0, 0.5]
ASINH = AsinhDifference(torch.tensor(CENTER, dtype=torch.float64), torch.tensor(UNIT, dtype=torch.float64))


def column(*x: float) -> torch.Tensor:
    """Put numbers [B] into prices [B, 1]."""
    return torch.tensor(x, dtype=torch.float64)[:, None]


def there_and_back(transform: LogReturn | AsinhDifference, last: float, price: float, row: int) -> float:
    """Take the step from one price to the other, and then take it from the first price."""
    series = torch.tensor([row])
    step = transform.difference(column(price), column(last), series)
    return transform.invert(column(last), step, series, (1, 1)).item()


@STEADY
@given(POSITIVE, POSITIVE)
def test_a_log_return_leads_back_to_its_price(last: float, price: float) -> None:
    """Inverting the difference gives the price to 13 digits over the whole domain."""
    assert there_and_back(LogReturn(), last, price, 0) == pytest.approx(price, rel=1e-13)


@STEADY
@given(ANY, ANY, st.integers(0, 2))
def test_an_asinh_difference_leads_back_to_its_price(last: float, price: float, row: int) -> None:
    """Inverting the difference gives the price, below zero, at zero and on spikes, in each series' own unit."""
    expected = pytest.approx(price, rel=1e-12, abs=1e-13 * max(abs(CENTER[row]), UNIT[row]))
    assert there_and_back(ASINH, last, price, row) == expected


@STEADY
@given(ANY, ANY, st.integers(0, 2))
def test_asinh_differences_are_those_of_numpy(last: float, price: float, row: int) -> None:
    """The step is the difference of numpy's arcsinh of the standardised prices."""
    step = ASINH.difference(column(price), column(last), torch.tensor([row])).item()
    expected = np.arcsinh((price - CENTER[row]) / UNIT[row]) - np.arcsinh((last - CENTER[row]) / UNIT[row])
    assert step == pytest.approx(expected, rel=1e-12, abs=1e-14)


@STEADY
@given(POSITIVE, POSITIVE)
def test_log_returns_are_those_of_numpy(last: float, price: float) -> None:
    """The step is the difference of numpy's logarithms."""
    step = LogReturn().difference(column(price), column(last), torch.tensor([0])).item()
    assert step == pytest.approx(np.log(price) - np.log(last), abs=2e-14)


def test_steps_in_float32_are_taken_in_the_price_type() -> None:
    """A float32 step from a float64 price gives float64 prices, without rounding the price."""
    for transform in (LogReturn(), ASINH):
        price = transform.invert(column(12345.678901234), torch.zeros(1, 1), torch.tensor([0]), (1, 1))
        assert price.dtype == torch.float64
        assert price.item() == pytest.approx(12345.678901234, rel=1e-14)


@STEADY
@given(st.lists(POSITIVE, min_size=4, max_size=4), st.integers(0, 2))
def test_many_steps_of_many_prices_invert_as_one_does(last: list[float], row: int) -> None:
    """Two steps of a block of two prices for two series give, element by element, what one alone gives."""
    step = torch.linspace(-0.2, 0.3, 8, dtype=torch.float64).reshape(2, 2, 2, 1)
    series, prices = torch.tensor([row, 2 - row]), torch.tensor(last, dtype=torch.float64).reshape(2, 1, 2, 1)
    for transform in (LogReturn(), ASINH):
        found = transform.invert(prices, step, series, (2, 2))
        for b, s, m in np.ndindex(2, 2, 2):
            alone = transform.invert(prices[b, :, m], step[b, s, m][None], series[b : b + 1], (1, 1))
            assert found[b, s, m].item() == pytest.approx(alone.item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("price", [1e-14, 0.01, 100.0, 9e14])
def test_log_admits_prices_above_zero(price: float) -> None:
    """Ordinary prices of every size lie in the domain."""
    assert LogReturn().admits(column(price)).all()


@pytest.mark.parametrize("price", [0.0, -0.0, -1.0, 1e-16, 2e15, 1e30, math.nan, math.inf, -math.inf])
def test_log_does_not_admit_poison(price: float) -> None:
    """Zero, negative, absurd and missing prices lie outside it."""
    assert not LogReturn().admits(column(price)).any()


@pytest.mark.parametrize("price", [0.0, -500.0, 3000.0, -9e14, 9e14])
def test_asinh_admits_prices_of_either_sign(price: float) -> None:
    """Negative prices, zero and spikes lie in the domain."""
    assert ASINH.admits(column(price)).all()


@pytest.mark.parametrize("price", [2e15, -2e15, 1e30, -1e30, math.nan, math.inf, -math.inf])
def test_asinh_does_not_admit_poison(price: float) -> None:
    """Absurd and missing prices lie outside it."""
    assert not ASINH.admits(column(price)).any()


def test_the_asinh_fit_is_the_median_and_its_deviation() -> None:
    """Row i + 1 has the median and MAD/0.6745 of series i, row 0 those of all prices; holes are left out."""
    rng = np.random.default_rng(2)
    prices = [rng.normal(50, 10, 300), rng.standard_t(3, 200) * 30 - 20]
    prices[0][::7] = np.nan
    transform = fit_transform("asinh", prices)
    assert isinstance(transform, AsinhDifference)

    def expected(x: NDArray[np.float64]) -> tuple[float, float]:
        middle = np.nanmedian(x)
        return float(middle), float(np.nanmedian(np.abs(x - middle)) / 0.6745)

    found = torch.cat([transform.center, transform.unit], 1)
    np.testing.assert_allclose(found, [expected(x) for x in (np.concatenate(prices), *prices)], rtol=1e-14)
    assert transform.unit[1].item() == pytest.approx(10, rel=0.15)


def test_the_log_needs_no_fit() -> None:
    """The log transform has no numbers of its own."""
    assert not fit_transform("log", []).state_dict()


def test_an_asinh_fit_without_variation_is_refused_by_row() -> None:
    """A series that does not vary raises FitError that names its row and what to do."""
    with pytest.raises(FitError, match=r"series row 2 has 50 prices .* mostly the same on the train split"):
        fit_transform("asinh", [np.arange(60.0), np.ones(50)])
    with pytest.raises(FitError, match="series row 2 has 0 prices"):
        fit_transform("asinh", [np.arange(60.0), np.full(50, np.nan)])


def test_a_description_rebuilds_the_transform() -> None:
    """What is written into a model file holds the domain and every row."""
    assert LogReturn().describe() == {"kind": "log", "lower": 1e-15, "upper": 1e15}
    assert ASINH.describe() == {"kind": "asinh", "lower": -1e15, "upper": 1e15, "center": CENTER, "unit": UNIT}
