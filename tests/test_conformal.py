"""Calibration that is carried: offsets follow the outcomes, coverage comes back, nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.conformal import WIDTH, Conformal, ConformalConfig
from models.errors import ConfigError
from models.forecaster import Forecaster, observe
from models.naive import fit_last_value
from models.observation import LEVELS, MEDIAN
from models.transforms import LogReturn

SPREAD = 0.01
FITTED = fit_last_value([np.random.default_rng(1).normal(size=4000) * SPREAD], horizon=1)
LEVEL = np.array(LEVELS)


def tracking(horizon: int = 1, steps: int = 1, memory: int = 300) -> Forecaster:
    """Calibrate the last value, whose spread was fitted on moves of 1 %, without a start."""
    core = fit_last_value([np.random.default_rng(1).normal(size=4000) * SPREAD], horizon=horizon)
    slope = 1.0 / np.exp(-0.5 * np.square(np.linspace(-2.33, 2.33, len(LEVELS)))) / 0.399
    slope[MEDIAN] = 0.0
    gain = torch.tensor(np.tile(slope / memory, (steps, 1, 1)))
    calibrated = Conformal(core, torch.zeros(horizon, 1, len(LEVELS)), gain)
    return Forecaster("last_value", LogReturn(), calibrated).eval()


def walk(forecaster: Forecaster, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the shares of outcomes [T] below each published quantile [T, S, Q] as flags, and the quantiles."""
    price = torch.tensor(100.0 * np.exp(np.cumsum(np.concatenate([[0.0], moves]))))[None, :, None]
    forecast, _ = forecaster.forward(observe(price, series=torch.tensor([1]), horizon=forecaster.horizon))
    quantile = forecast.quantile[0, :, :, 0].numpy()
    horizon = quantile.shape[1]
    path = price[0, :, 0].numpy()
    below = [path[s + 1 :, None] <= quantile[: len(path) - s - 1, s] for s in range(horizon)]
    return np.stack([b[: len(path) - horizon] for b in below], 1), quantile


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_every_level_comes_to_hold_its_share_however_wrong_the_spread_is(factor: float) -> None:
    """With moves two fifths or two and a half times as large as fitted, each level holds its share in the end."""
    moves = np.random.default_rng(2).normal(size=12_000) * SPREAD * factor
    below, _ = walk(tracking(), moves)
    share = below[4000:, 0].mean(0)
    error = 3 * np.sqrt(LEVEL * (1 - LEVEL) / 8000)
    assert (np.abs(share - LEVEL) < error + 0.002).all(), share


def test_a_skewed_outcome_gets_skewed_offsets() -> None:
    """Levels are moved one by one: where only losses are heavy, only the lower levels move far."""
    rng = np.random.default_rng(3)
    moves = (
        np.where(rng.random(8000) < 0.5, -np.abs(rng.standard_t(3, 8000)) * 2, np.abs(rng.normal(size=8000))) * SPREAD
    )
    forecaster = tracking()
    price = torch.tensor(100.0 * np.exp(np.cumsum(moves)))[None, :, None]
    _, state = forecaster.forward(observe(price, series=torch.tensor([1])))
    offset = state["offset"][0].numpy()
    assert offset[0] < -2.0
    assert abs(offset[-1]) < 0.6
    assert offset[MEDIAN] == 0.0


def test_every_step_is_tracked_by_outcomes_of_its_own() -> None:
    """With all steps tracked each holds its 80 %; with the first only, the third keeps the wrong spread."""
    moves = np.random.default_rng(4).normal(size=5000) * SPREAD * 2.0
    low, high = LEVELS.index(0.1), LEVELS.index(0.9)
    share = {}
    for steps in (1, 3):
        below, _ = walk(tracking(horizon=3, steps=steps), moves)
        inside = below[2000:, :, high] & ~below[2000:, :, low]
        share[steps] = inside.mean(0)
    assert np.abs(share[3] - 0.8).max() < 0.04, share
    assert abs(share[1][0] - 0.8) < 0.03, share
    assert share[1][2] < 0.6, share


def test_quantiles_are_published_in_order_whatever_the_offsets_are() -> None:
    """Offsets that would make levels cross are sorted in what is published, not in what is carried."""
    forecaster = tracking()
    state = forecaster.init_state(1)
    state["offset"] = torch.linspace(3, -3, len(LEVELS))[None]
    price = torch.full((1, 1), 100.0, dtype=torch.float64)
    forecast, after = forecaster.step(observe(price, series=torch.tensor([1])), state)
    assert (forecast.quantile.diff(dim=-1) > 0).all()
    assert torch.equal(after["offset"], state["offset"])


def test_one_outcome_moves_each_offset_by_its_gain_times_what_it_missed() -> None:
    """An outcome far above every quantile raises level τ by g·τ, one far below lowers it by g·(1 - τ)."""
    forecaster = tracking()
    gain = forecaster.core.gain[0, 0]
    for move, expected in ((0.5, gain * torch.tensor(LEVELS)), (-0.5, gain * (torch.tensor(LEVELS) - 1))):
        price = torch.tensor([100.0, 101.0, 101.0 * np.exp(move)])[None, :, None]
        _, state = forecaster.forward(observe(price, series=torch.tensor([1])))
        torch.testing.assert_close(state["offset"][0], expected.float())


def test_the_edge_of_the_indicator_is_soft() -> None:
    """An outcome exactly on a quantile counts as half below it; half a width beside it fully."""
    forecaster = tracking()
    spread = float(forecaster.core.core.scale[1])
    gain = float(forecaster.core.gain[0, 0, 0])
    quantile = walk(forecaster, np.array([0.0]))[1][1, 0, 0] / 100.0
    for beside, below in ((0.0, 0.5), (0.5, 0.0), (-0.5, 1.0)):
        move = np.log(quantile) + beside * WIDTH * spread
        price = torch.tensor([100.0, 100.0, 100.0 * np.exp(move)])[None, :, None]
        _, before = forecaster.forward(observe(price[:, :2], series=torch.tensor([1])))
        _, after = forecaster.forward(observe(price, series=torch.tensor([1])))
        moved = float(after["offset"][0, 0] - before["offset"][0, 0])
        assert moved == pytest.approx(gain * (LEVELS[0] - below), abs=2e-6)


def test_the_density_and_the_median_stay_the_models_own() -> None:
    """Calibration changes neither loc, scale and df nor the point forecast."""
    moves = np.random.default_rng(5).standard_t(3, size=500) * SPREAD
    price = torch.tensor(100.0 * np.exp(np.cumsum(moves)))[None, :, None]
    o = observe(price, series=torch.tensor([1]))
    raw, _ = Forecaster("last_value", LogReturn(), FITTED).forward(o)
    calibrated, _ = tracking().forward(o)
    for field in ("loc", "scale", "df", "median"):
        assert torch.equal(getattr(raw, field), getattr(calibrated, field)), field
    assert not torch.equal(raw.quantile, calibrated.quantile)


def test_the_bytes_of_waiting_forecasts_are_as_documented() -> None:
    """A ring over S steps costs 48 bytes for each pair of age and step."""

    def size(x: Tensor) -> int:
        return x.numel() * x.element_size()

    state = tracking(horizon=24, steps=24).init_state(1)
    assert size(state["pending"]) + size(state["sharpness"]) == 48 * 24**2


def test_a_memory_that_cannot_be_is_refused() -> None:
    """A memory below twenty outcomes is refused with its range."""
    with pytest.raises(ConfigError, match="20 to 100000 outcomes, got 5"):
        ConformalConfig(memory=5)
