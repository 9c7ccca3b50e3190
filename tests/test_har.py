"""HAR finds the most likely scale in averages of absolute moves, and carries them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from models.errors import ConfigError, FitError
from models.forecaster import Forecaster, observe
from models.har import Har, HarConfig, fit_har
from models.transforms import LogReturn

AVERAGES = (1, 5, 22)
TRUE = np.array([0.15, 0.1, 0.25, 0.3])
UNIT = 0.01
DF = 5.0
CONFIG = HarConfig(averages=AVERAGES)


def simulate(time: int, seed: int) -> NDArray[np.float64]:
    """Draw moves whose scale is TRUE, in units of one percent."""
    rng = np.random.default_rng(seed)
    shock, r = rng.standard_t(DF, size=time + 500), np.zeros(time + 500)
    for t in range(22, len(r)):
        means = [np.mean(np.abs(r[t - n : t])) for n in AVERAGES]
        r[t] = (TRUE[0] + TRUE[1:] @ means) * shock[t]
    return r[500:] * UNIT


def averages_by_loop(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put one and the averages before each move from the 23rd on side by side."""
    return np.array([[1.0, *(np.mean(np.abs(r[t - n : t])) for n in AVERAGES)] for t in range(22, len(r))])


def scales(core: Har, r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Walk the core over the prices of moves: scales [T + 1, S]."""
    price = torch.tensor(100 * np.exp(np.cumsum(np.concatenate([[0.0], r]))))[None, :, None]
    forecaster = Forecaster("har", LogReturn(), core)
    with torch.no_grad():
        forecast, _ = forecaster.forward(observe(price, series=torch.tensor([1]), horizon=core.horizon))
    return forecast.scale[0, :, :, 0].double().numpy()


def coefficients(core: Har, r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read the coefficients of the first step back from the weights, in the unit of the moves."""
    weights = core.weights[1, 0].double().numpy()
    month = weights[21] * 22
    week = (weights[4] - weights[21]) * 5
    return np.array([core.base[1, 0].item() / np.mean(np.abs(r)), weights[0] - weights[4], week, month])


def test_the_fit_is_the_most_likely_one() -> None:
    """Another optimiser on another likelihood, scipy's t density, finds nothing more likely."""
    r = simulate(1500, 1)
    core = fit_har([r], horizon=1, config=CONFIG)
    design, e = averages_by_loop(r / UNIT), (r[22:] - r.mean()) / UNIT

    def loss(theta: NDArray[np.float64]) -> float:
        b, df = np.exp(theta[:-1]), 2.1 + np.exp(theta[-1])
        return -float(stats.t.logpdf(e, df, 0, design @ b).mean())

    found = optimize.minimize(loss, np.log([*np.full(4, 0.2), 3.0]), method="Nelder-Mead", options={"maxiter": 4000})
    ours = -stats.t.logpdf(e, core.df[1].item(), 0, scales(core, r)[22:-1, 0] / UNIT).mean()
    assert ours <= found.fun + 1e-5


def test_parameters_of_a_long_simulated_path_are_recovered() -> None:
    """Coefficients and degrees of freedom come near those that drew the moves."""
    r = simulate(20_000, 2)
    core = fit_har([r], horizon=1, config=CONFIG)
    got = coefficients(core, r)
    got[0] *= np.mean(np.abs(r)) / UNIT
    np.testing.assert_allclose(got, TRUE, atol=0.06)
    assert abs(core.df[1].item() - DF) < 0.6


def test_the_scale_is_the_weighted_averages_of_the_past_at_every_origin() -> None:
    """From the 22nd move on the carried scale is the formula on the moves up to the origin."""
    r = simulate(800, 3)
    core = fit_har([r], horizon=1, config=CONFIG)
    b = coefficients(core, r)
    b[0] *= np.mean(np.abs(r))
    np.testing.assert_allclose(scales(core, r)[22:-1, 0], averages_by_loop(r) @ b, rtol=1e-4)


def test_scales_of_many_steps_hold_the_moves_of_many_steps() -> None:
    """At each step about half and nine tenths of the moves to it lie within the quantiles that say so."""
    r = simulate(12_000, 4)
    core = fit_har([r[:6000]], horizon=5, config=CONFIG)
    s, df = scales(core, r[6000:]), core.df[1].item()
    path = np.cumsum(np.concatenate([[0.0], r[6000:]]))
    for step in (1, 3, 5):
        z = np.abs(path[step:] - path[:-step]) / s[:-step, step - 1]
        for share in (0.5, 0.9):
            assert abs(np.mean(z[50:] < stats.t.ppf((1 + share) / 2, df)) - share) < 0.04


def test_a_series_that_has_shown_nothing_has_the_scale_of_typical_moves() -> None:
    """Before its first move a series is taken to have moved by its mean absolute move all along."""
    r = simulate(800, 5)
    core = fit_har([r], horizon=1, config=CONFIG)
    size = np.mean(np.abs(r))
    expected = core.base[1, 0].item() + core.weights[1, 0].sum().item() * size
    np.testing.assert_allclose(scales(core, r)[0, 0], expected, rtol=1e-5)


def test_moves_in_another_unit_give_the_same_fit_in_that_unit() -> None:
    """A thousandfold move has a thousandfold scale."""
    r = simulate(800, 6)
    small, large = (fit_har([x], horizon=2, config=CONFIG) for x in (r, 1000 * r))
    np.testing.assert_allclose(large.base, 1000 * small.base, rtol=1e-4)
    np.testing.assert_allclose(large.weights, small.weights, rtol=1e-3, atol=1e-6)


def test_the_pooled_row_is_in_units_of_the_typical_move() -> None:
    """Row 0 takes the medians of coefficients and of the mean absolute move."""
    series = [simulate(800, s) * u for s, u in ((7, 1), (8, 10), (9, 100))]
    core = fit_har(series, horizon=1, config=CONFIG)
    np.testing.assert_allclose(core.typical[0], np.median(core.typical[1:].numpy()), rtol=1e-6)
    share = (core.base[1:, 0] / core.typical[1:]).numpy()
    np.testing.assert_allclose(core.base[0, 0] / core.typical[0], np.median(share), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.zeros(0), np.ones(1), np.arange(100.0), np.full(400, 0.01)])
def test_a_series_that_carries_no_fit_is_refused_by_row(bad: NDArray[np.float64]) -> None:
    """No moves, one, too few or none that vary raise FitError that names the row, the need and the way out."""
    message = (
        rf"HAR: series row 2 has {len(bad)} moves .* at least 123 moves that vary\. Leave the series out, or leave har"
    )
    with pytest.raises(FitError, match=message) as caught:
        fit_har([simulate(500, 1), bad], horizon=1, config=CONFIG)
    assert caught.value.row == 2


def test_blocks_are_refused() -> None:
    """Prices that are published together have no HAR, and the message says what to do."""
    with pytest.raises(FitError, match=r"HAR: expected one price a moment, got blocks of 2\..*leave har out"):
        fit_har([np.random.default_rng(1).normal(size=(400, 2))], horizon=1, config=CONFIG)


@pytest.mark.parametrize("averages", [(), (5, 1), (0, 5), (1, 1), (1, 2000)])
def test_averages_that_do_not_increase_or_are_out_of_range_are_refused(averages: tuple[int, ...]) -> None:
    """The setting says its range."""
    with pytest.raises(ConfigError, match="averages: expected increasing numbers of moves from 1 to 1000"):
        HarConfig(averages=averages)
