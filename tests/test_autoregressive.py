"""The AR core is statsmodels' own, step by step; its multi-step forecasts are those of iteration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arch.data import sp500
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.diagnostic import acorr_ljungbox
from statsmodels.tsa.ar_model import AutoReg

from models.autoregressive import (
    AutoregressiveConfig,
    cumulative_forecast,
    diagnostics,
    fit_autoregressive,
    residual_spread,
)
from models.errors import ConfigError, FitError
from models.forecaster import Forecaster, observe
from models.naive import fit_drift, fit_last_value
from models.transforms import LogReturn

Moves = NDArray[np.float64]
PHI = np.array([0.5, -0.3])
SIGMA = 0.01


def simulate(phi: Moves, time: int, seed: int = 1, constant: float = 2e-4) -> Moves:
    """Draw moves of an AR with normal innovations of size `SIGMA`."""
    innovation = np.random.default_rng(seed).normal(scale=SIGMA, size=time + 200)
    r = np.zeros(time + 200)
    for t in range(len(phi), len(r)):
        r[t] = constant + phi @ r[t - len(phi) : t][::-1] + innovation[t]
    return r[200:]


def index_returns() -> Moves:
    """Log returns of the S&P 500, 1999 to 2006, as they come with the arch package."""
    return np.diff(np.log(sp500.load()["Adj Close"].to_numpy()))[:2000]


SERIES = {
    "order 0": lambda: simulate(np.zeros(0), 1500),
    "order 1": lambda: simulate(np.array([0.3]), 1500),
    "order 2": lambda: simulate(PHI, 1500),
    "order 4": lambda: simulate(np.array([0.2, 0.0, 0.0, 0.3]), 1500),
    "index": index_returns,
}


def order_by_bic(r: Moves, most: int) -> int:
    """Choose the order by ordinary least squares on the sample that all orders share."""
    bic = []
    for p in range(most + 1):
        x = np.column_stack([np.ones(len(r) - most), *(r[most - k : len(r) - k] for k in range(1, p + 1))])
        error = r[most:] - x @ np.linalg.lstsq(x, r[most:], rcond=None)[0]
        bic.append(len(error) * np.log(error @ error) + (p + 1) * np.log(len(error)))
    return int(np.argmin(bic))


def forecast_locs(core: torch.nn.Module, r: Moves, row: int = 1) -> Moves:
    """Walk the core over the prices of the moves; loc [T + 1, S], element k was made when moves 0..k-1 are known."""
    price = torch.tensor(100 * np.exp(np.cumsum(np.concatenate([[0.0], r]))))[None, :, None]
    forecaster = Forecaster("ar", LogReturn(), core)  # type: ignore[arg-type]
    with torch.no_grad():
        forecast, _ = forecaster.forward(observe(price, series=torch.tensor([row])))
    return forecast.loc[0, :, :, 0].double().numpy()


@pytest.mark.parametrize("name", SERIES)
def test_order_and_coefficients_are_those_of_statsmodels(name: str) -> None:
    """The order minimises BIC, 0 included, and the parameters are AutoReg's at that order."""
    r = SERIES[name]()
    core = fit_autoregressive([r], horizon=1, config=AutoregressiveConfig(max_lags=8))
    order = order_by_bic(r, 8)
    assert core.lags == order
    if name.startswith("order"):
        assert order == int(name[-1])
    result = AutoReg(r, lags=order, trend="c").fit()
    np.testing.assert_allclose(core.weights[1, 0, 0], result.params[1:], rtol=1e-6)
    np.testing.assert_allclose(core.constant[1, 0], result.params[0], rtol=1e-6)
    np.testing.assert_allclose(core.scale[1, 0], np.sqrt(np.mean(result.resid**2)), rtol=1e-6)


@pytest.mark.parametrize("name", SERIES)
def test_one_step_forecasts_are_those_of_statsmodels_at_every_origin(name: str) -> None:
    """Walking the core gives AutoReg's predictions, the one after the last observation included."""
    r = SERIES[name]()
    core = fit_autoregressive([r], horizon=1, config=AutoregressiveConfig(max_lags=8))
    predicted = AutoReg(r, lags=core.lags, trend="c").fit().predict(start=core.lags, end=len(r))
    np.testing.assert_allclose(forecast_locs(core, r)[core.lags :, 0], predicted, rtol=0, atol=1e-6 * r.std())


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-0.9, 0.9), max_size=5),
    st.floats(-1, 1),
    st.lists(st.floats(-1, 1), min_size=5, max_size=5),
)
def test_the_cumulative_forecast_is_the_sum_of_iterated_forecasts(
    phi: list[float], constant: float, last: list[float]
) -> None:
    """Weights and constants give, at every step, what feeding forecasts back in and adding them up gives."""
    weights, base, _ = cumulative_forecast(constant, np.array(phi), 6)
    history, iterated = list(last), []
    for _ in range(6):
        history.insert(0, constant + sum(p * h for p, h in zip(phi, history, strict=False)))
        iterated.append(history[0])
    given = weights @ np.array(last[: len(phi)]) + base
    np.testing.assert_allclose(given, np.cumsum(iterated), rtol=1e-10, atol=1e-10)


def test_forecasts_of_many_steps_in_the_core_are_those_of_statsmodels_added_up() -> None:
    """The location at step s is the sum of AutoReg's dynamic predictions of s steps from the same origin."""
    r = simulate(PHI, 1000)
    core = fit_autoregressive([r], horizon=5, config=AutoregressiveConfig(max_lags=4))
    ahead = AutoReg(r, lags=core.lags, trend="c").fit().predict(start=len(r), end=len(r) + 4)
    np.testing.assert_allclose(forecast_locs(core, r)[-1], np.cumsum(ahead), rtol=1e-4, atol=1e-6 * r.std())


@pytest.mark.parametrize("phi", [PHI, np.array([0.9]), np.array([-0.5]), np.zeros(0)], ids=str)
def test_the_spread_of_many_steps_is_that_of_simulated_paths(phi: Moves) -> None:
    """The standard deviation of the move to step s over 200,000 simulated futures is the spread, within 1 %."""
    rng, p = np.random.default_rng(3), len(phi)
    path = np.zeros((200_000, p + 6))
    for t in range(p, p + 6):
        path[:, t] = path[:, t - p : t][:, ::-1] @ phi + rng.normal(size=len(path))
    _, _, spread = cumulative_forecast(0.0, phi, 6)
    np.testing.assert_allclose(np.cumsum(path[:, p:], 1).std(0), spread, rtol=0.01)


def test_a_simulated_ar_is_recovered_within_its_standard_errors() -> None:
    """Both coefficients, the innovation size and the order of an AR(2) are found again."""
    r = simulate(PHI, 5000, seed=4)
    core = fit_autoregressive([r], horizon=1, config=AutoregressiveConfig(max_lags=6))
    assert core.lags == 2
    errors = AutoReg(r, lags=2, trend="c").fit().bse[1:]
    assert (np.abs(core.weights[1, 0, 0].numpy() - PHI) < 3 * errors).all()
    assert abs(core.scale[1, 0] / SIGMA - 1) < 3 / np.sqrt(2 * len(r))


def test_nothing_beats_the_innovation_variance() -> None:
    """Out of sample no forecaster has less than the innovation variance, and the AR has almost no more."""
    r = simulate(PHI, 8000, seed=5)
    train, test = r[:4000], r[4000:]
    config = AutoregressiveConfig(max_lags=6)
    cores = {
        "ar": fit_autoregressive([train], horizon=1, config=config),
        "last_value": fit_last_value([train], horizon=1),
        "drift": fit_drift([train], horizon=1),
    }
    ratio = {k: np.mean((forecast_locs(c, test)[:-1, 0] - test) ** 2) / SIGMA**2 for k, c in cores.items()}
    chance = 3 * np.sqrt(2 / len(test))
    assert min(ratio.values()) > 1 - chance
    assert ratio["ar"] < 1 + chance
    assert ratio["last_value"] > 1.1
    assert ratio["drift"] > 1.1


def test_student_residuals_are_recovered_and_most_likely() -> None:
    """The df and scale of simulated t innovations are found, and every small change of them is less likely."""
    x = np.random.default_rng(6).standard_t(5, size=8000) * SIGMA
    scale, df = residual_spread(x, "t")
    assert 4.3 < df < 5.8
    assert abs(scale / SIGMA - 1) < 0.04
    best = stats.t.logpdf(x, df, 0, scale).sum()
    for d, s in ((df * 1.05, scale), (df / 1.05, scale), (df, scale * 1.01), (df, scale / 1.01)):
        assert stats.t.logpdf(x, d, 0, s).sum() < best


def test_student_residuals_keep_a_scale_where_half_the_moves_are_none() -> None:
    """A price that stands still every second step keeps intervals that hold: the scale does not fall to zero."""
    rng = np.random.default_rng(7)
    x = rng.standard_t(5, size=4000) * SIGMA * (rng.random(4000) < 0.5) - 1e-5
    scale, df = residual_spread(x, "t")
    assert df == pytest.approx(2.1)
    assert np.mean(np.abs(x) < stats.t.ppf(0.99, df) * scale) > 0.93


def test_normal_looking_residuals_are_bounded_in_df() -> None:
    """Residuals with the flattest tails give the largest df and the scale that goes with it."""
    x = np.random.default_rng(8).uniform(-1, 1, size=2000)
    scale, df = residual_spread(x, "t")
    assert df == 200.0
    assert scale == pytest.approx(x.std(), rel=0.02)


def test_each_hour_of_a_block_has_the_equation_of_its_own_moves() -> None:
    """Moves [T, M] give, price by price, weights, constants and spread of fits of their own; holes are left out."""
    block = np.column_stack([simulate(PHI, 1500), simulate(np.array([0.3]), 1500, seed=2)])
    block[700, 1] = np.nan
    config = AutoregressiveConfig(max_lags=4)
    together = fit_autoregressive([block], horizon=3, config=config)
    assert (together.block, together.lags, together.horizon) == (2, 2, 3)
    for price, column in enumerate((block[:, 0], np.delete(block[:, 1], 700))):
        alone = fit_autoregressive([column], horizon=3, config=config)
        got = together.weights[1, :, price]
        np.testing.assert_array_equal(got[:, : alone.lags], alone.weights[1, :, 0])
        assert (got[:, alone.lags :] == 0).all()
        np.testing.assert_array_equal(together.constant[1].reshape(3, 2)[:, price], alone.constant[1])
        np.testing.assert_array_equal(together.scale[1].reshape(3, 2)[:, price], alone.scale[1])


def test_prices_of_a_block_share_the_degrees_of_freedom_and_keep_their_scales() -> None:
    """Two prices with t(4) moves of sizes 1 and 10 get about 4 degrees of freedom and scales ten times apart."""
    r = np.random.default_rng(12).standard_t(4, size=(6000, 2)) * [SIGMA, 10 * SIGMA]
    core = fit_autoregressive([r], horizon=1, config=AutoregressiveConfig(max_lags=1, residuals="t"))
    assert 3.6 < core.df[1] < 4.5
    np.testing.assert_allclose(core.scale[1], [SIGMA, 10 * SIGMA], rtol=0.05)


def test_diagnostics_are_those_of_statsmodels_and_see_what_an_order_leaves() -> None:
    """Errors and Ljung-Box are statsmodels'; the right order leaves white residuals, none does not."""
    r = simulate(PHI, 3000)
    right, none = diagnostics(r, 2), diagnostics(r, 0)
    result = AutoReg(r, lags=2, trend="c").fit()
    np.testing.assert_array_equal(right.standard_error, result.bse)
    assert right.p_value == acorr_ljungbox(result.resid, lags=[12], model_df=2)["lb_pvalue"].item()
    assert right.p_value > 0.01
    assert none.p_value < 1e-10
    assert right.coefficient.shape == (3,)


def test_the_pooled_row_is_the_median_with_missing_lags_as_none() -> None:
    """Row 0 takes medians over the series, an order that a series does not have counting as zero."""
    series = [simulate(PHI, 1500, seed=s) for s in (1, 2)] + [simulate(np.zeros(0), 1500, seed=9)]
    core = fit_autoregressive(series, horizon=1, config=AutoregressiveConfig(max_lags=4))
    rows = core.weights[1:, 0, 0].numpy()
    assert (rows[2] == 0).all()
    np.testing.assert_allclose(core.weights[0, 0, 0], np.median(rows, axis=0), rtol=1e-6)
    np.testing.assert_allclose(core.scale[0], np.median(core.scale[1:].numpy(), axis=0), rtol=1e-6)


def test_each_series_uses_its_own_row() -> None:
    """The forecasts of a series in a fit of two are those of a fit of its own."""
    a, b = simulate(PHI, 1500), simulate(np.array([0.3]), 1500, seed=2)
    config = AutoregressiveConfig(max_lags=4)
    both = fit_autoregressive([a, b], horizon=2, config=config)
    alone = fit_autoregressive([b], horizon=2, config=config)
    assert (both.lags, alone.lags) == (2, 1)
    np.testing.assert_allclose(forecast_locs(both, b, row=2), forecast_locs(alone, b, row=1), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("bad", [np.zeros(0), np.ones(25), np.full(500, 1e-3)], ids=["none", "short", "constant"])
def test_series_that_carry_no_fit_are_refused_by_row(bad: Moves) -> None:
    """A short or constant series raises FitError that names its row, what is needed and what to do."""
    with pytest.raises(FitError, match=rf"series row 2 has {len(bad)} moves .* at least 26 moves that vary\. Lower"):
        fit_autoregressive([simulate(PHI, 200), bad], horizon=1, config=AutoregressiveConfig(max_lags=8))


@pytest.mark.parametrize("lags", [-1, 101])
def test_an_order_out_of_range_is_refused(lags: int) -> None:
    """The setting says its range."""
    with pytest.raises(ConfigError, match="max_lags: expected 0 to 100"):
        AutoregressiveConfig(max_lags=lags)
