"""The naive forecasts are closed formulas of the mean and size of the moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from models.errors import FitError
from models.forecaster import Forecaster, observe
from models.naive import fit_drift, fit_last_value
from models.observation import LEVELS, Forecast
from models.transforms import LogReturn

RNG = np.random.default_rng(1)
MOVES = [RNG.normal(1e-3, 0.01, size=400), RNG.normal(-2e-3, 0.03, size=300), RNG.normal(0, 0.02, size=500)]
STEPS = np.array([1.0, 2.0, 3.0])


def forecast_from(core: torch.nn.Module, row: int, price: float = 50.0) -> Forecast:
    """Forecast three steps from one price."""
    forecaster = Forecaster("naive", LogReturn(), core)  # type: ignore[arg-type]
    observation = observe(torch.tensor([[price]], dtype=torch.float64), series=torch.tensor([row]))
    return forecaster.step(observation, forecaster.init_state(1))[0]


def test_the_last_value_forecasts_the_price_just_seen() -> None:
    """The median of every step is the last price to the last bit, whatever the series did."""
    for row in range(4):
        median = forecast_from(fit_last_value(MOVES, horizon=3), row).median
        assert (median == 50.0).all()


@pytest.mark.parametrize("row", [1, 2, 3])
def test_the_spread_of_the_last_value_grows_with_the_root_of_the_step(row: int) -> None:
    """Quantiles are those of a normal around no move, with the root mean square move times the root of the step."""
    size = np.sqrt(np.mean(MOVES[row - 1] ** 2))
    expected = 50 * np.exp(stats.norm.ppf(np.array(LEVELS)) * size * np.sqrt(STEPS)[:, None])
    forecast = forecast_from(fit_last_value(MOVES, horizon=3), row)
    np.testing.assert_allclose(forecast.quantile[0, :, 0], expected, rtol=1e-7)


@pytest.mark.parametrize("row", [1, 2, 3])
def test_the_drift_adds_the_mean_move_at_each_step(row: int) -> None:
    """The location of step s is s times the mean move; the spread is around the mean."""
    r = MOVES[row - 1]
    forecast = forecast_from(fit_drift(MOVES, horizon=3), row)
    np.testing.assert_allclose(forecast.loc[0, :, 0], r.mean() * STEPS, rtol=1e-6)
    np.testing.assert_allclose(forecast.scale[0, :, 0], r.std() * np.sqrt(STEPS), rtol=1e-6)


def test_series_never_seen_have_no_drift_and_the_median_spread() -> None:
    """The pooled row of the drift is the last value with the median scale."""
    core = fit_drift(MOVES, horizon=3)
    assert (core.constant[0] == 0).all()
    np.testing.assert_allclose(core.scale[0, 0], np.median([r.std() for r in MOVES]), rtol=1e-6)


def test_nothing_but_the_price_is_carried() -> None:
    """The state of a naive forecast is the last price alone."""
    for core in (fit_last_value(MOVES, horizon=1), fit_drift(MOVES, horizon=1)):
        forecaster = Forecaster("naive", LogReturn(), core)
        assert [s.name for s in forecaster.state_tensors()] == ["price"]


@pytest.mark.parametrize("fit", [fit_last_value, fit_drift])
@pytest.mark.parametrize("bad", [np.zeros(0), np.ones(1), np.zeros(50)], ids=["none", "one", "still"])
def test_a_series_that_does_not_move_is_refused_by_row(fit, bad) -> None:
    """A series without two different moves raises FitError that names its row and what to do."""
    with pytest.raises(FitError, match=rf"series row 3 has {len(bad)} moves .*Leave the series out"):
        fit([*MOVES[:2], bad], horizon=1)
